"""The frontier: every quantity for a whole grid of beta."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import logsumexp

import esscher
from bench import data
from bench.measure import Job, Peer, largest_error
from esscher import _core

if TYPE_CHECKING:
    from numpy.typing import NDArray

N, BETAS = 1_000_000, np.geomspace(10.0, 0.5, 64)


def sums() -> Job:
    rewards, groups = data.rewards(N), np.array([0, N])
    return Job(
        "frontier's kernel: what log Z, reward, KL, ESS and their variances are made of: f64, N = 10^6, 64 betas",
        lambda: _of_sums(*_core.tilt_sums(rewards, BETAS, groups, 1)),
        (
            Peer("SciPy, beta by beta", partial(_scipy, rewards), tolerance=1e-8),
            Peer("torch eager, beta by beta", partial(_torch, torch.from_numpy(rewards)), tolerance=1e-8),
        ),
        bytes=rewards.nbytes,
    )


def whole() -> Job:
    rewards = data.rewards(N)
    return Job(
        "frontier, whole: also total variation, Pareto k, intervals: f64, N = 10^6, 64 betas",
        partial(esscher.frontier, rewards, BETAS, threads=1),
        (
            Peer(
                "SciPy, four quantities, beta by beta", partial(_scipy, rewards), tolerance=1e-3, error=_error_of_curves
            ),
        ),
        bytes=rewards.nbytes,
    )


def _of_sums(highest: NDArray[np.float64], flat: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    e, ed, ee, _, _ = flat.reshape(len(BETAS), -1).T
    log_z = highest[0] / BETAS + np.log(e / N)
    reward = highest[0] + ed / e
    return log_z, reward, reward / BETAS - log_z, e**2 / ee


def _scipy(rewards: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    return tuple(np.array([_scipy_at(rewards, beta) for beta in BETAS]).T)


def _scipy_at(rewards: NDArray[np.float64], beta: float) -> tuple[float, ...]:
    log_weights = rewards / beta
    log_sum = logsumexp(log_weights)
    weights = np.exp(log_weights - log_sum)
    log_z, reward = log_sum - np.log(N), weights @ rewards
    return log_z, reward, reward / beta - log_z, 1 / (weights @ weights)


def _torch(rewards: torch.Tensor) -> tuple[NDArray[np.float64], ...]:
    return tuple(torch.stack([_torch_at(rewards, float(beta)) for beta in BETAS]).T.numpy())


def _torch_at(rewards: torch.Tensor, beta: float) -> torch.Tensor:
    log_weights = rewards / beta
    log_sum = log_weights.logsumexp(0)
    weights = torch.exp(log_weights - log_sum)
    log_z, reward = log_sum - np.log(N), weights @ rewards
    return torch.stack([log_z, reward, reward / beta - log_z, 1 / (weights @ weights)])


def _error_of_curves(ours: Any, theirs: Any) -> float:
    """Ours take off a bias of order 1/n."""
    return largest_error([ours.log_z.value, ours.reward.value, ours.kl.value, ours.ess], theirs)


JOBS = {"frontier": sums, "frontier-whole": whole}
