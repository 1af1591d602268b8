"""What a server scores with."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from esscher.lm.pair import side_by_side

if TYPE_CHECKING:
    from esscher.lm.base import LanguageModel, Reward

# What has to be there to fill a column, and how a server gets it.
_NEEDED = {
    "policy_logprobs": "policy",
    "token_kl": "policy",
    "policy_entropy": "policy",
    "rewards": "reward",
}


@dataclasses.dataclass(frozen=True)
class Models:
    """The models of a server at one moment; a new policy makes a new record.

    Attributes
    ----------
    prior
        The model before fine-tuning.
    policy
        The model that is trained or judged, of the prior's vocabulary; both are kept over the ids that they share.
    policy_revision
        How many policies there have been, this one included: 1 unless it is said; 0 without one.
    reward
        What a completion is worth.

    Raises
    ------
    ValueError
        If policy and prior have different vocabularies.
    """

    prior: LanguageModel
    policy: LanguageModel | None = None
    policy_revision: int = 0
    reward: Reward | None = None

    def __post_init__(self) -> None:
        if self.policy is not None:
            for name, model in zip(("policy", "prior"), side_by_side(self.policy, self.prior), strict=True):
                object.__setattr__(self, name, model)
            object.__setattr__(self, "policy_revision", max(self.policy_revision, 1))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of `Samples` that these models can fill."""
        names = ("prior_logprobs", *_NEEDED)
        return tuple(name for name in names if name not in _NEEDED or getattr(self, _NEEDED[name]) is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """What they are called, the prior first."""
        return tuple(model.name for model in (self.prior, self.policy, self.reward) if model is not None)

    def check_columns(self, columns: frozenset[str]) -> None:
        """Raise `ValueError` if `columns` is empty or holds one that these models cannot fill."""
        if not columns:
            raise ValueError(f"columns is empty: ask for at least one, the server has {', '.join(self.columns)}")
        for name in sorted(columns.difference(self.columns)):
            raise ValueError(f"{name} is asked for, but the server has {_missing(name, self)}")

    def with_policy(self, policy: LanguageModel) -> Models:
        """Return these models with the next policy; raises `ValueError` if its vocabulary is not the prior's."""
        return dataclasses.replace(self, policy=policy, policy_revision=self.policy_revision + 1)


def _missing(column: str, models: Models) -> str:
    what = _NEEDED.get(column)
    if what is None:
        return f"no such column: it has {', '.join(models.columns)}"
    return f"no {what}, only {', '.join(models.columns)}: start it with --{what}"
