"""What is scored of a block of rows, and how scores become columns of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files import columns as arrow
from esscher.files.dump import NEEDED, OF_PROMPTS, as_float32, by_prompt, with_gaps
from esscher.files.masks import MASK, of_completions, whole_where
from esscher.ragged import Ragged
from esscher.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from esscher.files.blocks import Block


def token_columns(names: Mapping[str, str]) -> list[str]:
    """Return what the columns that `completions` reads are called, of those in `names`."""
    return [names[ours] for ours in (*NEEDED, MASK) if ours in names]


def completions(block: Block, names: Mapping[str, str]) -> Samples:
    """Return a block's completions as samples with a prompt for each row, in the rows' order.

    Of a row that a mask leaves out as a whole, all tokens are scored: it has its place in the file.

    Raises
    ------
    ValueError
        If a row lacks token ids, or has what is none, or a mask of another length; the message names the column and the
        file's row.
    """
    prompts, rows = (arrow.token_ids(names[o], block.table.column(names[o]), block.first) for o in NEEDED)
    empty = np.flatnonzero(rows.lengths == 0)
    if len(empty):
        row = block.first + int(empty[0])
        raise arrow.RowError(
            row,
            f"column {names['completion_token_ids']!r}, row {row} has no tokens: a completion holds at least the "
            "end-of-sequence token",
        )
    return Samples(
        prompts, rows, np.arange(len(rows) + 1), action_mask=_mask(block, names.get(MASK, ""), prompts, rows)
    )


def _mask(block: Block, name: str, prompts: Ragged, rows: Ragged) -> Ragged | None:
    if name not in block.table.column_names or not arrow.is_known(block.table.column(name)):
        return None
    whole = arrow.flags(name, block.table.column(name), block.first)
    missing = np.asarray(block.table.column(name).is_null())
    mask = whole_where(missing, of_completions(whole, prompts.lengths, rows.lengths), rows.lengths)
    differ = np.flatnonzero(mask.lengths != rows.lengths)
    if len(differ):
        row = int(differ[0])
        raise arrow.RowError(
            block.first + row,
            f"column {name!r}, row {block.first + row} has {whole.lengths[row]} entries for {rows.lengths[row]} "
            "completion tokens: a mask has one for each",
        )
    nothing = mask.rows.sums(mask.values) == 0
    return Ragged(mask.values | mask.rows.spread(nothing), mask.offsets)


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
    mask = None if samples.action_mask is None else _in_order(samples.action_mask, order)
    return pa.table(
        {
            theirs: _column(getattr(samples, ours), None if ours == OF_PROMPTS else mask, order)
            for ours, theirs in names.items()
        }
    )


def with_columns(table: pa.Table, new: pa.Table) -> pa.Table:
    """Return a table with columns put in the place of those of their names, or behind all others."""
    for name, column in zip(new.column_names, new.columns, strict=True):
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    return table


def _column(values: Ragged | NDArray[np.float64], mask: Ragged | None, order: NDArray[np.int64]) -> pa.Array:
    in_order = _in_order(values, order)
    return with_gaps(as_float32(in_order), mask) if isinstance(in_order, Ragged) else pa.array(in_order)


def _in_order(values: Any, order: NDArray[np.int64]) -> Any:
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return values.take(place) if isinstance(values, Ragged) else values[place]
