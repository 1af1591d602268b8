"""Best-of-n: its winners, and the weight of each sample under it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.groups import Groups, as_groups
from esscher.inference.resampling import resample
from esscher.inference.validation import below_infinity

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class BestOfN(NamedTuple):
    """Winners of best-of-n in P groups.

    Attributes
    ----------
    indices
        Which of the N samples won [W], group after group.
    groups
        The winners of each prompt.
    """

    indices: NDArray[np.int64]
    groups: Groups


def best_of_n(
    rewards: ArrayLike,
    n: int,
    rng: np.random.Generator,
    groups: ArrayLike | None = None,
    *,
    size: int | None = None,
) -> BestOfN:
    """Draw winners of best-of-n from each group's pool of samples.

    Without `size` each group is divided at random into blocks of n, and the best of each block wins: the winners are
    independent draws of best-of-n, ``floor(group size / n)`` of them, and what is left over is not used. With `size`,
    each of so many winners a group is the best of a random subset of n: more of them, which are independent only given
    the pool, and may be the same sample. Ties are broken at random.

    Parameters
    ----------
    rewards
        Reward of each sample [N]; -inf loses to everything else.
    n
        How many samples compete, at least 1.
    rng
        Source of the blocks and of the decisions in ties.
    groups
        Offsets of the samples that share a prompt [P + 1]; all share one if not given.
    size
        How many winners to draw from every group; one for each whole block if not given.

    Raises
    ------
    ValueError
        If a reward is NaN or +inf, a group has fewer than n samples, `n` or `size` is below 1, or `groups` are no
        offsets.

    Examples
    --------
    >>> import numpy as np
    >>> best_of_n([1.0, 3.0, 2.0, 0.5, 0.1, 0.0], 2, np.random.default_rng(0), groups=[0, 2, 6])
    BestOfN(indices=array([1, 2, 4]), groups=Groups(offsets=array([0, 1, 3])))
    """
    column, pools = _pools(rewards, n, groups)
    if size is None:
        return _best_of_blocks(column, n, rng, pools)
    weights = best_of_n_weights(column, n, pools)
    log_weights = np.log(weights, out=np.full(len(weights), -np.inf), where=weights > 0)
    indices = resample(log_weights, size, rng, scheme="multinomial", groups=pools)
    return BestOfN(indices, Groups.from_sizes(np.full(len(pools.sizes), size)))


def best_of_n_weights(rewards: ArrayLike, n: int, groups: ArrayLike | None = None) -> NDArray[np.float64]:
    """Weight each sample by the probability that it is the best of a random subset of n of its group's N.

    ``w_(i) = C(i - 1, n - 1) / C(N, n)`` for the i-th smallest reward, and what equal rewards have together is shared
    evenly. A weighted mean of anything (a reward, a log-prob, a diversity) is then the unbiased estimate of what it is
    under best-of-n, averaged over all subsets.

    Parameters
    ----------
    rewards
        Reward of each sample [N]; -inf loses to everything else.
    n
        How many samples compete, at least 1.
    groups
        Offsets of the samples that share a prompt [P + 1]; all share one if not given.

    Returns
    -------
    Weights [N], which sum to 1 in each group.

    Raises
    ------
    ValueError
        If a reward is NaN or +inf, a group has fewer than n samples, `n` is below 1, or `groups` are no offsets.

    References
    ----------
    Chen et al., "Evaluating large language models trained on code", 2021, arXiv:2107.03374, section 2.1 (pass@k, which
    is this mean of rewards of 0 and 1).

    Examples
    --------
    >>> best_of_n_weights([3.0, 1.0, 2.0], 2).round(4)
    array([0.6667, 0.    , 0.3333])
    >>> best_of_n_weights([1.0, 1.0, 0.0], 2).round(4)
    array([0.5, 0.5, 0. ])
    """
    column, pools = _pools(rewards, n, groups)
    by_rank = np.zeros(len(column))
    for size in np.unique(pools.sizes):
        starts = pools.starts[pools.sizes == size]
        by_rank[starts[:, None] + np.arange(size)] = rank_weights(int(size), n)
    order = rising(column, pools)
    ordered, pool = column[order], pools.of
    ties_end = np.flatnonzero((ordered[1:] != ordered[:-1]) | (pool[1:] != pool[:-1])) + 1
    ties = Groups(np.concatenate([[0], ties_end, [len(column)]]))
    weights = np.empty(len(column))
    weights[order] = ties.spread(ties.means(by_rank))
    return weights


def _best_of_blocks(rewards: NDArray[np.float64], n: int, rng: np.random.Generator, pools: Groups) -> BestOfN:
    shuffled = np.lexsort((rng.random(len(rewards)), pools.of))
    blocks = shuffled[pools.place < pools.spread(pools.sizes // n * n)].reshape(-1, n)
    # Of equal rewards the first of a shuffled block wins, which is a random one.
    winners = blocks[np.arange(len(blocks)), rewards[blocks].argmax(axis=1)]
    return BestOfN(winners, Groups.from_sizes(pools.sizes // n))


def rank_weights(pool_size: int, n: int) -> NDArray[np.float64]:
    """``C(i - 1, n - 1) / C(N, n)`` for i = 1 .. N: the chance that the i-th smallest is the best of a random subset.

    The largest is in a subset with chance n / N, and each rank below is by (i - n) / (i - 1) less likely the best than
    the one above: products of numbers at most 1, so that each weight is within N roundings of its value.
    """
    above = np.arange(pool_size, 1, -1)
    steps = np.maximum(above - n, 0) / (above - 1)
    falling: NDArray[np.float64] = n / pool_size * np.cumprod(np.concatenate([[1.0], steps]))
    return falling[::-1]


def rising(rewards: NDArray[np.float64], pools: Groups) -> NDArray[np.int64]:
    """Return the order [N] that sorts each group's rewards."""
    return np.lexsort((rewards, pools.of))


def check_n(name: str, n: int) -> None:
    """Raise `ValueError` if `n` is below 1."""
    if n < 1:
        raise ValueError(f"{name} is {n}: the best is taken of at least 1 sample")


def _pools(rewards: ArrayLike, n: int, groups: ArrayLike | None) -> tuple[NDArray[np.float64], Groups]:
    column = below_infinity("rewards", rewards)
    check_n("n", n)
    pools = as_groups(groups, len(column))
    small = np.flatnonzero(pools.sizes < n)
    if len(small):
        p = small[0]
        raise ValueError(f"group {p} has {pools.sizes[p]} samples: the best of {n} needs at least as many")
    return column, pools
