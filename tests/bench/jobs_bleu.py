"""Self-BLEU-4, where a precision of 0 counts as 0.1 matches (NLTK's method1)."""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from fast_bleu import SelfBLEU
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from sacrebleu.metrics.bleu import BLEU

import esscher
from bench import data
from bench.measure import Job, Peer, largest_error

if TYPE_CHECKING:
    from collections.abc import Callable

Rows = list[list[int]]
# It advises an effective order for single sentences, with which it would be another measure than NLTK's.
logging.getLogger("sacrebleu").setLevel(logging.ERROR)
METHOD1 = SmoothingFunction().method1


def two_thousand() -> Job:
    completions = data.completions(2000, 64)
    rows = [row.tolist() for row in completions]
    scores = linear(rows)
    return Job(
        "self-BLEU-4: 2000 x 64 tokens",
        partial(_ours, completions),
        (
            _from_few("NLTK", partial(_nltk, rows), 20, scores, 50_000),
            _from_few("sacrebleu", partial(_sacrebleu, _texts(rows)), 10, scores, None),
            _fast_bleu(rows, scores, 400),
            Peer("the linear algorithm in Python", partial(_mean_linear, rows), (80, 80)),
        ),
    )


def ten_thousand() -> Job:
    completions = data.completions(10_000, 64)
    rows = [row.tolist() for row in completions]
    return Job(
        "self-BLEU-4: 10 000 x 64 tokens",
        partial(_ours, completions),
        (
            _fast_bleu(rows, linear(rows), 600),
            Peer("the linear algorithm in Python", partial(_mean_linear, rows), (80, 80)),
        ),
    )


def _ours(completions: esscher.Ragged) -> Any:
    return esscher.self_bleu(completions, 4, smoothing="method1", threads=1)


def _from_few(name: str, score: Callable[[int], float], few: int, scores: list[float], mark: float | None) -> Peer:
    """A peer that takes minutes: the first few completions only, each against all the others."""
    return Peer(
        f"{name} (from {few} of {len(scores)})",
        lambda: [score(i) for i in range(few)],
        (mark, mark),
        error=lambda _, theirs: largest_error([scores[:few]], [theirs]),
        parts=len(scores) / few,
    )


def _nltk(rows: Rows, i: int) -> float:
    return float(sentence_bleu(rows[:i] + rows[i + 1 :], rows[i], smoothing_function=METHOD1))


def _texts(rows: Rows) -> list[str]:
    return [" ".join(map(str, row)) for row in rows]


def _sacrebleu(texts: list[str], i: int) -> float:
    bleu = BLEU(tokenize="none", smooth_method="floor", smooth_value=0.1)
    return float(bleu.sentence_score(texts[i], texts[:i] + texts[i + 1 :]).score / 100)


def _fast_bleu(rows: Rows, scores: list[float], mark: float) -> Peer:
    return Peer(
        "fast-bleu",
        lambda: SelfBLEU(rows, smoothing_func=1).get_score()[4],
        (mark, mark),
        error=lambda _, theirs: largest_error([scores], [theirs]),
    )


def _mean_linear(rows: Rows) -> list[float]:
    return [float(np.mean(linear(rows)))]


def linear(rows: Rows) -> list[float]:
    """Self-BLEU-4 of every row, with the two largest counts of every n-gram and who holds the largest."""
    counts = [_counts(row) for row in rows]
    largest: dict[tuple[int, ...], tuple[int, int, int]] = {}
    for i, counter in enumerate(counts):
        for ngram, count in counter.items():
            first, holder, second = largest.get(ngram, (0, -1, 0))
            if count > first:
                largest[ngram] = count, i, first
            elif count > second:
                largest[ngram] = first, holder, count
    lengths = sorted(map(len, rows))
    return [_score(i, counter, largest, len(rows[i]), lengths) for i, counter in enumerate(counts)]


def _counts(row: list[int]) -> Counter[tuple[int, ...]]:
    return Counter(ngram for n in range(1, 5) for ngram in zip(*(row[i:] for i in range(n)), strict=False))


def _score(
    i: int,
    counter: Counter[tuple[int, ...]],
    largest: dict[tuple[int, ...], tuple[int, int, int]],
    length: int,
    lengths: list[int],
) -> float:
    matches = [0.0] * 4
    for ngram, count in counter.items():
        first, holder, second = largest[ngram]
        matches[len(ngram) - 1] += min(count, second if holder == i else first)
    precisions = [(match or 0.1) / (length - n) for n, match in enumerate(matches)]
    return _brevity(length, lengths) * math.exp(sum(map(math.log, precisions)) / 4)


def _brevity(length: int, lengths: list[int]) -> float:
    """The closest other length counts, of two the shorter."""
    at = bisect_left(lengths, length)
    others = lengths[max(at - 1, 0) : at] + lengths[at + 1 : at + 2]
    closest = min(others, key=lambda other: (abs(other - length), other))
    return min(1.0, math.exp(1 - closest / length))


JOBS = {"bleu-2000": two_thousand, "bleu-10000": ten_thousand}
