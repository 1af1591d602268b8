"""Which rows a model works on together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher.ragged import Ragged

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


def join_rows(left: Ragged, right: Ragged) -> Ragged:
    """Put each row of `right` behind the same row of `left`.

    Examples
    --------
    >>> list(join_rows(Ragged.from_rows([[1], [2]]), Ragged.from_rows([[8, 9], [7]])))
    [array([1, 8, 9]), array([2, 7])]
    """
    n = len(left)
    lengths = np.concatenate([left.lengths, right.lengths])
    stacked = Ragged.from_lengths(np.concatenate([left.values, right.values]), lengths)
    pairs = stacked.take(np.arange(2 * n).reshape(2, n).T.ravel())
    return Ragged(pairs.values, pairs.offsets[::2])
