"""Expected reward of best-of-n for every n, with its standard error, from samples of the prior."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.estimate import ROUNDING, Interval, confidence_interval
from esscher.groups import as_groups, as_integers
from esscher.inference.best_of_n import check_n, rank_weights, rising
from esscher.inference.validation import below_infinity

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Largest share of its standard error by which drawing with replacement may move the expected best: beyond it a few
# samples decide the estimate, and an interval made of that error does not hold.
MOST_MOVED = 0.2


class BestOfNRewards(NamedTuple):
    """Expected rewards of best-of-n for K values of n, in P groups.

    Attributes
    ----------
    n
        The numbers of samples of which the best is taken [K].
    reward
        Expected reward of the best [P, K]; NaN where n is larger than the group.
    stderr
        Its standard error over the draws of the group's samples [P, K], by the jackknife; NaN where the group has too
        few samples to tell (see `best_of_n_rewards`).
    """

    n: NDArray[np.int64]
    reward: NDArray[np.float64]
    stderr: NDArray[np.float64]


def best_of_n_rewards(
    rewards: ArrayLike, groups: ArrayLike | None = None, n: ArrayLike | None = None
) -> BestOfNRewards:
    """Estimate the expected reward of best-of-n for many n at once, without drawing anything.

    The estimate is the mean over all subsets of n of a group's N samples,
    ``sum_i r_(i) C(i - 1, n - 1) / C(N, n)`` with the rewards in rising order: unbiased, and of the least variance that
    an unbiased one has. Its standard error is the jackknife's, exact in O(N) since the mean without one sample is made
    of running sums; its square does not understate on average (Efron and Stein 1981).

    The error is NaN where a few samples decide the estimate, so that an interval made of it would not hold: where
    drawing the n samples with replacement would move the expected best by more than a fifth of the standard error. That
    is so from about n = N / 6 on, and earlier where many samples share the highest reward.

    Parameters
    ----------
    rewards
        Reward of each sample [N]; -inf loses to everything else, and the expected reward is -inf where it can win.
    groups
        Offsets of the samples that share a prompt [P + 1]; all share one if not given.
    n
        The numbers of samples of which the best is taken [K], each at least 1; the powers of two up to the size of the
        largest group if not given.

    Raises
    ------
    ValueError
        If a reward is NaN or +inf, an `n` is below 1, or `groups` are no offsets.
    TypeError
        If `n` are not integers.

    References
    ----------
    Efron, Stein, "The jackknife estimate of variance", Annals of Statistics 1981, doi:10.1214/aos/1176345462.

    Examples
    --------
    >>> got = best_of_n_rewards([3.0, 1.0, 2.0, 5.0, 4.0], groups=[0, 3, 5])
    >>> got.n
    array([1, 2])
    >>> got.reward.round(4)
    array([[2.    , 2.6667],
           [4.5   , 5.    ]])
    >>> got.stderr.round(4)
    array([[0.5774,    nan],
           [0.5   ,    nan]])
    """
    column = below_infinity("rewards", rewards)
    pools = as_groups(groups, len(column))
    wanted = 2 ** np.arange(int(pools.sizes.max(initial=0)).bit_length()) if n is None else as_integers("n", n)
    for k, one in enumerate(wanted):
        check_n(f"n[{k}]", int(one))
    ordered = column[rising(column, pools)]
    reward, stderr = np.full((2, len(pools.sizes), len(wanted)), np.nan)
    for size in np.unique(pools.sizes[pools.sizes > 0]):
        alike = np.flatnonzero(pools.sizes == size)
        rows = ordered[pools.starts[alike][:, None] + np.arange(size)]
        for k, one in enumerate(wanted):
            if one <= size:
                reward[alike, k], stderr[alike, k] = _expected_best(rows, int(one))
    return BestOfNRewards(wanted, reward, stderr)


def best_of_n_interval(rewards: NDArray[np.float64], n: int) -> Interval:
    """Return the 95 % interval of the expected reward of best-of-n, from one prompt's samples [N] in any order.

    By `confidence_interval` of the jackknife's pseudo-values, ``N e - (N - 1) e_i`` for the expected best e and that
    without sample i: they have its mean and its standard error, and show how skewed it is. None where
    `best_of_n_rewards` has no standard error.

    References
    ----------
    Tukey, "Bias and confidence in not-quite large samples", Annals of Mathematical Statistics 1958.

    Examples
    --------
    >>> import numpy as np
    >>> samples = np.random.default_rng(0).normal(size=200)
    >>> low, high, _ = best_of_n_interval(samples, 4)  # of the normal law it is 1.029
    >>> round(low, 2), round(high, 2)
    (0.86, 1.16)
    >>> best_of_n_interval(samples, 100).assumes
    'no interval: of 200 samples a few decide which is the best of 100'
    """
    size, pool = len(rewards), np.sort(rewards)[None, :]
    (value,), (stderr,) = _expected_best(pool, n)
    if not np.isfinite(stderr):
        return Interval(np.nan, np.nan, f"no interval: of {size} samples a few decide which is the best of {n}")
    pseudo_values = value - (size - 1) * _shifts_without_one(_depths(pool), n)[0]
    return confidence_interval(pseudo_values, np.array([0, size]))


def _expected_best(pools: NDArray[np.float64], n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the expected best of n of each pool and its standard error [R], from rewards in rising order [R, N]."""
    # A -inf can win only if there are n of them.
    unbounded = pools[:, n - 1] == -np.inf
    depths = _depths(pools)
    best = (depths * rank_weights(pools.shape[1], n)).sum(axis=1)
    reward = np.where(pools[:, -1] == -np.inf, 0.0, pools[:, -1]) + best
    stderr = _jackknife(depths, n)
    with np.errstate(invalid="ignore"):  # without an error nothing is known
        known = ~unbounded & (_moved(depths, best, n) <= MOST_MOVED * stderr - ROUNDING * depths[:, 0])
    return np.where(unbounded, -np.inf, reward), np.where(known, stderr, np.nan)


def _depths(pools: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rewards less the highest of their pool [R, N], so that equal ones have no error; 0 for what is -inf."""
    top = pools[:, -1:]
    return np.where(pools == -np.inf, 0.0, pools - np.where(top == -np.inf, 0.0, top))


def _moved(depths: NDArray[np.float64], best: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """How far drawing the n samples with replacement moves the expected best [R]."""
    shares = np.diff((np.arange(depths.shape[1] + 1) / depths.shape[1]) ** n)
    moved: NDArray[np.float64] = np.abs((depths * shares).sum(axis=1) - best)
    return moved


def _jackknife(rewards: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Jackknife standard error [R] of the expected best of n, from rewards in rising order [R, N]."""
    pools, pool_size = rewards.shape
    if n >= pool_size:
        return np.full(pools, np.nan)
    errors: NDArray[np.float64] = _shifts_without_one(rewards, n).std(axis=1) * np.sqrt(pool_size - 1)
    return errors


def _shifts_without_one(rewards: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """How far the expected best of n without each sample lies from the mean of all these [R, N]; n < N."""
    weights = rank_weights(rewards.shape[1] - 1, n)
    nothing = np.zeros((len(rewards), 1))
    # Without the k-th, those below keep their rank and those above fall by one.
    below = np.hstack([nothing, np.cumsum(rewards[:, :-1] * weights, axis=1)])
    above = np.hstack([np.cumsum((rewards[:, 1:] * weights)[:, ::-1], axis=1)[:, ::-1], nothing])
    without = below + above
    shifts: NDArray[np.float64] = without - without.mean(axis=1, keepdims=True)
    return shifts
