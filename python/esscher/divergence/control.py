"""The control variate of k1: what is 0 on average and varies with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher.groups import Groups

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.divergence.estimators import KlEstimators
    from esscher.divergence.weighting import PolicyWeights

# With fewer completions a fitted coefficient would explain them away.
FEWEST_FITTED = 10
# Squares of what is fitted to must not overflow; what this cuts makes the coefficient 0 to any digit as it is.
LARGEST_FITTED = 1e100


def control_coefficients(columns: KlEstimators, weights: PolicyWeights, groups: Groups) -> NDArray[np.float64]:
    """Fit the c for which ``k1 + c (k3 - k1)`` varies least, for each completion [N]; 0 where too little is there.

    The second term is 0 on average only while c does not depend on the completion that it is for. So c is fitted to the
    completions of all other prompts, and with a single prompt to all its other completions.

    References
    ----------
    Avramidis, Wilson, "A splitting scheme for control variates", Operations Research Letters 1993.

    Examples
    --------
    >>> import numpy as np
    >>> from esscher.divergence.estimators import of_log_ratios
    >>> from esscher.divergence.weighting import PolicyWeights
    >>> from esscher.groups import Groups
    >>> d = np.linspace(-0.2, 0.4, 12)
    >>> control_coefficients(of_log_ratios(d), PolicyWeights(np.ones(12)), Groups([0, 12]))[:4].round(2)
    array([0.76, 0.8 , 0.83, 0.86])
    """
    n = len(columns.k1)
    if not np.isfinite(columns.k3).all():
        return np.zeros(n)
    clusters = Groups(np.arange(n + 1)) if len(groups.sizes) == 1 else groups
    control = np.clip(weights.relative * (columns.k3 - columns.k1), -LARGEST_FITTED, LARGEST_FITTED)
    centred = weights.relative * (columns.k1 - columns.k1.mean())

    def of_others(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return _without_each(clusters.sums(values))

    mean = _divided(of_others(centred), of_others(weights.relative))
    products = of_others(centred * control) - mean * of_others(weights.relative * control)
    coefficients = -_divided(products, of_others(control * control))
    return clusters.spread(np.where(n - clusters.sizes >= FEWEST_FITTED, coefficients, 0.0))


def _without_each(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum all but each [P]; not as a difference, since one may be nearly all there is."""
    before = np.concatenate([[0.0], np.cumsum(values[:-1])])
    after = np.concatenate([np.cumsum(values[:0:-1])[::-1], [0.0]])
    others: NDArray[np.float64] = before + after
    return others


def _divided(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide; 0 where there is nothing to divide by."""
    quotients = np.zeros(len(numerators))
    np.divide(numerators, denominators, out=quotients, where=denominators > 0)
    return quotients
