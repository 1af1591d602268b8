"""What is to be done with a file, and whether it can be done: known before a model is loaded or a token scored."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esscher import files
from esscher.lm.base import first_too_long, first_without_start, read_lengths, token_id_rule
from esscher.offline.fingerprints import file_fingerprint
from esscher.offline.finished_parts import is_done

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from esscher.lm.base import LanguageModel, ModelLimits
    from esscher.samples import Samples

# Rows that are looked at together before any is scored.
ROWS_AT_ONCE = 1000


@dataclass(frozen=True, eq=False)
class Plan:
    """A file that is to be scored.

    Parameters
    ----------
    rows
        The file.
    fingerprint
        What tells whether the file is still the same.
    output
        Where it goes.
    names
        What each of our columns is called in the file.
    columns
        Which of them are to be filled.
    block
        How many rows are scored at a time.
    overwrite
        Whether columns that the file has already are replaced.
    masks
        Columns that are to be asked about if they leave out a token or a row.
    """

    rows: files.Rows
    fingerprint: dict[str, Any]
    output: Path
    names: dict[str, str]
    columns: tuple[str, ...]
    block: int
    overwrite: bool
    masks: tuple[str, ...]

    @property
    def written(self) -> dict[str, str]:
        """What each of the columns that are filled is called in the file."""
        return {ours: self.names[ours] for ours in self.columns}


def make_plan(
    file: Path,
    output: Path,
    columns: Sequence[str],
    *,
    renames: Mapping[str, str],
    block: int,
    overwrite: bool,
    ignore_masks: Collection[str] = (),
    tool: str | None = None,
    texts: files.TextReader | None = None,
) -> Plan:
    """Look at a file and at where it goes; JSON lines are read through once.

    Parameters
    ----------
    file, output
        Parquet or JSON lines; they may be the same.
    columns
        The columns to fill.
    renames
        What our columns are called in the file, where it is another name.
    block
        How many rows to score at a time.
    overwrite
        Whether columns that the file has already are replaced.
    ignore_masks
        Masks that are said to matter not; others that leave something out are asked about.
    tool
        Which tool wrote the file, as `files.scan` takes it.
    texts
        What makes ids of texts, where the file has no ids.

    Raises
    ------
    FileNotFoundError
        If the file is not there, or the output's folder.
    PermissionError
        If the output's folder cannot be written to.
    ValueError
        If the file cannot be read, lacks a column that is needed or has one that would be replaced, or the output
        cannot be written.
    """
    if block < 1:
        raise ValueError(f"block is {block}: a block has at least 1 row")
    files.check_output(output)
    if not os.access(output.resolve().parent, os.W_OK):
        raise PermissionError(f"{output.resolve().parent} cannot be written to: name an output elsewhere")
    # Before anything is read of it; what is not there or no file is said below.
    fingerprint = file_fingerprint(file) if file.is_file() else {}
    rows = files.scan(file, "ours" if tool is None and {*files.NEEDED} & {*renames} else tool, texts)
    names = files.names_of(renames, rows.schema.names)
    files.check_needed(file, rows.schema.names, names, [ours for ours in renames if ours not in columns])
    if names[files.MASK] not in rows.schema.names or names[files.MASK] in ignore_masks:
        del names[files.MASK]
    masks = tuple(files.masks_in(rows.schema.names, (*ignore_masks, names.get(files.MASK, ""))))
    plan = Plan(rows, fingerprint, output, names, tuple(columns), block, overwrite, masks)
    if not is_done(output):
        check_written(plan)
    return plan


def check_written(plan: Plan) -> None:
    """Raise `ValueError` if a column cannot be put into the file, or would replace one that it is not said to."""
    written = list(plan.written.values())
    for name in written:
        if name in files.token_columns(plan.names) or written.count(name) > 1:
            raise ValueError(f"{name} would be a new column and something else too: rename one of them otherwise")
        if name in plan.rows.schema.names and not plan.overwrite:
            raise ValueError(f"{plan.rows.path} has a column {name} already: say --overwrite to replace it")


def check_rows(plan: Plan, limits: Sequence[LanguageModel | ModelLimits], notify: Callable[[int], object]) -> None:
    """Read all rows once and raise what would keep any of them from being scored or written.

    Parameters
    ----------
    plan
        What is to be done.
    limits
        What each model can read.
    notify
        Called with the number of rows that have been looked at.

    Raises
    ------
    ValueError
        If a row lacks token ids, has one that a model does not know, is too long for it, cannot be written to the
        output, or is left out by a mask, wholly or in part; the message names the file, the column, the row and, of
        JSON lines, the line.
    """
    for block in files.read_blocks(plan.rows, ROWS_AT_ONCE, _looked_at(plan)):
        files.naming(plan.rows, _check_block, plan, limits, block)
        notify(block.first + len(block.table))


def _check_block(plan: Plan, limits: Sequence[LanguageModel | ModelLimits], block: files.Block) -> None:
    if _may_be_unsayable(plan):
        files.check_writable(block.table, plan.output, block.first)
    samples = files.completions(block, plan.names)
    files.ask_about_masks(block.table, samples, plan.masks, block.first)
    for limit in limits:
        _check_ids(plan, limit, block.first, samples)
        _check_lengths(limit, block.first, samples)


def _looked_at(plan: Plan) -> list[str]:
    """Return the columns that are needed, and those that may keep the rows from being written as they are."""
    needed = dict.fromkeys([*files.token_columns(plan.names), *plan.masks])
    if _may_be_unsayable(plan):
        replaced = plan.written.values()
        needed |= dict.fromkeys(name for name in plan.rows.schema.names if name not in replaced)
    return list(needed)


def _may_be_unsayable(plan: Plan) -> bool:
    """Tell whether JSON lines are to hold what Parquet does: what JSON lines held, they can hold again."""
    return files.is_json_lines(plan.output) and not files.is_json_lines(plan.rows.path)


def _check_ids(plan: Plan, limits: LanguageModel | ModelLimits, first: int, samples: Samples) -> None:
    rule = token_id_rule(limits.name, limits.vocabulary_size)
    for ours, ids in zip(files.NEEDED, (samples.prompts, samples.completions), strict=True):
        name = plan.names[ours]
        files.check_values(name, ids, ids.values < limits.vocabulary_size, rule, first)


def _check_lengths(limits: LanguageModel | ModelLimits, first: int, samples: Samples) -> None:
    startless = first_without_start(limits, samples.prompts)
    if startless is not None:
        row = first + startless[0]
        raise files.RowError(row, f"row {row} has a prompt without tokens, and {startless[1]}")
    lengths = samples.completions.lengths
    too_long = first_too_long(limits, read_lengths(limits, samples.prompts) + lengths)
    if too_long is not None:
        i, rule = too_long
        raise files.RowError(
            first + i,
            f"row {first + i} has {lengths[i]} tokens after the {samples.prompts.lengths[i]} of its prompt: {rule}, "
            "cut them",
        )
