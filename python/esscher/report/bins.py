"""Columns of up to millions of values, reduced to what a plot shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_BINS = 40
# Of values with tails, this share at either end is not drawn.
OUTERMOST = 0.005
CURVE_POINTS = 200


class Histogram(NamedTuple):
    """Edges of bins [n + 1], and the share of the weight in each [n]; `left_out` counts values that are infinite."""

    edges: NDArray[np.float64]
    shares: NDArray[np.float64]
    weighted: NDArray[np.float64] | None
    left_out: int


class Concentration(NamedTuple):
    """How much of the weight the heaviest completions carry: both in shares, from (0, 0) to (1, 1)."""

    completions: NDArray[np.float64]
    weight: NDArray[np.float64]
    half: float


class Plane(NamedTuple):
    """Counts [n, n] of points in the cells of a square, y by x, between `edges` [n + 1]; `left_out` lie outside."""

    edges: NDArray[np.float64]
    counts: NDArray[np.float64]
    left_out: int


def histogram(values: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> Histogram | None:
    """Bin what is finite; `None` if nothing is, or if the range is beyond what a double can hold.

    Shares are of all values, the infinite ones included, so that they do not hide what is left out.

    Examples
    --------
    >>> import numpy as np
    >>> histogram(np.array([2.0, 2.0, -np.inf, 2.0])).shares
    array([0.  , 0.  , 0.75, 0.  , 0.  ])
    """
    finite = np.isfinite(values)
    kept = values[finite]
    edges = _edges(kept)
    if edges is None:
        return None
    shares = np.histogram(kept, edges)[0] / len(values)
    weighted = None
    if weights is not None and weights.sum() > 0:
        weighted = np.histogram(kept, edges, weights=weights[finite])[0] / weights.sum()
    return Histogram(edges, shares, weighted, len(values) - len(kept))


def central(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values without the outermost at either end, so that a few do not hide how the others lie.

    Examples
    --------
    >>> import numpy as np
    >>> central(np.array([0.0] + 500 * [1.0, 2.0] + [1e6])).max()
    np.float64(2.0)
    """
    low, high = np.quantile(values, [OUTERMOST, 1 - OUTERMOST], method="nearest")
    kept: NDArray[np.float64] = values[(low <= values) & (values <= high)]
    return kept


def plane(x: NDArray[np.float64], y: NDArray[np.float64]) -> Plane:
    """Count finite points in square cells, one range for both axes: that of nearly all points.

    Examples
    --------
    >>> import numpy as np
    >>> plane(np.array([-1.0, -1.0, 0.0]), np.array([-1.0, -1.0, 0.0])).counts.max()
    np.float64(2.0)
    """
    low = min(float(np.quantile(values, OUTERMOST, method="nearest")) for values in (x, y))
    high = max(float(values.max()) for values in (x, y))
    edges = np.linspace(low, max(high, low + 1e-6), MOST_BINS + 1)
    counts = np.histogram2d(y, x, bins=(edges, edges))[0]
    return Plane(edges, counts, len(x) - int(counts.sum()))


def concentration(weights: NDArray[np.float64]) -> Concentration | None:
    """Sum the weights from the heaviest down; `None` if there is no weight.

    Examples
    --------
    >>> import numpy as np
    >>> concentration(np.array([0.0, 3.0, 1.0, 0.0])).weight
    array([0.  , 0.75, 1.  , 1.  , 1.  ])
    """
    total = weights.sum()
    if not total > 0:
        return None
    n = len(weights)
    carried = np.concatenate([[0.0], np.cumsum(np.sort(weights)[::-1])]) / total
    half = int(np.searchsorted(carried, 0.5)) / n
    # Denser at the heavy end, where the curve bends.
    shown = np.unique(np.round(n * np.linspace(0, 1, min(n, CURVE_POINTS) + 1) ** (2 if n > CURVE_POINTS else 1)))
    shown = shown.astype(np.int64)
    return Concentration(shown / n, np.minimum(carried[shown], 1.0), half)


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    if len(values) == 0:
        return None
    low, high = float(values.min()), float(values.max())
    middle, size = low / 2 + high / 2, max(abs(low), abs(high))
    if size > np.finfo(np.float64).max / 4:
        return None
    # Differences near the resolution of doubles cannot be divided into bins.
    if high - low <= 1e-9 * size:
        return middle + np.arange(-2.5, 3.0) * max(1.0, 1e-3 * size)
    bins = int(np.clip(np.sqrt(len(values)), 5, MOST_BINS))
    if high - low < 1e6 and (values == np.round(values)).all():
        # Each bin holds equally many integers, counted from the top: lengths are cut off there.
        width = np.ceil((high - low + 1) / bins)
        return np.arange(high + 0.5, low - 0.5 - width, -width)[::-1]
    return np.linspace(low, high, bins + 1)
