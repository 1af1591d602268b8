"""What is scored of a block of rows, and how scores become columns of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files import columns as arrow
from esscher.files.dump import NEEDED, as_float32, by_prompt
from esscher.ragged import Ragged
from esscher.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from esscher.files.blocks import Block


def token_columns(names: Mapping[str, str]) -> list[str]:
    """Return what the columns that `completions` reads are called; `names` as `names_of` gives them."""
    return [names[ours] for ours in NEEDED]


def completions(block: Block, names: Mapping[str, str]) -> Samples:
    """Return a block's completions as samples with a prompt for each row, in the rows' order.

    Raises
    ------
    ValueError
        If a row lacks token ids, or has what is none; the message names the column and the file's row.
    """
    prompts, rows = (arrow.token_ids(name, block.table.column(name), block.first) for name in token_columns(names))
    empty = np.flatnonzero(rows.lengths == 0)
    if len(empty):
        row = block.first + int(empty[0])
        raise arrow.RowError(
            row,
            f"column {names['completion_token_ids']!r}, row {row} has no tokens: a completion holds at least the "
            "end-of-sequence token",
        )
    return Samples(prompts, rows, np.arange(len(rows) + 1))


def grouped(rows: Samples) -> tuple[Samples, NDArray[np.int64]]:
    """Put rows of equal prompts together, that their prompt is read once; with the rows' numbers in that order [N].

    Examples
    --------
    >>> rows = Samples(Ragged.from_rows([[1], [2], [1]]), Ragged.from_rows([[7], [8], [9]]), [0, 1, 2, 3])
    >>> grouped(rows)
    (Samples(2 prompts, 3 completions, 3 tokens), array([0, 2, 1]))
    """
    return by_prompt(rows, arrow.row_codes(rows.prompts))


def to_columns(samples: Samples, order: NDArray[np.int64], names: Mapping[str, str]) -> pa.Table:
    """Return columns of grouped samples in the order of the rows that `grouped` took them from.

    Parameters
    ----------
    samples
        What `grouped` gave, with columns filled.
    order
        What else it gave.
    names
        Which of our columns to return, and what to call each.
    """
    return pa.table({theirs: _column(getattr(samples, ours), order) for ours, theirs in names.items()})


def with_columns(table: pa.Table, new: pa.Table) -> pa.Table:
    """Return a table with columns put in the place of those of their names, or behind all others."""
    for name, column in zip(new.column_names, new.columns, strict=True):
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    return table


def _column(values: Ragged | NDArray[np.float64], order: NDArray[np.int64]) -> pa.Array:
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return arrow.to_lists(as_float32(values).take(place)) if isinstance(values, Ragged) else pa.array(values[place])
