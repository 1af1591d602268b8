"""How much of the reward that its KL could buy a policy got."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.estimate import NORMAL, Estimate, Interval, clustered_mean, with_interval
from esscher.weights import left_bias_of, shown, shown_interval, weigh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.divergence import KlEstimate
    from esscher.groups import Groups
    from esscher.samples import Samples
    from esscher.weights import LeftBias

OF_REWARDS = "the efficiency is of rewards"


class Efficiency(NamedTuple):
    """The reachable reward, and the share of the way to it that was gone, with its 95 % interval."""

    reachable: Estimate
    share: Estimate
    interval: Interval


def mean_as_prior(values: NDArray[np.float64], samples: Samples, prior: Samples) -> float:
    """Return the mean of values of each completion [N] with prompts counting as they do among the prior's samples."""
    return float(_shares(prior) @ _prompt_means(values, samples))


def estimate_efficiency(samples: Samples, kl: KlEstimate, beta: float, prior: Samples) -> Efficiency:
    """Compare the gain in reward with that of the target at `beta`, which has the policy's KL.

    ``(reward - prior's) / (reachable - prior's)`` with ``reachable = beta (KL + log Z)``, and the delta method's error:
    along the frontier ``d reachable / d KL = beta``, and at a given KL the reward of the target varies as beta log Z
    does (the envelope theorem). Of both, prompts count by the prior's numbers of samples, so that what prompts have in
    common cancels also if these numbers differ.

    Parameters
    ----------
    samples, prior
        Completions of the policy and of the prior with finite `rewards`, of the same prompts in the same order.
    kl
        KL(policy‖prior).
    beta
        Where the target has that KL, with prompts counting as they do here.
    """
    rewards, prior_rewards = (each.need("rewards", why=OF_REWARDS) for each in (samples, prior))
    reachable, of_target, left = _reachable(prior_rewards, beta, prior.groups)
    least = float(prior_rewards.mean())
    possible = reachable.value - least
    share = (mean_as_prior(rewards, samples, prior) - least) / possible
    of_policy = (rewards - share * beta * kl.per_sequence) / possible
    of_prior = (share * of_target + (1.0 - share) * prior_rewards) / possible
    estimate, interval = _difference(share, of_policy, samples, of_prior, prior)
    # The share moves against the reachable reward.
    of_share = left.scaled(-share / possible)
    return Efficiency(shown(reachable, left), shown(estimate, of_share), shown_interval(estimate, interval, of_share))


def estimate_regret(
    samples: Samples, kl: NDArray[np.float64], beta: float, prior: Samples, *, paired: bool = True
) -> tuple[Estimate, Estimate]:
    """Return the reward that a policy's KL could reach, and by how much the policy's own is less.

    ``regret = beta (KL + log Z) - E_policy[r] = beta KL(policy‖target)`` for the target at `beta`, which has the
    policy's KL: over beta, it is the inference gap. The error is as in `estimate_efficiency`.

    Parameters
    ----------
    samples, prior
        Completions of the policy and of the prior with finite `rewards`, of the same prompts in the same order.
    kl
        KL(policy‖prior) of each completion [N].
    beta
        Where the target has the mean of that KL, with prompts counting as they do among the prior's samples.
    paired
        Whether the prompts are the same; of others the errors add up, and prompts count by the policy's completions.

    References
    ----------
    Korbak, Perez, Buckley, Findings of EMNLP 2022, arXiv:2205.11275.
    """
    rewards, prior_rewards = (each.need("rewards", why=OF_REWARDS) for each in (samples, prior))
    reachable, of_target, left = _reachable(prior_rewards, beta, prior.groups)
    of_policy = beta * kl - rewards
    if paired:
        regret = reachable.value - mean_as_prior(rewards, samples, prior)
        estimate, _ = _difference(regret, of_policy, samples, -of_target, prior)
    else:
        stderr = np.hypot(clustered_mean(of_policy, samples.groups).stderr, reachable.stderr)
        estimate = Estimate(reachable.value - float(rewards.mean()), float(stderr))
    return shown(reachable, left), shown(estimate, left)


def _reachable(
    rewards: NDArray[np.float64], beta: float, groups: Groups
) -> tuple[Estimate, NDArray[np.float64], LeftBias]:
    """Return the target's reward, what moves it at a given KL [N], and what is left of its bias: as beta log Z's is."""
    weights, sizes = weigh(rewards / beta, groups), groups.sizes
    reward = float((weights.relative * rewards).sum()) / len(rewards)
    # It is on average too low as log Z is, and no higher than the highest reward.
    reward += beta * float(sizes @ (weights.corrected_log_z - weights.log_z)) / len(rewards)
    reward = min(reward, float(sizes @ groups.largest(rewards)) / len(rewards))
    of_target = beta * (groups.spread(weights.log_z) + weights.relative - 1.0)
    left = left_bias_of(weights, rewards, lambda weights, _: weights.corrected_log_z).scaled(beta)
    return Estimate(reward, clustered_mean(of_target, groups).stderr), of_target, left


def _difference(
    value: float, of_policy: NDArray[np.float64], samples: Samples, of_prior: NDArray[np.float64], prior: Samples
) -> tuple[Estimate, Interval]:
    """Return a value with the error and the interval of the difference of two means of influence values.

    What the same prompts have in common cancels; of one prompt, completions are the independent draws.
    """
    if len(samples.prompts) > 1:
        sizes = prior.groups.sizes.astype(np.float64)
        differences = _prompt_means(of_policy, samples) - _prompt_means(of_prior, prior)
        around = value + differences - _shares(prior) @ differences
        return with_interval(around * sizes, np.arange(len(sizes) + 1), sizes)
    errors = clustered_mean(of_policy, samples.groups).stderr, clustered_mean(of_prior, prior.groups).stderr
    stderr = float(np.hypot(*errors))
    assumes = "completions of the one prompt are many and independent (normal)"
    return Estimate(value, stderr), Interval(value - NORMAL * stderr, value + NORMAL * stderr, assumes)


def _prompt_means(values: NDArray[np.float64], samples: Samples) -> NDArray[np.float64]:
    return samples.groups.means(values)


def _shares(samples: Samples) -> NDArray[np.float64]:
    """Each prompt's share of the completions [P]."""
    shares: NDArray[np.float64] = samples.groups.sizes / len(samples)
    return shares
