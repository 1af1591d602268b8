"""Modelling backwards: find the target that has the KL, the reward or the mean features that one asks for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.ragged import as_groups
from esscher.target import as_features, as_rewards

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from esscher.ragged import Offsets

# Below this KL, in nats, the formula for large ones would lose digits.
SMALL_KL = 1e-3
# When 1/beta is found, relative.
CLOSE = 1e-15
# When coefficients are: Newton's last step, relative, so that what is left is about its square.
LAST_STEP = 1e-8
MAX_STEPS = 100


class _Groups(NamedTuple):
    """Prompts that have samples: where each begins [G], how many it has [G], and its share in a mean [G]."""

    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    shares: NDArray[np.float64]

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum over each prompt's samples: [N, ...] to [G, ...]."""
        total: NDArray[np.float64] = np.add.reduceat(values, self.starts, axis=0)
        return total

    def spread(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give each sample its prompt's value: [G, ...] to [N, ...], or to [1, ...] if there is one prompt."""
        return values if len(values) == 1 else np.repeat(values, self.sizes, axis=0)


class _Deficits(NamedTuple):
    """How far rewards lie below their prompt's highest, in units of ``2 ** exponent``, without those of -inf.

    `deficits` [M] are from -1 to 0, `highest` [G] the prompts' highest rewards less the highest of all, in the
    same units, which is `top` as it was given; `excluded` is the mean of log(completions / those with weight) in
    nats, and `supremum` the mean KL of the limit beta -> 0, without it.
    """

    groups: _Groups
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
    Korbak, Perez, Buckley, "RL with KL penalties is better viewed as Bayesian inference", Findings of EMNLP 2022.

    Examples
    --------
    >>> round(solve_beta([0.0, 1.0], reward=0.7310585786300049), 9)
    1.0
    >>> round(solve_beta([0.0, 1.0, 0.0, 3.0], kl=0.2, groups=[0, 2, 4]), 4)
    1.4453
    """
    if (kl is None) == (reward is None):
        raise ValueError("give either kl, in nats, or reward: one of them determines beta")
    array = as_rewards(rewards)
    offsets = as_groups(groups, len(array))
    below = _deficits(array, offsets)
    if kl is not None:
        limits = _kl_range(below, float(kl), np.diff(offsets))
        inverse = _solve_rising(lambda t: _kl_at(below, t), limits, math.sqrt(2 * limits.goal / _variance(below, 0.0)))
    else:
        assert reward is not None  # one of them is given
        limits = _reward_range(below, float(reward))
        guess = (limits.goal - limits.bottom) / _variance(below, 0.0)
        inverse = _solve_rising(lambda t: _reward_at(below, t), limits, guess)
    try:
        return math.ldexp(1 / inverse, below.exponent)
    except OverflowError:
        raise ValueError(f"beta is above {np.finfo(np.float64).max:.1e}: ask for more, or scale the rewards") from None


def solve_moments(
    features: ArrayLike, moments: ArrayLike, *, groups: ArrayLike | None = None, per_prompt: bool = False
) -> NDArray[np.float64]:
    """Find the coefficients at which ``prior exp(features @ coefficients) / Z`` has given mean features.

    As samples of the prior show it: self-normalised weights ``exp(features @ coefficients)``, prompt by prompt, and
    the mean over completions (over prompts, weighted by their numbers of completions) of the features under them.
    One vector of coefficients serves all prompts, so that the moments hold on average over them, or each prompt has
    its own moments and coefficients. It is the minimum of the convex ``log Z - moments @ coefficients``, found by
    Newton's method; the target for them is ``Moments(coefficients)``.

    Parameters
    ----------
    features
        Features of each sample of the prior [N, K], or [N] if K = 1; finite.
    moments
        Means to reach [K]; or [P, K], if each prompt has its own.
    groups
        Offsets of the samples that share a prompt [P + 1]; all share one if not given.
    per_prompt
        Whether each prompt has coefficients of its own.

    Returns
    -------
    Coefficients in nats per unit of the feature [K], or [P, K] if `per_prompt`. Where features depend on each other
    linearly, many would do; these are the smallest, with each feature measured in its standard deviations.

    Raises
    ------
    ValueError
        If no finite coefficients reach the moments with these samples: one is at or beyond what its feature's
        smallest and largest values allow, or they cannot be met together; if shapes disagree, a number is not finite,
        a prompt that needs coefficients has no samples; or if `groups` are no offsets.

    References
    ----------
    Khalifa, Elsahar, Dymetman, "A distributional approach to controlled text generation", ICLR 2021.

    Examples
    --------
    >>> import numpy as np
    >>> solve_moments([0.0, 0.0, 0.0, 1.0], [0.5]).round(4)  # log 3
    array([1.0986])
    >>> solve_moments([0.0, 1.0, 0.0, 4.0], [[0.5], [3.0]], groups=[0, 2, 4], per_prompt=True).round(4) + 0.0
    array([[0.    ],
           [0.2747]])
    """
    array = as_features(features)
    offsets = as_groups(groups, len(array))
    prompts, k = len(offsets) - 1, array.shape[1]
    goals = _as_moments(moments, k, prompts if per_prompt else None)
    if not per_prompt:
        filled = _filled(offsets)
        if len(filled.sizes) == 0:
            raise ValueError("features is empty: there is nothing to take moments of")
        return _coefficients(array, goals, filled, "moments", "")
    goals = np.broadcast_to(goals, (prompts, k))
    found = np.empty((prompts, k))
    for p, (start, stop) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        if start == stop:
            raise ValueError(f"prompt {p} has no samples: there is nothing to take its moments of")
        one = _filled(np.array([0, stop - start]))
        name = f"moments[{p}]" if np.ndim(moments) == 2 else "moments"
        found[p] = _coefficients(array[start:stop], goals[p], one, name, f" of prompt {p}")
    return found


def _filled(offsets: Offsets) -> _Groups:
    """Leave out prompts without samples."""
    sizes = np.diff(offsets)
    kept = sizes > 0
    return _Groups(offsets[:-1][kept], sizes[kept], sizes[kept] / max(int(sizes.sum()), 1))


def _deficits(rewards: NDArray[np.float64], offsets: Offsets) -> _Deficits:
    if len(rewards) == 0:
        raise ValueError("rewards is empty: there is nothing to find beta from")
    finite = np.isfinite(rewards)
    counts = np.diff(np.concatenate([[0], np.cumsum(finite)])[offsets])  # with weight, in each prompt
    kept = counts > 0
    if not kept.any():
        raise ValueError("all rewards are -inf: nothing has weight, whatever beta")
    drawn = np.diff(offsets)[kept]
    sizes = counts[kept]
    groups = _Groups(np.cumsum(sizes) - sizes, sizes, drawn / drawn.sum())
    # By powers of two, exactly: no difference of rewards overflows, and none that matters underflows.
    array = rewards[finite]
    first = math.frexp(float(np.abs(array).max()))[1]
    scaled = np.ldexp(array, -first)
    scaled -= scaled.max()
    highest = np.maximum.reduceat(scaled, groups.starts)
    scaled -= groups.spread(highest)
    second = math.frexp(float(scaled.min()))[1]
    if scaled.min() == 0:
        raise ValueError(_no_frontier(drawn))
    ties = groups.sums((scaled == 0).astype(np.float64))
    return _Deficits(
        groups,
        np.ldexp(scaled, -second),
        np.ldexp(highest, -second),
        first + second,
        float(array.max()),
        float(groups.shares @ np.log(drawn / sizes)),
        float(groups.shares @ np.log(sizes / ties)),
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
    shares, unit = below.groups.shares, math.ldexp(0.125, below.exponent)
    prior = float(shares @ _means(below))
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


def _means(below: _Deficits) -> NDArray[np.float64]:
    return below.groups.sums(below.deficits) / below.groups.sizes


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
    return means, float(groups.shares @ groups.sums(residuals))


def _variance(below: _Deficits, inverse: float) -> float:
    return _spread_of(below, _weights(below, inverse)[0])[1]


def _reward_at(below: _Deficits, inverse: float) -> tuple[float, float]:
    """Mean deficit at this 1/beta, and its derivative."""
    means, variance = _spread_of(below, _weights(below, inverse)[0])
    return float(below.groups.shares @ means), variance


def _kl_at(below: _Deficits, inverse: float) -> tuple[float, float]:
    """Mean KL to the prior's samples with weight, in nats, at this 1/beta, and its derivative."""
    weights, log_z = _weights(below, inverse)
    means, variance = _spread_of(below, weights)
    kl = float(below.groups.shares @ (inverse * means - log_z))
    if kl < SMALL_KL:
        kl = _small_kl(below, inverse)
    return kl, inverse * variance


def _small_kl(below: _Deficits, inverse: float) -> float:
    """Mean of ``w log w - w + 1``, where w is 1 on average: a sum of terms that are never negative loses no digits."""
    groups = below.groups
    potential = below.deficits * inverse
    log_z = np.log1p(groups.sums(np.expm1(potential)) / groups.sizes)
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
    return float(groups.shares @ (groups.sums(terms) / groups.sizes))


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


def _as_moments(moments: ArrayLike, k: int, prompts: int | None) -> NDArray[np.float64]:
    array = np.asarray(moments, dtype=np.float64)
    shapes = [(k,)] if prompts is None else [(k,), (prompts, k)]
    if array.shape not in shapes:
        expected = " or ".join(str(shape) for shape in shapes)
        raise ValueError(f"moments has shape {array.shape}: it must be {expected}, with an entry for each feature")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        index = ", ".join(str(i) for i in bad[0])
        raise ValueError(f"moments[{index}] is {array[tuple(bad[0])]}: it must be finite")
    return array


def _coefficients(
    features: NDArray[np.float64], moments: NDArray[np.float64], groups: _Groups, name: str, where: str
) -> NDArray[np.float64]:
    low = groups.shares @ np.minimum.reduceat(features, groups.starts, axis=0)
    high = groups.shares @ np.maximum.reduceat(features, groups.starts, axis=0)
    _check_range(moments, low, high, name, where)
    deviations, whitening = _whiten(features, groups)
    # Both in units in which the prior's features have covariance 1.
    goal = (moments - groups.shares @ _group_means(features, groups)) @ whitening
    found = _minimum(deviations @ whitening, goal, groups)
    coefficients: NDArray[np.float64] = whitening @ found if found is not None else np.full(len(moments), np.nan)
    if found is None or not _meets(features, moments, coefficients, groups):
        ranges = ", ".join(f"{a:g} to {b:g}" for a, b in zip(low, high, strict=True))
        raise ValueError(
            f"{name} cannot be met together by weighting the samples{where}: no mixture of them has these means, or "
            f"only one that leaves some out. Features range from {ranges}, each on its own. Move the moments towards "
            "the prior's, or draw more"
        )
    return coefficients


def _check_range(
    moments: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], name: str, where: str
) -> None:
    """Raise for a moment that its feature cannot have, whatever the others."""
    fixed = high - low <= 1e-13 * np.maximum(np.abs(low), np.abs(high))
    unmet = ~np.isclose(moments, low, rtol=1e-12, atol=0)
    bad = np.flatnonzero(np.where(fixed, unmet, (moments <= low) | (moments >= high)))
    if len(bad) == 0:
        return
    k = int(bad[0])
    index = f"{name[:-1]}, {k}]" if name.endswith("]") else f"{name}[{k}]"
    if fixed[k]:
        raise ValueError(f"{index} is {moments[k]:g}: feature {k} is {low[k]:g} in every sample{where}, and stays so")
    ranges = ", ".join(f"{a:g} to {b:g}" for a, b in zip(low, high, strict=True))
    raise ValueError(
        f"{index} is {moments[k]:g}: weighting the samples{where} gives feature {k} a mean between {low[k]:g} and "
        f"{high[k]:g}, both excluded (features: {ranges}). Ask for a moment in between, or draw more"
    )


def _group_means(features: NDArray[np.float64], groups: _Groups) -> NDArray[np.float64]:
    # From a sample of the same prompt, so that a large offset that all share costs no digits.
    first = features[groups.starts]
    return first + groups.sums(features - groups.spread(first)) / groups.sizes[:, None]


def _whiten(features: NDArray[np.float64], groups: _Groups) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Deviations from each prompt's mean [N, K], and a matrix [K, R] that gives them covariance 1 over prompts.

    R is below K where features depend on each other linearly, or do not vary.
    """
    deviations = features - groups.spread(_group_means(features, groups))
    size = np.abs(deviations).max(axis=0)
    constant = size <= 1e-14 * np.abs(features).max(axis=0)  # but for rounding
    size[constant], deviations[:, constant] = 1.0, 0.0
    scaled = deviations / size
    deviation = np.sqrt(groups.shares @ (groups.sums(scaled * scaled) / groups.sizes[:, None]))
    deviation[constant] = 1.0
    scaled /= deviation
    equal = np.broadcast_to(groups.spread(1 / groups.sizes), len(features))
    values, vectors = np.linalg.eigh(_covariance(scaled, equal, groups))
    kept = values > 1e-13 * len(values)
    unit = vectors[:, kept] / np.sqrt(values[kept])
    return deviations, unit / (size * deviation)[:, None]


def _covariance(centred: NDArray[np.float64], weights: NDArray[np.float64], groups: _Groups) -> NDArray[np.float64]:
    """Mean over prompts of the covariance within each [K, K]; `centred` has mean 0 in each prompt."""
    columns = [groups.shares @ groups.sums(weights[:, None] * column[:, None] * centred) for column in centred.T]
    return np.stack(columns)


class _Dual(NamedTuple):
    """``log Z - goal @ z`` in nats, its gradient [R] and Hessian [R, R], averaged over prompts."""

    value: float
    gradient: NDArray[np.float64]
    hessian: NDArray[np.float64]


def _dual(points: NDArray[np.float64], goal: NDArray[np.float64], groups: _Groups, z: NDArray[np.float64]) -> _Dual:
    weights, log_z = _tilted(points @ z, groups)
    means = groups.sums(weights[:, None] * points)
    hessian = _covariance(points - groups.spread(means), weights, groups)
    return _Dual(float(groups.shares @ log_z - goal @ z), groups.shares @ means - goal, hessian)


def _tilted(potential: NDArray[np.float64], groups: _Groups) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Self-normalised weights [N] and the log of the mean unnormalised one [G]."""
    highest = np.maximum.reduceat(potential, groups.starts)
    weights = np.exp(potential - groups.spread(highest))
    total = groups.sums(weights)
    return weights / groups.spread(total), highest + np.log(total / groups.sizes)


def _minimum(points: NDArray[np.float64], goal: NDArray[np.float64], groups: _Groups) -> NDArray[np.float64] | None:
    """Minimise `_dual` by damped Newton steps; `None` if it has no minimum.

    It has none if the goal is on the border of the hull of the points, or outside. Outside, it falls for ever; on the
    border, it levels off with steps that do not grow shorter, and a Hessian that vanishes. Inside, steps shrink
    quadratically.
    """
    z = np.zeros(len(goal))
    here = _dual(points, goal, groups, z)
    for _ in range(MAX_STEPS):
        if len(z) and np.linalg.eigvalsh(here.hessian)[0] < 1e-13:
            return None
        step = np.asarray(-np.linalg.solve(here.hessian, here.gradient), dtype=np.float64)
        if np.abs(step).max(initial=0.0) <= LAST_STEP * (1 + np.abs(z).max(initial=0.0)):
            return z + step
        if float(groups.shares @ np.maximum.reduceat(points @ step, groups.starts)) <= goal @ step:
            return None  # all mixtures lie on one side of the goal
        z, here = _descend(points, goal, groups, z, here, step)
    return None


def _descend(
    points: NDArray[np.float64],
    goal: NDArray[np.float64],
    groups: _Groups,
    z: NDArray[np.float64],
    here: _Dual,
    step: NDArray[np.float64],
) -> tuple[NDArray[np.float64], _Dual]:
    """Take the step, or as much of it as lowers the value."""
    slope, rounding = float(here.gradient @ step), 1e-14 * (1 + abs(here.value))
    size = 1.0
    while True:
        there = _dual(points, goal, groups, z + size * step)
        if there.value <= here.value + 1e-4 * size * slope + rounding or size < 1e-6:
            return z + size * step, there
        size /= 2


def _meets(
    features: NDArray[np.float64], moments: NDArray[np.float64], coefficients: NDArray[np.float64], groups: _Groups
) -> bool:
    """Tell whether the moments are met to 1e-10 of each feature's size; not, if dependent features contradict them."""
    first = features[groups.starts]
    from_first = features - groups.spread(first)
    weights, _ = _tilted(from_first @ coefficients, groups)
    attained = groups.shares @ groups.sums(weights[:, None] * from_first)
    size = np.abs(from_first).max(axis=0) + 1e-3 * np.abs(features).max(axis=0)
    return bool((np.abs(attained - (moments - groups.shares @ first)) <= 1e-10 * size).all())
