"""Exponential weights of rewards, log Z and the effective sample size."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import logsumexp, softmax

import esscher
from bench import data
from bench.measure import Job, Peer, compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

N, BETA = 10_000_000, 0.5


def tilt() -> Job:
    rewards = data.rewards(N)
    return Job(
        "tilt: weights, log Z, ESS: f64, N = 10^7",
        lambda: esscher.exponential_weights(rewards, BETA, threads=1),
        (
            Peer("SciPy", partial(_scipy, rewards), (15, 12), 1e-9),
            Peer("torch eager", partial(_torch, torch.from_numpy(rewards)), (25, 6), 1e-9),
            Peer("torch.compile", compiled(_torch_fused, torch.from_numpy(rewards)), (6, 2.4), 1e-9),
        ),
        bytes=2 * rewards.nbytes,
    )


def log_z() -> Job:
    rewards = data.rewards(N)
    return Job(
        "log Z, ESS: f64, N = 10^7",
        lambda: tuple(esscher.tilt_log_z(rewards, BETA, threads=1))[-2:],
        (
            Peer("SciPy", lambda: _scipy_log_z(rewards / BETA), (45, 45), 1e-9),
            Peer("torch eager", lambda: _torch_log_z(torch.from_numpy(rewards) / BETA), (None, 15), 1e-9),
        ),
        bytes=rewards.nbytes,
    )


def tilt_in_groups(size: int, scipy: float, reduceat: float | None, compiled_mark: float | None) -> Job:
    rewards, groups = data.rewards(N), np.arange(0, N + 1, size)
    table = rewards.reshape(-1, size)
    return Job(
        f"tilt in groups of {size}: weights, log Z, ESS: f64, N = 10^7",
        lambda: esscher.exponential_weights(rewards, BETA, groups, threads=1),
        (
            Peer("SciPy, axis=1", partial(_scipy, table), (scipy, scipy), 1e-9),
            Peer("numpy reduceat", partial(_reduceat, rewards, groups), (reduceat, reduceat), 1e-9),
            Peer(
                "torch.compile",
                compiled(_torch_fused, torch.from_numpy(table)),
                (compiled_mark, compiled_mark),
                1e-9,
            ),
        ),
        bytes=2 * rewards.nbytes + 3 * groups.nbytes,
    )


def _scipy(rewards: NDArray[np.float64]) -> tuple[Any, ...]:
    scaled = rewards / BETA
    return softmax(scaled, axis=-1), *_scipy_log_z(scaled)


def _scipy_log_z(scaled: NDArray[np.float64]) -> tuple[Any, ...]:
    log_sum = logsumexp(scaled, axis=-1)
    return log_sum - math.log(scaled.shape[-1]), np.exp(2 * log_sum - logsumexp(2 * scaled, axis=-1))


def _torch(rewards: torch.Tensor) -> tuple[torch.Tensor, ...]:
    scaled = rewards / BETA
    return scaled.softmax(-1), *_torch_log_z(scaled)


def _torch_log_z(scaled: torch.Tensor) -> tuple[torch.Tensor, ...]:
    log_sum = scaled.logsumexp(-1)
    return log_sum - math.log(scaled.shape[-1]), (2 * log_sum - (2 * scaled).logsumexp(-1)).exp()


def _torch_fused(rewards: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The same with one exponential, which compiles to fewer passes."""
    scaled = rewards / BETA
    highest = scaled.amax(-1, keepdim=True)
    weights = (scaled - highest).exp()
    total = weights.sum(-1, keepdim=True)
    log_z = (highest + total.log())[..., 0] - math.log(rewards.shape[-1])
    return weights / total, log_z, total[..., 0] ** 2 / (weights * weights).sum(-1)


def _reduceat(rewards: NDArray[np.float64], groups: NDArray[np.int64]) -> tuple[Any, ...]:
    scaled, starts, sizes = rewards / BETA, groups[:-1], np.diff(groups)
    highest = np.maximum.reduceat(scaled, starts)
    weights = np.exp(scaled - np.repeat(highest, sizes))
    total = np.add.reduceat(weights, starts)
    ess = total**2 / np.add.reduceat(weights * weights, starts)
    weights /= np.repeat(total, sizes)
    return weights, highest + np.log(total / sizes), ess


JOBS = {
    "tilt": tilt,
    "log-z": log_z,
    "tilt-groups-8": partial(tilt_in_groups, 8, 18, 6, 10),
    "tilt-groups-64": partial(tilt_in_groups, 64, 10, None, None),
}
