"""Columns of samples as arguments: checked, and summed by group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher.groups import check_offsets
from esscher.ragged import as_numbers

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.groups import Offsets


def as_column(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return `values` as float64 [N], without a copy where they are.

    Raises
    ------
    ValueError
        If they have another shape.
    TypeError
        If they are no numbers.
    """
    array = as_numbers(name, values)
    if array.dtype.kind not in "biufO":
        raise TypeError(f"{name} has dtype {array.dtype}: it must be numbers, one for each sample")
    array = array.astype(np.float64, copy=False)
    if array.ndim != 1:
        raise ValueError(f"{name} has {array.ndim} dimensions: it has one, with an entry for each sample")
    return np.ascontiguousarray(array)


def finite_column(name: str, values: ArrayLike, rule: str) -> NDArray[np.float64]:
    """Return `values` as float64 [N], or raise `ValueError` with `rule` if one is not finite."""
    column = as_column(name, values)
    refuse(name, column, ~np.isfinite(column), rule)
    return column


def below_infinity(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return `values` as float64 [N], or raise `ValueError` if one is NaN or +inf."""
    column = as_column(name, values)
    refuse(name, column, np.isnan(column) | (column == np.inf), "it must be finite or -inf")
    return column


def filled_offsets(name: str, groups: ArrayLike | None, n: int) -> Offsets:
    """Return `groups` as offsets [P + 1] over `n` samples, or raise `ValueError` if a group is empty."""
    offsets = check_offsets(name, [0, n] if groups is None else groups, n)
    empty = np.flatnonzero(np.diff(offsets) == 0)
    if len(empty):
        raise ValueError(f"{name}: group {empty[0]} is empty: nothing can be said of it, leave it out")
    return offsets


def group_sums(values: NDArray[np.float64] | NDArray[np.bool_], offsets: Offsets) -> NDArray[np.float64]:
    """Sum of each group [P]."""
    # Not reduceat, which gives an empty group its neighbour's first value.
    return np.bincount(group_of(offsets), weights=values, minlength=len(offsets) - 1).astype(np.float64, copy=False)


def group_of(offsets: Offsets) -> NDArray[np.int64]:
    """Group of each sample [N]."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def refuse(name: str, column: NDArray[np.float64], wrong: NDArray[np.bool_], rule: str) -> None:
    """Raise `ValueError` that names the first value that is wrong, if one is."""
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(f"{name}[{i}] is {column[i]}: {rule}")
