"""Resampling: equally weighted draws from weighted samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from esscher import _core
from esscher.groups import as_groups
from esscher.inference.validation import as_column
from esscher.weights.weighing import weigh

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.groups import Groups

Scheme = Literal["multinomial", "residual", "stratified", "systematic"]
# A number of copies this little below a whole one, relative to it, is that whole one: the weights' rounding (5e-14, see
# `exponential_weights`) is far below it, and what a user can see far above.
CERTAIN_COPY = 1e-12


def resample(
    log_weights: ArrayLike,
    size: int,
    rng: np.random.Generator,
    *,
    scheme: Scheme = "systematic",
    groups: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Draw `size` samples from every group, each in proportion to its weight.

    Under every scheme sample i is drawn ``size * w_i`` times on average; the schemes differ in the variance of that
    number, which falls from "multinomial" to "stratified" to "systematic", and from "multinomial" to "residual".

    Parameters
    ----------
    log_weights
        Log-weights [N], normalised or not; -inf is never drawn.
    size
        How many draws a group, at least 1.
    rng
        Source of the uniforms.
    scheme
        Independent uniforms ("multinomial"), one in each of `size` equal strata ("stratified"), or one offset shared by
        all strata ("systematic"); or ``floor(size * w_i)`` copies without chance, and the rest from what is left of the
        weights by independent uniforms ("residual").
    groups
        Offsets [P + 1]; all samples are one group if not given.

    Returns
    -------
    Indices into the N samples [P * size], group after group.

    Raises
    ------
    ValueError
        If a group has no weight, a log-weight is NaN or +inf, `size` is below 1, or `scheme` is none of the above.

    References
    ----------
    Douc, Cappé, Moulines, "Comparison of resampling schemes for particle filtering", ISPA 2005, arXiv:cs/0507025,
    section 2.

    Examples
    --------
    >>> import numpy as np
    >>> resample(np.log([0.5, 0.25, 0.25]), 4, np.random.default_rng(0))
    array([0, 0, 1, 2])
    >>> resample(np.log([0.5, 0.3, 0.2]), 4, np.random.default_rng(0), scheme="residual")
    array([0, 0, 1, 2])
    """
    check_scheme(scheme)
    if size < 1:
        raise ValueError(f"size is {size}: draw at least 1 sample")
    column = as_column("log_weights", log_weights)
    found = as_groups(groups, len(column))
    if scheme == "residual":
        return _residual(column, found, size, rng)
    return _core.resample(column, found.offsets, _uniforms(len(found.sizes), size, rng, scheme).ravel())


def check_scheme(scheme: str) -> None:
    """Refuse what names no scheme of `resample`."""
    if scheme not in get_args(Scheme):
        raise ValueError(f"scheme is {scheme!r}: it must be one of {', '.join(get_args(Scheme))}")


def _residual(
    log_weights: NDArray[np.float64], groups: Groups, size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    # Drawing nothing raises whatever the other schemes raise.
    _core.resample(log_weights, groups.offsets, np.empty(0))
    expected = size * np.exp(weigh(log_weights, groups).log_weights)
    # A rounding below a whole number must not turn a certain copy into a draw.
    copies = np.floor(expected * (1 + CERTAIN_COPY)).astype(np.int64)
    missing = size - groups.sums(copies)
    residuals = np.maximum(expected - copies, 0.0)
    left = np.log(residuals, out=np.full(len(residuals), -np.inf), where=residuals > 0)
    # The kernel draws equally often from every group, and wants weight in each: of a complete group none is kept.
    left = np.where(groups.spread(missing) > 0, left, log_weights)
    most = int(missing.max(initial=0))
    drawn = _core.resample(left, groups.offsets, _uniforms(len(missing), most, rng, "multinomial").ravel())
    drawn = drawn.reshape(len(missing), most)[np.arange(most) < missing[:, None]]
    indices = np.concatenate([np.repeat(np.arange(len(log_weights)), copies), drawn])
    return indices[np.argsort(groups.of[indices], kind="stable")]


def _uniforms(groups: int, size: int, rng: np.random.Generator, scheme: Scheme) -> NDArray[np.float64]:
    strata = np.arange(size)
    if scheme == "multinomial":
        return rng.random((groups, size))
    if scheme == "stratified":
        return _below_one((strata + rng.random((groups, size))) / size)
    return _below_one((strata + rng.random((groups, 1))) / size)


def _below_one(uniforms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Undo a rounding up to 1, which a uniform never is."""
    return np.minimum(uniforms, np.nextafter(1.0, 0.0))
