"""Values that are no log-probs of the token they stand beside: sentinels, fillers, and those rounded to 16 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.ragged import Ragged, widened

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.mismatch.alignment import Pairs

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

# An offset, as of a kept mass of a half, can put log-probs this far above 0; what is further above never was one.
POSITIVE = 0.7
# A sampled token of 2e-22 probability is not to be met: that, more than once, is a filler. And no softmax over logits
# as models have them gives one as unlikely as this.
IMPOSSIBLE, UNHEARD_OF = -50.0, -500.0
# What trainers are seen to fill in: any one of these is no accident.
FILLERS = (-100.0, -1000.0, -9999.0, -10000.0, -65504.0, -1e5, -1e6, -1e9, -1e10, float(np.finfo(np.float32).min))
# An exact repetition among real log-probs: bfloat16 has 128 values in an octave, so that 3 % to either side of a value
# hold 5 others at least; a constant that outweighs them together did not come from rounding. It must also make up a
# share of the column, since where values are sparse chance repeats a few; on a 16-bit grid, a few more.
FEWEST_REPEATS, FEWEST_REPEATS_ON_GRID, REPEATED_SHARE, NEIGHBOURHOOD = 5, 15, 0.002, 0.03
# Completions that share their first tokens repeat log-probs in both columns alike: beside a constant that was filled
# in, the other column's values spread.
SPREAD = 0.5
# Of a token with less than 5 % probability: no truncation makes it certain, so 0 is not its log-prob.
CLEARLY_NOT_CERTAIN = -3.0
# A row of nothing but zeros can be that of a policy that is certain of itself, but not if it was in two minds once.
UNLIKELY = -1.0
# Below this, 0 and the other column's value are the same certainty.
CERTAIN = -1e-4
# Fewer tokens than this are certain now and then in both engines; of a model that is certain of so many, more are.
FEWEST_IN_ROW, OFTEN_CERTAIN = 3, 0.3
# All of a column's values on a 16-bit grid: float32 values get there one in 2^13 times, so 99 % of even these few
# are no chance, while a few exact numbers typed by hand (-0.5, -1) are not enough.
ON_GRID, FEWEST_ON_GRID = 0.99, 12


class Sentinel(NamedTuple):
    """A value that stands for something else, and how often."""

    value: float
    tokens: int


class Grid(NamedTuple):
    """A 16-bit format that a column was rounded to, and the bits of its significand."""

    name: str
    bits: int


GRIDS = (Grid("bfloat16", 8), Grid("float16", 11))


def as_raw(name: str, column: Ragged) -> Ragged:
    """Return a column of log-probs in float64, whatever values it holds; raises `TypeError` if it holds no numbers."""
    if not isinstance(column, Ragged):
        raise TypeError(f"{name} is {type(column).__name__}: it must be Ragged, with a row for each completion")
    values = widened(column.values)
    if values.dtype.kind not in "iuf":
        raise TypeError(f"{name} has dtype {values.dtype}: it must be log-probs, floating point")
    return Ragged(values.astype(np.float64), column.offsets)


def find_sentinels(column: Ragged, other: Ragged) -> tuple[Mask, tuple[Sentinel, ...]]:
    """Return which values of a column are no log-probs [T], and each such value with its count, most frequent first."""
    values = column.values
    bad = ~(values <= POSITIVE) | np.isneginf(values)
    finite, counts = np.unique(values[~bad], return_counts=True)
    filled = (finite < IMPOSSIBLE) & (counts > 1) | (finite < UNHEARD_OF) | np.isin(finite, FILLERS)
    chosen = [*finite[filled], *_constants(column, other, finite, counts)]
    bad |= np.isin(values, chosen)
    kinds, tokens = np.unique(values[bad], return_counts=True)
    order = np.argsort(-tokens, kind="stable")
    return bad, tuple(Sentinel(float(kinds[i]), int(tokens[i])) for i in order)


def find_missing(pairs: Pairs, zero: Floats, other: Floats) -> Mask:
    """Return where 0 was filled in [T] in place of a log-prob, seen from the other column.

    Where top-p leaves one token its log-prob becomes 0 by right, but only if it was likely. So zeros are fillers if
    some stand beside tokens that were unlikely, or if whole rows are 0 beside rows that are not. Last tokens do not
    decide: the other column's may be the wrong one there.
    """
    uncertain = (zero == 0) & (other < CERTAIN)
    unlikely_rows = np.bincount(pairs.row, weights=other < UNLIKELY) > 0
    rows = _zero_rows(pairs, zero) & unlikely_rows[pairs.row] & uncertain
    rest = uncertain & ~rows
    beside_unlikely = rest & (other < CLEARLY_NOT_CERTAIN) & ~pairs.last
    filled: Mask = rows | rest if beside_unlikely.any() else rows
    return filled


def find_padding(pairs: Pairs) -> Mask:
    """Return which tokens [T] are in rows that are 0 throughout in both columns.

    A model that is certain of many other tokens too may be so of a whole row: then that is no padding.
    """
    zeros = _zero_rows(pairs, pairs.train) & _zero_rows(pairs, pairs.rollout)
    others = np.maximum(pairs.train, pairs.rollout)[~zeros]
    certain = len(others) > 0 and (others >= CERTAIN).mean() >= OFTEN_CERTAIN
    return np.zeros_like(zeros) if certain else zeros


def find_grid(values: Floats) -> Grid | None:
    """Return the 16-bit format that all of these values are numbers of, if any."""
    with np.errstate(over="ignore"):  # what a format does not hold is infinite in it
        distinct = np.unique(values[values != 0]).astype(np.float32)
        half = distinct.astype(np.float16).astype(np.float32) == distinct
    if len(distinct) < FEWEST_ON_GRID:
        return None
    bits = distinct.view(np.uint32)
    for grid, on_grid in zip(GRIDS, (bits & 0xFFFF == 0, half), strict=True):
        if on_grid.mean() >= ON_GRID:
            return grid
    return None


def rounding_of(values: Floats, grid: Grid | None) -> Floats:
    """Return the most that rounding to the grid can have moved each value [T], half a unit in its last place."""
    if grid is None:
        return np.zeros(len(values))
    return np.where(values == 0, 0.0, np.ldexp(0.5, np.frexp(values)[1] - grid.bits))


def _zero_rows(pairs: Pairs, column: Floats) -> Mask:
    """Return which tokens [T] are in rows of several tokens that are all 0."""
    lengths = np.bincount(pairs.row)
    zeros = np.bincount(pairs.row, weights=column == 0)
    filled: Mask = ((zeros == lengths) & (lengths >= FEWEST_IN_ROW))[pairs.row]
    return filled


def _constants(column: Ragged, other: Ragged, finite: Floats, counts: NDArray[np.int64]) -> list[float]:
    """Return the values that are repeated exactly beside values that are not."""
    reach = NEIGHBOURHOOD * np.abs(finite)
    low, high = np.searchsorted(finite, finite - reach), np.searchsorted(finite, finite + reach, side="right")
    cumulative = np.concatenate([[0], np.cumsum(counts)])
    neighbours = cumulative[high] - cumulative[low] - counts
    fewest = FEWEST_REPEATS if find_grid(finite) is None else FEWEST_REPEATS_ON_GRID
    enough = max(fewest, REPEATED_SHARE * len(column.values))
    suspects = finite[(counts >= enough) & (counts > neighbours) & (np.abs(finite) > -CERTAIN)]
    return [value for value in suspects.tolist() if _other_spreads(column, other, value)]


def _other_spreads(column: Ragged, other: Ragged, value: float) -> bool:
    """Return whether the other column's values beside this one spread, wherever its rows begin."""
    where = np.flatnonzero(column.values == value)
    row = np.searchsorted(column.offsets, where, side="right") - 1
    place = where - column.offsets[row]
    for shift in (0, 1, -1):
        there = place + shift
        known = (there >= 0) & (there < other.lengths[row])
        beside = other.values[other.offsets[row[known]] + there[known]]
        beside = beside[np.isfinite(beside)]
        if len(beside) and np.subtract(*np.quantile(beside, [0.9, 0.1])) < SPREAD:
            return False
    return True
