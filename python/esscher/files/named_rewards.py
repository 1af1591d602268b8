"""Rewards by name: single columns of numbers, and the weighted sum that is the reward."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files import columns as arrow
from esscher.files.readers.reading import OURS, number, values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from esscher.files.blocks import Rows


# Of our own columns, those that are rewards.
TOTALS = ("rewards", "reward")


def named(found: Rows, names: Sequence[str]) -> dict[str, str]:
    """Return the columns that hold rewards of these names; a tool's name may stand before one that is ours otherwise.

    Raises
    ------
    ValueError
        If there is no such reward; the message lists those that there are.
    """
    columns = {}
    for name in names:
        tool = f"{found.reader.NAME}/{name}" if found.reader is not None else ""
        is_known = name in found.schema.names and (name not in OURS or name in TOTALS)
        if tool not in found.schema.names and not is_known:
            there = ", ".join(_there(found)) or "none"
            raise ValueError(f"{found.path} has no reward {name!r}. There are: {there}")
        columns[name] = tool if tool in found.schema.names else name
    return columns


def _there(found: Rows) -> list[str]:
    """Return the columns that rewards may be: a tool's own, and others of numbers."""
    others = [
        field.name
        for field in found.schema
        if (pa.types.is_integer(field.type) or pa.types.is_floating(field.type)) and field.name not in OURS
    ]
    return list(dict.fromkeys([*found.rewards, *others]))


def reward(table: pa.Table, name: str) -> NDArray[np.float64]:
    """Return a reward of each row: NaN where there is none, the sum of a list, the number that a text says.

    Examples
    --------
    >>> reward(pa.table({"x": ["0.5", None, "failed"]}), "x")
    array([0.5, nan, nan])
    """
    column = table.column(name)
    if pa.types.is_floating(column.type) and not pa.types.is_float16(column.type):
        return np.array(column.to_numpy(zero_copy_only=False), np.float64)
    if pa.types.is_integer(column.type):
        return np.array(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    if arrow.is_list(column.type) or arrow.is_json(column.type) or not arrow.is_known(column):
        return np.array([number(value) for value in values(table, name)], np.float64)
    return np.array([number(value) for value in column.to_pylist()], np.float64)


def weighted(single: Mapping[str, NDArray[np.float64]], weights: Mapping[str, float]) -> NDArray[np.float64]:
    """Return the weighted sum of rewards [N], NaN where one is that has weight.

    Examples
    --------
    >>> weighted({"a": np.array([1.0, np.nan]), "b": np.array([2.0, 3.0])}, {"a": 0.0, "b": 0.5})
    array([1. , 1.5])
    """
    parts = [weight * single[name] for name, weight in weights.items() if weight]
    return np.sum(parts, axis=0) if parts else np.zeros(len(next(iter(single.values()))))
