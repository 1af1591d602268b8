"""Sum, mean and length of every sequence."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

import esscher
from bench import data
from bench.measure import Job, Peer, compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray


def padded() -> Job:
    values, _, mask = data.batch(4096, 1024)
    tensors = torch.from_numpy(values), torch.from_numpy(mask)
    return Job(
        "sum, mean, length: f32 [4096, 1024] with mask",
        lambda: esscher.aggregate_logprobs(esscher.Padded(values, mask=mask), threads=1),
        (
            Peer("torch eager", partial(_torch, *tensors), (40, 9), 1e-5),
            Peer("torch.compile", compiled(_torch, *tensors), (6, 6), 1e-5),
            Peer("numpy, where=mask", partial(_numpy, values, mask), (8, 8), 1e-5),
        ),
        bytes=data.read_of(mask, values),
        share_mark=0.85,
    )


def ragged() -> Job:
    values, offsets = (rows := data.logprobs(2_500_000, 1024)).values, rows.offsets
    return Job(
        "sum, mean, length: f32, 2.5M values, ragged",
        lambda: esscher.aggregate_logprobs(esscher.Ragged(values, offsets), threads=1),
        (
            Peer("numpy add.reduceat", partial(_reduceat, values, offsets), (3, 3), 1e-5),
            Peer(
                "torch.segment_reduce",
                partial(_segment_reduce, torch.from_numpy(values), torch.from_numpy(offsets)),
                (6, 6),
                1e-5,
            ),
        ),
        bytes=values.nbytes + offsets.nbytes,
    )


def _torch(values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
    total, length = torch.where(mask, values, 0).sum(1), mask.sum(1)
    return total, total / length, length


def _numpy(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[NDArray[np.generic], ...]:
    total, length = np.sum(values, axis=1, where=mask), mask.sum(axis=1)
    return total, total / length, length


def _reduceat(values: NDArray[np.float32], offsets: NDArray[np.int64]) -> tuple[NDArray[np.generic], ...]:
    total, length = np.add.reduceat(values, offsets[:-1]), np.diff(offsets)
    return total, total / length, length


def _segment_reduce(values: torch.Tensor, offsets: torch.Tensor) -> tuple[torch.Tensor, ...]:
    total, length = torch.segment_reduce(values, "sum", offsets=offsets), offsets.diff()
    return total, total / length, length


JOBS = {"sum-padded": padded, "sum-ragged": ragged}
