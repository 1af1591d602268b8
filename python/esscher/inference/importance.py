"""Importance weights: what samples of one distribution say of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from esscher import _core
from esscher.groups import as_groups
from esscher.inference.validation import as_column

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

TailRule = Literal["arviz-stats", "loo"]


class Importance(NamedTuple):
    """Importance weights and their diagnostics, for N completions in P groups.

    Attributes
    ----------
    log_weights
        Log of the self-normalised weights [N]: in each group their exponentials sum to 1.
    log_z
        Estimate of log Z [P] in nats, the log of the mean unnormalised weight.
    ess
        Effective sample size [P], ``(sum w)^2 / sum w^2``.
    pareto_k
        Tail shape of the weights [P]: good up to ``min(1 - 1 / log10(S), 0.7)``; -inf where the tail is flat, NaN
        where the group is too small to tell.
    """

    log_weights: NDArray[np.float64]
    log_z: NDArray[np.float64]
    ess: NDArray[np.float64]
    pareto_k: NDArray[np.float64]


class ParetoSmoothed(NamedTuple):
    """Unnormalised log-weights [N] with their tails smoothed, and Pareto k [P]: -inf for a flat tail, NaN for none."""

    log_weights: NDArray[np.float64]
    pareto_k: NDArray[np.float64]


class ExponentialWeights(NamedTuple):
    """Weights of N samples of the prior that make them stand for its tilt, in P groups.

    Attributes
    ----------
    weights
        Self-normalised weights [N]: in each group they sum to 1.
    log_z
        Estimate of log Z [P] in nats.
    ess
        Effective sample size [P].
    """

    weights: NDArray[np.float64]
    log_z: NDArray[np.float64]
    ess: NDArray[np.float64]


class TiltLogZ(NamedTuple):
    """Estimate of log Z of a tilt [P] in nats, and the effective sample size [P] that it rests on."""

    log_z: NDArray[np.float64]
    ess: NDArray[np.float64]


def exponential_weights(
    rewards: ArrayLike, beta: float, groups: ArrayLike | None = None, *, threads: int | None = None
) -> ExponentialWeights:
    """Weight samples of the prior so that they stand for the target ``prior exp(r / beta) / Z``.

    ``w_i = exp(r_i / beta) / sum_j exp(r_j / beta)``, ``log Z = log mean_j exp(r_j / beta)``, by log-sum-exp:
    each weight within ``5e-14 + 2.3e-16 |r_i - max r| / beta`` relative. A group in which nothing has weight gets
    ``log_z = -inf``, ``ess = 0``, weights 0.

    Parameters
    ----------
    rewards
        Reward of each sample [N]; -inf gives weight exactly 0.
    beta
        Strength of the KL penalty, reward per nat; positive.
    groups
        Offsets of the samples that share a prompt [P + 1]; all share one if not given.
    threads
        How many threads to use; all cores if not given. The result does not depend on it.

    Raises
    ------
    ValueError
        If a reward is NaN or +inf, `beta` is not positive and finite, or `groups` are no offsets.

    References
    ----------
    Korbak, Perez, Buckley, "RL with KL penalties is better viewed as Bayesian inference", Findings of EMNLP 2022,
    arXiv:2205.11275 (the target).

    Examples
    --------
    >>> got = exponential_weights([0.0, 1.0, 1.0, 1.0], beta=1.0, groups=[0, 2, 4])
    >>> got.weights.round(4)
    array([0.2689, 0.7311, 0.5   , 0.5   ])
    >>> got.log_z.round(4), got.ess.round(4)
    (array([0.6201, 1.    ]), array([1.6481, 2.    ]))
    """
    column = as_column("rewards", rewards)
    return ExponentialWeights(*_core.exponential_weights(column, beta, as_groups(groups, len(column)).offsets, threads))


def tilt_log_z(
    rewards: ArrayLike, beta: float, groups: ArrayLike | None = None, *, threads: int | None = None
) -> TiltLogZ:
    """Estimate log Z from samples of the prior, as `exponential_weights` does, without the weights.

    Examples
    --------
    >>> tilt_log_z([0.0, 1.0], beta=1.0).log_z.round(4)
    array([0.6201])
    """
    column = as_column("rewards", rewards)
    return TiltLogZ(*_core.log_normaliser(column, beta, as_groups(groups, len(column)).offsets, threads))


def importance(
    log_target: ArrayLike,
    log_proposal: ArrayLike,
    groups: ArrayLike | None = None,
    smooth: bool = False,
    *,
    tail_rule: TailRule = "arviz-stats",
    threads: int | None = None,
) -> Importance:
    """Weight samples of a proposal so that they stand for a target, ``w = target / proposal``, group by group.

    A group in which nothing has weight gets ``log_z = -inf`` and ``ess = 0``.

    Parameters
    ----------
    log_target
        Unnormalised log-prob of each sample under the target [N] in nats; -inf gives weight 0.
    log_proposal
        Log-prob of each sample under the distribution it was drawn from [N] in nats; finite.
    groups
        Offsets of the samples that share a target [P + 1]; all share one if not given.
    smooth
        Whether to replace each group's largest weights by quantiles of the generalised Pareto fitted to them.
    tail_rule
        How many weights make the tail: as "arviz-stats" counts, or as the R package "loo" does.
    threads
        How many threads to use; all cores if not given. The result does not depend on it.

    Raises
    ------
    ValueError
        If lengths disagree, `log_target` is NaN or +inf, `log_proposal` is not finite, or `groups` are no offsets.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto smoothed importance sampling", JMLR 2024, arXiv:1507.02646.

    Examples
    --------
    >>> import numpy as np
    >>> weights = importance(np.log([0.5, 1.5, 2.0, 4.0]), np.zeros(4), groups=[0, 2, 4])
    >>> np.exp(weights.log_weights).round(4)
    array([0.25  , 0.75  , 0.3333, 0.6667])
    >>> np.exp(weights.log_z)
    array([1., 3.])
    >>> weights.ess.round(3)
    array([1.6, 1.8])
    """
    log_ratios = _core.log_ratios(as_column("log_target", log_target), as_column("log_proposal", log_proposal))
    offsets = as_groups(groups, len(log_ratios)).offsets
    smoothed, pareto_k = pareto_smooth(log_ratios, offsets, tail_rule=tail_rule, threads=threads)
    log_weights, log_z, ess = _core.normalise(smoothed if smooth else log_ratios, offsets, threads)
    return Importance(log_weights, log_z, ess, pareto_k)


def pareto_smooth(
    log_ratios: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    tail_rule: TailRule = "arviz-stats",
    threads: int | None = None,
) -> ParetoSmoothed:
    """Replace each group's largest weights by quantiles of the generalised Pareto distribution fitted to them.

    Parameters
    ----------
    log_ratios
        Unnormalised log-weights [N] in nats.
    groups, tail_rule, threads
        As in `importance`.

    Raises
    ------
    ValueError
        If a log-weight is NaN or +inf, `groups` are no offsets, or `tail_rule` is neither of the two.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto smoothed importance sampling", JMLR 2024, arXiv:1507.02646.

    Examples
    --------
    >>> import numpy as np
    >>> u = (np.arange(1000) + 0.5) / 1000
    >>> pareto_smooth(-0.5 * np.log(u)).pareto_k.round(4)
    array([0.4966])
    """
    column = as_column("log_ratios", log_ratios)
    return ParetoSmoothed(*_core.pareto_smooth(column, as_groups(groups, len(column)).offsets, tail_rule, threads))
