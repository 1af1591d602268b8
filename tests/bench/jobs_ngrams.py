"""Statistics of n-grams: entropy and rarefied distinct-n, with and without weights, and the most frequent n-grams."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from bench import data
from bench.measure import Job, Peer
from bench.peers import polars_frame, polars_ngrams, windows
from esscher.diversity import ngram_statistics, top_ngrams

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from esscher.diversity import NgramStatistics

ORDERS = (1, 2, 3)
TOP, TOP_ORDER = 10, 3
COMPLETIONS, WIDTH = 20_000, 128
Rows = list[list[int]]


def statistics() -> Job:
    completions = data.completions(COMPLETIONS, WIDTH)
    rows = [row.tolist() for row in completions]
    return Job(
        f"distinct, entropy, rarefied to 2, orders 1 to 3: {COMPLETIONS} x {WIDTH} tokens",
        lambda: _flat(ngram_statistics(completions, ORDERS, subsample=2, threads=1)),
        (Peer("Python Counter", lambda: _by_order(_of_order, rows)),),
    )


def weighted() -> Job:
    completions = data.completions(COMPLETIONS, WIDTH)
    rows, weights = [row.tolist() for row in completions], np.exp(data.rewards(COMPLETIONS))
    return Job(
        f"the same, of weighted completions: {COMPLETIONS} x {WIDTH} tokens",
        lambda: _flat(ngram_statistics(completions, ORDERS, None, weights, subsample=2, threads=1)),
        (Peer("Python dictionaries", lambda: _by_order(partial(_of_weighted, weights), rows), tolerance=1e-9),),
    )


def top() -> Job:
    completions = data.completions(COMPLETIONS, WIDTH)
    rows = [row.tolist() for row in completions]
    return Job(
        f"the {TOP} most frequent 3-grams: {COMPLETIONS} x {WIDTH} tokens",
        lambda: top_ngrams(completions, TOP_ORDER, TOP, threads=1).counts,
        (
            Peer("Python Counter", partial(_top, rows), error=_error_of_counts),
            Peer("polars", partial(_polars, polars_frame(completions)), error=_error_of_counts),
        ),
    )


def _flat(said: NgramStatistics) -> list[Any]:
    return [said.distinct, said.entropy, said.rarefied]


def _by_order(statistics: Callable[[Rows, int], tuple[float, float, float]], rows: Rows) -> list[Any]:
    return np.array([statistics(rows, n) for n in ORDERS]).T.reshape(3, -1, 1).tolist()


def _of_order(rows: Rows, n: int) -> tuple[float, float, float]:
    """By definition, from how often each n-gram occurs, and in how many completions."""
    counts, within = Counter[Any](), Counter[Any]()
    for row in rows:
        ngrams = list(windows(row, n))
        counts.update(ngrams)
        within.update(set(ngrams))
    count, of = np.array(list(counts.values())), np.array(list(within.values()))
    total, size = count.sum(), len(rows)
    missed = (size - of) * (size - of - 1) / (size * (size - 1))
    entropy = np.log(total) - (count * np.log(count)).sum() / total
    return len(count) / total, float(entropy), float((1 - missed).sum() / (2 * total / size))


def _of_weighted(weights: NDArray[np.float64], rows: Rows, n: int) -> tuple[float, float, float]:
    """By definition, from each n-gram's mass and the first two power sums of the weights of its completions."""
    masses, sums, squares = (defaultdict[Any, float](float) for _ in range(3))
    for row, weight in zip(rows, weights.tolist(), strict=True):
        ngrams = list(windows(row, n))
        for ngram in ngrams:
            masses[ngram] += weight
        for ngram in set(ngrams):
            sums[ngram] += weight
            squares[ngram] += weight * weight
    mass, first, second = (np.array(list(column.values())) for column in (masses, sums, squares))
    all_of, square = weights.sum(), weights @ weights
    shares, scale, pairs = mass / mass.sum(), all_of / square, all_of**2 - square
    missed = ((all_of - first) ** 2 - (square - second)) / pairs
    lengths = np.array([max(0, len(row) - n + 1) for row in rows])
    expected = (2 * weights * (all_of - weights) / pairs) @ lengths
    return (
        float(np.minimum(1.0, scale * mass).sum() / (scale * mass.sum())),
        float(-(shares * np.log(shares)).sum()),
        float((1 - missed).sum() / expected),
    )


def _top(rows: Rows) -> list[int]:
    counts = Counter[Any]()
    for row in rows:
        counts.update(windows(row, TOP_ORDER))
    return [count for _, count in counts.most_common(TOP)]


def _polars(frame: pl.DataFrame) -> list[int]:
    counts = polars_ngrams(frame, TOP_ORDER).group_by(pl.all()).agg(pl.len().alias("count")).top_k(TOP, by="count")
    return sorted(counts.collect()["count"].to_list(), reverse=True)


def _error_of_counts(ours: Any, theirs: list[int]) -> float:
    return float(np.abs(np.asarray(ours) - theirs).max())


JOBS = {"ngrams": statistics, "ngrams-weighted": weighted, "ngrams-top": top}
