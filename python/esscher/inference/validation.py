"""Checks of arguments that have one number for each sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher.ragged import as_numbers

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def as_column(name: str, values: ArrayLike, n: int | None = None) -> NDArray[np.float64]:
    """Return `values` as float64 [N], of which there must be `n` if that is given; without a copy where they are.

    Raises
    ------
    ValueError
        If they have another shape or number.
    TypeError
        If they are no numbers.
    """
    array = as_numbers(name, values)
    if array.dtype.kind not in "biufO":
        raise TypeError(f"{name} has dtype {array.dtype}: it must be numbers, one for each sample")
    array = array.astype(np.float64, copy=False)
    if array.ndim != 1:
        raise ValueError(f"{name} has {array.ndim} dimensions: it has one, with an entry for each sample")
    if n is not None and len(array) != n:
        raise ValueError(f"{name} has {len(array)} entries for {n} samples: there is one for each")
    return np.ascontiguousarray(array)


def finite_column(name: str, values: ArrayLike, rule: str, n: int | None = None) -> NDArray[np.float64]:
    """Return `values` as float64 [N], or raise `ValueError` with `rule` if one is not finite."""
    column = as_column(name, values, n)
    refuse(name, column, ~np.isfinite(column), rule)
    return column


def below_infinity(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return `values` as float64 [N], or raise `ValueError` if one is NaN or +inf."""
    column = as_column(name, values)
    refuse(name, column, np.isnan(column) | (column == np.inf), "it must be finite or -inf")
    return column


def refuse(name: str, column: NDArray[np.float64], wrong: NDArray[np.bool_], rule: str) -> None:
    """Raise `ValueError` that names the first value that is wrong, if one is."""
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(f"{name}[{i}] is {column[i]}: {rule}")
