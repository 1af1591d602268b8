"""Two columns of log-probs of the same tokens, as files hold them: for comparing the engines that made them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files import columns as arrow
from esscher.files.blocks import read_table, scan
from esscher.files.file_part import Place
from esscher.files.finding import find, of_step
from esscher.files.formats import check_known_or_not, naming
from esscher.files.masks import MASK, ROW_MASKS, TOKEN_MASKS, of_completions
from esscher.files.steps import rows_of_step, steps_in
from esscher.groups import Groups
from esscher.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from esscher.files.blocks import Rows
    from esscher.files.finding import RunFile

PROMPTS = ("prompt_id", "prompt_token_ids")
COMPLETIONS, TERMINATED, TOKEN_IDS = "completion_token_ids", "terminated", "token_ids"


class Trainer(NamedTuple):
    """What a trainer calls the two columns."""

    train: str
    rollout: str


class _Names(NamedTuple):
    """What the two columns are called in these files, and the masks that they are read with: the first one tells."""

    train: str
    rollout: str
    token_masks: tuple[str, ...]
    row_masks: tuple[str, ...]

    @property
    def mask(self) -> str:
        """The mask of tokens, "" if there is none."""
        return self.token_masks[0] if self.token_masks else ""


# Ours, NeMo-RL's and prime-rl's.
TRAINERS = (
    Trainer("policy_logprobs", "rollout_logprobs"),
    Trainer("prev_logprobs", "generation_logprobs"),
    Trainer("trainer_logprobs", "inference_logprobs"),
)


class LogprobColumns(NamedTuple):
    """Log-probs as two engines recorded them, in nats, null as NaN; rows are completions, grouped by prompt.

    ``groups`` and ``terminated`` are `None` where the files do not tell. ``numbers`` are the rows that these were,
    counted from 0 through all files, and ``masks`` what the masks were called that left out the others.
    """

    train: Ragged
    rollout: Ragged
    groups: Groups | None
    terminated: NDArray[np.bool_] | None
    numbers: NDArray[np.int64]
    masks: tuple[str, ...]


def read_logprobs(
    paths: Sequence[Path],
    train: str | None = None,
    rollout: str | None = None,
    mask: str | None = None,
    tool: str | None = None,
    step: int | str | None = None,
) -> LogprobColumns:
    """Read two columns of log-probs as they are: no value is refused, a null is NaN, a null row is empty.

    Where a file has a mask of the tokens or of the rows that count, under any name in `esscher.files.masks`, only these
    are read. Rows are grouped by `prompt_id` and `prompt_token_ids`, or by the tokens before the mask's first.

    Parameters
    ----------
    paths
        Parquet (.parquet) or JSON lines (.jsonl), at least one.
    train, rollout
        What the columns are called; by default as one of `TRAINERS` calls them.
    mask
        What the mask of the tokens that count is called, of 0 and 1 or booleans, or one of rows; "" if all tokens and
        rows count. By default any whose name says so, if all such masks of tokens agree.
    tool
        Which tool wrote the files, as `scan` takes it. Where columns are named that a file has as it stands, it is read
        so.
    step
        Which step's rows to read, where there are several; all by default, since engines differ alike at each.

    Raises
    ------
    FileNotFoundError
        If a file is not there.
    ValueError
        If a file is not whole, lacks a column, or a column holds something else than numbers, or a mask than 0 and 1;
        or if there are masks that disagree, and `mask` does not say which. The message names the file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> row = '{"policy_logprobs": [-0.5, -1.0], "rollout_logprobs": [-0.5, null]}'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "rows.jsonl")
    ...     _ = path.write_text(row)
    ...     read_logprobs([path]).rollout.values
    array([-0.5,  nan])
    """
    told = {name for name in (train, rollout, mask) if name}
    found = [_scanned(file, told, tool) for file in of_step(find(paths, tool).files, step)]
    files, tables = _rows_of_step(found, step)
    if not files:
        raise ValueError(f"{', '.join(map(str, paths[:3]))}: no completion is of step {step}")
    paths = [rows.path for rows in files]
    names = _names(paths[0], tables[0].column_names, Trainer(train or "", rollout or ""), mask)
    masks = (*names.token_masks, *names.row_masks)
    wanted = [name for name in (*names[:2], *masks, *PROMPTS, TERMINATED, TOKEN_IDS) if name in tables[0].column_names]
    for path, table in zip(paths, tables, strict=True):
        for name in wanted:
            if name not in table.column_names:
                raise ValueError(f"{path} has no column {name!r}, {paths[0]} has: files read together must agree")
    parts = [naming(rows, _columns, table, names) for rows, table in zip(files, tables, strict=True)]
    columns = _grouped(_concatenate(parts), _prompt_codes(files, tables, names))
    kept = [naming(rows, _kept_rows, table, names.row_masks) for rows, table in zip(files, tables, strict=True)]
    used = (*names.token_masks[:1], *names.row_masks)
    return _of_rows(columns._replace(masks=used), np.concatenate(kept))


def _scanned(file: RunFile, named: Collection[str], tool: str | None) -> Rows:
    """Look at a file: as it stands, if it has the columns that are named, else as its tool's."""
    found = scan(file.path, file.tool)
    stands = found.source or found
    return stands if tool is None and named and set(named) <= set(stands.schema.names) else found


def _rows_of_step(found: Sequence[Rows], step: int | str | None) -> tuple[list[Place], list[pa.Table]]:
    """Return the rows of files that are of a step, and where each is from."""
    files, tables = [], []
    for rows in found:
        table = read_table(rows)
        numbers = rows_of_step(table, steps_in(table.column_names, ()), step)
        if len(numbers):
            files.append(Place(rows, numbers))
            tables.append(table if len(numbers) == len(table) else table.take(pa.array(numbers)))
    return files, _all_masked(tables)


def _all_masked(tables: list[pa.Table]) -> list[pa.Table]:
    """Return tables that all have a mask of actions, if some do: of tools' files only those with gaps have one."""
    if all(MASK in table.column_names for table in tables) or not any(MASK in table.column_names for table in tables):
        return tables
    return [_masked_whole(table) for table in tables]


def _masked_whole(table: pa.Table) -> pa.Table:
    if MASK in table.column_names or COMPLETIONS not in table.column_names:
        return table
    lengths = arrow.raw_numbers(COMPLETIONS, table.column(COMPLETIONS)).lengths
    return table.append_column(MASK, arrow.to_lists(Ragged.from_lengths(np.ones(lengths.sum(), np.bool_), lengths)))


def _names(path: Path, there: list[str], asked: Trainer, mask: str | None) -> _Names:
    known = _trainer(there, {asked.train, asked.rollout})
    names = _Names(asked.train or known.train, asked.rollout or known.rollout, *_masks(there, mask))
    for name, option, what in (
        (names.train, "--train", "these log-probs"),
        (names.rollout, "--rollout", "these log-probs"),
        (mask, "--mask", "the mask"),
    ):
        if name and name not in there:
            raise ValueError(
                f"{path} has no column {name!r}. It has: {', '.join(there)}. Say which holds {what}: {option} COLUMN"
            )
    if names.train == names.rollout:
        raise ValueError(f"--train and --rollout are both {names.train!r}: name the columns of two engines")
    return names


def _masks(there: list[str], asked: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the masks of tokens and of rows to read: those whose names say so, unless one was asked for, or none."""
    if asked == "":
        return (), ()
    rows = tuple(name for name in ROW_MASKS if name in there)
    if asked is None:
        return tuple(name for name in TOKEN_MASKS if name in there), rows
    return ((), (asked,)) if asked in ROW_MASKS else ((asked,), rows)


def _trainer(there: list[str], asked: set[str]) -> Trainer:
    """Return whose names these are: those that were asked for, or else those that are there."""
    by_name = next((trainer for trainer in TRAINERS if asked & {trainer.train, trainer.rollout}), None)
    return by_name or next((t for t in TRAINERS if {t.train, t.rollout} <= set(there)), TRAINERS[0])


def _columns(table: pa.Table, names: _Names) -> LogprobColumns:
    train, rollout = (arrow.raw_numbers(name, table.column(name)) for name in (names.train, names.rollout))
    if names.mask:
        _check_agreement(table, names.token_masks)
        mask = _of_completions(_mask(table, names.mask), train, table)
        train, rollout = _masked(names.train, train, mask), _masked(names.rollout, rollout, mask)
    terminated = None
    if TERMINATED in table.column_names and not table.column(TERMINATED).null_count:
        terminated = arrow.booleans(TERMINATED, table.column(TERMINATED))
    return LogprobColumns(train, rollout, None, terminated, np.arange(len(train)), ())


def _check_agreement(table: pa.Table, names: tuple[str, ...]) -> None:
    masks = [_mask(table, name) for name in names]
    for name, mask in zip(names[1:], masks[1:], strict=True):
        differ = [i for i, (one, two) in enumerate(zip(masks[0], mask, strict=True)) if not np.array_equal(one, two)]
        if differ:
            raise ValueError(
                f"the masks {names[0]!r} and {name!r} disagree in row {differ[0]} (rows count from 0): say which tells "
                f"the tokens that count, --mask {names[0]} or --mask {name}, or --mask '' if all tokens do"
            )


def _of_completions(mask: Ragged, columns: Ragged, table: pa.Table) -> Ragged:
    """Return a mask without its prompts' part, where it goes over prompt and completion and log-probs do not."""
    if PROMPTS[1] not in table.column_names or np.array_equal(mask.lengths, columns.lengths):
        return mask
    return of_completions(mask, arrow.raw_numbers(PROMPTS[1], table.column(PROMPTS[1])).lengths, columns.lengths)


def _kept_rows(table: pa.Table, masks: tuple[str, ...]) -> NDArray[np.bool_]:
    """Return which rows count [N], by all masks of rows: a number or a boolean a row, or a list of one."""
    kept = np.ones(len(table), np.bool_)
    for name in masks:
        column = table.column(name)
        if not pa.types.is_nested(column.type):
            column = pa.chunked_array(
                [pa.ListArray.from_arrays(np.arange(len(c) + 1, dtype=np.int32), c) for c in column.chunks]
            )
        mask = _mask(table.select([]).append_column(name, column), name)
        wrong = np.flatnonzero(mask.lengths != 1)
        if len(wrong):
            raise ValueError(
                f"column {name!r}, row {wrong[0]} has {mask.lengths[wrong[0]]} values: a mask of rows has one for each "
                "(rows count from 0)"
            )
        kept &= mask.values == 1
    return kept


def _of_rows(columns: LogprobColumns, kept: NDArray[np.bool_]) -> LogprobColumns:
    """Return the completions whose row in the files is `kept`."""
    stay = np.flatnonzero(kept[columns.numbers])
    if len(stay) == len(kept):
        return columns
    groups = columns.groups
    return columns._replace(
        train=columns.train.take(stay),
        rollout=columns.rollout.take(stay),
        groups=None if groups is None else Groups(np.unique(np.searchsorted(stay, groups))),
        terminated=None if columns.terminated is None else columns.terminated[stay],
        numbers=columns.numbers[stay],
    )


def _mask(table: pa.Table, name: str) -> Ragged:
    mask = arrow.raw_numbers(name, table.column(name))
    strange = np.flatnonzero((mask.values != 0) & (mask.values != 1))
    if len(strange):
        row, token = mask.locate(strange[0])
        raise arrow.RowError(
            row, f"column {name!r}, row {row}, token {token} is {mask.values[strange[0]]:g}: a mask is 0 or 1"
        )
    return mask


def _masked(name: str, column: Ragged, mask: Ragged) -> Ragged:
    if np.array_equal(column.lengths, mask.rows.sums(mask.values == 1)):  # a value for each token that the mask keeps
        return column
    differ = np.flatnonzero(column.lengths != mask.lengths)
    if len(differ):
        i = int(differ[0])
        raise arrow.RowError(
            i, f"column {name!r}, row {i} has {column.lengths[i]} values, its mask {mask.lengths[i]}: they must agree"
        )
    keep = mask.values == 1
    return Ragged.from_lengths(column.values[keep], mask.rows.sums(keep))


def _concatenate(parts: list[LogprobColumns]) -> LogprobColumns:
    ended = [part.terminated for part in parts if part.terminated is not None]
    return LogprobColumns(
        Ragged.concatenate([part.train for part in parts]),
        Ragged.concatenate([part.rollout for part in parts]),
        None,
        np.concatenate(ended) if len(ended) == len(parts) else None,
        np.arange(sum(len(part.train) for part in parts)),
        (),
    )


def _grouped(columns: LogprobColumns, codes: NDArray[np.int64] | None) -> LogprobColumns:
    if codes is None:
        return columns
    order = np.argsort(codes, kind="stable")
    sizes = np.unique(codes, return_counts=True)[1]
    return LogprobColumns(
        columns.train.take(order),
        columns.rollout.take(order),
        Groups.from_sizes(sizes),
        None if columns.terminated is None else columns.terminated[order],
        columns.numbers[order],
        columns.masks,
    )


def _prompt_codes(files: Sequence[Place], tables: list[pa.Table], names: _Names) -> NDArray[np.int64] | None:
    """Give rows of one prompt an equal number; `None` if the tables do not tell prompts."""
    told = [name for name in PROMPTS if name in tables[0].column_names]
    for name in told:
        check_known_or_not(files, tables, name)
    codes = [_codes(files, tables, name) for name in told if arrow.is_known(tables[0].column(name))]
    if not codes and names.mask and TOKEN_IDS in tables[0].column_names:
        before = [naming(rows, _before_mask, table, names.mask) for rows, table in zip(files, tables, strict=True)]
        codes.append(arrow.row_codes(Ragged.concatenate(before)))
    if not codes:
        return None
    both = Ragged.from_padded(np.stack([codes[0], codes[-1]], axis=1), lengths=np.full(len(codes[0]), 2))
    return arrow.row_codes(both)


def _codes(files: Sequence[Place], tables: list[pa.Table], name: str) -> NDArray[np.int64]:
    convert = arrow.keys if name == "prompt_id" else arrow.token_ids
    parts = [naming(rows, convert, name, table.column(name)) for rows, table in zip(files, tables, strict=True)]
    return arrow.codes(pa.concat_arrays(parts)) if name == "prompt_id" else arrow.row_codes(Ragged.concatenate(parts))


def _before_mask(table: pa.Table, name: str) -> Ragged:
    """Return the token ids before the first that the mask keeps: the prompt."""
    ids = arrow.raw_numbers(TOKEN_IDS, table.column(TOKEN_IDS))
    mask = _mask(table, name)
    within = mask.rows.place
    first = [int(within[a:b][mask.values[a:b] == 1].min(initial=b - a)) for a, b in _bounds(mask)]
    lengths = np.minimum(first, ids.lengths)
    return Ragged.from_lengths(ids.values[ids.rows.place < ids.rows.spread(lengths)].astype(np.int64), lengths)


def _bounds(rows: Ragged) -> list[tuple[int, int]]:
    return list(zip(rows.offsets[:-1].tolist(), rows.offsets[1:].tolist(), strict=True))
