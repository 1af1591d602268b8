"""Whether a noisy series has passed a limit, told step by step with few false alarms, and where it began to move."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# The first level is the mean of so many steps, and nothing is told before twice as many have been seen.
FIRST = 5
# Over how many of the last steps a level is averaged: the fewer, the sooner a large change is told.
WINDOWS = (1, 2, 4, 8, 16, 32)
# StepNoise is that of so many steps before those that are judged.
NOISE_STEPS = 20
# Growth over windows of w steps is judged against w steps that lie so many times w before.
APART = 4
# Where a series began to move is looked for this many times as far back as the second half of the move took, and some
# steps more.
BACK, MORE = 3, 10


class Level(NamedTuple):
    """A mean over the last `window` steps that lies beyond a limit, and how many standard errors beyond."""

    value: float
    limit: float
    window: int
    errors: float


class StepNoise(NamedTuple):
    """The variance of single steps before a window and in it, and its degrees of freedom."""

    before: float
    now: float
    freedom: float


def is_enough(tests: int, alarm_rate: float) -> float:
    """Return how many standard errors of a normal it takes at the test of this number, counted from 1.

    Tests share the rate out as ``rate / (n (n + 1))``, which adds up to it over a run of any length: by the union bound
    it holds however the steps depend on each other.

    Examples
    --------
    >>> round(is_enough(1, 0.01), 2), round(is_enough(500, 0.01), 2)
    (2.58, 5.37)
    """
    return -NormalDist().inv_cdf(alarm_rate / (tests * (tests + 1)))


def above(
    values: Floats,
    stderrs: Floats,
    limit: Callable[[float], float],
    slope: float,
    alarm_rate: float,
    floor: float = 0.0,
) -> Level | None:
    """Say if a series [n] now lies above a limit that its first level gives, beyond noise; `None` if not.

    Over windows of 1 to 32 last steps, ``z = (mean - limit(first level)) / stderr`` (see `as_normal`), with the noise
    that the steps before the window show (see `noise_of`).

    Parameters
    ----------
    values, stderrs
        Of each step, the newest last; NaN for a standard error that is not known.
    limit
        The limit by the mean of the first 5 steps.
    slope
        How much the limit moves with that mean.
    alarm_rate
        The chance that a series which stays below the limit is ever told to lie above it, at most.
    floor
        A step's variance is no less: that of a share at the limit, which a run of equal steps does not show.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> values = np.where(np.arange(60) < 30, 1.0, 4.0) + rng.normal(0.0, 0.2, 60)
    >>> told = [n for n in range(61) if above(values[:n], np.full(n, 0.2), lambda first: 2 * first, 2.0, 0.01)]
    >>> told[0]
    31
    """
    n, levels = len(values), []
    if n < 2 * FIRST:
        return None
    first, of_first = float(values[:FIRST].mean()), step_variance(values[: 2 * FIRST])[0]
    bound = limit(first)
    for w in WINDOWS:
        if n - w >= FIRST and (value := float(values[n - w :].mean())) > bound:
            noise = noise_of(values, stderrs, w)
            stderr = math.sqrt(max(noise.now, floor) / w + slope**2 * max(of_first, floor) / FIRST)
            freedom = noise.freedom if noise.now > floor else math.inf
            levels.append(Level(value, bound, w, as_normal(value - bound, stderr, freedom)))
    return _beyond_noise(levels, n, alarm_rate)


def running_away(values: Floats, stderrs: Floats, steps: Floats, power: float, alarm_rate: float) -> Level | None:
    """Say if a series [n] has more than doubled, and grown faster than a power of the steps, beyond noise.

    Windows of w last steps are held against w steps that lie 4 w before, times ``(last step / first step)^power`` of
    both together, or 2 if that is more.

    Parameters
    ----------
    values, stderrs
        As in `above`.
    steps
        Which steps they are of [n], counted from 1, rising.
    power
        Of the steps.
    alarm_rate
        The chance that a series which grows no faster is ever told to, at most.

    Examples
    --------
    >>> steps = np.arange(1.0, 101.0)
    >>> noise = np.random.default_rng(0).normal(size=100)
    >>> steady, away = steps + noise, steps + np.exp(np.maximum(steps - 80, 0)) + noise
    >>> [running_away(kl, np.ones(100), steps, 4.0, 0.01) is not None for kl in (steady, away)]
    [False, True]
    """
    n, levels = len(values), []
    if n < 2 * FIRST:
        return None
    for w in WINDOWS:
        start = n - (APART + 1) * w
        if start < 0 or n - w < FIRST:
            continue
        factor = max(2.0, float(steps[-1] / steps[start]) ** power)
        value, limit = float(values[n - w :].mean()), factor * max(float(values[start : start + w].mean()), 0.0)
        if value > limit:
            noise = noise_of(values, stderrs, w)
            stderr = math.sqrt((noise.now + factor**2 * noise.before) / w)
            levels.append(Level(value, limit, w, as_normal(value - limit, stderr, noise.freedom)))
    return _beyond_noise(levels, n, alarm_rate)


def noise_of(values: Floats, stderrs: Floats, window: int) -> StepNoise:
    """Say how much a step varies in the window of last steps, and before.

    The variance now is what the 20 steps before the window show (see `step_variance`), and more by as much as the
    steps' own standard errors have grown since. The run knows how much moves from step to step: clustered errors hold
    that prompts differ, too, which does not move where each step has the same prompts.
    """
    end = len(values) - window
    before = slice(max(end - NOISE_STEPS, 0), end)
    variance, freedom = step_variance(values[before])
    own = np.nan_to_num(stderrs) ** 2
    was, now = float(own[before].mean()), float(own[end:].mean())
    return StepNoise(variance, variance * max(now / was, 1.0) if was > 0 else variance, freedom)


def step_variance(values: Floats) -> tuple[float, float]:
    """Return the variance of single steps about a drift, by second differences, and its degrees of freedom.

    ``mean((x_{i-1} - 2 x_i + x_{i+1})^2) / 6``, which a steady drift does not move. Neighbours share steps: squares of
    normals correlate by 4/9 with the next and by 1/36 with the one after, and m are worth
    ``m / (1 + 2 (4/9 + 1/36))``.

    Examples
    --------
    >>> variance, freedom = step_variance(0.1 * np.arange(2000) + np.random.default_rng(0).normal(size=2000))
    >>> round(variance, 1), round(freedom)
    (1.0, 1028)
    """
    bends = np.diff(values, 2)
    if not len(bends):
        return math.inf, 1.0
    return float((bends**2).mean()) / 6, max(len(bends) / (1 + 2 * (4 / 9 + 1 / 36)), 1.0)


def as_normal(difference: float, stderr: float, freedom: float) -> float:
    """Return Student's t, for a difference above 0, as the normal quantile of nearly the same probability.

    References
    ----------
    Wallace, "Bounds on normal approximations to Student's and the chi-square distributions", Annals of Mathematical
    Statistics 1959, doi:10.1214/aoms/1177706076.

    Examples
    --------
    >>> round(as_normal(2.228, 1.0, 10.0), 2), as_normal(1.0, 0.0, 10.0)
    (1.96, inf)
    """
    if stderr == 0:
        return math.inf
    t = difference / stderr
    if math.isinf(freedom):
        return t
    return (8 * freedom + 1) / (8 * freedom + 3) * math.sqrt(freedom * math.log1p(t * t / freedom))


def onset(values: Floats, was: float, limit: float) -> int:
    """Return the index of the first step that had moved, of a series [n] that rose from a level beyond a limit.

    By least squares, it is where a straight line bends or jumps, in as much of the past as the move can be in: until
    three steps' mean had passed the limit, and from as long before half of the way as the second half took, thrice.

    Examples
    --------
    >>> steps = np.arange(80)
    >>> onset(np.clip(steps - 40.0, 0.0, 20.0) + np.sin(steps), was=0.0, limit=15.0)
    41
    >>> onset(np.where(steps < 40, 0.0, 9.0), was=0.0, limit=5.0)
    40
    """
    smooth = np.convolve(values, np.full(3, 1 / 3), mode="valid")  # of each step with its neighbours, from the second
    below = np.flatnonzero(smooth < (was + limit) / 2)
    half_way = int(below[-1]) + 1 if len(below) else 0
    passed = np.flatnonzero(smooth[half_way:] > limit)
    end = min(half_way + int(passed[0]) + 3, len(values)) if len(passed) else len(values)
    start = max(half_way - BACK * (end - 1 - half_way) - MORE, 0)
    part, x = values[start:end], np.arange(end - start, dtype=np.float64)
    # Of a line that bends after step i, step i + 1 is the first that has moved.
    moved = [(i + 1, np.maximum(x - i, 0.0)) for i in range(1, len(part) - 1)]
    moved += [(i, (x >= i).astype(np.float64)) for i in range(1, len(part))]
    squares = [_residual_squares(np.stack([np.ones(len(x)), x, bent], axis=1), part) for _, bent in moved]
    return start + (moved[int(np.argmin(squares))][0] if moved else 0)


def _beyond_noise(levels: list[Level], n: int, alarm_rate: float) -> Level | None:
    """Return the clearest of the levels if it is beyond noise; the windows share the rate."""
    best = max(levels, key=lambda level: level.errors, default=None)
    return best if best and best.errors > is_enough(n - 2 * FIRST + 1, alarm_rate / len(WINDOWS)) else None


def _residual_squares(columns: Floats, values: Floats) -> float:
    fitted, *_ = np.linalg.lstsq(columns, values)
    return float(((values - columns @ fitted) ** 2).sum())
