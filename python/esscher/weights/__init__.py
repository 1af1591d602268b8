"""Weights: ESS and tail, the bias of few of them, what is to be trusted, intervals of what rests on them."""

from esscher.weights.bias import bias_of_log_mean, bias_of_weighted_mean, weighted_means
from esscher.weights.halves import (
    LeftBias,
    cut_in_halves,
    is_small,
    left_bias,
    shown,
    shown_interval,
    widened,
    worth_of,
)
from esscher.weights.tails import (
    NEARLY_EQUAL,
    TRUSTED_BY_NONE,
    count_heavy,
    tails_that_decide,
    trusted_pareto_k,
)
from esscher.weights.weighing import Weights, left_bias_of, weigh

__all__ = [
    "NEARLY_EQUAL",
    "TRUSTED_BY_NONE",
    "LeftBias",
    "Weights",
    "bias_of_log_mean",
    "bias_of_weighted_mean",
    "count_heavy",
    "cut_in_halves",
    "is_small",
    "left_bias",
    "left_bias_of",
    "shown",
    "shown_interval",
    "tails_that_decide",
    "trusted_pareto_k",
    "weigh",
    "weighted_means",
    "widened",
    "worth_of",
]
