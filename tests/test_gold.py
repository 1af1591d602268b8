"""A gold reward under the targets of its proxy: exact values, errors, where it is best, and what is shown of it."""

from __future__ import annotations

import math
from dataclasses import replace
from io import StringIO

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from esscher import Ragged, Samples, files, frontier, prototype
from esscher.frontier import gold_curve
from esscher.lm.tabular import TabularLM
from esscher.report.prototype import print_prototype, tables, write_picture, write_prototype_page
from pages import check_page, plain
from report_json import read, record_of
from test_frontier import PLACES, PRIOR, PROMPTS, REWARDS

BETAS = np.geomspace(3.0, 0.15, 24)
REPETITIONS = 200
# Beyond a reward of 0.2 the gold reward falls, and it differs between completions of equal reward.
GOLD = REWARDS - 2.4 * np.maximum(REWARDS - 0.2, 0.0) ** 2 + np.random.default_rng(11).normal(0.0, 0.5, REWARDS.shape)


def exact(beta):
    """The gold reward of every prompt's target [prompts]."""
    weights = PRIOR * np.exp(REWARDS / beta)
    return (weights * GOLD).sum(axis=1) / weights.sum(axis=1)


EXACT = np.stack([(PRIOR * GOLD).sum(axis=1), *map(exact, BETAS)], axis=-1)  # the prior first


def draw(rng, prompts, n):
    """Proxy and gold rewards of so many completions of each prompt, one prompt after another."""
    found = np.searchsorted(PLACES, np.repeat(prompts, n) + rng.random(np.size(prompts) * n), side="right")
    return REWARDS.ravel()[found], GOLD.ravel()[found]


def curves(rng, prompts, n, betas=BETAS):
    proxy, gold = draw(rng, prompts, n)
    groups = np.arange(np.size(prompts) + 1) * n
    curve = frontier(proxy, betas, groups)
    return curve, gold_curve(curve, proxy, gold, groups)


def test_many_samples_give_the_exact_curve():
    _, found = curves(np.random.default_rng(1), np.arange(3), 200_000)
    expected = EXACT[:3].mean(axis=0)
    assert found.reward.value == pytest.approx(expected[1:], abs=0.01)
    assert found.prior_reward.value == pytest.approx(expected[0], abs=0.01)
    assert expected.argmax() not in (0, len(BETAS))
    assert np.ptp(expected) > 0.2


def test_the_target_of_a_tabular_model_by_the_proxy_has_this_gold_reward():
    """By enumeration of whole completions, of a model instead of a table of rewards."""
    rng = np.random.default_rng(5)
    prior = TabularLM.random(rng, prompts=2, vocabulary=3, depth=3)
    every = prior.completions()
    proxy, gold = rng.normal(size=len(every)), rng.gamma(2.0, size=len(every))
    weights = np.exp(every.policy_log_prob + proxy / 0.7)
    expected = every.groups.sums(weights * gold) / every.groups.sums(weights)
    rewards = {(p, *row.tolist()): i for i, (p, row) in enumerate(zip(every.group_of, every.completions, strict=True))}
    drawn = prior.sample(Ragged.from_rows([[0], [1]]), 50_000, 3, rng)
    which = [rewards[p, *row.tolist()] for p, row in zip(drawn.group_of, drawn.completions, strict=True)]
    found = gold_curve(frontier(proxy[which], [0.7], drawn.groups), proxy[which], gold[which], drawn.groups)
    assert found.reward.value[0] == pytest.approx(expected.mean(), abs=0.03)


@pytest.mark.parametrize("sizes", [[700], [40, 300, 80]])
def test_the_gold_reward_that_is_the_proxy_has_the_frontiers_values_and_errors(sizes):
    rewards = np.tanh(np.random.default_rng(2).normal(-0.3, 0.8, size=sum(sizes))) + 7.0
    groups = np.cumsum([0, *sizes])
    curve = frontier(rewards, [2.0, 1.0, 0.5], groups)
    found = gold_curve(curve, rewards, rewards, groups)
    for of_gold, of_proxy in zip(found.reward, curve.reward, strict=True):
        known = np.isfinite(of_gold)
        assert known[0]
        assert of_gold[known] == pytest.approx(of_proxy[known], rel=1e-10)
    assert found.prior_reward == pytest.approx(curve.prior_reward, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_values_and_errors_are_those_of_the_jackknife(seed):
    proxy, gold = draw(np.random.default_rng(seed), 0, 400)
    found = gold_curve(frontier(proxy, [1.0, 0.4]), proxy, gold)
    for b, beta in enumerate([1.0, 0.4]):
        weights = np.exp(proxy / beta)
        whole = weights @ gold / weights.sum()
        without = (weights @ gold - weights * gold) / (weights.sum() - weights)
        bias = 399 * (without.mean() - whole)
        assert found.reward.value[b] == pytest.approx(whole - bias, abs=0.1 * abs(bias) + 3 / 400**2)
        assert found.reward.stderr[b] == pytest.approx(np.sqrt(399 * without.var()), rel=0.05)


def test_no_bias_of_order_one_over_n_is_left():
    """Over all counts of two outcomes: of the order 1 / n^2, it falls by four where n doubles, and not by two."""

    def bias(n, chance=0.3):
        proxy, gold, left = np.array([0.2, 1.1]), np.array([1.0, -0.5]), 0.0
        weights = np.array([1 - chance, chance]) * np.exp(proxy)
        for k in range(n + 1):
            drawn = (np.arange(n) >= n - k).astype(int)
            found = gold_curve(frontier(proxy[drawn], [1.0]), proxy[drawn], gold[drawn])
            probability = math.comb(n, k) * chance**k * (1 - chance) ** (n - k)
            left += probability * (found.reward.value[0] - weights @ gold / weights.sum())
        return left

    some, more = bias(24), bias(48)
    assert some / more > 3.3
    assert 1e-7 < abs(more) < 1e-3


def coverage(prompts, n):
    """How often trusted intervals hold the exact value [betas], and that of the best beta holds the best."""
    hits, shown, best = np.zeros(len(BETAS)), np.zeros(len(BETAS)), []
    for seed in range(REPETITIONS):
        rng = np.random.default_rng(seed)
        drawn = rng.integers(PROMPTS, size=prompts) if prompts > 1 else np.zeros(1, int)
        curve, found = curves(rng, drawn, n)
        truth = EXACT.mean(axis=0) if prompts > 1 else EXACT[0]
        trusted = found.trusted & np.isfinite(found.reward.low)
        shown += trusted
        hits += trusted & (found.reward.low <= truth[1:]) & (truth[1:] <= found.reward.high)
        beta = np.append(np.inf, curve.beta[found.trusted])
        low, high, _ = found.peak.beta_interval
        best.append(low <= beta[truth[: len(beta)].argmax()] <= high)
    return hits / np.maximum(shown, 1), shown, np.mean(best)


@pytest.mark.parametrize(("prompts", "n"), [(1, 1000), (10, 64), (40, 128), (40, 16)])
def test_intervals_cover_the_gold_reward_and_the_best_beta(prompts, n):
    """Each interval misses in one of twenty cases, give or take what counting them does; the best beta's in fewer."""
    shares, shown, best = coverage(prompts, n)
    often = shown > 0.75 * REPETITIONS
    assert often.any()
    assert (shares[often] >= 0.91 - 2 * np.sqrt(0.91 * 0.09 / REPETITIONS)).all(), shares
    assert best >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / REPETITIONS)


def test_a_peak_beyond_error_is_found_where_it_is():
    """Of a proxy x that is normal and gold x - x^2 / 2, the target has x normal about 1 / beta: gold is best at 1."""
    rng = np.random.default_rng(3)
    proxy = rng.normal(size=(8, 4000)).ravel()
    curve = frontier(proxy, np.geomspace(4.0, 0.5, 13), np.arange(9) * 4000)
    found = gold_curve(curve, proxy, proxy - proxy**2 / 2, np.arange(9) * 4000)
    peak = found.peak
    assert peak.rises
    assert peak.falls
    assert peak.beta_interval.low <= 1.0 <= peak.beta_interval.high
    assert 0.8 <= peak.beta_interval.low <= peak.beta <= peak.beta_interval.high <= 1.3
    assert peak.kl_interval.low <= 0.5 <= peak.kl_interval.high
    assert peak.reward.value == pytest.approx(0.0, abs=4 * peak.reward.stderr)
    assert found.reward.value[found.trusted] == pytest.approx(
        (1 / curve.beta - (1 + curve.beta**-2) / 2)[found.trusted], abs=0.06
    )


def test_gold_that_follows_the_proxy_rises_and_what_is_unrelated_does_so_by_chance_alone():
    rng = np.random.default_rng(4)
    proxy, groups = rng.normal(size=4000), np.arange(0, 4001, 400)
    curve = frontier(proxy, [2.0, 1.0, 0.7], groups)
    rising = gold_curve(curve, proxy, proxy + rng.normal(size=4000), groups).peak
    assert (rising.rises, rising.falls, rising.beta) == (True, False, curve.beta[curve.trusted][-1])
    falling = gold_curve(curve, proxy, -proxy, groups).peak
    assert (falling.rises, falling.falls, falling.beta, falling.kl) == (False, True, np.inf, 0.0)
    errors = [
        (peak.rises, peak.falls)
        for seed in range(100)
        for peak in [gold_curve(curve, proxy, np.random.default_rng(seed).normal(size=4000), groups).peak]
    ]
    assert (np.mean(errors, axis=0) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 100)).all()
    flat = gold_curve(curve, proxy, np.ones(4000), groups)
    assert (flat.peak.rises, flat.peak.falls) == (False, False)
    assert flat.reward.stderr == pytest.approx(np.zeros(3), abs=1e-12)


def test_an_offset_of_the_gold_reward_is_added_to_it():
    proxy, gold = draw(np.random.default_rng(6), np.arange(4), 300)
    groups = np.arange(5) * 300
    curve = frontier(proxy, BETAS, groups)
    plain_, shifted = (gold_curve(curve, proxy, gold + offset, groups) for offset in (0.0, 1e6))
    assert shifted.reward.value - 1e6 == pytest.approx(plain_.reward.value, abs=1e-8)
    assert shifted.reward.stderr == pytest.approx(plain_.reward.stderr, rel=1e-6, nan_ok=True)
    assert shifted.peak.beta == plain_.peak.beta


def test_what_is_biased_beside_its_error_has_no_error_bar_and_is_not_trusted():
    """Of a thousand prompts that all have the same gold reward at beta 1, the error is small and the bias is not."""
    rng = np.random.default_rng(0)
    scale, x = rng.gamma(2.0, 0.5, size=(1000, 1)), rng.normal(size=(1000, 40))
    proxy, gold = (scale * x + rng.normal(0.0, 3.0, size=(1000, 1))).ravel(), (x - scale).ravel()
    groups = np.arange(1001) * 40
    curve = frontier(proxy, [4.0, 2.0, 1.0], groups)
    found = gold_curve(curve, proxy, gold, groups)
    assert np.isnan(found.reward.stderr).tolist() == np.isnan(found.reward.low).tolist() == [False, False, True]
    assert found.trusted.tolist() == curve.trusted.tolist() == [True, False, False]
    assert found.warnings == ()  # the frontier has said it
    alone = gold_curve(replace(curve, trusted=np.ones(3, bool)), proxy, gold, groups)
    assert alone.trusted.tolist() == [True, True, False]
    assert alone.warnings == (
        "Below beta = 2 the gold reward is not to be trusted: halves of the samples say otherwise than all, so that a "
        "bias is left that is not small beside the error. Draw more samples a prompt to see further.",
    )


def test_nothing_trusted_has_no_peak():
    proxy = np.arange(6.0)
    found = gold_curve(frontier(proxy, [1.0]), proxy, proxy**2)
    assert found.peak is None
    assert not found.trusted.any()


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        ([0.0, np.nan, 1.0], r"gold\[1\] is nan: a gold reward is finite; leave out completions that have none"),
        ([0.0, 1.0, -np.inf], r"gold\[2\] is -inf: a gold reward is finite"),
        ([0.0, 1.0], "gold has 2 entries for 3 samples"),
        ([0.0, 1e150, 0.0], r"gold\[1\] is 1e\+150: scale the gold rewards"),
    ],
)
def test_bad_gold_is_named(gold, message):
    samples = Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[1], [2], [3]]), [0, 3], rewards=[0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=message):
        prototype(samples, gold=gold)


@pytest.fixture(scope="module")
def samples():
    proxy, _ = draw(np.random.default_rng(8), np.arange(6), 600)
    rows = Ragged.from_rows([[i % 7, i % 5] for i in range(3600)])
    return Samples(Ragged.from_rows([[p] for p in range(6)]), rows, np.arange(7) * 600, rewards=proxy)


@pytest.fixture(scope="module")
def gold():
    return draw(np.random.default_rng(8), np.arange(6), 600)[1]


def test_the_table_page_picture_and_json_show_it(samples, gold, tmp_path):
    found = prototype(samples, gold=gold)
    table = tables(found)[0]
    assert [heading.text for heading in table.headings][:4] == ["beta", "reward", "gold reward", "KL, nats"]
    assert table.notes[0].startswith("The gold reward is highest at KL ")
    out = StringIO()
    print_prototype(found, Console(width=120, file=out))
    assert "gold reward" in plain(out.getvalue())
    write_prototype_page(found, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    check_page(html)
    for text in ("Best gold reward", "best by gold", "overoptimisation", "gold reward"):
        assert text in html
    write_picture(found, tmp_path / "f.svg")
    record = record_of("prototype", found)["gold"]
    assert record["reward"]["value"] == found.gold.reward.value.tolist()
    assert record["peak"]["beta"] == found.gold.peak.beta
    assert record_of("prototype", prototype(samples))["gold"] is None


@pytest.mark.parametrize("kind", ["rises", "falls", "flat", "nothing"])
def test_each_shape_is_said_in_words(samples, gold, kind, tmp_path):
    shapes = {"rises": samples.rewards, "falls": -samples.rewards, "flat": np.zeros(len(samples)), "nothing": gold}
    found = prototype(samples, [1e-3] if kind == "nothing" else None, gold=shapes[kind])
    said = {
        "rises": "The gold reward rises with the reward, and does not fall beyond error up to KL ",
        "falls": "The gold reward rises nowhere beyond error, and falls from KL ",
        "flat": "The gold reward does not move beyond error up to KL ",
        "nothing": "Gold reward: not known, as no target can be trusted.",
    }
    assert tables(found)[0].notes[0].startswith(said[kind])
    write_prototype_page(found, tmp_path / "page.html")
    check_page((tmp_path / "page.html").read_text())


def write_rows(samples, gold, path, order):
    """Write rows in some order, prompts mixed; NaN as null."""
    table = files.to_table(samples).append_column("judge", pa.array(gold, mask=np.isnan(gold)))
    files.write(table.take(order), path)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_the_command_reads_the_column_in_the_order_of_the_samples(samples, gold, tmp_path, esscher, suffix):
    order = np.random.default_rng(0).permutation(len(samples))
    write_rows(samples, gold, tmp_path / f"one{suffix}", order[:2000])
    write_rows(samples, gold, tmp_path / f"two{suffix}", order[2000:])
    paths = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
    code, out, err = esscher("prototype", *paths, "--gold", "judge", "--beta", 0.5, "--beta", 1, "--json")
    assert code == 0, err
    found, expected = read("prototype", out)["gold"], prototype(samples, [1.0, 0.5], gold=gold).gold
    assert found["reward"]["value"] == pytest.approx(expected.reward.value, rel=1e-12)
    assert found["reward"]["stderr"] == pytest.approx(expected.reward.stderr, rel=1e-9)


def test_completions_without_gold_are_left_out_and_counted(samples, gold, tmp_path, esscher):
    partly = gold.copy()
    partly[:601] = np.nan  # all of a prompt, and one of the next
    partly[1201:1800] = np.nan  # all but one of the third
    write_rows(samples, partly, tmp_path / "prior.parquet", np.arange(len(samples)))
    code, out, err = esscher("prototype", tmp_path / "prior.parquet", "--gold", "judge", "--json")
    assert code == 0, err
    record = read("prototype", out)
    assert (record["prompts"], record["completions"]) == (4, 3600 - 601 - 600)
    (warning,) = (one for one in record["warnings"] if one["code"] == "without-gold")
    assert "1200 of 3600 completions have no 'judge' and are left out, and with them 1 that" in warning["evidence"]
    kept = np.r_[601:1200, 1800:3600]
    expected = prototype(samples.take_completions(kept), gold=gold[kept])
    assert record["gold"]["reward"]["value"] == pytest.approx(expected.gold.reward.value, rel=1e-12)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("jugde", "prior.parquet has no reward 'jugde'. There are: nothing"),
        ("nothing", "column 'nothing' holds no number"),
        ("completion_token_ids", "has no reward 'completion_token_ids'"),
    ],
)
def test_a_column_that_is_no_gold_is_named(samples, tmp_path, esscher, column, message):
    path = tmp_path / "prior.parquet"
    files.write(files.to_table(samples).append_column("nothing", pa.nulls(len(samples), pa.float64())), path)
    code, _, err = esscher("prototype", path, "--gold", column)
    assert code == 2
    assert message in plain(err)


def test_the_reward_itself_may_be_the_gold(samples, tmp_path, esscher):
    files.write(files.to_table(replace(samples, prior_logprobs=None)), tmp_path / "prior.jsonl")
    code, out, err = esscher("prototype", tmp_path / "prior.jsonl", "--gold", "rewards")
    assert code == 0, err
    assert "The gold reward rises with the reward" in " ".join(plain(out).split())
