"""JSON lines to Arrow and back: one object a line, infinities as numbers that overflow to them."""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations
import pyarrow.compute as pc  # type: ignore[import-untyped]  # it ships no annotations
import pyarrow.json as pj  # type: ignore[import-untyped]  # it ships no annotations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

# A line must fit into a block.
BLOCK_BYTES = 64 * 2**20
ROWS_AT_ONCE = 1000
INFINITY = "1e999"
# Strings match first, so that the number is only found outside of them.
_MANY_DIGITS = re.compile(rb"\d{19}")
_STRING_OR_INTEGER = re.compile(rb'"(?:[^"\\]|\\.)*"|(?<![\d.eE+-])(-?\d{19,})(?![\d.eE])')
_STRING_OR_INFINITY = re.compile(rb'"(?:[^"\\]|\\.)*"|(?<![\d.])(-?)1e999\b')


class Line(NamedTuple):
    """A line that is not blank, and its number in the file, from 1."""

    number: int
    text: bytes


def load(path: Path) -> pa.Table:
    """Read a file of JSON lines; raises `ValueError` with the line that is wrong."""
    data = _readable(path.read_bytes())
    try:
        table = _parse(data)
        if any(_times(kind) for kind in table.schema.types) or not _is_whole(table):
            # The parser takes strings that look like a date for times; a file's strings stay strings. And it loses the
            # nulls at the beginning of a column's first list, unless it is told what the list holds.
            table = _parse_as(data, _untimed_schema(table.schema))
    except (pa.ArrowException, ValueError) as error:
        raise _unreadable(path, _numbered(data.split(b"\n")), error) from error
    return table


def scan(path: Path) -> tuple[pa.Schema, int]:
    """Return the schema of the table that `load` would read, and its rows, holding a few of them at a time.

    Raises
    ------
    ValueError
        As `load`, and if a line holds more than one object, or part of one.
    """
    schema, rows = pa.schema([]), 0
    for lines in _blocks_of_lines(path, ROWS_AT_ONCE):
        found = _parse_lines(path, lines, None).schema
        try:
            schema = pa.unify_schemas([schema, _untimed_schema(found)], promote_options="permissive")
        except pa.ArrowException as error:
            raise _unreadable(path, lines, error) from error
        rows += len(lines)
    return schema, rows


def blocks(path: Path, schema: pa.Schema, size: int) -> Iterator[pa.Table]:
    """Read `size` rows at a time, of them the columns of `schema`, which `scan` has found."""
    for lines in _blocks_of_lines(path, size):
        yield _parse_lines(path, lines, schema)


def dump(table: pa.Table, file: IO[bytes]) -> None:
    """Write a table that `check` let pass, one JSON object a line."""
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        file.write("".join(_lines(batch)).encode())


def check(table: pa.Table, first: int = 0) -> None:
    """Raise `ValueError` if a column cannot be said in JSON: NaN, bytes, times; the first row is number `first`."""
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            _check_column(name, column, first)
        first += len(batch)


def _parse(data: bytes, schema: pa.Schema | None = None) -> pa.Table:
    """Read all columns there are, or those of a schema, in any order."""
    others = "infer" if schema is None else "ignore"
    return pj.read_json(
        pa.BufferReader(data),
        read_options=pj.ReadOptions(block_size=BLOCK_BYTES),
        parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior=others),
    )


def _parse_as(data: bytes, schema: pa.Schema) -> pa.Table:
    """Read the columns of a schema.

    The parser loses nulls in a list that holds nothing else: it is told that they are booleans.
    """
    told = pa.schema([(field.name, _retyped(field.type, pa.types.is_null, pa.bool_())) for field in schema])
    table = _parse(data, told)
    return pa.table([_as_nulls(table.column(field.name), field.type) for field in schema], schema=schema)


def _as_nulls(column: pa.ChunkedArray, kind: Any) -> pa.ChunkedArray:
    if column.type == kind:
        return column
    return pa.chunked_array([_nulls_in(chunk, kind) for chunk in column.chunks], kind)


def _nulls_in(array: pa.Array, kind: Any) -> pa.Array:
    """Return an array with nulls of no type where `kind` says so; everything else is as it was."""
    if array.type == kind:
        return array
    if pa.types.is_null(kind):
        return pa.nulls(len(array))
    if pa.types.is_list(kind):
        values = _nulls_in(array.values, kind.value_type)
        return pa.ListArray.from_arrays(array.offsets, values, mask=array.is_null())
    parts = [_nulls_in(array.field(i), field.type) for i, field in enumerate(kind)]
    return pa.StructArray.from_arrays(parts, fields=list(kind), mask=array.is_null())


def _blocks_of_lines(path: Path, size: int) -> Iterator[list[Line]]:
    with path.open("rb") as file:
        lines = _numbered(file)
        while block := list(islice(lines, size)):
            yield block


def _numbered(lines: Iterable[bytes]) -> Iterator[Line]:
    return (Line(number, text) for number, text in enumerate(lines, start=1) if text.strip())


def _parse_lines(path: Path, lines: Sequence[Line], schema: pa.Schema | None) -> pa.Table:
    """Read lines as one row each; raises `ValueError` with the line that is wrong."""
    try:
        data = _readable(b"".join(line.text for line in lines))
        table = _parse(data) if schema is None else _parse_as(data, schema)
    except (pa.ArrowException, ValueError) as error:
        raise _unreadable(path, lines, error) from error
    if len(table) != len(lines):
        raise _unreadable(path, lines, ValueError("a line holds more than an object, or less"))
    return table


def _is_whole(table: pa.Table) -> bool:
    try:
        table.validate()
    except pa.ArrowInvalid:
        return False
    return True


def _readable(data: bytes) -> bytes:
    """Write infinities in the way that the parser knows; raise `ValueError` for integers that it would round."""
    if _MANY_DIGITS.search(data):
        _check_integers(data)
    spelled = INFINITY.encode()
    if spelled not in data:
        return data
    return b"\n".join(
        _STRING_OR_INFINITY.sub(_infinity, line) if spelled in line else line for line in data.split(b"\n")
    )


def _check_integers(data: bytes) -> None:
    for match in _STRING_OR_INTEGER.finditer(data):
        if match[1] is not None and not -(2**63) <= int(match[1]) < 2**63:
            raise ValueError(f"the integer {match[1].decode()} is larger than 64 bits hold: write it as a string")


def _infinity(match: re.Match[bytes]) -> bytes:
    sign: bytes | None = match[1]
    return match[0] if sign is None else sign + b"Infinity"


def _unreadable(path: Path, lines: Iterable[Line], error: Exception) -> ValueError:
    return ValueError(f"{path}{_bad_line(lines) or f' cannot be read as one table: {error}'}")


def _bad_line(lines: Iterable[Line]) -> str | None:
    """Find the first line that is no JSON object."""
    for number, text in lines:
        try:
            if not isinstance(json.loads(text), dict):
                return f", line {number} is no JSON object: JSON lines hold one {{...}} a line"
        except ValueError as error:
            return f", line {number} is not valid JSON: {error}"
    return None


def _untimed_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([(field.name, _retyped(field.type, pa.types.is_timestamp, pa.string())) for field in schema])


def _times(kind: Any) -> bool:
    nested = [kind.field(i).type for i in range(kind.num_fields)]
    return bool(pa.types.is_timestamp(kind)) or any(map(_times, nested))


def _retyped(kind: Any, is_old: Callable[[Any], bool], new: Any) -> Any:
    """Return a type with another wherever it holds one of a kind."""
    if is_old(kind):
        return new
    if pa.types.is_list(kind):
        return pa.list_(_retyped(kind.value_type, is_old, new))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _retyped(field.type, is_old, new)) for field in kind])
    return kind


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
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        text = _json_lists(column)
    elif pa.types.is_floating(kind):
        # The shortest digits that give the same number back; only infinities need another spelling.
        text = pc.replace_substring(pc.cast(_widened(column), pa.large_string()), "inf", INFINITY)
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        text = pc.cast(column, pa.large_string())
    else:
        texts = [json.dumps(value, ensure_ascii=False, allow_nan=False) for value in column.to_pylist()]
        return pa.array(texts, pa.large_string())
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
        raise ValueError(
            f"column {name!r}, row {row} cannot be written as JSON lines: {error}. Write Parquet, or leave the column "
            "out (rows count from 0)"
        ) from error


def _is_sayable(column: pa.Array) -> bool:
    try:
        _check_sayable(column)
    except (TypeError, ValueError):
        return False
    return True


def _check_sayable(column: pa.Array) -> None:
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        _check_sayable(column.flatten())
    elif pa.types.is_floating(kind):
        if pc.any(pc.is_nan(_widened(column))).as_py():
            raise ValueError("JSON has no NaN")
    else:
        _json(column)
