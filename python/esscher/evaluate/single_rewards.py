"""Rewards by name, of which the reward is a sum: the mean of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher.estimate import clustered_mean
from esscher.groups import Groups

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from esscher.estimate import Estimate


def estimate_rewards(rewards: Mapping[str, NDArray[np.float64]], groups: Groups) -> dict[str, Estimate]:
    """Estimate the mean of each reward over the completions that have it, with an error clustered by prompt.

    Parameters
    ----------
    rewards
        Each reward [N], by its name; NaN where a completion has none. One that none has is left out.
    groups
        Which completions share a prompt.

    Examples
    --------
    >>> found = estimate_rewards({"right": np.array([1.0, 0.0, np.nan])}, Groups.from_sizes([2, 1]))
    >>> found["right"].value
    0.5
    """
    found = {}
    for name, values in rewards.items():
        kept = ~np.isnan(values)
        sizes = groups.sums(kept)
        if kept.any():
            found[name] = clustered_mean(values[kept], Groups.from_sizes(sizes[sizes > 0]))
    return found
