"""Ask about masks: what a trainer left out would be counted where nobody reads its mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher.files import columns as arrow
from esscher.files.masks import ROW_MASKS, TOKEN_MASKS
from esscher.ragged import counts_within

if TYPE_CHECKING:
    from collections.abc import Collection

    import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations
    from numpy.typing import NDArray

    from esscher.samples import Samples


def masks_in(names: Collection[str], ignored: Collection[str]) -> list[str]:
    """Return which of a file's columns are masks, by their names, that nobody said to ignore.

    Examples
    --------
    >>> masks_in(["reward", "loss_mask", "tool_mask"], ignored=["tool_mask"])
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
            row, place, what = _left_out(name, column, rows, first) or (None, "", "")
            if row is not None:
                raise arrow.RowError(row, _question(name, row, place, what))


def _left_out(name: str, column: pa.ChunkedArray, rows: Samples, first: int) -> tuple[int, str, str] | None:
    """Return the first row or token that a mask leaves out: the row's number, the place in it, and what it is."""
    if name in ROW_MASKS:
        out = np.flatnonzero(arrow.numbers(name, column, first) != 1)
        return (first + int(out[0]), "", "row") if len(out) else None
    mask = arrow.raw_numbers(name, column, first)
    out = np.flatnonzero((mask.values != 1) & ~_is_of_prompt(mask.lengths, rows))
    if not len(out):
        return None
    row, token = mask.locate(out[0])
    return first + row, f", token {token}", "token"


def _is_of_prompt(lengths: NDArray[np.int64], rows: Samples) -> NDArray[np.bool_]:
    """Tell of each entry of a mask whether it is of a prompt, where a row's mask goes over prompt and completion."""
    prompts, completions = rows.prompts.lengths, rows.completions.lengths
    before = np.where(lengths == prompts + completions, prompts, 0)
    of_prompt: NDArray[np.bool_] = counts_within(lengths) < np.repeat(before, lengths)
    return of_prompt


def _question(name: str, row: int, place: str, what: str) -> str:
    why = "was left out of the loss" if what == "row" else "was not chosen by the policy"
    return (
        f"column {name!r}, row {row}{place} is not 1: it looks like a mask, by which this {what} {why}, but it would "
        f"be counted like any other. Take such {what}s out of the file, or say --ignore-mask {name} (ignore_masks) if "
        "all of them count"
    )
