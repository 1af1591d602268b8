"""Which token of one column belongs to which of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.groups import Groups
from esscher.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

# One difference counts for at most so many nats, so that one bad token does not decide where a row belongs.
CLIP = 2.0
# The most that a token counts for where one column is 0: beside a filled-in 0 any difference is possible, beside one
# that truncation made it is about this.
FILLED_CLIP = 0.1
# Neighbouring tokens of a text have log-probs about 1 nat apart, so a row that is shifted by one differs by far more
# than this on average, and one that is not by far less, whatever engine made it.
SHIFTED_DIFFERENCE = 0.25
# By how much moving a row must lessen its differences: chance seldom halves them in a row of a few tokens.
SHIFTED_GAIN = 0.5
# A smaller gain, summed over a row, is noise.
SMALLEST_GAIN = 3e-4
# Rows chosen because they fit when moved fit a little even by chance: the ranks of their values must agree this much.
SHIFTED_CORRELATION = 0.8
# Fewer tokens than this agree by chance.
FEWEST_COMPARED = 3
# So many rows, and at least two, must be shifted for it to be more than chance; of a single row, it is that one.
SHIFTED_SHARE = 0.02
# If more than this share of rows is shifted, all are taken to be, but for those that clearly fit as they are.
MOSTLY_SHIFTED = 0.5
# Where a policy is certain of most tokens, rows tell where they belong only if they differ by this in one place or the
# other. All are shifted if of those that tell, so many at least, nearly all are.
TOLD, FEWEST_ROWS, MOST_TOLD = 0.02, 4, 0.8


class Pairs(NamedTuple):
    """Two log-probs of each token [T], the completion that it is in, and its place there."""

    train: Floats
    rollout: Floats
    row: Integers
    place: Integers
    last: NDArray[np.bool_]

    def where(self, keep: NDArray[np.bool_]) -> Pairs:
        """Return the pairs for which `keep` is true."""
        return Pairs(self.train[keep], self.rollout[keep], self.row[keep], self.place[keep], self.last[keep])

    def by_row(self) -> tuple[Integers, Groups]:
        """Return the completions that have pairs [R], and the pairs of each: they lie in the order of completions."""
        rows, sizes = np.unique(self.row, return_counts=True)
        return rows, Groups.from_sizes(sizes)

    @property
    def difference(self) -> Floats:
        """l_rollout - l_train [T], in nats."""
        return self.rollout - self.train


class Shift(NamedTuple):
    """Rows of the rollout's column that lie so many tokens behind the trainer's; sizes before and after moving."""

    by: int
    rows: int
    tokens: int
    before: float
    after: float


class Lengths(NamedTuple):
    """Completions whose rows differ in length, by what became of the tokens of the longer one.

    Attributes
    ----------
    first, last, within, more
        Rows that lack one token: their first, their last, or one after which the rest is shifted by one; and rows
        that lack more.
    shorter_rollout, shorter_train
        Whose rows are the shorter ones.
    absent_rollout, absent_train
        Rows with no log-prob at all where the other column has some; not counted above.
    """

    first: int = 0
    last: int = 0
    within: int = 0
    more: int = 0
    shorter_rollout: int = 0
    shorter_train: int = 0
    absent_rollout: int = 0
    absent_train: int = 0

    @property
    def differing(self) -> int:
        """How many rows differ in length, but for those that are absent."""
        return self.shorter_rollout + self.shorter_train


class Alignment(NamedTuple):
    """Tokens side by side, and what had to be moved for that."""

    pairs: Pairs
    lengths: Lengths
    shifts: tuple[Shift, ...]
    rows: int

    @property
    def nearly_all_shifted(self) -> bool:
        """Whether a shift is what most rows have in common."""
        return sum(shift.rows for shift in self.shifts) > MOSTLY_SHIFTED * self.rows


class _Stretches(NamedTuple):
    """Runs of tokens that lie side by side: completion, where each column has them, how many."""

    row: Integers
    train: Integers
    rollout: Integers
    n: Integers


def align(train: Ragged, recorded: Ragged, scale: float = 1.0) -> Alignment:
    """Lay two columns side by side; values that cannot be used are NaN, and stay.

    The rollout's column may be about `scale` times the trainer's: where its rows lie is looked for without that.

    Rows of equal length are laid token by token, or shifted by one where that fits far better. Where lengths differ by
    one, the token is found whose absence fits best; where they differ by more, the common prefix or suffix.
    """
    rollout = Ragged(recorded.values / scale, recorded.offsets)
    equal = train.lengths == rollout.lengths
    rows, shifts = np.flatnonzero(equal), []
    straight = _equal_stretches(train, rollout, rows, 0)
    parts = [straight]
    shifted = _shifted_rows(train, rollout, rows)
    for by, moved in shifted.items():
        parts.append(_equal_stretches(train, rollout, moved, by))
        before = _mean_difference(train, rollout, _equal_stretches(train, rollout, moved, 0))
        after = _mean_difference(train, rollout, parts[-1])
        shifts.append(Shift(by, len(moved), int(train.lengths[moved].sum()), before, after))
    if shifted:
        stay = ~np.isin(straight.row, np.concatenate(list(shifted.values())))
        parts[0] = _Stretches(*(column[stay] for column in straight))
    unequal, lengths = _unequal_stretches(train, rollout, np.flatnonzero(~equal))
    return Alignment(_pairs(train, recorded, _joined([*parts, unequal])), lengths, tuple(shifts), len(train))


def fitting_scale(train: Ragged, rollout: Ragged, scale: float) -> float:
    """Return `scale` if the rollout's column divided by it fits better than as it is, shifted or not; else 1."""
    rows = np.flatnonzero(train.lengths == rollout.lengths)
    if scale == 1.0 or not len(rows):
        return 1.0
    stretches = [_equal_stretches(train, rollout, rows, by) for by in (0, 1, -1)]
    divided = Ragged(rollout.values / scale, rollout.offsets)
    as_it_is, with_it = (
        min(float(np.median(np.nan_to_num(_row_differences(train, column, side), nan=CLIP))) for side in stretches)
        for column in (rollout, divided)
    )
    return scale if with_it < as_it_is else 1.0


def _equal_stretches(train: Ragged, rollout: Ragged, rows: Integers, by: int) -> _Stretches:
    """Pair token t of the trainer's rows with token t + `by` of the rollout's."""
    n = np.maximum(train.lengths[rows] - abs(by), 0)
    return _Stretches(rows, train.offsets[rows] + max(0, -by), rollout.offsets[rows] + max(0, by), n)


def _shifted_rows(train: Ragged, rollout: Ragged, rows: Integers) -> dict[int, Integers]:
    """Return the rows that fit far better when shifted by one, by direction."""
    here = _row_differences(train, rollout, _equal_stretches(train, rollout, rows, 0))
    found: dict[int, Integers] = {}
    for by in (1, -1):
        there = _row_differences(train, rollout, _equal_stretches(train, rollout, rows, by))
        moved = (here >= SHIFTED_DIFFERENCE) & (there <= SHIFTED_GAIN * here)
        all_are = moved.sum() > MOSTLY_SHIFTED * len(rows) or _nearly_all_fit(here, there)
        if all_are:
            moved = ~((here <= SHIFTED_GAIN * there) & (there >= TOLD))
        chosen = rows[moved & ~np.isin(rows, found.get(1, []))]
        if len(chosen) and len(chosen) >= min(len(rows), max(2, SHIFTED_SHARE * len(rows))):
            pairs = _pairs(train, rollout, _equal_stretches(train, rollout, chosen, by))
            if all_are or _rank_correlation(pairs) >= SHIFTED_CORRELATION:
                found[by] = chosen
    return found


def _nearly_all_fit(here: Floats, there: Floats) -> bool:
    """Return whether rows fit far better when moved, all taken together: a row of certain tokens tells little."""
    known = ~np.isnan(here) & ~np.isnan(there)
    here, there = here[known], there[known]
    told = np.maximum(here, there) >= TOLD
    better, worse = (there < SHIFTED_GAIN * here)[told].sum(), (here < SHIFTED_GAIN * there)[told].sum()
    gained = told.any() and np.median(there[told]) <= SHIFTED_GAIN * np.median(here[told])
    return bool(gained and better >= FEWEST_ROWS and worse <= (1 - MOST_TOLD) * (better + worse))


def _unequal_stretches(train: Ragged, rollout: Ragged, rows: Integers) -> tuple[_Stretches, Lengths]:
    counts = dict.fromkeys(Lengths._fields, 0)
    found: list[tuple[int, int, int, int]] = []
    for row in rows.tolist():
        found += _unequal_row(train, rollout, row, counts)
    columns = np.array(found, np.int64).reshape(-1, 4).T
    return _Stretches(*columns), Lengths(**counts)


def _unequal_row(
    train: Ragged, rollout: Ragged, row: int, counts: dict[str, int]
) -> Iterator[tuple[int, int, int, int]]:
    a, b = train[row], rollout[row]
    shorter = "train" if len(a) < len(b) else "rollout"
    if not (len(a) and len(b)):
        counts[f"absent_{shorter}"] += 1
        return
    counts[f"shorter_{shorter}"] += 1
    lacking = abs(len(a) - len(b))
    long, short = (b, a) if shorter == "train" else (a, b)
    split = _split(long, short)
    if lacking > 1:
        counts["more"] += 1
    else:
        counts["last" if split == len(short) else "first" if split == 0 else "within"] += 1
    starts = np.array([train.offsets[row], rollout.offsets[row]])
    skip = np.array([0, lacking] if shorter == "train" else [lacking, 0])
    yield (row, *starts.tolist(), split)
    yield (row, *(starts + split + skip).tolist(), len(short) - split)


def _split(long: Floats, short: Floats) -> int:
    """Return how many tokens of the shorter row lie beside the longer one's first; the rest lie beside its last.

    Where lengths differ by more than one, it is all or none. All of them unless something else fits far better.
    """
    m, lacking = len(short), len(long) - len(short)
    before, after = (_cost(long[i : i + m], short) for i in (0, lacking))
    costs = np.concatenate([[0.0], np.cumsum(before)]) + np.concatenate([np.cumsum(after[::-1])[::-1], [0.0]])
    if lacking > 1:
        costs[1:-1] = np.inf
    best = int(costs.argmin())
    gained = costs[m] - costs[best]
    return best if gained > SMALLEST_GAIN and costs[best] <= SHIFTED_GAIN * costs[m] else m


def _cost(train: Floats, rollout: Floats) -> Floats:
    """Return how badly tokens fit, bounded: 0 where nothing is known, little beside a 0 that was perhaps filled in."""
    highest = np.where((train == 0) != (rollout == 0), FILLED_CLIP, CLIP)
    return np.nan_to_num(np.minimum(np.abs(rollout - train), highest))


def _row_differences(train: Ragged, rollout: Ragged, stretches: _Stretches) -> Floats:
    """Mean bounded difference of each stretch, NaN where too few tokens can be compared."""
    pairs = _pairs(train, rollout, stretches)
    groups = Groups.from_sizes(stretches.n)
    known = ~np.isnan(pairs.difference) & ~_beside_zero(pairs)
    counts = groups.sums(known).astype(np.float64)
    counts[counts < FEWEST_COMPARED] = np.nan
    return groups.sums(_cost(pairs.train, pairs.rollout) * known) / counts


def _beside_zero(pairs: Pairs) -> NDArray[np.bool_]:
    """Return where only one column is 0 [T]: it may have been filled in, and says little of where its row belongs."""
    beside: NDArray[np.bool_] = (pairs.train == 0) != (pairs.rollout == 0)
    return beside


def _mean_difference(train: Ragged, rollout: Ragged, stretches: _Stretches) -> float:
    return float(np.nanmean(np.abs(_pairs(train, rollout, stretches).difference)))


def _rank_correlation(pairs: Pairs) -> float:
    known = ~np.isnan(pairs.difference) & ~_beside_zero(pairs)
    if known.sum() < FEWEST_COMPARED:
        return 0.0
    ranks = [np.argsort(np.argsort(column[known])) for column in (pairs.train, pairs.rollout)]
    return float(np.asarray(np.corrcoef(np.array(ranks, np.float64)))[0, 1])


def _joined(parts: list[_Stretches]) -> _Stretches:
    joined = _Stretches(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    order = np.argsort(joined.train, kind="stable")
    return _Stretches(*(column[order] for column in joined))


def _pairs(train: Ragged, rollout: Ragged, stretches: _Stretches) -> Pairs:
    groups = Groups.from_sizes(stretches.n)
    row, place = groups.spread(stretches.row), groups.place
    ours, theirs = groups.spread(stretches.train) + place, groups.spread(stretches.rollout) + place
    last = (ours + 1 == train.offsets[row + 1]) & (theirs + 1 == rollout.offsets[row + 1])
    return Pairs(train.values[ours], rollout.values[theirs], row, ours - train.offsets[row], last)
