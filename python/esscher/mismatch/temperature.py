"""A sampling temperature that one engine knows of and the other does not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.mismatch.kept_mass import mean_mass
from esscher.mismatch.units import MAD_TO_SD, SIGMAS
from esscher.mismatch.values import LOUD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.groups import Groups
    from esscher.mismatch.alignment import Pairs
    from esscher.mismatch.findings import Column

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]
    Mask = NDArray[np.bool_]

# Two tokens of one context tell a slope only if their log-probs differ.
FEWEST_CONTEXT_PAIRS, SMALLEST_GAP = 6, 0.1
# Log-probs of one token in one context, from two batches of a float32 engine, agree within this.
SAME_TOKEN = 1e-3
# A temperature nearer to 1 than this is not worth a name; a line must explain half of what it is fitted to.
SMALLEST_SLOPE, EXPLAINED = 0.01, 0.5
# Sampling temperatures outside this range are not used in practice: such a slope has another cause.
LOWEST_TAU, HIGHEST_TAU = 0.05, 20.0
# Without contexts: a temperature moves the unlikely fifth of tokens one way and the others the other way. Truncation
# moves all one way, noise half of each; real temperatures give 0.3 to 0.8 here, the others less than 0.1. A low one
# leaves fewer unlikely tokens, so a twentieth is tried too; but of those that noise made the least likely, more moved
# down than half.
UNLIKELY_AND_APART, FEWEST_MOVED = ((0.2, 0.25), (0.05, 0.5)), 50
# The ratio l_rollout / l_train is bounded by 1 / tau; its outermost 2 % are left to noise. Only of tokens this
# unlikely, since rounding rules the ratio of small numbers.
OUTERMOST, RATIO_BELOW = 0.02, -1.0


class Contexts(NamedTuple):
    """Tokens that were drawn in one context, two by two: what is common to a context drops out of their differences.

    ``train`` is the difference of the two l_train, ``moved`` that of the two l_rollout - l_train.
    """

    train: Floats
    moved: Floats
    tolerance: Floats


class Temperature(NamedTuple):
    """Sampling temperature of the rollout relative to the trainer.

    ``bound`` says that the truth is farther from 1: contexts were not known. ``column`` is whose log-probs have it.
    """

    tau: float
    stderr: float
    bound: bool
    column: Column
    pairs: int


def within_contexts(pairs: Pairs, groups: Groups, tolerance: Floats) -> Contexts:
    """Pair tokens that were drawn in one context: first tokens of a prompt's completions, and on while these agree."""
    found = [Contexts(*np.zeros((3, 0)))]
    context = groups.of.copy()
    by_place = np.argsort(pairs.place, kind="stable")
    starts = np.searchsorted(pairs.place[by_place], np.arange(int(pairs.place.max(initial=-1)) + 2))
    alive = np.ones(len(context), np.bool_)
    for place in range(len(starts) - 1):
        here = by_place[starts[place] : starts[place + 1]]
        here = here[alive[pairs.row[here]]]
        order = here[np.lexsort((pairs.train[here], context[pairs.row[here]]))]
        ids = context[pairs.row[order]]
        found.append(_context_pairs(pairs, order, ids, tolerance))
        alive[:] = False
        if len(order) < 2:
            break
        apart = (np.diff(ids) != 0) | (np.diff(pairs.train[order]) > SAME_TOKEN)
        context[pairs.row[order]] = np.concatenate([[0], np.cumsum(apart)])
        together = np.bincount(context[pairs.row[order]]) > 1
        alive[pairs.row[order]] = together[context[pairs.row[order]]]
    return Contexts(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


def _context_pairs(pairs: Pairs, order: Integers, ids: Integers, tolerance: Floats) -> Contexts:
    """Pair each token of a context, in order of log-prob, with the one half the context further on."""
    _, first, sizes = np.unique(ids, return_index=True, return_counts=True)
    half = np.repeat((sizes + 1) // 2, sizes)
    partner = np.arange(len(ids)) + half
    has_one = partner < np.repeat(first + sizes, sizes)
    low, high = order[has_one], order[partner[has_one]]
    apart = pairs.train[high] - pairs.train[low]
    wide = apart >= SMALLEST_GAP
    moved = pairs.difference[high] - pairs.difference[low]
    return Contexts(apart[wide], moved[wide], (tolerance[low] + tolerance[high])[wide])


def temperature(pairs: Pairs, groups: Groups, contexts: Contexts, tolerance: Floats) -> Temperature | None:
    """Return the rollout's temperature relative to the trainer's, if it is not 1.

    In one context ``l_rollout = l_train / tau - const``: tokens of one context lie on a line with slope 1 / tau.
    Between contexts the constant differs, and only a bound is left: ``l_rollout / l_train`` is at most 1 / tau for
    tau < 1, and at least that for tau > 1.
    """
    found = _temperature(pairs, groups, contexts, tolerance)
    return found if found is not None and LOWEST_TAU <= found.tau <= HIGHEST_TAU else None


def _temperature(pairs: Pairs, groups: Groups, contexts: Contexts, tolerance: Floats) -> Temperature | None:
    if len(contexts.train) >= FEWEST_CONTEXT_PAIRS:
        slope, stderr = _slope(contexts)
        if abs(slope) < max(SMALLEST_SLOPE, SIGMAS * stderr) or slope <= -1 or not _explains(contexts, slope):
            return None
        tau = 1.0 / (1.0 + slope)
        return Temperature(tau, stderr * tau**2, False, _sampled_from(pairs, groups), len(contexts.train))
    return _temperature_bound(pairs, groups, tolerance)


def _slope(contexts: Contexts) -> tuple[float, float]:
    """Return the weighted median of the slopes of pairs, and its standard error."""
    slopes = contexts.moved / contexts.train
    order = np.argsort(slopes)
    cumulative = np.cumsum(contexts.train[order])
    slope = float(slopes[order][np.searchsorted(cumulative, 0.5 * cumulative[-1])])
    spread = MAD_TO_SD * float(np.median(np.abs(contexts.moved - slope * contexts.train)))
    # 1.25: a median's standard error is that much a mean's, for normal errors.
    return slope, 1.25 * spread / math.sqrt(float(contexts.train @ contexts.train))


def _explains(contexts: Contexts, slope: float) -> bool:
    left = np.abs(contexts.moved - slope * contexts.train)
    return float(np.median(left)) <= (1 - EXPLAINED) * float(np.median(np.abs(contexts.moved)))


def _temperature_bound(pairs: Pairs, groups: Groups, tolerance: Floats) -> Temperature | None:
    difference, level = pairs.difference, pairs.train + pairs.rollout
    moved = np.abs(difference) > np.maximum(tolerance, LOUD)
    if moved.sum() < FEWEST_MOVED:
        return None
    apart = _signs_apart(difference[moved] < 0, level[moved])
    if apart == 0.0:
        return None
    rare = moved & (pairs.train < RATIO_BELOW)
    if not rare.any():
        return None
    ratio = pairs.rollout[rare] / pairs.train[rare]
    bound = float(np.quantile(ratio, 1 - OUTERMOST if apart > 0 else OUTERMOST))
    # Unlikely tokens down is a lower temperature: the bound must say the same.
    if bound <= 0 or (bound > 1) != (apart > 0):
        return None
    return Temperature(1.0 / bound, math.nan, True, _sampled_from(pairs, groups), 0)


def _signs_apart(down: Mask, level: Floats) -> float:
    """Return how much more often unlikely tokens move down than others do; 0 if that may be chance."""
    for share, least in UNLIKELY_AND_APART:
        apart, stderr = _difference_of_shares(down, level <= np.quantile(level, share))
        if abs(apart) >= max(least, SIGMAS * stderr):
            return apart
    return 0.0


def _difference_of_shares(down: Mask, unlikely: Mask) -> tuple[float, float]:
    one, two = down[unlikely], down[~unlikely]
    if not len(two):  # all are alike
        return 0.0, math.inf
    p, q = float(one.mean()), float(two.mean())
    return p - q, math.sqrt(p * (1 - p) / len(one) + q * (1 - q) / len(two))


def _sampled_from(pairs: Pairs, groups: Groups) -> Column:
    """Return whose log-probs the tokens were drawn with: the mean ratio of the other's to them is at most 1."""
    mean = mean_mass(pairs, pairs.difference, groups)
    return "train" if mean.value - 1.0 > SIGMAS * mean.stderr else "rollout"
