"""From Arrow columns to arrays and back, without a Python loop over tokens."""

from __future__ import annotations

import json
from decimal import Decimal
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations
import pyarrow.compute as pc  # type: ignore[import-untyped]  # it ships no annotations

from esscher.ragged import MAX_TOKEN_ID, Ragged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

Converted = TypeVar("Converted")

MAX_LIST_OFFSET = 2**31 - 1
# Why a completion ended, as engines call it: by itself, or cut off.
ENDED = (
    "stop",
    "eos",
    "eos_token",
    "stop_sequence",
    "end_turn",
    "tool_calls",
    "tool_use",
    "function_call",
    "completed",
)
CUT_OFF = ("length", "max_tokens", "max_length", "max_new_tokens", "truncated", "abort", "aborted", "content_filter")
# As text, too: that is how some writers say what JSON has no name for.
TRUTHS = {"true": True, "false": False}
ENDINGS = TRUTHS | dict.fromkeys(ENDED, True) | dict.fromkeys(CUT_OFF, False)
# Up to where a floating-point number holds every integer.
EXACT = {pa.float16(): 2**11, pa.float32(): 2**24}


class RowError(ValueError):
    """What is wrong in one row of a file.

    Attributes
    ----------
    row
        The row's number in the file, from 0.
    """

    def __init__(self, row: int, message: str) -> None:
        super().__init__(f"{message} (rows count from 0)")
        self.row = row


def _or_json(convert: Callable[[str, Any, int], Converted]) -> Callable[..., Converted]:
    """Let a converter read a column of JSON too, row by row: each value may be of another type."""

    @wraps(convert)
    def read(name: str, column: pa.ChunkedArray, first: int = 0) -> Converted:
        if not is_json(column.type):
            return convert(name, _plain(column), first)
        texts = _storage(column).to_pylist()
        joined: Converted = _joined([_of_one(convert, name, text, first + i) for i, text in enumerate(texts)])
        return joined

    return read


@_or_json
def token_ids(name: str, column: pa.ChunkedArray, first: int = 0) -> Ragged:
    """Return the token ids of a list column as uint32, whatever numbers it holds; its first row is number `first`.

    A list of one list, as some trainers write, counts as that list.

    Raises
    ------
    ValueError
        If the column is no list of numbers, holds a null, or what is no id; the message names the row.
    """
    flat, lengths = _lists(name, column, "integers", first)
    if len(flat) == 0:
        return Ragged.from_lengths(np.empty(0, np.uint32), lengths)
    _check_type(name, flat.type, "lists of integers", _is_number, column.type)
    rows = Ragged.from_lengths(_numbers(flat), lengths)
    most = EXACT.get(flat.type, MAX_TOKEN_ID)
    known = (rows.values >= 0) & (rows.values <= most)
    if rows.values.dtype.kind == "f":
        known &= rows.values == np.floor(rows.values)
    held = f" that {flat.type} holds" if flat.type in EXACT else ""
    check_values(name, rows, known, f"an id{held} is an integer, 0 to {most}", first)
    return Ragged(rows.values.astype(np.uint32, copy=False), rows.offsets)


@_or_json
def token_numbers(name: str, column: pa.ChunkedArray, first: int = 0) -> Ragged:
    """Return the numbers of a list column as float32; raises `ValueError` as `token_ids`."""
    flat, lengths = _lists(name, column, "numbers", first)
    if len(flat) == 0:
        return Ragged.from_lengths(np.empty(0, np.float32), lengths)
    _check_type(name, flat.type, "lists of numbers", _is_number, column.type)
    rows = Ragged.from_lengths(_numbers(flat), lengths)
    with np.errstate(over="ignore"):  # the next line reports it
        values = rows.values.astype(np.float32, copy=False)
    check_values(name, rows, np.isfinite(values) | ~np.isfinite(rows.values), "too large for float32", first)
    return Ragged(values, rows.offsets)


@_or_json
def raw_numbers(name: str, column: pa.ChunkedArray, first: int = 0) -> Ragged:
    """Return the values of a list column as float64, whatever they are: null is NaN, a null row is empty.

    A list of one list, as some trainers write, counts as that list; booleans count as 0 and 1.

    Raises
    ------
    ValueError
        If the column is no list of numbers or booleans.
    """
    column = _unwrapped(name, column, first)
    if not is_list(column.type):
        raise ValueError(f"column {name!r} has type {column.type}: it must be lists of numbers")
    lengths = _concatenate([pc.fill_null(pc.list_value_length(chunk), 0) for chunk in column.chunks])
    flat = _flattened(column)
    if len(flat) == 0 or pa.types.is_null(flat.type):
        return Ragged.from_lengths(np.full(len(flat), np.nan), lengths)
    _check_type(name, flat.type, "lists of numbers", _is_number_or_boolean, column.type)
    values = _numbers(flat.drop_null()).astype(np.float64)
    whole = np.full(len(flat), np.nan)
    whole[_concatenate(flat.is_valid().chunks)] = values
    return Ragged.from_lengths(whole, lengths)


def numbers_or_null(name: str, column: pa.ChunkedArray, first: int = 0) -> Ragged:
    """Return the numbers of a list column as float32, null as NaN; raises `ValueError` as `raw_numbers`."""
    rows: Ragged = raw_numbers(name, column, first)
    with np.errstate(over="ignore"):
        values = rows.values.astype(np.float32)
    check_values(name, rows, np.isfinite(values) | ~np.isfinite(rows.values), "too large for float32", first)
    return Ragged(values, rows.offsets)


def flags(name: str, column: pa.ChunkedArray, first: int = 0) -> Ragged:
    """Return a list column of booleans, or of zeros and ones; raises `ValueError` as `raw_numbers`, and for others."""
    rows: Ragged = raw_numbers(name, column, first)
    check_values(name, rows, (rows.values == 0) | (rows.values == 1), "a mask is 0 or 1, false or true", first)
    return Ragged(rows.values == 1, rows.offsets)


@_or_json
def numbers(name: str, column: pa.ChunkedArray, first: int = 0) -> NDArray[np.float64]:
    """Return a column of numbers as float64; booleans count as 0 and 1, and numbers may be written as text.

    A list of one value, as some trainers write, counts as that value.

    Raises
    ------
    ValueError
        If the column holds something else, or a null; the message names the row.
    """
    flat = _scalars(name, column, first)
    if _is_text(flat.type):
        return np.array(_read_texts(name, flat, _number, "a number", first), np.float64)
    _check_type(name, flat.type, "numbers", _is_number_or_boolean, column.type)
    return _numbers(flat).astype(np.float64, copy=False)


@_or_json
def booleans(name: str, column: pa.ChunkedArray, first: int = 0) -> NDArray[np.bool_]:
    """Return a column of booleans, of 0 and 1, or of reasons why generation ended: by itself is true.

    A list of one value, as some trainers write, counts as that value.

    Raises
    ------
    ValueError
        If the column holds something else, or a null; the message names the row.
    """
    flat = _scalars(name, column, first)
    if _is_text(flat.type):
        rule = (
            f"true or false, or a reason why it ended: by itself ({', '.join(ENDED)}) or cut off ({', '.join(CUT_OFF)})"
        )
        return np.array(_read_texts(name, flat, lambda text: ENDINGS[text.lower()], rule, first), np.bool_)
    _check_type(name, flat.type, "booleans (true or false)", _is_number_or_boolean, column.type)
    values = _numbers(flat)
    strange = np.flatnonzero((values != 0) & (values != 1))
    if len(strange):
        row = first + int(strange[0])
        raise RowError(row, f"column {name!r}, row {row} is {values[strange[0]]:g}: it must be 0 or 1, false or true")
    return values.astype(np.bool_)


@_or_json
def keys(name: str, column: pa.ChunkedArray, first: int = 0) -> pa.Array:
    """Return a column of strings or integers as text: what is written alike is the same, in whatever type.

    Raises
    ------
    ValueError
        If the column holds something else, or a null; the message names the row.
    """
    flat = _scalars(name, column, first)
    if pa.types.is_floating(flat.type):
        values = _concatenate(flat.chunks)
        broken = np.flatnonzero(~(np.abs(values) <= EXACT.get(flat.type, 2**53)) | (values != np.floor(values)))
        if len(broken):
            row = first + int(broken[0])
            raise RowError(row, f"column {name!r}, row {row} is {values[broken[0]]}: it must be a string or an integer")
        flat = flat.cast(pa.float64()).cast(pa.int64())
    _check_type(name, flat.type, "strings or integers", _is_name, column.type)
    return flat.cast(pa.large_string()).combine_chunks()


def codes(texts: pa.Array) -> NDArray[np.int64]:
    """Give equal strings an equal number, in order of first appearance."""
    return np.asarray(texts.dictionary_encode().indices, dtype=np.int64)


def row_codes(rows: Ragged) -> NDArray[np.int64]:
    """Give equal rows of integers an equal number, in order of first appearance."""
    offsets = rows.offsets * rows.values.dtype.itemsize
    buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets)), pa.py_buffer(rows.values)]
    return codes(pa.Array.from_buffers(pa.large_binary(), len(rows), buffers))


def to_lists(rows: Ragged, values: pa.Array | None = None) -> pa.Array:
    """Return rows, or other values in their place, as an Arrow list array.

    Offsets have 64 bits only where 32 do not reach.
    """
    values = rows.values if values is None else values
    if rows.offsets[-1] > MAX_LIST_OFFSET:
        return pa.LargeListArray.from_arrays(rows.offsets, values)
    return pa.ListArray.from_arrays(rows.offsets.astype(np.int32), values)


def is_known(column: pa.ChunkedArray) -> bool:
    """Return whether a column holds anything but nulls."""
    return bool(column.null_count < len(column))


def is_json(kind: Any) -> bool:
    """Return whether a type is that of columns whose values are kept as JSON, since they are of no one type."""
    return isinstance(kind, pa.JsonType)


def is_list(kind: Any) -> bool:
    """Return whether a type is one of lists."""
    tests = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return any(test(kind) for test in tests)


def check_no_nulls(name: str, column: pa.ChunkedArray, first: int = 0) -> None:
    """Raise `RowError` with the row of the first null, if there is one."""
    if column.null_count:
        row = first + pc.index(column.is_null(), True).as_py()
        raise RowError(row, f"column {name!r}, row {row} is null: every row needs a value")


def check_values(name: str, rows: Ragged, good: NDArray[np.bool_], rule: str, first: int = 0) -> None:
    """Raise `RowError` with the row of the first value that is not `good`, and the rule that it breaks."""
    if not good.all():
        token = int(np.argmin(good))
        row, place = rows.locate(token)
        row += first
        raise RowError(row, f"column {name!r}, row {row}, token {place} is {rows.values[token]}: {rule}")


def _of_one(convert: Callable[[str, Any, int], Converted], name: str, text: str | None, row: int) -> Converted:
    """Convert the value of one row, given as JSON."""
    # A list, since a null of no type would be none.
    array = pa.array([None], pa.list_(pa.null())) if text is None else _array(name, text, row)
    try:
        return convert(name, pa.chunked_array([array]), row)
    except RowError:
        raise
    except ValueError as error:
        raise RowError(row, f"{error}, and is not in row {row}") from error


def _array(name: str, text: str, row: int) -> pa.Array:
    value = json.loads(text)
    is_long = isinstance(value, int) and not -(2**63) <= value < 2**63
    try:
        return pa.array([Decimal(value) if is_long else value])
    except UnicodeEncodeError as error:
        raise RowError(row, f"column {name!r}, row {row} is no text, but half a surrogate pair: {text:.80}") from error
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise RowError(row, f"column {name!r}, row {row} is of no one type, or too large: {text:.80}") from error


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], Ragged):
        return Ragged.concatenate(parts)
    return pa.concat_arrays(parts) if isinstance(parts[0], pa.Array) else np.concatenate(parts)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the values of a column as they are, not as numbers of entries in a dictionary, or under another name."""
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    return _storage(column) if isinstance(column.type, pa.BaseExtensionType) else column


def _storage(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)


def _lists(name: str, column: pa.ChunkedArray, what: str, first: int) -> tuple[pa.ChunkedArray, NDArray[Any]]:
    """Return the values of all rows, one after the other, and how many are each row's."""
    column = _unwrapped(name, column, first)
    if not is_list(column.type):
        raise ValueError(f"column {name!r} has type {column.type}: it must be lists of {what}")
    check_no_nulls(name, column, first)
    flat = _flattened(column)
    lengths = _concatenate([pc.list_value_length(chunk) for chunk in column.chunks])
    if flat.null_count:
        token = pc.index(flat.is_null(), True).as_py()
        row = first + int(np.searchsorted(np.cumsum(lengths), token, side="right"))
        raise RowError(row, f"column {name!r}, row {row} holds a null: every token needs a value")
    return flat, lengths


def _scalars(name: str, column: pa.ChunkedArray, first: int) -> pa.ChunkedArray:
    """Return a value for each row: the column's, or the one in each of its lists."""
    if is_list(column.type):
        column = _only(name, column, "values", first)
    check_no_nulls(name, column, first)
    return column


def _unwrapped(name: str, column: pa.ChunkedArray, first: int) -> pa.ChunkedArray:
    is_nested = is_list(column.type) and is_list(column.type.value_type)
    return _only(name, column, "lists", first) if is_nested else column


def _only(name: str, column: pa.ChunkedArray, what: str, first: int) -> pa.ChunkedArray:
    """Return what is in lists that hold one thing each; `what` says of what there may not be several."""
    check_no_nulls(name, column, first)
    lengths = _concatenate([pc.list_value_length(chunk) for chunk in column.chunks])
    if (lengths != 1).any():
        i = int(np.argmax(lengths != 1))
        raise RowError(first + i, f"column {name!r}, row {first + i} has {lengths[i]} {what}: it must have one")
    return _flattened(column)


def _flattened(column: pa.ChunkedArray) -> pa.ChunkedArray:
    # It respects where a slice begins, which the buffers beneath do not.
    return _plain(pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type))


def _numbers(flat: pa.ChunkedArray) -> NDArray[Any]:
    return _concatenate((flat.cast(pa.float64()) if pa.types.is_decimal(flat.type) else flat).chunks)


def _read_texts(
    name: str, flat: pa.ChunkedArray, read: Callable[[str], Any], rule: str, first: int
) -> Iterator[Any] | list[Any]:
    found = []
    for row, text in enumerate(flat.to_pylist(), start=first):
        try:
            found.append(read(text))
        except (ValueError, KeyError) as error:
            raise RowError(row, f"column {name!r}, row {row} is {text!r}: it must be {rule}") from error
    return found


def _number(text: str) -> float:
    return float(TRUTHS.get(text.lower(), text))


def _check_type(name: str, kind: Any, what: str, accepts: Callable[[Any], bool], shown: Any) -> None:
    if not accepts(kind):
        raise ValueError(f"column {name!r} has type {shown}: it must be {what}")


def _concatenate(chunks: list[pa.Array]) -> NDArray[Any]:
    arrays = [chunk.to_numpy(zero_copy_only=False) for chunk in chunks]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_number_or_boolean(kind: Any) -> bool:
    return _is_number(kind) or bool(pa.types.is_boolean(kind))


def _is_text(kind: Any) -> bool:
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _is_name(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_decimal(kind)) or _is_text(kind)
