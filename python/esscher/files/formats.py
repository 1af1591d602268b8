"""Tables in Parquet and JSON lines, told apart by suffix; what is written appears whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it ships no annotations

from esscher.atomic import check_place, replacing
from esscher.files import columns as arrow
from esscher.files import jsonl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

PARQUET, JSON_LINES = ".parquet", ".jsonl"
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin")


def load(path: Path) -> pa.Table:
    """Read a file's rows; raises `FileNotFoundError` and `ValueError` that name it."""
    table = _load_parquet(path) if check_readable(path) == PARQUET else jsonl.load(path)
    check_rows(path, table.column_names, len(table))
    return table


def check_readable(path: Path) -> str:
    """Return the suffix of a file that rows can be read from, or raise what `load` promises."""
    suffix = _suffix(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name the files in it")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    return suffix


def check_rows(path: Path, names: Sequence[str], rows: int) -> None:
    """Raise `ValueError` if a file's columns cannot be told apart, or it has no rows."""
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has several columns of one name: {', '.join(names)}")
    if rows == 0:
        raise ValueError(f"{path} has no rows")


def column_names(path: Path) -> list[str]:
    """Return what a file's columns are called; raises as `load`."""
    if path.suffix == PARQUET and path.is_file() and path.stat().st_size:
        with pq.ParquetFile(path) as file:
            return list(file.schema_arrow.names)
    return list(load(path).column_names)


def naming(where: Path | Sequence[Path], function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, and put the file before what it finds wrong; of many files, the first three."""
    try:
        return function(*arguments)
    except ValueError as error:
        shown = str(where) if isinstance(where, Path) else ", ".join(map(str, where[:3])) + ", ..." * (len(where) > 3)
        raise ValueError(f"{shown}: {error}") from error


def check_known_or_not(files: Sequence[Path], tables: Sequence[pa.Table], name: str) -> None:
    """Raise `ValueError` if a column holds a null, unless it holds nothing else in any file."""
    columns = [table.column(name) for table in tables]
    if any(map(arrow.is_known, columns)):
        for path, column in zip(files, columns, strict=True):
            naming(path, arrow.check_no_nulls, name, column)


def join(files: Sequence[Path], tables: Sequence[pa.Table]) -> pa.Table:
    """Put tables one after the other; raises `ValueError` that names the first file whose columns do not fit."""
    joined = tables[0]
    for path, table in zip(files[1:], tables[1:], strict=True):
        try:
            joined = pa.concat_tables([joined, table], promote_options="permissive")
        except pa.ArrowException as error:
            raise ValueError(f"{path} has columns of other types than the files before it: {error}") from error
    return joined


def write(table: pa.Table, path: str | os.PathLike[str]) -> None:
    """Write a table as Parquet or JSON lines, by the path's suffix, replacing a file that is there.

    The path holds the whole table or what it held before: rows are written beside it first.

    Raises
    ------
    ValueError
        If the suffix is neither .parquet nor .jsonl, the path is a folder, or the table holds what JSON lines cannot.
    FileNotFoundError
        If the folder is not there.
    """
    check_writable(table, path)
    write_blocks([table], path)


def write_blocks(tables: Iterable[pa.Table], path: str | os.PathLike[str]) -> None:
    """Write tables of the same columns one after the other into one file, as `write`, without holding them all.

    Parquet gets a row group for each. What `check_writable` refuses must have been kept out.
    """
    with replacing(path) as file:
        if Path(path).suffix == PARQUET:
            _write_parquet(tables, file)
        else:
            for table in tables:
                jsonl.dump(table, file)
        # On the disk before it takes the old file's place, so that a power cut leaves one of the two.
        file.flush()
        os.fsync(file.fileno())


def is_json_lines(path: Path) -> bool:
    """Tell by its suffix whether a file is written as JSON lines."""
    return path.suffix == JSON_LINES


def check_output(path: str | os.PathLike[str]) -> None:
    """Raise what `write` would raise of the path alone."""
    _suffix(Path(path))
    check_place(path)


def check_writable(table: pa.Table, path: str | os.PathLike[str], first: int = 0) -> None:
    """Raise what `write` would raise of table and path, to know it before long work begins.

    The table's first row is number `first` in messages.
    """
    check_output(path)
    check_types(table.schema, path)
    if Path(path).suffix == JSON_LINES:
        jsonl.check(table, first)


def check_types(schema: pa.Schema, path: str | os.PathLike[str]) -> None:
    """Raise `ValueError` if Parquet, where the path is of that kind, has no column for a type."""
    for field in schema:
        if Path(path).suffix == PARQUET and _holds_nothing(field.type):
            raise ValueError(
                f"column {field.name!r} holds objects without keys, for which Parquet has no type: write JSON lines, "
                "or leave the column out"
            )


def _holds_nothing(kind: Any) -> bool:
    """Whether a type is a struct without fields, or made of one."""
    children = [kind.field(i).type for i in range(kind.num_fields)]
    return any(map(_holds_nothing, children)) or (pa.types.is_struct(kind) and not children)


def _suffix(path: Path) -> str:
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path} looks like a pickle, which runs code of its author's choice when it is opened: it is refused. "
            "Export the rows as Parquet or JSON lines"
        )
    if path.suffix not in (PARQUET, JSON_LINES):
        raise ValueError(f"{path} has the suffix {path.suffix!r}: files are Parquet (.parquet) or JSON lines (.jsonl)")
    return path.suffix


def _write_parquet(tables: Iterable[pa.Table], file: IO[bytes]) -> None:
    tables = iter(tables)
    table = next(tables)
    with pq.ParquetWriter(file, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        for table in tables:
            writer.write_table(table)


def _load_parquet(path: Path) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            return file.read()
    except (pa.ArrowException, OSError) as error:
        raise not_whole(path, error) from error


def not_whole(path: Path, error: Exception) -> ValueError:
    """Say of a Parquet file that it cannot be read."""
    return ValueError(f"{path} is not a whole Parquet file; was it cut off? {error}")
