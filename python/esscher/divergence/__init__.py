"""KL divergences from log-probs of sampled tokens."""

from esscher.divergence.estimators import (
    KlEstimators,
    LogprobAggregates,
    aggregate_logprobs,
    kl,
    kl_estimators,
    sequence_logprobs,
)
from esscher.divergence.kl_estimate import KlEstimate
from esscher.divergence.kl_estimating import estimate_kl, estimate_kls
from esscher.divergence.mutual_information import MutualInformation, estimate_mutual_information, warn_of_collapse
from esscher.divergence.presets import PRESETS, PresetName

__all__ = [
    "PRESETS",
    "KlEstimate",
    "KlEstimators",
    "LogprobAggregates",
    "MutualInformation",
    "PresetName",
    "aggregate_logprobs",
    "estimate_kl",
    "estimate_kls",
    "estimate_mutual_information",
    "kl",
    "kl_estimators",
    "sequence_logprobs",
    "warn_of_collapse",
]
