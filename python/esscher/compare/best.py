"""Which way to log Z is the best in each prompt, and what is left of the bias of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.compare.ways import OfPrompts, by_every_way
from esscher.inference.agreement import agreement
from esscher.weights import LeftBias, left_bias, worth_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.compare.ways import Drawn
    from esscher.estimate import Estimate

# Estimates that are further apart, in standard errors of their difference, do not differ by chance.
APART = 3.0


class Ways(NamedTuple):
    """log Z by every way and by the best, and what is left of the bias of each.

    Attributes
    ----------
    found
        By name: "prior", "policy", and where it can be "both".
    best
        Each prompt by the way that is best there.
    chosen
        Which that is, as an index of `found` [P].
    left, left_of_best
        What is left of the bias of each of `found`, and of `best`.
    sizes
        The policy's numbers of completions, by which prompts count [P].
    """

    found: dict[str, OfPrompts]
    best: OfPrompts
    chosen: NDArray[np.int64]
    left: dict[str, LeftBias]
    left_of_best: LeftBias
    sizes: NDArray[np.int64]


def find_ways(prior: Drawn, policy: Drawn) -> Ways:
    """Estimate log Z by every way, and choose the best in each prompt (see `LogZ.best`)."""
    sizes, found = policy.groups.sizes, by_every_way(prior, policy)
    halves = [by_every_way(*cut) for cut in zip(prior.in_halves(), policy.in_halves(), strict=True)]
    chosen = _choose(found, sizes)
    best, best_of_halves = _take(found, chosen), [_take(cut, np.repeat(chosen, 2)) for cut in halves]
    left = {name: _left(way, [cut[name] for cut in halves], sizes) for name, way in found.items()}
    return Ways(found, best, chosen, left, _left(best, best_of_halves, sizes), sizes)


def _left(way: OfPrompts, halves: list[OfPrompts], sizes: NDArray[np.int64]) -> LeftBias:
    return left_bias(way.log_z, [cut.log_z for cut in halves], sizes, worth_of(way.ess, [cut.ess for cut in halves]))


def difference_of(one: Estimate, other: Estimate) -> tuple[float, bool]:
    """Say how many standard errors lie between two estimates, and whether that may be chance."""
    largest, agrees = agreement([one.value, other.value], [one.stderr, other.stderr], APART)
    return float(largest), bool(agrees)


def _choose(ways: dict[str, OfPrompts], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index of the best way in each prompt [P]."""
    default = _better_of_two(ways["prior"], ways["policy"], sizes)
    used, other = list(ways.values())[default], list(ways.values())[1 - default]
    with np.errstate(invalid="ignore"):  # -inf - -inf, where neither is known
        is_more = other.log_z - used.log_z > APART * np.hypot(other.stderr, used.stderr)
    chosen: NDArray[np.int64] = np.where(other.known & (is_more | ~used.known), 1 - default, default)
    return np.where(ways["both"].known, 2, chosen) if "both" in ways else chosen


def _better_of_two(prior: OfPrompts, policy: OfPrompts, sizes: NDArray[np.int64]) -> int:
    """Return 1 if over all prompts the policy's samples are the better ones, 0 if the prior's are.

    Prompt by prompt the smaller error would be that of the smaller log Z: samples that miss weight show neither.
    """
    compared = sizes * (prior.known & policy.known)
    if not compared.any():
        return int(policy.known.sum() > prior.known.sum())
    of_prior, of_policy = prior.mean(compared), policy.mean(compared)
    if difference_of(of_prior, of_policy)[1]:
        return int(of_policy.stderr < of_prior.stderr)
    return int(of_policy.value > of_prior.value)


def _take(ways: dict[str, OfPrompts], chosen: NDArray[np.int64]) -> OfPrompts:
    """Return log Z of each prompt by the way that was chosen for it."""

    def take(columns: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        taken: NDArray[np.float64] = np.stack(columns)[chosen, np.arange(len(chosen))]
        return taken

    known = list(ways.values())
    return OfPrompts(
        *(take([way.log_z for way in known]), take([way.stderr for way in known]), take([way.ess for way in known])),
        of_prior=None,
        of_policy=None,
    )
