"""Samples and a target in, a report out: a plain record that any layer can show, store or send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from esscher.divergence import KlEstimate
    from esscher.estimate import Estimate

Proposal = Literal["policy", "prior"]


@dataclass(frozen=True)
class Counts:
    """How much was evaluated; `terminated` is `None` where the samples do not say."""

    prompts: int
    completions: int
    tokens: int
    terminated: int | None


@dataclass(frozen=True)
class Diversity:
    """A diversity metric, within each prompt's completions (mean over prompts) and across all of them."""

    metric: str
    within: Estimate
    across: float


@dataclass(frozen=True)
class Ngram:
    """An n-gram of tokens and how often it occurs."""

    token_ids: tuple[int, ...]
    count: int


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
        Log normaliser of the target, mean over completions of their prompt's.
    reward
        Mean reward under the target, in units of reward.
    ess
        Effective sample size summed over prompts, in completions.
    pareto_k
        Largest over prompts; -inf if no prompt's weights have a tail, NaN if no prompt has completions enough to tell.
    elbo
        E_policy[log_potential] - KL(policy‖prior), a lower bound of log Z; `None` if the samples came from the prior.
    inference_gap
        log Z - elbo = KL(policy‖target), each prompt's subtracted before averaging; `None` with `elbo`.
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
    inference_gap: Estimate | None
    objective: Estimate | None
    objective_bound: Estimate | None


@dataclass(frozen=True, eq=False)
class PerCompletion:
    """What is known of each completion [N]: the data behind the report's plots."""

    lengths: NDArray[np.int64]
    rewards: NDArray[np.float64] | None
    kl: NDArray[np.float64] | None
    log_weights: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class Report:
    """What `evaluate` found. What the samples could not tell is `None`, and `unavailable` says why.

    Attributes
    ----------
    version
        The version of Esscher that made it.
    counts
        How much was evaluated.
    reward
        Mean reward, clustered by prompt.
    kl
        Estimates of KL(policy‖prior) at token level, by estimator.
    prior_perplexity
        exp of the mean negative log-prob of a token under the prior.
    entropy
        Mean negative log-prob of a token under the policy, in nats: an estimate of its entropy per token.
    target
        What the target would give; `None` without a target.
    diversity
        Diversity metrics.
    top_ngrams
        The most frequent n-grams of each order, most frequent first.
    per_completion
        The columns behind the plots.
    warnings
        What the reader should know before trusting a number, and what to do about it.
    unavailable
        What is missing from the report, and why.
    """

    version: str
    counts: Counts
    reward: Estimate | None
    kl: dict[str, KlEstimate]
    prior_perplexity: float | None
    entropy: float | None
    target: TargetReport | None
    diversity: tuple[Diversity, ...]
    top_ngrams: dict[int, tuple[Ngram, ...]]
    per_completion: PerCompletion
    warnings: tuple[str, ...]
    unavailable: dict[str, str]
