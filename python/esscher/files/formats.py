"""Tables in Parquet and JSON lines, told apart by suffix; what is written appears whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it ships no annotations

from esscher.atomic import check_place, replacing
from esscher.files import columns as arrow
from esscher.files import jsonl

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

PARQUET, JSON_LINES = ".parquet", ".jsonl"
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin")


def load(path: Path) -> pa.Table:
    """Read a file's rows; raises `FileNotFoundError` and `ValueError` that name it."""
    suffix = _suffix(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name the files in it")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    table = _load_parquet(path) if suffix == PARQUET else jsonl.load(path)
    if len(set(table.column_names)) < table.num_columns:
        raise ValueError(f"{path} has several columns of one name: {', '.join(table.column_names)}")
    if len(table) == 0:
        raise ValueError(f"{path} has no rows")
    return table


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
    with replacing(path) as file:
        if Path(path).suffix == PARQUET:
            pq.write_table(table, file, compression="zstd")
        else:
            jsonl.dump(table, file)


def check_writable(table: pa.Table, path: str | os.PathLike[str]) -> None:
    """Raise what `write` would raise of table and path, to know it before long work begins."""
    path = Path(path)
    suffix = _suffix(path)
    check_place(path)
    if suffix == JSON_LINES:
        jsonl.check(table)


def _suffix(path: Path) -> str:
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path} looks like a pickle, which runs code of its author's choice when it is opened: it is refused. "
            "Export the rows as Parquet or JSON lines"
        )
    if path.suffix not in (PARQUET, JSON_LINES):
        raise ValueError(f"{path} has the suffix {path.suffix!r}: files are Parquet (.parquet) or JSON lines (.jsonl)")
    return path.suffix


def _load_parquet(path: Path) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            return file.read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a whole Parquet file; was it cut off? {error}") from error
