"""Means with a standard error that knows which completions share a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.ragged import Offsets


class Estimate(NamedTuple):
    """An estimated mean and its standard error, which is NaN where the data cannot tell."""

    value: float
    stderr: float


def clustered_mean(values: NDArray[np.float64], groups: Offsets) -> Estimate:
    """Return the mean over completions [N] with its standard error clustered by prompt.

    Completions of one prompt are not independent, prompts are: with residual sums ``u_p`` of the P prompts,
    ``stderr^2 = P / (P - 1) * sum_p u_p^2 / N^2`` (Liang and Zeger, Biometrika 1986). With a single prompt its
    completions are the independent draws.

    The standard error is NaN if there is only one draw, or if a value is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> value, stderr = clustered_mean(np.array([1.0, 2.0, 5.0, 6.0]), np.array([0, 2, 4]))
    >>> value, round(stderr, 6)
    (3.5, 2.0)
    """
    n, clusters = len(values), len(groups) - 1
    if n == 0:
        return Estimate(np.nan, np.nan)
    if not np.isfinite(values).all():
        # Of infinities of both signs there is no mean; of one sign, it is that infinity.
        signs = set(values[~np.isfinite(values)].tolist())
        return Estimate(signs.pop() if len(signs) == 1 else np.nan, np.nan)
    # Scaled by a power of two, which costs no digit, so that no sum of finite values overflows.
    exponent = int(np.frexp(np.abs(values).max())[1])
    values = np.ldexp(values, -exponent)
    mean = float(values.mean())
    if clusters == 1:
        groups, clusters = np.arange(n + 1), n
    if clusters == 1:
        return Estimate(float(np.ldexp(mean, exponent)), np.nan)
    residuals = np.add.reduceat(values - mean, groups[:-1])
    variance = clusters / (clusters - 1) * float(residuals @ residuals) / n**2
    return Estimate(float(np.ldexp(mean, exponent)), float(np.ldexp(variance**0.5, exponent)))
