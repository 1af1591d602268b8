"""Calls that wait for one thread, and whose turn it is."""

from __future__ import annotations

import heapq
import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.server.plans import join
from esscher.wire.errors import ServerBusyError
from esscher.wire.parts import Part

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from esscher.samples import Samples
    from esscher.server.plans import Columns, Outcome, Plan

_numbers = itertools.count()


@dataclass(eq=False)
class Job:
    """What one call wants of one thread.

    Attributes
    ----------
    samples
        What to compute it for.
    caller
        Whose turn it counts as.
    plan_now
        The plan that the job would get if it began now.
    answer
        Where the outcome goes.
    expires
        When nobody wants it any more, by `time.monotonic`.
    max_turn_tokens
        Tokens of a turn; only a single completion may have more.
    plan
        The plan of all its parts, once it has begun.
    begun
        How many pieces of work have had their turn: prompts, or parts of one that is too large for a turn.
    queue_seconds, seconds
        How long it waited for its first turn, and how long the batches took that it was part of.
    pieces
        What has come of its parts, in order.
    """

    samples: Samples
    caller: str
    plan_now: Callable[[], Plan]
    answer: asyncio.Future[Outcome]
    expires: float
    max_turn_tokens: int
    plan: Plan | None = None
    begun: int = 0
    queue_seconds: float = 0.0
    seconds: float = 0.0
    number: int = field(default_factory=_numbers.__next__)
    submitted: float = field(default_factory=time.monotonic)
    pieces: list[Columns] = field(default_factory=list)

    def __post_init__(self) -> None:
        stops, tokens = _cut(self.samples, self.max_turn_tokens)
        self._stops = np.concatenate([np.zeros(1, np.int64), stops])
        self._ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(tokens)])

    @property
    def is_wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not self.answer.done() and time.monotonic() < self.expires

    @property
    def waiting_tokens(self) -> int:
        """Tokens that have not had their turn."""
        return int(self._ends[-1] - self._ends[self.begun])

    def current_plan(self) -> Plan:
        """Return the plan of the next part."""
        return self.plan_now() if self.plan is None else self.plan

    def next_turn(self, room: int, *, at_least: int) -> Turn:
        """Return the work next in line that takes up to `room` tokens, but no less than `at_least` pieces of it."""
        end = int(np.searchsorted(self._ends, self._ends[self.begun] + room, side="right")) - 1
        end = max(end, self.begun + at_least)
        begin = int(self._stops[self.begun])
        prompt = int(np.searchsorted(self.samples.groups, begin, side="right")) - 1
        part = Part(self.samples, begin, int(self._stops[end]), prompt)
        return Turn(self, self.current_plan(), part, end, int(self._ends[end] - self._ends[self.begun]))

    def begins_at(self, completion: int) -> bool:
        """Whether that completion is the next in line."""
        return int(self._stops[self.begun]) == completion


class Turn(NamedTuple):
    """Pieces of a job's work, up to `end`, that have their turn together."""

    job: Job
    plan: Plan
    part: Part
    end: int
    tokens: int

    @property
    def is_next(self) -> bool:
        """Whether it is still what the job wants next."""
        job = self.job
        return job.is_wanted and job.begins_at(self.part.begin) and job.current_plan() == self.plan

    @property
    def is_first(self) -> bool:
        """Whether nothing of the job came before it."""
        return self.part.begin == 0

    @property
    def is_last(self) -> bool:
        """Whether nothing of the job comes after it."""
        return self.part.end == len(self.job.samples)

    def receive(self, outcome: Outcome, seconds: float) -> None:
        """Give the job what came of it; with the last part, or an error, the job is answered."""
        job = self.job
        job.seconds += seconds
        if job.answer.done():
            return
        if isinstance(outcome, Exception):
            job.answer.set_result(outcome)
            return
        job.pieces.append(outcome)
        if self.is_last:
            job.answer.set_result(join(job.pieces))


@dataclass(eq=False)
class _Caller:
    """Jobs of one caller, in order, and how many tokens it has had."""

    had: int
    jobs: dict[Job, None] = field(default_factory=dict)


class _Place(NamedTuple):
    """A caller's place in line: `had` is what it will have had after the next turn of `job`."""

    had: int
    number: int
    job: Job
    later: Iterator[Job]


class Queue:
    """Jobs that wait, each caller's in order of arrival.

    The next turn goes to the caller who will have had the fewest tokens after it, where one who comes anew counts as
    having had as many as whoever had the last turn. A turn is a job, or as many of its prompts as fit into a batch; the
    completions of a prompt stay together, unless they are too many for one. What fits beside it into the batch, and has
    an equal plan, is merged with it.

    Parameters
    ----------
    what
        Who computes, as callers are told.
    max_batch_tokens
        Tokens of a batch, prompts counted once; a single completion with more is a batch of its own.
    max_waiting_tokens
        Tokens that may wait; a job that finds nothing waiting is accepted whatever its size.

    Attributes
    ----------
    waiting_tokens
        Tokens that have not had their turn.
    """

    def __init__(self, what: str, *, max_batch_tokens: int, max_waiting_tokens: int) -> None:
        self.what = what
        self.max_batch_tokens = max_batch_tokens
        self.waiting_tokens = 0
        self._max_waiting_tokens = max_waiting_tokens
        self._callers: dict[str, _Caller] = {}
        self._had_last = 0

    def check_room(self, job: Job) -> None:
        """Raise `ServerBusyError` if there is too much work for one job more."""
        tokens = job.waiting_tokens
        if self.waiting_tokens and self.waiting_tokens + tokens > self._max_waiting_tokens:
            raise ServerBusyError(
                f"{self.waiting_tokens} tokens wait for the {self.what}, {tokens} more would exceed the limit of "
                f"{self._max_waiting_tokens}: retry in some seconds, or send fewer completions at a time"
            )

    def add(self, job: Job) -> None:
        """Put a job behind its caller's others."""
        caller = self._callers.setdefault(job.caller, _Caller(self._had_last))
        caller.jobs[job] = None
        self.waiting_tokens += job.waiting_tokens

    def remove(self, job: Job) -> None:
        """Take a job out, if it still waits."""
        caller = self._callers.get(job.caller)
        if caller is None or job not in caller.jobs:
            return
        self.waiting_tokens -= job.waiting_tokens
        del caller.jobs[job]
        if not caller.jobs:
            del self._callers[job.caller]

    def next_batch(self) -> tuple[Turn, ...]:
        """Return who would have their turn now, without giving it to them; empty if nobody waits."""
        line: list[_Place] = []
        for caller in self._callers.values():
            self._line_up(line, caller.had, iter(caller.jobs))
        batch: list[Turn] = []
        room = self.max_batch_tokens
        while line and room > 0:
            had, _, job, later = heapq.heappop(line)
            turn = job.next_turn(room, at_least=0 if batch else 1)
            # What does not go with the batch keeps its caller's later jobs back, too.
            if turn.tokens and (not batch or turn.plan == batch[0].plan):
                batch.append(turn)
                room -= turn.tokens
                if turn.is_last:
                    self._line_up(line, had, later)
        return tuple(batch)

    def take(self, batch: Sequence[Turn]) -> None:
        """Give those in a batch their turn."""
        for turn in batch:
            job, caller = turn.job, self._callers[turn.job.caller]
            caller.had += turn.tokens
            self._had_last = caller.had
            self.waiting_tokens -= turn.tokens
            if turn.is_first:
                job.queue_seconds = time.monotonic() - job.submitted
            job.plan, job.begun = turn.plan, turn.end
            if turn.is_last:
                self.remove(job)

    def _line_up(self, line: list[_Place], had: int, jobs: Iterator[Job]) -> None:
        job = next((job for job in jobs if job.is_wanted), None)
        if job is not None:
            tokens = min(job.waiting_tokens, self.max_batch_tokens)
            heapq.heappush(line, _Place(had + tokens, job.number, job, jobs))


def costs(samples: Samples) -> NDArray[np.int64]:
    """Tokens that a model reads for each prompt [P]: its own, once, and those of its completions."""
    reads: NDArray[np.int64] = np.diff(samples.completions.offsets[samples.groups]) + samples.prompts.lengths
    return reads


def _cut(samples: Samples, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut samples into pieces of at most `most` tokens, prompts whole where that can be: their ends and tokens."""
    whole = costs(samples)
    if (whole <= most).all():
        return samples.groups[1:], whole
    stops, tokens = [], []
    read = samples.completions.offsets
    for prompt, (first, last) in enumerate(zip(samples.groups[:-1], samples.groups[1:], strict=True)):
        trunk, begin = samples.prompts.lengths[prompt], int(first)
        while begin < last:
            fitting = int(np.searchsorted(read, read[begin] + most - trunk, side="right")) - 1
            stop = min(max(fitting, begin + 1), int(last))
            stops.append(stop)
            tokens.append(trunk + read[stop] - read[begin])
            begin = stop
    return np.array(stops), np.array(tokens)
