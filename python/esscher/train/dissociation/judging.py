"""Judging a policy: completions drawn from it, and estimates from them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from esscher.divergence import sequence_logprobs
from esscher.divergence.forward import estimate_forward
from esscher.diversity import estimate_size_free
from esscher.estimate import Estimate, clustered_mean, clustered_ratio
from esscher.evaluate import evaluate
from esscher.inference.importance import exponential_weights
from esscher.lm.tabular import TabularLM
from esscher.ragged import Ragged
from esscher.report.outcomes import Exact, Outcome, ShownText
from esscher.target import Tilt
from esscher.weights import weigh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.divergence import KlEstimate
    from esscher.lm.base import LanguageModel, Reward
    from esscher.samples import Samples
    from esscher.train.dissociation.worlds import World
    from esscher.train.lessons import KnownPrior

# Prompts of which completions are shown, and how many of each.
SHOWN_PROMPTS, SHOWN = 3, 2
# What is drawn, beside the seed: not what training draws.
JUDGING = 1000
DRAWN = "policies are judged by completions that were drawn with all columns"


def draw(lm: LanguageModel, prior: LanguageModel, world: World, n: int, new_tokens: int, seed: int) -> Samples:
    """Draw `n` completions of every prompt, with rewards, log-probs, entropies and the exact KL at every token."""
    drawn = lm.sample(world.prompts, n, new_tokens, np.random.default_rng([seed, JUDGING]))
    scores = lm.token_scores(drawn.prompts, drawn.actions, drawn.groups, prior=prior)
    columns: dict[str, Any] = {
        name: Ragged(column, drawn.actions.rows.offsets) for name, column in scores.columns().items()
    }
    return replace(drawn, rewards=np.asarray(world.reward(drawn), np.float64), **columns)


def judge(
    name: str,
    lm: LanguageModel,
    prior: LanguageModel,
    world: World,
    drawn: Samples,
    known: KnownPrior,
    beta: float,
    seconds: float,
) -> Outcome:
    """Estimate reward, KLs, entropy and diversity of a policy, from completions of it and of the prior."""
    rewards, entropy = drawn.need("rewards", why=DRAWN), drawn.need("policy_entropy", why=DRAWN)
    log_ratios = rewards / beta - (drawn.policy_log_prob - drawn.prior_log_prob)
    gaps = drawn.groups.spread(known.corrected_log_z) - log_ratios
    return Outcome(
        name=name,
        report=evaluate(drawn, Tilt(beta)),
        entropy=clustered_ratio(
            entropy.rows.sums(entropy.values.astype(np.float64)), entropy.lengths.astype(np.float64), drawn.groups
        ),
        inference_gap=clustered_mean(gaps, drawn.groups),
        forward_kl=_forward_kl(lm, known.samples, beta),
        excess_collapse=_excess(drawn, known.samples, beta),
        texts=_texts(world, drawn),
        seconds=seconds,
        exact=_exact(lm, prior, world.reward, beta),
    )


def _forward_kl(lm: LanguageModel, prior_samples: Samples, beta: float) -> KlEstimate:
    """KL(target‖policy), by the prior's samples: a collapsed policy's own do not show what it lacks."""
    logprobs = lm.logprobs(prior_samples.prompts, prior_samples.actions, prior_samples.groups)
    return estimate_forward(
        replace(prior_samples, policy_logprobs=logprobs),
        prior_samples.need("rewards", why=DRAWN) / beta,
        prior_samples.prior_log_prob,
    )


def _excess(drawn: Samples, prior_samples: Samples, beta: float) -> Estimate:
    """Share of distinct 2-grams of the policy's completions minus that of the target's.

    The target's are the prior's, weighted: a collapsed policy's own completions do not show it either.
    """
    weights = exponential_weights(prior_samples.need("rewards", why=DRAWN), beta, prior_samples.groups).weights
    own = estimate_size_free(drawn.actions, drawn.groups)[0].within
    of_target = estimate_size_free(prior_samples.actions, prior_samples.groups, weights)[0].within
    return Estimate(own.value - of_target.value, float(np.hypot(own.stderr, of_target.stderr)))


def _texts(world: World, drawn: Samples) -> tuple[ShownText, ...]:
    rewards, completions = drawn.need("rewards", why=DRAWN), world.texts(drawn.completions)
    return tuple(
        ShownText(world.prompt_texts[p], completions[i], float(rewards[i]))
        for p in range(min(SHOWN_PROMPTS, len(drawn.prompts)))
        for i in range(drawn.groups[p], min(drawn.groups[p] + SHOWN, drawn.groups[p + 1]))
    )


def _exact(lm: LanguageModel, prior: LanguageModel, reward: Reward, beta: float) -> Exact | None:
    """Compute the means by enumeration, which only tabular models allow."""
    if not (isinstance(lm, TabularLM) and isinstance(prior, TabularLM)):
        return None
    every = lm.completions()
    rewards, policy = np.asarray(reward(every), np.float64), every.policy_log_prob
    of_prior = sequence_logprobs(prior.logprobs(every.prompts, every.completions, every.groups))
    potential = of_prior + rewards / beta
    target = potential - every.groups.spread(weigh(potential, every.groups).log_z + np.log(every.groups.sizes))

    def mean(log_prob: NDArray[np.float64], values: NDArray[np.float64]) -> float:
        return float(np.exp(log_prob) @ values) / len(every.prompts)

    return Exact(
        reward=mean(policy, rewards),
        kl=mean(policy, policy - of_prior),
        inference_gap=mean(policy, policy - target),
        forward_kl=mean(target, target - policy),
        entropy=mean(policy, -policy),
    )
