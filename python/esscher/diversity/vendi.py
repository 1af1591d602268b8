"""The Vendi score: how many completions there effectively are, where similar ones count as one."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from esscher.diversity.arguments import as_weights, check_order, check_weights
from esscher.groups import as_groups
from esscher.ragged import as_token_ids, pieces_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.groups import Groups
    from esscher.ragged import Masked, Ragged

# The eigenvalues of a larger kernel take minutes.
MOST_COMPLETIONS = 4096
# So many numbers of a block of n-gram counts are held at once.
BLOCK = 1 << 22


def vendi_score(
    token_ids: Ragged | Masked, n: int = 1, groups: ArrayLike | None = None, weights: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return the Vendi score of each group [P]: its effective number of different completions.

    ``exp(-sum_i l_i log l_i)`` over the eigenvalues l of ``diag(sqrt(p)) K diag(sqrt(p))``, where ``K_ij`` is the
    cosine between the n-gram counts of completions i and j, and p are their weights, ``1 / N`` if not given. From 1,
    where all are copies, to N, where no two share an n-gram. Completions of fewer than `n` tokens count as copies of
    one another and unlike all others.

    The cost is cubic in the completions of a group, and its kernel takes their square in memory.

    Parameters
    ----------
    token_ids
        Completions as integers; of `Masked` ones what is kept, and no n-gram spans a gap.
    n
        Length of the n-grams, at least 1.
    groups
        Offsets of completions that belong together [P + 1]; all are one group if not given.
    weights
        One a completion [N], relative to its group: finite and at least 0.

    Returns
    -------
    One score a group; NaN for a group without completions, or without weight.

    Raises
    ------
    ValueError
        If `n` is below 1, `groups` are no offsets, a weight is negative or not finite, or a group has more than 4096
        completions.
    TypeError
        If `token_ids` are not integers, or `weights` no numbers.

    References
    ----------
    Friedman, Dieng, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning", TMLR 2023,
    arXiv:2210.02410.

    Examples
    --------
    >>> from esscher import Ragged
    >>> completions = Ragged.from_rows([[1, 2], [1, 2], [3, 4], [5, 6]])
    >>> vendi_score(completions, groups=[0, 2, 4]).round(12)
    array([1., 2.])
    >>> vendi_score(completions, weights=[0, 1, 1, 0]).round(12)
    array([2.])
    """
    check_order(n)
    rows = as_token_ids("token_ids", token_ids, or_masked=True)
    borders = as_groups(groups, len(rows))
    relative = np.ones(len(rows)) if weights is None else as_weights(weights, len(rows))
    check_weights(relative)
    sizes = borders.sizes
    if len(sizes) and sizes.max() > MOST_COMPLETIONS:
        raise ValueError(
            f"group {sizes.argmax()} has {sizes.max()} completions: the Vendi score's cost is cubic, so at most "
            f"{MOST_COMPLETIONS} are taken. Draw a sub-sample of them, or score each prompt's completions"
        )
    return scores_of_groups(rows, n, borders, relative)


def scores_of_groups(
    rows: Ragged | Masked, n: int, groups: Groups, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the Vendi score of each group [P]; NaN where a group has more completions than are taken."""
    numbers = np.unique(rows.values, return_inverse=True)[1].astype(np.int64)
    rows = replace(rows, values=numbers)
    # Of longer n-grams there are none either.
    n = min(n, int(rows.lengths.max(initial=0)) + 1)
    scores = np.full(len(groups.sizes), np.nan)
    for i, (a, b) in enumerate(itertools.pairwise(groups.tolist())):
        if 0 < b - a <= MOST_COMPLETIONS:
            scores[i] = _score(rows.take(np.arange(a, b)), n, weights[a:b])
    return scores


def _score(rows: Ragged | Masked, n: int, weights: NDArray[np.float64]) -> float:
    kept = np.flatnonzero(weights > 0)
    if len(kept) == 0:
        return float("nan")
    relative = weights[kept] / weights[kept].max()
    roots = np.sqrt(relative / relative.sum())
    rows = rows if len(kept) == len(rows) else rows.take(kept)
    eigenvalues = np.linalg.eigvalsh(_kernel(rows, n) * roots * roots[:, None])
    # Rounding leaves eigenvalues of 0 on either side of it.
    positive = eigenvalues[eigenvalues > 0]
    return float(np.exp(-np.sum(positive * np.log(positive))))


def _kernel(rows: Ragged | Masked, n: int) -> NDArray[np.float64]:
    """Cosines between the n-gram counts of all rows [N, N].

    N-grams of one row matter to its norm only; the others are taken a block of columns at a time.
    """
    size = len(rows)
    row_of, ngram_of, counts = _counts(rows, n)
    values = counts / np.sqrt(np.bincount(row_of, counts**2, minlength=size))[row_of]
    shared = np.bincount(ngram_of)[ngram_of] > 1
    columns, ngram_of = np.unique(ngram_of[shared], return_inverse=True)
    row_of, values = row_of[shared], values[shared]
    kernel = np.zeros((size, size))
    width = max(1, BLOCK // size)
    for start in range(0, len(columns), width):
        here = (ngram_of >= start) & (ngram_of < start + width)
        block = np.zeros((size, min(width, len(columns) - start)))
        block[row_of[here], ngram_of[here] - start] = values[here]
        kernel += block @ block.T
    np.fill_diagonal(kernel, 1.0)
    return kernel


def _counts(rows: Ragged | Masked, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Each row's n-grams: the row, a number for the n-gram, and how often it occurs there."""
    pieces, of_rows = pieces_of(rows)
    lengths, numbers = pieces.lengths, pieces.values
    row_of = np.repeat(of_rows.of, lengths)
    left = np.repeat(pieces.offsets[1:], lengths) - np.arange(len(row_of))
    starts = np.flatnonzero(left >= n)
    ngrams = numbers[starts]
    for i in range(1, n):
        # Numbers of n-grams are below the number of tokens, so products stay below 2^64 from here on.
        ngrams = np.unique(ngrams, return_inverse=True)[1]
        ngrams = ngrams * (int(numbers.max(initial=0)) + 1) + numbers[starts + i]
    ngrams = np.unique(ngrams, return_inverse=True)[1]
    # What stands for rows without n-grams.
    short = np.flatnonzero(of_rows.sums(lengths >= n) == 0)
    row_of = np.concatenate([row_of[starts], short])
    ngrams = np.concatenate([ngrams + 1, np.zeros(len(short), np.int64)])
    pairs, counts = np.unique(row_of * (len(ngrams) + 1) + ngrams, return_counts=True)
    return pairs // (len(ngrams) + 1), pairs % (len(ngrams) + 1), counts.astype(np.float64)
