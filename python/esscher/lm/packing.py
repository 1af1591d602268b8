"""Completions laid out for a forward pass that reads each prompt once and no padding.

A prompt is a trunk and its completions are branches: each branch attends to the trunk and to itself. A prompt with one
completion is one segment with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from esscher.groups import Offsets
    from esscher.samples import Samples

# A prompt whose completions do not fit into one pack is read once more for at least this many times its own length.
BRANCHES_PER_TRUNK = 8


class Tree(NamedTuple):
    """A prompt with some of its completions: those from `first` up to `last`."""

    prompt: int
    first: int
    last: int


class Crossing(NamedTuple):
    """A tree's branches, `start` to `stop` in a pack, which attend to its trunk, `trunk_start` to `trunk_stop`."""

    start: int
    stop: int
    trunk_start: int
    trunk_stop: int


class Pack(NamedTuple):
    """Trees in one sequence of tokens: all trunks, then all branches, then prompts with their only completion.

    Attributes
    ----------
    token_ids, positions
        The tokens and their positions in the text they belong to [t].
    segments
        Offsets of the segments [s + 1]: each token attends to the tokens of its segment up to itself.
    crossings
        Which of them attend to a trunk besides; there is none for a tree whose branches are all empty.
    predictors
        The token whose hidden state predicts each counted token [c]: all tokens that the policy chose.
    counted
        Which of them each of these is: an index into the values of `Samples.actions` that are kept [c].
    """

    token_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    segments: Offsets
    crossings: tuple[Crossing, ...]
    predictors: NDArray[np.int64]
    counted: NDArray[np.int64]


def divide(samples: Samples, budget: int, prompts: NDArray[np.int64]) -> list[list[Tree]]:
    """Divide some prompts into packs of about `budget` tokens; those of like length come together, the longest first.

    Examples
    --------
    >>> from esscher import Ragged, Samples
    >>> samples = Samples(Ragged.from_rows([[1], [2, 3]]), Ragged.from_rows([[4], [5], [6, 7]]), [0, 2, 3])
    >>> divide(samples, budget=3, prompts=np.arange(2))
    [[Tree(prompt=1, first=2, last=3)], [Tree(prompt=0, first=0, last=2)]]
    """
    lengths = samples.prompts.lengths

    def longest_segment(tree: Tree, size: int) -> int:
        return size if tree.last - tree.first == 1 else int(lengths[tree.prompt])

    packs: list[list[Tree]] = []
    room = 0
    for tree, size in sorted(_trees(samples, budget, prompts), key=lambda item: -longest_segment(*item)):
        if size > room:
            packs.append([])
            room = budget
        packs[-1].append(tree)
        room -= size
    return packs


def divide_unshared(samples: Samples, budget: int, completions: NDArray[np.int64]) -> list[list[Tree]]:
    """Divide some completions so that each has its prompt to itself, and padding them adds little."""
    batches = micro_batches(text_lengths(samples)[completions], budget)
    return [unshared_trees(samples, completions[rows]) for rows in batches]


def unshared_trees(samples: Samples, completions: NDArray[np.int64]) -> list[Tree]:
    """Return some completions, each with its prompt to itself."""
    prompts = samples.groups.of[completions]
    return [Tree(prompt, i, i + 1) for prompt, i in zip(prompts.tolist(), completions.tolist(), strict=True)]


def read_together(samples: Samples, longest: int) -> list[NDArray[np.int64]]:
    """Divide the completions into those that are at most `longest` with their prompt, and each that is longer."""
    lengths = text_lengths(samples)
    together, alone = np.flatnonzero(lengths <= longest), np.flatnonzero(lengths > longest)[:, None]
    return [rows for rows in (together, *alone) if len(rows)]


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


def text_lengths(samples: Samples) -> NDArray[np.int64]:
    """How many tokens each completion has with its prompt [N]."""
    lengths: NDArray[np.int64] = samples.prompts.lengths[samples.groups.of] + samples.completions.lengths
    return lengths


def halve(trees: Sequence[Tree]) -> tuple[list[Tree], list[Tree]] | None:
    """Divide a pack in two, by trees or, if there is only one, by its completions; `None` if it has only one."""
    middle = len(trees) // 2
    if middle:
        return list(trees[:middle]), list(trees[middle:])
    (prompt, first, last) = trees[0]
    middle = (first + last) // 2
    return None if middle == first else ([Tree(prompt, first, middle)], [Tree(prompt, middle, last)])


def pack(samples: Samples, trees: Sequence[Tree]) -> Pack:
    """Lay trees out in one sequence; a completion's last token predicts nothing that counts, and is not read.

    Examples
    --------
    >>> from esscher import Ragged, Samples
    >>> samples = Samples(Ragged.from_rows([[1, 2]]), Ragged.from_rows([[3, 4], [5], [6, 7, 8]]), [0, 3])
    >>> laid = pack(samples, [Tree(0, 0, 3)])
    >>> laid.token_ids, laid.positions
    (array([1, 2, 3, 6, 7]), array([0, 1, 2, 2, 3]))
    >>> laid.segments, laid.crossings
    (array([0, 2, 3, 5]), (Crossing(start=2, stop=5, trunk_start=0, trunk_stop=2),))
    >>> laid.predictors
    array([1, 2, 1, 1, 3, 4])
    """
    rows = _rows(trees)
    lengths = rows.of(samples.prompts.lengths, samples.completions.lengths) - rows.is_completion
    ends = np.cumsum(lengths)
    begins = ends - lengths
    base = np.zeros(len(lengths), np.int64)
    base[rows.is_completion] = lengths[rows.trunk]
    within = np.arange(int(lengths.sum())) - np.repeat(begins, lengths)
    completions, first = rows.which[rows.is_completion], begins[rows.is_completion]
    counts = samples.completions.lengths[completions]
    predictors = _ranges(first - 1, first - 1 + counts)
    predictors[np.cumsum(counts) - counts] = ends[rows.trunk] - 1
    counted = _ranges(samples.completions.offsets[completions], samples.completions.offsets[completions + 1])
    if samples.action_mask is not None:
        chosen = samples.action_mask.values
        predictors = predictors[chosen[counted]]
        counted = (np.cumsum(chosen) - 1)[counted[chosen[counted]]]
    return Pack(
        token_ids=_token_ids(samples, rows, lengths, within),
        positions=np.repeat(base, lengths) + within,
        # A prompt is joined with its only completion; branches of completions of one token are empty, and left out.
        segments=np.unique(np.concatenate([[0], ends[: rows.n_shared], ends[rows.n_shared + 1 :: 2]])),
        crossings=tuple(_crossings(begins, ends, trees)),
        predictors=predictors,
        counted=counted,
    )


class _Rows(NamedTuple):
    """Prompts and completions in the order of a pack.

    Row after row, which prompt or completion it is [r]; of each completion, the row of its prompt; and how many rows
    come before the prompts that have one completion.
    """

    which: NDArray[np.int64]
    is_completion: NDArray[np.bool_]
    trunk: NDArray[np.int64]
    n_shared: int

    def of(self, prompts: NDArray[np.int64], completions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the value of each row [r], given those of all prompts and completions."""
        values = np.empty(len(self.which), np.int64)
        values[~self.is_completion] = prompts[self.which[~self.is_completion]]
        values[self.is_completion] = completions[self.which[self.is_completion]]
        return values


def _rows(trees: Sequence[Tree]) -> _Rows:
    shared = np.array([tree for tree in trees if tree.last - tree.first > 1], np.int64).reshape(-1, 3)
    alone = np.array([tree[:2] for tree in trees if tree.last - tree.first == 1], np.int64).reshape(-1, 2)
    branches = _ranges(shared[:, 1], shared[:, 2])
    n_shared = len(shared) + len(branches)
    kinds = (np.zeros(len(shared)), np.ones(len(branches)), np.tile([0, 1], len(alone)))
    trunks = (np.repeat(np.arange(len(shared)), shared[:, 2] - shared[:, 1]), n_shared + 2 * np.arange(len(alone)))
    return _Rows(
        which=np.concatenate([shared[:, 0], branches, alone.ravel()]),
        is_completion=np.concatenate(kinds).astype(np.bool_),
        trunk=np.concatenate(trunks),
        n_shared=n_shared,
    )


def _token_ids(
    samples: Samples, rows: _Rows, lengths: NDArray[np.int64], within: NDArray[np.int64]
) -> NDArray[np.int64]:
    places = np.repeat(rows.of(samples.prompts.offsets, samples.completions.offsets), lengths) + within
    of_completion = np.repeat(rows.is_completion, lengths)
    token_ids = np.empty(len(places), np.int64)
    token_ids[of_completion] = samples.completions.values[places[of_completion]]
    token_ids[~of_completion] = samples.prompts.values[places[~of_completion]]
    return token_ids


def _trees(samples: Samples, budget: int, prompts: NDArray[np.int64]) -> Iterator[tuple[Tree, int]]:
    """Yield each prompt with its completions, in parts where they are many, and how many tokens are read of each."""
    # A completion's last token is not read.
    offsets = samples.completions.offsets - np.arange(len(samples.completions) + 1)
    lengths = samples.prompts.lengths
    for prompt in prompts.tolist():
        first, last, trunk = int(samples.groups[prompt]), int(samples.groups[prompt + 1]), int(lengths[prompt])
        limit = max(budget - trunk, BRANCHES_PER_TRUNK * trunk)
        while first < last:
            fitting = int(np.searchsorted(offsets, offsets[first] + limit, side="right")) - 1
            stop = min(max(fitting, first + 1), last)
            yield Tree(prompt, first, stop), trunk + int(offsets[stop] - offsets[first])
            first = stop


def _crossings(begins: NDArray[np.int64], ends: NDArray[np.int64], trees: Sequence[Tree]) -> Iterator[Crossing]:
    sizes = [tree.last - tree.first for tree in trees if tree.last - tree.first > 1]
    first = len(sizes)
    for trunk, size in enumerate(sizes):
        yield Crossing(int(begins[first]), int(ends[first + size - 1]), int(begins[trunk]), int(ends[trunk]))
        first += size


def _ranges(starts: Sequence[int] | NDArray[np.int64], stops: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Join the ranges from each start up to its stop.

    Examples
    --------
    >>> _ranges([5, 0], [7, 3])
    array([5, 6, 0, 1, 2])
    """
    starts, stops = np.asarray(starts, np.int64), np.asarray(stops, np.int64)
    lengths = stops - starts
    shifts = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    joined: NDArray[np.int64] = shifts + np.arange(len(shifts))
    return joined
