"""Objectives beside each other: on tables, where the truth is known, and on a small language model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from esscher import compare, files
from esscher.report import to_json
from esscher.report.dissociation import print_dissociation, write_dissociation_page
from esscher.train.dissociation import OBJECTIVES, recipe_of, run_dissociation
from models import THREADS
from report_json import read, record_of

SEEDS = (0, 1, 2)


def run(recipe, folder, **options):
    torch.set_num_threads(THREADS)
    shown = []
    found = run_dissociation(recipe, folder, notify=lambda _: None, show=lambda *step: shown.append(step), **options)
    return found, shown


def by_name(found):
    return {outcome.name: outcome for outcome in found.outcomes}


def tabular(seed):
    recipe = recipe_of("tabular")
    return replace(recipe, settings=replace(recipe.settings, seed=seed))


@pytest.fixture(scope="module", params=SEEDS)
def on_tables(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    return run(tabular(request.param), folder)[0], folder


@pytest.fixture(scope="module")
def on_alice(tmp_path_factory):
    recipe = recipe_of("alice")
    # Larger steps than usual, so that few are enough for a collapse.
    settings = replace(recipe.settings, steps=30, learning_rate=1e-3, prior_samples=32)
    folder = tmp_path_factory.mktemp("alice")
    return run(replace(recipe, settings=settings, evaluated=48), folder)


def test_plain_rl_collapses_and_the_others_reach_the_target(on_tables):
    outcomes = by_name(on_tables[0])
    prior = outcomes["prior"].exact
    assert prior.kl == 0
    assert outcomes["plain-rl"].exact.entropy < prior.entropy / 5
    assert outcomes["plain-rl"].exact.inference_gap > 1
    for name in ("kl-rl", "dpg"):
        exact = outcomes[name].exact
        assert exact.entropy > 0.5 * prior.entropy  # the target itself has less than the prior
        assert exact.inference_gap < min(0.1, prior.inference_gap / 10)
        assert exact.forward_kl < 0.1
        assert prior.reward < exact.reward < outcomes["plain-rl"].exact.reward


def test_estimates_are_within_their_errors_of_the_truth(on_tables):
    """Over prompts that are always the same, errors that are clustered by prompt are wide."""
    for outcome in on_tables[0].outcomes:
        exact, kl = outcome.exact, outcome.report.kl["exact"]
        pairs = [
            (outcome.report.reward, exact.reward),
            ((kl.value, kl.stderr), exact.kl),
            (outcome.inference_gap, exact.inference_gap),
            (outcome.forward_kl[:2], exact.forward_kl),
        ]
        for (value, stderr), truth in pairs[:3]:
            assert abs(value - truth) < 3 * stderr + 0.02, outcome.name
        # Where the prior's samples are worth a hundredth of the target's, KL(target‖policy) has no error.
        (value, stderr), truth = pairs[3]
        if outcome.forward_kl.ess > 0.05 * len(outcome.forward_kl.per_sequence):
            assert abs(value - truth) < 3 * stderr + 0.02, outcome.name
        else:
            assert np.isnan(stderr), outcome.name


def test_j_and_the_gap_make_the_same_log_z_of_every_policy(on_tables):
    beta = on_tables[0].settings["beta"]
    log_z = [
        outcome.exact.reward / beta - outcome.exact.kl + outcome.exact.inference_gap
        for outcome in on_tables[0].outcomes
    ]
    np.testing.assert_allclose(log_z, log_z[0], atol=1e-9)


def test_the_samples_are_there_for_other_commands(on_tables):
    found, folder = on_tables
    prior, *policies = (files.read([folder / f"{name}.parquet"]).samples for name in ("prior", *OBJECTIVES))
    again = compare(prior, dict(zip(OBJECTIVES, policies, strict=True)), found.settings["beta"])
    assert [one.inference_gap for one in again.policies] == [one.inference_gap for one in found.comparison.policies]


def test_a_run_that_is_done_is_not_done_again(tmp_path):
    recipe = replace(recipe_of("tabular"), evaluated=16)
    recipe = replace(recipe, settings=replace(recipe.settings, steps=4, prior_samples=64, completions=8))
    first, shown = run(recipe, tmp_path)
    assert len(shown) == 4 * len(OBJECTIVES)
    again, shown = run(recipe, tmp_path)
    assert shown == []
    assert again.outcomes[1].exact == first.outcomes[1].exact
    assert to_json(again) == to_json(first)
    with pytest.raises(ValueError, match="holds a run with seed 0, not 5"):
        run(replace(recipe, settings=replace(recipe.settings, seed=5)), tmp_path)


def test_a_run_that_is_stopped_goes_on(tmp_path):
    recipe = replace(recipe_of("tabular"), evaluated=16)
    recipe = replace(recipe, settings=replace(recipe.settings, steps=4, prior_samples=64, completions=8))
    whole, _ = run(recipe, tmp_path / "whole")
    stops = iter([False] * 6 + [True] * 100)
    stopped, shown = run(recipe, tmp_path / "parts", is_stopped=lambda: next(stops))
    assert stopped is None
    assert len(shown) < 4 * len(OBJECTIVES)
    found, _ = run(recipe, tmp_path / "parts")
    assert [one.exact for one in found.outcomes] == [one.exact for one in whole.outcomes]


def test_a_language_model_collapses_under_plain_rl_alone(on_alice):
    outcomes = by_name(on_alice[0])
    prior = outcomes["prior"].entropy.value
    assert outcomes["plain-rl"].entropy.value < prior / 5
    assert outcomes["plain-rl"].report.reward.value > 0.9
    for name in ("kl-rl", "dpg"):
        assert outcomes[name].entropy.value > 0.75 * prior
        assert abs(outcomes[name].excess_collapse.value) < 0.05
    assert outcomes["plain-rl"].excess_collapse.value < -0.3
    distinct = {name: one.report.diversity[1].within.value for name, one in outcomes.items()}
    assert distinct["plain-rl"] < 0.2 * min(distinct["prior"], distinct["kl-rl"], distinct["dpg"])


def test_the_collapsed_policy_shows_that_k3_cannot_be_trusted(on_alice):
    found = on_alice[0]
    report = by_name(found)["plain-rl"].report
    assert report.kl["k3"].value < report.kl["exact"].value - 5
    warnings = [text for text in found.comparison.warnings if text.startswith("plain-rl: ")]
    assert any("k3 at token level" in text and "too low" in text for text in warnings)


def test_it_is_shown_as_table_json_and_page(on_alice, tmp_path, capsys):
    found = on_alice[0]
    print_dissociation(found)
    out = capsys.readouterr().out
    for name in ("plain-rl", "KL(target‖policy)", "self-bleu-4", "Before trusting these numbers", "threads 1"):
        assert name in out
    record = record_of("train", found)
    assert [outcome["name"] for outcome in record["outcomes"]] == ["prior", *OBJECTIVES]
    assert record["outcomes"][1]["entropy"]["value"] == found.outcomes[1].entropy.value
    write_dissociation_page(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") == 1
    assert "http" not in page.replace("http://www.w3.org", "")
    for outcome in found.outcomes:
        assert f'<th scope="col">{outcome.name}</th>' in page


def test_the_command_does_all_of_it(esscher, tmp_path):
    options = ("train", "--recipe", "dissociation", "--model", "tabular", "--output", tmp_path / "out")
    small = ("--steps", 3, "--completions", 8, "--prior-samples", 64)
    code, out, _ = esscher(*options, *small)
    assert code == 0
    assert "One prior, one reward" in out
    assert (tmp_path / "out" / "dissociation.html").is_file()
    record = read("train", (tmp_path / "out" / "dissociation.json").read_text())
    assert record["settings"]["steps"] == 3
    assert np.isfinite(record["outcomes"][2]["exact"]["inference_gap"])
    code, _, err = esscher(*options, "--steps", 3, "--completions", 9, "--prior-samples", 64)
    assert code == 2
    assert "--restart" in err
    code, _, _ = esscher(*options, "--steps", 3, "--completions", 9, "--prior-samples", 64, "--restart")
    assert code == 0
    code, _, err = esscher(*options, "--reward", "a:b")
    assert (code, "--reward and --recipe dissociation" in err) == (2, True)
