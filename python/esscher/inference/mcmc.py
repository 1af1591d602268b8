"""Markov chains that have a target as their law, with given samples as proposals."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher import _core
from esscher.groups import as_groups
from esscher.inference.validation import as_column
from esscher.weights.weighing import weigh

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.groups import Groups


class Chain(NamedTuple):
    """One Markov chain for each of P groups, over N samples in all.

    Attributes
    ----------
    indices
        Which sample the chain is at after each proposal [N], group after group. In the places before the first sample
        with weight it is that one: drop them with the rest of the burn-in.
    acceptance_rate
        Share of the proposals after the start [P] that are accepted in expectation, ``mean min(1, w' / w)`` over the
        states that were passed through; NaN if there is no proposal after the start.
    """

    indices: NDArray[np.int64]
    acceptance_rate: NDArray[np.float64]


def independent_metropolis(
    log_target: ArrayLike, log_proposal: ArrayLike, rng: np.random.Generator, groups: ArrayLike | None = None
) -> Chain:
    """Run independent Metropolis-Hastings through each group's samples, proposed in the order in which they are given.

    The chain starts at the first sample with weight, and moves to the next sample with probability ``min(1, w' / w)``,
    where w is target / proposal at the present one and w' at the next. That leaves the target invariant; the law of the
    t-th state comes closer to it with every step, by a factor ``1 - Z / max w`` if weights are bounded, so early states
    are burn-in. A sample is repeated as often as the proposals after it are rejected: that is its weight.

    Parameters
    ----------
    log_target
        Unnormalised log-prob of each sample under the target [N] in nats; -inf is never moved to.
    log_proposal
        Log-prob of each sample under the distribution it was drawn from [N] in nats; finite. The samples of a group
        must be independent draws.
    rng
        Source of the decisions.
    groups
        Offsets of the samples that make a chain [P + 1]; all make one if not given.

    Raises
    ------
    ValueError
        If lengths disagree, `log_target` is NaN or +inf, `log_proposal` is not finite, `groups` are no offsets, or a
        group has no sample with weight to start from, as an empty one.

    References
    ----------
    Tierney, "Markov chains for exploring posterior distributions", Annals of Statistics 1994,
    doi:10.1214/aos/1176325750 (independence chains).
    Mengersen, Tweedie, "Rates of convergence of the Hastings and Metropolis algorithms", Annals of Statistics 1996,
    doi:10.1214/aos/1033066201, theorem 2.1 (the factor).

    Examples
    --------
    >>> import numpy as np
    >>> log_target = [-np.inf, 0.0, 3.0, 0.0, 0.0, 1.0]
    >>> chain = independent_metropolis(log_target, np.zeros(6), np.random.default_rng(0), groups=[0, 4, 6])
    >>> chain.indices
    array([1, 1, 2, 2, 4, 5])
    >>> chain.acceptance_rate.round(4)
    array([0.5249, 1.    ])
    """
    log_ratios = _core.log_ratios(as_column("log_target", log_target), as_column("log_proposal", log_proposal))
    weights = weigh(log_ratios, as_groups(groups, len(log_ratios)))
    weightless = np.flatnonzero(weights.ess == 0)
    if len(weightless):
        raise ValueError(f"group {weightless[0]} has no weight, so no chain can start in it")
    with_weight = np.flatnonzero(log_ratios > -np.inf)
    starts = with_weight[np.searchsorted(with_weight, weights.groups.starts)]
    slack = rng.standard_exponential(len(log_ratios))
    slack[starts] = np.inf
    # Until a group's start the fold is still in the group before, whose samples come before.
    indices = np.maximum(_states(log_ratios, slack), weights.groups.spread(starts))
    return Chain(indices, _acceptance_rates(log_ratios, indices, starts, weights.groups))


def _states(log_weights: NDArray[np.float64], slack: NDArray[np.float64]) -> NDArray[np.int64]:
    """State after each proposal [N]: it moves where minus the slack, the log of a uniform, is at most log w' / w."""
    weights, slacks = log_weights.tolist(), slack.tolist()

    def step(state: int, proposed: int) -> int:
        return proposed if slacks[proposed] >= weights[state] - weights[proposed] else state

    # Every step needs the state before it. A fold over Python's own numbers takes a few tenths of a microsecond a
    # step, less than the smallest NumPy call.
    return np.fromiter(accumulate(range(len(weights)), step), np.int64, len(weights))


def _acceptance_rates(
    log_weights: NDArray[np.float64], indices: NDArray[np.int64], starts: NDArray[np.int64], groups: Groups
) -> NDArray[np.float64]:
    proposed = np.flatnonzero(np.arange(len(indices)) > groups.spread(starts))
    chances = np.zeros(len(indices))
    chances[proposed] = np.exp(np.minimum(log_weights[proposed] - log_weights[indices[proposed - 1]], 0.0))
    proposals = groups.offsets[1:] - starts - 1
    rates: NDArray[np.float64] = np.full(len(starts), np.nan)
    np.divide(groups.sums(chances), proposals, out=rates, where=proposals > 0)
    return rates
