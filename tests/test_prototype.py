"""`prototype`: what targets would give, as numbers, as JSON, as a page, as a picture, and from the command line."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from esscher import Ragged, Samples, files, frontier, prototype
from esscher.diversity import estimate_diversity
from esscher.inference.importance import exponential_weights
from esscher.lm.tabular import TabularLM
from esscher.report.prototype import print_prototype, shown_points, tables, write_picture, write_prototype_page
from pages import check_page, plain
from report_json import read, record_of

N = 256


def reward(completion):
    """Of one completion always the same, and of no two alike."""
    return float(np.tanh(np.random.default_rng(completion.tolist()).normal()))


@pytest.fixture(scope="module")
def samples():
    """Completions of six prompts by a small prior, with rewards between -1 and 1."""
    prior = TabularLM.random(np.random.default_rng(3), prompts=6, vocabulary=4, depth=5)
    drawn = prior.sample(Ragged.from_rows([[p] for p in range(6)]), N, 5, np.random.default_rng(4))
    rewards = np.array([reward(row) for row in drawn.completions])
    return replace(drawn, prior_logprobs=drawn.policy_logprobs, policy_logprobs=None, rewards=rewards)


@pytest.fixture(scope="module")
def found(samples):
    return prototype(samples)


def test_the_frontier_is_that_of_the_rewards(samples, found):
    alone = frontier(samples.rewards, groups=samples.groups)
    assert np.array_equal(found.frontier.reward.value, alone.reward.value)
    assert (found.prompts, found.completions) == (6, 6 * N)
    assert found.warnings == alone.warnings


def test_best_of_n_lies_under_the_frontier(samples, found):
    best = found.best_of_n
    assert best.n.tolist() == [1, 2, 4, 8, 16, 32, 64, 128]
    assert not best.kl_is_bound
    assert (best.kl.value <= np.log(best.n) - (best.n - 1) / best.n + 1e-12).all()
    assert (np.diff(best.reward.value) > 0).all()
    assert best.reward.value[0] == pytest.approx(samples.rewards.mean(), rel=1e-12)
    for kl, reward in zip(best.kl.value[1:5], best.reward.value[1:5], strict=True):
        reachable = np.interp(kl, found.frontier.kl.value, found.frontier.reward.value)
        assert reward <= reachable + 0.01


def test_the_kl_of_best_of_n_lies_between_the_exact_one_and_the_bound():
    """With two outcomes, e the prior's probability of the better one, best-of-n draws it with 1 - (1 - e)^n."""
    e, size = 0.25, 400
    rewards = np.repeat([1.0, 0.0], [int(e * size), size - int(e * size)])
    drawn = Samples(
        prompts=Ragged.from_rows([[1]]),
        completions=Ragged.from_rows([[5] if r else [6] for r in rewards]),
        groups=[0, size],
        prior_logprobs=Ragged.from_rows([[np.log(e if r else 1 - e)] for r in rewards]),
        rewards=rewards,
    )
    best = prototype(drawn).best_of_n
    better = 1 - (1 - e) ** best.n
    exact = better * np.log(better / e) + (1 - better) * np.log((1 - better) / (1 - e))
    bound = np.log(best.n) - (best.n - 1) / best.n
    assert (exact[1:] < best.kl.value[1:]).all()
    assert (best.kl.value[1:] < bound[1:]).all()
    assert best.reward.value[:4] == pytest.approx(better[:4], abs=0.02)


def test_the_best_of_one_prompts_samples_has_an_error_only_where_it_can():
    rewards = np.random.default_rng(2).normal(size=64)
    rows = Ragged.from_rows([[i] for i in range(64)])
    found = prototype(Samples(Ragged.from_rows([[0]]), rows, [0, 64], rewards=rewards))
    reward = found.best_of_n.reward
    assert found.best_of_n.n.tolist() == [1, 2, 4, 8, 16, 32]
    assert (reward.low[:4] < reward.value[:4]).all()
    assert (reward.value[:4] < reward.high[:4]).all()
    assert np.isnan([reward.stderr[4:], reward.low[4:], reward.high[4:]]).all()
    assert found.warnings[-1].startswith("The reward of the best of 16, 32 has no error: of the 64 samples of the one")
    several = prototype(Samples(Ragged.from_rows([[0], [1]]), rows, [0, 32, 64], rewards=rewards))
    assert np.isfinite(several.best_of_n.reward.stderr).all()
    assert not any("best of" in warning for warning in several.warnings)


def test_without_log_probs_the_kl_of_best_of_n_is_a_bound(samples):
    best = prototype(replace(samples, prior_logprobs=None)).best_of_n
    assert best.kl_is_bound
    assert best.kl.value == pytest.approx(np.log(best.n) - (best.n - 1) / best.n)


def test_diversity_is_that_of_the_weighted_completions(samples, found):
    assert found.diversity[0].beta == np.inf
    at = found.diversity[-1]
    weights = exponential_weights(samples.rewards, at.beta, samples.groups).weights
    expected = {d.metric: d.within for d in estimate_diversity(samples.completions, samples.groups, weights)}
    assert [metric.metric for metric in at.metrics] == ["distinct-2 of 2", "repetition-3"]
    for metric in at.metrics:
        assert metric.within == pytest.approx(expected[metric.metric], rel=1e-12)
    assert at.beta == found.frontier.beta[found.frontier.trusted].min()


def test_given_betas_are_the_ones(samples):
    assert prototype(samples, [0.5, 2.0]).frontier.beta.tolist() == [2.0, 0.5]


def test_given_betas_are_all_shown(samples):
    frontier_table, *_ = tables(prototype(samples, [2.0, 0.5, 1e-3, 1e-4]))
    assert [row[0] for row in frontier_table.rows] == ["prior", "2.00", "0.500", "0.00100*", "0.000100*"]
    assert frontier_table.muted == (3, 4)


def test_rewards_of_minus_infinity_are_the_mean_of_the_best_of_any_n(samples):
    found = prototype(replace(samples, rewards=np.where(np.arange(len(samples)) % 50 == 0, -np.inf, samples.rewards)))
    assert np.isneginf(found.best_of_n.reward.value).all()
    assert any("rewards are -inf, and so is the mean reward" in warning for warning in found.warnings)


def test_few_samples_are_told_to_be_few_whatever_beta():
    pairs = Samples(
        Ragged.from_rows([[p] for p in range(20)]),
        Ragged.from_rows([[i] for i in range(40)]),
        np.arange(0, 41, 2),
        rewards=np.random.default_rng(0).normal(size=40),
    )
    found = prototype(pairs)
    assert found.warnings == (
        "With 40 samples, 2 a prompt, no target can be trusted, whatever beta. Draw 8 a prompt or more.",
    )
    out = StringIO()
    print_prototype(found, Console(width=100, file=out))
    assert "not known: it takes four samples a prompt or more" in out.getvalue()


def test_the_table_says_where_trust_ends(found):
    out = StringIO()
    print_prototype(found, Console(width=100, file=out))
    text = plain(out.getvalue())
    assert "6 prompts, 1,536 completions of the prior" in text
    assert text.count("* ") == 2  # at a beta, and below the table
    assert "* not to be trusted" in text
    shown = shown_points(found)
    assert found.frontier.trusted[shown].tolist() == [True] * (len(shown) - 1) + [False]
    assert tables(found)[0].muted == (len(shown),)


def test_json_has_every_number(found):
    record = record_of("prototype", found)
    assert record["frontier"]["kl"]["value"] == found.frontier.kl.value.tolist()
    assert record["best_of_n"]["n"] == found.best_of_n.n.tolist()
    assert record["diversity"][0]["beta"] == "inf"
    assert record["frontier"]["trusted"] == found.frontier.trusted.tolist()


def test_the_page_stands_alone(found, tmp_path):
    path = tmp_path / "page.html"
    write_prototype_page(found, path, title="A < B")
    html = path.read_text()
    check_page(html)
    assert "A &lt; B" in html
    for text in ("no policy can be here", "too few samples", "best of 2", "prior"):
        assert text in html


@pytest.mark.parametrize(("name", "start"), [("f.svg", b"<svg"), ("f.png", b"\x89PNG")])
def test_the_picture_is_a_file(found, tmp_path, name, start):
    write_picture(found, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(ValueError, match=r"a picture is \.svg or \.png"):
        write_picture(found, tmp_path / "f.jpg")


@pytest.mark.parametrize("change", ["nothing trusted", "a point", "rewards of -inf", "pairs"])
def test_odd_samples_have_a_page_too(samples, tmp_path, change):
    few = samples.take_prompts(np.arange(2))
    if change == "nothing trusted":
        odd, betas = few, [1e-3, 1e-4]
    elif change == "a point":
        odd, betas = replace(few, rewards=np.ones(len(few))), [1.0, 0.5]
    elif change == "rewards of -inf":
        odd, betas = replace(few, rewards=np.where(np.arange(len(few)) % 3 == 0, -np.inf, few.rewards)), None
    else:
        odd = Samples(
            Ragged.from_rows([[1], [2]]),
            Ragged.from_rows([[1], [2], [3], [4]]),
            [0, 2, 4],
            rewards=[0.0, 1.0, 2.0, 0.5],
        )
        betas = None
    found = prototype(odd, betas)
    assert found.warnings or change == "rewards of -inf"
    write_prototype_page(found, tmp_path / "page.html")
    check_page((tmp_path / "page.html").read_text())
    record_of("prototype", found)


def test_samples_without_rewards_are_refused(samples):
    with pytest.raises(ValueError, match="samples have no rewards"):
        prototype(replace(samples, rewards=None))


def test_the_command_says_the_same(samples, tmp_path, esscher):
    path = tmp_path / "prior.parquet"
    files.write(files.to_table(samples), path)
    page, picture = tmp_path / "page.html", tmp_path / "frontier.svg"
    code, out, err = esscher("prototype", path, "--json", "--html", page, "--picture", picture)
    assert code == 0, err
    # Files hold log-probs as float32.
    assert read("prototype", out)["frontier"] == record_of("prototype", prototype(samples))["frontier"]
    assert page.exists()
    assert picture.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--picture", "f.jpg"), "a picture is .svg or .png"),
        (("--beta", "0"), "beta is 0.0: it must be a positive number"),
        (("--html", "prior.parquet"), "is one of the files that are read"),
        (("--html", "f.svg", "--picture", "f.svg"), "for the page and for the picture: name two files"),
    ],
)
def test_bad_input_ends_with_2_and_writes_nothing(samples, tmp_path, esscher, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    files.write(files.to_table(samples), tmp_path / "prior.parquet")
    code, _, err = esscher("prototype", "prior.parquet", *arguments)
    assert code == 2
    assert message in plain(err)
    assert [p.name for p in tmp_path.iterdir()] == ["prior.parquet"]
