"""Diversity of token sequences: distinct-n, self-BLEU, the most frequent n-grams. Exact, and linear in the tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from esscher import _core
from esscher.ragged import as_groups, as_token_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from esscher.ragged import Ragged

Smoothing = Literal["none", "method1"]


class TopNgrams(NamedTuple):
    """The most frequent n-grams [k, n] and how often each occurs [k], most frequent first."""

    token_ids: NDArray[np.uint32]
    counts: NDArray[np.int64]


def distinct(
    token_ids: Ragged, n: int | Sequence[int], groups: ArrayLike | None = None, *, threads: int | None = None
) -> NDArray[np.float64]:
    """Return distinct-n: the number of different n-grams over the number of n-grams.

    N-grams never cross a completion's border. Ask for several n at once: all are counted in one pass, which costs
    little more than the longest alone.

    Parameters
    ----------
    token_ids
        Completions as integers.
    n
        Length of the n-grams, at least 1, or several such lengths.
    groups
        Offsets of completions that belong together [P + 1]; all are one group if not given. ``np.arange(N + 1)`` makes
        each of N completions its own.
    threads
        How many threads to use; all cores if not given. The result does not depend on it.

    Returns
    -------
    One share per group [P], in (0, 1]; NaN for a group without n-grams. For several n, one row for each [len(n), P].

    Raises
    ------
    ValueError
        If `n` is below 1, or `groups` are no offsets.
    TypeError
        If `token_ids` are not integers.

    References
    ----------
    Li, Galley, Brockett, Gao, Dolan, "A Diversity-Promoting Objective Function for Neural Conversation Models", 2016.

    Examples
    --------
    >>> from esscher import Ragged
    >>> distinct(Ragged.from_rows([[1, 2, 1, 2], [1, 2]]), 2)
    array([0.5])
    >>> distinct(Ragged.from_rows([[1, 2, 1, 2], [1, 2]]), range(2, 4))
    array([[0.5],
           [1. ]])
    """
    orders = np.array(n)
    for order in orders.flat:
        _check_order(order)
    rows = as_token_ids("token_ids", token_ids)
    borders = as_groups(groups, len(rows))
    shares = _core.distinct(rows.values, rows.offsets, borders, orders.ravel().tolist(), threads)
    return shares.reshape(*orders.shape, len(borders) - 1)


def self_bleu(
    token_ids: Ragged,
    n: int = 4,
    groups: ArrayLike | None = None,
    smoothing: Smoothing = "none",
    *,
    threads: int | None = None,
) -> NDArray[np.float64]:
    """Return self-BLEU: the mean over a group's completions of BLEU-n against all its other completions.

    Equal to NLTK's ``sentence_bleu`` of each completion with the others as references, at a cost linear in the tokens:
    the higher, the less diverse.

    Parameters
    ----------
    token_ids
        Completions as integers.
    n
        Longest n-gram that counts, at least 1; orders 1 to n weigh the same.
    groups
        Offsets of completions that belong together [P + 1]; all are one group if not given.
    smoothing
        What a precision of 0 counts as: "none", the smallest normal double (NLTK's method0); "method1", 0.1 matches.
    threads
        How many threads to use; all cores if not given. The result does not depend on it.

    Returns
    -------
    One mean per group [P], in [0, 1]; NaN for a group of fewer than two completions.

    Raises
    ------
    ValueError
        If `n` is below 1, `groups` are no offsets, or `smoothing` is none of the above.
    TypeError
        If `token_ids` are not integers.

    References
    ----------
    Zhu, Lu, Zheng, Guo, Zhang, Wang, Yu, "Texygen: A Benchmarking Platform for Text Generation Models", SIGIR 2018.

    Examples
    --------
    >>> from esscher import Ragged
    >>> self_bleu(Ragged.from_rows([[1, 2, 3], [1, 2, 4], [1, 2, 3]]), n=2).round(4)
    array([0.8591])
    """
    _check_order(n)
    rows = as_token_ids("token_ids", token_ids)
    return _core.self_bleu(rows.values, rows.offsets, as_groups(groups, len(rows)), n, smoothing, threads)


def top_ngrams(token_ids: Ragged, n: int, k: int) -> TopNgrams:
    """Return the `k` most frequent n-grams of all completions, ties in order of appearance.

    Raises
    ------
    ValueError
        If `n` or `k` is below 1.
    TypeError
        If `token_ids` are not integers.

    Examples
    --------
    >>> from esscher import Ragged
    >>> top = top_ngrams(Ragged.from_rows([[1, 2, 1, 2], [7, 8]]), n=2, k=2)
    >>> top.token_ids.tolist(), top.counts.tolist()
    ([[1, 2], [2, 1]], [2, 1])
    """
    _check_order(n)
    if k < 1:
        raise ValueError(f"k is {k}: ask for at least 1 n-gram")
    rows = as_token_ids("token_ids", token_ids)
    starts, counts = _core.top_ngrams(rows.values, rows.offsets, n, k)
    return TopNgrams(rows.values[starts[:, None] + np.arange(n)], counts)


def _check_order(n: int) -> None:
    if n < 1:
        raise ValueError(f"n is {n}: an n-gram has at least 1 token")
