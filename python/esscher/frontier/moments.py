"""The coefficients whose target has given mean features, by Newton's method on log Z."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.groups import Groups, as_groups
from esscher.target import as_features

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


# When the coefficients are found: Newton's last step, relative, so that what is left is about its square.
LAST_STEP = 1e-8
MAX_STEPS = 100


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
    Khalifa, Elsahar, Dymetman, "A distributional approach to controlled text generation", ICLR 2021,
    arXiv:2012.11635.

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
    given = as_groups(groups, len(array))
    prompts, k = len(given.sizes), array.shape[1]
    goals = _as_moments(moments, k, prompts if per_prompt else None)
    if not per_prompt:
        filled = Groups.from_sizes(given.sizes[given.sizes > 0])
        if len(filled.sizes) == 0:
            raise ValueError("features is empty: there is nothing to take moments of")
        return _coefficients(array, goals, filled, "moments", "")
    goals = np.broadcast_to(goals, (prompts, k))
    found = np.empty((prompts, k))
    for p, (start, stop) in enumerate(itertools.pairwise(given.tolist())):
        if start == stop:
            raise ValueError(f"prompt {p} has no samples: there is nothing to take its moments of")
        one = as_groups(None, stop - start)
        name = f"moments[{p}]" if np.ndim(moments) == 2 else "moments"
        found[p] = _coefficients(array[start:stop], goals[p], one, name, f" of prompt {p}")
    return found


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
    features: NDArray[np.float64], moments: NDArray[np.float64], groups: Groups, name: str, where: str
) -> NDArray[np.float64]:
    low = _shares(groups) @ groups.smallest(features)
    high = _shares(groups) @ groups.largest(features)
    _check_range(moments, low, high, name, where)
    deviations, whitening = _whiten(features, groups)
    # Both in units in which the prior's features have covariance 1.
    goal = (moments - _shares(groups) @ _group_means(features, groups)) @ whitening
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


def _shares(groups: Groups) -> NDArray[np.float64]:
    """Return each prompt's share of the samples [G]."""
    shares: NDArray[np.float64] = groups.sizes / groups[-1]
    return shares


def _group_means(features: NDArray[np.float64], groups: Groups) -> NDArray[np.float64]:
    # From a sample of the same prompt, so that a large offset that all share costs no digits.
    first = features[groups.starts]
    return first + groups.means(features - groups.spread(first))


def _whiten(features: NDArray[np.float64], groups: Groups) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Deviations from each prompt's mean [N, K], and a matrix [K, R] that gives them covariance 1 over prompts.

    R is below K where features depend on each other linearly, or do not vary.
    """
    deviations = features - groups.spread(_group_means(features, groups))
    size = np.abs(deviations).max(axis=0)
    constant = size <= 1e-14 * np.abs(features).max(axis=0)  # but for rounding
    size[constant], deviations[:, constant] = 1.0, 0.0
    scaled = deviations / size
    deviation = np.sqrt(_shares(groups) @ groups.means(scaled * scaled))
    deviation[constant] = 1.0
    scaled /= deviation
    equal = groups.spread(1 / groups.sizes)
    values, vectors = np.linalg.eigh(_covariance(scaled, equal, groups))
    kept = values > 1e-13 * len(values)
    unit = vectors[:, kept] / np.sqrt(values[kept])
    return deviations, unit / (size * deviation)[:, None]


def _covariance(centred: NDArray[np.float64], weights: NDArray[np.float64], groups: Groups) -> NDArray[np.float64]:
    """Mean over prompts of the covariance within each [K, K]; `centred` has mean 0 in each prompt."""
    columns = [_shares(groups) @ groups.sums(weights[:, None] * column[:, None] * centred) for column in centred.T]
    return np.stack(columns)


class _Dual(NamedTuple):
    """``log Z - goal @ z`` in nats, its gradient [R] and Hessian [R, R], averaged over prompts."""

    value: float
    gradient: NDArray[np.float64]
    hessian: NDArray[np.float64]


def _dual(points: NDArray[np.float64], goal: NDArray[np.float64], groups: Groups, z: NDArray[np.float64]) -> _Dual:
    weights, log_z = _tilted(points @ z, groups)
    means = groups.sums(weights[:, None] * points)
    hessian = _covariance(points - groups.spread(means), weights, groups)
    return _Dual(float(_shares(groups) @ log_z - goal @ z), _shares(groups) @ means - goal, hessian)


def _tilted(potential: NDArray[np.float64], groups: Groups) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Self-normalised weights [N] and the log of the mean unnormalised one [G]."""
    highest = groups.largest(potential)
    weights = np.exp(potential - groups.spread(highest))
    total = groups.sums(weights)
    return weights / groups.spread(total), highest + np.log(total / groups.sizes)


def _minimum(points: NDArray[np.float64], goal: NDArray[np.float64], groups: Groups) -> NDArray[np.float64] | None:
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
        if float(_shares(groups) @ groups.largest(points @ step)) <= goal @ step:
            return None  # all mixtures lie on one side of the goal
        z, here = _descend(points, goal, groups, z, here, step)
    return None


def _descend(
    points: NDArray[np.float64],
    goal: NDArray[np.float64],
    groups: Groups,
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
    features: NDArray[np.float64], moments: NDArray[np.float64], coefficients: NDArray[np.float64], groups: Groups
) -> bool:
    """Tell whether the moments are met to 1e-10 of each feature's size; not, if dependent features contradict them."""
    first = features[groups.starts]
    from_first = features - groups.spread(first)
    weights, _ = _tilted(from_first @ coefficients, groups)
    attained = _shares(groups) @ groups.sums(weights[:, None] * from_first)
    size = np.abs(from_first).max(axis=0) + 1e-3 * np.abs(features).max(axis=0)
    return bool((np.abs(attained - (moments - _shares(groups) @ first)) <= 1e-10 * size).all())
