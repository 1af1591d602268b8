"""The bias of diversity that is estimated from few completions, by the jackknife."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher.groups import as_groups
from esscher.ragged import pieces_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.groups import Groups
    from esscher.ragged import Masked, Ragged


def bias_of_pairs(
    rows: Ragged | Masked, n: int, weights: NDArray[np.float64], groups: ArrayLike
) -> NDArray[np.float64]:
    """Return the bias of each group's distinct-n of 2 [P] by the jackknife over its completions.

    Distinct-n of 2 is a ratio of sums over pairs of completions, ``sum w_i w_j |G_i or G_j| / sum w_i w_j (L_i + L_j)``
    with G the n-grams of each and L their number; without one completion both lose the pairs that it is in, so all
    replicates come from one pass. 0 where there are no replicates.

    Examples
    --------
    >>> import numpy as np
    >>> from esscher import Ragged
    >>> rows = Ragged.from_rows([[1, 1], [1, 2, 3], [2, 2]])
    >>> bias_of_pairs(rows, 1, np.array([1.0, 1.0, 2.0]), [0, 3]).round(4)
    array([0.0029])
    """
    groups = as_groups(groups, len(rows))
    sizes, sums, spread = groups.sizes, groups.sums, groups.spread
    held, shared = _held(rows, n, weights, groups)
    pieces, of_rows = pieces_of(rows)
    length = of_rows.sums(np.maximum(pieces.lengths - (n - 1), 0).astype(np.float64))

    def pairs(mass: NDArray[np.float64], overlap: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weight of the pairs of each completion with every other [N], `mass` being what each brings."""
        others = spread(sums(weights)) - weights
        return weights * (mass * others + spread(sums(weights * mass)) - weights * mass - overlap)

    of_unions, of_lengths = pairs(held, shared - weights * held), pairs(length, np.zeros(len(length)))
    # Each pair is in the sums of both.
    unions, lengths = sums(of_unions) / 2, sums(of_lengths) / 2
    value = spread(np.divide(unions, lengths, out=np.zeros(len(sizes)), where=lengths > 0))
    left = spread(lengths) - of_lengths
    without = np.divide(spread(unions) - of_unions, left, out=value.copy(), where=left > 1e-12 * spread(lengths))
    return (sizes - 1) / np.maximum(sizes, 1) * sums(without - value)


def _held(
    rows: Ragged | Masked, n: int, weights: NDArray[np.float64], groups: Groups
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count the different n-grams of each row [N], and sum the weights of the group's rows that hold each [N]."""
    row, ngram = _ngrams(rows, n, groups.of)
    row, ngram = _by_ngram(row, ngram)
    is_new = np.diff(ngram, prepend=-1) != 0
    is_first = is_new | (np.diff(row, prepend=-1) != 0)
    row, run = row[is_first], np.cumsum(is_new)[is_first]
    weight = np.bincount(run, weights[row])
    different, shared = np.bincount(row, minlength=len(rows)), np.bincount(row, weight[run], len(rows))
    return different.astype(np.float64), shared.astype(np.float64)


def _by_ngram(row: NDArray[np.int64], ngram: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort by n-gram, and by row within each; as single numbers where both fit into one, which is ten times as fast."""
    bits = int(row.max(initial=0)).bit_length()
    if int(ngram.max(initial=0)).bit_length() + bits > 63:
        order = np.argsort(ngram, kind="stable")  # rows are in order, and stay so
        return row[order], ngram[order]
    both = np.sort((ngram << bits) | row)
    return both & ((1 << bits) - 1), both >> bits


def _ngrams(rows: Ragged | Masked, n: int, group_of: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give the row of each n-gram, and a number of it that no other, and none of another group, has."""
    pieces, of_rows = pieces_of(rows)
    piece = pieces.rows.of
    starts = np.flatnonzero(piece[: max(len(piece) - n + 1, 0)] == piece[n - 1 :])
    row = of_rows.of[piece[starts]]
    bits = int(pieces.values.max(initial=1)).bit_length()
    number = group_of[row]
    for k in range(n):
        if int(number.max(initial=0)).bit_length() + bits > 63:
            number = np.unique(number, return_inverse=True)[1]
        number = (number << bits) | pieces.values[starts + k].astype(np.int64)
    return row, number
