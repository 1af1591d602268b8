"""What is logged for each step of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from esscher.diversity import distinct
from esscher.estimate import Estimate, clustered_mean
from esscher.weights import weigh

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from esscher.samples import Samples

UNKNOWN = Estimate(np.nan, np.nan)


class Update(NamedTuple):
    """What a step did: the objective's value, the norm of the gradient, and the learning rate; NaN if nothing."""

    objective: float
    gradient_norm: float
    learning_rate: float


@dataclass(frozen=True)
class StepMetrics:
    """Estimates about the policy from the completions that it drew in one step; NaN where there is none.

    Attributes
    ----------
    step
        Which step, from 0: the policy has taken so many before these completions were drawn.
    reward, reward_stderr
        Mean reward of the completions that have one.
    kl, kl_stderr
        KL(policy‖prior) in nats per completion, by k1.
    entropy
        Mean negative log-prob of a token under the policy, in nats.
    distinct_2
        Distinct 2-grams among those of a prompt's completions, mean over prompts.
    inference_gap, inference_gap_stderr
        KL(policy‖target) in nats: log Z by the prior's samples, minus ``reward / beta - KL``; NaN without these
        (Korbak, Perez, Buckley, "RL with KL penalties is better viewed as Bayesian inference", Findings of EMNLP 2022,
        arXiv:2205.11275, where log Z is the constant that is left out). The error is that of the step's completions.
    ess
        Effective share of the completions when they are weighted to stand for the target, from 1 / n to 1.
    objective
        What the objective estimates, in its own units.
    gradient_norm, learning_rate
        Of the update; the norm is that before the clip, NaN if there was no update.
    completions, unscored, tokens, terminated
        How many completions were drawn, without a reward, how many tokens they had, how many ended by themselves.
    seconds, seconds_sampling, seconds_prior, seconds_reward, seconds_gradient
        Time of the step, and of its parts: completions, their log-probs under the prior, rewards, gradient and update.
    notes
        What happened that the reader should know.
    """

    step: int
    reward: float
    reward_stderr: float
    kl: float
    kl_stderr: float
    entropy: float
    distinct_2: float
    inference_gap: float
    inference_gap_stderr: float
    ess: float
    objective: float
    gradient_norm: float
    learning_rate: float
    completions: int
    unscored: int
    tokens: int
    terminated: int
    seconds: float
    seconds_sampling: float
    seconds_prior: float
    seconds_reward: float
    seconds_gradient: float
    notes: tuple[str, ...]


def measure(
    step: int,
    drawn: Samples,
    scored: Samples | None,
    beta: float,
    log_z: NDArray[np.float64] | None,
    update: Update,
    seconds: Mapping[str, float],
    notes: tuple[str, ...],
) -> StepMetrics:
    """Return the metrics of a step.

    Parameters
    ----------
    step
        Which one.
    drawn
        Its completions, with the log-probs of policy and prior.
    scored
        Those that have a reward, if any has.
    beta
        Of the target that they are measured against.
    log_z
        Log Z of the prompts of `scored` [P] in nats, if it is known.
    update
        What was done with them.
    seconds
        What each part took: sampling, prior, reward, gradient.
    notes
        What happened.
    """
    log_policy = drawn.policy_log_prob
    # k1, as `estimate_kl` has it, without the interval that takes most of its time.
    kl = clustered_mean(log_policy - drawn.prior_log_prob, drawn.groups)
    reward, gap, ess = _of_rewards(scored, beta, log_z)
    parts: dict[str, Any] = {f"seconds_{part}": lasted for part, lasted in seconds.items()}
    return StepMetrics(
        step=step,
        reward=reward.value,
        reward_stderr=reward.stderr,
        kl=kl.value,
        kl_stderr=kl.stderr,
        entropy=-float(log_policy.sum()) / int(drawn.actions.lengths.sum()),
        distinct_2=_distinct_2(drawn),
        inference_gap=gap.value,
        inference_gap_stderr=gap.stderr,
        ess=ess,
        **update._asdict(),
        completions=len(drawn),
        unscored=len(drawn) - (0 if scored is None else len(scored)),
        tokens=int(drawn.actions.lengths.sum()),
        terminated=0 if drawn.terminated is None else int(drawn.terminated.sum()),
        seconds=sum(seconds.values()),
        **parts,
        notes=notes,
    )


def _of_rewards(
    scored: Samples | None, beta: float, log_z: NDArray[np.float64] | None
) -> tuple[Estimate, Estimate, float]:
    """Mean reward, inference gap in nats, and the effective share of the completions."""
    if scored is None:
        return UNKNOWN, UNKNOWN, np.nan
    rewards, groups = scored.need("rewards", why="these metrics are of them"), scored.groups
    log_ratios = scored.prior_log_prob + rewards / beta - scored.policy_log_prob
    gap = UNKNOWN if log_z is None else clustered_mean(groups.spread(log_z) - log_ratios, groups)
    return clustered_mean(rewards, groups), gap, float(weigh(log_ratios, groups).ess.sum()) / len(scored)


def _distinct_2(drawn: Samples) -> float:
    shares = distinct(drawn.actions, 2, drawn.groups)
    known = shares[~np.isnan(shares)]
    return float(known.mean()) if len(known) else np.nan
