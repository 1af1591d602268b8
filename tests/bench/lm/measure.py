"""Ours and the peers' calls in turns, on data that both were found to give the same numbers for."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable


SLOW = 20.0  # seconds; a job of which a call takes longer is timed once, on the first calls


@dataclass(frozen=True)
class Peer:
    """Somebody else's way to do a job; `mark` is the least ratio of its time to ours."""

    name: str
    call: Callable[[], Any]
    mark: float | None = None


@dataclass(frozen=True)
class Row:
    """One peer in one job: median seconds, and the largest difference between the two results."""

    job: str
    peer: str
    ours: float
    theirs: float
    mark: float | None
    difference: float | None

    @property
    def ratio(self) -> float:
        return self.theirs / self.ours


@dataclass(frozen=True)
class Figure:
    """One number and what it says."""

    name: str
    value: str


def compare(job: str, ours: Callable[[], Any], peers: list[Peer], rounds: int, tolerance: float | None) -> list[Row]:
    """Rows of one job; raises if a peer's numbers differ by more than `tolerance`, where there is one."""
    calls = {"": ours, **{peer.name: peer.call for peer in peers}}
    results, times = {}, {}
    for name, call in calls.items():
        results[name], first = _timed(call)
        times[name] = [first]
    differences = {peer.name: _difference(results[""], results[peer.name]) if tolerance else None for peer in peers}
    for name, difference in differences.items():
        if difference is not None and not difference <= tolerance:
            raise AssertionError(f"{job}: {name} differs by {difference}, above {tolerance}")
    if max(first for (first,) in times.values()) < SLOW:
        times = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                times[name].append(seconds(call))
    return [
        Row(job, peer.name, median(times[""]), median(times[peer.name]), peer.mark, differences[peer.name])
        for peer in peers
    ]


def seconds(call: Callable[[], Any]) -> float:
    return _timed(call)[1]


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def _difference(ours: Any, theirs: Any) -> float:
    return float(np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)).max())
