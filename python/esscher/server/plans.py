"""What is computed for a batch, by the models or by the reward, and who pays when it fails."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from esscher.ragged import Ragged
from esscher.samples import Samples, concatenate
from esscher.server.incidents import log_incident
from esscher.wire.parts import Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from esscher.lm.base import LanguageModel, Reward
    from esscher.server.models import Models

    Columns = dict[str, NDArray[Any]]
    Outcome = Columns | Exception

# What one call of the models can fill, from least work to most.
_PRIOR = ("prior_logprobs",)
_POLICY = ("policy_logprobs",)
_POLICY_ALONE = (*_POLICY, "policy_entropy")
_BOTH = (*_POLICY_ALONE, "prior_logprobs", "token_kl")


class ModelError(RuntimeError):
    """A model failed on samples that keep all its rules; `__cause__` says how."""


class RewardError(RuntimeError):
    """The reward failed; the text can be shown to callers, the server's log says how."""


class BatchPlan(Protocol):
    """What is computed for a batch; calls are merged in one if their plans are equal."""

    def compute(self, parts: Sequence[Part]) -> list[Outcome]:
        """Return an outcome for each part, whatever happens; never raises."""
        ...


@dataclass(frozen=True)
class ModelPlan:
    """One call of the models, and the columns that it fills."""

    models: Models
    columns: tuple[str, ...]

    @property
    def asked(self) -> tuple[LanguageModel, ...]:
        """The models that are run, first the one whose log-probs come first."""
        prior, policy = self.models.prior, self.models.policy
        if policy is None or not self.asks_policy:
            return (prior,)
        return (policy, prior) if self.columns == _BOTH else (policy,)

    @property
    def asks_policy(self) -> bool:
        """Whether the policy is one of them."""
        return self.columns != _PRIOR

    def compute(self, parts: Sequence[Part]) -> list[Outcome]:
        """Return columns or an error for each part; one that cannot be computed costs no other its numbers."""
        try:
            return self._score_or_divide(parts)
        # Whatever a model throws, SystemExit included, must not end the thread that all callers share.
        except BaseException as error:
            return [self._failure(error) for _ in parts]

    def _score_or_divide(self, parts: Sequence[Part]) -> list[Outcome]:
        try:
            return self._score(parts)
        except (ValueError, MemoryError, FloatingPointError) as error:
            if isinstance(error, FloatingPointError) and len(parts) == 1:
                raise
            kind, text = type(error), str(error)
        # Only now that the error is gone, which keeps alive what the model had allocated.
        if len(parts) > 1:
            return [self.compute([part])[0] for part in parts]
        (part,) = parts
        halves = _halves(part)
        if issubclass(kind, MemoryError) and halves:
            return [join(self.compute([half])[0] for half in halves)]
        return [_refusal(part, kind, text)]

    def _score(self, parts: Sequence[Part]) -> list[Outcome]:
        samples = [part.take() for part in parts]
        merged = samples[0] if len(samples) == 1 else concatenate(samples)
        columns = self._run(merged)
        for name, values in columns.items():
            if values.shape != (merged.actions.lengths.sum(),):
                raise AssertionError(f"{name} has other rows than the completions")
        ends = np.cumsum([part.actions for part in parts])[:-1]
        split = {name: np.split(values, ends) for name, values in columns.items()}
        pieces = [{name: values[i] for name, values in split.items()} for i in range(len(parts))]
        if not isinstance(self._checked(merged, columns), Exception):
            return [*pieces]
        return [self._checked(one, piece) for one, piece in zip(samples, pieces, strict=True)]

    def _run(self, samples: Samples) -> Columns:
        model, *prior = self.asked
        tokens = (samples.prompts, samples.actions, samples.groups)
        if len(self.columns) > 1:
            scores = model.token_scores(*tokens, *prior).columns()
            return {name: np.asarray(scores[name]) for name in self.columns}
        logprobs = model.logprobs(*tokens)
        if not np.array_equal(logprobs.offsets, samples.actions.rows.offsets):
            raise AssertionError("the log-probs have other rows than the completions")
        return {self.columns[0]: logprobs.values}

    def _checked(self, samples: Samples, columns: Columns) -> Outcome:
        """Return the columns of one part if they keep their rules: a NaN fails the call that it belongs to."""
        rows: dict[str, Any] = {name: Ragged(values, samples.actions.rows.offsets) for name, values in columns.items()}
        try:
            replace(samples, **rows)
        except (ValueError, TypeError) as error:
            return self._failure(error)
        return columns

    def _failure(self, cause: BaseException) -> ModelError:
        error = ModelError(f"{self.asked[0].name} failed: {type(cause).__name__}: {cause}")
        error.__cause__ = cause
        return error


# A reward may take any time and cost money: calls are never merged, so that one is never asked again for another.
@dataclass(frozen=True, eq=False)
class RewardPlan:
    """One call of a reward, for one caller's completions; equal to no other."""

    reward: Reward

    def compute(self, parts: Sequence[Part]) -> list[Outcome]:
        """Return the rewards, or a `RewardError` whatever the reward raises."""
        (part,) = parts
        try:
            samples = part.take()
            rewards = self.reward(samples)
            checked = replace(samples, rewards=np.asarray(rewards))
        # As for models: nothing may end the thread.
        except BaseException as error:
            return [self._failure(error)]
        return [{"rewards": np.asarray(checked.rewards)}]

    def _failure(self, cause: BaseException) -> RewardError:
        failed = f"the reward {self.reward.name} raised {type(cause).__name__}"
        return RewardError(f"{failed}; the server's log explains it under {log_incident(cause)}")


def plan_for(models: Models, columns: frozenset[str]) -> ModelPlan:
    """Return the least work of models that fills `columns`, none of which is "rewards"."""
    return ModelPlan(models, next(names for names in (_PRIOR, _POLICY, _POLICY_ALONE, _BOTH) if columns <= {*names}))


def join(outcomes: Iterable[Outcome]) -> Outcome:
    """Put the columns of parts one after the other, or return the first error."""
    pieces = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            return outcome
        pieces.append(outcome)
    try:
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    except MemoryError as error:
        return error


def _halves(part: Part) -> tuple[Part, ...]:
    """Cut a part between prompts; empty if it has only one."""
    whole, begin, end = part
    middle = (part.prompt + int(np.searchsorted(whole.groups, end))) // 2
    if middle == part.prompt:
        return ()
    cut = int(whole.groups[middle])
    return Part(whole, begin, cut), Part(whole, cut, end)


def _refusal(part: Part, kind: type[Exception], text: str) -> ValueError:
    """Return the error of a part that breaks a rule of the model alone, or memory's, by the caller's own indices."""
    placed = part.place(text)
    if not issubclass(kind, MemoryError):
        return ValueError(placed)
    return ValueError(
        f"completions {part.begin} to {part.end - 1} need more memory than the server has, send shorter ones: {placed}"
    )
