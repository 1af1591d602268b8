"""The bias of diversity that is estimated from few completions, by the jackknife."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.ragged import Offsets, Ragged


def bias_of_pairs(rows: Ragged, n: int, weights: NDArray[np.float64], groups: Offsets) -> NDArray[np.float64]:
    """Return the bias of each group's distinct-n of 2 [P] by the jackknife over its completions.

    Distinct-n of 2 is a ratio of sums over pairs of completions, ``sum w_i w_j |G_i or G_j| / sum w_i w_j (L_i + L_j)``
    with G the n-grams of each and L their number; without one completion both lose the pairs that it is in, so all
    replicates come from one pass. 0 where there are no replicates.

    Examples
    --------
    >>> import numpy as np
    >>> from esscher import Ragged
    >>> rows = Ragged.from_rows([[1, 1], [1, 2, 3], [2, 2]])
    >>> bias_of_pairs(rows, 1, np.array([1.0, 1.0, 2.0]), np.array([0, 3])).round(4)
    array([0.0029])
    """
    sizes = np.diff(groups)
    group_of = np.repeat(np.arange(len(sizes)), sizes)
    held, shared = _held(rows, n, weights, group_of)
    length = np.maximum(rows.lengths - (n - 1), 0).astype(np.float64)

    def sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(group_of, values, len(sizes)).astype(np.float64, copy=False)

    def pairs(mass: NDArray[np.float64], overlap: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weight of the pairs of each completion with every other [N], `mass` being what each brings."""
        others = sums(weights)[group_of] - weights
        return weights * (mass * others + sums(weights * mass)[group_of] - weights * mass - overlap)

    of_unions, of_lengths = pairs(held, shared - weights * held), pairs(length, np.zeros(len(length)))
    # Each pair is in the sums of both.
    unions, lengths = sums(of_unions) / 2, sums(of_lengths) / 2
    value = np.divide(unions, lengths, out=np.zeros(len(sizes)), where=lengths > 0)[group_of]
    left = lengths[group_of] - of_lengths
    without = np.divide(unions[group_of] - of_unions, left, out=value.copy(), where=left > 1e-12 * lengths[group_of])
    return (sizes - 1) / np.maximum(sizes, 1) * sums(without - value)


def _held(
    rows: Ragged, n: int, weights: NDArray[np.float64], group_of: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count the different n-grams of each row [N], and sum the weights of the group's rows that hold each [N]."""
    row, ngram = _ngrams(rows, n, group_of)
    order = np.argsort(ngram, kind="stable")  # rows are in order, and stay so within each n-gram
    row, ngram = row[order], ngram[order]
    is_new = np.diff(ngram, prepend=-1) != 0
    is_first = is_new | (np.diff(row, prepend=-1) != 0)
    row, run = row[is_first], np.cumsum(is_new)[is_first]
    weight = np.bincount(run, weights[row])
    different, shared = np.bincount(row, minlength=len(rows)), np.bincount(row, weight[run], len(rows))
    return different.astype(np.float64), shared.astype(np.float64)


def _ngrams(rows: Ragged, n: int, group_of: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give the row of each n-gram, and a number of it that no other, and none of another group, has."""
    row = np.repeat(np.arange(len(rows)), rows.lengths)
    starts = np.flatnonzero(row[: max(len(row) - n + 1, 0)] == row[n - 1 :])
    bits = int(rows.values.max(initial=1)).bit_length()
    number = group_of[row[starts]]
    for k in range(n):
        if int(number.max(initial=0)).bit_length() + bits > 63:
            number = np.unique(number, return_inverse=True)[1]
        number = (number << bits) | rows.values[starts + k].astype(np.int64)
    return row[starts], number
