"""A part of what is read together: rows of one file, as samples with a prompt each, and what else they hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files import columns as arrow
from esscher.files.asking import ask_about_masks, masks_in
from esscher.files.dump import NAMES, NEEDED, PROMPT_ID, check_needed, names_of, rows_of, tokens_of
from esscher.files.formats import naming
from esscher.files.masks import MASK
from esscher.files.named_rewards import named, reward, weighted
from esscher.files.steps import read_steps, steps_in
from esscher.files.text_columns import TOKENS
from esscher.ragged import Masked, Ragged

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from esscher.files.blocks import Rows
    from esscher.files.text_columns import TextReader
    from esscher.samples import Samples

ROLLOUT = "rollout_logprobs"
NO_REWARD, NO_ACTIONS = "completions without a reward", "rows of which the mask keeps no token"


@dataclass(frozen=True)
class Wanted:
    """What is read of files.

    Parameters
    ----------
    columns
        What our columns are called in the files.
    optional
        Which of the optional columns are read, where they are there.
    ignore_masks
        Masks that matter not.
    rewards
        Which columns are rewards, and what each weighs; `None` for the file's own total.
    beside
        Further columns of numbers, by name: of no weight, and a completion may lack them.
    texts
        What makes ids of texts, where a file has no ids.
    """

    columns: Mapping[str, str]
    optional: Collection[str]
    ignore_masks: Collection[str]
    rewards: Mapping[str, float] | None
    beside: Collection[str] = ()
    texts: TextReader | None = None


class Reading(NamedTuple):
    """What of a file is read: what each of our columns is called, its masks, steps, and single rewards by name.

    `tells_tokens` is whether it may say what its ids are.
    """

    names: dict[str, str]
    masks: list[str]
    steps: list[str]
    single: dict[str, str]
    tells_tokens: bool

    @property
    def columns(self) -> list[str]:
        """All columns that are read."""
        told = [TOKENS] if self.tells_tokens else []
        return list(dict.fromkeys([*self.names.values(), *self.masks, *self.steps, *self.single.values(), *told]))


class FilePart(NamedTuple):
    """Rows of a file: their samples, a prompt for each, their numbers, and what `Samples` have no place for."""

    located: Place
    rows: Samples
    numbers: NDArray[np.int64]
    ids: pa.ChunkedArray | None
    steps: dict[str, list[str]]
    single: dict[str, NDArray[np.float64]]
    rollout: Ragged | None
    left_out: dict[str, int]

    @property
    def columns(self) -> tuple[str, ...]:
        """The optional columns that are there; where all tokens are actions, no mask has to say so."""
        there = tuple(name for name in self.rows.columns if name != MASK)
        return there if self.rollout is None else (*there, ROLLOUT)


@dataclass(frozen=True, eq=False)
class Place:
    """Where rows are from, for messages: a file, and the numbers of the rows in it."""

    found: Rows
    numbers: NDArray[np.int64]

    @property
    def path(self) -> Path:
        """The file."""
        return self.found.path

    def line_of(self, row: int) -> int | None:
        """Return the number of a row's line in the file, from 1; `None` if the file has no lines."""
        return self.found.line_of(int(self.numbers[row]))


def reading_of(found: Rows, wanted: Wanted) -> Reading:
    """Return what is read of a file.

    Raises
    ------
    ValueError
        If it lacks a column that is needed, or a reward that is named.
    """
    there = found.schema.names
    names = names_of(wanted.columns, there)
    check_needed(found.path, there, names, wanted.columns)
    optional = [one for one in wanted.optional if not (one == "rewards" and wanted.rewards is not None)]
    # What tells the tokens that count is read, whatever else is needed.
    asked = dict.fromkeys((PROMPT_ID, *NEEDED, MASK, *optional))
    read = {ours: names.get(ours, ours) for ours in asked if names.get(ours, ours) in there}
    if names[MASK] in wanted.ignore_masks:
        read.pop(MASK, None)
    single = named(found, tuple(wanted.beside))
    if "rewards" in wanted.optional:
        single |= named(found, found.rewards if wanted.rewards is None else tuple(wanted.rewards))
    masks = masks_in(there, (*wanted.ignore_masks, read.get(MASK, "")))
    tells = TOKENS in there and found.schema.field(TOKENS).type == pa.string()
    return Reading(read, masks, steps_in(there, read.values()), single, tells)


def part_of(found: Rows, table: pa.Table, wanted: Wanted, reading: Reading, numbers: NDArray[np.int64]) -> FilePart:
    """Return rows of a file, whose numbers in it are given, as samples.

    Raises
    ------
    ValueError
        If a row is refused, or none has a reward where rewards are wanted.
    """
    chosen = _rows_with_actions(Place(found, numbers), table, reading.names.get(MASK))
    without = len(table) - len(chosen)
    if without:
        table, numbers = table.take(pa.array(chosen)), numbers[chosen]
    located = Place(replace(found, held=None), numbers)
    names, lenient = dict(reading.names), found.reader is not None or wanted.rewards is not None
    single = {name: reward(table, column) for name, column in reading.single.items()}
    total = weighted(single, wanted.rewards) if wanted.rewards is not None else None
    if lenient and wanted.rewards is None and "rewards" in names and arrow.is_known(table.column(names["rewards"])):
        total = reward(table, names["rewards"])
    if lenient:
        names.pop("rewards", None)
        if "terminated" in names and table.column(names["terminated"]).null_count:
            del names["terminated"]
    rollout = names.pop(ROLLOUT, None)
    ours = {name: theirs for name, theirs in names.items() if name in NAMES}
    rows = replace(naming(located, rows_of, table, ours), tokens=naming(located, tokens_of, table))
    naming(located, ask_about_masks, table, rows, reading.masks)
    beside = _rollout(table, rollout, rows) if rollout is not None and arrow.is_known(table.column(rollout)) else None
    ids = table.column(names[PROMPT_ID]) if PROMPT_ID in names else None
    out = {NO_ACTIONS: without}
    part = FilePart(located, rows, numbers, ids, read_steps(table, reading.steps), single, beside, out)
    return part if total is None else _rewarded(part, total)


def _rows_with_actions(located: Place, table: pa.Table, name: str | None) -> NDArray[np.int64]:
    """Return the rows of which a mask does not leave out everything; raises `ValueError` if there are none."""
    if name is None or not arrow.is_known(table.column(name)):
        return np.arange(len(table))
    mask: Ragged = naming(located, arrow.flags, name, table.column(name))
    # A row without a mask leaves nothing out.
    chosen = np.flatnonzero((mask.rows.sums(mask.values) > 0) | (mask.lengths == 0))
    if len(chosen) == 0:
        raise ValueError(
            f"{located.path} has no row in which the mask {name!r} keeps a token: there is nothing to read"
        )
    return chosen


def _rollout(table: pa.Table, name: str, rows: Samples) -> Ragged:
    """Return the sampler's log-probs of the tokens that the policy chose."""
    raw = arrow.raw_numbers(name, table.column(name))
    found = Ragged(raw.values.astype(np.float32), raw.offsets)
    if rows.action_mask is None or not np.array_equal(found.offsets, rows.completions.offsets):
        return found
    return Masked(found.values, found.offsets, rows.action_mask.values).kept


def _rewarded(part: FilePart, total: NDArray[np.float64]) -> FilePart:
    """Return a part with rewards, without the completions that have none."""
    kept = np.flatnonzero(~np.isnan(total))
    if not len(kept):
        raise ValueError(f"{part.located.path}: none of its {len(total):,} completions has a reward")
    rows = part.rows if len(kept) == len(total) else part.rows.take_completions(kept)
    return part._replace(
        located=Place(part.located.found, part.located.numbers[kept]),
        rows=replace(rows, rewards=total[kept]),
        numbers=part.numbers[kept],
        ids=None if part.ids is None else part.ids.take(kept),
        single={name: column[kept] for name, column in part.single.items()},
        rollout=None if part.rollout is None else part.rollout.take(kept),
        left_out=part.left_out | {NO_REWARD: len(total) - len(kept)},
    )
