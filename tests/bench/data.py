"""The data of all jobs, the same on every run: seeded log-probs, rewards, logits and Zipf-like tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher import Ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

VOCABULARY = 50_000


class Batch(NamedTuple):
    """Padded log-probs of policy and prior [n, L], and which of them count; the padding holds log-probs too."""

    policy: NDArray[np.float32]
    prior: NDArray[np.float32]
    mask: NDArray[np.bool_]


def lengths(rng: np.random.Generator, n: int, width: int) -> NDArray[np.int64]:
    return rng.integers(width // 4, width + 1, n)


def batch(n: int, width: int) -> Batch:
    rng = np.random.default_rng(0)
    policy = -np.abs(rng.standard_normal((n, width), np.float32))
    prior = np.minimum(policy + 0.3 * rng.standard_normal((n, width), np.float32), 0)
    return Batch(policy, prior, np.arange(width) < lengths(rng, n, width)[:, None])


def read_of(mask: NDArray[np.bool_], *columns: NDArray[np.float32]) -> int:
    """Bytes of a mask and of what it keeps of padded columns."""
    return mask.nbytes + int(mask.sum()) * sum(column.itemsize for column in columns)


def logprobs(total: int, width: int) -> Ragged:
    """Rows up to `width` long, about `total` values in all."""
    rng = np.random.default_rng(0)
    rows = lengths(rng, 8 * total // (5 * width), width)
    return Ragged.from_lengths(-np.abs(rng.standard_normal(rows.sum(), np.float32)), rows)


def rewards(n: int) -> NDArray[np.float64]:
    return np.random.default_rng(0).standard_normal(n)


def logits(tokens: int, vocabulary: int, seed: int) -> NDArray[np.float32]:
    return 3 * np.random.default_rng(seed).standard_normal((tokens, vocabulary), np.float32)


def completions(n: int, width: int) -> Ragged:
    """Rows of tokens with ``p ~ 1 / (rank + 2.7)``."""
    rng = np.random.default_rng(0)
    shares = np.cumsum(1 / (np.arange(VOCABULARY) + 2.7))
    rows = lengths(rng, n, width)
    drawn = np.searchsorted(shares, rng.random(rows.sum()) * shares[-1])
    return Ragged.from_lengths(drawn.astype(np.uint32), rows)
