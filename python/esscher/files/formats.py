"""Tables in Parquet and JSON lines, told apart by suffix; what is written appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it ships no annotations

from esscher.atomic import check_place, replacing
from esscher.files import columns as arrow
from esscher.files import jsonl
from esscher.files.streams import is_packed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PARQUET, JSON_LINES, ARROW = ".parquet", ".jsonl", ".arrow"
# What the kinds of files that rows are read from are called, and how packed ones of JSON lines are, behind that.
SUFFIXES = {PARQUET: PARQUET, JSON_LINES: JSON_LINES, ".ndjson": JSON_LINES, ".json": JSON_LINES, ARROW: ARROW}
PACKED = (".gz", ".zst")
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin")
# What turns a pickle into lines that are read, where its author is trusted: rows of slime's, or columns of verl's.
CONVERT = (
    "python -c 'import json, sys, torch; d = torch.load(sys.argv[1], weights_only=False); "
    'rows = d["samples"] if isinstance(d, dict) and "samples" in d else '
    '[i.to_dict() if hasattr(i, "to_dict") else {**i.batch, **i.non_tensor_batch} for i in d]; '
    'print(*(json.dumps(r, default=lambda x: x.tolist() if hasattr(x, "tolist") else str(x)) for r in rows), '
    "sep=chr(10))' {path} > {name}.jsonl"
)
# How files that are called something else begin.
BEGINNINGS = {b"PAR1": PARQUET, b"ARRO": ARROW}


class Located(Protocol):
    """What knows the line of a file that each of its rows is from, `None` where there are no lines."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    def line_of(self, row: int) -> int | None:
        """Return the number of a row's line in the file, from 1."""
        ...


def check_readable(path: Path) -> str:
    """Return the kind of a file that rows can be read from: how its files are called.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    ValueError
        If it is a folder, empty, or of another kind than its name says; the message names it.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: {_in_folder(path)}")
    kind = _kind(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there")
    with path.open("rb") as file:
        beginning = file.read(4)
    if not beginning:
        raise ValueError(f"{path} is empty")
    begun = next((known for begins, known in BEGINNINGS.items() if beginning.startswith(begins)), kind)
    if begun != kind:
        raise ValueError(f"{path} is a {begun} file: name it so")
    if kind != JSON_LINES and is_packed(beginning):
        raise ValueError(f"{path} is compressed, which only JSON lines may be: unpack it first")
    return kind


def naming(where: Path | Located | Sequence[Path], function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, and put the file before what it finds wrong; of many files, the first three."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise ValueError(f"{_shown(where, error)}: {error}") from error


def _shown(where: Path | Located | Sequence[Path], error: ValueError) -> str:
    if isinstance(where, Sequence):
        return ", ".join(map(str, where[:3])) + ", ..." * (len(where) > 3)
    if isinstance(where, Path):
        return str(where)
    line = where.line_of(error.row) if isinstance(error, arrow.RowError) else None
    return f"{where.path}" + (f", line {line}" if line is not None else "")


def check_known_or_not(files: Sequence[Located], tables: Sequence[pa.Table], name: str) -> None:
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
    """Tell by its suffix whether a file holds JSON lines, packed or not."""
    return SUFFIXES.get(suffix_of(path)) == JSON_LINES


def suffix_of(path: Path) -> str:
    """Return the suffix that tells a file's kind, which that of packing may follow.

    Examples
    --------
    >>> suffix_of(Path("rollouts.jsonl.gz"))
    '.jsonl'
    """
    return Path(path.stem).suffix if path.suffix in PACKED else path.suffix


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
    """Say what to give instead of a folder, where one file is read."""
    there = next((file.name for kind in SUFFIXES for file in sorted(path.glob(f"*{kind}"))), None)
    if there is not None:
        return f"here files are taken one by one, such as {path / there}"
    return f"give a file, Parquet ({PARQUET}) or JSON lines ({JSON_LINES})"


def _kind(path: Path) -> str:
    _check_no_pickle(path)
    kind = SUFFIXES.get(suffix_of(path), "")
    if not kind or (path.suffix in PACKED and kind != JSON_LINES):
        raise ValueError(
            f"{path} has the suffix {path.suffix!r}: files are Parquet (.parquet), Arrow (.arrow) or JSON lines "
            "(.jsonl, .ndjson, .json, each also with .gz or .zst)"
        )
    return kind


def _suffix(path: Path) -> str:
    """Return the suffix of a file that is to be written."""
    _check_no_pickle(path)
    if path.suffix not in (PARQUET, JSON_LINES):
        raise ValueError(f"{path} has the suffix {path.suffix!r}: files are Parquet (.parquet) or JSON lines (.jsonl)")
    return path.suffix


def _check_no_pickle(path: Path) -> None:
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path} looks like a pickle, which runs code of its author's choice when it is opened: it is refused. "
            "Write its rows as Parquet or JSON lines; if you trust it, where its trainer is installed: "
            + CONVERT.replace("{path}", str(path)).replace("{name}", path.stem)
        )


def _write_parquet(tables: Iterable[pa.Table], file: IO[bytes]) -> None:
    tables = iter(tables)
    table = next(tables)
    with pq.ParquetWriter(file, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        for table in tables:
            writer.write_table(table)
