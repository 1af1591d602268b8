import itertools
import warnings

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
        (lambda rows: self_bleu(rows, 0), ValueError, "n is 0"),
        (lambda rows: top_ngrams(rows, 2, 0), ValueError, "k is 0: ask for at least 1"),
        (lambda rows: distinct(rows, 2, [0, 5]), ValueError, "groups ends at 5"),
        (lambda rows: self_bleu(rows, smoothing="exp"), ValueError, 'smoothing is "exp": it must be one of'),
        (lambda rows: distinct(Ragged(rows.values + 0.5, rows.offsets), 1), TypeError, "token_ids has dtype float64"),
        (lambda rows: distinct(Ragged(rows.values - 2, rows.offsets), 1), ValueError, "token_ids: token 0 is -1"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(Ragged.from_rows([[1, 2, 3]]))
