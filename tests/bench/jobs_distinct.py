"""Distinct-1 to distinct-5, over all completions and for each."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nltk
import numpy as np
import polars as pl

import esscher
from bench import data
from bench.measure import Job, Peer, largest_error
from bench.peers import polars_frame, polars_ngrams, windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

ORDERS = range(1, 6)
Rows = list[list[int]]


def over_all() -> Job:
    completions = data.completions(100_000, 128)
    rows = [row.tolist() for row in completions]
    return Job(
        "distinct-1 to 5: 100 000 x 128 tokens",
        lambda: esscher.distinct(completions, ORDERS, threads=1),
        (
            Peer("Python sets", partial(_over_all, rows, windows), (70, 70)),
            Peer("nltk.ngrams", partial(_over_all, rows, nltk.ngrams), (90, 90)),
            _diversity(completions),
            Peer("polars", partial(_polars, polars_frame(completions), completions.lengths), (35, 35)),
        ),
    )


def per_completion() -> Job:
    completions = data.completions(100_000, 128)
    rows = [row.tolist() for row in completions]
    return Job(
        "distinct-1 to 5 of each completion: 100 000 x 128 tokens",
        lambda: esscher.distinct(completions, ORDERS, np.arange(len(completions) + 1), threads=1),
        (
            Peer("Python sets", partial(_per_completion, rows, windows), (50, 50)),
            Peer("nltk.ngrams", partial(_per_completion, rows, nltk.ngrams), (90, 90)),
        ),
    )


def _over_all(rows: Rows, ngrams: Callable[..., Iterable[Any]]) -> NDArray[np.float64]:
    shares = []
    for n in ORDERS:
        seen: set[Any] = set()
        for row in rows:
            seen.update(ngrams(row, n))
        shares.append([len(seen) / sum(len(row) - n + 1 for row in rows)])
    return np.array(shares)


def _per_completion(rows: Rows, ngrams: Callable[..., Iterable[Any]]) -> NDArray[np.float64]:
    return np.array([[len(set(ngrams(row, n))) / (len(row) - n + 1) for row in rows] for n in ORDERS])


def _polars(frame: pl.DataFrame, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    counts = [polars_ngrams(frame, n).unique().select(pl.len()).collect().item() for n in ORDERS]
    return np.array([[count / (lengths - n + 1).sum()] for count, n in zip(counts, ORDERS, strict=True)])


def _diversity(completions: esscher.Ragged) -> Peer:
    """The package lets n-grams cross from one completion to the next and rounds the sum of its shares."""
    texts = [" ".join(map(str, row)) for row in completions]
    joined = esscher.Ragged.from_lengths(completions.values, [len(completions.values)])
    score = _diversity_score()
    return Peer(
        "diversity",
        lambda: score(texts, max(ORDERS)),
        (90, 90),
        tolerance=6e-4,
        error=lambda _, theirs: largest_error([esscher.distinct(joined, ORDERS, threads=1).sum()], [theirs]),
    )


def _diversity_score() -> Callable[[list[str], int], float]:
    """Its n-gram function from its own file: importing the whole package asks for openai and downloads data."""
    package = find_spec("diversity")
    assert package is not None
    assert package.origin is not None
    spec = spec_from_file_location("ngram_diversity", Path(package.origin).with_name("ngram_diversity.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ngram_diversity_score  # type: ignore[no-any-return]


JOBS = {"distinct": over_all, "distinct-each": per_completion}
