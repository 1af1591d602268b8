"""Weights that make completions of another distribution stand for the policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher import _core
from esscher.divergence.columns import log_proposal_of
from esscher.divergence.estimators import aggregate_logprobs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.ragged import Ragged
    from esscher.samples import Samples


class Weights(NamedTuple):
    """Weights of completions relative to equal ones [N], and how far they can be trusted.

    `ess` and `pareto_k` are `None` where the completions are the policy's own.
    """

    relative: NDArray[np.float64]
    ess: float | None = None
    pareto_k: float | None = None

    def times(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weigh values [N]; what has no weight counts nothing, be it infinite."""
        if self.ess is None:
            return values
        weighted: NDArray[np.float64] = np.where(self.relative > 0, values, 0.0) * self.relative
        return weighted


def weights_of(samples: Samples, policy_logprobs: Ragged, proposal_logprobs: Ragged | None) -> Weights:
    """Weigh completions by policy / proposal, self-normalised over all of them; equally without a proposal.

    The mean weight is 1 for every prompt, so that prompts share one normaliser, and one completion a prompt will do.

    Raises
    ------
    ValueError
        If the proposal's rows are not those of the completions, it cannot have produced one, or the policy none.
    """
    if proposal_logprobs is None:
        return Weights(np.ones(len(samples)))
    drawn = log_proposal_of(samples, proposal_logprobs)
    log_ratios, everything = aggregate_logprobs(policy_logprobs).log_prob - drawn, np.array([0, len(samples)])
    log_weights, _, ess = _core.normalise(log_ratios, everything)
    if ess[0] == 0:
        raise ValueError("policy_logprobs sum to -inf in every completion: none has weight under the policy")
    pareto_k = _core.pareto_smooth(log_ratios, everything, "arviz-stats")[1]
    return Weights(np.exp(log_weights) * len(samples), float(ess[0]), float(pareto_k[0]))
