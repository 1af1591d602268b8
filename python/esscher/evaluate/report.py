"""What a report holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.divergence import KlEstimate, MutualInformation
    from esscher.diversity import DiversityEstimate
    from esscher.estimate import Estimate
    from esscher.evaluate.posterior import TargetReport
    from esscher.samples import Tokens
    from esscher.warning import ReportWarning


@dataclass(frozen=True)
class Counts:
    """How much was evaluated; `terminated` is `None` where the samples do not say."""

    prompts: int
    completions: int
    tokens: int
    terminated: int | None


@dataclass(frozen=True)
class Ngram:
    """An n-gram of tokens and how often it occurs."""

    token_ids: tuple[int, ...]
    count: int


@dataclass(frozen=True, eq=False)
class PerCompletion:
    """What is known of each completion [N]: the data behind the report's plots.

    `prompts` is the index of its prompt, `log_weights` are normalised within each prompt.
    """

    prompts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    rewards: NDArray[np.float64] | None
    kl: NDArray[np.float64] | None
    log_weights: NDArray[np.float64] | None

    @property
    def relative_weights(self) -> NDArray[np.float64] | None:
        """Weights relative to equal ones: their mean over a prompt with weight is 1, so that each completion counts."""
        if self.log_weights is None:
            return None
        relative: NDArray[np.float64] = np.exp(self.log_weights) * np.bincount(self.prompts)[self.prompts]
        return relative


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
        Estimates of KL(policy‖prior), by estimator (see `estimate_kls`).
    trainer_kl
        What trainers would log as their KL of these samples, by preset (see `estimate_kl`).
    prior_perplexity
        exp of the mean negative log-prob of a token under the prior.
    entropy
        Mean negative log-prob of a token under the policy, in nats: an estimate of its entropy per token.
    mutual_information
        What completions and prompts say of each other; `None` without `cross_log_probs`, and unless the completions
        came from the policy.
    tokens
        What the completions' ids are; made from texts again, they need not be those that were sampled.
    target
        What the target would give; `None` without a target.
    diversity
        Diversity metrics of the completions (see `estimate_diversity`).
    target_diversity
        Those of them that do not move with the number of completions but for what weights do, of the completions
        weighted to stand for the target: what it asks for. Empty without weights.
    excess_collapse
        The diversity of the completions minus that of the target, of the same metrics, less the bias that few
        completions make (see `estimate_excess`): what the policy has lost beyond what the target asks for. Empty unless
        the completions came from the policy.
    top_ngrams
        The most frequent n-grams of each order, most frequent first.
    per_completion
        The columns behind the plots.
    warnings
        What the reader should know before trusting a number, and what to do about it.
    unavailable
        What is missing from the report, and why.
    rewards
        Mean of each reward that has a name, clustered by prompt, where the samples have several or are of a file that
        names them: `reward` is that of their sum.
    """

    version: str
    counts: Counts
    reward: Estimate | None
    kl: dict[str, KlEstimate]
    trainer_kl: dict[str, KlEstimate]
    prior_perplexity: float | None
    entropy: float | None
    target: TargetReport | None
    diversity: tuple[DiversityEstimate, ...]
    target_diversity: tuple[DiversityEstimate, ...]
    excess_collapse: tuple[DiversityEstimate, ...]
    top_ngrams: dict[int, tuple[Ngram, ...]]
    per_completion: PerCompletion
    warnings: tuple[ReportWarning, ...]
    unavailable: dict[str, str]
    mutual_information: MutualInformation | None = None
    tokens: Tokens = "sampled"
    rewards: dict[str, Estimate] = field(default_factory=dict)
