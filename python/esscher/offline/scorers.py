"""What fills in columns of samples: models in this process, or a server."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from esscher.lm.base import ModelLimits
from esscher.lm.cross import cross_log_probs
from esscher.lm.pair import side_by_side
from esscher.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from esscher.client import Client
    from esscher.lm.base import LanguageModel
    from esscher.samples import Samples

PRIOR = ("prior_logprobs",)
POLICY = ("policy_logprobs", "policy_entropy")
# Of the policy, too, where it is asked for with a number of other prompts.
CROSS = "cross_log_probs"
BOTH = ("prior_logprobs", "policy_logprobs", "token_kl", "policy_entropy")


class Scorer(Protocol):
    """Fills in columns of samples.

    Attributes
    ----------
    columns
        The columns that it fills.
    limits
        What each of its models can read.
    identity
        What its numbers depend on, as JSON holds it: while it is equal, so are they.
    cross_prompts
        Under how many other prompts of its block it scores each completion.
    """

    columns: tuple[str, ...]
    limits: tuple[LanguageModel | ModelLimits, ...]
    identity: dict[str, Any]
    cross_prompts: int

    def fill(self, samples: Samples) -> Samples:
        """Return the samples with the columns filled; raises what its models raise."""
        ...


class LocalModels:
    """A prior, a policy or both, in this process.

    Parameters
    ----------
    prior, policy
        The models, at least one.
    columns
        Which columns to fill, of those that `columns_of` gives.
    identity
        What tells the models and how they compute from others.
    cross_prompts
        Under how many other prompts completions are scored, if ``cross_log_probs`` is one of the columns.

    Raises
    ------
    ValueError
        If their vocabularies differ.
    """

    def __init__(
        self,
        prior: LanguageModel | None,
        policy: LanguageModel | None,
        columns: Sequence[str],
        identity: Mapping[str, Any],
        cross_prompts: int = 0,
    ) -> None:
        self.columns, self.cross_prompts = tuple(columns), cross_prompts
        self.identity = dict(identity) | ({"cross_prompts": cross_prompts} if CROSS in columns else {})
        # Of each by itself, so that who does not know a token id is named.
        self.limits: tuple[LanguageModel | ModelLimits, ...] = tuple(one for one in (prior, policy) if one is not None)
        if prior is not None and policy is not None:
            policy, prior = side_by_side(policy, prior)
        self._prior, self._policy = prior, policy

    def fill(self, samples: Samples) -> Samples:
        """Return the samples with the columns filled; see `Scorer.fill`."""
        if CROSS in self.columns and self._policy is not None:
            samples = replace(samples, cross_log_probs=cross_log_probs(self._policy, samples, self.cross_prompts))
        columns = tuple(name for name in self.columns if name != CROSS)
        return self._with_tokens(samples, columns) if columns else samples

    def _with_tokens(self, samples: Samples, columns: tuple[str, ...]) -> Samples:
        tokens = (samples.prompts, samples.actions, samples.groups)
        if self._prior is not None and columns == PRIOR:
            return replace(samples, prior_logprobs=self._prior.logprobs(*tokens))
        if self._policy is None:
            raise ValueError(f"without a policy only {PRIOR[0]} can be filled, not {', '.join(columns)}")
        if columns == POLICY[:1]:
            return replace(samples, policy_logprobs=self._policy.logprobs(*tokens))
        scores = self._policy.token_scores(*tokens, None if set(columns) <= set(POLICY) else self._prior).columns()
        filled: dict[str, Any] = {name: Ragged(scores[name], samples.actions.rows.offsets) for name in columns}
        return replace(samples, **filled)


class Server:
    """A server's models.

    Parameters
    ----------
    client
        A client of the server.
    columns
        Which columns to ask for.

    Raises
    ------
    ValueError
        If the server does not fill one of them.
    """

    def __init__(self, client: Client, columns: Sequence[str]) -> None:
        self._client = client
        self.columns, self.cross_prompts = tuple(columns), 0
        info = client.info()
        missing = [name for name in columns if name not in info.columns]
        if missing:
            there = ", ".join(info.columns)
            raise ValueError(f"the server at {client.address} has no {', '.join(missing)}: it fills {there}")
        self.limits: tuple[LanguageModel | ModelLimits, ...] = (
            ModelLimits(info.prior_name, info.vocabulary_size, info.start_token_id, info.max_tokens),
        )
        # Not the address: the same models may come back at another.
        told = ("version", "prior_name", "policy_name", "policy_revision", "reward_name")
        self.identity = {"server": {name: getattr(info, name) for name in told}}

    def fill(self, samples: Samples) -> Samples:
        """Return the samples with the columns filled; see `Scorer.fill`.

        Raises
        ------
        ConnectionError
            If the server is busy all the time that the client gives it, fails, or cannot compute a column.
        """
        try:
            answer = self._client.ask(samples, self.columns)
        except RuntimeError as error:
            raise ConnectionError(str(error)) from error
        if answer.unavailable:
            reasons = "; ".join(f"{name} ({reason})" for name, reason in answer.unavailable.items())
            raise ConnectionError(f"the server at {self._client.address} could not compute {reasons}")
        return answer.samples


def columns_of(*, prior: bool, policy: bool) -> tuple[str, ...]:
    """Return the columns that a prior, a policy or both can fill.

    Examples
    --------
    >>> columns_of(prior=False, policy=True)
    ('policy_logprobs', 'policy_entropy')
    """
    if prior and policy:
        return BOTH
    return PRIOR if prior else POLICY
