"""Best-of-n: its draws, its expected rewards for every n, and its KL from the prior."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.estimate import ROUNDING, Interval, confidence_interval
from esscher.groups import as_groups, as_integers
from esscher.inference.columns import as_column
from esscher.inference.resampling import resample

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.groups import Offsets

# Below it the log of n times a winner's probability changes no digit of the KL's term.
RARE = -40.0
# If the expected best moves by more than this share of its error where samples may be drawn twice, it is no mean of
# many, as which it has its error.
MOST_MOVED = 0.2


class BestOfN(NamedTuple):
    """Winners of best-of-n in P groups.

    Attributes
    ----------
    indices
        Which of the N samples won [W], group after group.
    groups
        Offsets of the winners that share a prompt [P + 1].
    """

    indices: NDArray[np.int64]
    groups: NDArray[np.int64]


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
    BestOfN(indices=array([1, 2, 4]), groups=array([0, 1, 3]))
    """
    column, offsets = _pool(rewards, n, groups)
    if size is None:
        return _best_of_blocks(column, n, rng, offsets)
    weights = _weights(column, n, offsets)
    log_weights = np.log(weights, out=np.full(len(weights), -np.inf), where=weights > 0)
    indices = resample(log_weights, size, rng, scheme="multinomial", groups=offsets)
    return BestOfN(indices, np.arange(len(offsets)) * size)


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

    Examples
    --------
    >>> best_of_n_weights([3.0, 1.0, 2.0], 2).round(4)
    array([0.6667, 0.    , 0.3333])
    >>> best_of_n_weights([1.0, 1.0, 0.0], 2).round(4)
    array([0.5, 0.5, 0. ])
    """
    column, offsets = _pool(rewards, n, groups)
    return _weights(column, n, offsets)


def best_of_n_rewards(
    rewards: ArrayLike, groups: ArrayLike | None = None, n: ArrayLike | None = None
) -> BestOfNRewards:
    """Estimate the expected reward of best-of-n for many n at once, without drawing anything.

    The estimate is the mean over all subsets of n of a group's N samples,
    ``sum_i r_(i) C(i - 1, n - 1) / C(N, n)`` with the rewards in rising order: unbiased, and of the least variance that
    an unbiased one has. Its standard error is the jackknife's, exact in O(N) since the mean without one sample is made
    of running sums; its square does not understate on average (Efron and Stein 1981).

    There is none where a few samples decide, so that an interval by it would not hold: where the expected best of n
    that may be the same sample twice is another by more than a fifth of the standard error. That is so from about
    n = N / 6 on, and earlier where many samples share the highest reward.

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
    Efron, Stein, "The jackknife estimate of variance", Annals of Statistics 1981.

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
    column = as_column("rewards", rewards)
    _check_rewards(column)
    offsets = as_groups(groups, len(column)).offsets
    sizes = np.diff(offsets)
    wanted = _powers_of_two(int(sizes.max(initial=0))) if n is None else as_integers("n", n)
    for k, one in enumerate(wanted):
        _check_n(f"n[{k}]", int(one))
    ordered = column[_rising(column, offsets)]
    reward, stderr = np.full((len(sizes), len(wanted)), np.nan), np.full((len(sizes), len(wanted)), np.nan)
    for pool_size in np.unique(sizes[sizes > 0]):
        rows = np.flatnonzero(sizes == pool_size)
        pools = ordered[offsets[rows][:, None] + np.arange(pool_size)]
        for k, one in enumerate(wanted):
            if one <= pool_size:
                reward[rows, k], stderr[rows, k] = _expected_best(pools, int(one))
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


def best_of_n_kl(log_prior_of_winners: ArrayLike, n: int) -> NDArray[np.float64]:
    """Estimate the KL of best-of-n from the prior, one term for each winner: their mean is the estimate.

    With e = prior(winner) and ``l = (1 - e)^n``:
    ``l (log n + (n - 1) log(1 - e) - (n - 1) / n) + (1 - l) log((1 - l) / e)``. It comes close to the exact KL where
    the reward tells completions apart, also where a completion is likely and `best_of_n_kl_bound` is far too high.

    Parameters
    ----------
    log_prior_of_winners
        Log-prob of each winner under the prior that the pool was drawn from [N] in nats; finite, at most 0.
    n
        How many samples competed, at least 1.

    Returns
    -------
    A term for each winner [N] in nats, from 0 (where e is 1) to the bound (where e is near 0).

    Raises
    ------
    ValueError
        If a log-prob is NaN, infinite or above 0, or `n` is below 1.

    References
    ----------
    Beirami, Agarwal, Berant, D'Amour, Eisenstein, Nagpal, Suresh, "Theoretical guarantees on the best-of-n alignment
    policy", 2024.

    Examples
    --------
    >>> import numpy as np
    >>> best_of_n_kl([-1000.0, np.log(0.5), 0.0], 4).round(4)
    array([0.6363, 0.4991, 0.    ])
    """
    log_e = as_column("log_prior_of_winners", log_prior_of_winners)
    _check_n("n", n)
    wrong = np.flatnonzero(~(np.isfinite(log_e) & (log_e <= 0)))
    if len(wrong):
        raise ValueError(
            f"log_prior_of_winners[{wrong[0]}] is {log_e[wrong[0]]}: a winner has a finite log-prob of at most 0 under "
            "the prior that it was drawn from"
        )
    # What is rare enough is as far from the prior as anything can be, and needs no exponential.
    kl = np.full(len(log_e), best_of_n_kl_bound(n))
    kl[log_e == 0] = 0.0
    likely = (log_e < 0) & (log_e > RARE - np.log(n))
    kl[likely] = _kl_terms(log_e[likely], n)
    return kl


def best_of_n_kl_bound(n: ArrayLike) -> NDArray[np.float64]:
    """Return ``log n - (n - 1) / n``, which the KL of best-of-n from the prior does not exceed, in nats.

    Parameters
    ----------
    n
        Numbers of samples of which the best is taken, each at least 1, in any shape.

    Returns
    -------
    The bound in nats, in the shape of `n`.

    Raises
    ------
    ValueError
        If an `n` is below 1.

    References
    ----------
    Beirami et al., as `best_of_n_kl`.

    Examples
    --------
    >>> best_of_n_kl_bound([1, 4, 16]).round(4)
    array([0.    , 0.6363, 1.8351])
    """
    numbers = np.asarray(n, dtype=np.float64)
    wrong = numbers[~(numbers >= 1)]
    if len(wrong):
        raise ValueError(f"n is {wrong[0]}: the best is taken of at least 1 sample")
    bound: NDArray[np.float64] = np.log(numbers) - (numbers - 1) / numbers
    return bound


def _best_of_blocks(rewards: NDArray[np.float64], n: int, rng: np.random.Generator, offsets: Offsets) -> BestOfN:
    sizes = np.diff(offsets)
    group_of = np.repeat(np.arange(len(sizes)), sizes)
    shuffled = np.lexsort((rng.random(len(rewards)), group_of))
    position = np.arange(len(rewards)) - offsets[group_of]
    blocks = shuffled[position < (sizes // n * n)[group_of]].reshape(-1, n)
    # Of equal rewards the first of a shuffled block wins, which is a random one.
    winners = blocks[np.arange(len(blocks)), rewards[blocks].argmax(axis=1)]
    return BestOfN(winners, np.concatenate([[0], np.cumsum(sizes // n)]))


def _weights(rewards: NDArray[np.float64], n: int, offsets: Offsets) -> NDArray[np.float64]:
    """Weight of each sample [N] in the mean over all subsets, that of equal rewards shared evenly."""
    sizes = np.diff(offsets)
    group_of = np.repeat(np.arange(len(sizes)), sizes)
    by_rank = np.zeros(len(rewards))
    for pool_size in np.unique(sizes):
        rows = np.flatnonzero(sizes == pool_size)
        by_rank[offsets[rows][:, None] + np.arange(pool_size)] = _rank_weights(int(pool_size), n)
    order = _rising(rewards, offsets)
    ordered = rewards[order]
    run_starts = np.concatenate([[True], (ordered[1:] != ordered[:-1]) | (group_of[1:] != group_of[:-1])])
    # Without samples there is no run either.
    run_of = np.cumsum(run_starts[: len(rewards)]) - 1
    weights = np.empty(len(rewards))
    weights[order] = (np.bincount(run_of, weights=by_rank) / np.bincount(run_of))[run_of]
    return weights


def _rank_weights(pool_size: int, n: int) -> NDArray[np.float64]:
    """``C(i - 1, n - 1) / C(N, n)`` for i = 1 .. N: the chance that the i-th smallest is the best of a random subset.

    The largest is in a subset with chance n / N, and each rank below is by (i - n) / (i - 1) less likely the best than
    the one above: products of numbers at most 1, so that each weight is within N roundings of its value.
    """
    above = np.arange(pool_size, 1, -1)
    steps = np.maximum(above - n, 0) / (above - 1)
    falling: NDArray[np.float64] = n / pool_size * np.cumprod(np.concatenate([[1.0], steps]))
    return falling[::-1]


def _expected_best(pools: NDArray[np.float64], n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the expected best of n of each pool and its standard error [R], from rewards in rising order [R, N]."""
    # A -inf can win only if there are n of them.
    unbounded = pools[:, n - 1] == -np.inf
    depths = _depths(pools)
    best = (depths * _rank_weights(pools.shape[1], n)).sum(axis=1)
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
    """By how much the expected best is another where the n samples may be the same [R]."""
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
    """By how much the expected best of n is another without each sample [R, N], in rising order [R, N]; n < N."""
    weights = _rank_weights(rewards.shape[1] - 1, n)
    nothing = np.zeros((len(rewards), 1))
    # Without the k-th, those below keep their rank and those above fall by one.
    below = np.hstack([nothing, np.cumsum(rewards[:, :-1] * weights, axis=1)])
    above = np.hstack([np.cumsum((rewards[:, 1:] * weights)[:, ::-1], axis=1)[:, ::-1], nothing])
    without = below + above
    shifts: NDArray[np.float64] = without - without.mean(axis=1, keepdims=True)
    return shifts


def _kl_terms(log_e: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Terms of the tight estimator, from log-probs below 0."""
    e = np.exp(log_e)
    # log(1 - e), by whichever form is accurate there.
    log_rest = np.where(log_e < -np.log(2), np.log1p(-np.minimum(e, 0.5)), np.log(-np.expm1(log_e)))
    log_lost = n * log_rest
    # log((1 - l) / e) = log n + log(-log(1 - e) / e) + log((1 - l) / -log l), where both logs are 0 as e vanishes.
    log_gain = np.log(n) + _log_ratio(-log_rest, e) + _log_ratio(-np.expm1(log_lost), -log_lost)
    lost = np.exp(log_lost)
    terms = lost * (np.log(n) + (n - 1) * log_rest - (n - 1) / n) - np.expm1(log_lost) * log_gain
    # Rounding takes what is near 0 below it.
    positive: NDArray[np.float64] = np.maximum(terms, 0.0)
    return positive


def _log_ratio(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the ratio of two numbers that vanish together, with a limit of 1."""
    return np.log(np.divide(numerators, denominators, out=np.ones(len(numerators)), where=denominators > 0))


def _rising(rewards: NDArray[np.float64], offsets: Offsets) -> NDArray[np.int64]:
    """Order [N] that sorts each group's rewards."""
    return np.lexsort((rewards, np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))))


def _powers_of_two(largest: int) -> NDArray[np.int64]:
    return 2 ** np.arange(largest.bit_length(), dtype=np.int64)


def _pool(rewards: ArrayLike, n: int, groups: ArrayLike | None) -> tuple[NDArray[np.float64], Offsets]:
    column = as_column("rewards", rewards)
    _check_rewards(column)
    _check_n("n", n)
    offsets = as_groups(groups, len(column)).offsets
    small = np.flatnonzero(np.diff(offsets) < n)
    if len(small):
        p = small[0]
        raise ValueError(f"group {p} has {offsets[p + 1] - offsets[p]} samples: the best of {n} needs at least as many")
    return column, offsets


def _check_rewards(rewards: NDArray[np.float64]) -> None:
    wrong = np.flatnonzero(np.isnan(rewards) | (rewards == np.inf))
    if len(wrong):
        raise ValueError(
            f"rewards[{wrong[0]}] is {rewards[wrong[0]]}: it must be finite or -inf (which means: never better)"
        )


def _check_n(name: str, n: int) -> None:
    if n < 1:
        raise ValueError(f"{name} is {n}: the best is taken of at least 1 sample")
