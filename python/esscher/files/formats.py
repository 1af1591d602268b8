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
COMPRESSED = {".gz": "gunzip", ".zst": "unzstd"}
# How files of a kind begin, whatever they are called.
BEGINNINGS = {b"PAR1": PARQUET, b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}


def check_readable(path: Path) -> str:
    """Return the suffix of a file that rows can be read from.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    ValueError
        If it is a folder, empty, or of another kind than its name says; the message names it.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: {_in_folder(path)}")
    _check_unpacked(path, path.suffix)
    suffix = _suffix(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there")
    with path.open("rb") as file:
        beginning = file.read(4)
    if not beginning:
        raise ValueError(f"{path} is empty")
    kind = next((kind for begins, kind in BEGINNINGS.items() if beginning.startswith(begins)), suffix)
    _check_unpacked(path, kind)
    if kind != suffix:
        raise ValueError(f"{path} is a {kind} file: name it so")
    return suffix


def naming(where: Path | Sequence[Path], function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, and put the file before what it finds wrong; of many files, the first three."""
    try:
        return function(*arguments)
    except ValueError as error:
        shown = str(where) if isinstance(where, Path) else ", ".join(map(str, where[:3])) + ", ..." * (len(where) > 3)
        if isinstance(where, Path) and isinstance(error, arrow.RowError) and is_json_lines(where):
            shown += f", line {jsonl.line_of(where, error.row)}"
        raise ValueError(f"{shown}: {error}") from error


def check_known_or_not(files: Sequence[Path], tables: Sequence[pa.Table], name: str) -> None:
    """Raise `ValueError` if a column holds a null, unless it holds nothing else in any file."""
    columns = [table.column(name) for table in tables]
    if any(map(arrow.is_known, columns)):
        for path, column in zip(files, columns, strict=True):
            naming(path, arrow.check_no_nulls, name, column)


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
    if not Path(path).is_dir():  # which is said below
        _suffix(Path(path))
    check_place(path)


def check_writable(table: pa.Table, path: str | os.PathLike[str], first: int = 0) -> None:
    """Raise what `write` would raise of table and path, to know it before long work begins.

    The table's first row is number `first` in messages.
    """
    check_output(path)
    if Path(path).suffix == JSON_LINES:
        jsonl.check(table, first)


def _in_folder(path: Path) -> str:
    """Say what to give instead of a folder."""
    there = next((kind for kind in (PARQUET, JSON_LINES) if any(path.glob(f"*{kind}"))), None)
    if there is not None:
        return f"give the files in it, {path}/*{there} (score takes them one by one)"
    if any(path.glob("*.arrow")):
        return "a dataset's of the Hugging Face, it seems; write its rows as Parquet with to_parquet"
    return f"give files, Parquet ({PARQUET}) or JSON lines ({JSON_LINES})"


def _suffix(path: Path) -> str:
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path} looks like a pickle, which runs code of its author's choice when it is opened: it is refused. "
            "Export the rows as Parquet or JSON lines"
        )
    if path.suffix not in (PARQUET, JSON_LINES):
        raise ValueError(f"{path} has the suffix {path.suffix!r}: files are Parquet (.parquet) or JSON lines (.jsonl)")
    return path.suffix


def _check_unpacked(path: Path, kind: str) -> None:
    if kind in COMPRESSED:
        raise ValueError(f"{path} is compressed: unpack it first, with {COMPRESSED[kind]}")


def _write_parquet(tables: Iterable[pa.Table], file: IO[bytes]) -> None:
    tables = iter(tables)
    table = next(tables)
    with pq.ParquetWriter(file, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        for table in tables:
            writer.write_table(table)
