"""The estimators k1, k2, k3 of KL(policy‖prior), summed over every sequence."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import esscher
from bench import data
from bench.measure import Job, Peer, compiled, largest_error


def estimators(precision: str, compiled_mark: float, trl_mark: float | None, share_mark: float | None) -> Job:
    arrays = data.batch(4096, 1024)
    policy, prior, mask = arrays
    tensors = [torch.from_numpy(array) for array in arrays]
    return Job(
        f"k1, k2, k3: f32 [4096, 1024] with mask, {precision}",
        lambda: esscher.kl_estimators(
            esscher.Padded(policy, mask=mask), esscher.Padded(prior, mask=mask), precision=precision, threads=1
        ),
        (
            Peer("torch eager", partial(_torch, *tensors), tolerance=1e-4, error=_error),
            Peer("torch.compile", compiled(_torch, *tensors), (compiled_mark, compiled_mark), 1e-4, _error),
            Peer("TRL, k3 alone", partial(_trl, *tensors), (trl_mark, trl_mark), 1e-4, _error_of_k3),
        ),
        bytes=data.read_of(mask, policy, prior),
        share_mark=share_mark,
    )


def _torch(policy: torch.Tensor, prior: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
    d = torch.where(mask, policy - prior, 0)
    return d.sum(1), (d * d / 2).sum(1), (torch.exp(-d) - 1 + d).sum(1)


def _trl(policy: torch.Tensor, prior: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """As TRL's GRPO trainer has it."""
    per_token_kl = torch.exp(prior - policy) - (prior - policy) - 1
    return (per_token_kl * mask).sum(1)


def _error(ours: Any, theirs: tuple[torch.Tensor, ...]) -> float:
    return largest_error((ours.k1, ours.k2, ours.k3), theirs)


def _error_of_k3(ours: Any, theirs: torch.Tensor) -> float:
    return largest_error([ours.k3], [theirs])


JOBS = {"kl-mixed": partial(estimators, "mixed", 4, 12, 0.85), "kl-f64": partial(estimators, "f64", 2, None, None)}
