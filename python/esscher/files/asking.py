"""Ask about masks: what a trainer left out would be counted where nobody reads its mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher.files import columns as arrow
from esscher.files.masks import ROW_MASKS, TOKEN_MASKS
from esscher.groups import Groups

if TYPE_CHECKING:
    from collections.abc import Collection

    import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations
    from numpy.typing import NDArray

    from esscher.samples import Samples


def masks_in(names: Collection[str], ignored: Collection[str]) -> list[str]:
    """Return which of a file's columns are masks, by their names, that nobody said to ignore.

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
    mask = arrow.raw_numbers(name, column)
    out = np.flatnonzero((mask.values != 1) & ~_is_of_prompt(mask.lengths, rows))
    return mask.locate(out[0]) if len(out) else None


def _is_of_prompt(lengths: NDArray[np.int64], rows: Samples) -> NDArray[np.bool_]:
    """Tell of each entry of a mask whether it is of a prompt, where a row's mask goes over prompt and completion."""
    prompts, completions = rows.prompts.lengths, rows.completions.lengths
    before = np.where(lengths == prompts + completions, prompts, 0)
    rows_of_mask = Groups.from_sizes(lengths)
    of_prompt: NDArray[np.bool_] = rows_of_mask.place < rows_of_mask.spread(before)
    return of_prompt


def _question(name: str, what: str) -> str:
    why = "was left out of the loss" if what == "row" else "was not chosen by the policy"
    return (
        f"it looks like a mask, by which this {what} {why}, but it would be counted like any other. Take such {what}s "
        f"out of the file, or say --ignore-mask {name} (ignore_masks) if all of them count"
    )
