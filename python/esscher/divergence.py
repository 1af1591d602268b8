"""KL(policy‖prior) from log-probs of sampled tokens, with its standard error and a signature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from esscher import _core
from esscher.estimate import clustered_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.ragged import Ragged
    from esscher.samples import Samples

Estimator = Literal["k1", "k2", "k3", "abs"]
Level = Literal["token", "sequence"]


class KlEstimate(NamedTuple):
    """An estimate of KL(policy‖prior) in nats per completion.

    `signature` says how the number was made, so that it can be made again.
    """

    value: float
    stderr: float
    per_sequence: NDArray[np.float64]
    signature: str


def sequence_logprobs(logprobs: Ragged, *, threads: int | None = None) -> NDArray[np.float64]:
    """Return the log-prob of every sequence: the sum over its tokens.

    ``log p(y) = sum_t log p(y_t | y_<t)``

    Parameters
    ----------
    logprobs
        Per-token log-probs in nats, float32 or float64; summed in float64.
    threads
        How many threads to use; all cores if not given. The result does not depend on it.

    Returns
    -------
    Log-probs [N] in nats; -inf where a token is impossible, 0 for a row without tokens.

    Raises
    ------
    ValueError
        If a value is NaN or above 0.

    Examples
    --------
    >>> from esscher import Ragged
    >>> sequence_logprobs(Ragged.from_rows([[-1.0, -0.5], [-2.0]]))
    array([-1.5, -2. ])
    """
    return _core.sequence_logprobs(logprobs.values, logprobs.offsets, threads)


def kl(
    policy_logprobs: Ragged,
    prior_logprobs: Ragged,
    estimator: Estimator = "k1",
    *,
    level: Level = "token",
    threads: int | None = None,
) -> NDArray[np.float64]:
    """Estimate KL(policy‖prior) from each completion.

    With ``d = log policy - log prior``: ``k1 = d``, ``k2 = d^2 / 2``, ``k3 = exp(-d) - 1 + d``, ``abs = |d|``. On
    completions drawn from the policy, the mean of k1 and of k3 is the KL; k2 and abs are biased.

    Parameters
    ----------
    policy_logprobs, prior_logprobs
        Per-token log-probs in nats of the same tokens, float32 or float64.
    estimator
        One of "k1", "k2", "k3", "abs".
    level
        "token": the estimator of each token's ``d``, summed over the completion. "sequence": the estimator of the
        completion's summed ``d``.
    threads
        How many threads to use; all cores if not given. The result does not depend on it.

    Returns
    -------
    One value per completion [N], in nats.

    Raises
    ------
    ValueError
        If the rows differ, a log-prob is NaN or above 0, a token is impossible under both policy and prior, or
        `estimator` or `level` is none of the above.
    TypeError
        If a dtype is neither float32 nor float64.

    References
    ----------
    Schulman, "Approximating KL Divergence", 2020.

    Examples
    --------
    >>> from esscher import Ragged
    >>> policy = Ragged.from_rows([[-1.0, -0.5], [-2.0]])
    >>> prior = Ragged.from_rows([[-1.5, -0.5], [-1.0]])
    >>> kl(policy, prior)
    array([ 0.5, -1. ])
    """
    if not np.array_equal(policy_logprobs.offsets, prior_logprobs.offsets):
        raise ValueError("policy_logprobs and prior_logprobs have different rows: both must be of the same tokens")
    dtype = np.result_type(policy_logprobs.values, prior_logprobs.values)
    policy, prior = (column.values.astype(dtype, copy=False) for column in (policy_logprobs, prior_logprobs))
    return _core.kl(policy, prior, policy_logprobs.offsets, estimator, level, threads)


def estimate_kl(samples: Samples, estimator: Estimator = "k1", *, level: Level = "token") -> KlEstimate:
    """Estimate KL(policy‖prior) with its standard error clustered by prompt.

    The value is the mean over completions, which must have been drawn from the policy whose log-probs they carry.

    Raises
    ------
    ValueError
        If `samples` lacks `policy_logprobs` or `prior_logprobs`, and as `kl`.

    Examples
    --------
    >>> from esscher import Ragged, Samples
    >>> samples = Samples(
    ...     prompts=Ragged.from_rows([[1]]),
    ...     completions=Ragged.from_rows([[2, 3], [4]]),
    ...     groups=[0, 2],
    ...     policy_logprobs=Ragged.from_rows([[-1.0, -0.5], [-0.5]]),
    ...     prior_logprobs=Ragged.from_rows([[-1.5, -0.5], [-1.0]]),
    ... )
    >>> estimate = estimate_kl(samples)
    >>> estimate.value, estimate.stderr
    (0.5, 0.0)
    >>> estimate.signature
    'kl:k1|level:token|agg:seq-sum|dir:policy-prior|clamp:none|eos:incl|dtype:f64|n:2|clusters:1|v:0.1.0'
    """
    policy, prior = samples.policy_logprobs, samples.prior_logprobs
    if policy is None or prior is None:
        missing = "policy_logprobs" if policy is None else "prior_logprobs"
        raise ValueError(f"samples have no {missing}: the KL needs those of policy and prior")
    per_sequence = kl(policy, prior, estimator, level=level)
    value, stderr = clustered_mean(per_sequence, samples.groups)
    return KlEstimate(
        value, stderr, per_sequence, _signature(samples, np.result_type(policy.values, prior.values), estimator, level)
    )


def _signature(samples: Samples, dtype: np.dtype[Any], estimator: Estimator, level: Level) -> str:
    parts = {
        "kl": estimator,
        "level": level,
        "agg": "seq-sum",
        "dir": "policy-prior",
        "clamp": "none",
        "eos": "incl",
        "dtype": f"f{8 * dtype.itemsize}",
        "n": len(samples),
        "clusters": len(samples.prompts),
        "v": _core.__version__,
    }
    return "|".join(f"{key}:{value}" for key, value in parts.items())
