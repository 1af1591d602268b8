"""A gold reward along the frontier of its proxy: overoptimisation, seen before any training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.estimate import HUGE, ROUNDING, Estimate, Interval, clustered_mean, effective_clusters
from esscher.frontier.averages import Curve, average_curve, widen, without_void
from esscher.groups import Groups, as_groups
from esscher.inference.validation import as_column, finite_column, refuse
from esscher.warning import ReportWarning
from esscher.weights import LeftBias, cut_in_halves, is_small, left_bias, worth_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.frontier.curve import Frontier

# How the largest of many differences varies by chance is found by so many draws, the same at every call.
DRAWS, SEED = 4000, 0
# What is found in 95 of 100 cases.
LEVEL = 0.95
# Completions of a single prompt that are looked at together.
ROWS = 1 << 13


@dataclass(frozen=True)
class GoldPeak:
    """Where the gold reward is highest, of the prior and of the targets that are trusted.

    Attributes
    ----------
    beta, kl
        The best target's strength of the penalty and its KL from the prior in nats; infinite and 0 for the prior.
    reward
        Its gold reward; the highest of several estimates, and so by about its error too high.
    beta_interval, kl_interval
        From where to where the best one is, in 95 of 100 cases: no other is better by more than chance makes of them
        all. An end at the last target that is trusted is where the samples end.
    rises
        Whether a target is better than the prior by more than chance, which says so in 5 of 100 cases at most.
    falls
        Whether the last target that is trusted is worse than another, or than the prior, by more than chance:
        overoptimisation.
    """

    beta: float
    kl: float
    reward: Estimate
    beta_interval: Interval
    kl_interval: Interval
    rises: bool
    falls: bool


@dataclass(frozen=True, eq=False)
class GoldCurve:
    """What a gold reward becomes under the targets of another reward, its proxy, at the betas of the frontier.

    Attributes
    ----------
    reward
        E_target[gold], in units of the gold reward [B]; without an error where a bias is left that is not small.
    trusted
        Whether the samples carry it [B]; nowhere beyond where the frontier is trusted.
    prior_reward
        E_prior[gold]: where the curve begins.
    peak
        Where it is highest; `None` if no target is trusted.
    warnings
        What the reader should know before trusting it, and what to do.
    """

    reward: Curve
    trusted: NDArray[np.bool_]
    prior_reward: Estimate
    peak: GoldPeak | None
    warnings: tuple[ReportWarning, ...]


def gold_curve(curve: Frontier, rewards: ArrayLike, gold: ArrayLike, groups: ArrayLike | None = None) -> GoldCurve:
    """Estimate the gold reward of the targets of a proxy reward, from the samples of the prior that its frontier is of.

    In each prompt, with ``w_i = exp(r_i / beta)`` and the gold rewards ``g_i``: ``E_target[g] = E[w g] / E[w]``. It is
    corrected for its bias of order 1/n, has errors and intervals, and is trusted, as the frontier's reward. Where more
    of the proxy gives less gold the proxy is overoptimised (Gao et al.), here by the best policy of each KL, which
    samples of the prior show before there is one (Paes et al.).

    Parameters
    ----------
    curve
        The frontier of these samples and rewards.
    rewards
        The proxy's rewards of samples of the prior [N].
    gold
        Their gold rewards [N], finite.
    groups
        Groups of the samples that share a prompt [P + 1], as given to `frontier`.

    Raises
    ------
    ValueError
        If there is not a gold reward for each sample, or one is not finite or beyond 1e140.

    References
    ----------
    Gao, Schulman, Hilton, "Scaling Laws for Reward Model Overoptimization", 2022, arXiv:2210.10760.
    Paes, Mackraz, Theobald, Danieli, "Theoretical Limits of Language Model Alignment", 2026, arXiv:2605.07105.

    Examples
    --------
    >>> import numpy as np
    >>> from esscher.frontier import frontier, gold_curve
    >>> proxy = np.random.default_rng(0).normal(size=4000)
    >>> found = gold_curve(frontier(proxy, [2.0, 1.0, 0.5]), proxy, proxy - proxy**2 / 2)  # highest at a proxy of 1
    >>> found.reward.value.round(2), found.peak.beta, found.peak.falls
    (array([-0.13,  0.03, -0.15]), 1.0, True)
    """
    proxy = as_column("rewards", rewards)
    column = as_gold(gold, len(proxy))
    of = as_groups(groups, len(proxy))
    whole = _tilt(proxy, column, curve.beta, of)
    averaged, assumes = average_curve(whole.values, whole.stderrs(of), of.sizes)
    left = _left_bias(proxy, column, curve.beta, of, whole)
    is_unbiased = is_small(left, averaged.value, averaged.stderr)
    trusted: NDArray[np.bool_] = np.logical_and.accumulate(curve.trusted & is_unbiased)
    prior = clustered_mean(column, of)
    return GoldCurve(
        reward=without_void(widen(averaged, left), is_unbiased),
        trusted=trusted,
        prior_reward=prior,
        peak=_peak(curve, proxy, column, of, whole, averaged, trusted, prior, assumes) if trusted.any() else None,
        warnings=_doubts(curve, trusted),
    )


def as_gold(gold: ArrayLike, n: int) -> NDArray[np.float64]:
    """Return gold rewards as float64 [n], or raise `ValueError` if they are not `n` or one is not finite."""
    column = finite_column("gold", gold, "a gold reward is finite; leave out completions that have none", n)
    refuse("gold", column, np.abs(column) > HUGE, "scale the gold rewards, of which squares are taken, down")
    return column


class _Tilts(NamedTuple):
    """The gold reward of each prompt and beta, the variance of its influence values, and the weights' ESS [P, B]."""

    values: NDArray[np.float64]
    variances: NDArray[np.float64]
    ess: NDArray[np.float64]

    def stderrs(self, groups: Groups) -> NDArray[np.float64]:
        stderrs: NDArray[np.float64] = np.sqrt(self.variances / (groups.sizes - 1)[:, None])
        return stderrs


def _tilt(rewards: NDArray[np.float64], gold: NDArray[np.float64], beta: NDArray[np.float64], groups: Groups) -> _Tilts:
    """Return the gold reward of each prompt's tilts, less its bias of order 1/n."""
    d = rewards - groups.spread(groups.largest(rewards))
    # Beside the prior's mean, so that no digits are lost to an offset.
    centre = groups.means(gold)
    beside = gold - groups.spread(centre)
    found = [_at(d / one, beside, groups) for one in beta.tolist()]
    values, variances, ess = (np.stack(columns, axis=1) for columns in zip(*found, strict=True))
    return _Tilts(centre[:, None] + values, variances, ess)


def _at(
    log_weights: NDArray[np.float64], values: NDArray[np.float64], groups: Groups
) -> tuple[NDArray[np.float64], ...]:
    """Return each prompt's weighted mean less its bias, the variance of its influence values, and the ESS [P]."""
    weights = np.exp(log_weights)
    total = groups.sums(weights)
    mean = groups.sums(weights * values) / total
    beyond = weights * (values - groups.spread(mean))
    bias = -groups.sums(weights * beyond) / total**2
    return (
        mean - bias,
        groups.sizes * groups.sums(beyond * beyond) / total**2,
        total**2 / groups.sums(weights * weights),
    )


def _left_bias(
    rewards: NDArray[np.float64],
    gold: NDArray[np.float64],
    beta: NDArray[np.float64],
    groups: Groups,
    whole: _Tilts,
) -> LeftBias:
    cuts = cut_in_halves(rewards, groups)
    halves = [_tilt(rewards[cut.order], gold[cut.order], beta, cut.groups) for cut in cuts]
    worth = worth_of(whole.ess, [half.ess for half in halves])
    return left_bias(whole.values, [half.values for half in halves], groups.sizes, worth)


def _peak(
    curve: Frontier,
    rewards: NDArray[np.float64],
    gold: NDArray[np.float64],
    groups: Groups,
    whole: _Tilts,
    averaged: Curve,
    trusted: NDArray[np.bool_],
    prior: Estimate,
    assumes: str,
) -> GoldPeak:
    beta, kl = np.append(np.inf, curve.beta[trusted]), np.append(0.0, curve.kl.value[trusted])
    values = np.append(prior.value, averaged.value[trusted])
    stderrs = np.append(prior.stderr, averaged.stderr[trusted])
    if len(groups.sizes) == 1:
        covariance, draws = _covariance_of_one(rewards, gold, beta), float(len(gold))
    else:
        of_prompts = np.column_stack([groups.means(gold), whole.values[:, trusted]])
        covariance, draws = _covariance(of_prompts, groups.sizes), effective_clusters(groups.sizes)
    best = int(values.argmax())
    may_be_best = _may_be_best(values, covariance, max(draws - 1, 1.0))
    where = np.flatnonzero(may_be_best)
    assumes = f"{assumes}, of all betas together"
    return GoldPeak(
        beta=float(beta[best]),
        kl=float(kl[best]),
        reward=Estimate(float(values[best]), float(stderrs[best])),
        beta_interval=Interval(float(beta[where[-1]]), float(beta[where[0]]), assumes),
        kl_interval=Interval(float(kl[where[0]]), float(kl[where[-1]]), assumes),
        rises=not may_be_best[0],
        falls=not may_be_best[-1],
    )


def _covariance(values: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Covariance of the means over prompts of K quantities [K, K], from each prompt's [P, K] (see `clustered_mean`)."""
    shares = sizes / sizes.sum()
    residuals = shares[:, None] * (values - shares @ values)
    covariance: NDArray[np.float64] = residuals.T @ (residuals / (1.0 - shares)[:, None])
    return covariance


def _covariance_of_one(
    rewards: NDArray[np.float64], gold: NDArray[np.float64], beta: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Covariance of the gold rewards of a single prompt's prior and tilts [K, K], by their influence values."""
    d, beside = rewards - rewards.max(), gold - gold.mean()
    parts = [slice(start, start + ROWS) for start in range(0, len(d), ROWS)]
    sums = np.zeros((len(beta), 2))
    for part in parts:
        sums += _weights(d[part], beta) @ np.column_stack([np.ones(len(d[part])), beside[part]])
    total, mean = sums[:, :1], sums[:, 1:] / sums[:, :1]
    covariance = np.zeros((len(beta), len(beta)))
    for part in parts:
        influence = _weights(d[part], beta) * (beside[part] - mean) / total
        covariance += influence @ influence.T
    return covariance * len(d) / (len(d) - 1)


def _weights(d: NDArray[np.float64], beta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of completions at each beta [K, n]; those of the prior, whose beta is infinite, are 1."""
    weights = np.ones((len(beta), len(d)))
    finite = np.isfinite(beta)
    weights[finite] = np.exp(d / beta[finite, None])
    return weights


def _may_be_best(values: NDArray[np.float64], covariance: NDArray[np.float64], freedom: float) -> NDArray[np.bool_]:
    """Say of K quantities which may be the largest [K]: in 95 of 100 cases the one that is, is among them.

    One is not if another is larger by more standard errors of their difference than the largest of all such differences
    has by chance, by draws of the multivariate t.

    References
    ----------
    Hsu, "Multiple Comparisons: Theory and Methods", 1996, chapter 4, doi:10.1201/b15074.
    """
    rng = np.random.default_rng(SEED)
    scales, axes = np.linalg.eigh(covariance)
    normal = rng.standard_normal((DRAWS, len(values))) * np.sqrt(np.maximum(scales, 0.0)) @ axes.T
    drawn = normal / np.sqrt(rng.chisquare(freedom, size=(DRAWS, 1)) / freedom)
    variances = np.diag(covariance)
    spread = np.sqrt(np.maximum(variances[:, None] + variances - 2 * covariance, 0.0))
    # Where nothing differs, what rounding leaves is no difference.
    spread = np.maximum(spread, ROUNDING * max(float(np.abs(values).max()), float(np.sqrt(variances.max()))) or 1.0)
    may = [
        ((values - one) / beside).max() <= np.quantile(((drawn - of_one[:, None]) / beside).max(axis=1), LEVEL)
        for one, of_one, beside in zip(values, drawn.T, spread, strict=True)
    ]
    found: NDArray[np.bool_] = np.array(may) | (values == values.max())
    return found


def _doubts(curve: Frontier, trusted: NDArray[np.bool_]) -> tuple[ReportWarning, ...]:
    """Say from where on the gold reward is not to be trusted, if that is before the frontier itself is not."""
    if np.array_equal(trusted, curve.trusted):
        return ()
    first = int(np.flatnonzero(~trusted)[0])
    where = f"Below beta = {curve.beta[first - 1]:.3g}" if first else "At any of these betas"
    return (
        ReportWarning(
            "beyond-the-samples",
            f"{where} the gold reward is not to be trusted: halves of the samples say otherwise than all, so that a "
            "bias is left that is not small beside the error.",
            "Draw more samples a prompt to see further.",
        ),
    )
