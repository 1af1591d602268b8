"""JSON lines to Arrow and back: one object a line, infinities as numbers that overflow to them."""

from __future__ import annotations

import json
import re
from itertools import chain, islice
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations
import pyarrow.compute as pc  # type: ignore[import-untyped]  # it ships no annotations

from esscher import _core
from esscher.files.columns import RowError, is_json, is_list
from esscher.files.conversion import of_size
from esscher.files.streams import open_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROWS_AT_ONCE = 1000
# What is read of a file at a time.
BYTES_AT_ONCE = 2 * 2**20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
INFINITY = "1e999"
# What the kernel calls the kind of values that are of no one type.
JSON = "json"
# Strings match first, so that the name is only found outside of them.
_STRING_OR_INFINITY = re.compile(r'"(?:[^"\\]|\\.)*"|(Infinity)')


def scan(path: Path) -> tuple[pa.Schema, int]:
    """Return the columns of a file and how many rows it has, holding a piece of it at a time.

    A column whose values are of no one type is JSON: its values are kept as they were written. So are integers beside
    fractions if doubles do not hold all of them, strings that have no UTF-8, and objects without keys or with hundreds.

    Raises
    ------
    ValueError
        If a line is no JSON object, with its number.
    """
    lines = _core.JsonLines()
    for piece in _pieces(path):
        _naming(path, lines.see, piece)
    return pa.schema([(name, _type(kind)) for name, kind in lines.kinds.items()]), lines.rows


def blocks(path: Path, schema: pa.Schema, size: int) -> Iterator[pa.Table]:
    """Read `size` rows at a time, of them the columns of `schema`, which `scan` has found; others are passed over."""
    return of_size(_batches(path, schema), size)


def line_of(path: Path, row: int) -> int:
    """Return the number in the file, from 1, of the line that holds a row."""
    lines = enumerate(chain.from_iterable(piece.splitlines() for piece in _pieces(path)), start=1)
    return next(islice((number for number, line in lines if line.removeprefix(BYTE_ORDER_MARK).strip()), row, None))


def dump(table: pa.Table, file: IO[bytes]) -> None:
    """Write a table that `check` let pass, one JSON object a line; NaN as Python writes it, where a file held that."""
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        file.write("".join(_lines(batch)).encode())


def check(table: pa.Table, first: int = 0) -> None:
    """Raise `RowError` if a column cannot be said in JSON: NaN, bytes, times; the first row is number `first`."""
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            _check_column(name, column, first)
        first += len(batch)


def _pieces(path: Path) -> Iterator[bytes]:
    """Read whole lines, so many at a time as may be held."""
    with open_rows(path) as file:
        held: list[bytes] = []
        while piece := file.read(BYTES_AT_ONCE):
            end = piece.rfind(b"\n") + 1
            if end:
                yield b"".join([*held, piece[:end]])
                held = []
            held.append(piece[end:])
        if rest := b"".join(held):
            yield rest


def _naming(path: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that finds a line wrong, and put the file before what it says."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from error


def _batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    kinds = {field.name: _kind(field.type) for field in schema}
    before = 0
    for piece in _pieces(path):
        batches, lines = _naming(path, _core.read_json_lines, piece, kinds, before)
        before += lines
        for rows in batches:
            yield pa.RecordBatch.from_struct_array(_array(pa.struct(list(schema)), rows))


def _type(kind: Any) -> Any:
    """Return the Arrow type of a kind of values, as the kernel calls it."""
    if isinstance(kind, dict):
        return pa.struct([(name, _type(member)) for name, member in kind.items()])
    if isinstance(kind, list):
        return pa.list_(_type(kind[0]))
    return pa.json_() if kind == JSON else pa.type_for_alias(kind)


def _kind(type_: Any) -> Any:
    """Return what `_type` makes a type of."""
    if pa.types.is_struct(type_):
        return {field.name: _kind(field.type) for field in type_}
    if is_list(type_):
        return [_kind(type_.value_type)]
    return JSON if is_json(type_) else str(type_)


def _array(type_: Any, column: tuple[int, list[Any], list[Any]]) -> pa.Array:
    """Return an array of the kernel's buffers, without a copy."""
    if is_json(type_):
        return pa.ExtensionArray.from_storage(type_, _array(type_.storage_type, column))
    length, buffers, children = column
    types = [type_.field(i).type for i in range(type_.num_fields)]
    return pa.Array.from_buffers(
        type_,
        length,
        [None if buffer is None else pa.py_buffer(buffer) for buffer in buffers],
        children=[_array(*pair) for pair in zip(types, children, strict=True)],
    )


def _text(value: Any, *, ensure_ascii: bool = True) -> str:
    """Return a value's JSON; in ASCII it holds half a surrogate pair too, which has no UTF-8."""
    text = json.dumps(value, ensure_ascii=ensure_ascii)
    return _STRING_OR_INFINITY.sub(_infinity, text) if "Infinity" in text else text


def _infinity(match: re.Match[str]) -> str:
    return match[0] if match[1] is None else INFINITY


def _lines(batch: pa.RecordBatch) -> list[str]:
    pieces: list[Any] = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        pieces += [("," if pieces else "{") + json.dumps(name, ensure_ascii=False) + ":", _json(column)]
    lines: list[str] = pc.binary_join_element_wise(*map(_large, pieces), _large("}\n"), _large("")).to_pylist()
    return lines


def _large(text: Any) -> Any:
    return pa.scalar(text, pa.large_string()) if isinstance(text, str) else text


def _json(column: pa.Array) -> pa.Array:
    """Return the JSON of each value, null included."""
    kind = column.type
    if is_list(kind):
        text = _json_lists(column)
    elif pa.types.is_floating(kind):
        # The shortest digits that give the same number back; only what is not finite needs another spelling.
        text = pc.replace_substring(pc.cast(_widened(column), pa.large_string()), "inf", INFINITY)
        text = pc.replace_substring(text, "nan", "NaN")
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        text = pc.cast(column, pa.large_string())
    elif is_json(kind):
        text = pc.cast(column.storage, pa.large_string())
    else:
        return pa.array([_text(value, ensure_ascii=False) for value in column.to_pylist()], pa.large_string())
    return pc.fill_null(text, "null")


def _json_lists(column: pa.Array) -> pa.Array:
    lengths = pc.fill_null(pc.list_value_length(column), 0).cast(pa.int64())
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths)])
    joined = pc.binary_join(pa.LargeListArray.from_arrays(offsets, _json(column.flatten())), _large(","))
    text = pc.binary_join_element_wise(_large("["), joined, _large("]"), _large(""))
    return pc.if_else(column.is_valid(), text, pa.scalar(None, pa.large_string()))


def _widened(column: pa.Array) -> pa.Array:
    return column.cast(pa.float32()) if pa.types.is_float16(column.type) else column


def _check_column(name: str, column: pa.Array, first: int) -> None:
    try:
        _check_sayable(column)
    except (TypeError, ValueError) as error:
        # The batch holds it: say which row.
        row = first + next(i for i in range(len(column)) if not _is_sayable(column.slice(i, 1)))
        raise RowError(
            row,
            f"column {name!r}, row {row} cannot be written as JSON lines: {error}. Write Parquet, or leave the "
            "column out",
        ) from error


def _is_sayable(column: pa.Array) -> bool:
    try:
        _check_sayable(column)
    except (TypeError, ValueError):
        return False
    return True


def _check_sayable(column: pa.Array) -> None:
    kind = column.type
    if is_list(kind):
        _check_sayable(column.flatten())
    elif pa.types.is_struct(kind):
        for field in column.flatten():
            _check_sayable(field)
    elif pa.types.is_floating(kind):
        if pc.any(pc.is_nan(_widened(column))).as_py():
            raise ValueError("JSON has no NaN")
    else:
        _json(column)
