"""What pattern the differences of two columns have: an offset, a slope, the ends of rows, or none."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.estimate import Estimate, clustered_ratio
from esscher.inference.importance import pareto_smooth
from esscher.mismatch.metrics import groups_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.groups import Offsets
    from esscher.mismatch.alignment import Pairs
    from esscher.mismatch.record import Column

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]
    Mask = NDArray[np.bool_]

# Two float32 forward passes of one model, in batches of other shapes, differ by a few 1e-5 nats.
FLOAT32 = 1e-4
# A single token that differs by more than this is not rounding of float32, whatever the others do.
LOUD = 1e-3
# Up to this share of tokens may differ a little more than FLOAT32 says without being worth a word.
FEW = 0.01
# A finding must be this many of its standard errors away from nothing: 1 in 3.5 million if errors are normal, which
# leaves room for their being neither normal nor independent.
SIGMAS = 5.0

# Last tokens are apart if they differ by more than nearly all others: their 99th percentile and half as much again.
ORDINARY, BEYOND = 0.99, 1.5
# Where only ended rows are concerned these may be few; of the other tokens 1 % at most are as far out by construction.
LAST_SHARE, FEWEST_LAST, FEWEST_OTHERS = 0.2, 3, 8

# Two tokens of one context tell a slope only if their log-probs differ.
FEWEST_CONTEXT_PAIRS, SMALLEST_GAP = 6, 0.1
# Log-probs of one token in one context, from two batches of a float32 engine, agree within this.
SAME_TOKEN = 1e-3
# A temperature nearer to 1 than this is not worth a name; a line must explain half of what it is fitted to.
SMALLEST_SLOPE, EXPLAINED = 0.01, 0.5
# Nobody samples outside of these: a slope that says so is something else.
LOWEST_TAU, HIGHEST_TAU = 0.05, 20.0
# Without contexts: a temperature moves the unlikely fifth of tokens one way and the others the other way. Truncation
# moves all one way, noise half of each; real temperatures give 0.3 to 0.8 here, the others less than 0.1. A low one
# leaves fewer unlikely tokens, so a twentieth is tried too; but of those that noise made the least likely, more moved
# down than half.
UNLIKELY_AND_APART, FEWEST_MOVED = ((0.2, 0.25), (0.05, 0.5)), 50
# The ratio l_rollout / l_train is bounded by 1 / tau; its outermost 2 % are left to noise. Only of tokens this
# unlikely, since rounding rules the ratio of small numbers.
OUTERMOST, RATIO_BELOW = 0.02, -1.0

# Truncation moves every log-prob up: so many of those that moved at all must have moved one way, out of at least 20.
ONE_WAY, FEWEST_ONE_WAY = 0.98, 20
# They must be more than a few tokens of the whole.
ONE_WAY_SHARE = 0.05
# Truncation moves all tokens but those that were certain, with nothing to cut off beside them. So it has moved many, or
# what it left was likely; isolated tokens that differ are something else.
MANY_MOVED, LEFT_ALONE = 0.3, -0.1
# No log-prob is above 0, so that noise moves those near it down; of others it moves half up.
DOUBTED, MOSTLY_UP = -0.5, 0.65
# A kept mass nearer to 1 than this is not worth a name.
SMALLEST_LOST_MASS = 5e-4
# The law of mean weights is that of a mean, which one outlier can spoil: without a temperature, which makes a tail by
# right, this share of either end is pulled in.
PULLED_IN = 0.005
# Of a sharp temperature the mean weight can lie in tokens too rare to be seen: this Pareto k is where means fail
# (Vehtari et al. 2024).
HEAVIEST_TAIL = 0.7
# With fewer tokens beyond rounding than this, what remains is rounding.
NOISY_SHARE = 0.05
# A context that was mistaken for another one shows in few pairs of tokens, noise in most.
NOISY_PAIRS = 0.5
# A standard deviation from a median of absolute values, for normal errors.
MAD_TO_SD = 1.4826


class LastTokens(NamedTuple):
    """Last tokens that differ [T], out of how many, and up to which difference the other tokens are ordinary."""

    hit: Mask
    of: int
    ordinary: float


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


class KeptMass(NamedTuple):
    """Mean mass that truncation kept, the least it kept (as top-p would), and whose log-probs were renormalised."""

    mean: Estimate
    least: float
    column: Column
    one_way: float


class Noise(NamedTuple):
    """Differences that nothing explains: their size as a standard deviation, and which of them are beyond rounding.

    These are differences of tokens, or of pairs of tokens if they were seen ``within_contexts``.
    """

    sd: float
    where: Mask
    within_contexts: bool

    @property
    def tokens(self) -> int:
        """How many differences are beyond rounding."""
        return int(self.where.sum())


def last_tokens(pairs: Pairs, terminated: Mask | None) -> LastTokens | None:
    """Return the last tokens of rows if they differ as others do not; of ended rows alone where that is known."""
    size, others = np.abs(pairs.difference), np.abs(pairs.difference[~pairs.last])
    if len(others) < FEWEST_OTHERS:
        return None
    ordinary = max(BEYOND * float(np.quantile(others, ORDINARY)), LOUD)
    ends = [pairs.last] if terminated is None else [pairs.last, pairs.last & terminated[pairs.row]]
    for last in ends:
        hit = last & (size > ordinary)
        if hit.sum() >= max(FEWEST_LAST, LAST_SHARE * last.sum()):
            return LastTokens(hit, int(last.sum()), ordinary)
    return None


def within_contexts(pairs: Pairs, groups: Offsets, tolerance: Floats) -> Contexts:
    """Pair tokens that were drawn in one context: first tokens of a prompt's completions, and on while these agree."""
    found = [Contexts(*np.zeros((3, 0)))]
    context = np.searchsorted(groups, np.arange(groups[-1]), side="right")
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


def temperature(pairs: Pairs, groups: Offsets, contexts: Contexts, tolerance: Floats) -> Temperature | None:
    """Return the rollout's temperature relative to the trainer's, if it is not 1.

    In one context ``l_rollout = l_train / tau - const``: tokens of one context lie on a line with slope 1 / tau.
    Between contexts the constant differs, and only a bound is left: ``l_rollout / l_train`` is at most 1 / tau for
    tau < 1, and at least that for tau > 1.
    """
    found = _temperature(pairs, groups, contexts, tolerance)
    return found if found is not None and LOWEST_TAU <= found.tau <= HIGHEST_TAU else None


def _temperature(pairs: Pairs, groups: Offsets, contexts: Contexts, tolerance: Floats) -> Temperature | None:
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


def _temperature_bound(pairs: Pairs, groups: Offsets, tolerance: Floats) -> Temperature | None:
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


def _sampled_from(pairs: Pairs, groups: Offsets) -> Column:
    """Return whose log-probs the tokens were drawn with: the mean ratio of the other's to them is at most 1."""
    mean = _mean_mass(pairs, pairs.difference, groups)
    return "train" if mean.value - 1.0 > SIGMAS * mean.stderr else "rollout"


def kept_mass(pairs: Pairs, groups: Offsets, tolerance: Floats, tempered: bool) -> KeptMass | None:
    """Return the mass that truncation kept, if one column's log-probs were renormalised after it.

    With tokens drawn from q, the mean of p / q is the mass of q's support under p, whatever q is on it: 1 unless it was
    truncated. And without a temperature truncation moves all log-probs up, by -log of the mass kept.
    """
    columns: tuple[tuple[Column, Floats], ...] = (("rollout", pairs.difference), ("train", -pairs.difference))
    for column, moved in columns:
        one_way = 0.0 if tempered else _one_way(moved, tolerance)
        mean = _mean_mass(pairs, moved if tempered else _pulled_in(moved), groups)
        lost = 1.0 - mean.value
        beyond_chance = lost > SIGMAS * mean.stderr and not _heavy(moved)
        if not (one_way >= ONE_WAY or beyond_chance) or lost <= SMALLEST_LOST_MASS:
            continue
        if not tempered and not _uncertain_went_up(pairs, moved, tolerance):
            continue
        if tempered or _left_the_certain(pairs, moved, tolerance):
            least = math.exp(-float(np.quantile(moved, ORDINARY)))
            return KeptMass(mean, least, column, one_way)
    return None


def _one_way(moved: Floats, tolerance: Floats) -> float:
    """Return the share of tokens that moved up among those that moved; 0 if these are too few to tell."""
    up, down = int((moved > tolerance).sum()), int((moved < -tolerance).sum())
    enough = up + down >= max(FEWEST_ONE_WAY, ONE_WAY_SHARE * len(moved))
    return up / (up + down) if enough else 0.0


def _uncertain_went_up(pairs: Pairs, moved: Floats, tolerance: Floats) -> bool:
    """Return whether tokens that neither column was certain of moved up too: noise moves only certain ones one way."""
    uncertain = (pairs.train + pairs.rollout < 2 * DOUBTED) & (np.abs(moved) > tolerance)
    return bool(uncertain.sum() < FEWEST_ONE_WAY or (moved[uncertain] > 0).mean() >= MOSTLY_UP)


def _left_the_certain(pairs: Pairs, moved: Floats, tolerance: Floats) -> bool:
    """Return whether many tokens moved, or those that did not had nothing beside them."""
    still = np.abs(moved) <= tolerance
    if (moved > tolerance).mean() >= MANY_MOVED or not still.any():
        return True
    return float(np.median(np.maximum(pairs.train, pairs.rollout)[still])) >= LEFT_ALONE


def _pulled_in(values: Floats) -> Floats:
    return np.clip(values, *np.quantile(values, [PULLED_IN, 1 - PULLED_IN]))


def _mean_mass(pairs: Pairs, moved: Floats, groups: Offsets) -> Estimate:
    """Return the token mean of exp(-moved), with the larger of its standard errors by prompt and by completion.

    Of a few prompts the former is too uncertain to rest on.
    """
    rows, row_of = np.unique(pairs.row, return_inverse=True)
    with np.errstate(over="ignore"):
        masses = np.exp(-moved)
    sums: Floats = np.asarray(np.bincount(row_of, weights=masses), dtype=np.float64)
    lengths = np.bincount(row_of).astype(np.float64)
    means = [clustered_ratio(sums, lengths, g) for g in (groups_of(rows, groups), np.arange(len(rows) + 1))]
    return max(means, key=lambda mean: mean.stderr)


def _heavy(moved: Floats) -> bool:
    """Return whether the mean of exp(-moved) may have its mass in a tail that was never seen."""
    return not pareto_smooth(-moved).pareto_k[0] <= HEAVIEST_TAIL


def noise(
    pairs: Pairs, contexts: Contexts, tolerance: Floats, tempered: Temperature | None, kept: KeptMass | None
) -> Noise | None:
    """Return what is left of the differences once a temperature and a kept mass are taken out, if it is not rounding.

    In one context both are known. Between contexts a kept mass still says that nothing moves down, and a temperature
    says nothing.
    """
    if tempered is None and kept is None:
        return _noise(pairs.difference, tolerance, within_contexts=False)
    if len(contexts.train) >= FEWEST_CONTEXT_PAIRS:
        slope = 0.0 if tempered is None else 1.0 / tempered.tau - 1.0
        return _noise((contexts.moved - slope * contexts.train), contexts.tolerance, within_contexts=True)
    if kept is not None and tempered is None:
        moved = pairs.difference if kept.column == "rollout" else -pairs.difference
        down = moved < -np.maximum(tolerance, LOUD)
        if down.mean() > NOISY_SHARE:
            # Half of a symmetrical noise is down.
            return Noise(MAD_TO_SD * float(np.median(-moved[down])), down, False)
    return None


def is_rounding(left: Floats, tolerance: Floats) -> bool:
    """Return whether differences are no more than rounding makes: few beyond it, and none far."""
    size = np.abs(left)
    return bool((size > tolerance).mean() <= FEW and not (size > np.maximum(LOUD, 10 * tolerance)).any())


def _noise(left: Floats, tolerance: Floats, *, within_contexts: bool) -> Noise | None:
    size = np.abs(left)
    beyond = size > tolerance
    if beyond.mean() <= NOISY_PAIRS if within_contexts else is_rounding(left, tolerance):
        return None
    sd = MAD_TO_SD * float(np.median(size)) / (math.sqrt(2) if within_contexts else 1.0)
    return Noise(sd, beyond, within_contexts)
