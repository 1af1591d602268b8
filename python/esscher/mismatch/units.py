"""Columns in another unit than nats of log-probability: negated, probabilities, running sums, another base."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from esscher.mismatch.values import FILLERS, POSITIVE
from esscher.ragged import Ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.mismatch.alignment import Pairs

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

Shape = Literal["negated", "probabilities", "running-sums"]
# Where a value has the wrong sign, or a sum goes the wrong way, in no more than this share, it was filled in.
NEARLY_ALL = 0.85
# Fewer values or steps than this have one sign by chance.
FEWEST_VALUES = 8
# Another unit must bring a column's quantiles this much nearer to the other's.
UNIT_GAIN = 0.5
QUANTILES = np.linspace(0.02, 0.98, 49)
# The other fifth is left to values that were filled in, and to wrong ends.
COMPARED_QUANTILES = 0.8
# A float32 0 has no logarithm; probabilities this near above 1 are rounded.
ROUNDED_ONE = 1e-3
# Ratios of smaller log-probs are ruled by rounding.
SMALLEST = 0.05
# A ratio nearer to 1 than this is not worth a name.
SMALLEST_RATIO = 0.02
# A finding must be this many of its standard errors away from nothing: 1 in 3.5 million if errors are normal, which
# leaves room for their being neither normal nor independent.
SIGMAS = 5.0
# Of thirds by size, from the likely to the unlikely, all must have the ratio up to this share of its logarithm: after
# a sampling temperature, which renormalises, likely tokens move the other way.
THIRDS_ALIKE = 0.1
# For normal errors: a standard deviation from a median of absolute values, and a median's standard error from a mean's.
MAD_TO_SD, MEDIAN_TO_MEAN = 1.4826, 1.2533
# Quantiles of two columns of one unit are in a ratio nearer to 1 than this.
CLEAR_RATIO = 1.2
# 1 / ln 2 is 1 % from 1 / 0.7: it is a base if nearer to it than to any round temperature.
BASES = {2: math.log(2), 10: math.log(10)}
ROUND_TEMPERATURE, BASE_TOLERANCE = 0.05, 5e-3


class Scale(NamedTuple):
    """One ratio l_rollout / l_train of all tokens, and the base of the logarithm that it tells, if any."""

    ratio: float
    stderr: float
    base: int | None

    @property
    def in_train(self) -> bool:
        """Whether it is the trainer's column that is in another unit: a log-prob is its base's logarithm in nats."""
        return self.base is not None and (self.ratio > 1) == (BASES[self.base] > 1)


def find_shapes(column: Ragged, other: Ragged) -> tuple[Ragged, tuple[Shape, ...]]:
    """Return a column as log-probs, and what it was instead, outermost first."""
    readings = {(): column, **_readings(column)}
    distances = {shapes: _distance(read.values, other.values) for shapes, read in readings.items()}
    best = min(distances, key=lambda shapes: distances[shapes])
    if distances[best] <= UNIT_GAIN * distances[()]:
        return readings[best], best
    return column, ()


def _readings(column: Ragged) -> dict[tuple[Shape, ...], Ragged]:
    """Return the readings that a column's values allow."""
    found: dict[tuple[Shape, ...], Ragged] = {}
    sums = _without_sums(column)
    if sums is not None:
        found["running-sums",] = sums
    values = column.values[_usual(column.values) & (column.values != 0)]
    if len(np.unique(values)) < FEWEST_VALUES or (values > 0).mean() < NEARLY_ALL:
        return found
    negated = Ragged(-column.values, column.offsets)
    found["negated",] = negated
    sums = _without_sums(negated)
    if sums is not None:
        found["negated", "running-sums"] = sums
    if (values <= 1 + ROUNDED_ONE).mean() >= NEARLY_ALL:
        found["probabilities",] = Ragged(_log(column.values), column.offsets)
    return found


def _usual(values: Floats) -> Mask:
    usual: Mask = np.isfinite(values) & ~np.isin(values, FILLERS)
    return usual


def _log(values: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        logs: Floats = np.log(values)
    return np.where((logs > 0) & (logs <= ROUNDED_ONE), 0.0, logs)


def _without_sums(column: Ragged) -> Ragged | None:
    """Return what was summed along the rows, from their start or to their end, if sums never rise but by accident."""
    if not len(column.values):
        return None
    values = np.where(_usual(column.values) & (column.values <= POSITIVE), column.values, np.nan)
    first, last = np.zeros((2, len(values)), np.bool_)
    full = column.lengths > 0
    first[column.offsets[:-1][full]] = last[column.offsets[1:][full] - 1] = True
    for end, before in ((first, np.roll(values, 1)), (last, np.roll(values, -1))):
        steps = values - np.where(end, 0.0, before)
        inner = steps[~end & ~np.isnan(steps)]
        if len(inner) >= FEWEST_VALUES and (inner <= 0).mean() >= NEARLY_ALL:
            return Ragged(steps, column.offsets)
    return None


def _distance(values: Floats, other: Floats) -> float:
    """Return how far apart two columns' quantiles are, whichever token is where; infinite if there are none."""
    columns = [column[_usual(column)] for column in (values, other)]
    if not all(map(len, columns)):
        return math.inf
    one, two = (np.quantile(column, QUANTILES) for column in columns)
    return float(np.sort(np.abs(one - two))[: round(COMPARED_QUANTILES * len(QUANTILES))].mean())


def marginal_ratio(train: Ragged, rollout: Ragged) -> float:
    """Return by which factor the rollout's quantiles exceed the trainer's, in the median; 1 if that is not clear."""
    columns = [column.values[column.values <= 0] for column in (train, rollout)]
    if min(map(len, columns)) < FEWEST_VALUES:
        return 1.0
    one, two = (np.quantile(column, QUANTILES) for column in columns)
    large = np.maximum(one, two) < -SMALLEST
    ratio = float(np.median(two[large] / one[large])) if large.any() else 1.0
    return ratio if not 1 / CLEAR_RATIO < ratio < CLEAR_RATIO else 1.0


def find_scale(pairs: Pairs) -> Scale | None:
    """Return the one ratio that all tokens have, if it is not 1."""
    # Of one sign, and neither so small that rounding rules their ratio.
    large = (pairs.train * pairs.rollout > 0) & (np.maximum(np.abs(pairs.train), np.abs(pairs.rollout)) > SMALLEST)
    train, rollout = pairs.train[large], pairs.rollout[large]
    if len(train) < FEWEST_VALUES:
        return None
    ratios = rollout / train
    weights = np.sqrt(train * rollout)
    ratio, stderr = _median(ratios, weights)
    size = abs(math.log(ratio))
    if size < max(SMALLEST_RATIO, SIGMAS * stderr / ratio):
        return None
    for third in np.array_split(np.argsort(weights), 3):
        one, error = _median(ratios[third], weights[third])
        if abs(math.log(one / ratio)) > THIRDS_ALIKE * size + 3 * error / ratio or SIGMAS * error > size * ratio:
            return None
    left = np.abs(rollout - ratio * train)
    if np.median(left) > UNIT_GAIN * np.median(np.abs(rollout - train)):
        return None
    return Scale(ratio, stderr, _base(ratio, stderr))


def _median(ratios: Floats, weights: Floats) -> tuple[float, float]:
    """Return the weighted median and its standard error: a ratio of larger numbers is the more exact."""
    order = np.argsort(ratios)
    cumulative = np.cumsum(weights[order])
    median = float(ratios[order][np.searchsorted(cumulative, 0.5 * cumulative[-1])])
    left = weights * (ratios - median)
    return median, MEDIAN_TO_MEAN * MAD_TO_SD * float(np.median(np.abs(left))) / math.sqrt(float(weights @ weights))


def _base(ratio: float, stderr: float) -> int | None:
    """Return the base that a ratio tells, unless a round temperature is as near."""
    size = abs(math.log(ratio))
    tau = 1.0 / ratio
    round_tau = ROUND_TEMPERATURE * max(1, round(tau / ROUND_TEMPERATURE))
    for base, log in BASES.items():
        apart = abs(size - abs(math.log(log)))
        if apart <= BASE_TOLERANCE + 3 * stderr / ratio and apart < abs(math.log(tau / round_tau)):
            return base
    return None
