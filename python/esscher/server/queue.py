"""Calls that wait for one thread, and whose turn it is."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from esscher.server.plans import join
from esscher.wire.errors import ServerBusyError
from esscher.wire.parts import Part, count_tokens, last_group_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from esscher.samples import Samples
    from esscher.server.plans import BatchPlan, Outcome

_numbers = itertools.count()


@dataclass(eq=False)
class QueuedCall:
    """What one call wants of one thread, and how much of it has been computed.

    Attributes
    ----------
    samples
        What to compute it for.
    caller
        Whose turn it counts as.
    plan_now
        The plan that the call would get if it began now.
    answer
        Where the outcome goes.
    expires
        When nobody wants it any more, by `time.monotonic`.
    plan
        The plan of all its parts, once the first is in a batch.
    taken
        How many of its completions are, or have been, in a batch.
    queue_seconds, model_seconds
        How long it waited for its first turn, and how long the batches took that it was part of.
    tokens
        What parts of it cost.
    """

    samples: Samples
    caller: str
    plan_now: Callable[[], BatchPlan]
    answer: asyncio.Future[Outcome]
    expires: float
    plan: BatchPlan | None = None
    taken: int = 0
    queue_seconds: float = 0.0
    model_seconds: float = 0.0
    number: int = field(default_factory=_numbers.__next__)
    submitted: float = field(default_factory=time.monotonic)
    _outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tokens = count_tokens(self.samples)

    @property
    def is_wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not self.answer.done() and time.monotonic() < self.expires

    @property
    def is_taken(self) -> bool:
        """Whether all of its completions are, or have been, in a batch."""
        return self.taken == len(self.samples)

    @property
    def waiting_tokens(self) -> int:
        """Tokens that have not had their turn."""
        return 0 if self.is_taken else self.tokens.of(self.taken, len(self.samples))

    def next_plan(self) -> BatchPlan:
        """Return the plan of the next part."""
        return self.plan_now() if self.plan is None else self.plan

    def next_part(self, room: int, *, alone: bool) -> Part | None:
        """Return the part next in line, of as many prompts as `room` tokens hold; `None` if they hold none.

        If it is computed `alone`, there is always one: some completions of a prompt that is too large, at least one.
        """
        reach = self.tokens.reach(self.taken, room)
        end = last_group_end(self.samples, reach)
        if end <= self.taken:
            if not alone:
                return None
            end = max(reach, self.taken + 1)
        return Part(self.samples, self.taken, end)

    def note_taken(self, part: Part) -> int:
        """Note that the next part is in a batch from now on, and return its tokens."""
        if part.begin == 0:
            self.plan, self.queue_seconds = self.plan_now(), time.monotonic() - self.submitted
        self.taken = part.end
        return self.tokens.of(part.begin, part.end)

    def receive(self, outcome: Outcome, seconds: float) -> None:
        """Keep the outcome of the part taken last; after the last part, or an error, the call is answered."""
        self.model_seconds += seconds
        self._outcomes.append(outcome)
        if not self.answer.done() and (self.is_taken or isinstance(outcome, Exception)):
            self.answer.set_result(join(self._outcomes))


class Queue:
    """Calls that wait for one thread, each caller's in order of arrival.

    The next turn goes to the caller who will have had the fewest tokens after it, where one who comes anew counts as
    having had as many as whoever had the last turn. A turn is a call, or as many of its prompts as fit into a batch;
    the completions of a prompt stay together, unless they are too many for one. What fits beside it into the batch, and
    has an equal plan, is merged with it. Used in one event loop.

    Parameters
    ----------
    what
        Who computes, as callers are told.
    max_batch_tokens
        Tokens of a batch, prompts counted once; a single completion with more is a batch of its own.
    max_waiting_tokens
        Tokens that may wait; a call that finds nothing waiting is accepted whatever its size.

    Attributes
    ----------
    waiting_tokens
        Tokens that have not had their turn.
    arrived
        Set whenever a call arrives.
    """

    def __init__(self, what: str, *, max_batch_tokens: int, max_waiting_tokens: int) -> None:
        self.what = what
        self.max_batch_tokens = max_batch_tokens
        self.waiting_tokens = 0
        self.arrived = asyncio.Event()
        self._max_waiting_tokens = max_waiting_tokens
        # By caller: the calls that wait, in order, and how many tokens the caller has had.
        self._calls: dict[str, dict[QueuedCall, None]] = {}
        self._had: dict[str, int] = {}
        self._had_last = 0

    def check_room(self, call: QueuedCall) -> None:
        """Raise `ServerBusyError` if too much waits for one call more."""
        tokens = call.waiting_tokens
        if self.waiting_tokens and self.waiting_tokens + tokens > self._max_waiting_tokens:
            raise ServerBusyError(
                f"{self.waiting_tokens} tokens wait for the {self.what}, {tokens} more would exceed the limit of "
                f"{self._max_waiting_tokens}: retry in some seconds, or send fewer completions at a time"
            )

    def add(self, call: QueuedCall) -> None:
        """Put a call behind its caller's others."""
        self._calls.setdefault(call.caller, {})[call] = None
        self._had.setdefault(call.caller, self._had_last)
        self.waiting_tokens += call.waiting_tokens
        self.arrived.set()

    def remove(self, call: QueuedCall) -> None:
        """Take a call out, if it still waits."""
        calls = self._calls.get(call.caller, {})
        if call not in calls:
            return
        self.waiting_tokens -= call.waiting_tokens
        del calls[call]
        if not calls:
            del self._calls[call.caller], self._had[call.caller]

    def take(self) -> list[tuple[QueuedCall, Part]]:
        """Take the next batch out of the queue: parts of calls with equal plans; empty if nobody waits."""
        line = [place for caller in self._calls if (place := self._place(caller)) is not None]
        heapq.heapify(line)
        batch: list[tuple[QueuedCall, Part]] = []
        room = self.max_batch_tokens
        while line and room > 0:
            _, _, call = heapq.heappop(line)
            # A call that does not go with the batch keeps its caller's later calls back, too.
            if batch and call.next_plan() != batch[0][0].plan:
                continue
            part = call.next_part(room, alone=not batch)
            if part is None:
                continue
            batch.append((call, part))
            room -= self._take(call, part)
            if call.is_taken and (place := self._place(call.caller)) is not None:
                heapq.heappush(line, place)
        return batch

    def _place(self, caller: str) -> tuple[int, int, QueuedCall] | None:
        """Return what a caller will have had after its next turn, and the call to have it; `None` if there is none."""
        call = next((call for call in self._calls.get(caller, ()) if call.is_wanted), None)
        if call is None:
            return None
        return self._had[caller] + min(call.waiting_tokens, self.max_batch_tokens), call.number, call

    def _take(self, call: QueuedCall, part: Part) -> int:
        """Take a part out of the queue, count it for its caller, and return its tokens."""
        waited = call.waiting_tokens
        tokens = call.note_taken(part)
        self._had[call.caller] += tokens
        self._had_last = self._had[call.caller]
        self.waiting_tokens += call.waiting_tokens - waited
        if call.is_taken:
            self.remove(call)
        return tokens
