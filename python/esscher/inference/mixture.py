"""Log Z from samples of prior and policy together, as draws of their mixture."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.estimate import student_quantiles
from esscher.groups import as_filled_groups
from esscher.inference.validation import as_column, below_infinity
from esscher.weights.weighing import weigh

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


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
    Veach, Guibas, "Optimally combining sampling techniques for Monte Carlo rendering", SIGGRAPH 1995,
    doi:10.1145/218380.218498 (the balance heuristic); Shirts, Chodera, "Statistically optimal analysis of samples from
    multiple equilibrium states", J. Chem. Phys. 2008, arXiv:0801.1426; Satterthwaite, "An approximate distribution of
    estimates of variance components", Biometrics 1946, doi:10.2307/3002019 (the degrees of freedom).

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
    prior, policy = as_column("log_prior", log_prior, n), as_column("log_policy", log_policy, n)
    drawn = _flags("from_policy", from_policy, n)
    _check_drawn("log_prior", prior, ~drawn)
    _check_drawn("log_policy", policy, drawn)
    found = as_filled_groups(groups, n)
    strata = 2 * found.of + drawn
    counts = np.bincount(strata, minlength=2 * len(found.sizes))
    shares = found.spread(log_shares(counts.reshape(-1, 2)))
    weights = weigh(column - np.logaddexp(shares[:, 0] + prior, shares[:, 1] + policy), found)
    variances = _variances(weights.relative, strata, counts)
    stderr = np.where(weights.log_z == -np.inf, np.inf, np.sqrt(variances.sum(axis=1)))
    interval = _interval(weights.log_z, stderr, _freedom(variances, counts.reshape(-1, 2)))
    return MixtureLogZ(weights.log_z, stderr, *interval)


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
    """Degrees of freedom of a sum of variances of strata [P], at least 1 (Satterthwaite 1946)."""
    total, known = variances.sum(axis=1), np.isfinite(variances).all(axis=1)
    shares = np.divide(variances, total[:, None], out=np.zeros(variances.shape), where=(known & (total > 0))[:, None])
    squares = (shares**2 / np.maximum(counts - 1, 1)).sum(axis=1)
    return 1.0 / np.where(squares > 0, squares, 1.0)


def _interval(
    log_means: NDArray[np.float64], stderr: NDArray[np.float64], freedom: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % interval of the log of each mean [P], from the standard error relative to it.

    The error scales with the true mean, so the upper end is the m below which the estimate lies by that many errors,
    relative to m.
    """
    reach = student_quantiles(freedom) * stderr
    is_bounded = reach < 1
    high = np.where(is_bounded, log_means - np.log1p(-np.where(is_bounded, reach, 0.0)), np.inf)
    return log_means - reach, high


def log_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the log of each count's share of its row; -inf for none."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    logs: NDArray[np.float64] = np.log(shares, out=np.full(shares.shape, -np.inf), where=shares > 0)
    return logs


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
