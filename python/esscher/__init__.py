"""Scoring and evaluation for KL-regularised fine-tuning of language models, seen as Bayesian inference."""

from typing import TYPE_CHECKING, Any

from esscher._core import __version__
from esscher.compare import Comparison, LogZ, compare, compare_log_z
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
from esscher.frontier import Frontier, Prototype, frontier, prototype, solve_beta, solve_moments
from esscher.inference.best_of_n import (
    BestOfN,
    BestOfNRewards,
    best_of_n,
    best_of_n_kl,
    best_of_n_kl_bound,
    best_of_n_rewards,
    best_of_n_weights,
)
from esscher.inference.bounds import (
    Agreement,
    Bound,
    EvidenceInterval,
    agreement,
    evidence_interval,
    evidence_lower_bound,
    evidence_upper_bound,
    multi_sample_bound,
    multi_sample_upper_bound,
)
from esscher.inference.bridge import Bridge, MixtureLogZ, bridge, mixture_log_z
from esscher.inference.importance import (
    ExponentialWeights,
    Importance,
    Normaliser,
    exponential_weights,
    importance,
    log_normaliser,
)
from esscher.inference.mcmc import Chain, independent_metropolis
from esscher.inference.objectives import Objective, dpg, f_dpg, kl_rl, plain_rl
from esscher.inference.rejection import QuasiRejection, Rejection, quasi_rejection, rejection
from esscher.inference.resampling import resample
from esscher.inference.smc import TemperedSmc, tempered_smc
from esscher.inference.token_smc import TokenSmc, token_smc
from esscher.mismatch import MismatchReport, mismatch
from esscher.ragged import Padded, Ragged
from esscher.samples import Samples, concatenate
from esscher.target import Condition, Moments, Product, Tilt
from esscher.token_scores import TokenScores, token_scores

if TYPE_CHECKING:
    from esscher.client import Answer, AsyncClient, Client, ColumnError

__all__ = [
    "Agreement",
    "Answer",
    "AsyncClient",
    "BestOfN",
    "BestOfNRewards",
    "Bound",
    "Bridge",
    "Chain",
    "Client",
    "ColumnError",
    "Comparison",
    "Condition",
    "DiversityEstimate",
    "Estimate",
    "EvidenceInterval",
    "ExponentialWeights",
    "Frontier",
    "Importance",
    "Interval",
    "KlEstimate",
    "KlEstimators",
    "LogZ",
    "LogprobAggregates",
    "MismatchReport",
    "MixtureLogZ",
    "Moments",
    "Normaliser",
    "Objective",
    "Padded",
    "Product",
    "Prototype",
    "QuasiRejection",
    "Ragged",
    "Rejection",
    "Report",
    "Samples",
    "TemperedSmc",
    "Tilt",
    "TokenScores",
    "TokenSmc",
    "TopNgrams",
    "__version__",
    "aggregate_logprobs",
    "agreement",
    "best_of_n",
    "best_of_n_kl",
    "best_of_n_kl_bound",
    "best_of_n_rewards",
    "best_of_n_weights",
    "bridge",
    "compare",
    "compare_log_z",
    "concatenate",
    "distinct",
    "dpg",
    "estimate_diversity",
    "estimate_kl",
    "estimate_kls",
    "evaluate",
    "evidence_interval",
    "evidence_lower_bound",
    "evidence_upper_bound",
    "exponential_weights",
    "f_dpg",
    "frontier",
    "importance",
    "independent_metropolis",
    "kl",
    "kl_estimators",
    "kl_rl",
    "log_normaliser",
    "mismatch",
    "mixture_log_z",
    "multi_sample_bound",
    "multi_sample_upper_bound",
    "plain_rl",
    "prototype",
    "quasi_rejection",
    "rarefied_distinct",
    "rejection",
    "resample",
    "self_bleu",
    "self_bleu_of_texts",
    "sequence_logprobs",
    "solve_beta",
    "solve_moments",
    "tempered_smc",
    "token_scores",
    "token_smc",
    "top_ngrams",
]


def __getattr__(name: str) -> Any:
    """Import the clients when they are first asked for: grpc takes longer to import than all the rest."""
    if name in ("Answer", "AsyncClient", "Client", "ColumnError"):
        from esscher import client

        return getattr(client, name)
    raise AttributeError(f"module 'esscher' has no attribute {name!r}")
