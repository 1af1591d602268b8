"""A file's rows as tables: all of them, or a block at a time for files that do not fit into memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files import jsonl
from esscher.files.formats import PARQUET, check_readable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# How much of a column is read ahead: otherwise a row group is read whole, and it may be the whole file.
READ_AHEAD = 2**20
ROWS_AT_ONCE = 1000


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
    schema, count = _scan_parquet(path) if check_readable(path) == PARQUET else jsonl.scan(path)
    if count == 0:
        raise ValueError(f"{path} has no rows")
    return Rows(path, schema, count)


def load(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a file's rows; all columns, or those named. Raises as `scan` and `read_blocks`."""
    return read_table(scan(path), columns)


def read_table(rows: Rows, columns: Sequence[str] | None = None) -> pa.Table:
    """Read all rows of a file; all columns, or those named. Raises as `read_blocks`."""
    if rows.path.suffix == PARQUET:
        _check_apart(rows, columns or ())
        return _parquet_table(rows.path, columns)
    return pa.concat_tables([block.table for block in read_blocks(rows, ROWS_AT_ONCE, columns)])


def read_blocks(rows: Rows, size: int, columns: Sequence[str] | None = None) -> Iterator[Block]:
    """Read `size` rows at a time, the last time what is left; all columns, or those named.

    One after the other, the blocks are the table that holds the whole file, and memory is that of a block.

    Raises
    ------
    ValueError
        If the file turns out not to be whole, or has several of the columns named under one name.
    """
    _check_apart(rows, columns or ())
    if rows.path.suffix == PARQUET:
        tables = _parquet_blocks(rows.path, columns, size)
    else:
        names = rows.schema.names if columns is None else columns
        tables = jsonl.blocks(rows.path, pa.schema([rows.schema.field(name) for name in names]), size)
    first = 0
    for table in tables:
        yield Block(first, table)
        first += len(table)


def _check_apart(rows: Rows, columns: Sequence[str]) -> None:
    """Raise `ValueError` if columns that are read cannot be told apart; others may have one name."""
    times = Counter(rows.schema.names)
    twice = [name for name in columns if times[name] > 1]
    if twice:
        raise ValueError(f"{rows.path} has several columns of one name, {twice[0]}: rename all but one")


def _scan_parquet(path: Path) -> tuple[pa.Schema, int]:
    try:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _not_whole(path, error) from error


def _parquet_table(path: Path, columns: Sequence[str] | None) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns)
    except (pa.ArrowException, OSError) as error:
        raise _not_whole(path, error) from error


def _parquet_blocks(path: Path, columns: Sequence[str] | None, size: int) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(path, buffer_size=READ_AHEAD, pre_buffer=False) as file:
            yield from jsonl.of_size(file.iter_batches(size, columns=columns), size)
    except (pa.ArrowException, OSError) as error:
        raise _not_whole(path, error) from error


def _not_whole(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is not a whole Parquet file; was it cut off? {error}")
