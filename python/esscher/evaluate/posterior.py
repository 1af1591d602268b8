"""What weighted samples say of a target, and how far the policy is from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from esscher.divergence.checked_columns import check_drawn, check_ratios, logprobs_of
from esscher.divergence.forward import estimate_weighted
from esscher.estimate import Estimate, Interval, above_zero, clustered_mean, with_interval
from esscher.groups import Groups
from esscher.target import Target, Tilt
from esscher.weights import LeftBias, Weights, left_bias_of, shown, shown_interval, weigh, weighted_means

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.divergence import KlEstimate
    from esscher.samples import Samples

Proposal = Literal["policy", "prior"]


@dataclass(frozen=True)
class TargetReport:
    """What importance weights say of the target, and how far the policy is from it. Nats unless said otherwise.

    Attributes
    ----------
    target
        The target, as `str` gives it.
    proposal
        Which distribution the samples came from.
    log_z
        Log normaliser of the target, mean over completions of their prompt's, less its bias of order 1/n: the log of a
        mean of few weights is on average too low (Jensen), and `inference_gap` would be with it. Its error is *over
        prompts*, as all errors here are: other prompts would differ by as much; that of a single prompt is *of this
        prompt*. `compare_log_z` has the error *of these prompts*, which is smaller.
    reward
        Mean reward under the target, in units of reward, less its bias of order 1/n; prompts in which nothing has
        weight are left out.
    ess
        Effective sample size summed over prompts, in completions.
    pareto_k
        Largest over prompts; -inf if no prompt's weights have a tail, NaN if no prompt has completions enough to tell.
    elbo
        E_policy[log_potential] - KL(policy‖prior), a lower bound of log Z; `None` if the samples came from the prior.
    eubo
        E_target[log(target / policy)] by importance weights = log Z + KL(target‖policy), an upper bound of log Z as
        `elbo` is a lower one; `None` with it.
    inference_gap
        log Z - elbo = KL(policy‖target), each prompt's subtracted before averaging; `None` with `elbo`.
    inference_gap_interval
        The 95 % confidence interval of `inference_gap`; `None` with it.
    forward_kl
        KL(target‖policy), what the policy lacks of the target, by importance weights (see `estimate_forward`); `None`
        with `elbo`.
    objective
        J = beta * elbo = E_policy[r] - beta KL(policy‖prior), in units of reward; `None` if the target has no beta.
    objective_bound
        beta * log Z, which no policy's J exceeds, in units of reward; `None` if the target has no beta.
    """

    target: str
    proposal: Proposal
    log_z: Estimate
    reward: Estimate
    ess: float
    pareto_k: float
    elbo: Estimate | None
    eubo: Estimate | None
    inference_gap: Estimate | None
    inference_gap_interval: Interval | None
    forward_kl: KlEstimate | None
    objective: Estimate | None
    objective_bound: Estimate | None


def assess(
    samples: Samples, target: Target, proposal: Proposal = "policy", features: ArrayLike | None = None
) -> tuple[TargetReport, Weights]:
    """Weight the samples so that they stand for the target, prompt by prompt.

    From the policy's samples ``w = prior exp(log_potential) / policy``, from the prior's ``w = exp(log_potential)``.

    Raises
    ------
    ValueError
        If the target needs features and none are given, or not one row a completion; if the samples lack rewards or,
        coming from the policy, `policy_logprobs` or `prior_logprobs`; or if a completion is impossible under the policy
        that produced it.

    References
    ----------
    Korbak, Perez, Buckley, Findings of EMNLP 2022, arXiv:2205.11275; the constant that they leave out, log Z, is what
    makes the gap a number.

    Examples
    --------
    >>> from esscher import Ragged, Samples, Tilt
    >>> samples = Samples(
    ...     prompts=Ragged.from_rows([[1]]),
    ...     completions=Ragged.from_rows([[5, 6], [5, 7]]),
    ...     groups=[0, 2],
    ...     rewards=[0.0, 1.0],
    ... )
    >>> posterior, weights = assess(samples, Tilt(beta=1.0), proposal="prior")
    >>> round(posterior.log_z.value, 4), round(posterior.reward.value, 4)
    (0.6612, 0.9621)
    """
    rewards = samples.need("rewards", why="a target is made of them")
    log_potential = target.log_potential(rewards, features)
    if len(log_potential) != len(samples):
        raise ValueError(f"features has {len(log_potential)} rows for {len(samples)} completions: give a row for each")
    of_policy = proposal == "policy"
    weights = weigh(log_potential - _log_ratios(samples) if of_policy else log_potential, samples.groups)
    forward = estimate_weighted(samples, weights, weights.log_ratios, target=str(target)) if of_policy else None
    return _report(samples, target, proposal, rewards, weights, forward), weights


def _log_ratios(samples: Samples) -> NDArray[np.float64]:
    """Return log(policy / prior) of each completion that the policy drew [N]."""
    check_ratios(*logprobs_of(samples))
    ratios: NDArray[np.float64] = check_drawn("policy_logprobs", samples.policy_log_prob) - samples.prior_log_prob
    return ratios


def _means(weights: Weights, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return weighted_means(values, weights.relative, weights.groups)


def _report(
    samples: Samples,
    target: Target,
    proposal: Proposal,
    rewards: NDArray[np.float64],
    weights: Weights,
    forward: KlEstimate | None,
) -> TargetReport:
    groups, log_ratios = samples.groups, weights.log_ratios
    left = left_bias_of(weights, log_ratios, lambda weights, _: weights.corrected_log_z)
    # Influence values: their means over a prompt are its log Z, their spread is its Monte Carlo error.
    log_z = groups.spread(weights.corrected_log_z) + (weights.relative - 1.0)
    log_z_mean = shown(clustered_mean(log_z, groups), left)
    elbo, eubo, gap, interval = None, None, None, None
    if proposal == "policy":
        elbo, eubo = clustered_mean(log_ratios, groups), _weighted_mean(weights, log_ratios)
        gap, interval = _gap(log_z, log_ratios, groups, left)
    beta = target.beta if isinstance(target, Tilt) else None
    return TargetReport(
        target=str(target),
        proposal=proposal,
        log_z=log_z_mean,
        reward=_weighted_mean(weights, rewards),
        ess=float(weights.ess.sum()),
        pareto_k=weights.largest_pareto_k,
        elbo=elbo,
        eubo=eubo,
        inference_gap=gap,
        inference_gap_interval=interval,
        forward_kl=forward,
        objective=_scale(elbo, beta),
        objective_bound=_scale(log_z_mean, beta),
    )


def _gap(
    log_z: NDArray[np.float64], elbo: NDArray[np.float64], groups: Groups, left: LeftBias
) -> tuple[Estimate, Interval]:
    with np.errstate(invalid="ignore"):  # -inf - -inf: a prompt without weight has no gap, and NaN says so
        gap, interval = with_interval(log_z - elbo, groups)
    return shown(gap, left), above_zero(shown_interval(gap, interval, left))


def _weighted_mean(weights: Weights, values: NDArray[np.float64]) -> Estimate:
    """E_target[values] as it may be shown; prompts in which nothing has weight are left out."""
    groups, relative = weights.groups, weights.relative
    weighted = relative * np.where(relative > 0, values, 0.0)
    uncorrected = groups.means(weighted)
    uncorrected[np.isinf(uncorrected)] = 0.0  # where a value of -inf has weight, and so has the mean
    influence = weighted - relative * groups.spread(uncorrected) + groups.spread(_means(weights, values))
    kept = weights.ess > 0
    estimate = clustered_mean(influence[groups.spread(kept)], Groups.from_sizes(groups.sizes[kept]))
    return shown(estimate, left_bias_of(weights, values, _means))


def _scale(estimate: Estimate | None, factor: float | None) -> Estimate | None:
    return None if estimate is None or factor is None else Estimate(estimate.value * factor, estimate.stderr * factor)
