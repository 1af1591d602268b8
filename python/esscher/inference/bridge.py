"""Estimates of log Z from samples of two distributions together: a mixture of proposals, and the bridge."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher import _core
from esscher.estimate import student_quantiles
from esscher.inference.columns import as_column, below_infinity, filled_offsets, finite_column, group_of, group_sums

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.groups import Offsets


class MixtureLogZ(NamedTuple):
    """What samples of prior and policy together say of log Z of P groups, in nats.

    Attributes
    ----------
    log_z
        Estimate of log Z [P]; -inf where nothing has weight.
    stderr
        Its standard error over other samples of these very groups [P]; inf where nothing has weight, or a single sample
        of one of the two says nothing of the spread.
    low, high
        The 95 % interval of log Z [P]. It reaches further up than down, since samples that miss weight give less than
        log Z and an error that is too small; infinite where they do not tell how far.
    """

    log_z: NDArray[np.float64]
    stderr: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class Bridge(NamedTuple):
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


class _Pools(NamedTuple):
    """Log of ``target / proposal`` of the samples of both, their offsets, and the log of the share of each [P]."""

    of_proposals: NDArray[np.float64]
    of_targets: NDArray[np.float64]
    proposals: Offsets
    targets: Offsets
    log_share_of_proposals: NDArray[np.float64]
    log_share_of_targets: NDArray[np.float64]


def mixture_log_z(
    log_target: ArrayLike,
    log_prior: ArrayLike,
    log_policy: ArrayLike,
    from_policy: ArrayLike,
    groups: ArrayLike | None = None,
) -> MixtureLogZ:
    """Estimate log Z from samples of the prior and of the policy together, each weighted as a draw of their mixture.

    ``Z = sum_i target_i / (n_prior prior_i + n_policy policy_i)`` over all samples of a group. It has no bias for Z,
    and is seldom much worse than the better of the two alone: a weight is large only where neither would draw. Either
    may have given no sample. The standard error s is that of strata of fixed sizes, by the delta method, and the
    interval log Z - q s to log Z - log(1 - q s), with Student's q by the degrees of freedom that both strata leave.

    Parameters
    ----------
    log_target
        Unnormalised log-prob of each sample under the target [N] in nats; -inf gives weight 0.
    log_prior, log_policy
        Log-prob of each sample under both [N] in nats; finite under the one that it was drawn from.
    from_policy
        Whether each sample was drawn from the policy [N], and not from the prior.
    groups
        Offsets of the samples that share a target [P + 1]; all share one if not given.

    Raises
    ------
    ValueError
        If lengths disagree, `log_target` is NaN or +inf, a log-prob breaks the rule above, `from_policy` is not
        boolean, `groups` are no offsets, or a group is empty.

    References
    ----------
    Veach, Guibas, "Optimally combining sampling techniques for Monte Carlo rendering", SIGGRAPH 1995; Shirts, Chodera,
    "Statistically optimal analysis of samples from multiple equilibrium states", J. Chem. Phys. 2008; Satterthwaite,
    "An approximate distribution of estimates of variance components", Biometrics 1946 (the degrees of freedom).

    Examples
    --------
    >>> import numpy as np
    >>> log_target, log_policy = np.log([0.5, 1.5, 1.5, 0.5]), np.log([0.25, 0.75, 0.75, 0.25])
    >>> got = mixture_log_z(log_target, np.log(np.full(4, 0.5)), log_policy, [False, False, True, True])
    >>> np.exp(got.log_z).round(4), got.stderr.round(4)
    (array([1.8667]), array([0.202]))
    >>> got.low.round(2), got.high.round(2)
    (array([-0.25]), array([2.66]))
    """
    column = below_infinity("log_target", log_target)
    n = len(column)
    prior, policy = _of_length("log_prior", log_prior, n), _of_length("log_policy", log_policy, n)
    drawn = _flags("from_policy", from_policy, n)
    _check_drawn("log_prior", prior, ~drawn)
    _check_drawn("log_policy", policy, drawn)
    offsets = filled_offsets("groups", groups, n)
    strata = 2 * group_of(offsets) + drawn
    counts = np.bincount(strata, minlength=2 * len(offsets) - 2)
    shares = _log_shares(counts.reshape(-1, 2))[group_of(offsets)]
    log_weights = column - np.logaddexp(shares[:, 0] + prior, shares[:, 1] + policy)
    log_z = _log_mean(log_weights, offsets)
    variances = _variances(_relative(log_weights, log_z, offsets), strata, counts)
    stderr = np.where(log_z == -np.inf, np.inf, np.sqrt(variances.sum(axis=1)))
    return MixtureLogZ(log_z, stderr, *_interval(log_z, stderr, _freedom(variances, counts.reshape(-1, 2))))


def bridge(
    log_target_of_proposals: ArrayLike,
    log_proposal_of_proposals: ArrayLike,
    log_target_of_targets: ArrayLike,
    log_proposal_of_targets: ArrayLike,
    groups_of_proposals: ArrayLike | None = None,
    groups_of_targets: ArrayLike | None = None,
    *,
    max_iterations: int = 1000,
    tolerance: float = 1e-10,
) -> Bridge:
    """Estimate log Z from samples of a proposal and of the target itself, by the optimal bridge between them.

    With ``l = target / proposal`` and s the share of each among all samples of a group, iterate

    ``Z <- mean_proposals[l / (s_t l + s_p Z)] / mean_targets[1 / (s_t l + s_p Z)]``

    from importance sampling's estimate. The samples of the target come from rejection, MCMC or SMC; the standard error
    takes them for independent. It is the larger of two that agree when there are enough samples: from the spread of
    both means, and ``sqrt((1 / overlap - 1) / (n s_p s_t))``, which knows that little in common is little known.

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
        After how many passes to give up; see `Bridge.converged`.
    tolerance
        Change of log Z in nats, relative where log Z is beyond 1, below which a group has converged.

    Raises
    ------
    ValueError
        If lengths or numbers of groups disagree, a log-prob breaks the rules above, `max_iterations` is below 1,
        `tolerance` is not positive, groups are no offsets, or a group is empty.

    References
    ----------
    Meng, Wong, "Simulating ratios of normalizing constants via a simple identity", Statistica Sinica 1996;
    Frühwirth-Schnatter, "Estimating marginal likelihoods for mixture and Markov switching models using bridge sampling
    techniques", Econometrics Journal 2004 (the spread of both means).

    Examples
    --------
    >>> import numpy as np
    >>> proposal = np.log([0.5, 0.5])
    >>> got = bridge(np.log([0.5, 1.5]), proposal, np.log([0.5, 1.5, 1.5, 1.5]), np.log([0.5, 0.5, 0.5, 0.5]))
    >>> np.exp(got.log_z).round(4), got.overlap.round(4), got.converged
    (array([2.]), array([0.9375]), array([ True]))
    """
    _check_limits(max_iterations, tolerance)
    of_proposals = _log_ratios("proposals", log_target_of_proposals, log_proposal_of_proposals)
    of_targets = _log_ratios("targets", log_target_of_targets, log_proposal_of_targets)
    _check_weight_of_targets(log_target_of_targets)
    pools = _pools(of_proposals, of_targets, groups_of_proposals, groups_of_targets)
    start = _log_mean(of_proposals, pools.proposals)
    barren = start == -np.inf
    # A group with no weight is carried along at an arbitrary value, so that no -inf is taken from another.
    log_z, converged, iterations = _iterate(pools, np.where(barren, 0.0, start), barren, max_iterations, tolerance)
    stderr, overlap = _bridge_error(pools, log_z)
    return Bridge(
        log_z=np.where(barren, -np.inf, log_z),
        stderr=np.where(barren, np.inf, stderr),
        overlap=np.where(barren, 0.0, overlap),
        iterations=iterations,
        converged=converged & ~barren,
    )


def _iterate(
    pools: _Pools, log_z: NDArray[np.float64], barren: NDArray[np.bool_], max_iterations: int, tolerance: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
    for iteration in range(1, max_iterations + 1):  # noqa: B007
        above, below = _log_means(pools, log_z)
        moved = np.where(barren, 0.0, log_z + above - below)
        converged = np.abs(moved - log_z) <= tolerance * np.maximum(1.0, np.abs(moved))
        log_z = moved
        if converged.all():
            break
    return log_z, converged, iteration


def _log_means(pools: _Pools, log_z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log of the two means of a pass, ``target / mixture`` over proposals and ``proposal / mixture`` over targets."""
    above, below = _log_terms(pools, log_z)
    return _log_mean(above, pools.proposals), _log_mean(below, pools.targets)


def _log_terms(pools: _Pools, log_z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log of ``target / mixture`` of proposals, and ``proposal / mixture`` of targets, if log Z is `log_z`.

    The mixture holds target and proposal in the samples' shares. A sample's two densities are bounded in it by one
    over their share, so nothing overflows.
    """
    relative_of_proposals = pools.of_proposals - log_z[group_of(pools.proposals)]
    relative_of_targets = pools.of_targets - log_z[group_of(pools.targets)]
    above = relative_of_proposals - _log_mixture(relative_of_proposals, pools, pools.proposals)
    return above, -_log_mixture(relative_of_targets, pools, pools.targets)


def _log_mixture(relative: NDArray[np.float64], pools: _Pools, offsets: Offsets) -> NDArray[np.float64]:
    group = group_of(offsets)
    return np.logaddexp(pools.log_share_of_targets[group] + relative, pools.log_share_of_proposals[group])


def _bridge_error(pools: _Pools, log_z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the standard error of log Z and the overlap [P]."""
    above, below = _log_terms(pools, log_z)
    log_above, log_below = _log_mean(above, pools.proposals), _log_mean(below, pools.targets)
    spread = _variance_of_mean(above, log_above, pools.proposals) + _variance_of_mean(below, log_below, pools.targets)
    log_overlap = np.minimum((log_above + log_below) / 2, 0.0)
    n_proposals, n_targets = np.diff(pools.proposals), np.diff(pools.targets)
    with np.errstate(over="ignore"):
        little = np.expm1(-log_overlap) * (1 / n_proposals + 1 / n_targets)
    return np.sqrt(np.maximum(spread, little)), np.exp(log_overlap)


def _variance_of_mean(
    log_values: NDArray[np.float64], log_means: NDArray[np.float64], offsets: Offsets
) -> NDArray[np.float64]:
    """Variance of each group's mean relative to its square [P]; inf for a single sample."""
    sizes = np.diff(offsets)
    squares = group_sums((_relative(log_values, log_means, offsets) - 1) ** 2, offsets)
    return np.where(sizes > 1, squares / np.maximum(sizes - 1, 1) / sizes, np.inf)


def _variances(
    relative: NDArray[np.float64], strata: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Find what each of two strata a group, of `counts` samples, adds to the variance of the mean weight [P, 2]."""
    means = np.bincount(strata, weights=relative, minlength=len(counts)) / np.maximum(counts, 1)
    squares = np.bincount(strata, weights=(relative - means[strata]) ** 2, minlength=len(counts))
    # A sum over n_j draws has n_j times their variance; a single draw says nothing of it.
    of_sums = np.where(counts == 1, np.inf, squares * counts / np.maximum(counts - 1, 1)).reshape(-1, 2)
    variances: NDArray[np.float64] = of_sums / counts.reshape(-1, 2).sum(axis=1, keepdims=True) ** 2
    return variances


def _freedom(variances: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Degrees of freedom of a sum of variances of strata [P], at least 1 (Satterthwaite)."""
    total, known = variances.sum(axis=1), np.isfinite(variances).all(axis=1)
    shares = np.divide(variances, total[:, None], out=np.zeros(variances.shape), where=(known & (total > 0))[:, None])
    squares = (shares**2 / np.maximum(counts - 1, 1)).sum(axis=1)
    return 1.0 / np.where(squares > 0, squares, 1.0)


def _interval(
    log_means: NDArray[np.float64], stderr: NDArray[np.float64], freedom: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % interval of the log of each mean [P], from the standard error relative to it.

    That is rather relative to the true mean, of which an estimate that is too low is a smaller part: so the upper end
    is where the estimate would be too low by that many errors of it.
    """
    reach = student_quantiles(freedom) * stderr
    is_bounded = reach < 1
    high = np.where(is_bounded, log_means - np.log1p(-np.where(is_bounded, reach, 0.0)), np.inf)
    return log_means - reach, high


def _relative(log_values: NDArray[np.float64], log_means: NDArray[np.float64], offsets: Offsets) -> NDArray[np.float64]:
    """Values over the mean of their group; 0 in a group whose mean is 0."""
    return np.exp(log_values - np.where(log_means == -np.inf, 0.0, log_means)[group_of(offsets)])


def _log_mean(log_values: NDArray[np.float64], offsets: Offsets) -> NDArray[np.float64]:
    """Log of each group's mean [P]."""
    return _core.normalise(log_values, offsets, None)[1]


def _log_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log of each count's share of its row; -inf for none."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    logs: NDArray[np.float64] = np.log(shares, out=np.full(shares.shape, -np.inf), where=shares > 0)
    return logs


def _pools(
    of_proposals: NDArray[np.float64],
    of_targets: NDArray[np.float64],
    groups_of_proposals: ArrayLike | None,
    groups_of_targets: ArrayLike | None,
) -> _Pools:
    proposals = filled_offsets("groups_of_proposals", groups_of_proposals, len(of_proposals))
    targets = filled_offsets("groups_of_targets", groups_of_targets, len(of_targets))
    if len(proposals) != len(targets):
        raise ValueError(
            f"groups_of_proposals has {len(proposals) - 1} groups, groups_of_targets {len(targets) - 1}: both have the "
            "same groups in the same order"
        )
    shares = _log_shares(np.stack([np.diff(proposals), np.diff(targets)], axis=1))
    return _Pools(of_proposals, of_targets, proposals, targets, shares[:, 0], shares[:, 1])


def _log_ratios(whose: str, log_target: ArrayLike, log_proposal: ArrayLike) -> NDArray[np.float64]:
    column = below_infinity(f"log_target_of_{whose}", log_target)
    name = f"log_proposal_of_{whose}"
    _of_length(name, log_proposal, len(column))
    return column - finite_column(name, log_proposal, "the proposal must be able to draw every sample")


def _of_length(name: str, values: ArrayLike, n: int) -> NDArray[np.float64]:
    column = as_column(name, values)
    if len(column) != n:
        raise ValueError(f"{name} has {len(column)} entries, its log_target {n}: there is one for each sample")
    return column


def _flags(name: str, values: ArrayLike, n: int) -> NDArray[np.bool_]:
    flags = np.asarray(values)
    if flags.dtype != np.bool_ or flags.shape != (n,):
        raise ValueError(f"{name} has dtype {flags.dtype} and shape {flags.shape}: it is boolean, of shape ({n},)")
    return flags


def _check_drawn(name: str, log_probs: NDArray[np.float64], drawn: NDArray[np.bool_]) -> None:
    below_infinity(name, log_probs)
    wrong = np.flatnonzero(drawn & ~np.isfinite(log_probs))
    if len(wrong):
        raise ValueError(f"{name}[{wrong[0]}] is -inf, but the sample was drawn from it: see from_policy")


def _check_weight_of_targets(log_target: ArrayLike) -> None:
    finite_column("log_target_of_targets", log_target, "a draw of the target has weight under it")


def _check_limits(max_iterations: int, tolerance: float) -> None:
    if max_iterations < 1:
        raise ValueError(f"max_iterations is {max_iterations}: make at least 1 pass")
    if not 0 < tolerance < np.inf:
        raise ValueError(f"tolerance is {tolerance}: it must be positive and finite")
