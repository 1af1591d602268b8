"""A file's rows a block at a time: for files that do not fit into memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files import columns as arrow
from esscher.files import jsonl
from esscher.files.dump import NEEDED, as_float32, by_prompt, field_of
from esscher.files.formats import PARQUET, check_readable, check_rows, not_whole
from esscher.ragged import Ragged
from esscher.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# How much of a column is read ahead: otherwise a row group is read whole, and it may be the whole file.
READ_AHEAD = 2**20


@dataclass(frozen=True, eq=False)
class Rows:
    """What is known of a file's rows before they are read.

    Parameters
    ----------
    path
        The file, Parquet or JSON lines.
    schema
        Its columns and their types: those of the table that holds the whole file.
    count
        How many rows there are.
    """

    path: Path
    schema: pa.Schema
    count: int


class Block(NamedTuple):
    """Rows that follow one another in a file.

    Attributes
    ----------
    first
        The number in the file of the block's first row, from 0.
    table
        The rows.
    """

    first: int
    table: pa.Table


def scan(path: Path) -> Rows:
    """Find out what columns and how many rows a file has; JSON lines are read through once for it.

    Raises
    ------
    FileNotFoundError
        If the file is not there.
    ValueError
        If the file is not whole or not of its kind, or has no rows; the message names the line where there is one.
    """
    if check_readable(path) == PARQUET:
        schema, count = _scan_parquet(path)
    else:
        schema, count = jsonl.scan(path)
    check_rows(path, schema.names, count)
    return Rows(path, schema, count)


def read_blocks(rows: Rows, size: int, columns: Sequence[str] | None = None) -> Iterator[Block]:
    """Read `size` rows at a time, the last time what is left; all columns, or those named.

    One after the other, the blocks are the table that holds the whole file, and memory is that of a block.

    Raises
    ------
    ValueError
        If the file turns out not to be whole.
    """
    schema = rows.schema if columns is None else pa.schema([rows.schema.field(name) for name in columns])
    if rows.path.suffix == PARQUET:
        tables = _parquet_blocks(rows.path, schema.names, size)
    else:
        tables = jsonl.blocks(rows.path, schema, size)
    first = 0
    for table in tables:
        yield Block(first, table)
        first += len(table)


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
        raise ValueError(
            f"column {names['completion_token_ids']!r}, row {block.first + empty[0]} has no tokens: a completion holds "
            "at least the end-of-sequence token (rows count from 0)"
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
        Which of our columns to return, as files name them (`reward`, not `rewards`), and what to call each.
    """
    return pa.table({theirs: _column(getattr(samples, field_of(ours)), order) for ours, theirs in names.items()})


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


def _scan_parquet(path: Path) -> tuple[pa.Schema, int]:
    try:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise not_whole(path, error) from error


def _parquet_blocks(path: Path, columns: list[str], size: int) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(path, buffer_size=READ_AHEAD, pre_buffer=False) as file:
            yield from _of_size(file.iter_batches(size, columns=columns), size)
    except (pa.ArrowException, OSError) as error:
        raise not_whole(path, error) from error


def _of_size(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """Join batches of any sizes, which may end with a row group, into tables of one size and what is left."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        while sum(map(len, waiting)) >= size:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, size)
            waiting = table.slice(size).to_batches()
    if waiting:
        yield pa.Table.from_batches(waiting)
