"""What a server scores with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esscher.lm.base import LanguageModel, Reward


@dataclass(frozen=True)
class Models:
    """The models of a server at one moment; a new policy makes a new record.

    Attributes
    ----------
    prior
        The model before fine-tuning.
    policy
        The model that is trained or judged, of the prior's vocabulary.
    policy_revision
        How many policies there have been, this one included; 0 without one.
    reward
        What a completion is worth.
    """

    prior: LanguageModel
    policy: LanguageModel | None = None
    policy_revision: int = 0
    reward: Reward | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of `Samples` that these models can fill."""
        policy = ("policy_logprobs", "token_kl", "policy_entropy") if self.policy is not None else ()
        rewards = ("rewards",) if self.reward is not None else ()
        return ("prior_logprobs", *policy, *rewards)
