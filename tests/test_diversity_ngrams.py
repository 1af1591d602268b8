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
    distinct,
    ead,
    ngram_entropy,
    ngram_statistics,
    rarefied_distinct,
    repetition,
    top_ngrams,
)
from strategies import groups_over, tokens

orders = st.integers(1, 4)
small = tokens(max_rows=7, max_length=8)


@st.composite
def weighted(draw, rows=small):
    """Rows and their weights: of like size, or small integers, 0 among them."""
    rows = draw(rows)
    weight = st.one_of(st.floats(0.01, 2), st.sampled_from([0.0, 0.0, 1.0, 3.0]))
    return rows, draw(st.lists(weight, min_size=len(rows), max_size=len(rows)))


def ess(weights):
    return sum(weights) ** 2 / sum(w * w for w in weights) if any(weights) else 0.0


def zipf(seed, completions, longest, vocabulary):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, completions)
    ids = (vocabulary * rng.random(lengths.sum()) ** 3).astype(np.uint32)
    ids[: len(ids) // 4] = ids[-(len(ids) // 4) :]
    return Ragged.from_lengths(ids, lengths)


LARGE = zipf(0, 900, 60, 500)


@given(tokens(), orders)
def test_entropy_is_that_of_the_counts(rows, n):
    assert ngram_entropy(rows, n)[0] == pytest.approx(oracle_diversity.entropy(rows, n), abs=1e-13, nan_ok=True)


@given(small, orders, st.integers(1, 8))
def test_rarefied_is_the_mean_over_all_subsets(rows, n, m):
    expected = oracle_diversity.rarefied(rows, n, m)
    assert rarefied_distinct(rows, n, m)[0] == pytest.approx(expected, rel=1e-13, nan_ok=True)


@given(tokens(), orders)
def test_a_subsample_of_all_completions_is_distinct_to_the_last_bit(rows, n):
    if len(rows):
        assert np.array_equal(rarefied_distinct(rows, n, len(rows)), distinct(rows, n), equal_nan=True)


@given(weighted(), orders)
def test_weighted_distinct_and_entropy_are_those_of_the_masses(rows_and_weights, n):
    rows, weights = rows_and_weights
    got = ngram_statistics(rows, [n], weights=weights)
    expected = oracle_diversity.weighted_distinct(rows, n, weights)
    assert got.distinct[0, 0] == pytest.approx(expected, rel=1e-13, nan_ok=True)
    assert np.array_equal(distinct(rows, n, weights=weights), got.distinct[0], equal_nan=True)
    expected = oracle_diversity.entropy(rows, n, weights)
    assert got.entropy[0, 0] == pytest.approx(expected, abs=1e-13, nan_ok=True)


@given(weighted(), orders, st.integers(1, 7))
def test_weighted_rarefied_is_the_mean_over_all_weighted_subsets(rows_and_weights, n, m):
    rows, weights = rows_and_weights
    expected = oracle_diversity.rarefied(rows, n, m, weights) if ess(weights) > m - 1e-9 else math.nan
    assert rarefied_distinct(rows, n, m, weights=weights)[0] == pytest.approx(expected, rel=1e-9, nan_ok=True)


@given(tokens(), orders, st.floats(1e-300, 1e300), st.integers(1, 8))
def test_equal_weights_are_none(rows, n, weight, m):
    got = ngram_statistics(rows, [n], weights=[weight] * len(rows), subsample=m)
    plain = ngram_statistics(rows, [n], subsample=m)
    assert np.array_equal(got.distinct, plain.distinct, equal_nan=True)
    assert got.entropy == pytest.approx(plain.entropy, abs=1e-13, nan_ok=True)
    assert got.rarefied == pytest.approx(plain.rarefied, rel=1e-10, nan_ok=True)


@given(weighted(), orders)
def test_completions_of_weight_0_are_as_if_not_there(rows_and_weights, n):
    rows, weights = rows_and_weights
    kept = [i for i, weight in enumerate(weights) if weight]
    got = ngram_statistics(rows, [n], weights=weights, subsample=2)
    alone = ngram_statistics(rows.take(kept), [n], weights=[weights[i] for i in kept], subsample=2)
    for with_them, without in zip(got, alone, strict=True):
        assert with_them == pytest.approx(without, rel=1e-12, abs=1e-13, nan_ok=True)


@given(weighted(), orders, st.sampled_from([2.0**-900, 2.0**-3, 2.0**700]))
def test_only_ratios_of_weights_matter(rows_and_weights, n, factor):
    rows, weights = rows_and_weights
    got = ngram_statistics(rows, [n], weights=[factor * weight for weight in weights], subsample=2)
    for scaled, as_given in zip(got, ngram_statistics(rows, [n], weights=weights, subsample=2), strict=True):
        assert np.array_equal(scaled, as_given, equal_nan=True)


def test_rarefied_does_not_depend_on_how_many_completions_were_drawn():
    rng = np.random.default_rng(0)
    drawn = Ragged.from_lengths(rng.integers(0, 9, 60_000), np.full(20_000, 3))
    few, many = drawn.take(np.arange(200)), drawn
    assert distinct(few, 2)[0] > 5 * distinct(many, 2)[0]
    assert rarefied_distinct(few, 2, 4)[0] == pytest.approx(rarefied_distinct(many, 2, 4)[0], rel=0.02)


def test_weighted_rarefied_is_that_of_the_target():
    # Completions of one token drawn evenly, weighted to a skewed target: 4 draws of it see so many different tokens.
    rng = np.random.default_rng(0)
    target = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    ids = rng.integers(0, 5, 20_000)
    rows = Ragged.from_lengths(ids, np.ones(len(ids), np.int64))
    expected = (1 - (1 - target) ** 4).sum() / 4
    assert rarefied_distinct(rows, 1, 4, weights=target[ids])[0] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("weights", [None, np.random.default_rng(1).exponential(size=900)])
def test_large_groups_count_exactly(weights):
    assert len(LARGE.values) > 2**14
    for n in (1, 2, 3):
        got = ngram_statistics(LARGE, [n], weights=weights, subsample=2)
        assert got.entropy[0, 0] == pytest.approx(oracle_diversity.entropy(LARGE, n, weights), rel=1e-12)
        expected = oracle_diversity.rarefied(LARGE.take(np.arange(40)), n, 2, None if weights is None else weights[:40])
        one = rarefied_distinct(LARGE, n, 2, [0, 40, 900], weights)
        assert one[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("threads", [2, 3, 16])
@pytest.mark.parametrize("weights", [None, np.random.default_rng(1).exponential(size=900)])
@pytest.mark.parametrize("groups", [None, [0, 3, 3, 400, 900]])
def test_threads_change_no_bit(threads, weights, groups):
    alone = ngram_statistics(LARGE, [3, 1], groups, weights, 3, threads=1)
    for got, expected in zip(ngram_statistics(LARGE, [3, 1], groups, weights, 3, threads=threads), alone, strict=True):
        assert np.array_equal(got, expected, equal_nan=True)


@given(st.data(), orders)
def test_groups_are_separate(data, n):
    rows, weights = data.draw(weighted(tokens()))
    groups = data.draw(groups_over(len(rows)))
    got = ngram_statistics(rows, [n], groups, weights, 2)
    for i, (a, b) in enumerate(itertools.pairwise(groups)):
        alone = ngram_statistics(rows.take(np.arange(a, b)), [n], None, weights[a:b], 2)
        for column, expected in zip(got, alone, strict=True):
            assert np.array_equal(column[:, i], expected[:, 0], equal_nan=True)


def test_no_subsample_no_rarefied():
    assert np.isnan(ngram_statistics(LARGE, [2]).rarefied).all()


def test_where_there_is_no_answer_it_is_nan():
    rows = Ragged.from_rows([[1, 2], [3], [4, 5]])
    got = ngram_statistics(rows, [2], groups=[0, 1, 2, 3, 3], weights=[1, 1, 0], subsample=2)
    assert got.distinct.tolist() == [[1.0, *[pytest.approx(math.nan, nan_ok=True)] * 3]]
    assert np.isnan(got.entropy[0]).tolist() == [False, True, True, True]
    assert np.isnan(got.rarefied).all()


@given(tokens(max_rows=6), orders)
def test_repetition_is_the_share_of_ngrams_seen_before(rows, n):
    # As TRL 1.16 computes it in trl/rewards/other_rewards.py, where a completion has n-grams: minus the reward at
    # max_penalty = -1.
    for row, got in zip(rows, repetition(rows, n), strict=True):
        grams = oracle.ngrams(row, n)
        expected = 1 - len(set(grams)) / len(grams) if grams else math.nan
        assert got == pytest.approx(expected, abs=1e-15, nan_ok=True)


@given(st.data(), orders, st.integers(1, 50_000))
def test_ead_is_its_formula(data, n, vocabulary):
    rows = data.draw(tokens())
    groups = data.draw(groups_over(len(rows)))
    got = ead(rows, n, vocabulary, groups)
    for a, b, value in zip(groups[:-1], groups[1:], got, strict=True):
        grams = [gram for row in rows.take(np.arange(a, b)) for gram in oracle.ngrams(row, n)]
        expected = vocabulary * (1 - ((vocabulary - 1) / vocabulary) ** len(grams))
        assert value == pytest.approx(len(set(grams)) / expected if grams else math.nan, rel=1e-9, nan_ok=True)


@given(weighted(tokens()), orders, st.integers(1, 6))
def test_top_ngrams_weigh_most(rows_and_weights, n, k):
    rows, weights = rows_and_weights
    weights = [round(64 * weight) / 64 for weight in weights]  # sums without rounding, so that ties are ties
    most = 2.0 ** math.ceil(math.log2(max([*weights, 1.0])))
    weights = [*weights[:-1], most] if weights else weights
    top = top_ngrams(rows, n, k, weights)
    got = list(zip(map(tuple, top.token_ids.tolist()), top.counts.tolist(), top.weights.tolist(), strict=True))
    assert got == oracle_diversity.top_ngrams(rows, n, k, weights)


def test_top_ngrams_of_a_large_group_weigh_most():
    weights = np.random.default_rng(2).integers(0, 9, len(LARGE)).astype(float)
    weights[0] = 16.0
    top = top_ngrams(LARGE, 2, 300, weights)
    got = list(zip(map(tuple, top.token_ids.tolist()), top.counts.tolist(), top.weights.tolist(), strict=True))
    assert got == oracle_diversity.top_ngrams(LARGE, 2, 300, weights)
    assert top_ngrams(LARGE, 2, 5).weights is None


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda rows: ngram_statistics(rows, [0]), ValueError, "n is 0: an n-gram has at least 1 token"),
        (lambda rows: rarefied_distinct(rows, 1, 0), ValueError, "subsample is 0: draw at least 1 completion"),
        (
            lambda rows: rarefied_distinct(rows, 1, 9, weights=[1, 1]),
            ValueError,
            "subsample is 9: it must be at most 8",
        ),
        (lambda rows: distinct(rows, 1, weights=[1, -2]), ValueError, r"weights\[1\] is -2: a weight is finite and at"),
        (lambda rows: distinct(rows, 1, weights=[math.nan, 1]), ValueError, r"weights\[0\] is NaN: a weight is"),
        (lambda rows: top_ngrams(rows, 1, 1, [math.inf, 1]), ValueError, r"weights\[0\] is inf: a weight is finite"),
        (
            lambda rows: distinct(rows, 1, weights=[1]),
            ValueError,
            "weights has shape .1,.: give one weight for each of",
        ),
        (lambda rows: distinct(rows, 1, weights=["a", "b"]), TypeError, "weights has dtype <U1: weights are numbers"),
        (lambda rows: ead(rows, 1, 0), ValueError, "vocabulary_size is 0: a vocabulary has at least 1 entry"),
        (lambda rows: ead(rows, 1, math.nan), ValueError, "vocabulary_size is nan: a vocabulary has at least 1 entry"),
        (lambda rows: repetition(rows, 0), ValueError, "n is 0"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(Ragged.from_rows([[1, 2, 3], [1]]))
