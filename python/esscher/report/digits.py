"""Numbers with as many digits as their standard error bears."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from esscher.estimate import ROUNDING

if TYPE_CHECKING:
    from esscher.divergence import KlEstimate
    from esscher.estimate import Estimate

LARGEST, SMALLEST = 1e7, 1e-6
# The two errors that there are: how much other prompts would differ, and how much other completions of the same.
OVER_PROMPTS, OF_THESE = "over prompts", "of these prompts"


def whose_error(prompts: int) -> str:
    """Name the error of what is a mean over so many prompts: that of a single one knows of no others.

    Examples
    --------
    >>> whose_error(12), whose_error(1)
    ('over prompts', 'of this prompt')
    """
    return OVER_PROMPTS if prompts > 1 else "of this prompt"


def error_note(prompts: int) -> str:
    """Say what ± means beside a mean over so many prompts.

    Examples
    --------
    >>> error_note(12)
    '± is one standard error over prompts: other prompts would differ by about as much.'
    """
    differ = "other prompts would differ by about as much."
    if prompts == 1:
        differ = "other completions of it would differ by about as much, other prompts by more."
    return f"± is one standard error {whose_error(prompts)}: {differ}"


def number(value: float, significant: int = 4) -> str:
    """Return a number to so many significant digits; those before the point stay as they are.

    Examples
    --------
    >>> number(3.14159), number(12345.6), number(float("-inf"))
    ('3.142', '12,346', '-inf')
    """
    if not math.isfinite(value):
        return "not known" if math.isnan(value) else str(value)
    if value == 0:
        return "0"
    if not SMALLEST <= abs(value) < LARGEST:
        return f"{value:.{significant}g}"
    return _fixed(value, max(0, significant - 1 - _exponent(value)))


def estimate(estimated: Estimate | KlEstimate | None) -> str:
    """Return value ± standard error, both rounded to two significant digits of the standard error.

    What is not there is "not known".

    Examples
    --------
    >>> from esscher import Estimate
    >>> estimate(Estimate(0.65211, 0.01299)), estimate(Estimate(0.5, float("nan")))
    ('0.652 ± 0.013', '0.5000 ± ?')
    """
    value, stderr = (math.nan, math.nan) if estimated is None else (estimated.value, estimated.stderr)
    if not math.isfinite(value):
        return number(value)
    if not math.isfinite(stderr):
        return f"{number(value)} ± {'?' if math.isnan(stderr) else stderr}"
    if stderr <= ROUNDING * abs(value):
        return f"{number(value)} ± 0"
    if not SMALLEST <= stderr < LARGEST:
        return f"{value:.4g} ± {stderr:.1e}"
    # Rounding can carry the standard error to the next power of ten: 0.0996 is 0.10, not 0.100.
    places = 1 - _exponent(float(f"{stderr:.1e}"))
    return f"{_fixed(value, places)} ± {_fixed(stderr, places)}"


def rounded(value: float, step: float) -> str:
    """Return a number to two significant digits of `step`; as `number` does if there is no step to speak of.

    Examples
    --------
    >>> rounded(1.23456, 0.0278), rounded(0.0, 0.0)
    ('1.235', '0')
    """
    if step <= ROUNDING * abs(value):
        return number(value)
    if step < SMALLEST or max(abs(value), step) >= LARGEST:
        return f"{value:.4g}"
    return _fixed(value, 1 - _exponent(step))


def share(part: float, whole: float) -> str:
    """Return a part of the whole as a percentage.

    Examples
    --------
    >>> share(1, 3), share(1, 3000), share(0, 5)
    ('33%', '0.033%', '0%')
    """
    percent = 100 * part / whole
    return f"{percent:.0f}%" if percent >= 10 or percent == 0 else f"{percent:.2g}%"


def plural(n: int, noun: str) -> str:
    """Return a number with what there are so many of.

    Examples
    --------
    >>> plural(1, "prompt"), plural(2000, "prompt")
    ('1 prompt', '2,000 prompts')
    """
    return f"{n:,} {noun}{'s' * (n != 1)}"


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value)))


def _fixed(value: float, places: int) -> str:
    text = f"{round(value, places):,.{max(places, 0)}f}"
    # A negative number that rounds to 0 is 0.
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text
