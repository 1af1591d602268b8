"""A file's rows as tables: all of them, or a block at a time for files that do not fit into memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files import jsonl
from esscher.files.conversion import batches_of, conformed, look_through, of_size
from esscher.files.formats import ARROW, JSON_LINES, PARQUET, check_readable, naming
from esscher.files.readers import choose
from esscher.files.readers.no_samples import why_no_samples
from esscher.files.text_columns import MADE, TEXTS, has_texts, with_token_ids

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from esscher.files.conversion import Converted
    from esscher.files.readers import Reader
    from esscher.files.text_columns import TextReader

# How much of a column is read ahead: otherwise a row group is read whole, and it may be the whole file.
READ_AHEAD = 2**20
ROWS_AT_ONCE = 1000
ARROW_FILE = b"ARROW1"


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


@dataclass(frozen=True, eq=False)
class Rows:
    """What is known of a file's rows before they are read.

    Parameters
    ----------
    path
        The file: Parquet, Arrow or JSON lines.
    kind
        Which of them.
    schema
        Its columns and their types: those of the table that holds the whole file.
    count
        How many rows there are.
    reader
        Which tool's file it is; `None` where its rows are taken as they stand.
    source
        Of a tool's file, its rows as they stand.
    rewards
        What the columns of single rewards are called, of a tool's file.
    left_out
        Why rows of a tool's file are no samples, and how many.
    held
        All rows of a tool's file, if they are no more than a block may be.
    texts
        What makes ids of texts, where the file has no ids.
    """

    path: Path
    kind: str
    schema: pa.Schema
    count: int
    reader: Reader | None = None
    source: Rows | None = None
    rewards: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    held: pa.Table | None = None
    texts: TextReader | None = None

    def line_of(self, row: int) -> int | None:
        """Return the number of a row's line in the file, from 1; `None` if the file has no lines."""
        if self.kind != JSON_LINES:
            return None
        if self.source is None:
            return jsonl.line_of(self.path, row)
        for block, converted in _converted_blocks(self):
            if row < len(converted.rows):
                return self.source.line_of(block.first + int(converted.rows[row]))
            row -= len(converted.rows)
        return None


def scan(path: Path, tool: str | None = None, texts: TextReader | None = None) -> Rows:
    """Find out what columns and how many rows a file has; JSON lines are read through once for it.

    Parameters
    ----------
    path
        The file.
    tool
        Which tool wrote it, as `readers.TOOLS` calls it, or "ours"; by default it is recognised.
    texts
        What makes ids of texts, where the file has texts and no ids.

    Raises
    ------
    FileNotFoundError
        If the file is not there.
    ValueError
        If the file is not whole or not of its kind, has no rows, or none that are samples, or there is no such tool;
        the message names the line where there is one.
    """
    found = _as_it_stands(path)
    reader = choose(path, found.schema.names, tool)
    if reader is not None:
        return _with_texts(_converted(found, reader), texts)
    reason = why_no_samples(path, found.schema.names) if tool is None else None
    if reason is not None:
        raise ValueError(f"{path} has no samples, but {reason}")
    return _with_texts(found, texts)


def load(path: Path, columns: Sequence[str] | None = None, tool: str | None = None) -> pa.Table:
    """Read a file's rows; all columns, or those named. Raises as `scan` and `read_blocks`."""
    return read_table(scan(path, tool), columns)


def read_table(rows: Rows, columns: Sequence[str] | None = None) -> pa.Table:
    """Read all rows of a file; all columns, or those named. Raises as `read_blocks`."""
    _check_apart(rows, columns or ())
    if rows.kind == PARQUET and rows.reader is None and rows.texts is None:
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
    first = 0
    for table in _tables(rows, size, columns):
        yield Block(first, table)
        first += len(table)


def _as_it_stands(path: Path) -> Rows:
    kind = check_readable(path)
    schema, count = {PARQUET: _scan_parquet, ARROW: _scan_arrow, JSON_LINES: jsonl.scan}[kind](path)
    if count == 0:
        raise ValueError(f"{path} has no rows")
    return Rows(path, kind, schema, count)


def _with_texts(rows: Rows, texts: TextReader | None) -> Rows:
    """Return a file of texts alone with the ids that are made of them."""
    names = set(rows.schema.names)
    if texts is None or names & set(MADE) or not has_texts(names):
        return rows
    made = [pa.field(name, kind) for name, kind in MADE.items()]
    return replace(rows, schema=pa.schema([*rows.schema, *made]), texts=texts)


def _read_texts(rows: Rows, texts: TextReader, size: int, names: Sequence[str]) -> Iterator[pa.Table]:
    plain = replace(rows, texts=None, schema=pa.schema([one for one in rows.schema if one.name not in MADE]))
    needed = list(dict.fromkeys([*TEXTS, *(name for name in names if name not in MADE)]))
    for block in read_blocks(plain, size, needed):
        yield naming(rows, with_token_ids, block.table, texts, block.first).select(names)


def _converted(source: Rows, reader: Reader) -> Rows:
    """Return what is known of the samples in a tool's file, which is read through once for it."""
    rows = Rows(source.path, source.kind, source.schema, source.count, reader, source)
    seen = look_through(converted for _, converted in _converted_blocks(rows))
    if seen.count == 0:
        why = "; ".join(f"{count:,} {reason}" for reason, count in seen.left_out.items())
        raise ValueError(f"{rows.path} is {reader.NAME}'s and has no samples: {why or 'its rows hold none'}")
    return replace(
        rows, schema=seen.schema, count=seen.count, rewards=seen.rewards, left_out=seen.left_out, held=seen.held
    )


def _converted_blocks(rows: Rows) -> Iterator[tuple[Block, Converted]]:
    """Read the rows of a tool's file as they stand, and convert them block by block."""
    reader, source = rows.reader, rows.source
    if reader is not None and source is not None:
        for block in read_blocks(source, ROWS_AT_ONCE):
            yield block, naming(source, reader.convert, rows.path, block.table, block.first)


def _check_apart(rows: Rows, columns: Sequence[str]) -> None:
    """Raise `ValueError` if columns that are read cannot be told apart; others may have one name."""
    times = Counter(rows.schema.names)
    twice = [name for name in columns if times[name] > 1]
    if twice:
        raise ValueError(f"{rows.path} has several columns of one name, {twice[0]}: rename all but one")


def _tables(rows: Rows, size: int, columns: Sequence[str] | None) -> Iterator[pa.Table]:
    names = rows.schema.names if columns is None else list(columns)
    if rows.texts is not None:
        return _read_texts(rows, rows.texts, size, names)
    if rows.held is not None:
        return of_size(rows.held.select(names).to_batches(), size)
    if rows.source is not None:
        schema = pa.schema([rows.schema.field(name) for name in names])
        found = (conformed(converted.table, schema) for _, converted in _converted_blocks(rows))
        return of_size(batches_of(found), size)
    if rows.kind == PARQUET:
        return _parquet_blocks(rows.path, columns, size)
    if rows.kind == ARROW:
        found = (table if columns is None else table.select(names) for table in _arrow(rows.path))
        return of_size(batches_of(found), size)
    return jsonl.blocks(rows.path, pa.schema([rows.schema.field(name) for name in names]), size)


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
            yield from of_size(file.iter_batches(size, columns=columns), size)
    except (pa.ArrowException, OSError) as error:
        raise _not_whole(path, error) from error


def _scan_arrow(path: Path) -> tuple[pa.Schema, int]:
    count, schema = 0, None
    for table in _arrow(path):
        count, schema = count + len(table), table.schema
    return schema or pa.schema([]), count


def _arrow(path: Path) -> Iterator[pa.Table]:
    """Read an Arrow file batch by batch, of either kind: a file or, as datasets are kept, a stream."""
    try:
        with pa.memory_map(str(path)) as source:
            if source.read(6) == ARROW_FILE:
                with pa.ipc.open_file(source) as file:
                    for i in range(file.num_record_batches):
                        yield pa.Table.from_batches([file.get_batch(i)])
            else:
                source.seek(0)
                with pa.ipc.open_stream(source) as stream:
                    for batch in stream:
                        yield pa.Table.from_batches([batch])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a whole Arrow file; was it cut off? {error}") from error


def _not_whole(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is not a whole Parquet file; was it cut off? {error}")
