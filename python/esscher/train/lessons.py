"""The completions that a step learns from, and what multiplies the gradient of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.inference.objectives import Objective, dpg, f_dpg, kl_rl, plain_rl
from esscher.inference.resampling import resample
from esscher.weights import weigh

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
    log_weights = prior_samples.need("rewards", why="weights are made of them") / settings.beta
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
    rewards = prior_samples.need("rewards", why="log Z is made of them")
    weights = weigh(rewards / beta, prior_samples.groups)
    dead = np.flatnonzero(weights.log_z == -np.inf)
    if len(dead):
        raise ValueError(
            f"prompts[{dead[0]}]: every completion of the prior has a reward of -inf, so that its target is not known: "
            "draw more, or leave the prompt out"
        )
    return KnownPrior(prior_samples, weights.log_z, weights.corrected_log_z)


def _objective(settings: TrainingSettings, samples: Samples, log_z: NDArray[np.float64] | None) -> Objective:
    rewards, groups = samples.need("rewards", why="objectives are made of them"), samples.groups
    log_policy, log_prior = samples.policy_log_prob, samples.prior_log_prob
    match settings.objective:
        case "plain-rl":
            return plain_rl(rewards, groups)
        case "kl-rl":
            return kl_rl(rewards, log_policy, log_prior, settings.beta, groups)
    log_target = log_prior + rewards / settings.beta
    if settings.objective == "dpg":
        return dpg(log_target, log_policy, log_z=log_z, groups=groups)
    if log_z is None:
        raise ValueError("f-dpg needs log Z: draw prior_samples first")
    return f_dpg(log_target, log_policy, log_z, settings.divergence, groups)
