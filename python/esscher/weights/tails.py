"""How heavy a tail of weights may be for what rests on them to be trusted."""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# How often the largest Pareto k of many prompts may be taken for more than chance makes of it.
CHANCE = 0.01
# No estimate can be trusted whose weights have a larger Pareto k, from however many.
TRUSTED_BY_NONE = 0.7
# Above this share of completions that carries weight, a mean of few is as good as one of many.
NEARLY_EQUAL = 0.95


def trusted_pareto_k(n: int) -> float:
    """Up to which Pareto k an estimate from n weights can be trusted: ``min(1 - 1 / log10(n), 0.7)``.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto smoothed importance sampling", JMLR 2024, eq. 13,
    arXiv:1507.02646.

    Examples
    --------
    >>> trusted_pareto_k(100), trusted_pareto_k(10_000)
    (0.5, 0.7)
    """
    return min(1.0 - 1.0 / float(np.log10(n)), TRUSTED_BY_NONE) if n > 1 else -np.inf


def tails_that_decide(
    pareto_k: NDArray[np.float64], ess: NDArray[np.float64], alive: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return Pareto k, but -inf where weights hardly differ, but for those of 0: their tail decides nothing.

    Parameters
    ----------
    pareto_k, ess
        Tail shape and effective sample size of each prompt's weights [P, ...].
    alive
        How many of them are not 0, in a shape that fits.

    Examples
    --------
    >>> import numpy as np
    >>> tails_that_decide(np.array([0.9, 0.9]), np.array([99.0, 30.0]), np.array([100, 100]))
    array([-inf,  0.9])
    """
    return np.where((ess >= NEARLY_EQUAL * alive) & ~np.isnan(pareto_k), -np.inf, pareto_k)


def count_heavy(pareto_k: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return in how many prompts Pareto k is above what is to be trusted; 0 where that may be chance.

    k is itself an estimate, with an error of about ``(1 + k) / sqrt(tail)``: of many prompts some are always above. It
    is no chance if more than half of the prompts that have a k are, if more are by one of its errors than would be one
    time in 100, or if one is by so many of its errors as one time in 100 the largest would be.

    Parameters
    ----------
    pareto_k
        Tail shape of each prompt's weights [P, ...]; NaN where there is none.
    sizes
        Each prompt's number of weights [P].

    Returns
    -------
    The numbers, in the shape of `pareto_k` without its first axis.

    Examples
    --------
    >>> import numpy as np
    >>> few, most, one = [0.6, 0.2, 0.1], [0.6, 0.6, 0.1], [1.9, 0.2, 0.1]
    >>> count_heavy(np.transpose([few, most, one]), np.full(3, 100))
    array([0, 2, 1])
    """
    per_prompt = (-1, *[1] * (pareto_k.ndim - 1))
    known_sizes, which = np.unique(sizes, return_inverse=True)
    good = np.array([trusted_pareto_k(n) for n in known_sizes.tolist()])[which].reshape(per_prompt)
    tails = np.where(sizes > 225, 3 * np.sqrt(sizes), np.maximum(sizes, 1) / 5).reshape(per_prompt)
    error = (1 + np.maximum(good, 0.0)) / np.sqrt(tails)
    # NaN is above nothing.
    known, heavy = (~np.isnan(pareto_k)).sum(axis=0), (pareto_k > good).sum(axis=0)
    far = (pareto_k > good + NormalDist().inv_cdf(1 - CHANCE / max(len(sizes), 1)) * error).any(axis=0)
    several = (pareto_k > good + error).sum(axis=0) > _most_by_chance(known)
    counts: NDArray[np.int64] = np.where(far | several | (2 * heavy > known), heavy, 0)
    return counts


def _most_by_chance(n: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of n are beyond one standard error above, but for one time in 100 (binomial)."""
    beyond = 1 - NormalDist().cdf(1.0)
    quantiles = [_binomial_quantile(one, beyond, 1 - CHANCE) for one in n.ravel().tolist()]
    return np.array(quantiles, np.int64).reshape(n.shape)


@lru_cache(maxsize=256)
def _binomial_quantile(n: int, p: float, level: float) -> int:
    k = np.arange(1, n + 1)
    log_choices = np.concatenate([[0.0], np.cumsum(np.log((n - k + 1) / k))])
    every = np.arange(n + 1)
    return int(np.searchsorted(np.cumsum(np.exp(log_choices + every * np.log(p) + (n - every) * np.log1p(-p))), level))
