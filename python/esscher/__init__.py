"""Scoring and evaluation for KL-regularised fine-tuning of language models, seen as Bayesian inference."""

from esscher.divergence import KlEstimate, estimate_kl, kl, sequence_logprobs
from esscher.estimate import Estimate
from esscher.ragged import Ragged
from esscher.samples import Samples
from esscher.target import Condition, Tilt

__all__ = [
    "Condition",
    "Estimate",
    "KlEstimate",
    "Ragged",
    "Samples",
    "Tilt",
    "estimate_kl",
    "kl",
    "sequence_logprobs",
]
