"""Scoring and evaluation for KL-regularised fine-tuning of language models, seen as Bayesian inference."""

from typing import TYPE_CHECKING, Any

from esscher._core import __version__
from esscher.divergence import (
    KlEstimate,
    KlEstimators,
    LogprobAggregates,
    aggregate_logprobs,
    estimate_kl,
    estimate_kls,
    kl,
    kl_estimators,
    sequence_logprobs,
)
from esscher.diversity import (
    DiversityEstimate,
    TopNgrams,
    distinct,
    estimate_diversity,
    rarefied_distinct,
    self_bleu,
    self_bleu_of_texts,
    top_ngrams,
)
from esscher.estimate import Estimate, Interval
from esscher.evaluate import Report, evaluate
from esscher.inference.importance import (
    ExponentialWeights,
    Importance,
    Normaliser,
    exponential_weights,
    importance,
    log_normaliser,
)
from esscher.inference.resampling import resample
from esscher.mismatch import MismatchReport, mismatch
from esscher.ragged import Padded, Ragged
from esscher.samples import Samples, concatenate
from esscher.target import Condition, Tilt
from esscher.token_scores import TokenScores, token_scores

if TYPE_CHECKING:
    from esscher.service.client import AsyncClient, Client

__all__ = [
    "AsyncClient",
    "Client",
    "Condition",
    "DiversityEstimate",
    "Estimate",
    "ExponentialWeights",
    "Importance",
    "Interval",
    "KlEstimate",
    "KlEstimators",
    "LogprobAggregates",
    "MismatchReport",
    "Normaliser",
    "Padded",
    "Ragged",
    "Report",
    "Samples",
    "Tilt",
    "TokenScores",
    "TopNgrams",
    "__version__",
    "aggregate_logprobs",
    "concatenate",
    "distinct",
    "estimate_diversity",
    "estimate_kl",
    "estimate_kls",
    "evaluate",
    "exponential_weights",
    "importance",
    "kl",
    "kl_estimators",
    "log_normaliser",
    "mismatch",
    "rarefied_distinct",
    "resample",
    "self_bleu",
    "self_bleu_of_texts",
    "sequence_logprobs",
    "token_scores",
    "top_ngrams",
]


def __getattr__(name: str) -> Any:
    """Import the clients when they are first asked for: grpc takes longer to import than all the rest."""
    if name in ("Client", "AsyncClient"):
        from esscher.service import client

        return getattr(client, name)
    raise AttributeError(f"module 'esscher' has no attribute {name!r}")
