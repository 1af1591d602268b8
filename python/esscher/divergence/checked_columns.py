"""The columns of samples that a KL is made of, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from esscher.divergence.estimators import aggregate_logprobs
from esscher.samples import check_samples, token_column

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.ragged import Ragged
    from esscher.samples import Samples


def logprobs_of(samples: Samples) -> tuple[Ragged, Ragged]:
    """Return the log-probs of policy and prior; raises `ValueError` that names the column if there are none."""
    check_samples("samples", samples)
    why = "the KL needs those of policy and prior"
    return samples.need("policy_logprobs", why=why), samples.need("prior_logprobs", why=why)


def log_ratios_of(policy: Ragged, prior: Ragged) -> NDArray[np.float64]:
    """Return log policy - log prior of each token [T], in float64."""
    policy_logprobs, prior_logprobs = (_capped(column.values).astype(np.float64) for column in (policy, prior))
    ratios: NDArray[np.float64] = policy_logprobs - prior_logprobs
    return ratios


def _capped(logprobs: NDArray[Any]) -> NDArray[Any]:
    """Return log-probs with 0 for what rounding left above it, as kernels read them."""
    return np.minimum(logprobs, 0.0) if logprobs.max() > 0 else logprobs


def exact_kl_of(token_kl: Ragged) -> NDArray[np.float64]:
    """Return the KL over the vocabulary of each completion [N], with 0 for what rounding left below it."""
    values: NDArray[np.float64] = np.maximum(token_kl.values.astype(np.float64), 0.0)
    return token_kl.rows.sums(values)


def check_ratios(policy: Ragged, prior: Ragged) -> None:
    """Raise `ValueError` if a token is impossible under both policy and prior: it has no log-ratio."""
    both = np.flatnonzero(np.isneginf(policy.values) & np.isneginf(prior.values))
    if len(both):
        row, token = policy.locate(both[0])
        raise ValueError(
            f"policy_logprobs[{row}][{token}] and prior_logprobs[{row}][{token}] are both -inf: their ratio is not "
            "defined; leave out completions that neither can produce"
        )


def check_drawn(column: str, log_prob: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log-prob of each completion under what it was drawn from [N], the sums of the column of that name.

    Raises
    ------
    ValueError
        If one is -inf.
    """
    impossible = np.flatnonzero(np.isneginf(log_prob))
    if len(impossible):
        whose = column.removesuffix("_logprobs")
        raise ValueError(
            f"{column}[{impossible[0]}] sums to -inf: the {whose} cannot have produced that completion. Is it the "
            f"{whose} that the completions came from?"
        )
    return log_prob


def log_proposal_of(samples: Samples, proposal_logprobs: Ragged) -> NDArray[np.float64]:
    """Return the log-prob of each completion under what it was drawn from [N].

    Raises
    ------
    ValueError
        If rows differ from those of the completions, a value is no log-prob, or the proposal cannot have produced one.
    TypeError
        If it is not `Ragged`, or not of floating point.
    """
    column = token_column("proposal_logprobs", proposal_logprobs, samples.actions, "log-prob", highest=0.0)
    return check_drawn("proposal_logprobs", aggregate_logprobs(column).log_prob)
