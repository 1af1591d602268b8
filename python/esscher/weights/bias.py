"""The bias of order 1/n of what rests on weights within a prompt, by the jackknife."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher.groups import as_groups

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.groups import Groups

# Where the other weights are a smaller share of the sum, they no longer say what the mean is biased by.
NEARLY_ALL = 0.05


def bias_of_log_mean(relative: NDArray[np.float64], groups: ArrayLike) -> NDArray[np.float64]:
    """Return the bias of the log of each prompt's mean weight [P], from its weights relative to that mean [N].

    The log of a noisy mean is on average too low (Jensen). By the jackknife, with x the share of each weight in their
    sum: ``(n - 1) / n * sum(log(1 - x) - log(1 - 1/n))``. Beyond x = 1/2 the logarithm goes on as its tangent, so that
    a weight that is nearly all there is does not decide.

    References
    ----------
    Quenouille, "Notes on bias in estimation", Biometrika 1956, doi:10.1093/biomet/43.3-4.353.

    Examples
    --------
    >>> import numpy as np
    >>> bias_of_log_mean(np.array([0.5, 1.0, 1.5]), np.array([0, 3])).round(4)
    array([-0.043])
    """
    groups = as_groups(groups, len(relative))
    sizes = groups.sizes
    x = relative / groups.spread(sizes)
    beyond = np.maximum(x - 0.5, 0.0)
    terms = np.log1p(-np.minimum(x, 0.5)) - 2 * beyond - np.log1p(-1.0 / groups.spread(np.maximum(sizes, 2)))
    bias: NDArray[np.float64] = (sizes - 1) / np.maximum(sizes, 1) * groups.sums(terms)
    return np.minimum(bias, 0.0)


def bias_of_weighted_mean(
    values: NDArray[np.float64], relative: NDArray[np.float64], groups: ArrayLike
) -> NDArray[np.float64]:
    """Return the bias of each prompt's self-normalised mean [P], from values and weights relative to their mean [N].

    Values of heavy weights are drawn too rarely, and count too much when they are. By the jackknife, with x the share
    of each weight in their sum: ``-(n - 1) / n * sum(x (v - mean) / max(1 - x, 0.05))``. Where one weight is nearly all
    there is the others, negligible as they are, would decide: hence the 0.05, and the bias is cut so that the mean
    without it lies among the values that have weight. Values of weight 0 do not count, whatever they are; where one
    that counts is infinite, so is the mean, and the bias is 0.

    References
    ----------
    Quenouille, "Notes on bias in estimation", Biometrika 1956, doi:10.1093/biomet/43.3-4.353.

    Examples
    --------
    >>> import numpy as np
    >>> bias_of_weighted_mean(np.array([0.0, 1.0, 2.0]), np.array([0.5, 1.0, 1.5]), np.array([0, 3])).round(4)
    array([-0.1556])
    """
    groups = as_groups(groups, len(relative))
    # Beside that of the heaviest weight, near which the mean may be, so that no digits are lost to a large offset.
    beside = np.where(relative > 0, values, 0.0)
    # A mean that is infinite has no bias.
    beside[groups.spread(groups.sums(np.isinf(beside)) > 0)] = 0.0
    beside -= beside[_heaviest(relative, groups)]
    beside[relative == 0] = 0.0
    x = relative / groups.spread(groups.sizes)
    means = groups.sums(x * beside)
    terms = x * (beside - groups.spread(means)) / np.maximum(1.0 - x, NEARLY_ALL)
    bias = -(groups.sizes - 1) / np.maximum(groups.sizes, 1) * groups.sums(terms)
    within: NDArray[np.float64] = np.clip(means - bias, groups.smallest(beside), groups.largest(beside))
    return means - within


def _heaviest(relative: NDArray[np.float64], groups: Groups) -> NDArray[np.int64]:
    """Where the largest weight of each entry's group is [N], the first of equal ones."""
    largest = np.flatnonzero(relative == groups.spread(groups.largest(relative)))
    first = largest[np.searchsorted(largest, groups.starts[groups.sizes > 0])]
    return np.repeat(first, groups.sizes[groups.sizes > 0])


def weighted_means(
    values: NDArray[np.float64], relative: NDArray[np.float64], groups: ArrayLike
) -> NDArray[np.float64]:
    """Return each prompt's self-normalised mean [P] less its bias of order 1/n; NaN where nothing has weight.

    Examples
    --------
    >>> import numpy as np
    >>> weighted_means(np.array([0.0, 1.0, 2.0]), np.array([0.5, 1.0, 1.5]), np.array([0, 3])).round(4)
    array([1.4889])
    """
    groups = as_groups(groups, len(relative))
    means = groups.means(relative * np.where(relative > 0, values, 0.0))
    means[groups.sums(relative) == 0] = np.nan
    return means - bias_of_weighted_mean(values, relative, groups)
