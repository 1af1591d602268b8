"""All diversity metrics of a corpus: within a prompt's completions, with their uncertainty, and across all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.diversity.arguments import as_weights, check_order, check_weights
from esscher.diversity.bleu import self_bleu
from esscher.diversity.copies import compression_ratio, unique_share
from esscher.diversity.jackknife import bias_of_pairs
from esscher.diversity.ngrams import (
    distinct,
    distinct_without_each,
    ngram_statistics,
    repetition,
)
from esscher.diversity.vendi import scores_of_groups
from esscher.estimate import Estimate, Interval, with_interval
from esscher.groups import as_groups
from esscher.ragged import as_token_ids
from esscher.weights import LeftBias, bias_of_weighted_mean, cut_in_halves, left_bias, shown, shown_interval, worth_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from esscher.groups import Groups
    from esscher.ragged import Masked, Ragged

DISTINCT_ORDERS = (1, 2, 3)
# The length of n-grams for the metrics that are given for one length only; TRL's default for repetition.
ORDER, REPETITION_ORDER, BLEU_ORDER = 2, 3, 4


# Of how many completions the rarefied distinct-n is, if not told otherwise.
SUBSAMPLE = 2
# Metrics that do not move with the number of completions.
PAIRS, REPEATS = f"distinct-{ORDER} of {SUBSAMPLE}", f"repetition-{REPETITION_ORDER}"
SIZE_FREE = (PAIRS, REPEATS)
# How often completions are halved to see how their excess moves: n-grams are counted anew each time.
EXCESS_CUTS = 2


class DiversityEstimate(NamedTuple):
    """A diversity metric of prompts and their completions.

    `within` is the mean over prompts of the metric among each prompt's completions, with its standard error, and
    `interval` its 95 % confidence interval, cut to values that the metric can have: prompts are the independent draws.
    `left_out` prompts have no value, as they have too few completions or tokens, and are not in the mean. `across` is
    the metric of all completions as one group, `None` where that is not computed.
    """

    metric: str
    within: Estimate
    interval: Interval
    left_out: int
    across: float | None


class _Metric(NamedTuple):
    """Values of each prompt [P], and of all completions; `least` and `most` bound the values that there can be."""

    name: str
    within: NDArray[np.float64]
    across: float | None
    most: float = 1.0
    least: float = 0.0


def estimate_diversity(
    completions: Ragged | Masked,
    groups: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    subsample: int = SUBSAMPLE,
    vendi: bool = True,
) -> tuple[DiversityEstimate, ...]:
    """Return the diversity of completions by all metrics, within a prompt's completions and across all.

    In order: "distinct-1", "-2", "-3"; "distinct-2 of m" (rarefied to m completions); "2-gram entropy" in nats;
    "repetition-3"; "unique share"; "vendi-2"; and, without weights only, "compression ratio" and
    "self-bleu-4 (method1)", which have no weighted form.

    With weights, a prompt's values are those of as many completions as its weights are worth: where that is few, they
    lie nearer to the unweighted values than they would with more, by about one over the effective sample size.

    A distinct-n within is of few completions and a distinct-n across of many, so they do not compare; those of m
    completions do: where they are alike, completions of a prompt differ as much as those of different prompts.

    The cost is linear in the tokens, but for the Vendi score, cubic in the completions of a prompt.

    Parameters
    ----------
    completions
        Completions as integers, those of one prompt side by side; of `Masked` ones what is kept, and no n-gram spans
        a gap.
    groups
        Groups [P + 1] of each prompt's completions.
    weights
        One a completion [N], finite and at least 0, for the diversity of the distribution that they lead to. They are
        relative to a prompt's: across, all prompts keep the shares that they have without weights.
    subsample
        The m of "distinct-2 of m", at least 1; at most 8 with weights. Prompts of fewer completions have no value.
    vendi
        Whether to compute the Vendi score; prompts of more than 4096 completions have none.

    Raises
    ------
    ValueError
        If `groups` are no offsets, `subsample` is out of its range, or a weight is negative or not finite.
    TypeError
        If `completions` are not integers, or `weights` no numbers.

    Examples
    --------
    >>> from esscher import Ragged
    >>> completions = Ragged.from_rows([[1, 2, 3], [1, 2, 3], [4, 5, 6], [4, 5, 7]])
    >>> estimates = {estimate.metric: estimate for estimate in estimate_diversity(completions, groups=[0, 2, 4])}
    >>> estimates["distinct-2"].within
    Estimate(value=0.625, stderr=0.125)
    >>> estimates["unique share"].across
    0.75
    """
    rows, borders = _checked(completions, groups)
    relative = None if weights is None else _checked_weights(weights, borders)
    metrics = [*_of_ngrams(rows, borders, relative, subsample), _repetition(rows, borders, relative)]
    metrics += _of_completions(rows, borders, relative, vendi)
    return tuple(map(_estimate, metrics))


def estimate_size_free(
    completions: Ragged | Masked, groups: ArrayLike, weights: ArrayLike | None = None
) -> tuple[DiversityEstimate, ...]:
    """Return only those estimates of `estimate_diversity` that do not move with the number of completions.

    Weighted completions are worth fewer than there are, so that others do not compare. The metrics are those of
    `SIZE_FREE`; the rest, which takes most of the time, is not computed.

    Parameters
    ----------
    completions, groups, weights
        As in `estimate_diversity`.

    Raises
    ------
    ValueError, TypeError
        As `estimate_diversity`.

    Examples
    --------
    >>> from esscher import Ragged
    >>> completions = Ragged.from_rows([[1, 2, 3], [1, 2, 3], [4, 5, 6], [4, 5, 7]])
    >>> [(estimate.metric, estimate.within.value) for estimate in estimate_size_free(completions, groups=[0, 2, 4])]
    [('distinct-2 of 2', 0.625), ('repetition-3', 0.0)]
    """
    rows, borders = _checked(completions, groups)
    relative = None if weights is None else _checked_weights(weights, borders)
    return tuple(map(_estimate, _size_free(rows, borders, relative)))


def estimate_excess(
    completions: Ragged | Masked, groups: ArrayLike, weights: ArrayLike
) -> tuple[DiversityEstimate, ...]:
    """Return how the diversity of completions differs from that of the distribution that weights lead to.

    Diversity of the completions minus their weighted diversity, prompt by prompt, for the metrics of `SIZE_FREE`. With
    the weights of a target, it is what a policy has lost beyond what the target asks for: below 0 for distinct n-grams,
    above 0 for repetition. Where weights are worth few completions, weighted values lie nearer to the unweighted ones
    than they would with more; the bias of order 1/n that this makes is taken off by the jackknife. Two completions are
    a single pair, alike under any weights: the distinct n-grams of pairs have no excess in prompts of fewer than three.

    Parameters
    ----------
    completions, groups, weights
        As in `estimate_diversity`.

    Raises
    ------
    ValueError, TypeError
        As `estimate_diversity`.

    Examples
    --------
    >>> from esscher import Ragged
    >>> completions = Ragged.from_rows([[1, 2, 3], [1, 2, 3], [4, 5, 6], [7, 8, 9]])
    >>> distinct, _ = estimate_excess(completions, [0, 4], weights=[0.0, 0.5, 1.0, 1.0])
    >>> distinct.metric, round(distinct.within.value, 4)
    ('distinct-2 of 2', -0.0833)
    """
    rows, borders = _checked(completions, groups)
    relative = _checked_weights(weights, borders)
    excess = _excess(rows, borders, relative)
    cuts = cut_in_halves(relative, borders, EXCESS_CUTS)
    halves = [_excess(rows.take(cut.order), cut.groups, relative[cut.order]) for cut in cuts]
    worth = worth_of(_ess(relative, borders), [_ess(relative[cut.order], cut.groups) for cut in cuts])
    every_prompt = np.ones(len(borders.sizes), np.int64)
    left = {name: left_bias(excess[name], [half[name] for half in halves], every_prompt, worth) for name in SIZE_FREE}
    return tuple(_shown(_Metric(name, excess[name], None, 1.0, -1.0), left[name]) for name in SIZE_FREE)


def estimate_distinct(completions: Ragged | Masked, n: int, groups: ArrayLike) -> Estimate:
    """Return distinct-n of all completions together, with its standard error by the jackknife over prompts.

    ``stderr^2 = (P - 1) / P * sum_p (distinct without p - their mean)^2``, exact replicates, all in one pass. It says
    how much distinct-n would vary over other prompts, for as many of them.

    Parameters
    ----------
    completions
        Completions as integers, those of one prompt side by side; of `Masked` ones what is kept, and no n-gram spans
        a gap.
    n
        Length of the n-grams, at least 1.
    groups
        Groups [P + 1] of each prompt's completions.

    Returns
    -------
    The estimate; its standard error is NaN with a single prompt, or if only one prompt has n-grams.

    Raises
    ------
    ValueError
        If `n` is below 1, or `groups` are no offsets.
    TypeError
        If `completions` are not integers.

    References
    ----------
    Efron, Stein, "The Jackknife Estimate of Variance", Annals of Statistics 1981, doi:10.1214/aos/1176345462.

    Examples
    --------
    >>> from esscher import Ragged
    >>> estimate_distinct(Ragged.from_rows([[1, 2], [1, 2], [3, 3, 3, 3]]), 1, groups=[0, 2, 3])
    Estimate(value=0.375, stderr=0.125)
    """
    check_order(n)
    value = float(distinct(completions, n)[0])
    without = distinct_without_each(completions, n, groups)
    prompts = len(without)
    if prompts < 2:
        return Estimate(value, float("nan"))
    spread = without - without.mean()
    return Estimate(value, float(np.sqrt((prompts - 1) / prompts * (spread @ spread))))


def _checked(completions: Ragged | Masked, groups: ArrayLike) -> tuple[Ragged | Masked, Groups]:
    rows = as_token_ids("completions", completions, or_masked=True)
    return rows, as_groups(groups, len(rows))


def _checked_weights(weights: ArrayLike, groups: Groups) -> NDArray[np.float64]:
    """Return weights relative to the largest of their prompt, so that no scale of theirs over- or underflows."""
    checked = as_weights(weights, int(groups[-1]))
    check_weights(checked)
    largest = groups.spread(groups.largest(checked))
    return np.divide(checked, largest, out=np.zeros(len(checked)), where=largest > 0)


def _estimate(metric: _Metric) -> DiversityEstimate:
    known = metric.within[~np.isnan(metric.within)]
    within, (low, high, assumes) = with_interval(known, np.arange(len(known) + 1))
    if len(known) < 2:
        assumes = f"{len(known)} prompt{'s' * (len(known) != 1)} with a value: no interval"
    interval = Interval(max(low, metric.least), min(high, metric.most), assumes)
    return DiversityEstimate(metric.name, within, interval, len(metric.within) - len(known), metric.across)


def _excess(rows: Ragged | Masked, groups: Groups, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return the excess of each prompt [P] by metric, less its bias of order 1/n; NaN where it is not known."""
    repeats = repetition(rows, REPETITION_ORDER)
    plain, weighted = (_without_bias(rows, groups, given, repeats) for given in (None, weights))
    excess = {name: plain[name] - weighted[name] for name in SIZE_FREE}
    excess[PAIRS][groups.sizes <= SUBSAMPLE] = np.nan
    return excess


def _ess(weights: NDArray[np.float64], groups: Groups) -> NDArray[np.float64]:
    """Effective sample size of each group; 0 where nothing has weight."""
    squares = groups.sums(weights * weights)
    return np.divide(groups.sums(weights) ** 2, squares, out=np.zeros(len(squares)), where=squares > 0)


def _shown(metric: _Metric, left: LeftBias) -> DiversityEstimate:
    """Return the estimate without error and interval where the bias that is left is not small beside it."""
    found = _estimate(metric)
    within, interval = shown(found.within, left), shown_interval(found.within, found.interval, left)
    cut = interval._replace(low=max(interval.low, metric.least), high=min(interval.high, metric.most))
    return found._replace(within=within, interval=cut)


def _of_ngrams(
    rows: Ragged | Masked, groups: Groups, weights: NDArray[np.float64] | None, subsample: int
) -> Iterator[_Metric]:
    within = ngram_statistics(rows, DISTINCT_ORDERS, groups, weights, subsample)
    across = ngram_statistics(rows, DISTINCT_ORDERS, None, _of_all(weights, groups), subsample)
    for i, n in enumerate(DISTINCT_ORDERS):
        yield _Metric(f"distinct-{n}", within.distinct[i], float(across.distinct[i, 0]))
    at = DISTINCT_ORDERS.index(ORDER)
    yield _Metric(f"distinct-{ORDER} of {subsample}", within.rarefied[at], float(across.rarefied[at, 0]))
    yield _Metric(f"{ORDER}-gram entropy", within.entropy[at], float(across.entropy[at, 0]), np.inf)


def _size_free(rows: Ragged | Masked, groups: Groups, weights: NDArray[np.float64] | None) -> list[_Metric]:
    within = ngram_statistics(rows, [ORDER], groups, weights, SUBSAMPLE).rarefied[0]
    across = ngram_statistics(rows, [ORDER], None, _of_all(weights, groups), SUBSAMPLE).rarefied[0]
    return [_Metric(PAIRS, within, float(across[0])), _repetition(rows, groups, weights)]


def _without_bias(
    rows: Ragged | Masked, groups: Groups, weights: NDArray[np.float64] | None, repeats: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return the metrics of `SIZE_FREE` of each prompt [P] less their bias, cut to values that there can be."""
    pairs = ngram_statistics(rows, [ORDER], groups, weights, SUBSAMPLE).rarefied[0]
    weights = np.ones(len(rows)) if weights is None else weights
    known = weights * ~np.isnan(repeats)
    values = {
        PAIRS: pairs - bias_of_pairs(rows, ORDER, weights, groups),
        REPEATS: _weighted_means(repeats, known, groups)
        - bias_of_weighted_mean(repeats, _relative_to_mean(known, groups), groups),
    }
    return {name: np.clip(value, 0.0, 1.0) for name, value in values.items()}


def _repetition(rows: Ragged | Masked, groups: Groups, weights: NDArray[np.float64] | None) -> _Metric:
    """Means over completions; those without n-grams have no repetition."""
    values = repetition(rows, REPETITION_ORDER)
    known = ~np.isnan(values)
    weights = np.ones(len(rows)) if weights is None else weights
    within, overall = _weighted_means(values, weights * known, groups), _relative_to_mean(weights, groups)
    return _Metric(REPEATS, within, float(_weighted_means(values, overall * known, as_groups(None, len(rows)))[0]))


def _weighted_means(values: NDArray[np.float64], weights: NDArray[np.float64], groups: Groups) -> NDArray[np.float64]:
    """Mean of each group, NaN where nothing has weight."""
    weighted = np.where(weights > 0, weights * np.nan_to_num(values), 0.0)
    sums, totals = groups.sums(weighted), groups.sums(weights)
    means = np.full(len(totals), np.nan)
    np.divide(sums, totals, out=means, where=totals > 0)
    return means


def _of_completions(
    rows: Ragged | Masked, groups: Groups, weights: NDArray[np.float64] | None, vendi: bool
) -> Iterator[_Metric]:
    unique = unique_share(rows, groups, weights)
    yield _Metric("unique share", unique, float(unique_share(rows, None, _of_all(weights, groups))[0]))
    if vendi:
        equal = np.ones(len(rows)) if weights is None else weights
        yield _Metric(f"vendi-{ORDER}", scores_of_groups(rows, ORDER, groups, equal), None, np.inf, 1.0)
    if weights is None:
        ratios = compression_ratio(rows, groups)
        yield _Metric("compression ratio", ratios, float(compression_ratio(rows)[0]), np.inf)
        bleu = self_bleu(rows, BLEU_ORDER, groups, "method1")
        across = float(self_bleu(rows, BLEU_ORDER, None, "method1")[0])
        yield _Metric(f"self-bleu-{BLEU_ORDER} (method1)", bleu, across)


def _of_all(weights: NDArray[np.float64] | None, groups: Groups) -> NDArray[np.float64] | None:
    """Weights among all completions, of which each prompt has its number."""
    return None if weights is None else _relative_to_mean(weights, groups)


def _relative_to_mean(weights: NDArray[np.float64], groups: Groups) -> NDArray[np.float64]:
    """Weights that add up to the number of completions in each prompt; 0 where nothing has weight."""
    totals = groups.sums(weights)
    factors = np.divide(groups.sizes, totals, out=np.zeros(len(totals)), where=totals > 0)
    scaled: NDArray[np.float64] = weights * groups.spread(factors)
    return scaled
