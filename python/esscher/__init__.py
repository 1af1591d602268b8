"""Scoring and evaluation for KL-regularised fine-tuning of language models, seen as Bayesian inference."""

from typing import TYPE_CHECKING, Any

from esscher._core import __version__
from esscher.compare import compare, compare_log_z
from esscher.divergence import (
    KlEstimate,
    aggregate_logprobs,
    estimate_kl,
    estimate_kls,
    estimate_mutual_information,
    kl,
    kl_estimators,
    sequence_logprobs,
)
from esscher.diversity import (
    distinct,
    estimate_diversity,
    rarefied_distinct,
    self_bleu,
    self_bleu_of_texts,
    top_ngrams,
)
from esscher.estimate import Estimate, Interval
from esscher.evaluate import Report, evaluate
from esscher.frontier import Frontier, frontier, prototype, solve_beta, solve_moments
from esscher.inference.agreement import agreement
from esscher.inference.best_of_n import best_of_n, best_of_n_weights
from esscher.inference.best_of_n_kl import best_of_n_kl, best_of_n_kl_bound
from esscher.inference.best_of_n_rewards import best_of_n_rewards
from esscher.inference.bounds import log_z_bounds, log_z_lower_bound, log_z_upper_bound
from esscher.inference.bridge import bridge_log_z
from esscher.inference.importance import exponential_weights, importance, tilt_log_z
from esscher.inference.mcmc import independent_metropolis
from esscher.inference.mixture import mixture_log_z
from esscher.inference.objectives import dpg, f_dpg, kl_rl, plain_rl
from esscher.inference.rejection import quasi_rejection, rejection
from esscher.inference.resampling import resample
from esscher.inference.smc import tempered_smc
from esscher.inference.token_smc import token_smc
from esscher.mismatch import mismatch
from esscher.ragged import Masked, Padded, Ragged
from esscher.samples import Samples, concatenate
from esscher.target import Condition, Moments, Product, Tilt
from esscher.token_scores import token_scores
from esscher.trend import summarise_step, trend

if TYPE_CHECKING:
    from esscher.client import AsyncClient, Client, ColumnError

__all__ = [
    "AsyncClient",
    "Client",
    "ColumnError",
    "Condition",
    "Estimate",
    "Frontier",
    "Interval",
    "KlEstimate",
    "Masked",
    "Moments",
    "Padded",
    "Product",
    "Ragged",
    "Report",
    "Samples",
    "Tilt",
    "__version__",
    "aggregate_logprobs",
    "agreement",
    "best_of_n",
    "best_of_n_kl",
    "best_of_n_kl_bound",
    "best_of_n_rewards",
    "best_of_n_weights",
    "bridge_log_z",
    "compare",
    "compare_log_z",
    "concatenate",
    "distinct",
    "dpg",
    "estimate_diversity",
    "estimate_kl",
    "estimate_kls",
    "estimate_mutual_information",
    "evaluate",
    "exponential_weights",
    "f_dpg",
    "frontier",
    "importance",
    "independent_metropolis",
    "kl",
    "kl_estimators",
    "kl_rl",
    "log_z_bounds",
    "log_z_lower_bound",
    "log_z_upper_bound",
    "mismatch",
    "mixture_log_z",
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
    "summarise_step",
    "tempered_smc",
    "tilt_log_z",
    "token_scores",
    "token_smc",
    "top_ngrams",
    "trend",
]


def __getattr__(name: str) -> Any:
    """Import the clients when they are first asked for: grpc takes longer to import than all the rest."""
    if name in ("AsyncClient", "Client", "ColumnError"):
        from esscher import client

        return getattr(client, name)
    raise AttributeError(f"module 'esscher' has no attribute {name!r}")
