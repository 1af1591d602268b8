"""A server's models, many callers: waiting calls become one call of the models, and one bad call fails no other."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from esscher.lm.base import check_scoring
from esscher.server.plans import ModelPlan, RewardError, RewardPlan, plan_for
from esscher.server.queue import Queue, QueuedCall
from esscher.server.worker import working

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from esscher.lm.base import LanguageModel
    from esscher.samples import Samples
    from esscher.server.models import Models
    from esscher.server.plans import Outcome
    from esscher.server.prometheus import ServerMetrics

# Of a caller's time, how much its rewards may take.
REWARD_SHARE = 0.9


@dataclass(frozen=True, eq=False)
class ScoredCall:
    """The columns that were asked for, and how they came about.

    Attributes
    ----------
    columns
        Values by name: token columns [T], in nats, in the order of the completions; rewards [N].
    unavailable
        Columns that could not be computed, each with the reason.
    models
        The models that answered.
    asked_policy
        Whether the policy was one of them.
    queue_seconds
        How long the call waited for its first turn.
    model_seconds
        How long the models worked on the batches that it was part of.
    """

    columns: dict[str, NDArray[Any]]
    unavailable: dict[str, str]
    models: Models
    asked_policy: bool
    queue_seconds: float
    model_seconds: float


class Batcher:
    """Feeds the models of a server in one thread, and its reward in another, with batches of the calls that wait.

    Calls that need the same of the same models are merged, up to `max_batch_tokens`; larger ones are done in several
    batches, between which other callers have their turn (see `Queue`). No call waits for others to come. Used as
    ``async with``, and only in one event loop; leaving it cancels what has no answer.

    Parameters
    ----------
    models
        What gives the columns; they are never called from two threads at once, but at the same time as the reward.
    max_batch_tokens
        Tokens per call of the models, prompts counted once.
    max_waiting_tokens
        Tokens that may wait for the models, and for the reward; a call that finds nothing waiting is accepted whatever
        its size.
    metrics
        Where work is counted.

    Attributes
    ----------
    models
        The models of calls that begin now.

    Raises
    ------
    ValueError
        If a limit is below 1.
    """

    def __init__(
        self, models: Models, *, max_batch_tokens: int, max_waiting_tokens: int, metrics: ServerMetrics
    ) -> None:
        limits = {"max_batch_tokens": max_batch_tokens, "max_waiting_tokens": max_waiting_tokens}
        for name, limit in limits.items():
            if limit < 1:
                raise ValueError(f"{name} is {limit}: it must be at least 1")
        self.models = models
        self._metrics = metrics
        self._model_queue, self._reward_queue = Queue("models", **limits), Queue("reward", **limits)
        self._answers: set[asyncio.Future[Outcome]] = set()
        metrics.note_revision(models.policy_revision)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(working(self._model_queue, self._metrics))
            await stack.enter_async_context(working(self._reward_queue, self._metrics))
            self._threads = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        for answer in self._answers:
            answer.cancel()
        await self._threads.aclose()

    def replace_policy(self, policy: LanguageModel) -> int:
        """Let calls that begin from now on be answered by another policy, and return its revision.

        A call that has begun is answered by the policy it began with. Called in the batcher's event loop.

        Raises
        ------
        ValueError
            If the policy's vocabulary is not the prior's.
        """
        self.models = self.models.with_policy(policy)
        self._metrics.note_revision(self.models.policy_revision)
        return self.models.policy_revision

    async def score(
        self, samples: Samples, columns: Collection[str], *, caller: str = "", timeout: float | None = None
    ) -> ScoredCall:
        """Return the columns for the tokens of `samples`; the reward sees `terminated` too, other columns are left out.

        All of a call is answered by the models that were there when it had its first turn. What has not begun when the
        caller's task is cancelled, or when `timeout` seconds have passed, is not computed.

        Parameters
        ----------
        samples
            The completions.
        columns
            Names of columns of `Samples`.
        caller
            Who asks: callers share the models fairly, calls of one caller keep their order.
        timeout
            Seconds that it may take.

        Raises
        ------
        ValueError
            If no column is asked for, or one that there is no model for; a token id is outside the vocabulary, a prompt
            is empty and the model has no start token, prompt and completion are longer together than the model's
            `max_tokens` or than memory holds, or the samples break a rule of a model alone. The message names which.
        ServerBusyError
            If too many tokens wait already.
        ModelError
            If a model fails; the calls merged with this one fail too, later ones do not.
        TimeoutError
            If `timeout` passes before the answer is there.
        """
        wanted = frozenset(columns)
        self.models.check_columns(wanted)
        calls = self._divide(samples, wanted, caller, timeout)
        for queue, call in calls.items():
            queue.check_room(call)
        try:
            async with asyncio.timeout(timeout):
                for queue, call in calls.items():
                    self._answers.add(call.answer)
                    queue.add(call)
                return await self._collect(calls, wanted)
        except TimeoutError as error:
            raise TimeoutError(f"the models had no answer within {timeout} s") from error
        finally:
            for queue, call in calls.items():
                queue.remove(call)
                call.answer.cancel()
                self._answers.discard(call.answer)

    def _divide(
        self, samples: Samples, wanted: frozenset[str], caller: str, timeout: float | None
    ) -> dict[Queue, QueuedCall]:
        """Return what each queue gets of a call."""
        asked = wanted - {"rewards"}
        # Both models: they need not have the same longest text, or start token.
        for model in plan_for(self.models, asked).asked:
            tokens = check_scoring(model, samples.prompts, samples.actions, samples.groups)
        expires = math.inf if timeout is None else time.monotonic() + timeout
        new_answer = asyncio.get_running_loop().create_future
        calls = {}
        if asked:
            calls[self._model_queue] = QueuedCall(
                tokens, caller, lambda: plan_for(self.models, asked), new_answer(), expires
            )
        if self.models.reward is not None and "rewards" in wanted:
            seen = replace(tokens, terminated=samples.terminated)
            plan = RewardPlan(self.models.reward)
            calls[self._reward_queue] = QueuedCall(seen, caller, lambda: plan, new_answer(), expires)
        return calls

    async def _collect(self, calls: dict[Queue, QueuedCall], wanted: frozenset[str]) -> ScoredCall:
        columns: dict[str, NDArray[Any]] = {}
        unavailable: dict[str, str] = {}
        for queue, call in calls.items():
            outcome = await (_reward_in_time(call) if queue is self._reward_queue else call.answer)
            if isinstance(outcome, RewardError):
                unavailable["rewards"] = str(outcome)
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                columns.update({name: values for name, values in outcome.items() if name in wanted})
        first = next(iter(calls.values()))
        plan = first.plan if isinstance(first.plan, ModelPlan) else None
        return ScoredCall(
            columns,
            unavailable,
            models=self.models if plan is None else plan.models,
            asked_policy=plan is not None and plan.asks_policy,
            queue_seconds=first.queue_seconds,
            model_seconds=0.0 if plan is None else first.model_seconds,
        )


async def _reward_in_time(call: QueuedCall) -> Outcome:
    """Give a reward most of the caller's time, and not all: what the models have computed must still arrive."""
    seconds = (call.expires - call.submitted) * REWARD_SHARE
    left = call.submitted + seconds - time.monotonic()
    done, _ = await asyncio.wait([call.answer], timeout=None if math.isinf(left) else max(left, 0.0))
    if done:
        return call.answer.result()
    return RewardError(f"the reward had no answer within {seconds:.1f} s: give the call more time, or ask without it")
