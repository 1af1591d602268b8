"""KL of best-of-n from the prior."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher.inference.best_of_n import check_n
from esscher.inference.validation import as_column, refuse

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Up to this log of n times a winner's probability, the exact term and its limit agree in every digit.
LOG_NEGLIGIBLE = -40.0


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
    policy", 2024, arXiv:2401.01879.

    Examples
    --------
    >>> import numpy as np
    >>> best_of_n_kl([-1000.0, np.log(0.5), 0.0], 4).round(4)
    array([0.6363, 0.4991, 0.    ])
    """
    log_e = as_column("log_prior_of_winners", log_prior_of_winners)
    check_n("n", n)
    rule = "a winner has a finite log-prob of at most 0 under the prior that it was drawn from"
    refuse("log_prior_of_winners", log_e, ~(np.isfinite(log_e) & (log_e <= 0)), rule)
    # What is rare enough is as far from the prior as anything can be, and needs no exponential.
    kl = np.full(len(log_e), best_of_n_kl_bound(n))
    kl[log_e == 0] = 0.0
    likely = (log_e < 0) & (log_e > LOG_NEGLIGIBLE - np.log(n))
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
    Beirami et al., arXiv:2401.01879.

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
