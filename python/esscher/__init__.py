"""Scoring and evaluation for KL-regularised fine-tuning of language models, seen as Bayesian inference."""

from typing import TYPE_CHECKING, Any

from esscher._core import __version__
from esscher.divergence import KlEstimate, estimate_kl, kl, sequence_logprobs
from esscher.diversity import TopNgrams, distinct, self_bleu, top_ngrams
from esscher.estimate import Estimate
from esscher.evaluate import Report, evaluate
from esscher.inference.importance import Importance, importance
from esscher.inference.resampling import resample
from esscher.ragged import Ragged
from esscher.samples import Samples, concatenate
from esscher.target import Condition, Tilt

if TYPE_CHECKING:
    from esscher.service.client import AsyncClient, Client

__all__ = [
    "AsyncClient",
    "Client",
    "Condition",
    "Estimate",
    "Importance",
    "KlEstimate",
    "Ragged",
    "Report",
    "Samples",
    "Tilt",
    "TopNgrams",
    "__version__",
    "concatenate",
    "distinct",
    "estimate_kl",
    "evaluate",
    "importance",
    "kl",
    "resample",
    "self_bleu",
    "sequence_logprobs",
    "top_ngrams",
]


def __getattr__(name: str) -> Any:
    """Import the clients when they are first asked for: grpc takes longer to import than all the rest."""
    if name in ("Client", "AsyncClient"):
        from esscher.service import client

        return getattr(client, name)
    raise AttributeError(f"module 'esscher' has no attribute {name!r}")
