"""Log Z from samples of a proposal and of the target itself, by the bridge between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.groups import as_filled_groups
from esscher.inference.mixture import log_shares
from esscher.inference.validation import below_infinity, finite_column
from esscher.weights.weighing import weigh

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.groups import Groups
    from esscher.weights.weighing import Weights


class BridgeLogZ(NamedTuple):
    """What the bridge between a proposal and a target says of P groups.

    Attributes
    ----------
    log_z
        Estimate of log Z [P] in nats; -inf where no sample of the proposal has weight.
    stderr
        Its standard error over other samples of these very groups [P] in nats, for independent draws; inf where there
        is nothing to tell it from. Of few samples it is rather too large, so that ``log_z`` ± 1.96 of it holds.
    overlap
        What the two distributions have in common [P]: 1 if they are the same, 0 if they share nothing. Below one over
        the number of samples, neither `log_z` nor `stderr` is to be trusted.
    iterations
        How many passes over the samples were made.
    converged
        Whether the last pass moved `log_z` by less than the tolerance [P].
    """

    log_z: NDArray[np.float64]
    stderr: NDArray[np.float64]
    overlap: NDArray[np.float64]
    iterations: int
    converged: NDArray[np.bool_]


class _Draws(NamedTuple):
    """Log of ``target / proposal`` of samples of one of the two, their groups, and the log of their share [P]."""

    log_ratios: NDArray[np.float64]
    groups: Groups
    log_share: NDArray[np.float64]


def bridge_log_z(
    log_target_of_proposals: ArrayLike,
    log_proposal_of_proposals: ArrayLike,
    log_target_of_targets: ArrayLike,
    log_proposal_of_targets: ArrayLike,
    groups_of_proposals: ArrayLike | None = None,
    groups_of_targets: ArrayLike | None = None,
    *,
    max_iterations: int = 1000,
    tolerance: float = 1e-10,
) -> BridgeLogZ:
    """Estimate log Z from samples of a proposal and of the target itself, by the optimal bridge between them.

    With ``l = target / proposal`` and s the share of each among all samples of a group, iterate

    ``Z <- mean_proposals[l / (s_t l + s_p Z)] / mean_targets[1 / (s_t l + s_p Z)]``

    from importance sampling's estimate. The samples of the target come from rejection, MCMC or SMC; the standard error
    takes them for independent. It is the larger of two that agree when there are enough samples: from the spread of
    both means, and ``sqrt((1 / overlap - 1) / (n s_p s_t))``, which grows as the two distributions share less.

    Parameters
    ----------
    log_target_of_proposals, log_proposal_of_proposals
        Log-prob of each sample of the proposal under the target, unnormalised (-inf for weight 0), and under the
        proposal (finite) [N] in nats.
    log_target_of_targets, log_proposal_of_targets
        The same of each sample of the target [M] in nats; finite.
    groups_of_proposals, groups_of_targets
        Offsets of the samples that share a target [P + 1]; all share one if not given.
    max_iterations
        After how many passes to give up; see `BridgeLogZ.converged`.
    tolerance
        Change of log Z in nats, relative where log Z is beyond 1, below which a group has converged.

    Raises
    ------
    ValueError
        If lengths or numbers of groups disagree, a log-prob breaks the rules above, `max_iterations` is below 1,
        `tolerance` is not positive, groups are no offsets, or a group is empty.

    References
    ----------
    Meng, Wong, "Simulating ratios of normalizing constants via a simple identity", Statistica Sinica 6, 1996, pages 831
    to 860 (the iteration); Frühwirth-Schnatter, "Estimating marginal likelihoods for mixture and Markov switching
    models using bridge sampling techniques", Econometrics Journal 2004, doi:10.1111/j.1368-423X.2004.00125.x (the
    spread of both means).

    Examples
    --------
    >>> import numpy as np
    >>> proposal = np.log([0.5, 0.5])
    >>> got = bridge_log_z(np.log([0.5, 1.5]), proposal, np.log([0.5, 1.5, 1.5, 1.5]), np.log([0.5, 0.5, 0.5, 0.5]))
    >>> np.exp(got.log_z).round(4), got.overlap.round(4), got.converged
    (array([2.]), array([0.9375]), array([ True]))
    """
    _check_limits(max_iterations, tolerance)
    of_proposals = _log_ratios("proposals", log_target_of_proposals, log_proposal_of_proposals)
    of_targets = _log_ratios("targets", log_target_of_targets, log_proposal_of_targets)
    finite_column("log_target_of_targets", log_target_of_targets, "a draw of the target has weight under it")
    in_proposals = as_filled_groups(groups_of_proposals, len(of_proposals), "groups_of_proposals")
    in_targets = as_filled_groups(groups_of_targets, len(of_targets), "groups_of_targets")
    if len(in_proposals) != len(in_targets):
        raise ValueError(
            f"groups_of_proposals has {len(in_proposals.sizes)} groups, groups_of_targets {len(in_targets.sizes)}: "
            "both have the same groups in the same order"
        )
    shares = log_shares(np.stack([in_proposals.sizes, in_targets.sizes], axis=1))
    proposals = _Draws(of_proposals, in_proposals, shares[:, 0])
    targets = _Draws(of_targets, in_targets, shares[:, 1])
    start = weigh(of_proposals, in_proposals).log_z
    barren = start == -np.inf
    # A group with no weight is carried along at an arbitrary value, so that no -inf is taken from another.
    log_z, iterations = np.where(barren, 0.0, start), 0
    while True:
        above, below = _log_terms(proposals, targets, log_z)
        moved = log_z + weigh(above, in_proposals).log_z - weigh(below, in_targets).log_z
        moved[barren] = 0.0
        converged = np.abs(moved - log_z) <= tolerance * np.maximum(1.0, np.abs(moved))
        log_z, iterations = moved, iterations + 1
        if converged.all() or iterations == max_iterations:
            break
    stderr, overlap = _error_and_overlap(proposals, targets, log_z)
    return BridgeLogZ(
        log_z=np.where(barren, -np.inf, log_z),
        stderr=np.where(barren, np.inf, stderr),
        overlap=np.where(barren, 0.0, overlap),
        iterations=iterations,
        converged=converged & ~barren,
    )


def _log_terms(
    proposals: _Draws, targets: _Draws, log_z: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log of ``target / mixture`` of proposals, and ``proposal / mixture`` of targets, if log Z is `log_z`.

    The mixture holds target and proposal in the samples' shares. A sample's two densities are bounded in it by one
    over their share, so nothing overflows.
    """

    def relative_and_mixture(draws: _Draws) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        spread, relative = draws.groups.spread, draws.log_ratios - draws.groups.spread(log_z)
        return relative, np.logaddexp(spread(targets.log_share) + relative, spread(proposals.log_share))

    relative, mixture = relative_and_mixture(proposals)
    return relative - mixture, -relative_and_mixture(targets)[1]


def _error_and_overlap(
    proposals: _Draws, targets: _Draws, log_z: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the standard error of log Z and the overlap [P]."""
    terms = _log_terms(proposals, targets, log_z)
    above, below = weigh(terms[0], proposals.groups), weigh(terms[1], targets.groups)
    spread = _variance_of_mean(above) + _variance_of_mean(below)
    log_overlap = np.minimum((above.log_z + below.log_z) / 2, 0.0)
    with np.errstate(over="ignore"):
        little = np.expm1(-log_overlap) * (1 / proposals.groups.sizes + 1 / targets.groups.sizes)
    return np.sqrt(np.maximum(spread, little)), np.exp(log_overlap)


def _variance_of_mean(weights: Weights) -> NDArray[np.float64]:
    """Variance of each group's mean weight relative to its square [P]; inf for a single sample."""
    sizes = weights.groups.sizes
    squares = weights.groups.sums((weights.relative - 1) ** 2)
    return np.where(sizes > 1, squares / np.maximum(sizes - 1, 1) / sizes, np.inf)


def _log_ratios(whose: str, log_target: ArrayLike, log_proposal: ArrayLike) -> NDArray[np.float64]:
    column = below_infinity(f"log_target_of_{whose}", log_target)
    rule = "the proposal must be able to draw every sample"
    return column - finite_column(f"log_proposal_of_{whose}", log_proposal, rule, len(column))


def _check_limits(max_iterations: int, tolerance: float) -> None:
    if max_iterations < 1:
        raise ValueError(f"max_iterations is {max_iterations}: make at least 1 pass")
    if not 0 < tolerance < np.inf:
        raise ValueError(f"tolerance is {tolerance}: it must be positive and finite")
