"""Bounds on log Z from below and above, and whether several estimates of it agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.estimate import ROUNDING, student_quantiles
from esscher.inference.columns import below_infinity, filled_offsets, finite_column, group_of, group_sums, refuse

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.groups import Offsets


OF_TARGET = "a draw of the target has weight, and the policy can draw it"


class Bound(NamedTuple):
    """Estimate of a bound on log Z.

    Attributes
    ----------
    value
        Estimate [P], or [K, P] for K sizes, in nats; without bias for the bound, which is not log Z.
    stderr
        Its standard error over other samples of these very groups, of the same shape, in nats; inf where a single draw
        says nothing of the spread, or where the value is -inf.
    low, high
        The 95 % interval of the bound, of the same shape, by Student's t for so many blocks or draws.
    """

    value: NDArray[np.float64]
    stderr: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class EvidenceInterval(NamedTuple):
    """Bounds on log Z from below and above [P], each with its standard error, in nats."""

    lower: Bound
    upper: Bound


class Agreement(NamedTuple):
    """Whether estimates of the same quantity agree.

    Attributes
    ----------
    largest
        Largest difference of two estimates, in standard errors of the difference.
    agrees
        Whether that is no more than the threshold.
    """

    largest: NDArray[np.float64]
    agrees: NDArray[np.bool_]


def evidence_lower_bound(log_weights: ArrayLike, groups: ArrayLike | None = None) -> Bound:
    """Bound log Z from below by samples of the policy, the ELBO: ``E_policy[log w]``, ``w = target / policy``.

    It lies ``KL(policy‖target)`` below log Z. For a tilt it is J / beta. A single sample that the target excludes makes
    it -inf, as it should: the policy draws what has no weight.

    Parameters
    ----------
    log_weights
        ``log_target - log_policy`` of independent samples of the policy [N] in nats, the target unnormalised.
    groups
        Offsets of the samples that share a target [P + 1]; all share one if not given.

    Raises
    ------
    ValueError
        If a log-weight is NaN or +inf, `groups` are no offsets, or a group is empty.

    Examples
    --------
    >>> import numpy as np
    >>> got = evidence_lower_bound(np.log([1.0, 4.0, 2.0, 2.0]), groups=[0, 2, 4])
    >>> np.exp(got.value), got.stderr.round(4)
    (array([2., 2.]), array([0.6931, 0.    ]))
    """
    column = below_infinity("log_weights", log_weights)
    return _mean(column, filled_offsets("groups", groups, len(column)))


def multi_sample_bound(log_weights: ArrayLike, k: ArrayLike, groups: ArrayLike | None = None) -> Bound:
    """Bound log Z from below by several samples of the policy at a time: ``E[log mean of k weights]``.

    With k = 1 this is the ELBO; in expectation it rises with k, and tends to log Z. It is estimated from disjoint
    blocks of k samples in the order given; the ``n mod k`` last samples of a group are left out.

    Parameters
    ----------
    log_weights
        ``log_target - log_policy`` of independent samples of the policy [N] in nats, the target unnormalised.
    k
        How many samples to a block: one number, or several [K] for a bound at each.
    groups
        Offsets of the samples that share a target [P + 1]; all share one if not given.

    Returns
    -------
    The bound [P], or [K, P] if `k` has K entries.

    Raises
    ------
    ValueError
        If a log-weight is NaN or +inf, `groups` are no offsets, a group is empty, or `k` is no integer between 1 and
        the size of the smallest group.

    References
    ----------
    Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders", ICLR 2016.

    Examples
    --------
    >>> import numpy as np
    >>> np.exp(multi_sample_bound(np.log([1.0, 4.0, 2.0, 2.0]), [1, 2, 4]).value).round(4)
    array([[2.    ],
           [2.2361],
           [2.25  ]])
    """
    column = below_infinity("log_weights", log_weights)
    offsets = filled_offsets("groups", groups, len(column))
    sizes = _block_sizes(k, offsets)
    bounds = [_mean(*_log_mean_of_blocks(column, offsets, int(size))) for size in sizes.ravel()]
    shape = (*sizes.shape, len(offsets) - 1)
    return Bound(*(np.reshape(part, shape) for part in zip(*bounds, strict=True)))


def evidence_upper_bound(log_weights: ArrayLike, groups: ArrayLike | None = None) -> Bound:
    """Bound log Z from above by samples of the target, the EUBO: ``E_target[log w]``, ``w = target / policy``.

    It lies ``KL(target‖policy)`` above log Z. The samples must be exact draws of the target (from rejection, say):
    what has not reached the target yet may fall below log Z.

    Parameters
    ----------
    log_weights
        ``log_target - log_policy`` of independent samples of the target [N] in nats, the target unnormalised.
    groups
        Offsets of the samples that share a target [P + 1]; all share one if not given.

    Raises
    ------
    ValueError
        If a log-weight is not finite, `groups` are no offsets, or a group is empty.

    References
    ----------
    Grosse, Ancha, Roy, "Measuring the reliability of MCMC inference with bidirectional Monte Carlo", NeurIPS 2016.

    Examples
    --------
    >>> import numpy as np
    >>> np.exp(evidence_upper_bound(np.log([2.0, 8.0])).value)
    array([4.])
    """
    column = finite_column("log_weights", log_weights, OF_TARGET)
    return _mean(column, filled_offsets("groups", groups, len(column)))


def multi_sample_upper_bound(
    log_weights_of_target: ArrayLike,
    log_weights_of_policy: ArrayLike,
    k: int,
    groups_of_target: ArrayLike | None = None,
    groups_of_policy: ArrayLike | None = None,
) -> Bound:
    """Bound log Z from above by a sample of the target among k - 1 of the policy: ``E[log mean of their k weights]``.

    With k = 1 this is the EUBO; in expectation it falls with k, and tends to log Z. It is estimated from disjoint
    blocks in the order given, as many as either kind of samples allows; the samples beyond them are left out.

    Parameters
    ----------
    log_weights_of_target
        ``log_target - log_policy`` of exact, independent samples of the target [M] in nats; finite.
    log_weights_of_policy
        The same of independent samples of the policy [N] in nats; -inf gives weight 0.
    k
        How many samples to a block, of which one is of the target.
    groups_of_target, groups_of_policy
        Offsets of the samples that share a target [P + 1]; all share one if not given.

    Raises
    ------
    ValueError
        If a log-weight of the target is not finite or one of the policy NaN or +inf, groups are no offsets, a group is
        empty, numbers of groups disagree, or `k` is no integer of at least 1 or a group has too few samples of the
        policy for one block.

    References
    ----------
    Brekelmans, Huang, Ghassemi, Ver Steeg, Grosse, Makhzani, "Improving mutual information estimation with annealed and
    energy-based bounds", ICLR 2022.

    Examples
    --------
    >>> import numpy as np
    >>> got = multi_sample_upper_bound(np.log([4.0, 9.0]), np.log([2.0, 1.0, 3.0, 3.0]), k=2)
    >>> np.exp(got.value).round(4)
    array([3.873])
    """
    of_target = finite_column("log_weights_of_target", log_weights_of_target, OF_TARGET)
    of_policy = below_infinity("log_weights_of_policy", log_weights_of_policy)
    targets = filled_offsets("groups_of_target", groups_of_target, len(of_target))
    policies = filled_offsets("groups_of_policy", groups_of_policy, len(of_policy))
    _check_same_groups(targets, policies)
    others = _block_size(k, policies) - 1
    # With no others, the target's samples alone make the blocks.
    counts = np.minimum(np.diff(targets), np.diff(policies) // others) if others else np.diff(targets)
    rows = np.concatenate(
        [_blocks(of_target, targets, 1, counts), _blocks(of_policy, policies, others, counts)], axis=1
    )
    return _mean(_log_mean_of_rows(rows), _offsets_of(counts))


def evidence_interval(
    log_weights_of_policy: ArrayLike,
    log_weights_of_target: ArrayLike,
    k: int = 1,
    groups_of_policy: ArrayLike | None = None,
    groups_of_target: ArrayLike | None = None,
) -> EvidenceInterval:
    """Enclose log Z between `multi_sample_bound` and `multi_sample_upper_bound`, from samples of policy and target.

    With k = 1 these are the ELBO and the EUBO; the interval narrows as k grows. Its ends are estimates: each lies on
    its side of log Z in expectation, and has an interval of its own.

    Parameters
    ----------
    log_weights_of_policy, log_weights_of_target
        ``log_target - log_policy`` of samples of the policy [N] and of the target [M] in nats.
    k
        How many samples to a block.
    groups_of_policy, groups_of_target
        Offsets of the samples that share a target [P + 1]; all share one if not given.

    Raises
    ------
    ValueError
        As the two bounds, and if the two have different numbers of groups.

    Examples
    --------
    >>> import numpy as np
    >>> got = evidence_interval(np.log([1.0, 4.0]), np.log([2.0, 8.0]))
    >>> np.exp(got.lower.value), np.exp(got.upper.value)
    (array([2.]), array([4.]))
    """
    upper = multi_sample_upper_bound(
        log_weights_of_target, log_weights_of_policy, k, groups_of_target, groups_of_policy
    )
    return EvidenceInterval(multi_sample_bound(log_weights_of_policy, k, groups_of_policy), upper)


def agreement(values: ArrayLike, stderrs: ArrayLike, threshold: float = 3.0) -> Agreement:
    """Say whether independent estimates of log Z agree: ``max |v_i - v_j| / sqrt(s_i^2 + s_j^2)`` over all pairs.

    Estimates that disagree mean that one of them is wrong, most often one whose samples missed where the weight is:
    its standard error is then too small. An estimate with an infinite standard error says nothing, and a difference
    below 1e-13 ``max(|v_i|, |v_j|, 1)`` is rounding and counts as none.

    Parameters
    ----------
    values
        The estimates, [K] of one quantity or [K, P] of P quantities; finite where their standard error is.
    stderrs
        Their standard errors, of the same shape; at least 0, inf for an estimate that has none.
    threshold
        The largest difference taken for chance, in standard errors.

    Raises
    ------
    ValueError
        If shapes disagree, there are fewer than two estimates, a standard error is NaN or negative, or a value is not
        finite though its standard error is.

    Examples
    --------
    >>> got = agreement([[1.0, 1.0], [1.5, 3.0], [1.2, 1.1]], [[0.3, 0.3], [0.4, 0.4], [0.1, 0.1]])
    >>> got.largest.round(2), got.agrees
    (array([1.  , 4.61]), array([ True, False]))
    """
    estimates, errors = _estimates(values, stderrs)
    # An estimate that says nothing may be -inf; over an infinite scale it differs from none.
    estimates = np.where(np.isinf(errors), 0.0, estimates)
    gaps, size = np.abs(estimates[:, None] - estimates), np.maximum(np.abs(estimates), 1.0)
    # What rounding makes of the same estimate by two ways is no difference.
    gaps[gaps <= ROUNDING * np.maximum(size[:, None], size)] = 0.0
    scales = np.hypot(errors[:, None], errors)
    exact = np.where(gaps > 0, np.inf, 0.0)
    largest = np.divide(gaps, scales, out=exact, where=scales > 0).max(axis=(0, 1))
    return Agreement(largest, largest <= threshold)


def _mean(values: NDArray[np.float64], offsets: Offsets) -> Bound:
    """Mean of each group, its standard error and its interval; -inf and inf for a group with a -inf."""
    sizes = np.diff(offsets)
    means = group_sums(values, offsets) / sizes
    # Groups with a -inf are set aside, so that no -inf is taken from another.
    known = np.isfinite(means)
    kept = np.where(known[group_of(offsets)], values, 0.0)
    squares = group_sums((kept - np.where(known, means, 0.0)[group_of(offsets)]) ** 2, offsets)
    freedom = np.maximum(sizes - 1, 1)
    stderr = np.where(known & (sizes > 1), np.sqrt(squares / freedom / sizes), np.inf)
    reach = student_quantiles(freedom) * stderr
    return Bound(means, stderr, means - reach, np.where(known, means, 0.0) + reach)


def _log_mean_of_blocks(
    log_weights: NDArray[np.float64], offsets: Offsets, k: int
) -> tuple[NDArray[np.float64], Offsets]:
    """Log of the mean weight of every whole block of k samples, and the offsets of the blocks."""
    counts = np.diff(offsets) // k
    return _log_mean_of_rows(_blocks(log_weights, offsets, k, counts)), _offsets_of(counts)


def _blocks(values: NDArray[np.float64], offsets: Offsets, k: int, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Take the first `counts` blocks of k values of each group, as rows."""
    place = np.arange(offsets[-1]) - offsets[group_of(offsets)]
    return values[place < (counts * k)[group_of(offsets)]].reshape(counts.sum(), k)


def _log_mean_of_rows(log_values: NDArray[np.float64]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = np.logaddexp.reduce(log_values, axis=1) - np.log(log_values.shape[1])
    return means


def _offsets_of(counts: NDArray[np.int64]) -> Offsets:
    return np.concatenate([[0], np.cumsum(counts)])


def _block_sizes(k: ArrayLike, offsets: Offsets, spare: int = 0) -> NDArray[np.int64]:
    """Return `k` as integers, none above the size of the smallest group by more than `spare`."""
    sizes = np.asarray(k)
    if sizes.dtype.kind not in "iu" or sizes.ndim > 1 or sizes.size == 0:
        raise ValueError(f"k is {k!r}: it is an integer, or a list of them")
    most = int(np.diff(offsets).min(initial=np.iinfo(np.int64).max - spare)) + spare
    if sizes.min() < 1 or sizes.max() > most:
        raise ValueError(f"k is {k!r}: it must be between 1 and {most}, so that the smallest group makes a block")
    return sizes.astype(np.int64)


def _block_size(k: int, policies: Offsets) -> int:
    """Return the one `k` of blocks in which a sample of the target joins those of the policy."""
    sizes = _block_sizes(k, policies, spare=1)
    if sizes.ndim:
        raise ValueError(f"k is {k!r}: it is one integer here")
    return int(sizes)


def _check_same_groups(targets: Offsets, policies: Offsets) -> None:
    if len(targets) != len(policies):
        raise ValueError(
            f"groups_of_target has {len(targets) - 1} groups, groups_of_policy {len(policies) - 1}: both have the same "
            "groups in the same order"
        )


def _estimates(values: ArrayLike, stderrs: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    estimates, errors = np.asarray(values, dtype=np.float64), np.asarray(stderrs, dtype=np.float64)
    if estimates.shape != errors.shape or estimates.ndim not in (1, 2):
        raise ValueError(f"values has shape {estimates.shape}, stderrs {errors.shape}: both are [K] or both [K, P]")
    if len(estimates) < 2:
        raise ValueError(f"values has {len(estimates)} estimates: it takes two to agree")
    refuse("stderrs", errors.ravel(), ~(errors >= 0).ravel(), "a standard error is at least 0")
    wrong = ~np.isfinite(estimates) & np.isfinite(errors)
    refuse("values", estimates.ravel(), wrong.ravel(), "it must be finite where its standard error is")
    return estimates, errors
