"""The mass that truncation kept, where one column's log-probs were renormalised after it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.estimate import Estimate, clustered_ratio
from esscher.inference.importance import pareto_smooth
from esscher.mismatch.units import SIGMAS
from esscher.mismatch.verl_metrics import groups_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.groups import Groups
    from esscher.mismatch.alignment import Pairs
    from esscher.mismatch.findings import Column

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]
    Mask = NDArray[np.bool_]

# Truncation moves every log-prob up: so many of those that moved at all must have moved one way, out of at least 20.
ONE_WAY, FEWEST_ONE_WAY = 0.98, 20
# They must be more than a few tokens of the whole.
ONE_WAY_SHARE = 0.05
# Truncation moves all tokens but those that were certain, with nothing to cut off beside them. So it has moved many, or
# what it left was likely; isolated tokens that differ are something else.
MANY_MOVED, LEFT_ALONE = 0.3, -0.1
# No log-prob is above 0, so that noise moves those near it down; of others it moves half up.
DOUBTED, MOSTLY_UP = -0.5, 0.65
# The least mass kept is told by nearly all tokens: those that moved up by no more than this quantile.
NEARLY_ALL_MOVED = 0.99
# A kept mass nearer to 1 than this is not worth a name.
SMALLEST_LOST_MASS = 5e-4
# The law of mean weights is that of a mean, which one outlier can spoil: without a temperature, which makes a tail by
# right, this share of either end is pulled in.
PULLED_IN = 0.005
# Of a sharp temperature the mean weight can lie in tokens too rare to be seen: this Pareto k is where means fail
# (Vehtari et al. 2024).
HEAVIEST_TAIL = 0.7


class KeptMass(NamedTuple):
    """Mean mass that truncation kept, the least it kept (as top-p would), and whose log-probs were renormalised."""

    mean: Estimate
    least: float
    column: Column
    one_way: float


def kept_mass(pairs: Pairs, groups: Groups, tolerance: Floats, tempered: bool) -> KeptMass | None:
    """Return the mass that truncation kept, if one column's log-probs were renormalised after it.

    With tokens drawn from q, the mean of p / q is the mass of q's support under p, whatever q is on it: 1 unless it was
    truncated. And without a temperature truncation moves all log-probs up, by -log of the mass kept.
    """
    columns: tuple[tuple[Column, Floats], ...] = (("rollout", pairs.difference), ("train", -pairs.difference))
    for column, moved in columns:
        one_way = 0.0 if tempered else _one_way(moved, tolerance)
        mean = mean_mass(pairs, moved if tempered else _pulled_in(moved), groups)
        lost = 1.0 - mean.value
        beyond_chance = lost > SIGMAS * mean.stderr and not _heavy(moved)
        if not (one_way >= ONE_WAY or beyond_chance) or lost <= SMALLEST_LOST_MASS:
            continue
        if not tempered and not _uncertain_went_up(pairs, moved, tolerance):
            continue
        if tempered or _left_the_certain(pairs, moved, tolerance):
            least = math.exp(-float(np.quantile(moved, NEARLY_ALL_MOVED)))
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


def mean_mass(pairs: Pairs, moved: Floats, groups: Groups) -> Estimate:
    """Return the token mean of exp(-moved), with the larger of its standard errors by prompt and by completion.

    Of a few prompts the former is too uncertain to rest on.
    """
    rows, tokens = pairs.by_row()
    with np.errstate(over="ignore"):
        masses: Floats = np.exp(-moved)
    sums, lengths = tokens.sums(masses), tokens.sizes.astype(np.float64)
    means = [clustered_ratio(sums, lengths, g) for g in (groups_of(rows, groups), np.arange(len(rows) + 1))]
    return max(means, key=lambda mean: mean.stderr)


def _heavy(moved: Floats) -> bool:
    """Return whether the mean of exp(-moved) may have its mass in a tail that was never seen."""
    return not pareto_smooth(-moved).pareto_k[0] <= HEAVIEST_TAIL
