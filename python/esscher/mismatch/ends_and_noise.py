"""Differences at the ends of rows only, and differences without a pattern."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.mismatch.temperature import FEWEST_CONTEXT_PAIRS
from esscher.mismatch.units import MAD_TO_SD
from esscher.mismatch.values import LOUD, is_rounding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.mismatch.alignment import Pairs
    from esscher.mismatch.kept_mass import KeptMass
    from esscher.mismatch.temperature import Contexts, Temperature

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

# Last tokens are apart if they differ by more than nearly all others: their 99th percentile and half as much again.
LAST_QUANTILE, LAST_FACTOR = 0.99, 1.5
# Where only ended rows are concerned these may be few; of the other tokens 1 % at most are as far out by construction.
LAST_SHARE, FEWEST_LAST, FEWEST_OTHERS = 0.2, 3, 8

# With fewer tokens beyond rounding than this, what remains is rounding.
NOISY_SHARE = 0.05
# A context that was mistaken for another one shows in few pairs of tokens, noise in most.
NOISY_PAIRS = 0.5


class LastTokens(NamedTuple):
    """Last tokens that differ [T], out of how many, and up to which difference the other tokens are ordinary."""

    hit: Mask
    of: int
    ordinary: float


class Noise(NamedTuple):
    """Differences that nothing explains: their size as a standard deviation, and which of them are beyond rounding.

    These are differences of tokens, or of pairs of tokens if they were seen ``within_contexts``.
    """

    sd: float
    where: Mask
    within_contexts: bool

    @property
    def tokens(self) -> int:
        """How many differences are beyond rounding."""
        return int(self.where.sum())


def last_tokens(pairs: Pairs, terminated: Mask | None) -> LastTokens | None:
    """Return the last tokens of rows if they differ as others do not; of ended rows alone where that is known."""
    size, others = np.abs(pairs.difference), np.abs(pairs.difference[~pairs.last])
    if len(others) < FEWEST_OTHERS:
        return None
    ordinary = max(LAST_FACTOR * float(np.quantile(others, LAST_QUANTILE)), LOUD)
    ends = [pairs.last] if terminated is None else [pairs.last, pairs.last & terminated[pairs.row]]
    for last in ends:
        hit = last & (size > ordinary)
        if hit.sum() >= max(FEWEST_LAST, LAST_SHARE * last.sum()):
            return LastTokens(hit, int(last.sum()), ordinary)
    return None


def noise(
    pairs: Pairs, contexts: Contexts, tolerance: Floats, tempered: Temperature | None, kept: KeptMass | None
) -> Noise | None:
    """Return what is left of the differences once a temperature and a kept mass are taken out, if it is not rounding.

    In one context both are known. Between contexts a kept mass still says that nothing moves down, and a temperature
    says nothing.
    """
    if tempered is None and kept is None:
        return _noise(pairs.difference, tolerance, within_contexts=False)
    if len(contexts.train) >= FEWEST_CONTEXT_PAIRS:
        slope = 0.0 if tempered is None else 1.0 / tempered.tau - 1.0
        return _noise((contexts.moved - slope * contexts.train), contexts.tolerance, within_contexts=True)
    if kept is not None and tempered is None:
        moved = pairs.difference if kept.column == "rollout" else -pairs.difference
        down = moved < -np.maximum(tolerance, LOUD)
        if down.mean() > NOISY_SHARE:
            # Half of a symmetrical noise is down.
            return Noise(MAD_TO_SD * float(np.median(-moved[down])), down, False)
    return None


def _noise(left: Floats, tolerance: Floats, *, within_contexts: bool) -> Noise | None:
    size = np.abs(left)
    beyond = size > tolerance
    if beyond.mean() <= NOISY_PAIRS if within_contexts else is_rounding(left, tolerance):
        return None
    sd = MAD_TO_SD * float(np.median(size)) / (math.sqrt(2) if within_contexts else 1.0)
    return Noise(sd, beyond, within_contexts)
