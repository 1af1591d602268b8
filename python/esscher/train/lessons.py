"""The completions that a step learns from, and what multiplies the gradient of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.divergence import sequence_logprobs
from esscher.inference.importance import exponential_weights
from esscher.inference.objectives import Objective, dpg, f_dpg, kl_rl, plain_rl
from esscher.inference.resampling import resample
from esscher.weights import bias_of_log_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.samples import Samples
    from esscher.train.training_settings import TrainingSettings


class Lesson(NamedTuple):
    """Completions to learn from, and the coefficient of the gradient of each one's log-prob in their mean."""

    samples: Samples
    objective: Objective


def lesson_of(settings: TrainingSettings, samples: Samples, log_z: NDArray[np.float64] | None) -> Lesson:
    """Return completions of the policy with the coefficients that the objective gives them.

    Parameters
    ----------
    settings
        Which objective.
    samples
        Completions with rewards and the log-probs of policy and prior.
    log_z
        Log Z of each of their prompts [P] in nats, if it is known.

    Raises
    ------
    ValueError
        As the objective.
    """
    return Lesson(samples, _objective(settings, samples, log_z))


def resampled_lesson(settings: TrainingSettings, prior_samples: Samples, rng: np.random.Generator) -> Lesson:
    """Return completions of the prior, resampled with weights ``exp(r / beta)`` so that they stand for the target.

    Raising their mean log-prob under the policy lowers KL(target‖policy). ``settings.completions`` are drawn for each
    prompt; one that is drawn several times is returned once, and counts as often. The objective's value, the policy's
    log-likelihood, is not known before the policy has scored them: it is NaN.

    References
    ----------
    Rubin, "Using the SIR algorithm to simulate posterior distributions", Bayesian Statistics 3, 1988, for the
    resampling; Peters, Schaal, "Reinforcement learning by reward-weighted regression for operational space control",
    ICML 2007, doi:10.1145/1273496.1273590, for the objective.
    """
    assert prior_samples.rewards is not None
    log_weights = prior_samples.rewards / settings.beta
    drawn = resample(log_weights, settings.completions, rng, groups=prior_samples.groups)
    rows, counts = np.unique(drawn, return_counts=True)
    coefficients = counts * (len(rows) / counts.sum())
    return Lesson(prior_samples.take_completions(rows), Objective(np.nan, coefficients))


class KnownPrior(NamedTuple):
    """Samples of the prior, and log Z of each prompt as estimated from them before the first step.

    Attributes
    ----------
    samples
        Completions of every prompt, with rewards.
    log_z
        Log Z of each prompt [P] in nats.
    corrected_log_z
        The same without its bias of order 1/n; what the inference gap is measured against.
    """

    samples: Samples
    log_z: NDArray[np.float64]
    corrected_log_z: NDArray[np.float64]


def known_prior(prior_samples: Samples, beta: float) -> KnownPrior:
    """Estimate log Z of each prompt, the log of the mean of ``exp(r / beta)`` over the prior's completions.

    Raises
    ------
    ValueError
        If no completion of a prompt has weight.
    """
    assert prior_samples.rewards is not None
    weights, log_z, _ = exponential_weights(prior_samples.rewards, beta, prior_samples.groups)
    dead = np.flatnonzero(log_z == -np.inf)
    if len(dead):
        raise ValueError(
            f"prompts[{dead[0]}]: every completion of the prior has a reward of -inf, so that its target is not known: "
            "draw more, or leave the prompt out"
        )
    relative = weights * np.diff(prior_samples.groups)[prior_samples.group_of]
    return KnownPrior(prior_samples, log_z, log_z - bias_of_log_mean(relative, prior_samples.groups))


def _objective(settings: TrainingSettings, samples: Samples, log_z: NDArray[np.float64] | None) -> Objective:
    rewards, groups = samples.rewards, samples.groups
    assert rewards is not None
    assert samples.policy_logprobs is not None
    assert samples.prior_logprobs is not None
    log_policy, log_prior = sequence_logprobs(samples.policy_logprobs), sequence_logprobs(samples.prior_logprobs)
    match settings.objective:
        case "plain-rl":
            return plain_rl(rewards, groups)
        case "kl-rl":
            return kl_rl(rewards, log_policy, log_prior, settings.beta, groups)
    log_target = log_prior + rewards / settings.beta
    if settings.objective == "dpg":
        return dpg(log_target, log_policy, log_z=log_z, groups=groups)
    assert log_z is not None
    return f_dpg(log_target, log_policy, log_z, settings.divergence, groups)
