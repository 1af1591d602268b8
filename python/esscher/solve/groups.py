"""Samples of several prompts, in which some may have none."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.ragged import Offsets


class Groups(NamedTuple):
    """Prompts that have samples: where each begins [G], how many it has [G], and its share in a mean [G]."""

    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    shares: NDArray[np.float64]

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum over each prompt's samples: [N, ...] to [G, ...]."""
        total: NDArray[np.float64] = np.add.reduceat(values, self.starts, axis=0)
        return total

    def spread(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give each sample its prompt's value: [G, ...] to [N, ...], or to [1, ...] if there is one prompt."""
        return values if len(values) == 1 else np.repeat(values, self.sizes, axis=0)


def filled_groups(offsets: Offsets) -> Groups:
    """Leave out prompts without samples."""
    sizes = np.diff(offsets)
    kept = sizes > 0
    return Groups(offsets[:-1][kept], sizes[kept], sizes[kept] / max(int(sizes.sum()), 1))
