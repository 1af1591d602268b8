"""The beta whose target has a given KL or reward, by Newton's method in a bracket."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.groups import Groups, as_groups
from esscher.target import as_rewards

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

# Below this KL, in nats, the formula for large ones would lose digits.
SMALL_KL = 1e-3
# When 1/beta is found, relative.
CLOSE = 1e-15
MAX_STEPS = 100


class _Deficits(NamedTuple):
    """How far rewards lie below their prompt's highest, in units of ``2 ** exponent``, without those of -inf.

    `deficits` [M] are from -1 to 0, `highest` [G] the prompts' highest rewards less the highest of all, in the
    same units, which is `top` as it was given; `excluded` is the mean of log(completions / those with weight) in
    nats, and `supremum` the mean KL of the limit beta -> 0, without it. `shares` are the prompts' [G] in a mean.
    """

    groups: Groups
    shares: NDArray[np.float64]
    deficits: NDArray[np.float64]
    highest: NDArray[np.float64]
    exponent: int
    top: float
    excluded: float
    supremum: float


class _Range(NamedTuple):
    """What a function of 1/beta rises from, is to reach, and rises to."""

    bottom: float
    goal: float
    top: float


def solve_beta(
    rewards: ArrayLike, *, kl: float | None = None, reward: float | None = None, groups: ArrayLike | None = None
) -> float:
    """Find the beta at which ``prior exp(r / beta) / Z`` has a given KL to the prior, or a given mean reward.

    Both are as samples of the prior show them: ``KL = E_target[r] / beta - log Z`` and ``E_target[r]`` of each prompt,
    under the weights ``exp(r / beta)``, then their mean over completions (over prompts, weighted by their numbers of
    completions). Both rise with 1/beta, ``d E[r] / d(1/beta) = Var[r]`` and ``d KL / d(1/beta) = Var[r] / beta``, so
    there is one solution, found to 1e-12 relative where the numbers given determine it so well.

    With few samples a prompt both are off by what is of order 1/n, which `frontier` takes off and this does not: of 16
    samples of normal rewards, beta comes out 4 % low for a KL of 0.05 nats, and a fifth for one of 1 nat.

    Parameters
    ----------
    rewards
        Reward of each sample of the prior [N]; -inf gives weight exactly 0. Prompts without weight are left out.
    kl
        Mean KL(target‖prior) to reach, in nats.
    reward
        Mean reward to reach. Give either `kl` or `reward`.
    groups
        Offsets of the samples that share a prompt [P + 1]; all share one if not given.

    Returns
    -------
    beta, in reward per nat.

    Raises
    ------
    ValueError
        If not exactly one of `kl` and `reward` is given; if no beta reaches it, or these samples cannot show it: KL
        ends below the mean of log(n / number of completions tied at the highest reward), the mean reward lies between
        the prior's and the mean of the prompts' highest; if no beta changes anything, since the rewards of each prompt
        are equal; if a reward is NaN or +inf; or if `groups` are no offsets.

    References
    ----------
    Korbak, Perez, Buckley, "RL with KL penalties is better viewed as Bayesian inference", Findings of EMNLP 2022,
    arXiv:2205.11275.

    Examples
    --------
    >>> round(solve_beta([0.0, 1.0], reward=0.7310585786300049), 9)
    1.0
    >>> round(solve_beta([0.0, 1.0, 0.0, 3.0], kl=0.2, groups=[0, 2, 4]), 4)
    1.4453
    """
    array = as_rewards(rewards)
    prompts = as_groups(groups, len(array))
    below = _deficits(array, prompts)
    if kl is not None and reward is None:
        limits = _kl_range(below, float(kl), prompts.sizes)
        inverse = _solve_rising(lambda t: _kl_at(below, t), limits, math.sqrt(2 * limits.goal / _variance(below, 0.0)))
    elif reward is not None and kl is None:
        limits = _reward_range(below, float(reward))
        guess = (limits.goal - limits.bottom) / _variance(below, 0.0)
        inverse = _solve_rising(lambda t: _reward_at(below, t), limits, guess)
    else:
        raise ValueError("give either kl, in nats, or reward: one of them determines beta")
    try:
        return math.ldexp(1 / inverse, below.exponent)
    except OverflowError:
        raise ValueError(f"beta is above {np.finfo(np.float64).max:.1e}: ask for more, or scale the rewards") from None


def _deficits(rewards: NDArray[np.float64], prompts: Groups) -> _Deficits:
    if len(rewards) == 0:
        raise ValueError("rewards is empty: there is nothing to find beta from")
    finite = np.isfinite(rewards)
    counts = prompts.sums(finite)  # with weight, in each prompt
    kept = counts > 0
    if not kept.any():
        raise ValueError("all rewards are -inf: nothing has weight, whatever beta")
    drawn, groups = prompts.sizes[kept], Groups.from_sizes(counts[kept])
    shares = drawn / drawn.sum()
    # By powers of two, exactly: no difference of rewards overflows, and none that matters underflows.
    array = rewards[finite]
    first = math.frexp(float(np.abs(array).max()))[1]
    scaled = np.ldexp(array, -first)
    scaled -= scaled.max()
    highest = groups.largest(scaled)
    scaled -= groups.spread(highest)
    second = math.frexp(float(scaled.min()))[1]
    if scaled.min() == 0:
        raise ValueError(_no_frontier(drawn))
    ties = groups.sums(scaled == 0)
    return _Deficits(
        groups,
        shares,
        np.ldexp(scaled, -second),
        np.ldexp(highest, -second),
        first + second,
        float(array.max()),
        float(shares @ np.log(drawn / groups.sizes)),
        float(shares @ np.log(groups.sizes / ties)),
    )


def _no_frontier(drawn: NDArray[np.int64]) -> str:
    if drawn.max() == 1:
        return (
            "rewards has a single completion a prompt: under any beta it has all of its prompt's weight, and no beta "
            "changes anything. Draw several a prompt, and say which by groups"
        )
    return "rewards are equal within each prompt: the frontier is a point, no beta changes anything"


def _kl_range(below: _Deficits, kl: float, drawn: NDArray[np.int64]) -> _Range:
    supremum = below.excluded + below.supremum
    if not (math.isfinite(kl) and kl > 0):
        raise ValueError(f"kl is {kl}: it must be a positive number of nats")
    if kl >= supremum:
        few, many = int(drawn[drawn > 0].min()), int(drawn.max())
        count = f"{many}" if few == many else f"{few} to {many}"
        raise ValueError(
            f"kl is {kl:g}: these samples show at most {supremum:.6g} nats from {count} samples a prompt, the mean of "
            "log(samples / those tied at the highest reward), and no beta reaches it. Draw more, or ask for less"
        )
    if kl <= below.excluded:
        raise ValueError(
            f"kl is {kl:g}: the target excludes rewards of -inf, which alone takes {below.excluded:.6g} nats, and "
            "every beta adds to it. Ask for more"
        )
    return _Range(0.0, kl - below.excluded, below.supremum)


def _reward_range(below: _Deficits, reward: float) -> _Range:
    if not math.isfinite(reward):
        raise ValueError(f"reward is {reward}: it must be finite")
    shares, unit = below.shares, math.ldexp(0.125, below.exponent)
    prior = float(shares @ below.groups.means(below.deficits))
    # In eighths, which cannot overflow; then in the units of the deficits, from the mean of the prompts' highest.
    highest = float(shares @ below.highest)
    goal = (reward / 8 - below.top / 8) / unit - highest
    if goal >= 0:
        raise ValueError(
            f"reward is {reward:g}: the mean of the prompts' highest rewards is {_restored(below, highest):g}, and no "
            "beta reaches it with these samples. Draw more, or ask for less"
        )
    if goal <= prior:
        raise ValueError(
            f"reward is {reward:g}: the prior's mean is {_restored(below, highest + prior):g} over completions with "
            "weight, and a reward at or below it would need a beta that is infinite or negative. Ask for more"
        )
    return _Range(prior, goal, 0.0)


def _restored(below: _Deficits, deficit: float) -> float:
    """Return to the reward's own unit."""
    return 8 * (below.top / 8 + deficit * math.ldexp(0.125, below.exponent))


def _weights(below: _Deficits, inverse: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Self-normalised weights [M], and the log of the mean unnormalised weight of each prompt [G]."""
    groups = below.groups
    weights = np.exp(below.deficits * inverse)  # at most 1, and 1 somewhere in each prompt
    total = groups.sums(weights)
    weights /= groups.spread(total)
    return weights, np.log(total / groups.sizes)


def _spread_of(below: _Deficits, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Mean deficit of each prompt under its weights [G], and the mean variance."""
    groups, deficits = below.groups, below.deficits
    means = groups.sums(weights * deficits)
    residuals = deficits - groups.spread(means)
    residuals *= residuals
    residuals *= weights
    return means, float(below.shares @ groups.sums(residuals))


def _variance(below: _Deficits, inverse: float) -> float:
    return _spread_of(below, _weights(below, inverse)[0])[1]


def _reward_at(below: _Deficits, inverse: float) -> tuple[float, float]:
    """Mean deficit at this 1/beta, and its derivative."""
    means, variance = _spread_of(below, _weights(below, inverse)[0])
    return float(below.shares @ means), variance


def _kl_at(below: _Deficits, inverse: float) -> tuple[float, float]:
    """Mean KL to the prior's samples with weight, in nats, at this 1/beta, and its derivative."""
    weights, log_z = _weights(below, inverse)
    means, variance = _spread_of(below, weights)
    kl = float(below.shares @ (inverse * means - log_z))
    if kl < SMALL_KL:
        kl = _small_kl(below, inverse)
    return kl, inverse * variance


def _small_kl(below: _Deficits, inverse: float) -> float:
    """Mean of ``w log w - w + 1``, where w is 1 on average: a sum of terms that are never negative loses no digits."""
    groups = below.groups
    potential = below.deficits * inverse
    log_z = np.log1p(groups.means(np.expm1(potential)))
    y = potential - groups.spread(log_z)
    terms = y * np.exp(y) - np.expm1(y)
    near = np.flatnonzero(np.abs(y) < 0.01)
    small = y if len(near) == len(y) else y[near]
    # The series of y exp(y) - expm1(y), (k - 1) / k! y^k, from k = 2.
    series = np.full_like(small, 7 / math.factorial(8))
    for k in range(7, 1, -1):
        series *= small
        series += (k - 1) / math.factorial(k)
    terms[near] = series * small * small
    return float(below.shares @ groups.means(terms))


def _solve_rising(at: Callable[[float], tuple[float, float]], limits: _Range, guess: float) -> float:
    """Find where a rising function of t > 0 takes the goal's value, by Newton steps that stay in a bracket."""
    low, high, t = 0.0, math.inf, guess
    for step in range(MAX_STEPS):
        value, slope = at(t)
        if value == limits.goal:
            return t
        if value > limits.goal or slope == 0:  # no slope: nothing but the highest has weight
            high = t
        else:
            low = t
        following = _newton(t, value, slope, limits) if step < MAX_STEPS // 4 else math.nan
        if abs(following - t) <= CLOSE * t:
            return following
        if not max(low, t / 16) < following < min(high, t * 16):
            following = _middle(low, high, t)
        if high <= low * (1 + CLOSE):
            return following
        t = following
    return t


def _newton(t: float, value: float, slope: float, limits: _Range) -> float:
    """Step to where the goal would be if the function were a power of t, or, near its end, fell short exponentially."""
    bottom, goal, top = limits
    if slope == 0 or not bottom < value < top:
        return math.nan
    if goal - bottom < (top - bottom) / 2:
        exponent = math.log((goal - bottom) / (value - bottom)) * (value - bottom) / (slope * t)
        return t * math.exp(min(max(exponent, -9.0), 9.0))
    return t + math.log((top - value) / (top - goal)) * (top - value) / slope


def _middle(low: float, high: float, t: float) -> float:
    """Return the geometric middle of the bracket, or go on 16-fold where it is open."""
    if high == math.inf:
        return 16 * t
    return t / 16 if low == 0 else math.sqrt(low) * math.sqrt(high)
