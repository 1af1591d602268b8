"""Numbers for how far apart two engines are: those that verl logs, and the same without their clamps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esscher.estimate import Estimate, clustered_ratio
from esscher.groups import Groups, as_groups
from esscher.weights.weighing import weigh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.mismatch.alignment import Pairs

    Floats = NDArray[np.float64]

# verl 0.7, rollout_corr_helper.py: log-ratios are clamped to this before `exp`, and token weights to [1 / threshold,
# threshold]; epsilon keeps their mean off 0.
SAFETY_BOUND, IS_THRESHOLD, IS_EPSILON = 20.0, 2.0, 1e-8


@dataclass(frozen=True)
class Metrics:
    """How far apart two engines are, with r = l_train - l_rollout of a token; nats unless said otherwise.

    All up to `rollout_is_eff_sample_size` bear verl's names and have its formulas (0.7), clamps included, of one batch.
    A token mean is over all tokens at once, a mean over completions weighs a short one like a long one.

    Attributes
    ----------
    kl
        Token mean of -r, an estimate of KL(rollout‖train) per token, with its standard error clustered by prompt.
    k3_kl
        Token mean of ``exp(r) - r - 1``.
    training_ppl, rollout_ppl
        Mean over completions of ``exp(-mean l)``, a perplexity.
    training_log_ppl, rollout_log_ppl
        Mean over completions of ``-mean l``.
    log_ppl_diff, log_ppl_abs_diff, log_ppl_diff_max, log_ppl_diff_min
        Over completions, of ``mean l_rollout - mean l_train``: mean, mean of the absolute value, largest, smallest.
    ppl_ratio
        Mean over completions of ``exp(mean l_rollout - mean l_train)``.
    chi2_token
        Token mean of ``exp(2 r)``, less 1; r clamped to ±20.
    chi2_seq
        Mean over completions of ``exp(2 sum r)``, less 1; the sum clamped to ±20.
    rollout_is_eff_sample_size
        Effective sample size as a share of tokens, of token weights ``exp(r)`` clamped to [0.5, 2], as for
        ``rollout_is: token`` with a threshold of 2: it can not fall below 0.64, however far apart the engines are.
    chi2_token_unclamped, chi2_seq_unclamped
        The same as `chi2_token` and `chi2_seq` without clamps; may be inf.
    ess
        Effective sample size as a share of completions, of sequence weights ``exp(sum r)`` that nothing clamps.
    pareto_k
        Tail shape of these weights; -inf if they are all alike, NaN if there are too few completions to tell.
    """

    kl: Estimate
    k3_kl: float
    training_ppl: float
    training_log_ppl: float
    rollout_ppl: float
    rollout_log_ppl: float
    log_ppl_diff: float
    log_ppl_abs_diff: float
    log_ppl_diff_max: float
    log_ppl_diff_min: float
    ppl_ratio: float
    chi2_token: float
    chi2_seq: float
    rollout_is_eff_sample_size: float
    chi2_token_unclamped: float
    chi2_seq_unclamped: float
    ess: float
    pareto_k: float


def metrics_of(pairs: Pairs, groups: Groups) -> Metrics:
    """Return the metrics of finite pairs, at least one; `groups` are of the completions that pairs index."""
    rows, tokens = pairs.by_row()
    r = pairs.train - pairs.rollout
    sums = tokens.sums(r)
    train, rollout = tokens.means(pairs.train), tokens.means(pairs.rollout)
    diff = rollout - train
    weights = weigh(sums, as_groups(None, len(sums)))
    # A perplexity or a chi-squared that overflows is inf.
    with np.errstate(over="ignore"):
        return Metrics(
            kl=clustered_ratio(-sums, tokens.sizes.astype(np.float64), groups_of(rows, groups)),
            # From -r up, so that rounding cannot make it negative.
            k3_kl=float(np.maximum(np.expm1(r) - r, 0.0).mean()),
            training_ppl=float(np.exp(-train).mean()),
            training_log_ppl=float(-train.mean()),
            rollout_ppl=float(np.exp(-rollout).mean()),
            rollout_log_ppl=float(-rollout.mean()),
            log_ppl_diff=float(diff.mean()),
            log_ppl_abs_diff=float(np.abs(diff).mean()),
            log_ppl_diff_max=float(diff.max()),
            log_ppl_diff_min=float(diff.min()),
            ppl_ratio=float(np.exp(diff).mean()),
            chi2_token=_chi2(np.clip(r, -SAFETY_BOUND, SAFETY_BOUND)),
            chi2_seq=_chi2(np.clip(sums, -SAFETY_BOUND, SAFETY_BOUND)),
            rollout_is_eff_sample_size=_clamped_ess(r),
            chi2_token_unclamped=_chi2(r),
            chi2_seq_unclamped=_chi2(sums),
            ess=float(weights.ess[0]) / len(rows),
            pareto_k=weights.largest_pareto_k,
        )


def groups_of(rows: NDArray[np.int64], groups: Groups) -> Groups:
    """Return `groups` over those completions that are in `rows`, sorted; prompts that have none left are gone."""
    return Groups(np.unique(np.searchsorted(rows, groups)))


def _chi2(log_ratios: Floats) -> float:
    return float(np.expm1(2.0 * log_ratios).mean())


def _clamped_ess(log_ratios: Floats) -> float:
    weights = np.exp(np.clip(log_ratios, -SAFETY_BOUND, SAFETY_BOUND))
    weights = np.clip(weights, 1.0 / IS_THRESHOLD, IS_THRESHOLD)
    normalised = weights / (weights.mean() + IS_EPSILON)
    return float(1.0 / np.square(normalised).mean())
