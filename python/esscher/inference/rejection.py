"""Rejection sampling, exact where a bound holds and quasi where it does not, and what a bound costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher import _core
from esscher.groups import Groups, as_groups
from esscher.inference.validation import as_column, finite_column
from esscher.weights.weighing import weigh

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.weights.weighing import Weights

FINITE = "a bound is finite"


class Rejection(NamedTuple):
    """The accepted ones of N samples in P groups.

    Attributes
    ----------
    accepted
        Indices of the accepted samples [A], ascending.
    groups
        The accepted samples of each target.
    acceptance_rate
        Share of samples [P] that are accepted in expectation, ``mean min(1, w / b)``: less noisy than the share that
        was accepted.
    log_z
        Estimate of the target's log Z [P] in nats, the log of the mean weight, whatever the bound.
    exceeding
        Share of samples [P] whose weight is above the bound: 0 if these samples show no departure from exactness.
    """

    accepted: NDArray[np.int64]
    groups: Groups
    acceptance_rate: NDArray[np.float64]
    log_z: NDArray[np.float64]
    exceeding: NDArray[np.float64]


class QuasiRejection(NamedTuple):
    """What quasi-rejection under each of B bounds costs and how close it comes to the target, in P groups.

    Attributes
    ----------
    log_bounds
        The bounds [B] in nats.
    acceptance_rate
        Share of samples that is accepted [B, P].
    kl
        KL of the law of the accepted samples from the target, ``KL(target‖law)`` [B, P] in nats.
    total_variation
        Total variation between the same two [B, P], from 0 to 1.
    """

    log_bounds: NDArray[np.float64]
    acceptance_rate: NDArray[np.float64]
    kl: NDArray[np.float64]
    total_variation: NDArray[np.float64]


def rejection(
    log_target: ArrayLike,
    log_proposal: ArrayLike,
    log_bound: ArrayLike,
    rng: np.random.Generator,
    groups: ArrayLike | None = None,
) -> Rejection:
    """Keep each sample of a proposal with probability ``min(1, w / b)``, where ``w = target / proposal``.

    If no sequence there is has a weight above b, the accepted samples are exact, independent draws from the target.
    Otherwise this is quasi-rejection: their law is ``min(target, b proposal)`` over its normaliser, whose log is
    ``log_bound + log(acceptance_rate)``; `quasi_rejection` says how far that is from the target. A bound taken from the
    largest weight seen makes `exceeding` 0, but not the draws exact. A group in which nothing has weight, an empty one
    included, accepts nothing: ``acceptance_rate = 0``, ``log_z = -inf``.

    Parameters
    ----------
    log_target
        Unnormalised log-prob of each sample under the target [N] in nats; -inf is never accepted.
    log_proposal
        Log-prob of each sample under the distribution it was drawn from [N] in nats; finite.
    log_bound
        log b in nats, one for all groups or one for each [P]; finite.
    rng
        Source of the decisions.
    groups
        Offsets of the samples that share a target [P + 1]; all share one if not given.

    Raises
    ------
    ValueError
        If lengths disagree, `log_target` is NaN or +inf, `log_proposal` or `log_bound` is not finite, or `groups` are
        no offsets.

    References
    ----------
    Eikema, Kruszewski, Dance, Elsahar, Dymetman, "An approximate sampler for energy-based models with divergence
    diagnostics", TMLR 2022, openreview.net/forum?id=VW4IrC0n0M.

    Examples
    --------
    >>> import numpy as np
    >>> log_target = np.log([1.0, 0.5, 2.0, 2.0])
    >>> got = rejection(log_target, np.zeros(4), 0.0, np.random.default_rng(0), groups=[0, 2, 4])
    >>> got.accepted, got.groups
    (array([0, 1, 2, 3]), Groups(offsets=array([0, 2, 4])))
    >>> got.acceptance_rate, got.exceeding
    (array([0.75, 1.  ]), array([0., 1.]))
    """
    log_weights = _core.log_ratios(as_column("log_target", log_target), as_column("log_proposal", log_proposal))
    found = as_groups(groups, len(log_weights))
    excess = log_weights - found.spread(_bound_of_each_group(log_bound, len(found.sizes)))
    log_chances = np.minimum(excess, 0.0)
    # Minus an exponential is the log of a uniform, and never the log of 0.
    accepted = np.flatnonzero(-rng.standard_exponential(len(excess)) <= log_chances)
    return Rejection(
        accepted=accepted,
        groups=Groups(np.searchsorted(accepted, found)),
        acceptance_rate=np.exp(weigh(log_chances, found).log_z),
        log_z=weigh(log_weights, found).log_z,
        exceeding=found.sums(excess > 0) / np.maximum(found.sizes, 1),
    )


def quasi_rejection(
    log_target: ArrayLike, log_proposal: ArrayLike, log_bounds: ArrayLike, groups: ArrayLike | None = None
) -> QuasiRejection:
    """Estimate, for a grid of bounds, the acceptance rate of `rejection` and how close its law is to the target.

    With ``w = target / proposal`` and ``m = min(w, b)``, both self-normalised over the samples of a group to p and p_b:
    acceptance = mean(m) / b, ``KL(target‖law) = sum p log(p / p_b)``, total variation = ``sum |p - p_b| / 2``. A higher
    bound accepts less and comes closer. Nothing is drawn: these are importance-sampling estimates, as good as the
    weights' `ess`, and blind to what was not sampled: a bound above every weight seen gets 0 for both distances.

    Parameters
    ----------
    log_target
        Unnormalised log-prob of each sample under the target [N] in nats; -inf gives weight 0.
    log_proposal
        Log-prob of each sample under the distribution it was drawn from [N] in nats; finite.
    log_bounds
        log b to try [B] in nats, each for all groups; finite, in any order.
    groups
        Offsets of the samples that share a target [P + 1]; all share one if not given.

    Returns
    -------
    One row for each bound. Where nothing in a group has weight, the acceptance rate is 0 and the distances are NaN:
    there is no target to be far from.

    Raises
    ------
    ValueError
        If lengths disagree, `log_target` is NaN or +inf, `log_proposal` or a bound is not finite, or `groups` are no
        offsets.

    References
    ----------
    Eikema, Kruszewski, Dance, Elsahar, Dymetman, "An approximate sampler for energy-based models with divergence
    diagnostics", TMLR 2022, openreview.net/forum?id=VW4IrC0n0M.

    Examples
    --------
    >>> import numpy as np
    >>> got = quasi_rejection(np.log([1.0, 1.0, 2.0, 4.0]), np.zeros(4), np.log([1.0, 2.0, 4.0]))
    >>> got.acceptance_rate.ravel()
    array([1.  , 0.75, 0.5 ])
    >>> got.kl.ravel().round(4), got.total_variation.ravel().round(4)
    (array([0.1733, 0.0589, 0.    ]), array([0.25  , 0.1667, 0.    ]))
    """
    log_weights = _core.log_ratios(as_column("log_target", log_target), as_column("log_proposal", log_proposal))
    weights = weigh(log_weights, as_groups(groups, len(log_weights)))
    bounds = finite_column("log_bounds", log_bounds, FINITE)
    acceptance_rate, kl, total_variation = np.zeros((3, len(bounds), len(weights.groups.sizes)))
    for row, bound in enumerate(bounds):
        bounded = weigh(np.minimum(log_weights, bound), weights.groups)
        acceptance_rate[row] = np.exp(np.minimum(bounded.log_z - bound, 0.0))
        kl[row], total_variation[row] = _distances(weights, bounded)
    kl[:, weights.ess == 0] = total_variation[:, weights.ess == 0] = np.nan
    return QuasiRejection(bounds.copy(), acceptance_rate, kl, total_variation)


def _distances(weights: Weights, others: Weights) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """KL(p‖q) and total variation of two laws over the samples of each group, which have the same support."""
    log_p, log_q, sums = weights.log_weights, others.log_weights, weights.groups.sums
    p, q = np.exp(log_p), np.exp(log_q)
    ratios = np.subtract(log_p, log_q, out=np.zeros(len(log_p)), where=log_p > -np.inf)
    kl, total_variation = sums(p * ratios), sums(np.abs(p - q)) / 2
    # A rounding below 0, or above 1, is neither.
    return np.maximum(kl, 0.0), np.minimum(total_variation, 1.0)


def _bound_of_each_group(log_bound: ArrayLike, groups: int) -> NDArray[np.float64]:
    bounds = np.asarray(log_bound, dtype=np.float64)
    if bounds.ndim == 0:
        bounds = np.full(groups, bounds)
    elif bounds.shape != (groups,):
        raise ValueError(f"log_bound has shape {bounds.shape}: it is one number, or one for each of {groups} groups")
    return finite_column("log_bound", bounds, FINITE)
