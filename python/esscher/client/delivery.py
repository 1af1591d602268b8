"""When a call is sent, sent again or given up; the clients send and wait."""

from __future__ import annotations

import itertools
import math
import random
import time
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import grpc

from esscher.client.requests import read_response
from esscher.wire.status import Status, exception_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from esscher.client.requests import Call

Result = TypeVar("Result")

# The longest pause before a call is sent again for the first time [s], and how often it doubles.
_FIRST_PAUSE, _DOUBLINGS = 0.1, 5


class Failure(NamedTuple):
    """How an attempt at a call ended, and how long the server asks to be left alone [s]; inf is for ever."""

    status: Status
    pushback: float = 0.0


def failure_of(error: Any) -> Failure:
    """Return how a call ended; gRPC's errors and calls all say it, and their base classes do not declare it."""
    metadata = dict(error.trailing_metadata() or ())
    return Failure(
        Status(error.code(), error.details() or ""),
        _pushback(metadata.get("grpc-retry-pushback-ms", "0")),
    )


def _pushback(milliseconds: str) -> float:
    # What is negative, or no number, says not to retry.
    return int(milliseconds) / 1000 if milliseconds.isdecimal() else math.inf


def pause_before_retry(failures: Sequence[Failure], seconds_left: float, *, answered: bool) -> float | None:
    """Return how long to wait before a call is sent again, or `None` if it is not to be.

    The pause is random, so that callers who were refused together do not come back together; the longest possible one
    doubles with each failure.

    Parameters
    ----------
    failures
        How the attempts so far ended.
    seconds_left
        How much of the call's time is left.
    answered
        Whether the server has ever answered; one that has not may not be there at all.
    """
    if not _may_pass(failures, answered=answered):
        return None
    longest = _FIRST_PAUSE * 2 ** min(len(failures) - 1, _DOUBLINGS)
    pause = failures[-1].pushback + random.uniform(0, longest)
    return pause if pause < seconds_left else None


def _may_pass(failures: Sequence[Failure], *, answered: bool) -> bool:
    code, text = failures[-1].status
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        # A server that stops cancels what it has not finished; no client reads a call that it has cancelled itself.
        return answered
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # gRPC's own refusal of a message's size; the other reason is that the server is busy.
        return "larger than max" not in text
    return code is grpc.StatusCode.INTERNAL and [failure.status.code for failure in failures].count(code) == 1


class Delivery(Generic[Result]):
    """One call until it is answered: the time it has, and what becomes of each attempt.

    Attributes
    ----------
    call
        What is sent.
    due
        When it is to be sent, or sent again, by `time.monotonic`.
    """

    def __init__(self, call: Call[Result], address: str, timeout: float, *, answered: bool) -> None:
        self.call = call
        self.due = time.monotonic()
        self._end = self.due + timeout
        self._address, self._timeout, self._answered = address, timeout, answered
        self._failures: list[Failure] = []

    def seconds_left(self) -> float:
        """How much of the call's time is left."""
        return max(self._end - time.monotonic(), 0.0)

    def read(self, response: Any) -> Result:
        """Return what the response says; raises `RuntimeError` if it is no answer."""
        return read_response(self.call, response, self._address)

    def fail(self, error: Any) -> float:
        """Return how long to wait before the call is sent again; raises what the error means if it is not to be."""
        failure = failure_of(error)
        self._failures.append(failure)
        pause = pause_before_retry(self._failures, self.seconds_left(), answered=self._answered)
        if pause is None:
            code, text = failure.status
            raise exception_of(Status(code, self.call.place(text)), self._address, self._timeout) from error
        self.due = time.monotonic() + pause
        return pause


class Window(Generic[Result]):
    """Which of many deliveries are to be sent now, so that no more than `size` are begun and not finished.

    One that waits to be sent again keeps its place, so a busy server gets fewer calls.
    """

    def __init__(self, deliveries: Iterator[Delivery[Result]], size: int) -> None:
        self._new = deliveries
        self._size = size
        self._begun = 0
        self._waiting: list[Delivery[Result]] = []
        self._fill()

    def is_empty(self) -> bool:
        """Whether all deliveries are finished."""
        return self._begun == 0

    def take_due(self) -> list[Delivery[Result]]:
        """Return what is to be sent now."""
        now = time.monotonic()
        due = [delivery for delivery in self._waiting if delivery.due <= now]
        self._waiting = [delivery for delivery in self._waiting if delivery.due > now]
        return due

    def pause(self) -> float | None:
        """Return the seconds until something is due; `None` if nothing is before an answer comes."""
        first = min((delivery.due for delivery in self._waiting), default=None)
        return None if first is None else max(first - time.monotonic(), 0.0)

    def retry(self, delivery: Delivery[Result]) -> None:
        """Take back what is to be sent again when it is due."""
        self._waiting.append(delivery)

    def finish(self) -> None:
        """Give the place of a delivery that is finished to the next."""
        self._begun -= 1
        self._fill()

    def _fill(self) -> None:
        for delivery in itertools.islice(self._new, self._size - self._begun):
            self._begun += 1
            self._waiting.append(delivery)
