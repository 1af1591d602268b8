"""Bounds on log Z from below and above."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.estimate import student_quantiles
from esscher.groups import Groups, as_filled_groups
from esscher.inference.validation import below_infinity, finite_column

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


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


class LogZBounds(NamedTuple):
    """Bounds on log Z from below and above [P], each with its standard error, in nats."""

    lower: Bound
    upper: Bound


def log_z_lower_bound(log_weights: ArrayLike, k: ArrayLike = 1, groups: ArrayLike | None = None) -> Bound:
    """Bound log Z from below by samples of the policy: ``E[log mean of k weights]``, ``w = target / policy``.

    With k = 1 this is the ELBO, which lies ``KL(policy‖target)`` below log Z, and is J / beta for a tilt. In
    expectation the bound rises with k, and tends to log Z. It is estimated from disjoint blocks of k samples in the
    order given; the ``n mod k`` last samples of a group are left out. A block in which nothing has weight makes it
    -inf, as it should: the policy draws what the target excludes.

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
    Burda, Grosse, Salakhutdinov, "Importance weighted autoencoders", ICLR 2016, arXiv:1509.00519, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> got = log_z_lower_bound(np.log([1.0, 4.0, 2.0, 2.0]), groups=[0, 2, 4])
    >>> np.exp(got.value), got.stderr.round(4)
    (array([2., 2.]), array([0.6931, 0.    ]))
    >>> np.exp(log_z_lower_bound(np.log([1.0, 4.0, 2.0, 2.0]), [1, 2, 4]).value).round(4)
    array([[2.    ],
           [2.2361],
           [2.25  ]])
    """
    column = below_infinity("log_weights", log_weights)
    found = as_filled_groups(groups, len(column))
    sizes = _block_sizes(k, found)
    bounds = []
    for size in sizes.ravel().tolist():
        counts = found.sizes // size
        bounds.append(_mean(_log_mean_of_rows(_blocks(column, found, size, counts)), Groups.from_sizes(counts)))
    shape = (*sizes.shape, len(found.sizes))
    return Bound(*(np.reshape(part, shape) for part in zip(*bounds, strict=True)))


def log_z_upper_bound(
    log_weights_of_target: ArrayLike,
    log_weights_of_policy: ArrayLike | None = None,
    k: int = 1,
    groups_of_target: ArrayLike | None = None,
    groups_of_policy: ArrayLike | None = None,
) -> Bound:
    """Bound log Z from above by a sample of the target among k - 1 of the policy: ``E[log mean of their k weights]``.

    With k = 1 this is the EUBO, which lies ``KL(target‖policy)`` above log Z and takes no samples of the policy. In
    expectation the bound falls with k, and tends to log Z. It is estimated from disjoint blocks in the order given, as
    many as either kind of samples allows; the samples beyond them are left out. The samples of the target must be exact
    draws (from rejection, say): of draws that only come near the target the mean may fall below log Z.

    Parameters
    ----------
    log_weights_of_target
        ``log_target - log_policy`` of exact, independent samples of the target [M] in nats, the target unnormalised;
        finite.
    log_weights_of_policy
        The same of independent samples of the policy [N] in nats, needed if k is above 1; -inf gives weight 0.
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
    Grosse, Ancha, Roy, "Measuring the reliability of MCMC inference with bidirectional Monte Carlo", NeurIPS 2016,
    arXiv:1606.02275 (k = 1); Brekelmans, Huang, Ghassemi, Ver Steeg, Grosse, Makhzani, "Improving mutual information
    estimation with annealed and energy-based bounds", ICLR 2022, arXiv:2303.06992 (any k).

    Examples
    --------
    >>> import numpy as np
    >>> np.exp(log_z_upper_bound(np.log([2.0, 8.0])).value)
    array([4.])
    >>> np.exp(log_z_upper_bound(np.log([4.0, 9.0]), np.log([2.0, 1.0, 3.0, 3.0]), k=2).value).round(4)
    array([3.873])
    """
    rule = "a draw of the target has weight, and the policy can draw it"
    of_target = finite_column("log_weights_of_target", log_weights_of_target, rule)
    targets = as_filled_groups(groups_of_target, len(of_target), "groups_of_target")
    if log_weights_of_policy is None:
        if k != 1:
            raise ValueError(f"k is {k!r}, but log_weights_of_policy is missing: k - 1 samples of a block are of it")
        return _mean(of_target, targets)
    of_policy = below_infinity("log_weights_of_policy", log_weights_of_policy)
    policies = as_filled_groups(groups_of_policy, len(of_policy), "groups_of_policy")
    if len(targets) != len(policies):
        raise ValueError(
            f"groups_of_target has {len(targets.sizes)} groups, groups_of_policy {len(policies.sizes)}: both have the "
            "same groups in the same order"
        )
    others = _block_size(k, policies) - 1
    # With no others, the target's samples alone make the blocks.
    counts = np.minimum(targets.sizes, policies.sizes // others) if others else targets.sizes
    rows = [_blocks(of_target, targets, 1, counts), _blocks(of_policy, policies, others, counts)]
    return _mean(_log_mean_of_rows(np.concatenate(rows, axis=1)), Groups.from_sizes(counts))


def log_z_bounds(
    log_weights_of_policy: ArrayLike,
    log_weights_of_target: ArrayLike,
    k: int = 1,
    groups_of_policy: ArrayLike | None = None,
    groups_of_target: ArrayLike | None = None,
) -> LogZBounds:
    """Enclose log Z between `log_z_lower_bound` and `log_z_upper_bound`, from samples of policy and target.

    With k = 1 these are the ELBO and the EUBO; they come closer as k grows. Both are estimates: each lies on its side
    of log Z in expectation, and has an interval of its own.

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

    References
    ----------
    Brekelmans et al., arXiv:2303.06992.

    Examples
    --------
    >>> import numpy as np
    >>> got = log_z_bounds(np.log([1.0, 4.0]), np.log([2.0, 8.0]))
    >>> np.exp(got.lower.value), np.exp(got.upper.value)
    (array([2.]), array([4.]))
    """
    upper = log_z_upper_bound(log_weights_of_target, log_weights_of_policy, k, groups_of_target, groups_of_policy)
    return LogZBounds(log_z_lower_bound(log_weights_of_policy, k, groups_of_policy), upper)


def _mean(values: NDArray[np.float64], groups: Groups) -> Bound:
    """Mean of each group, its standard error and its interval; -inf and inf for a group with a -inf."""
    means = groups.means(values)
    # Groups with a -inf are set aside, so that no -inf is taken from another.
    known = np.isfinite(means)
    centres = np.where(known, means, 0.0)
    squares = groups.sums((np.where(groups.spread(known), values, 0.0) - groups.spread(centres)) ** 2)
    freedom = np.maximum(groups.sizes - 1, 1)
    stderr = np.where(known & (groups.sizes > 1), np.sqrt(squares / freedom / groups.sizes), np.inf)
    reach = student_quantiles(freedom) * stderr
    return Bound(means, stderr, means - reach, centres + reach)


def _blocks(values: NDArray[np.float64], groups: Groups, k: int, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Take the first `counts` blocks of k values of each group, as rows."""
    return values[groups.place < groups.spread(counts * k)].reshape(counts.sum(), k)


def _log_mean_of_rows(log_values: NDArray[np.float64]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = np.logaddexp.reduce(log_values, axis=1) - np.log(log_values.shape[1])
    return means


def _block_sizes(k: ArrayLike, groups: Groups, spare: int = 0) -> NDArray[np.int64]:
    """Return `k` as integers, none above the size of the smallest group by more than `spare`."""
    sizes = np.asarray(k)
    if sizes.dtype.kind not in "iu" or sizes.ndim > 1 or sizes.size == 0:
        raise ValueError(f"k is {k!r}: it is an integer, or a list of them")
    most = int(groups.sizes.min(initial=np.iinfo(np.int64).max - spare)) + spare
    if sizes.min() < 1 or sizes.max() > most:
        raise ValueError(f"k is {k!r}: it must be between 1 and {most}, so that the smallest group makes a block")
    return sizes.astype(np.int64)


def _block_size(k: int, policies: Groups) -> int:
    """Return the one `k` of blocks in which a sample of the target joins those of the policy."""
    sizes = _block_sizes(k, policies, spare=1)
    if sizes.ndim:
        raise ValueError(f"k is {k!r}: it is one integer here")
    return int(sizes)
