"""A thread that computes for all callers in turn: while one batch is computed, the next is prepared."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from esscher.server.plans import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esscher.server.plans import Outcome
    from esscher.server.prometheus import Metrics
    from esscher.server.queue import Job, Queue, Turn


@dataclass(frozen=True, eq=False)
class _Ready:
    """Turns whose samples lie ready for the thread."""

    turns: tuple[Turn, ...]
    batch: Batch


class Worker:
    """One thread, the jobs that wait for it, and the batch that lies ready for when it is free.

    Nobody has had their turn before the thread takes the batch: until then a caller who comes or leaves, or a new
    policy, makes another batch of it. Used as ``async with``, in one event loop.

    Parameters
    ----------
    queue
        Whose turn it is.
    metrics
        Where work is counted, under the queue's name.
    """

    def __init__(self, queue: Queue, metrics: Metrics) -> None:
        self._queue = queue
        self._metrics = metrics
        self._changed = asyncio.Event()
        self._jobs: set[Job] = set()
        # What the thread shares with the event loop: the queue, what lies ready, and whether it comes for more.
        self._lock = threading.Lock()
        self._ready: _Ready | None = None
        self._is_computing = False
        metrics.watch_waiting(queue.what, lambda: queue.waiting_tokens)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._computing = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"esscher-{self._queue.what}")
        self._preparing = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"esscher-{self._queue.what}-next")
        for threads in (self._computing, self._preparing):
            # Started here, where they may still fail without leaving a caller waiting.
            threads.submit(int)
        self._keeper = asyncio.create_task(self._keep_ready())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._keeper.cancel()
        # What lies ready is wanted by nobody then.
        for job in self._jobs:
            job.answer.cancel()
        for threads in (self._computing, self._preparing):
            threads.shutdown(wait=False, cancel_futures=True)

    def check_room(self, job: Job) -> None:
        """Raise `ServerBusyError` if too much work waits already."""
        self._queue.check_room(job)

    def submit(self, job: Job) -> None:
        """Take a job on; its answer will come, unless it is withdrawn."""
        self._jobs.add(job)
        with self._lock:
            self._queue.add(job)
        self._changed.set()

    def withdraw(self, job: Job) -> None:
        """Forget a job: what has not begun of it is not computed."""
        job.answer.cancel()
        self._jobs.discard(job)
        with self._lock:
            self._queue.remove(job)
        self._changed.set()

    def reconsider(self) -> None:
        """Make another batch if plans are no longer what they were."""
        self._changed.set()

    async def _keep_ready(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            with self._lock:
                turns = self._queue.next_batch()
                is_ready = self._ready is not None and self._ready.turns == turns
            if not is_ready:
                self._lay_out(await self._prepare(turns) if turns else None)

    async def _prepare(self, turns: tuple[Turn, ...]) -> _Ready | None:
        parts = [turn.part for turn in turns]
        try:
            return _Ready(turns, await self._loop.run_in_executor(self._preparing, Batch.of, parts))
        except Exception as error:
            # Too little memory, say: it must end these calls, and not the task that all depend on.
            for turn in turns:
                turn.receive(error, 0.0)
            return None

    def _lay_out(self, ready: _Ready | None) -> None:
        with self._lock:
            self._ready = ready
            if ready is not None and not self._is_computing:
                self._is_computing = True
                self._computing.submit(self._compute_ready)

    def _compute_ready(self) -> None:
        """Compute one batch after the other, until none lies ready; runs in the thread."""
        while (ready := self._claim()) is not None:
            started = time.monotonic()
            outcomes = ready.turns[0].plan.compute(ready.batch)
            self._call(self._finish, ready.turns, outcomes, time.monotonic() - started)

    def _claim(self) -> _Ready | None:
        """Give what lies ready its turn; `None` if nothing does, or not all of it is wanted any more."""
        with self._lock:
            ready, self._ready = self._ready, None
            self._call(self._changed.set)
            if ready is not None and all(turn.is_next for turn in ready.turns):
                self._queue.take(ready.turns)
                return ready
            self._is_computing = False
            return None

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in the event loop, if it is still there."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _finish(self, turns: Sequence[Turn], outcomes: Sequence[Outcome], seconds: float) -> None:
        for turn, outcome in zip(turns, outcomes, strict=True):
            turn.receive(outcome, seconds)
        what, size = self._queue.what, self._queue.max_batch_tokens
        for turn in turns:
            if turn.is_first:
                self._metrics.note_wait(what, turn.job.queue_seconds)
        self._metrics.note_batch(what, sum(turn.tokens for turn in turns), size, seconds)
