"""What has no peer: growth with the number of completions, peak memory, and what a second thread is worth."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import esscher
from bench import data

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Figure:
    """One number and what it says."""

    name: str
    value: str


def growth() -> list[Figure]:
    completions = data.completions(1_000_000, 64)
    calls = {
        "distinct-1 to 4": partial(esscher.distinct, n=range(1, 5), threads=1),
        "self-BLEU-4": partial(esscher.self_bleu, smoothing="method1", threads=1),
    }
    return [_exponent(name, call, completions) for name, call in calls.items()]


def _exponent(name: str, call: Callable[[Any], Any], completions: esscher.Ragged) -> Figure:
    sizes = (10_000, 100_000, 1_000_000)
    seconds = []
    for n in sizes:
        first = esscher.Ragged(completions.values[: completions.offsets[n]], completions.offsets[: n + 1])
        seconds.append(min(_seconds(partial(call, first)) for _ in range(3)))
    exponent = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    times = ", ".join(f"{second * 1e3:.0f} ms" for second in seconds)
    return Figure(f"{name}, 64 tokens: growth from 10^4 to 10^6 completions", f"exponent {exponent:.2f} ({times})")


def memory() -> list[Figure]:
    """Each call in a process of its own, whose peak is nobody else's."""
    return [_peak("distinct", "distinct-1 to 5, 10^6 x 128 tokens"), _peak("bleu", "self-BLEU-4, 10^6 x 64 tokens")]


def _peak(call: str, name: str) -> Figure:
    command = [sys.executable, "-m", "bench.memory", call]
    peak, tokens = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    value = f"{peak / 2**20:.0f} MiB above {tokens * 4 / 2**20:.0f} MiB of tokens, {peak / tokens:.1f} bytes a token"
    return Figure(f"{name}: peak additional memory", value)


def threads() -> list[Figure]:
    rewards, (policy, prior, mask) = data.rewards(10_000_000), data.batch(4096, 1024)
    logits, token_ids = torch.from_numpy(data.logits(256, 151_936, 1)), torch.arange(256)
    completions = data.completions(100_000, 64)
    calls = {
        "tilt, N = 10^7": partial(esscher.exponential_weights, rewards, 0.5),
        "tilt in groups of 8, N = 10^7": partial(
            esscher.exponential_weights, rewards, 0.5, np.arange(0, len(rewards) + 1, 8)
        ),
        "k1, k2, k3, f64, [4096, 1024]": partial(
            esscher.kl_estimators, esscher.Padded(policy, mask=mask), esscher.Padded(prior, mask=mask)
        ),
        "token log-prob, entropy, [256, 151936]": partial(esscher.token_scores, logits, token_ids),
        "distinct-1 to 5, 100 000 x 64 tokens": partial(esscher.distinct, completions, range(1, 6)),
        "distinct-1 to 5 of each, 100 000 x 64 tokens": partial(
            esscher.distinct, completions, range(1, 6), np.arange(len(completions) + 1)
        ),
        "self-BLEU-4, 100 000 x 64 tokens": partial(esscher.self_bleu, completions, smoothing="method1"),
    }
    return [Figure(f"{name}: two threads against one", f"{_speed_up(call):.2f} x") for name, call in calls.items()]


def _speed_up(call: Callable[..., Any]) -> float:
    call(threads=2)
    times = [[_seconds(partial(call, threads=count)) for count in (1, 2)] for _ in range(5)]
    one, two = (median(column) for column in zip(*times, strict=True))
    return one / two


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


FIGURES = {"growth": growth, "memory": memory, "threads": threads}
