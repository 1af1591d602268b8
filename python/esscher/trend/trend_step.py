"""What one step of a training run says of its policy: a few numbers, whatever the number of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esscher.estimate import Estimate
    from esscher.trend.path import FrontierPlace


@dataclass(frozen=True)
class StepMismatch:
    """How far the engine that sampled is from the one that trains, in nats a token.

    Attributes
    ----------
    kl
        Token mean of log rollout - log train, an estimate of KL(rollout‖train).
    mean_difference, largest_difference
        Of the absolute difference of a token's two log-probs.
    """

    kl: Estimate
    mean_difference: Estimate
    largest_difference: float


@dataclass(frozen=True)
class TrendStep:
    """What the completions of one step say of the policy that drew them; `None` where they do not tell.

    Standard errors are clustered by prompt.

    Attributes
    ----------
    step
        Which step, as the run counts them: the policy's updates before these completions were drawn.
    prompts, completions, tokens
        How many there were.
    reward
        Mean reward.
    rewards_by_name
        Means of the rewards that it is made of, by name.
    kl
        KL(policy‖prior) in nats a completion, by estimator: k1, k3, and exact where the KL over the whole vocabulary is
        known at each token.
    entropy
        Mean negative log-prob of a token under the policy, in nats: an estimate of its entropy a token.
    exact_entropy
        Mean entropy over the whole vocabulary, in nats a token.
    distinct_2
        Distinct 2-grams of two completions of a prompt over their 2-grams, mean over prompts ("distinct-2 of 2" of
        `estimate_diversity`): it does not move with the number of completions.
    unique_share
        Different completions of a prompt over its completions, mean over prompts.
    length
        Mean tokens of a completion.
    longest
        Tokens of the longest completion.
    cut_off
        The share of completions that are as long as the longest, and did not end by themselves where that is known.
    terminated
        The share of completions that ended by themselves.
    alike
        The share of prompts whose completions all have one reward, of those with several completions.
    ess
        Effective share of the completions when they are weighted to stand for the target.
    log_z, inference_gap, excess_collapse
        As `evaluate` gives them for the target: log Z and KL(policy‖target) in nats a completion, and the `distinct_2`
        of the policy minus the target's; by these completions alone, which cannot show what the policy misses.
    mismatch
        How far the engine that sampled is from the one that trains.
    frontier
        Where the step lies beside the optimal frontier, by samples of the prior.
    """

    step: int
    prompts: int
    completions: int
    tokens: int
    reward: Estimate | None
    rewards_by_name: dict[str, Estimate]
    kl: dict[str, Estimate]
    entropy: Estimate | None
    exact_entropy: Estimate | None
    distinct_2: Estimate
    unique_share: Estimate
    length: Estimate
    longest: int
    cut_off: Estimate
    terminated: float | None
    alike: Estimate | None
    ess: float | None
    log_z: Estimate | None
    inference_gap: Estimate | None
    excess_collapse: Estimate | None
    mismatch: StepMismatch | None
    frontier: FrontierPlace | None

    @property
    def best_kl(self) -> Estimate | None:
        """The KL with the least error: exact where it is known, else k1."""
        return self.kl.get("exact", self.kl.get("k1"))

    @property
    def best_entropy(self) -> Estimate | None:
        """The entropy a token with the least error: over the whole vocabulary where that is known."""
        return self.entropy if self.exact_entropy is None else self.exact_entropy

    @property
    def best_gap(self) -> Estimate | None:
        """KL(policy‖target) by log Z from the prior's samples where there are some, else by the step's own."""
        of_prior = None if self.frontier is None else self.frontier.inference_gap
        return self.inference_gap if of_prior is None else of_prior
