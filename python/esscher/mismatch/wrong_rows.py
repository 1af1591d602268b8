"""Whole rows that are wrong: log-probs of another completion, or of another policy."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.groups import Groups, as_groups
from esscher.mismatch.alignment import CLIP, SHIFTED_GAIN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.mismatch.alignment import Pairs
    from esscher.ragged import Ragged

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]
    Mask = NDArray[np.bool_]

# Rows that differ by less than this on average belong where they are.
MISFIT = 0.02
# So many tokens of a row tell whose it is, and so many rows whether there is anything to look for.
TOKENS_LOOKED_AT, ROWS_LOOKED_AT = 64, 256
# So many rows, and at least two, for it to be more than chance.
FEWEST_SHARE = 0.02
# Rows that were exchanged are each the right one of a single other, but where completions are alike.
DISTINCT = 0.5
# Moved back, they must fit this much better in all, and that must be a good part of what rows differ by.
ALL_GAIN, EXPLAINED_SHARE = 0.5, 0.15
# Rows that differ by less than this are the same.
SAME = 1e-4
# Fewer tokens than this fit some other row by chance.
FEWEST_TOKENS_OF_ROW = 8

# A token can differ by about its own improbability; of certain ones nothing can be told.
SURE, TELLING = 1e-3, 0.05
# Rows of another policy differ, in at least half of the tokens that tell, by more than nearly all tokens of the half of
# the rows that differ least: by three times their 80th percentile, and more than rounding.
OFF_TOKENS, OFF_QUANTILE, OFF_FACTOR, OFF_LEAST = 0.5, 0.8, 3.0, 0.01
# By how likely tokens are, in so many classes, they may differ in all rows.
BINS, FEWEST_IN_BIN = 20, 30
# A truncation can make one or two rows differ so. More rows than this are no exception.
FEWEST_OFF, OFF_SHARE = 3, 0.05
MOST_ROWS = 0.6


class Exchanged(NamedTuple):
    """Rows of the rollout's column that fit other rows of the trainer's; mean differences before and after moving."""

    rows: Integers
    source: Integers
    before: float
    after: float


class OtherRows(NamedTuple):
    """Rows that differ as the others do not, and by how much: mean and mean absolute difference of their tokens."""

    rows: Integers
    mean: float
    size: float
    ordinary: float


def find_exchanged(train: Ragged, rollout: Ragged, groups: Groups, scale: float) -> Exchanged | None:
    """Return which rows of the rollout belong to another completion, of the same prompt or else of any."""
    columns = [_padded(train, 1.0), _padded(rollout, scale)]
    own = _own_costs(columns[0], columns[1], train.lengths, rollout.lengths)
    misfits = np.flatnonzero((own >= MISFIT) & (train.lengths >= FEWEST_TOKENS_OF_ROW))
    if len(misfits) < 2:
        return None
    looked_at = misfits[np.linspace(0, len(misfits) - 1, min(len(misfits), ROWS_LOOKED_AT)).astype(int)]
    for within in (groups, as_groups(None, len(train))):
        costs = _Costs(columns[0], columns[1], train.lengths, rollout.lengths, own, within)
        if costs.fit_others(looked_at):
            return costs.matched()
    return None


class _Costs(NamedTuple):
    """Rows of both columns padded, their lengths, what each row differs by, and within which groups rows can move."""

    train: Floats
    rollout: Floats
    train_lengths: Integers
    rollout_lengths: Integers
    own: Floats
    groups: Groups

    def of(self, row: int, others: Integers) -> Floats:
        """Return the mean bounded difference of the trainer's row from others of the rollout's."""
        known = max(min(int(self.train_lengths[row]), TOKENS_LOOKED_AT), 1)
        costs: Floats = _cost(self.train[row], self.rollout[others]).sum(1) / known
        return np.where(self.rollout_lengths[others] == self.train_lengths[row], costs, np.inf)

    def fit_others(self, rows: Integers) -> bool:
        """Return whether many rows fit, each, another one far better that is not at home either."""
        found, sources, after = [], [], []
        for row in rows.tolist():
            prompt = self.groups.of[row]
            there = np.arange(*self.groups.offsets[prompt : prompt + 2])
            there = there[(there != row) & (self.own[there] > 0)]
            if not len(there):
                continue
            costs = self.of(row, there)
            costs[costs > SHIFTED_GAIN * self.own[there]] = np.inf
            best = int(costs.argmin())
            if costs[best] <= SHIFTED_GAIN * self.own[row]:
                found.append(row)
                sources.append(int(there[best]))
                after.append(float(costs[best]))
        few = len(found) < max(2, FEWEST_SHARE * len(rows))
        if few or len(set(sources)) < DISTINCT * len(found):
            return False
        return bool(sum(after) <= ALL_GAIN * self.own[found].sum())

    def matched(self) -> Exchanged | None:
        """Give each row of the trainer's one of the rollout's, best fits first; those that fit at home stay."""
        source = np.arange(len(self.own))
        for first, end in itertools.pairwise(self.groups.tolist()):
            rows = np.arange(first, end)
            rows = rows[self.own[rows] > SAME]
            if len(rows) > 1:
                source[rows] = rows[_assignment(np.stack([self.of(row, rows) for row in rows.tolist()]))]
        moved = np.flatnonzero(source != np.arange(len(source)))
        if not len(moved):
            return None
        after = np.array([self.of(row, source[[row]])[0] for row in moved.tolist()])
        if (self.own[moved] - after).sum() < EXPLAINED_SHARE * self.own.sum():
            return None
        return Exchanged(moved, source[moved], float(self.own[moved].mean()), float(after.mean()))


def _assignment(costs: Floats) -> Integers:
    """Return a column for each row, best fits first; a row that finds none stays, as far as it can."""
    n = len(costs)
    costs = np.where(np.isfinite(costs), costs, CLIP) + SAME * ~np.eye(n, dtype=np.bool_)
    chosen, taken = np.full(n, -1), np.zeros(n, np.bool_)
    for place in np.argsort(costs, axis=None, kind="stable").tolist():
        row, column = divmod(place, n)
        if chosen[row] < 0 and not taken[column]:
            chosen[row], taken[column] = column, True
    return chosen


def _padded(column: Ragged, scale: float) -> Floats:
    """Return the first tokens of each row, NaN where there is none."""
    lengths = np.minimum(column.lengths, TOKENS_LOOKED_AT)
    width = int(lengths.max(initial=0))
    padded = np.full((len(column), width), np.nan)
    inside = np.arange(width) < lengths[:, None]
    padded[inside] = column.values[(column.offsets[:-1, None] + np.arange(width))[inside]] / scale
    return padded


def _own_costs(train: Floats, rollout: Floats, lengths: Integers, others: Integers) -> Floats:
    """Return the mean bounded difference of each row, as far as both go; as if far apart where lengths differ."""
    width = min(train.shape[1], rollout.shape[1])
    cost = _cost(train[:, :width], rollout[:, :width])
    known = np.maximum(np.minimum(lengths, others).clip(max=width), 1)
    return np.where(lengths == others, cost.sum(1) / known, CLIP)


def _cost(one: Floats, others: Floats) -> Floats:
    width = min(one.shape[-1], others.shape[-1])
    return np.nan_to_num(np.minimum(np.abs(one[..., :width] - others[..., :width]), CLIP))


def find_other_rows(pairs: Pairs, whole: Mask) -> OtherRows | None:
    """Return the rows that differ in most of their tokens by more than tokens of the other rows do.

    Those that are `whole` [N] decide whether there are any: where a token is missing, its place was guessed.
    """
    rows, tokens = pairs.by_row()
    difference = pairs.difference - _trend(pairs)
    improbability = -np.expm1(np.minimum(np.minimum(pairs.train, pairs.rollout), 0.0))
    size = np.abs(difference) / (improbability + SURE)
    telling = improbability > TELLING
    medians = _medians(np.where(telling, size, np.nan), tokens)
    if np.isnan(medians).all():
        return None
    usual = tokens.spread(medians <= np.nanmedian(medians)) & telling
    ordinary = max(OFF_FACTOR * float(np.quantile(size[usual], OFF_QUANTILE)), OFF_LEAST)
    counts, beyond = tokens.sums(telling), tokens.sums(telling & (size > ordinary))
    off = (counts >= 2) & (beyond >= OFF_TOKENS * counts)
    if not max(FEWEST_OFF, OFF_SHARE * len(rows)) <= (off & whole[rows]).sum() <= MOST_ROWS * len(rows):
        return None
    inside = tokens.spread(off)
    difference = pairs.difference[inside]
    others = float(np.abs(pairs.difference[~inside]).mean())
    return OtherRows(rows[off], float(difference.mean()), float(np.abs(difference).mean()), others)


def _trend(pairs: Pairs) -> Floats:
    """Return the median difference of tokens as likely as each [T]: what a temperature or a truncation does to all."""
    bins = np.array_split(np.argsort(pairs.train, kind="stable"), max(1, min(BINS, len(pairs.train) // FEWEST_IN_BIN)))
    trend = np.zeros(len(pairs.train))
    for tokens in bins:
        trend[tokens] = np.median(pairs.difference[tokens]) if len(tokens) else 0.0
    return trend


def _medians(values: Floats, groups: Groups) -> Floats:
    """Return the median of what is known of each group, NaN if nothing is; of an even number the lower middle one."""
    known = ~np.isnan(values)
    order = np.lexsort((values[known], groups.of[known]))
    counts = groups.sums(known)
    middle = Groups.from_sizes(counts).starts + (counts - 1) // 2
    ordered = values[known][order]
    return np.where(counts > 0, np.append(ordered, np.nan)[np.where(counts > 0, middle, -1)], np.nan)
