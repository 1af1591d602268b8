import itertools
import warnings
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

import oracle
from esscher import Ragged, distinct, self_bleu, top_ngrams
from strategies import groups_over, tokens

orders = st.integers(1, 5)
smoothings = st.sampled_from(["none", "method1"])


def nltk_self_bleu(rows, n, smoothing):
    """Mean of NLTK's sentence_bleu of each row against all others."""
    smooth = {"none": None, "method1": SmoothingFunction().method1}[smoothing]
    rows = [row.tolist() for row in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NLTK warns where a precision is 0
        scores = [
            sentence_bleu(rows[:i] + rows[i + 1 :], row, weights=(1 / n,) * n, smoothing_function=smooth)
            for i, row in enumerate(rows)
        ]
    return float(np.mean(scores))


@given(tokens(), orders)
def test_distinct_counts(rows, n):
    assert distinct(rows, n)[0] == pytest.approx(oracle.distinct(rows, n), rel=1e-15, nan_ok=True)


@given(st.data(), st.lists(orders, max_size=4))
def test_several_orders_at_once_are_those_of_each(data, several):
    rows = data.draw(tokens())
    groups = data.draw(groups_over(len(rows)))
    got = distinct(rows, several, groups)
    assert got.shape == (len(several), len(groups) - 1)
    for n, shares in zip(several, got, strict=True):
        assert np.array_equal(shares, distinct(rows, n, groups), equal_nan=True)


@given(tokens(max_rows=6, max_length=200))
def test_each_completion_can_be_its_own_group(rows):
    got = distinct(rows, range(1, 6), np.arange(len(rows) + 1))
    expected = [[oracle.distinct([row], n) for row in rows] for n in range(1, 6)]
    assert got == pytest.approx(np.array(expected).reshape(5, -1), rel=1e-15, nan_ok=True)


def zipf(seed, completions, longest, vocabulary, copied=0.3):
    """Completions of random lengths with frequent and rare tokens, some of which repeat what came before."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, completions)
    cumulative = np.cumsum(1 / (np.arange(vocabulary) + 2.7))
    ids = np.searchsorted(cumulative, rng.random(lengths.sum()) * cumulative[-1]).astype(np.uint32)
    for _ in range(int(copied * completions)):
        length = rng.integers(1, longest)
        source, target = rng.integers(0, len(ids) - length, 2)
        ids[target : target + length] = ids[source : source + length]
    return Ragged.from_lengths(ids, lengths)


def large_ids(rows):
    return Ragged(2**32 - 1 - rows.values * np.uint32(2_000_003), rows.offsets)


def constant_rows(completions, length):
    return Ragged.from_lengths(np.full(completions * length, 7, np.uint32), np.full(completions, length))


def heavy_bigram(completions):
    """Most windows start with the same two tokens, and then differ."""
    rows = np.full((completions, 3), 2**32 - 1)
    rows[:, 2] = np.arange(completions) // 2
    return Ragged.from_lengths(rows.ravel(), np.full(completions, 3))


LARGE = {
    "frequent and rare tokens": zipf(0, 1500, 80, 3000),
    "few tokens": zipf(1, 900, 60, 3, copied=0),
    "ids up to the largest": large_ids(zipf(2, 500, 90, 2000)),
    "all tokens equal": constant_rows(300, 70),
    "one long completion": Ragged.from_lengths(zipf(3, 1900, 100, 9).values[:90_000], [90_000]),
    "completions of one token": Ragged.from_lengths(np.arange(100_000) % 70_000, np.ones(100_000, dtype=np.int64)),
    "one bigram everywhere": heavy_bigram(30_000),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_groups_count_exactly(name):
    rows = LARGE[name]
    assert len(rows.values) > 2**14
    expected = [[oracle.distinct(rows, n)] for n in range(1, 6)]
    assert distinct(rows, range(1, 6)) == pytest.approx(np.array(expected), rel=1e-15, nan_ok=True)
    for n in (1, 2, 4):
        top = top_ngrams(rows, n, 50)
        got = [(tuple(ids), count) for ids, count in zip(top.token_ids.tolist(), top.counts.tolist(), strict=True)]
        assert got == oracle.top_ngrams(rows, n, 50)


@pytest.mark.parametrize(("n", "smoothing"), [(1, "none"), (4, "method1")])
@pytest.mark.parametrize("name", LARGE)
def test_large_groups_match_exactly(name, n, smoothing):
    expected = oracle.fast_self_bleu(LARGE[name], n, smoothing)
    assert self_bleu(LARGE[name], n, smoothing=smoothing)[0] == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(tokens(), orders, smoothings)
def test_the_faster_oracle_of_self_bleu_equals_the_obvious_one(rows, n, smoothing):
    expected = oracle.self_bleu(rows, n, smoothing)
    assert oracle.fast_self_bleu(rows, n, smoothing) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("threads", [2, 5, 16])
@pytest.mark.parametrize("groups", [None, np.array([0, 3, 3, 400, 401, 450, 1500])])
def test_threads_change_no_bit_of_large_groups(threads, groups):
    rows = LARGE["frequent and rare tokens"]
    for metric in (lambda **kwargs: distinct(rows, [3, 1], groups, **kwargs), partial(self_bleu, rows, 4, groups)):
        assert np.array_equal(metric(threads=threads), metric(threads=1), equal_nan=True)


@given(tokens(), orders, smoothings)
def test_self_bleu_equals_its_definition(rows, n, smoothing):
    expected = oracle.self_bleu(rows, n, smoothing)
    assert self_bleu(rows, n, smoothing=smoothing)[0] == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(tokens(max_rows=5, max_length=8), st.integers(2, 5), smoothings)
def test_self_bleu_equals_nltk_on_generated_tokens(rows, n, smoothing):
    if len(rows) > 1:
        assert self_bleu(rows, n, smoothing=smoothing)[0] == pytest.approx(
            nltk_self_bleu(rows, n, smoothing), abs=1e-12
        )


@pytest.mark.parametrize("smoothing", ["none", "method1"])
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_self_bleu_equals_nltk_on_real_text(real_text, n, smoothing):
    assert len(real_text) >= 40
    got = self_bleu(real_text, n, smoothing=smoothing)[0]
    assert got == pytest.approx(nltk_self_bleu(real_text, n, smoothing), abs=1e-12)
    assert 0.01 < self_bleu(real_text, 2, smoothing="method1")[0] < 0.99


@given(st.data(), orders, smoothings, st.integers(1, 8))
def test_groups_are_separate_and_threads_change_no_bit(data, n, smoothing, threads):
    rows = data.draw(tokens())
    groups = data.draw(groups_over(len(rows)))
    metrics = [
        lambda rows, groups, threads: distinct(rows, n, groups, threads=threads),
        lambda rows, groups, threads: self_bleu(rows, n, groups, smoothing, threads=threads),
    ]
    for metric in metrics:
        got = metric(rows, groups, threads)
        alone = [metric(rows.take(np.arange(a, b)), None, 1)[0] for a, b in itertools.pairwise(groups)]
        assert np.array_equal(got, alone, equal_nan=True)


@given(tokens(), orders, st.integers(1, 6))
def test_top_ngrams_are_those_of_a_counter(rows, n, k):
    top = top_ngrams(rows, n, k)
    got = [(tuple(ids), count) for ids, count in zip(top.token_ids.tolist(), top.counts.tolist(), strict=True)]
    assert got == oracle.top_ngrams(rows, n, k)


def test_every_token_id_is_legal():
    rows = Ragged.from_rows([[0, 2**32 - 1, 0, 2**32 - 1]])
    assert distinct(rows, 2).tolist() == [2 / 3]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda rows: distinct(rows, 0), ValueError, "n is 0: an n-gram has at least 1 token"),
        (lambda rows: distinct(rows, [2, -1]), ValueError, "n is -1: an n-gram has at least 1 token"),
        (lambda rows: distinct(rows, 1.5), TypeError, "cannot be interpreted as an integer"),
        (lambda rows: distinct(rows, 1, threads=0), ValueError, "threads is 0"),
        (lambda rows: self_bleu(rows, 0), ValueError, "n is 0"),
        (lambda rows: top_ngrams(rows, 2, 0), ValueError, "k is 0: ask for at least 1"),
        (lambda rows: distinct(rows, 2, [0, 5]), ValueError, "groups ends at 5"),
        (lambda rows: self_bleu(rows, smoothing="floor"), ValueError, 'smoothing is "floor": it must be one of'),
        (lambda rows: distinct(Ragged(rows.values + 0.5, rows.offsets), 1), TypeError, "token_ids has dtype float64"),
        (lambda rows: distinct(Ragged(rows.values - 2, rows.offsets), 1), ValueError, "token_ids: token 0 is -1"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(Ragged.from_rows([[1, 2, 3]]))
