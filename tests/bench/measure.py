"""One job: our call and the peers' calls, checked against each other, then timed in turn."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache, partial
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from esscher import Ragged, sequence_logprobs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BUDGET = 3.0  # seconds of rounds for one job
SLOW = 5.0  # a call that takes longer is timed once, on its first call: "rounds" says 1
MOST_ROUNDS = 50
LEAST_ROUNDS = 3


def largest_error(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """The largest difference between two lists of arrays, each relative to the largest entry of its array."""
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(ours, theirs, strict=True)]
    return max(float(np.abs(a - b.reshape(a.shape)).max() / np.abs(b).max()) for a, b in pairs)


@dataclass(frozen=True)
class Peer:
    """Somebody else's way to do a job.

    `marks` are the least ratios of its time to ours, with default and with tuned malloc; `error` compares our result
    with its result; `parts` is how many such calls make the whole job.
    """

    name: str
    call: Callable[[], Any]
    marks: tuple[float | None, float | None] = (None, None)
    tolerance: float = 1e-12
    error: Callable[[Any, Any], float] = largest_error
    parts: float = 1


@dataclass(frozen=True)
class Job:
    """Our call and its peers; `bytes` is the size of the arrays that a memory-bound call reads and writes."""

    name: str
    ours: Callable[[], Any]
    peers: tuple[Peer, ...]
    bytes: int | None = None
    share_mark: float | None = None


@dataclass(frozen=True)
class Row:
    """One peer in one job: seconds, the error that was tolerated, and our share of the read bandwidth."""

    job: str
    peer: str
    ours: float
    theirs: float
    rounds: int
    marks: tuple[float | None, float | None]
    error: float
    share: float | None
    share_mark: float | None


def measure(job: Job, bandwidth: float) -> list[Row]:
    job.ours()
    errors, firsts = _agreement(job)
    fast = [peer for peer in job.peers if firsts[peer.name] <= SLOW]
    times = _rounds(job, fast)
    ours = median(times[""])
    share = None if job.bytes is None else job.bytes / ours / bandwidth
    return [
        Row(
            job=job.name,
            peer=peer.name,
            ours=ours,
            theirs=peer.parts * median(times.get(peer.name, [firsts[peer.name]])),
            rounds=len(times.get(peer.name, [1])),
            marks=peer.marks,
            error=errors[peer.name],
            share=share,
            share_mark=job.share_mark,
        )
        for peer in job.peers
    ]


def _agreement(job: Job) -> tuple[dict[str, float], dict[str, float]]:
    """The error of each peer and how long its first call took; raises if they disagree by more than is tolerated."""
    ours = job.ours()
    errors, firsts = {}, {}
    for peer in job.peers:
        theirs, firsts[peer.name] = _timed(peer.call)
        errors[peer.name] = peer.error(ours, theirs)
        if not errors[peer.name] <= peer.tolerance:
            raise AssertionError(f"{job.name}: {peer.name} differs by {errors[peer.name]}, above {peer.tolerance}")
    return errors, firsts


def _rounds(job: Job, peers: list[Peer]) -> dict[str, list[float]]:
    calls = {"": job.ours, **{peer.name: peer.call for peer in peers}}
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + BUDGET
    while len(times[""]) < LEAST_ROUNDS or (len(times[""]) < MOST_ROUNDS and time.perf_counter() < end):
        for name, call in calls.items():
            if job.bytes is not None:
                evict()
            times[name].append(_timed(call)[1])
    return times


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def evict() -> None:
    """Push everything out of the caches: a batch that a trainer hands over is in memory."""
    np.add.reduce(_larger_than_caches())


@cache
def _larger_than_caches() -> Any:
    return np.full(1 << 25, -1, np.float32)


def read_bandwidth() -> float:
    """Bytes a second at which one core reads memory: the best that any of three sums of 512 MB reaches."""
    values = np.full(1 << 27, -1, np.float32)
    calls = (
        partial(np.add.reduce, values),
        torch.from_numpy(values).sum,
        partial(sequence_logprobs, Ragged(values, [0, len(values)]), threads=1),
    )
    return values.nbytes / min(_timed(call)[1] for _ in range(5) for call in calls)


def compiled(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """A call of `function` on `arguments` as torch.compile makes it, compiled already."""
    call = partial(torch.compile(function, dynamic=False, fullgraph=True), *arguments)
    call()
    return call
