"""One more column of numbers, which samples have no place for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files import columns as arrow
from esscher.files.blocks import read_table, scan
from esscher.files.formats import naming

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def read_numbers(paths: Sequence[Path], name: str) -> NDArray[np.float64]:
    """Read a column of numbers of all rows of some files, NaN where there is none; `Dump.order` brings it in order.

    Raises
    ------
    FileNotFoundError
        If a file is not there.
    ValueError
        If a file is not whole, lacks the column, or holds in it what is no number; the message names file and row.
    """
    return np.concatenate([naming(path, _numbers, path, name) for path in paths])


def _numbers(path: Path, name: str) -> NDArray[np.float64]:
    rows = scan(path)
    if name not in rows.schema.names:
        raise ValueError(f"there is no column {name!r}. It has: {', '.join(rows.schema.names)}")
    column = read_table(rows, [name]).column(name)
    values, known = np.full(len(column), np.nan), np.asarray(column.is_valid())
    if known.any():
        values[known] = arrow.numbers(name, column.drop_null())
    return values


def with_numbers(table: pa.Table, columns: Mapping[str, NDArray[np.float64] | NDArray[np.int64]]) -> pa.Table:
    """Return a table with columns of numbers put behind all others, null for NaN.

    Examples
    --------
    >>> with_numbers(pa.table({"id": [1, 2]}), {"judge": np.array([0.5, np.nan])}).to_pylist()
    [{'id': 1, 'judge': 0.5}, {'id': 2, 'judge': None}]
    """
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, mask=np.isnan(values)))
    return table
