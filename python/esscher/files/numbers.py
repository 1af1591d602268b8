"""More columns of numbers, which samples have no place for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


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
