"""Words for counts, shares and columns, as evidence is told in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from esscher.mismatch.findings import Column

ROWS_SHOWN = 8
# What float32 log-probs bear.
SMALLEST_STDERR = 1e-6


def listed(rows: NDArray[np.int64]) -> str:
    """Return the first of some rows' numbers."""
    return f"{', '.join(map(str, rows[:ROWS_SHOWN].tolist()))}{', …' * (len(rows) > ROWS_SHOWN)} (counted from 0)"


def engine(column: Column) -> str:
    """Return who made a column."""
    return {"train": "trainer", "rollout": "rollout", "both": "two engines"}[column]


def times(n: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def percent(part: int, whole: int) -> str:
    """Return a share as a percentage: with two digits where it is small, and 100% only if it is all."""
    value = 100 * part / whole
    return f"{value:.2g}%" if value < 10 else f"{min(value, 99.9):.3g}%" if part < whole else "100%"


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits."""
    return f"{value:.{digits}g}"
