"""What weighted samples say of a target, and how far the policy is from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from esscher.divergence import KlEstimate, sequence_logprobs
from esscher.divergence.columns import drawn_logprobs
from esscher.divergence.forward import estimate_forward
from esscher.estimate import Estimate, Interval, above_zero, clustered_mean, with_interval
from esscher.inference.importance import Importance, importance
from esscher.target import Target, Tilt
from esscher.weights import (
    LeftBias,
    cut_in_halves,
    left_bias,
    log_means,
    shown,
    shown_interval,
    weighted_means,
    worth_of,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.ragged import Offsets
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
) -> tuple[TargetReport, Importance]:
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
    Korbak, Perez, Buckley, Findings of EMNLP 2022; the constant that they leave out, log Z, is what makes
    the gap a number.

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
    if samples.rewards is None:
        raise ValueError("samples have no rewards: a target is made of them")
    log_potential = target.log_potential(samples.rewards, features)
    if len(log_potential) != len(samples):
        raise ValueError(f"features has {len(log_potential)} rows for {len(samples)} completions: give a row for each")
    zeros = np.zeros(len(samples))
    policy, prior = _log_probs(samples) if proposal == "policy" else (zeros, zeros)
    weights = importance(prior + log_potential, policy, samples.groups)
    log_ratios = log_potential - (policy - prior)
    forward = None if proposal == "prior" else estimate_forward(samples, log_potential, target=str(target))
    return _report(samples, target, proposal, log_ratios, weights, forward), weights


def _log_probs(samples: Samples) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log-probs of each completion under policy and prior."""
    if samples.policy_logprobs is None or samples.prior_logprobs is None:
        missing = "policy_logprobs" if samples.policy_logprobs is None else "prior_logprobs"
        raise ValueError(f"samples have no {missing}: without, their weight under the target is not known")
    policy = drawn_logprobs("policy_logprobs", samples.policy_logprobs)
    return policy, sequence_logprobs(samples.prior_logprobs)


class _OfPrompts(NamedTuple):
    """What each prompt's weights say [P], less the bias of order 1/n, and the weights relative to equal ones [N]."""

    log_z: NDArray[np.float64]
    reward: NDArray[np.float64]
    eubo: NDArray[np.float64]
    ess: NDArray[np.float64]
    relative: NDArray[np.float64]


def _of_prompts(log_ratios: NDArray[np.float64], rewards: NDArray[np.float64], groups: Offsets) -> _OfPrompts:
    log_z, ess, relative = log_means(log_ratios, groups)
    reward, eubo = (weighted_means(values, relative, groups) for values in (rewards, log_ratios))
    return _OfPrompts(log_z, reward, eubo, ess, relative)


def _left_biases(
    samples: Samples, rewards: NDArray[np.float64], log_ratios: NDArray[np.float64], found: _OfPrompts
) -> list[LeftBias]:
    """Of log Z, the target's reward and EUBO."""
    cuts = cut_in_halves(log_ratios, samples.groups)
    halves = [_of_prompts(log_ratios[cut.order], rewards[cut.order], cut.groups) for cut in cuts]
    sizes, worth = np.diff(samples.groups), worth_of(found.ess, [of_halves.ess for of_halves in halves])
    return [left_bias(found[i], [of_halves[i] for of_halves in halves], sizes, worth) for i in range(3)]


def _report(
    samples: Samples,
    target: Target,
    proposal: Proposal,
    log_ratios: NDArray[np.float64],
    weights: Importance,
    forward: KlEstimate | None,
) -> TargetReport:
    assert samples.rewards is not None  # `assess` has seen them
    found, groups = _of_prompts(log_ratios, samples.rewards, samples.groups), samples.groups
    of_log_z, of_reward, of_eubo = _left_biases(samples, samples.rewards, log_ratios, found)
    # Influence values: their means over a prompt are its log Z, their spread is its Monte Carlo error.
    log_z = found.log_z[samples.group_of] + (found.relative - 1.0)
    of_policy = proposal == "policy"
    elbo = clustered_mean(log_ratios, groups) if of_policy else None
    gap, interval = _gap(log_z, log_ratios, groups, of_log_z) if of_policy else (None, None)
    log_z_mean = shown(clustered_mean(log_z, groups), of_log_z)
    eubo = _weighted_mean(samples, log_ratios, found.eubo, found.relative) if of_policy else None
    beta = target.beta if isinstance(target, Tilt) else None
    k = weights.pareto_k[~np.isnan(weights.pareto_k)]
    return TargetReport(
        target=str(target),
        proposal=proposal,
        log_z=log_z_mean,
        reward=shown(_weighted_mean(samples, samples.rewards, found.reward, found.relative), of_reward),
        ess=float(weights.ess.sum()),
        pareto_k=float(k.max()) if len(k) else np.nan,
        elbo=elbo,
        eubo=None if eubo is None else shown(eubo, of_eubo),
        inference_gap=gap,
        inference_gap_interval=interval,
        forward_kl=forward,
        objective=_scale(elbo, beta),
        objective_bound=_scale(log_z_mean, beta),
    )


def _gap(
    log_z: NDArray[np.float64], elbo: NDArray[np.float64], groups: Offsets, left: LeftBias
) -> tuple[Estimate, Interval]:
    with np.errstate(invalid="ignore"):  # -inf - -inf: a prompt without weight has no gap, and NaN says so
        gap, interval = with_interval(log_z - elbo, groups)
    return shown(gap, left), above_zero(shown_interval(gap, interval, left))


def _weighted_mean(
    samples: Samples, values: NDArray[np.float64], means: NDArray[np.float64], relative: NDArray[np.float64]
) -> Estimate:
    """E_target[values] from the prompts' means [P]; prompts in which nothing has weight are left out."""
    sizes, group_of = np.diff(samples.groups), samples.group_of
    weighted = relative * np.where(relative > 0, values, 0.0)
    uncorrected = np.add.reduceat(weighted, samples.groups[:-1]) / sizes
    uncorrected[np.isinf(uncorrected)] = 0.0  # where a value of -inf has weight, and so has the mean
    influence = weighted - relative * uncorrected[group_of] + means[group_of]
    kept = np.add.reduceat(relative, samples.groups[:-1]) > 0
    return clustered_mean(influence[kept[group_of]], np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[kept])]))


def _scale(estimate: Estimate | None, factor: float | None) -> Estimate | None:
    return None if estimate is None or factor is None else Estimate(estimate.value * factor, estimate.stderr * factor)
