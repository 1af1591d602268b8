"""Weights that make completions of another distribution stand for the policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.divergence.checked_columns import log_proposal_of
from esscher.weights import weigh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.ragged import Ragged
    from esscher.samples import Samples


class PolicyWeights(NamedTuple):
    """Weights that make completions stand for the policy's, relative to equal ones [N], and how far to trust them.

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


def policy_weights(samples: Samples, proposal_logprobs: Ragged | None) -> PolicyWeights:
    """Weigh completions by policy / proposal, self-normalised over all of them; equally without a proposal.

    The mean weight is 1 for every prompt, so that prompts share one normaliser, and one completion a prompt will do.

    Raises
    ------
    ValueError
        If the proposal's rows are not those of the completions, it cannot have produced one, or the policy none.
    """
    if proposal_logprobs is None:
        return PolicyWeights(np.ones(len(samples)))
    drawn = log_proposal_of(samples, proposal_logprobs)
    weights = weigh(samples.policy_log_prob - drawn, [0, len(samples)])
    if weights.ess[0] == 0:
        raise ValueError("policy_logprobs sum to -inf in every completion: none has weight under the policy")
    return PolicyWeights(weights.relative, float(weights.ess[0]), float(weights.pareto_k[0]))
