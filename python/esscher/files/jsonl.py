"""JSON lines to Arrow and back: one object a line, infinities as numbers that overflow to them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from itertools import chain, islice
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations
import pyarrow.compute as pc  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files.columns import RowError, is_json, is_list
from esscher.files.streams import open_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

ROWS_AT_ONCE = 1000
# What is held as Python's objects at a time.
LINES_AT_ONCE, BYTES_AT_ONCE = 256, 4 * 2**20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
INFINITY = "1e999"
# An object with more keys than this is no record but a map, each of its keys in few rows.
MOST_KEYS = 256
# Beyond it doubles do not hold every integer.
LONG_INTEGER = 2**53
# Strings match first, so that the name is only found outside of them.
_STRING_OR_INFINITY = re.compile(r'"(?:[^"\\]|\\.)*"|(Infinity)')


class Line(NamedTuple):
    """A line that is not blank, and its number in the file, from 1."""

    number: int
    text: bytes


def scan(path: Path) -> tuple[pa.Schema, int]:
    """Return the columns of a file and how many rows it has, holding a few of them at a time.

    A column whose values are of no one type is JSON: its values are kept as they were written.

    Raises
    ------
    ValueError
        If a line is no JSON object, with its number.
    """
    kinds: dict[str, Any] = {}
    long: set[str] = set()
    rows = 0
    for objects in _objects(path, _numbered(path)):
        for name in dict.fromkeys(chain.from_iterable(objects)):
            kind, is_long = _kind_of([one.get(name) for one in objects])
            kinds[name] = _unified(kinds.get(name, pa.null()), kind)
            long |= {name} if is_long else set()
        rows += len(objects)
    return pa.schema([(name, _held(kind, is_long=name in long)) for name, kind in kinds.items()]), rows


def blocks(path: Path, schema: pa.Schema, size: int) -> Iterator[pa.Table]:
    """Read `size` rows at a time, of them the columns of `schema`, which `scan` has found."""
    lines = _numbered(path)
    while block := list(islice(lines, size)):
        yield pa.concat_tables([_table(objects, schema) for objects in _objects(path, block)])


def line_of(path: Path, row: int) -> int:
    """Return the number in the file, from 1, of the line that holds a row."""
    return next(islice(_numbered(path), row, None)).number


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


def _numbered(path: Path) -> Iterator[Line]:
    with open_rows(path) as file:
        # Within what ends with a line feed, a carriage return ends a line too: no JSON holds one.
        texts = chain.from_iterable(line.splitlines() for line in file)
        for number, text in enumerate(texts, start=1):
            line = Line(number, text.removeprefix(BYTE_ORDER_MARK) if number == 1 else text)
            if line.text.strip():
                yield line


def _objects(path: Path, lines: Iterable[Line]) -> Iterator[list[dict[str, Any]]]:
    """Read lines as an object each, so many at a time as may be held."""
    found: list[dict[str, Any]] = []
    held = 0
    for line in lines:
        found.append(_object(path, line))
        held += len(line.text)
        if len(found) == LINES_AT_ONCE or held > BYTES_AT_ONCE:
            yield found
            found, held = [], 0
    if found:
        yield found


def _object(path: Path, line: Line) -> dict[str, Any]:
    rule = "JSON lines hold one whole {...} a line"
    try:
        # What is no UTF-8 may stand in a column that nobody reads.
        found = json.loads(line.text.decode("utf-8", "surrogateescape"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {line.number} is not valid JSON: {error.msg} at character {error.pos}. {rule}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, line {line.number} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}, line {line.number} is no JSON object: {rule}")
    return found


def _kind_of(values: Sequence[Any]) -> tuple[Any, bool]:
    """Return the type of a column of these values, and whether it has integers that doubles do not hold."""
    if _has_no_type(values):
        return pa.json_(), False
    try:
        array = pa.array(values)
    except (pa.ArrowException, ValueError, OverflowError):
        return pa.json_(), False
    return array.type, _has_long_integers(array)


def _has_no_type(values: Sequence[Any]) -> bool:
    """Whether fractions stand beside booleans, which Arrow takes for 0 and 1 then, or objects have too many keys."""
    kinds = set(map(type, values))
    if dict in kinds:
        fields = defaultdict(list)
        for name, value in chain.from_iterable(one.items() for one in values if isinstance(one, dict)):
            fields[name].append(value)
        return len(fields) > MOST_KEYS or any(map(_has_no_type, fields.values()))
    if list in kinds:
        return _has_no_type(list(chain.from_iterable(value for value in values if isinstance(value, list))))
    return bool in kinds and float in kinds


def _has_long_integers(array: pa.Array) -> bool:
    if is_list(array.type):
        return _has_long_integers(array.flatten())
    if pa.types.is_struct(array.type):
        return any(map(_has_long_integers, array.flatten()))
    if not pa.types.is_integer(array.type):
        return False
    ends = pc.min_max(array).as_py()
    return any(end is not None and abs(end) > LONG_INTEGER for end in ends.values())


def _unified(one: Any, other: Any) -> Any:
    """Return the type of values of two types; JSON if none holds both as they are."""
    if one == other:
        return one
    schemas = [pa.schema([("x", kind)]) for kind in (one, other)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
    except pa.ArrowException:
        return pa.json_()


def _held(kind: Any, *, is_long: bool) -> Any:
    """Return the type that a column is held in: JSON where doubles would round, or no type fits objects."""
    return pa.json_() if _holds(kind, _is_no_record) or (is_long and _holds(kind, pa.types.is_floating)) else kind


def _holds(kind: Any, is_one: Any) -> bool:
    """Whether a type is one of a kind, or made of one."""
    return bool(is_one(kind)) or any(_holds(kind.field(i).type, is_one) for i in range(kind.num_fields))


def _is_no_record(kind: Any) -> bool:
    """Whether a type is that of objects without keys, for which Parquet has no type, or with too many."""
    return bool(pa.types.is_struct(kind)) and not 0 < kind.num_fields <= MOST_KEYS


def _table(objects: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    columns = [_column([one.get(field.name) for one in objects], field.type) for field in schema]
    return pa.table(columns, schema=schema)


def _column(values: Sequence[Any], kind: Any) -> pa.Array:
    if not is_json(kind):
        return pa.array(values, kind)
    texts = pa.array([None if value is None else _text(value) for value in values], pa.string())
    return pa.ExtensionArray.from_storage(kind, texts)


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
