"""The f-divergences that `f_dpg` minimises: derivative and value of each, from log-ratios of target and policy.

Go et al., arXiv:2302.08215, table 1, whose generators take the argument ``t = policy / target``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FDivergence = Literal["forward-kl", "reverse-kl", "tv", "js", "forward-chi2", "reverse-chi2"]


def divergence_rewards(log_weights: NDArray[np.float64], divergence: FDivergence) -> NDArray[np.float64]:
    """Return ``-f'(t)`` of each completion, from ``log(1 / t)``."""
    match divergence:
        case "forward-kl":
            return exp(log_weights)
        case "reverse-kl":
            return log_weights - 1
        case "tv":
            return np.sign(log_weights) / 2
        case "js":
            return _log_halfway(log_weights)
        case "forward-chi2":
            return exp(2 * log_weights) - 1
        case "reverse-chi2":
            return 2 - 2 * exp(-log_weights)


def divergence_terms(log_weights: NDArray[np.float64], divergence: FDivergence) -> NDArray[np.float64]:
    """Return ``f(t) / t`` of each completion, from ``log(1 / t)``, for f less its tangent at 1."""
    weights = exp(log_weights)
    match divergence:
        case "forward-kl":
            return product(weights, log_weights) - weights + 1
        case "reverse-kl":
            return weights - 1 - log_weights
        case "tv":
            return np.abs(weights - 1) / 2
        case "js":
            return product(weights, -_log_halfway(-log_weights)) - _log_halfway(log_weights)
        case "forward-chi2":
            return (weights - 1) ** 2
        case "reverse-chi2":
            return weights - 2 + exp(-log_weights)


def _log_halfway(log_ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of ``(1 + ratio) / 2``."""
    halfway: NDArray[np.float64] = np.logaddexp(0.0, log_ratios) - np.log(2)
    return halfway


def exp(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the exponential, which may overflow to inf: the caller checks the coefficients."""
    with np.errstate(over="ignore"):
        exponentials: NDArray[np.float64] = np.exp(values)
    return exponentials


def product(weights: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the product, which is 0 where the weight is 0, whatever the value."""
    products: NDArray[np.float64] = np.multiply(weights, values, out=np.zeros(len(weights)), where=weights > 0)
    return products


def check_divergence(divergence: str, log_target: NDArray[np.float64]) -> None:
    """Raise `ValueError` if `divergence` is none of the six, or infinite as the target excludes a completion."""
    if divergence not in get_args(FDivergence):
        raise ValueError(f"divergence is {divergence!r}: it must be one of {', '.join(get_args(FDivergence))}")
    excluded = np.flatnonzero(log_target == -np.inf)
    if divergence.startswith("reverse") and len(excluded):
        raise ValueError(
            f"log_target[{excluded[0]}] is -inf, and {divergence} infinite: use a divergence that bears it, such as "
            "js or forward-kl"
        )
