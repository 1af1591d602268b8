"""Means over prompts of what each says at several betas, with errors and intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.estimate import student_interval, with_interval
from esscher.groups import Groups
from esscher.weights import LeftBias, widened

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Curve(NamedTuple):
    """An estimate at each beta: value, standard error, and the ends of the 95 % interval, each [B]."""

    value: NDArray[np.float64]
    stderr: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def average_curve(
    values: NDArray[np.float64], stderrs: NDArray[np.float64], sizes: NDArray[np.int64]
) -> tuple[Curve, str]:
    """Return the mean over prompts of B estimates, by their numbers of samples, and what its intervals assume.

    With several prompts their spread is the error; of one, that of its own estimates, over its samples.

    Parameters
    ----------
    values, stderrs
        Each prompt's estimates and their standard errors [P, B].
    sizes
        Each prompt's number of samples [P].

    Examples
    --------
    >>> import numpy as np
    >>> curve, assumes = average_curve(np.array([[1.0], [2.0]]), np.full((2, 1), 0.1), np.array([10, 30]))
    >>> curve.value
    array([1.75])
    """
    if len(sizes) == 1:
        low, high, assumes = student_interval(values[0], stderrs[0], int(sizes[0]))
        return Curve(values[0], stderrs[0], low, high), assumes
    prompts, weights = Groups(np.arange(len(sizes) + 1)), sizes.astype(np.float64)
    found = [with_interval(column, prompts, weights) for column in np.ascontiguousarray(values.T) * weights]
    value, stderr = np.array([estimate for estimate, _ in found]).T
    low, high = np.array([interval[:2] for _, interval in found]).T
    return Curve(value, stderr, low, high), found[len(found) // 2][1].assumes


def joined(curves: list[Curve]) -> Curve:
    """Put curves over different betas one after the other."""
    return Curve(*(np.concatenate(columns) for columns in zip(*curves, strict=True)))


def widen(curve: Curve, left: LeftBias) -> Curve:
    """Let intervals hold what is left of the bias (see `widened`)."""
    low, high = widened(curve.low, curve.high, left)
    return curve._replace(low=low, high=high)


def without_void(curve: Curve, is_unbiased: NDArray[np.bool_]) -> Curve:
    """Leave out errors and intervals of what is biased."""
    return Curve(curve.value, *(np.where(is_unbiased, column, np.nan) for column in curve[1:]))


def cut_at_ends(curve: Curve, most: float = np.inf) -> Curve:
    """Cut intervals of what is never below 0, nor above `most`."""
    return curve._replace(low=np.maximum(curve.low, 0.0), high=np.minimum(curve.high, most))
