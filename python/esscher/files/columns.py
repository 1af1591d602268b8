"""From Arrow columns to arrays and back, without a Python loop over tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations
import pyarrow.compute as pc  # type: ignore[import-untyped]  # it ships no annotations

from esscher.ragged import MAX_TOKEN_ID, Ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_LIST_OFFSET = 2**31 - 1


def token_ids(name: str, column: pa.ChunkedArray, first: int = 0) -> Ragged:
    """Return the token ids of a list column as uint32, whatever integers it holds; its first row is number `first`.

    Raises
    ------
    ValueError
        If the column is no list of integers, holds a null, or an id that does not fit; the message names the row.
    """
    rows = _ragged(name, column, "integers", pa.types.is_integer, first)
    known = (rows.values >= 0) & (rows.values <= MAX_TOKEN_ID)
    check_values(name, rows, known, f"an id is 0 to {MAX_TOKEN_ID}", first)
    return Ragged(rows.values.astype(np.uint32, copy=False), rows.offsets)


def token_numbers(name: str, column: pa.ChunkedArray) -> Ragged:
    """Return the numbers of a list column as float32; raises `ValueError` as `token_ids`."""
    rows = _ragged(name, column, "numbers", _is_number)
    with np.errstate(over="ignore"):  # the next line reports it
        values = rows.values.astype(np.float32, copy=False)
    check_values(name, rows, np.isfinite(values) | ~np.isfinite(rows.values), "too large for float32")
    return Ragged(values, rows.offsets)


def raw_numbers(name: str, column: pa.ChunkedArray) -> Ragged:
    """Return the values of a list column as float64, whatever they are: null is NaN, a null row is empty.

    A list of one list, as some trainers write, counts as that list; booleans count as 0 and 1.

    Raises
    ------
    ValueError
        If the column is no list of numbers or booleans.
    """
    if _is_list(column.type) and _is_list(column.type.value_type):
        column = _unwrapped(name, column)
    if not _is_list(column.type):
        raise ValueError(f"column {name!r} has type {column.type}: it must be lists of numbers")
    lengths = _concatenate([pc.fill_null(pc.list_value_length(chunk), 0) for chunk in column.chunks])
    flat = pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)
    if len(flat) == 0 or pa.types.is_null(flat.type):
        return Ragged.from_lengths(np.full(len(flat), np.nan), lengths)
    _check_type(name, flat, "lists of numbers", lambda kind: _is_number(kind) or pa.types.is_boolean(kind), column.type)
    return Ragged.from_lengths(pc.fill_null(flat.cast(pa.float64()), np.nan).to_numpy(), lengths)


def numbers(name: str, column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return a column of numbers as float64; raises `ValueError` if it is none or holds a null."""
    return _flat(name, column, "numbers", _is_number).astype(np.float64, copy=False)


def booleans(name: str, column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Return a column of booleans; raises `ValueError` if it is none or holds a null."""
    return _flat(name, column, "booleans (true or false)", pa.types.is_boolean)


def codes(name: str, column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Give equal values of a column of strings or integers an equal number, in order of first appearance.

    Raises
    ------
    ValueError
        If the column holds something else, or a null.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    _check_type(name, column, "strings or integers", _is_name)
    check_no_nulls(name, column)
    encoded = column.dictionary_encode().unify_dictionaries()
    return _concatenate([chunk.indices for chunk in encoded.chunks]).astype(np.int64)


def row_codes(rows: Ragged) -> NDArray[np.int64]:
    """Give equal rows of integers an equal number, in order of first appearance."""
    offsets = rows.offsets * rows.values.dtype.itemsize
    buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets)), pa.py_buffer(rows.values)]
    strings = pa.Array.from_buffers(pa.large_binary(), len(rows), buffers)
    return np.asarray(strings.dictionary_encode().indices, dtype=np.int64)


def to_lists(rows: Ragged) -> pa.Array:
    """Return rows as an Arrow list array; 64-bit offsets only where 32 bits do not reach."""
    if rows.offsets[-1] > MAX_LIST_OFFSET:
        return pa.LargeListArray.from_arrays(rows.offsets, rows.values)
    return pa.ListArray.from_arrays(rows.offsets.astype(np.int32), rows.values)


def is_known(column: pa.ChunkedArray) -> bool:
    """Return whether a column holds anything but nulls."""
    return bool(column.null_count < len(column))


def check_no_nulls(name: str, column: pa.ChunkedArray, first: int = 0) -> None:
    """Raise `ValueError` with the row of the first null, if there is one."""
    if column.null_count:
        row = first + pc.index(column.is_null(), True).as_py()
        raise ValueError(f"column {name!r}, row {row} is null: every row needs a value (rows count from 0)")


def check_values(name: str, rows: Ragged, good: NDArray[np.bool_], rule: str, first: int = 0) -> None:
    """Raise `ValueError` with the row of the first value that is not `good`, and the rule that it breaks."""
    if not good.all():
        token = int(np.argmin(good))
        row, place = rows.locate(token)
        raise ValueError(
            f"column {name!r}, row {first + row}, token {place} is {rows.values[token]}: {rule} (rows count from 0)"
        )


def _ragged(name: str, column: pa.ChunkedArray, what: str, accepts: Any, first: int = 0) -> Ragged:
    if not _is_list(column.type):
        raise ValueError(f"column {name!r} has type {column.type}: it must be lists of {what}")
    check_no_nulls(name, column, first)
    # Both respect where a slice begins, which the buffers beneath do not.
    flat = pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)
    lengths = _concatenate([pc.list_value_length(chunk) for chunk in column.chunks])
    if flat.null_count:
        token = pc.index(flat.is_null(), True).as_py()
        row = first + int(np.searchsorted(np.cumsum(lengths), token, side="right"))
        raise ValueError(f"column {name!r}, row {row} holds a null: every token needs a value (rows count from 0)")
    if len(flat) == 0:
        return Ragged.from_lengths(np.empty(0, np.uint32), lengths)
    _check_type(name, flat, f"lists of {what}", accepts, column.type)
    return Ragged.from_lengths(_concatenate(flat.chunks), lengths)


def _flat(name: str, column: pa.ChunkedArray, what: str, accepts: Any) -> NDArray[Any]:
    _check_type(name, column, what, accepts)
    check_no_nulls(name, column)
    return _concatenate(column.chunks)


def _check_type(name: str, column: pa.ChunkedArray, what: str, accepts: Any, shown: Any = None) -> None:
    if not accepts(column.type):
        raise ValueError(f"column {name!r} has type {shown or column.type}: it must be {what}")


def _concatenate(chunks: list[pa.Array]) -> NDArray[Any]:
    arrays = [chunk.to_numpy(zero_copy_only=False) for chunk in chunks]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _unwrapped(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    check_no_nulls(name, column)
    lengths = _concatenate([pc.list_value_length(chunk) for chunk in column.chunks])
    if (lengths != 1).any():
        row = int(np.argmax(lengths != 1))
        raise ValueError(f"column {name!r}, row {row} has {lengths[row]} lists: it must be one list of numbers")
    return pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)


def _is_list(kind: Any) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view)
    return any(test(kind) for test in tests)


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_name(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))
