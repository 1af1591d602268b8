"""Ask about masks: what a trainer left out would be counted where nobody reads its mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher.files import columns as arrow
from esscher.files.masks import ROW_MASKS, TOKEN_MASKS, of_completions

if TYPE_CHECKING:
    from collections.abc import Collection

    import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

    from esscher.samples import Samples


def masks_in(names: Collection[str], ignored: Collection[str]) -> list[str]:
    """Return which of a file's columns are masks, by their names, that nobody said to ignore, or to use.

    Examples
    --------
    >>> masks_in(["rewards", "loss_mask", "tool_mask"], ignored=["tool_mask"])
    ['loss_mask']
    """
    return [name for name in names if name in (*TOKEN_MASKS, *ROW_MASKS) and name not in ignored]


def ask_about_masks(table: pa.Table, rows: Samples, names: Collection[str], first: int = 0) -> None:
    """Raise `RowError` if a mask leaves out a row, or a token of a completion.

    Parameters
    ----------
    table
        Rows of a file with their masks; the first is number `first` of the file.
    rows
        Their completions, with a prompt for each.
    names
        What the masks are called, as `masks_in` finds them.
    """
    for name in names:
        column = table.column(name)
        if arrow.is_known(column):
            _ask(name, column, rows, first)


def _ask(name: str, column: pa.ChunkedArray, rows: Samples, first: int) -> None:
    what = "row" if name in ROW_MASKS else "token"
    find = _row_left_out if what == "row" else _token_left_out
    try:
        found = find(name, column, rows)
    except ValueError as error:
        raise ValueError(f"column {name!r} has type {column.type}: {_question(name, what)}") from error
    if found is not None:
        row, place = first + found[0], f", token {found[1]}" if what == "token" else ""
        raise arrow.RowError(row, f"column {name!r}, row {row}{place} is not 1: {_question(name, what)}")


def _row_left_out(name: str, column: pa.ChunkedArray, _: Samples) -> tuple[int, int] | None:
    mask = np.zeros(len(column))
    mask[np.asarray(column.is_valid())] = arrow.numbers(name, column.drop_null())
    out = np.flatnonzero(mask != 1)
    return (int(out[0]), 0) if len(out) else None


def _token_left_out(name: str, column: pa.ChunkedArray, rows: Samples) -> tuple[int, int] | None:
    """Return row and place in it of the first entry that leaves out what the samples count."""
    mask = arrow.raw_numbers(name, column)
    before = mask.lengths - of_completions(mask, rows.prompts.lengths, rows.completions.lengths).lengths
    place = mask.rows.place - mask.rows.spread(before)
    out = (mask.values != 1) & (place >= 0)
    if rows.action_mask is not None:
        chosen, row = rows.action_mask, mask.rows.of
        inside = (place >= 0) & (place < chosen.lengths[row])
        out[inside] &= chosen.values[chosen.offsets[row[inside]] + place[inside]]
    found = np.flatnonzero(out)
    return mask.locate(found[0]) if len(found) else None


def _question(name: str, what: str) -> str:
    why = "was left out of the loss" if what == "row" else "was not chosen by the policy"
    use = (
        "Take such rows out of the file"
        if what == "row"
        else f"Say --columns action_mask={name} to count only what it keeps"
    )
    return (
        f"it looks like a mask, by which this {what} {why}, but it would be counted like any other. {use}, or say "
        f"--ignore-mask {name} (ignore_masks) if all {what}s count"
    )
