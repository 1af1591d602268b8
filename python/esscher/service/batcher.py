"""One model, many callers: waiting calls become one call of the model, and one bad call fails no other."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from esscher.lm.base import check_scoring
from esscher.ragged import Ragged
from esscher.samples import Samples, concatenate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.lm.base import LanguageModel


class ServerBusyError(RuntimeError):
    """The server has as much work waiting as it accepts; nothing was computed. Retry later, or send less."""


class ModelError(RuntimeError):
    """The model failed on samples that keep all its rules; `__cause__` says how."""


class Scored(NamedTuple):
    """Log-probs in nats with the rows of the completions, and how long the call waited and the model worked [s]."""

    logprobs: Ragged
    queue_seconds: float
    model_seconds: float


@dataclass(eq=False)
class _Call:
    samples: Samples
    tokens: int
    answer: asyncio.Future[Scored]
    submitted: float = field(default_factory=time.monotonic)


class Batcher:
    """Feeds one model, in one thread, with batches of the calls that wait.

    A batch holds the calls that have waited longest, up to `max_batch_tokens`; a larger call is a batch of its own. No
    call waits for others to come. Used as ``async with``, in one event loop; leaving it cancels what has no answer.

    Parameters
    ----------
    model
        What gives the log-probs; it is never called from two threads at once.
    max_batch_tokens
        Tokens per call of the model, each completion counted with its prompt.
    max_waiting_tokens
        Tokens that may wait; a call that finds nothing waiting is accepted whatever its size.

    Raises
    ------
    ValueError
        If a limit is below 1.
    """

    def __init__(self, model: LanguageModel, *, max_batch_tokens: int, max_waiting_tokens: int) -> None:
        for name, limit in (("max_batch_tokens", max_batch_tokens), ("max_waiting_tokens", max_waiting_tokens)):
            if limit < 1:
                raise ValueError(f"{name} is {limit}: it must be at least 1")
        self._model = model
        self._max_batch_tokens = max_batch_tokens
        self._max_waiting_tokens = max_waiting_tokens
        self._waiting: OrderedDict[_Call, None] = OrderedDict()
        self._waiting_tokens = 0
        self._running: list[_Call] = []
        self._arrived = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="esscher-model")
        # Started here, where it may still fail without leaving a caller waiting.
        self._thread.submit(int)
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._worker.cancel()
        for call in (*self._running, *self._waiting):
            call.answer.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def score(self, samples: Samples, *, timeout: float | None = None) -> Scored:
        """Return the tokens of `samples` with their log-probs under the model; other columns are left out.

        What has not started when the caller's task is cancelled, or when `timeout` seconds have passed, is not
        computed.

        Raises
        ------
        ValueError
            If a token id is outside the vocabulary, a prompt is empty, prompt and completion are longer together than
            the model's `max_tokens`, or the samples break a rule of this model alone; the message names which one.
        ServerBusyError
            If too many tokens wait already.
        ModelError
            If the model fails; the calls merged with this one fail too, later ones do not.
        TimeoutError
            If `timeout` passes before the answer is there.
        """
        tokens = check_scoring(self._model, samples.prompts, samples.completions, samples.groups)
        call = _Call(tokens, cost(tokens), asyncio.get_running_loop().create_future())
        self._admit(call)
        try:
            async with asyncio.timeout(timeout):
                return await call.answer
        except TimeoutError as error:
            raise TimeoutError(f"the model had no answer within {timeout} s") from error
        finally:
            self._leave(call)

    def _admit(self, call: _Call) -> None:
        if self._waiting and self._waiting_tokens + call.tokens > self._max_waiting_tokens:
            raise ServerBusyError(
                f"{self._waiting_tokens} tokens wait for the model, {call.tokens} more would exceed the limit of "
                f"{self._max_waiting_tokens}: retry in some seconds, or send fewer completions at a time"
            )
        self._waiting[call] = None
        self._waiting_tokens += call.tokens
        self._arrived.set()

    def _leave(self, call: _Call) -> None:
        if call in self._waiting:
            del self._waiting[call]
            self._waiting_tokens -= call.tokens

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            self._running = self._take_batch()
            if self._running:
                parts = [call.samples for call in self._running]
                started = time.monotonic()
                outcomes = await loop.run_in_executor(self._thread, _compute, self._model, parts)
                _answer(self._running, outcomes, started, time.monotonic() - started)

    def _take_batch(self) -> list[_Call]:
        batch: list[_Call] = []
        room = self._max_batch_tokens
        for call in list(self._waiting):
            if call.answer.done():
                self._leave(call)
            elif not batch or call.tokens <= room:
                self._leave(call)
                batch.append(call)
                room -= call.tokens
            else:
                return batch
        self._arrived.clear()
        return batch


def cost(samples: Samples) -> int:
    """Tokens that a model reads to score `samples`: each completion with its prompt."""
    return int(samples.completions.lengths.sum() + samples.prompts.lengths @ np.diff(samples.groups))


def _compute(model: LanguageModel, parts: list[Samples]) -> list[Ragged | Exception]:
    """Score all parts in one call of the model; runs in the model's thread, and never raises."""
    try:
        return _score(model, parts)
    except ValueError as error:
        if len(parts) == 1:
            return [error]
        # Some part breaks a rule that only this model has: it gets the blame, and the others their log-probs.
        return [outcome for part in parts for outcome in _compute(model, [part])]
    # Whatever a model throws, SystemExit included, must not end the thread that all callers share.
    except BaseException as error:
        return [_model_error(model, error) for _ in parts]


def _score(model: LanguageModel, parts: list[Samples]) -> list[Ragged | Exception]:
    merged = concatenate(parts)
    logprobs = model.logprobs(merged.prompts, merged.completions, merged.groups)
    if not np.array_equal(logprobs.offsets, merged.completions.offsets):
        raise AssertionError("the log-probs have other rows than the completions")
    ends = np.cumsum([len(part.completions.values) for part in parts])
    columns = np.split(logprobs.values, ends[:-1])
    return [_checked(model, part, column) for part, column in zip(parts, columns, strict=True)]


def _checked(model: LanguageModel, part: Samples, values: NDArray[Any]) -> Ragged | Exception:
    """Return the log-probs of one call if they are log-probs: a NaN fails the call that it belongs to."""
    logprobs = Ragged(values, part.completions.offsets)
    try:
        Samples(part.prompts, part.completions, part.groups, prior_logprobs=logprobs)
    except (ValueError, TypeError) as error:
        return _model_error(model, error)
    return logprobs


def _model_error(model: LanguageModel, cause: BaseException) -> ModelError:
    error = ModelError(f"{model.name} failed: {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error


def _answer(batch: list[_Call], outcomes: list[Ragged | Exception], started: float, seconds: float) -> None:
    for call, outcome in zip(batch, outcomes, strict=True):
        if call.answer.done():
            continue
        if isinstance(outcome, Exception):
            call.answer.set_exception(outcome)
        else:
            call.answer.set_result(Scored(outcome, started - call.submitted, seconds))
