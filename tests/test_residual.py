"""Residual resampling: copies without chance, and the rest drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esscher.inference.resampling import resample
from strategies import log_weight

WEIGHTS = np.array([0.1, 0.0, 0.63, 0.27, 0.25, 0.75, 1.0])
GROUPS = np.array([0, 4, 6, 7])
LOG_WEIGHTS = np.log(WEIGHTS, out=np.full(7, -np.inf), where=WEIGHTS > 0)


def draw(log_weights, size, seed=0, groups=None):
    return resample(log_weights, size, np.random.default_rng(seed), scheme="residual", groups=groups)


def test_expected_counts_are_size_times_the_weights():
    size, rounds = 7, 20_000
    rng = np.random.default_rng(1)
    counts = np.zeros((rounds, 7))
    for row in counts:
        row += np.bincount(resample(LOG_WEIGHTS, size, rng, scheme="residual", groups=GROUPS), minlength=7)
    certain = np.floor(size * WEIGHTS)
    assert (counts >= certain).all()
    # What is drawn is multinomial from the residuals, group by group.
    residuals = size * WEIGHTS - certain
    drawn = np.add.reduceat(residuals, GROUPS[:-1])[np.repeat([0, 1, 2], np.diff(GROUPS))]
    shares = np.divide(residuals, drawn, out=np.zeros(7), where=drawn > 0.5)
    variances = drawn * shares * (1 - shares)
    assert (np.abs(counts.mean(axis=0) - size * WEIGHTS) <= 5 * np.sqrt(variances / rounds) + 1e-12).all()
    # A variance of bounded counts is within a few percent after so many rounds.
    assert counts.var(axis=0) == pytest.approx(variances, rel=0.05, abs=1e-12)
    assert (variances[[0, 2, 3]] < (size * WEIGHTS * (1 - WEIGHTS))[[0, 2, 3]]).all()


@given(st.lists(log_weight, min_size=1, max_size=9).filter(lambda w: max(w) > -np.inf), st.integers(1, 30))
def test_every_group_gets_its_draws_and_the_certain_copies(log_weights, size):
    groups = np.array([0, len(log_weights), len(log_weights) + 2])
    drawn = draw([*log_weights, 0.0, 1.0], size, groups=groups)
    assert len(drawn) == 2 * size
    assert (drawn[:size] < len(log_weights)).all()
    assert (drawn[size:] >= len(log_weights)).all()
    shares = np.exp(np.array(log_weights) - max(log_weights))
    expected = size * shares / shares.sum()
    counts = np.bincount(drawn[:size], minlength=len(log_weights))
    assert (counts >= np.floor(expected * (1 - 1e-9))).all()
    assert (counts[np.array(log_weights) == -np.inf] == 0).all()


@pytest.mark.parametrize("n", [3, 7, 10, 49])
@pytest.mark.parametrize("shift", [0.0, -1234.5])
def test_whole_copies_are_certain_whatever_the_rounding(n, shift):
    """``n * exp(log(1 / n))`` may round below 1: that is a copy all the same."""
    assert draw(np.full(n, shift), n).tolist() == list(range(n))
    assert draw(np.full(n, shift), 2 * n).tolist() == np.repeat(range(n), 2).tolist()


def test_nothing_to_draw_from():
    assert len(draw([], 3, groups=[0])) == 0
    for bad, message in (([0.0, -np.inf], "group 1 has no weight"), ([0.0, np.nan], r"log_weights\[1\] is NaN")):
        with pytest.raises(ValueError, match=message):
            draw(bad, 2, groups=[0, 1, 2])
    with pytest.raises(ValueError, match="size is 0"):
        draw([0.0], 0)
