"""One more column of numbers, which samples have no place for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher.files import columns as arrow
from esscher.files.blocks import read_table, scan
from esscher.files.formats import naming

if TYPE_CHECKING:
    from collections.abc import Sequence
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
