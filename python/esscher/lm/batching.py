"""Rows of like length divided into batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def micro_batches(lengths: NDArray[np.int64], budget: int) -> list[NDArray[np.int64]]:
    """Divide rows [n] into batches of at most `budget` tokens, padding included; a longer row gets one of its own.

    Rows of like length come together, the longest first, so that little is padding.

    Examples
    --------
    >>> [rows.tolist() for rows in micro_batches(np.array([2, 9, 3, 1]), budget=6)]
    [[1], [2, 0], [3]]
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        longest = int(lengths[order[start]])
        rows = order[start : start + max(1, budget // max(1, longest))]
        batches.append(rows)
        start += len(rows)
    return batches
