import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
import oracle_diversity
from esscher import Ragged
from esscher.diversity import (
    compression_ratio,
    distinct,
    distinct_without_each,
    estimate_distinct,
    estimate_diversity,
    ngram_entropy,
    rarefied_distinct,
    repetition,
    self_bleu,
    unique_share,
    vendi_score,
)
from esscher.diversity.jackknife import bias_of_pairs
from esscher.estimate import confidence_interval
from strategies import groups_over, tokens

UNBOUNDED = ("2-gram entropy", "vendi-2", "compression ratio")
NAMES = [
    "distinct-1", "distinct-2", "distinct-3", "distinct-2 of 2", "2-gram entropy", "repetition-3", "unique share",
    "vendi-2", "compression ratio", "self-bleu-4 (method1)",
]  # fmt: skip
METRICS = {
    "distinct-1": lambda rows, groups, weights: distinct(rows, 1, groups, weights),
    "distinct-2": lambda rows, groups, weights: distinct(rows, 2, groups, weights),
    "distinct-3": lambda rows, groups, weights: distinct(rows, 3, groups, weights),
    "distinct-2 of 2": lambda rows, groups, weights: rarefied_distinct(rows, 2, 2, groups, weights),
    "2-gram entropy": lambda rows, groups, weights: ngram_entropy(rows, 2, groups, weights),
    "unique share": lambda rows, groups, weights: unique_share(rows, groups, weights),
    "vendi-2": lambda rows, groups, weights: vendi_score(rows, 2, groups, weights),
    "compression ratio": lambda rows, groups, _: compression_ratio(rows, groups),
    "self-bleu-4 (method1)": lambda rows, groups, _: self_bleu(rows, 4, groups, "method1"),
}


def by_name(estimates):
    return {estimate.metric: estimate for estimate in estimates}


def generated(prompts=12, size=5):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 20, prompts * size)
    rows = Ragged.from_lengths(rng.integers(0, 30, lengths.sum()), lengths)
    return rows, size * np.arange(prompts + 1), rng.exponential(size=len(rows))


def check(estimate, values):
    known = [value for value in values if not math.isnan(value)]
    assert estimate.left_out == len(values) - len(known)
    if not known:
        assert math.isnan(estimate.within.value)
        return
    mean, stderr = oracle.clustered_mean(known, np.arange(len(known) + 1))
    assert estimate.within.value == pytest.approx(mean, rel=1e-12, abs=1e-15)
    assert estimate.within.stderr == pytest.approx(stderr, rel=1e-9, abs=1e-13, nan_ok=True)


@given(st.data(), st.booleans())
def test_within_is_the_mean_over_prompts_that_have_a_value(data, weighted):
    rows = data.draw(tokens())
    groups = data.draw(groups_over(len(rows)))
    weight = st.sampled_from([0.0, 0.5, 1.0, 2.0])
    weights = data.draw(st.lists(weight, min_size=len(rows), max_size=len(rows))) if weighted else None
    estimates = by_name(estimate_diversity(rows, groups, weights))
    assert list(estimates) == (NAMES[:-2] if weighted else NAMES)
    for name in set(estimates) & set(METRICS):
        check(estimates[name], METRICS[name](rows, groups, weights).tolist())


def test_across_is_of_all_completions():
    rows, groups, _ = generated()
    estimates = by_name(estimate_diversity(rows, groups))
    for name in set(METRICS) - {"vendi-2"}:
        assert estimates[name].across == METRICS[name](rows, None, None)[0]
    assert estimates["vendi-2"].across is None
    assert estimates["repetition-3"].across == pytest.approx(np.nanmean(repetition(rows, 3)), rel=1e-12)


@given(st.data(), st.integers(1, 3))
def test_distinct_across_has_the_jackknifes_standard_error(data, n):
    rows = data.draw(tokens())
    groups = data.draw(groups_over(len(rows)))
    prompts = [list(range(a, b)) for a, b in itertools.pairwise(groups)]
    others = [[i for other in prompts if other is not prompt for i in other] for prompt in prompts]
    replicates = [oracle.distinct(rows.take(np.array(kept, dtype=int)), n) for kept in others]
    assert distinct_without_each(rows, n, groups).tolist() == pytest.approx(replicates, rel=1e-15, nan_ok=True)
    mean = sum(replicates) / len(replicates)
    squares = sum((replicate - mean) ** 2 for replicate in replicates)
    expected = math.sqrt((1 - 1 / len(prompts)) * squares) if len(prompts) > 1 else math.nan
    got = estimate_distinct(rows, n, groups)
    assert got.value == pytest.approx(oracle.distinct(rows, n), rel=1e-15, nan_ok=True)
    assert got.stderr == pytest.approx(expected, rel=1e-9, abs=1e-14, nan_ok=True)


def test_the_jackknife_knows_how_far_distinct_varies_from_corpus_to_corpus():
    rng = np.random.default_rng(0)
    said = []
    for _ in range(150):
        rows = Ragged.from_lengths((300 * rng.random(4000) ** 2).astype(int), np.full(400, 10))
        said.append(estimate_distinct(rows, 2, 4 * np.arange(101)))
    spread = np.std([estimate.value for estimate in said])
    assert 0.7 < np.mean([estimate.stderr for estimate in said]) / spread < 1.5


def test_across_every_prompt_keeps_its_share():
    rows, groups, weights = generated()
    scaled = weights * np.repeat(10.0 ** np.arange(12), 5)
    relative = np.concatenate([w / w.sum() for w in np.split(weights, groups[1:-1])])
    for name, estimate in by_name(estimate_diversity(rows, groups, scaled)).items():
        if name in METRICS and estimate.across is not None:
            assert estimate.across == pytest.approx(METRICS[name](rows, None, relative)[0], rel=1e-9)


def test_repetition_is_of_completions_that_have_ngrams():
    rows = Ragged.from_rows([[1, 1, 1, 1], [1], [2], [3, 3, 3], [1, 2, 3], [4, 4, 4, 4, 4]])
    got = by_name(estimate_diversity(rows, [0, 2, 3, 6]))["repetition-3"]
    check(got, [0.5, math.nan, (0 + 0 + 2 / 3) / 3])
    assert got.across == pytest.approx((0.5 + 2 / 3) / 4)
    weighted = by_name(estimate_diversity(rows, [0, 2, 3, 6], [1, 5, 1, 0, 1, 3]))["repetition-3"]
    check(weighted, [0.5, math.nan, 0.75 * 2 / 3])
    # Prompts have 2, 1 and 3 completions, so weights across are 1/3, 5/3, 1, 0, 3/4, 9/4.
    assert weighted.across == pytest.approx((0.5 / 3 + 2 / 3 * 9 / 4) / (1 / 3 + 3))


def test_intervals_are_those_of_prompts():
    rows, groups, _ = generated()
    for name, estimate in by_name(estimate_diversity(rows, groups)).items():
        assert estimate.interval.low <= estimate.within.value <= estimate.interval.high
        if name in METRICS:
            values = METRICS[name](rows, groups, None)
            low, high, assumes = confidence_interval(values, np.arange(len(values) + 1))
            most = math.inf if name in UNBOUNDED else 1.0
            least = 1.0 if name == "vendi-2" else 0.0
            assert estimate.interval == (max(low, least), min(high, most), assumes)


def test_intervals_end_where_the_metric_does():
    rows = Ragged.from_rows([*[[3 * i, 3 * i + 1, 3 * i + 2] for i in range(14)], [1, 1, 1], [2, 2, 2]])
    estimates = by_name(estimate_diversity(rows, np.arange(0, 17, 2)))
    values = distinct(rows, 1, np.arange(0, 17, 2))
    assert confidence_interval(values, np.arange(9)).high > 1
    assert estimates["distinct-1"].interval.high == 1
    assert estimates["repetition-3"].interval.low == 0
    assert estimates["2-gram entropy"].interval.high > 1


@pytest.mark.parametrize("groups", [[0, 1, 2, 3], [0, 3]])
def test_one_completion_a_prompt_and_one_prompt_have_values_where_there_are_any(groups):
    rows = Ragged.from_rows([[1, 2, 3, 1, 2, 3], [1, 2, 3], [4]])
    estimates = by_name(estimate_diversity(rows, groups))
    singles = len(groups) > 2
    assert estimates["distinct-2 of 2"].left_out == (3 if singles else 0)
    assert estimates["self-bleu-4 (method1)"].left_out == (3 if singles else 0)
    assert estimates["distinct-2"].left_out == (1 if singles else 0)
    assert estimates["distinct-2"].across == 3 / 7
    assert math.isnan(estimates["distinct-2"].within.stderr) != singles


def test_weights_of_0_leave_prompts_out_and_none_at_all_says_nothing():
    rows, groups, weights = generated()
    weights[:5] = 0
    for estimate in estimate_diversity(rows, groups, weights):
        assert estimate.left_out == 1
    for estimate in estimate_diversity(rows, groups, np.zeros(len(rows))):
        assert estimate.left_out == 12
        assert math.isnan(estimate.within.value)
        assert estimate.across is None or math.isnan(estimate.across)


@pytest.mark.parametrize("scales", [[1e300, 1e-300], [5e-324, 1.7e308], [1e-310, 1.0]])
def test_weights_are_relative_to_their_prompt_at_any_scale(scales):
    rows, groups, _ = generated(prompts=2)
    got = estimate_diversity(rows, groups, np.repeat(scales, 5))
    for estimate, expected in zip(got, estimate_diversity(rows, groups, np.ones(10)), strict=True):
        assert estimate.within == pytest.approx(expected.within, rel=1e-12)
        across = (estimate.across, expected.across)
        assert across == (None, None) or across[0] == pytest.approx(across[1], rel=1e-12)


def test_an_interval_holds_what_a_metric_can_be_and_says_of_how_many_prompts():
    rows = Ragged.from_rows([[4, 81, 73, 18, 61], [2, 92, 71, 31], [5], [14, 51, 89, 92, 26, 6], [1]])
    low, high, assumes = by_name(estimate_diversity(rows, [0, 3, 5]))["vendi-2"].interval
    assert low == 1 < high
    assert assumes.startswith("2 prompts are independent")
    alone = by_name(estimate_diversity(rows, [0, 5]))["vendi-2"].interval
    assert math.isnan(alone.low)
    assert alone.assumes == "1 prompt with a value: no interval"
    alike = by_name(estimate_diversity(rows, [0, 2, 4, 5]))["repetition-3"].interval
    assert alike == (0.0, 0.0, "2 prompts are all alike, which does not show how others would differ")


def test_the_vendi_score_can_be_left_out_and_large_prompts_are():
    rows, groups, _ = generated()
    assert "vendi-2" not in by_name(estimate_diversity(rows, groups, vendi=False))
    large = Ragged.from_lengths(np.zeros(4100, int), np.ones(4100, int))
    assert by_name(estimate_diversity(large, [0, 4097, 4100]))["vendi-2"].left_out == 1


def test_subsamples_compare_within_and_across():
    # Completions that know nothing of their prompt: as different within as across.
    rng = np.random.default_rng(0)
    rows = Ragged.from_lengths(rng.integers(0, 9, 12_000), np.full(4000, 3))
    groups = np.arange(0, 4001, 8)
    got = by_name(estimate_diversity(rows, groups, subsample=4, vendi=False))["distinct-2 of 4"]
    assert abs(got.within.value - got.across) < 4 * got.within.stderr
    expected = [oracle_diversity.rarefied(rows.take(np.arange(a, b)), 2, 4) for a, b in itertools.pairwise(groups[:20])]
    assert rarefied_distinct(rows.take(np.arange(152)), 2, 4, groups[:20]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rows: estimate_diversity(rows, [0, 3]), "groups ends at 3"),
        (lambda rows: estimate_diversity(rows, [0, 2], subsample=0), "subsample is 0"),
        (lambda rows: estimate_diversity(rows, [0, 2], [1, 1], subsample=9), "subsample is 9"),
        (lambda rows: estimate_diversity(rows, [0, 2], [1, math.nan]), r"weights\[1\] is nan"),
        (lambda rows: estimate_diversity(rows, [0, 2], [1, -1]), r"weights\[1\] is -1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(Ragged.from_rows([[1, 2], [3]]))


@given(tokens(), st.data())
def test_the_bias_of_pairs_is_that_of_leaving_each_completion_out(rows, data):
    groups = data.draw(groups_over(len(rows)))
    weights = np.array(data.draw(st.lists(st.sampled_from([0.5, 1.0, 2.5]), min_size=len(rows), max_size=len(rows))))
    n = data.draw(st.integers(1, 3))
    found = bias_of_pairs(rows, n, weights, np.array(groups))
    for p, (start, stop) in enumerate(itertools.pairwise(groups)):
        size = stop - start
        if size < 4:  # of two that are left, each one's weight is half of all, and of fewer there are no pairs
            continue
        whole = distinct_of_two(rows, n, weights, range(start, stop))
        without = [
            distinct_of_two(rows, n, weights, [i for i in range(start, stop) if i != left])
            for left in range(start, stop)
        ]
        expected = sum(whole if value is None else value for value in without) / size - whole if whole else 0.0
        assert found[p] == pytest.approx((size - 1) * expected, abs=1e-9)


def distinct_of_two(rows, n, weights, chosen):
    """Different n-grams over all, of two completions; `None` if there are none."""
    grams = {i: [tuple(rows[i][k : k + n]) for k in range(len(rows[i]) - n + 1)] for i in chosen}
    pairs = list(itertools.combinations(chosen, 2))
    different = sum(weights[i] * weights[j] * len({*grams[i], *grams[j]}) for i, j in pairs)
    every = sum(weights[i] * weights[j] * (len(grams[i]) + len(grams[j])) for i, j in pairs)
    return different / every if every else None


def test_ids_of_any_size_have_their_bias():
    """So large that two of them and the group do not fit into an integer."""
    rng = np.random.default_rng(1)
    small = Ragged.from_rows(rng.integers(0, 3, size=(12, 5)).tolist())
    large = Ragged((small.values.astype(np.uint64) * 2**31 - (small.values == 2)).astype(np.uint32), small.offsets)
    weights, groups = rng.random(12), np.array([0, 5, 12])
    found = bias_of_pairs(large, 3, weights, groups)
    assert found == pytest.approx(bias_of_pairs(small, 3, weights, groups), rel=1e-12)
    assert (found != 0).all()
