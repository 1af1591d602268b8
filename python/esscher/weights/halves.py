"""Whether weighted completions are many enough for an error bar, or biased by more than it would show.

What rests on weights within a prompt is biased by how few completions the prompt has. Of order 1/n that is taken off
(`bias_of_log_mean`, `bias_of_weighted_mean`); of what is left nothing is known but how it moves with n. That can be
seen: a random half of a prompt's completions is a sample of half as many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.estimate import Estimate, Interval
from esscher.groups import Groups, as_groups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

# How often completions are halved: the halves of one cut say little of how far halves are off.
CUTS = 4
# A bias that falls slowly is told by an effective sample size that falls, as a share of the completions, from halves to
# all of them. So many doublings of the completions make of it what a bias is held against.
DOUBLINGS = 8
# What is left of a bias may be so much of the standard error.
MOST = 0.7
# What rounding leaves of a bias, beside a value of 1 or more.
ROUNDING = 1e-12


class Halves(NamedTuple):
    """Completions cut in two at random within each prompt: their order [N], and the 2 P halves that they make then."""

    order: NDArray[np.int64]
    groups: Groups


class LeftBias(NamedTuple):
    """By how much halves of the completions are off the whole, and the standard error of that.

    Attributes
    ----------
    shift
        What halves say less what all say, a mean over prompts [...].
    stderr
        Its standard error [...].
    worth
        How fast biases fall with the number of completions, from 1 where as fast as they can down to 0 (see
        `worth_of`).

    Notes
    -----
    Once the bias of order 1/n is taken off, one of order 1/n^2 is left, four times as large in halves: a third of the
    shift. A slower one leaves more of it, ``shift / (3 worth)``: that is what enumerated worlds show, from weights that
    hardly differ to those of which the samples miss the most.
    """

    shift: NDArray[np.float64]
    stderr: NDArray[np.float64]
    worth: NDArray[np.float64]

    def scaled(self, factor: float) -> LeftBias:
        """Return what is left of the bias of so many times the estimate."""
        return LeftBias(self.shift * factor, self.stderr * abs(factor), self.worth)


def cut_in_halves(values: NDArray[np.float64], groups: ArrayLike, cuts: int = CUTS) -> list[Halves]:
    """Cut the completions of each prompt in two at random, several times over.

    What the values [N] of a prompt are decides how it is cut, so that it is cut alike wherever it stands.

    Examples
    --------
    >>> import numpy as np
    >>> (halves,) = cut_in_halves(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]), np.array([0, 4, 7]), cuts=1)
    >>> sorted(halves.order[:4].tolist()), halves.groups.offsets
    ([0, 1, 2, 3], array([0, 2, 4, 5, 7]))
    """
    groups = as_groups(groups, len(values))
    seeds, filled = np.zeros(len(groups.sizes), np.uint64), groups.sizes > 0
    seeds[filled] = np.bitwise_xor.reduceat(values.view(np.uint64), groups.starts[filled])
    of_two = Groups.from_sizes(np.stack([groups.sizes // 2, groups.sizes - groups.sizes // 2], axis=1).ravel())
    bits = groups.spread(_mixed(seeds)) + groups.place.astype(np.uint64) * np.uint64(cuts)
    keys = (_mixed(bits + np.uint64(cut)) for cut in range(cuts))
    return [Halves(np.argsort(groups.of + (key >> np.uint64(11)) * 2.0**-53), of_two) for key in keys]


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter integers as splitmix64 does (Steele, Lea, Flood, OOPSLA 2014)."""
    z = bits * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def left_bias(
    values: NDArray[np.float64],
    of_halves: Sequence[NDArray[np.float64]],
    sizes: NDArray[np.int64],
    worth: NDArray[np.float64] | float,
) -> LeftBias:
    """Compare what halves of each prompt's completions say with what all of them do.

    Parameters
    ----------
    values
        Of each prompt [P, ...]; those that are not finite are left out.
    of_halves
        Of both halves of each prompt, for each cut [2P, ...]; NaN where a half does not tell.
    sizes
        Each prompt's number of completions [P].
    worth
        How fast biases fall [...], as `worth_of` tells.

    Examples
    --------
    >>> import numpy as np
    >>> found = left_bias(np.array([1.0, 2.0]), [np.array([0.8, 0.8, 1.6, 1.8])], np.array([4, 4]), worth=0.5)
    >>> float(found.shift.round(4)), float(found.stderr.round(4))
    (-0.25, 0.05)
    """
    known = np.isfinite(values)
    shifts = np.stack([_mean_of_two(halves) - np.where(known, values, 0.0) for halves in of_halves])
    shares = known * sizes.reshape(-1, *[1] * (values.ndim - 1))
    shares = shares / np.maximum(shares.sum(axis=0), 1)
    by_cut = (shares * np.where(known, shifts, 0.0)).sum(axis=1)
    shift = by_cut.mean(axis=0)
    with np.errstate(invalid="ignore"):  # -inf - -inf, where a half has no weight
        residuals = np.where(known, shifts.mean(axis=0) - shift, 0.0)
    spread = np.hypot.reduce(shares * residuals / np.sqrt(np.maximum(1.0 - shares, 0.5)), axis=0)
    if len(values) == 1:  # whose cuts differ about as much as other completions would make them
        spread = np.ptp(by_cut, axis=0) / 2
    return LeftBias(shift, spread, np.broadcast_to(np.asarray(worth, np.float64), shift.shape))


def worth_of(ess: NDArray[np.float64], of_halves: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Say from effective sample sizes how fast biases fall with the number of completions, from 1 down to 0.

    Where the weights' tail is seen, the effective sample size of all completions is the sum of that of their halves. A
    tail that is not yet seen makes it less, and what weights say moves slowly with every doubling. It is that ratio for
    one doubling, to the power of 8, and no more than 1.

    Parameters
    ----------
    ess
        Of each prompt's completions [P, ...].
    of_halves
        Of both halves of each prompt, for each cut [2P, ...].

    Examples
    --------
    >>> import numpy as np
    >>> float(worth_of(np.array([9.5, 9.5]), [np.array([5.0, 5.0, 5.0, 5.0])]).round(4))
    0.6634
    """
    both = np.mean([halves.sum(axis=0) for halves in of_halves], axis=0)
    whole = ess.sum(axis=0)
    ratio: NDArray[np.float64] = np.divide(whole, both, out=np.zeros(np.shape(whole)), where=both > 0)
    return np.minimum(ratio, 1.0) ** DOUBLINGS


def _mean_of_two(halves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of both halves of each prompt; that of one where the other does not tell, 0/0 where neither does."""
    pairs = halves.reshape(-1, 2, *halves.shape[1:])
    told = ~np.isnan(pairs)
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = np.where(told, pairs, 0.0).sum(axis=1) / told.sum(axis=1)
    return means


def is_small(left: LeftBias, value: NDArray[np.float64], stderr: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say whether what is left of a bias is small beside a standard error.

    It is taken to be ``(|shift| + 2 stderr) / (3 worth)``, and may be 0.7 of the standard error, or less by ``worth``:
    where a bias falls slowly, what is known of it is little.

    Examples
    --------
    >>> import numpy as np
    >>> left = LeftBias(np.array(0.01), np.array(0.01), np.array(0.5))
    >>> is_small(left, np.array(1.0), stderr=np.array([0.05, 0.1]))
    array([False,  True])
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        beside = np.maximum(MOST * left.worth * stderr, ROUNDING * np.maximum(np.abs(value), 1.0))
        small: NDArray[np.bool_] = (np.abs(left.shift) + 2 * left.stderr) / (3 * left.worth) <= beside
    return small


def widened(
    low: NDArray[np.float64], high: NDArray[np.float64], left: LeftBias
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of intervals, each moved by as much as what is left of the bias may ask for.

    Examples
    --------
    >>> import numpy as np
    >>> left = LeftBias(np.array(-0.1), np.array(0.02), np.array(0.8))
    >>> tuple(float(round(end, 4)) for end in widened(np.array(1.0), np.array(2.0), left))
    (1.0, 2.0583)
    """
    up, down = ((2 * left.stderr + sign * left.shift) / (3 * left.worth) for sign in (-1, 1))
    return low - np.maximum(down, 0.0), high + np.maximum(up, 0.0)


def shown(estimate: Estimate, left: LeftBias) -> Estimate:
    """Return an estimate as it may be shown: without an error if what is left of the bias is not small beside it.

    Examples
    --------
    >>> import numpy as np
    >>> shown(Estimate(1.0, 0.1), LeftBias(np.array(-0.1), np.array(0.02), np.array(0.8)))
    Estimate(value=1.0, stderr=nan)
    """
    return estimate if is_small(left, *map(np.asarray, estimate)) else Estimate(estimate.value, np.nan)


def shown_interval(estimate: Estimate, interval: Interval, left: LeftBias) -> Interval:
    """Return the interval of an estimate as it may be shown: holding what is left of the bias, or none.

    Examples
    --------
    >>> import numpy as np
    >>> left = LeftBias(np.array(-0.1), np.array(0.02), np.array(0.8))
    >>> shown_interval(Estimate(1.0, 0.1), Interval(0.8, 1.2, "normal"), left).assumes
    "no interval: halves of each prompt's completions give 0.1 less, so that a bias is left that is not small"
    >>> shown_interval(Estimate(1.0, 0.5), Interval(0.0, 2.0, "normal"), left)
    Interval(low=0.0, high=2.058333333333333, assumes='normal')
    """
    if not np.isfinite(estimate.stderr):
        return interval
    if is_small(left, *map(np.asarray, estimate)):
        low, high = widened(np.array(interval.low), np.array(interval.high), left)
        return Interval(float(low), float(high), interval.assumes)
    shift = float(left.shift)
    beside = f"{abs(shift):.2g} {'less' if shift < 0 else 'more'}" if np.isfinite(shift) else "no weight to some"
    why = f"halves of each prompt's completions give {beside}, so that a bias is left that is not small"
    return Interval(np.nan, np.nan, f"no interval: {why}")
