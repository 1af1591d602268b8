"""Reports as JSON, in a terminal, and as a page: numbers as they are, whatever the data lacks."""

from __future__ import annotations

import io
import re
from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from rich.console import Console

from esscher import Condition, Estimate, Ragged, Samples, Tilt
from esscher.evaluate import Ngram, PerCompletion, evaluate
from esscher.report import bins, digits, print_report, summary, to_dict, write_page
from esscher.report.evaluation import render
from esscher.report.schema import schema
from esscher.report.table import Heading, Table, print_beside, turned
from pages import Page, check_page, plain
from report_json import SCHEMA, record_of, validator


def make_samples(prompts=6, each=8, seed=0, **changes):
    rng = np.random.default_rng(seed)
    n = prompts * each
    lengths = rng.integers(4, 12, n)
    total = int(lengths.sum())
    policy = -rng.exponential(1.5, total)
    columns = {
        "policy_logprobs": Ragged.from_lengths(policy, lengths),
        "prior_logprobs": Ragged.from_lengths(np.minimum(policy + rng.normal(-0.05, 0.2, total), 0), lengths),
        "rewards": rng.normal(0.3, 0.5, n),
        "terminated": np.arange(n) % 4 > 0,
    }
    prompt_tokens = Ragged.from_lengths(np.arange(2 * prompts), [2] * prompts)
    completions = Ragged.from_lengths(rng.integers(0, 5, total), lengths)
    return Samples(prompt_tokens, completions, np.arange(0, n + 1, each), **(columns | changes))


def with_column(**columns):
    report = evaluate(make_samples())
    return replace(report, per_completion=replace(report.per_completion, **columns))


BARE = {"policy_logprobs": None, "prior_logprobs": None, "rewards": None, "terminated": None}
MINUS_INFINITY = np.array([-np.inf, 0.0, 1.0, -np.inf] * 12)
REPORTS = {
    "whole": lambda: evaluate(make_samples(), Tilt(0.5)),
    "from the prior": lambda: evaluate(make_samples(), Tilt(0.5), proposal="prior"),
    "condition": lambda: evaluate(make_samples(), Condition(0.5)),
    "no weight": lambda: evaluate(make_samples(), Condition(99.0)),
    "no target": lambda: evaluate(make_samples()),
    "bare": lambda: evaluate(make_samples(**BARE)),
    "single completion": lambda: evaluate(make_samples(1, 1), Tilt(1.0)),
    "single token": lambda: evaluate(Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[2]]), [0, 1])),
    "constant rewards": lambda: evaluate(make_samples(rewards=np.full(48, 0.25)), Tilt(0.5)),
    "rewards of -inf": lambda: evaluate(make_samples(rewards=MINUS_INFINITY), Tilt(0.5)),
    "nothing but -inf": lambda: evaluate(make_samples(rewards=np.full(48, -np.inf)), Tilt(0.5)),
    "huge rewards": lambda: evaluate(make_samples(rewards=np.repeat([-1e150, 1e150], 24))),
    "too wide to draw": lambda: with_column(rewards=np.repeat([-1e308, 1e308], 24)),
}
every_report = pytest.mark.parametrize("name", REPORTS)


@cache
def page_of(name):
    return render(REPORTS[name]())


def printed(report, width=80, decode=None):
    out = io.StringIO()
    print_report(report, Console(file=out, width=width, color_system=None), decode, explain=True)
    return out.getvalue()


# Digits.


@pytest.mark.parametrize(
    ("value", "stderr", "shown"),
    [
        (0.65213, 0.01298, "0.652 ± 0.013"),
        (-3.14159, 0.5, "-3.14 ± 0.50"),
        (0.5, 0.0996, "0.50 ± 0.10"),
        (12345.6, 678.9, "12,350 ± 680"),
        (0.0, 0.25, "0.00 ± 0.25"),
        (-0.001, 0.3, "0.00 ± 0.30"),
        (1.25, 0.0, "1.250 ± 0"),
        (0.25, 1.6e-18, "0.2500 ± 0"),
        (0.0, 0.0, "0 ± 0"),
        (2.0, np.nan, "2.000 ± ?"),
        (-np.inf, np.nan, "-inf"),
        (np.nan, np.nan, "not known"),
        (1.5e9, 2e8, "1.5e+09 ± 2.0e+08"),
        (1.5e9, 0.12, "1,500,000,000.00 ± 0.12"),
        (1.0, 1e-9, "1 ± 1.0e-09"),
    ],
)
def test_an_estimate_has_the_digits_that_its_error_bears(value, stderr, shown):
    assert digits.estimate(Estimate(value, stderr)) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (1234.5678, "1,235"), (123456.7, "123,457"), (9.87654e-9, "9.877e-09"), (-np.inf, "-inf")],
)
def test_a_number_has_four_digits_and_all_before_the_point(value, shown):
    assert digits.number(value) == shown


# JSON.


@every_report
def test_every_report_is_valid_json_with_the_same_keys(name):
    report = REPORTS[name]()
    record = record_of("evaluate", report, per_completion=True)
    assert list(record) == [field.name for field in fields(report)]
    assert len(record["per_completion"]["lengths"]) == report.counts.completions
    assert "per_completion" not in to_dict(report)
    assert all("per_sequence" not in kl for kl in record["kl"].values())


def test_the_schema_is_that_of_the_records():
    Draft202012Validator.check_schema(SCHEMA)
    assert schema() == SCHEMA, "write it anew: python -m esscher.report.schema"


def test_the_schema_knows_every_key():
    check = validator("evaluate")
    record = to_dict(REPORTS["whole"](), per_completion=True)
    assert list(SCHEMA["$defs"]["Report"]["properties"]) == list(record)
    for key in record:
        less = {name: value for name, value in record.items() if name != key}
        assert check.is_valid(less) == (key == "per_completion")
    assert not check.is_valid(record | {"more": 1})
    assert not check.is_valid(record | {"version": None})
    assert not check.is_valid(record | {"reward": {"value": "nan", "stderr": None}})


def test_the_schema_says_what_keys_mean_and_whose_an_error_is():
    of = SCHEMA["$defs"]
    for name, definition in of.items():
        assert len(definition["description"]) > 20, name
    assert of["Report"]["properties"]["entropy"]["description"].startswith("Mean negative log-prob of")
    # log Z has two kinds of error.
    assert "Errors are *of these prompts*" in of["LogZ"]["description"]
    assert "errors of these prompts" in of["PolicyPoint"]["properties"]["log_z"]["description"]
    assert "errors over prompts" in of["PolicyPoint"]["properties"]["log_z_bounds"]["description"]
    assert "Its error is *over prompts*" in of["TargetReport"]["properties"]["log_z"]["description"]


def test_json_holds_the_report_s_numbers_exactly():
    report = REPORTS["whole"]()
    record = record_of("evaluate", report)
    assert record["reward"] == {"value": report.reward.value, "stderr": report.reward.stderr}
    assert record["kl"]["k3"]["value"] == report.kl["k3"].value
    assert record["kl"]["k3"]["signature"] == report.kl["k3"].signature
    assert record["target"]["target"] == "tilt|beta:0.5"
    assert record["target"]["log_z"]["value"] == report.target.log_z.value
    assert record["target"]["elbo"]["stderr"] == report.target.elbo.stderr
    # Of 8 completions a prompt the gap has a bias that is not small, and no error.
    assert np.isnan(report.target.inference_gap.stderr)
    assert record["target"]["inference_gap"] == {"value": report.target.inference_gap.value, "stderr": None}
    assert record["target"]["inference_gap_interval"]["low"] is None
    assert record["target"]["inference_gap_interval"]["assumes"].startswith("no interval: halves of each prompt's")
    assert record["target"]["forward_kl"]["value"] == report.target.forward_kl.value
    excess = {one["metric"]: one for one in record["excess_collapse"]}
    assert excess["distinct-2 of 2"]["within"]["value"] == report.excess_collapse[0].within.value
    assert record["target"]["ess"] == report.target.ess
    assert record["diversity"][1]["across"] == report.diversity[1].across
    first = report.top_ngrams[2][0]
    assert record["top_ngrams"]["2"][0] == {"token_ids": list(first.token_ids), "count": first.count}
    assert record["counts"] == {"prompts": 6, "completions": 48, "tokens": report.counts.tokens, "terminated": 36}


def test_what_is_not_finite_is_null_or_a_word():
    record = to_dict(REPORTS["rewards of -inf"](), per_completion=True)
    assert record["reward"] == {"value": "-inf", "stderr": None}
    assert record["per_completion"]["rewards"][:3] == ["-inf", 0.0, 1.0]
    assert to_dict(REPORTS["bare"]())["reward"] is None


# Terminal.


@every_report
def test_a_printed_report_fits_80_columns_and_says_what_is_missing(name):
    report = REPORTS[name]()
    text = printed(report)
    assert max(map(len, text.splitlines())) <= 80
    for reason in report.unavailable.values():
        assert reason in plain(text)
    for warning in report.warnings:
        assert warning in plain(text)


def test_a_printed_report_shows_the_numbers_with_their_units_in_order():
    report = REPORTS["whole"]()
    text, target = plain(printed(report)), report.target
    (of_two,) = (d for d in report.diversity if d.metric == "distinct-2 of 2")
    (target_of_two,) = (d for d in report.target_diversity if d.metric == "distinct-2 of 2")
    assert text.startswith(f"6 prompts, 48 completions, {report.counts.tokens} tokens, 75% ended by themselves")
    shown = [
        f"reward {digits.estimate(report.reward)} mean per completion",
        f"KL(policy‖prior) {digits.estimate(Estimate(*report.kl['k1'][:2]))} nats per completion (k1)",
        "Target tilt|beta:0.5, seen from samples of the policy",
        f"objective J {digits.estimate(target.objective)}",
        f"its bound, beta log Z {digits.estimate(target.objective_bound)}",
        f"log Z {digits.estimate(target.log_z)} nats, ± over prompts",
        f"inference gap {digits.estimate(target.inference_gap)} nats, KL(policy‖target)",
        f"the other way round {digits.estimate(Estimate(*target.forward_kl[:2]))} nats, KL(target‖policy)",
        f"effective sample size {digits.number(target.ess)} ({digits.share(target.ess, 48)}) of 48 completions",
        "Pareto k",
        "Before trusting these numbers ! ",
        "KL(policy‖prior), nats per completion 95 % interval k1",
        f"k3 {digits.estimate(Estimate(*report.kl['k3'][:2]))} {summary.interval_text(report.kl['k3'].interval)}",
        "What trainers log as KL of the same samples",
        f"trl-grpo {digits.estimate(Estimate(*report.trainer_kl['trl-grpo'][:2]))}",
        "Diversity",
        f"distinct-1 {digits.estimate(report.diversity[0].within)}",
        f"distinct-2 of 2 {digits.estimate(of_two.within)} {digits.estimate(target_of_two.within)}",
        "Most frequent n-grams",
        f"{report.top_ngrams[2][0].count} {' '.join(map(str, report.top_ngrams[2][0].token_ids))}",
        "± is one standard error over prompts: other prompts would differ by about as much.",
    ]
    places = [text.index(piece) for piece in shown]
    assert places == sorted(places)


def test_the_error_of_a_single_prompt_is_named_as_its_own():
    text = plain(printed(evaluate(make_samples(prompts=1, each=24), Tilt(0.5))))
    assert "nats, ± of this prompt" in text
    assert "± is one standard error of this prompt: other completions of it would differ by about as much" in text
    assert "over prompts" not in text


def test_from_the_prior_there_is_no_gap_and_no_policy_kl():
    text = plain(printed(REPORTS["from the prior"]()))
    assert "seen from samples of the prior" in text
    assert "inference gap" not in text
    assert "nats per completion" not in text
    assert "What trainers log" not in text


@pytest.mark.parametrize(
    ("k", "meaning"),
    [
        (np.nan, "too few"),
        (-np.inf, "all alike"),
        (0.3, "light"),
        (0.7, "usable"),
        (0.9, "few weights decide"),
        (1.2, "do not"),
    ],
)
def test_pareto_k_is_explained(k, meaning):
    assert meaning in summary.pareto_k_meaning(k)


def test_n_grams_are_decoded_and_neither_markup_nor_control_characters_act():
    report = replace(REPORTS["bare"](), top_ngrams={2: (Ngram((1, 2), 7), Ngram((3, 4), 5))})
    texts = {(1, 2): "[red]alarm[/red]\x1b[2J\x9b1m\n", (3, 4): "x" * 500}
    text = printed(report, decode=lambda ids: texts[tuple(ids)])
    assert "'[red]alarm[/red]\\x1b[2J\\x9b1m\\n'" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    assert "x" * 50 not in text


# Tables.


def many(columns):
    names = [f"policy {i}" for i in range(columns)]
    rows = (("KL", *map(str, range(columns))), ("reward", *("-" for _ in names)))
    return Table("Policies", (Heading("", "name"), *map(Heading, names)), rows, ("said once",), muted=(1,))


@pytest.mark.parametrize(("width", "parts"), [(80, 3), (20, 5), (140, 1)])
def test_a_table_of_many_policies_is_printed_in_parts_that_fit(width, parts):
    out = io.StringIO()
    print_beside(Console(file=out, width=width, color_system=None), many(5))
    text = out.getvalue()
    assert text.count("Policies\n") == text.count("reward") == parts
    assert text.count("said once") == 1
    assert [text.count(f"policy {i}") for i in range(5)] == [1] * 5 or width < 40
    assert max(map(len, text.splitlines())) <= width


def test_a_turned_table_has_its_columns_as_rows():
    table = turned(many(2))
    assert [heading.text for heading in table.headings] == ["", "KL", "reward"]
    assert table.rows == (("policy 0", "0", "-"), ("policy 1", "1", "-"))
    assert table.muted == ()


# Page.


@every_report
def test_a_page_is_well_formed_small_and_loads_nothing(name):
    html = page_of(name)
    check_page(html)
    assert "nan" not in Page(html).text.lower()


@every_report
def test_a_page_says_what_is_missing_and_why(name):
    report = REPORTS[name]()
    text = plain(Page(page_of(name)).text)
    for reason in report.unavailable.values():
        assert reason in text
    for warning in report.warnings:
        assert warning in text


def test_a_plot_without_data_says_why():
    text = plain(Page(page_of("bare")).text)
    assert "No rewards: the samples lack the column rewards." in text
    assert "No KL: the samples lack the columns policy_logprobs and prior_logprobs." in text
    assert "No weights: no target was given." in text
    assert "nothing that can be drawn" in plain(Page(page_of("too wide to draw")).text)
    assert "nothing that can be drawn" in plain(Page(page_of("nothing but -inf")).text)
    assert "No completion has weight under the target" in plain(Page(page_of("no weight")).text)


def test_a_page_holds_the_numbers_the_plots_and_the_signatures():
    report = REPORTS["whole"]()
    html = render(report, title="SmolLM2 & friends")
    page = Page(html)
    text = plain(page.text)
    assert "<title>SmolLM2 &amp; friends</title>" in html
    for shown in (report.reward, report.target.log_z, report.target.inference_gap, report.target.objective):
        assert digits.estimate(shown) in text
    for estimate in (*report.kl.values(), *report.trainer_kl.values()):
        assert estimate.signature in text
    for table in (*summary.numbers(report), *summary.details(report)):
        assert table.title in text
        for row in table.rows:
            assert plain("".join(row)) in text
    assert page.tags.count("svg") == 5 + len(report.top_ngrams)
    assert f"ESS {digits.number(report.target.ess)} of 48" in text
    assert f"mean {digits.number(report.kl['k1'].value)}" in text


def test_infinite_rewards_are_counted_not_drawn():
    assert "24 infinite values are not drawn." in plain(Page(page_of("rewards of -inf")).text)


def test_hostile_n_grams_and_titles_are_text_on_a_page():
    hostile = "<script>alert(1)</script>&\"'\x00\ud800"
    html = render(REPORTS["whole"](), decode=lambda _ids: hostile, title=hostile.encode("ascii", "ignore").decode())
    page = Page(html)
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text
    html.encode("utf-8")


def test_a_page_of_a_million_completions_stays_small():
    rng = np.random.default_rng(0)
    n = 1_000_000
    columns = PerCompletion(
        prompts=np.arange(n) // 8,
        lengths=rng.integers(1, 500, n),
        rewards=rng.normal(size=n),
        kl=rng.gumbel(size=n),
        log_weights=-rng.exponential(size=n),
    )
    report = replace(REPORTS["whole"](), per_completion=columns)
    assert len(render(report).encode()) < 200_000


def test_a_page_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    report, path = REPORTS["bare"](), tmp_path / "page.html"
    write_page(report, path)
    assert path.read_text(encoding="utf-8") == render(report)
    path.write_text("old")

    def fail(*_arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_page(report, path)
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
    assert path.read_text() == "old"


def test_a_page_needs_its_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="make the folder first"):
        write_page(REPORTS["bare"](), tmp_path / "missing" / "page.html")


# What plots are made of.


def test_a_histogram_s_shares_are_of_all_values_and_weights_add_up():
    values = np.array([0.0, 0.0, 1.0, -np.inf])
    shape = bins.histogram(values, np.array([1.0, 1.0, 2.0, 0.0]))
    assert shape.shares.sum() == pytest.approx(0.75)
    assert shape.weighted.sum() == pytest.approx(1.0)
    assert shape.weighted[-1] == pytest.approx(0.5)
    assert shape.left_out == 1


def test_whole_numbers_are_in_the_middle_of_their_bins():
    shape = bins.histogram(np.array([1.0, 2.0, 2.0, 4.0]))
    assert shape.edges.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert shape.shares.tolist() == [0.25, 0.5, 0.0, 0.25]


@pytest.mark.parametrize("values", [[0.1] * 3, [1e15 + 0.3], [1.0, 1.0 + 1e-15], [0.0], [-1e300] * 2])
def test_values_too_close_to_divide_share_the_middle_bin(values):
    shape = bins.histogram(np.array(values))
    assert shape.shares.tolist() == [0, 0, 1, 0, 0]
    assert (np.diff(shape.edges) > 0).all()


def test_the_concentration_curve_is_exact_where_it_is_drawn():
    weights = np.random.default_rng(0).exponential(size=5000) ** 3
    curve = bins.concentration(weights)
    heaviest = np.sort(weights)[::-1]
    for share, carried in zip(curve.completions, curve.weight, strict=True):
        assert carried == pytest.approx(heaviest[: round(share * 5000)].sum() / weights.sum())
    assert (curve.completions[0], curve.weight[0], curve.completions[-1], curve.weight[-1]) == (0, 0, 1, 1)
    assert len(curve.weight) <= 201
    assert heaviest[: round(curve.half * 5000)].sum() >= weights.sum() / 2


def test_warnings_take_a_line_for_each_kind_unless_they_are_asked_for():
    report = REPORTS["whole"]()
    out = io.StringIO()
    print_report(report, Console(file=out, width=100, color_system=None))
    for warning in report.warnings:
        assert warning.what in plain(out.getvalue())
        assert warning not in plain(out.getvalue())
    assert "--explain (in Python, explain=True) says what was seen, and what to do" in plain(out.getvalue())
    assert "--explain" not in printed(report)
