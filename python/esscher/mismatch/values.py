"""Values that are no log-probs of the token they stand beside: sentinels, fillers, and those rounded to 16 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.ragged import Masked, Ragged, widened

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.groups import Groups
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
# Beside a constant that was filled in, the other column's values spread, or are far from it: farther than nearly all
# others are.
SPREAD, FAR, FAR_QUANTILE, FAR_FACTOR = 0.5, 0.3, 0.95, 3.0
# Values that were rounded to few digits have no neighbours that near: then this many on either side are taken.
NEAREST = 3
# Of a token with less than 5 % probability: no truncation makes it certain, so 0 is not its log-prob.
CLEARLY_NOT_CERTAIN = -3.0
# A row of zeros can come from a policy that is certain of every token, but not if the other doubts one this much.
UNLIKELY = -1.0
# A 0 that truncation made has 0 beside it wherever the other column's value is at least as likely; of these, if fewer
# than a quarter are 0, those few were filled in.
TRUNCATED, FEWEST_ZEROS = 0.25, 3
# A column that is nearly certain of many tokens that the other one doubts is exactly certain of some by rounding.
NEARLY, UNCERTAIN, ACCOMPANIED = 0.02, -0.01, 0.2
# Below this, 0 and the other column's value are the same certainty.
CERTAIN = -1e-4
# Fewer tokens than this are certain now and then in both engines; of a model that is certain of so many, more are.
FEWEST_IN_ROW, OFTEN_CERTAIN = 3, 0.3
# All of a column's values on a 16-bit grid: float32 values get there one in 2^13 times, so 99 % of even these few
# are no chance, while a few exact numbers typed by hand (-0.5, -1) are not enough.
ON_GRID, FEWEST_ON_GRID = 0.99, 12
# Two float32 forward passes of one model, in batches of other shapes, differ by a few 1e-5 nats.
FLOAT32 = 1e-4
# A single token that differs by more than this is not rounding of float32, whatever the others do.
LOUD = 1e-3
# Up to this share of tokens may differ a little more than FLOAT32 says without being worth a word.
NEGLIGIBLE_SHARE = 0.01


class Sentinel(NamedTuple):
    """A value that stands for something else, and how often."""

    value: float
    tokens: int


class Grid(NamedTuple):
    """A 16-bit format that a column was rounded to, and the bits of its significand."""

    name: str
    bits: int


GRIDS = (Grid("bfloat16", 8), Grid("float16", 11))


def as_raw(name: str, column: Ragged | Masked) -> Ragged:
    """Return a column of log-probs in float64, whatever values it holds; raises `TypeError` if it holds no numbers."""
    if not isinstance(column, Ragged | Masked):
        raise TypeError(f"{name} is {type(column).__name__}: it must be Ragged, with a row for each completion")
    column = column.kept
    values = widened(column.values)
    if values.dtype.kind not in "iuf":
        raise TypeError(f"{name} has dtype {values.dtype}: it must be log-probs, floating point")
    return Ragged(values.astype(np.float64), column.offsets)


def find_sentinels(column: Ragged, other: Ragged, groups: Groups) -> Mask:
    """Return which values of a column are no log-probs [T].

    A value that completions of a prompt repeat behind the same tokens was computed once: it counts once.
    """
    values = column.values
    bad: Mask = ~(values <= POSITIVE) | np.isneginf(values)
    finite = np.unique(values[~bad])
    once = column.values[_once_per_prefix(column, groups)]
    counts = np.bincount(np.searchsorted(finite, once[np.isin(once, finite)]), minlength=len(finite))
    filled = (finite < IMPOSSIBLE) & (counts > 1) | (finite < UNHEARD_OF) | np.isin(finite, FILLERS)
    chosen = [*finite[filled], *_constants(column, other, finite, counts)]
    return bad | np.isin(values, chosen)


def count_values(values: Floats) -> tuple[Sentinel, ...]:
    """Return each distinct value with its count, most frequent first."""
    kinds, tokens = np.unique(values, return_counts=True)
    order = np.argsort(-tokens, kind="stable")
    return tuple(Sentinel(float(kinds[i]), int(tokens[i])) for i in order)


def find_missing(pairs: Pairs, zero: Floats, other: Floats) -> Mask:
    """Return where 0 was filled in [T] in place of a log-prob, seen from the other column.

    Where top-p leaves one token its log-prob becomes 0 by right, but only if it was likely. So zeros are fillers if
    some stand beside tokens that were unlikely, or if whole rows are 0 beside rows that are not. Last tokens do not
    decide: the other column's may be the wrong one there.
    """
    uncertain = (zero == 0) & (other < CERTAIN)
    _, tokens = pairs.by_row()
    rows = _zero_rows(pairs, zero) & tokens.spread(tokens.sums(other < UNLIKELY) > 0) & uncertain
    rest = uncertain & ~rows
    inner = rest & ~pairs.last
    beside_unlikely = inner & (other < CLEARLY_NOT_CERTAIN)
    certain_anyway = ~pairs.last & (np.abs(zero) < NEARLY * np.abs(other)) & (zero != 0) & (other < UNCERTAIN)
    told = certain_anyway.sum() <= ACCOMPANIED * (inner & (other < UNCERTAIN)).sum()
    filled: Mask = rows | rest if told and (beside_unlikely.any() or _few_of_alike(zero, other, inner)) else rows
    return filled


def _few_of_alike(zero: Floats, other: Floats, where: Mask) -> bool:
    """Return whether, of tokens that the other column has for as likely as these zeros, few are 0."""
    if where.sum() < FEWEST_ZEROS:
        return False
    alike = (other >= np.median(other[where])) & (other < CERTAIN)
    return bool((zero[alike] == 0).mean() < TRUNCATED)


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


def is_rounding(left: Floats, tolerance: Floats) -> bool:
    """Return whether differences are no more than rounding makes: few beyond it, and none far."""
    size = np.abs(left)
    return bool((size > tolerance).mean() <= NEGLIGIBLE_SHARE and not (size > np.maximum(LOUD, 10 * tolerance)).any())


def _zero_rows(pairs: Pairs, column: Floats) -> Mask:
    """Return which tokens [T] are in rows of several tokens that are all 0."""
    _, tokens = pairs.by_row()
    return tokens.spread((tokens.sums(column == 0) == tokens.sizes) & (tokens.sizes >= FEWEST_IN_ROW))


def _constants(column: Ragged, other: Ragged, finite: Floats, counts: NDArray[np.int64]) -> list[float]:
    """Return the values that are repeated exactly beside values that are not."""
    reach, index = NEIGHBOURHOOD * np.abs(finite), np.arange(len(finite))
    low = np.minimum(np.searchsorted(finite, finite - reach), np.maximum(index - NEAREST, 0))
    high = np.searchsorted(finite, finite + reach, side="right")
    high = np.maximum(high, np.minimum(index + NEAREST + 1, len(finite)))
    cumulative = np.concatenate([[0], np.cumsum(counts)])
    neighbours = cumulative[high] - cumulative[low] - counts
    fewest = FEWEST_REPEATS if find_grid(finite) is None else FEWEST_REPEATS_ON_GRID
    enough = max(fewest, REPEATED_SHARE * counts.sum())
    suspects = finite[(counts >= enough) & (counts > neighbours) & (np.abs(finite) > -CERTAIN)]
    return [value for value in suspects.tolist() if _stands_out(column, other, value)]


def _once_per_prefix(column: Ragged, groups: Groups) -> NDArray[np.int64]:
    """Return one token of each set that has a prompt and all values up to its own in common."""
    kept, alive, context = [], np.flatnonzero(column.lengths > 0), groups.of.copy()
    for place in range(int(column.lengths.max(initial=0))):
        alive = alive[column.lengths[alive] > place]
        at = column.offsets[alive] + place
        order = np.lexsort((column.values[at], context[alive]))
        rows, values = alive[order], column.values[at[order]]
        new = np.ones(len(rows), np.bool_)
        new[1:] = (np.diff(context[rows]) != 0) | (values[1:] != values[:-1])
        kept.append(at[order[new]])
        context[rows] = np.cumsum(new)
    return np.concatenate([np.zeros(0, np.int64), *kept])


def _stands_out(column: Ragged, other: Ragged, value: float) -> bool:
    """Return whether the other column's values beside this one spread or are far, wherever its rows begin."""
    where = np.flatnonzero(column.values == value)
    row = np.searchsorted(column.offsets, where, side="right") - 1
    place = where - column.offsets[row]
    ordinary = _ordinary_difference(column, other)
    for shift in (0, 1, -1):
        known = other.lengths[row] > 0
        # What a row was rolled by comes in again at its other end.
        there = (place + shift)[known] % other.lengths[row[known]]
        beside = other.values[other.offsets[row[known]] + there]
        beside = beside[np.isfinite(beside)]
        if not len(beside):
            continue
        spread = np.subtract(*np.quantile(beside, [0.9, 0.1]))
        apart = float(np.median(np.abs(beside - value)))
        if spread < SPREAD and apart < max(FAR, FAR_FACTOR * ordinary):
            return False
    return True


def _ordinary_difference(column: Ragged, other: Ragged) -> float:
    """Return what nearly all tokens differ by less than, in the rows that are equally long."""
    equal = np.flatnonzero(column.lengths == other.lengths)
    size = np.abs(column.take(equal).values - other.take(equal).values)
    size = size[np.isfinite(size)]
    return float(np.quantile(size, FAR_QUANTILE)) if len(size) else 0.0
