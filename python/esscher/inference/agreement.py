"""Whether several estimates of the same quantity agree within their errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.estimate import ROUNDING
from esscher.inference.validation import refuse

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class Agreement(NamedTuple):
    """Whether estimates of the same quantity agree.

    Attributes
    ----------
    largest
        Largest difference of two estimates, in standard errors of the difference.
    agrees
        Whether that is no more than the threshold.
    """

    largest: NDArray[np.float64]
    agrees: NDArray[np.bool_]


def agreement(values: ArrayLike, stderrs: ArrayLike, threshold: float = 3.0) -> Agreement:
    """Say whether independent estimates of log Z agree: ``max |v_i - v_j| / sqrt(s_i^2 + s_j^2)`` over all pairs.

    Estimates that disagree mean that one of them is wrong, most often one whose samples missed where the weight is:
    its standard error is then too small. An estimate with an infinite standard error says nothing, and a difference
    below 1e-13 ``max(|v_i|, |v_j|, 1)`` is rounding and counts as none.

    Parameters
    ----------
    values
        The estimates, [K] of one quantity or [K, P] of P quantities; finite where their standard error is.
    stderrs
        Their standard errors, of the same shape; at least 0, inf for an estimate that has none.
    threshold
        The largest difference taken for chance, in standard errors.

    Raises
    ------
    ValueError
        If shapes disagree, there are fewer than two estimates, a standard error is NaN or negative, or a value is not
        finite though its standard error is.

    Examples
    --------
    >>> got = agreement([[1.0, 1.0], [1.5, 3.0], [1.2, 1.1]], [[0.3, 0.3], [0.4, 0.4], [0.1, 0.1]])
    >>> got.largest.round(2), got.agrees
    (array([1.  , 4.61]), array([ True, False]))
    """
    estimates, errors = _estimates(values, stderrs)
    # An estimate that says nothing may be -inf; over an infinite scale it differs from none.
    estimates = np.where(np.isinf(errors), 0.0, estimates)
    gaps, size = np.abs(estimates[:, None] - estimates), np.maximum(np.abs(estimates), 1.0)
    # What rounding makes of the same estimate by two ways is no difference.
    gaps[gaps <= ROUNDING * np.maximum(size[:, None], size)] = 0.0
    scales = np.hypot(errors[:, None], errors)
    exact = np.where(gaps > 0, np.inf, 0.0)
    largest = np.divide(gaps, scales, out=exact, where=scales > 0).max(axis=(0, 1))
    return Agreement(largest, largest <= threshold)


def _estimates(values: ArrayLike, stderrs: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    estimates, errors = np.asarray(values, dtype=np.float64), np.asarray(stderrs, dtype=np.float64)
    if estimates.shape != errors.shape or estimates.ndim not in (1, 2):
        raise ValueError(f"values has shape {estimates.shape}, stderrs {errors.shape}: both are [K] or both [K, P]")
    if len(estimates) < 2:
        raise ValueError(f"values has {len(estimates)} estimates: it takes two to agree")
    refuse("stderrs", errors.ravel(), ~(errors >= 0).ravel(), "a standard error is at least 0")
    wrong = ~np.isfinite(estimates) & np.isfinite(errors)
    refuse("values", estimates.ravel(), wrong.ravel(), "it must be finite where its standard error is")
    return estimates, errors
