"""What the functions of this package check alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


def check_order(n: int) -> None:
    """Raise `ValueError` if there are no n-grams of length `n`."""
    if n < 1:
        raise ValueError(f"n is {n}: an n-gram has at least 1 token")


def check_texts(texts: Sequence[str]) -> None:
    """Raise `TypeError` if a text is no string, or all of them are one."""
    if isinstance(texts, str):
        raise TypeError("texts is a str, which would be one text a character: give a list of texts")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{i}] is {type(text).__name__}: a text is a str")


def as_orders(n: ArrayLike) -> NDArray[np.int64]:
    """Return one length of n-grams, or several, as an array, or raise `ValueError` if one is below 1."""
    orders = np.asarray(n)
    for order in orders.flat:
        check_order(order)
    return orders


def as_weights(weights: ArrayLike, n: int) -> NDArray[np.float64]:
    """Return weights as float64 [n]; the kernels check their values."""
    array = np.asarray(weights)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"weights has dtype {array.dtype}: weights are numbers")
    if array.shape != (n,):
        raise ValueError(f"weights has shape {array.shape}: give one weight for each of the {n} completions")
    return np.ascontiguousarray(array, dtype=np.float64)


def check_weights(weights: NDArray[np.float64]) -> None:
    """Raise `ValueError` if a weight is negative or not finite."""
    broken = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(broken):
        i = int(broken[0])
        raise ValueError(f"weights[{i}] is {weights[i]}: a weight is finite and at least 0 (which means: left out)")
