"""What log-probs of sampled tokens say of each completion: its log-prob, and the estimators of KL(policy‖prior)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from esscher import _core
from esscher.ragged import as_floats, check_rows, widened

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.ragged import Masked, Padded, Ragged

# Up to this log-ratio five terms of k3's series are as good as the formula beyond it.
NEAR, TERMS = 2.0**-7, 5
Estimator = Literal["k1", "k2", "k3", "abs"]
Level = Literal["token", "sequence"]
Precision = Literal["f64", "mixed"]


class LogprobAggregates(NamedTuple):
    """What the tokens of each sequence add up to: its log-prob [N] and their mean [N] in nats, their number [N]."""

    log_prob: NDArray[np.float64]
    mean: NDArray[np.float64]
    length: NDArray[np.int64]


class KlEstimators(NamedTuple):
    """The estimators of KL(policy‖prior) of each completion [N], in nats."""

    k1: NDArray[np.float64]
    k2: NDArray[np.float64]
    k3: NDArray[np.float64]
    abs: NDArray[np.float64]


def sequence_logprobs(logprobs: Ragged | Masked | Padded, *, threads: int | None = None) -> NDArray[np.float64]:
    """Return the log-prob of every sequence: the sum over its tokens.

    ``log p(y) = sum_t log p(y_t | y_<t)``

    Parameters
    ----------
    logprobs
        Per-token log-probs in nats, float32, float64 or bfloat16; summed in float64.
    threads
        How many threads to use; all cores if not given. The result does not depend on it.

    Returns
    -------
    Log-probs [N] in nats; -inf where a token is impossible, 0 for a row without tokens.

    Raises
    ------
    ValueError
        If a value is NaN or above 0, or a mask has entries other than 0 and 1.
    TypeError
        If `logprobs` is none of `Ragged`, `Masked` and `Padded`, or the dtype is none of the above.

    Examples
    --------
    >>> from esscher import Ragged
    >>> sequence_logprobs(Ragged.from_rows([[-1.0, -0.5], [-2.0]]))
    array([-1.5, -2. ])
    """
    return aggregate_logprobs(logprobs, threads=threads).log_prob


def aggregate_logprobs(logprobs: Ragged | Masked | Padded, *, threads: int | None = None) -> LogprobAggregates:
    """Return sum, mean and number of each sequence's log-probs, in one pass.

    Parameters and errors are those of `sequence_logprobs`. The mean of a row without tokens is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from esscher import Padded
    >>> aggregate_logprobs(Padded(np.array([[-1.0, -0.5], [-2.0, 0.0]]), lengths=np.array([2, 1])))
    LogprobAggregates(log_prob=array([-1.5, -2. ]), mean=array([-0.75, -2.  ]), length=array([2, 1]))
    """
    check_rows("logprobs", logprobs, or_masked=True, or_padded=True)
    values = as_floats("logprobs", logprobs.values)
    return LogprobAggregates(*_core.aggregate_logprobs(values, logprobs.layout, threads))


def kl(
    policy_logprobs: Ragged | Masked | Padded,
    prior_logprobs: Ragged | Masked | Padded,
    estimator: Estimator = "k1",
    *,
    level: Level = "token",
    threads: int | None = None,
) -> NDArray[np.float64]:
    """Estimate KL(policy‖prior) from each completion, by one of the `kl_estimators`.

    Returns
    -------
    One value per completion [N], in nats.

    Raises
    ------
    ValueError
        If `estimator` is none of "k1", "k2", "k3", "abs"; and as `kl_estimators`.
    TypeError
        As `kl_estimators`.

    Examples
    --------
    >>> from esscher import Ragged
    >>> policy = Ragged.from_rows([[-1.0, -0.5], [-2.0]])
    >>> prior = Ragged.from_rows([[-1.5, -0.5], [-1.0]])
    >>> kl(policy, prior)
    array([ 0.5, -1. ])
    """
    _check_estimator(estimator)
    values: NDArray[np.float64] = getattr(
        kl_estimators(policy_logprobs, prior_logprobs, level=level, threads=threads), estimator
    )
    return values


def kl_estimators(
    policy_logprobs: Ragged | Masked | Padded,
    prior_logprobs: Ragged | Masked | Padded,
    *,
    level: Level = "token",
    precision: Precision = "f64",
    threads: int | None = None,
) -> KlEstimators:
    """Estimate KL(policy‖prior) from each completion, by k1, k2, k3 and abs in one pass.

    With ``d = log policy - log prior``: ``k1 = d``, ``k2 = d^2 / 2``, ``k3 = exp(-d) - 1 + d``, ``abs = |d|``. On
    completions drawn from the policy, the mean of k1 and of k3 is the KL; k2 and abs are biased.

    Parameters
    ----------
    policy_logprobs, prior_logprobs
        Per-token log-probs in nats of the same tokens, float32, float64 or bfloat16.
    level
        "token": the estimators of each token's ``d``, summed over the completion. "sequence": the estimators of the
        completion's summed ``d``.
    precision
        "f64": k3 of each token within 2e-14 relative. "mixed": tokens of float32 and bfloat16 in float32 (k1, k2 and
        abs within 2e-7 relative, k3 within 4e-6), their sums in float64; faster.
    threads
        How many threads to use; all cores if not given. The result does not depend on it.

    Raises
    ------
    ValueError
        If the rows differ, a log-prob is NaN or above 0, a token is impossible under both policy and prior, or
        `level` or `precision` is none of the above.
    TypeError
        If a column is none of `Ragged`, `Masked` and `Padded`, or a dtype is none of the above.

    References
    ----------
    Schulman, "Approximating KL Divergence", 2020, joschu.net/blog/kl-approx.html.

    Examples
    --------
    >>> from esscher import Ragged
    >>> policy = Ragged.from_rows([[-1.0, -0.5], [-2.0]])
    >>> prior = Ragged.from_rows([[-1.5, -0.5], [-1.0]])
    >>> kl_estimators(policy, prior).k3.round(4)
    array([0.1065, 0.7183])
    """
    check_rows("policy_logprobs", policy_logprobs, or_masked=True, or_padded=True)
    check_rows("prior_logprobs", prior_logprobs, or_masked=True, or_padded=True)
    policy, prior = _of_one_dtype(policy_logprobs.values, prior_logprobs.values)
    return KlEstimators(
        *_core.kl(policy, policy_logprobs.layout, prior, prior_logprobs.layout, level, precision, threads)
    )


def _of_one_dtype(policy: NDArray[Any], prior: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    if policy.dtype != prior.dtype:
        policy, prior = widened(policy), widened(prior)
        dtype = np.result_type(policy, prior)
        policy, prior = policy.astype(dtype, copy=False), prior.astype(dtype, copy=False)
    return as_floats("policy_logprobs", policy), as_floats("prior_logprobs", prior)


def of_log_ratios(log_ratios: NDArray[np.float64]) -> KlEstimators:
    """Return the estimators of single log-ratios ``log policy - log prior`` [N]; of infinite ones, their limits.

    Examples
    --------
    >>> import numpy as np
    >>> of_log_ratios(np.array([-1.0, 0.5])).k2
    array([0.5  , 0.125])
    """
    with np.errstate(over="ignore"):  # what is beyond any number is infinite
        squares = log_ratios * log_ratios
    return KlEstimators(log_ratios, 0.5 * squares, k3_of(log_ratios), np.abs(log_ratios))


def k3_of(d: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``exp(-d) - 1 + d`` within 1e-13 of itself: near 0, where the terms cancel, by its series."""
    with np.errstate(over="ignore", invalid="ignore"):
        k3: NDArray[np.float64] = np.expm1(-d) + d
    k3[d == -np.inf] = np.inf
    near = np.flatnonzero(np.abs(d) < NEAR)
    x = d[near]
    series = np.ones(len(near))
    for n in range(TERMS + 1, 2, -1):
        series = 1.0 - x / n * series
    k3[near] = 0.5 * x * x * series
    return k3


def _check_estimator(estimator: str) -> None:
    if estimator not in KlEstimators._fields:
        raise ValueError(f"estimator is {estimator!r}: it must be one of {', '.join(KlEstimators._fields)}")
