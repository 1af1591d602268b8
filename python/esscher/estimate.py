"""Means with a standard error and an interval that know which completions share a prompt."""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.ragged import Offsets

LEVEL = 0.95
# Quantiles of Student's t at (1 + LEVEL) / 2, by few degrees of freedom; NORMAL is their limit.
STUDENT = {
    1.0: 12.7062047,
    1.1: 10.2768013,
    1.25: 8.02795138,
    1.5: 6.0166631,
    1.75: 4.94884785,
    2.0: 4.3026527,
    2.5: 3.57465484,
    3.0: 3.1824463,
}
NORMAL = 1.9599640
# With fewer clusters a resample is too often a single one over and over. With more than MANY the normal quantile does
# as well, unless they are skewed: by more, squared, than this share of their number.
FEWEST_RESAMPLED, MANY, MOST_RESAMPLED, SKEWED = 5, 200, 2000, 0.02
ROUNDS, SEED = 1000, 0
# A standard error this small beside its value is what rounding leaves of 0.
ROUNDING = 1e-13
# How often the largest Pareto k of many prompts may be taken for more than chance makes of it.
CHANCE = 0.01
# No estimate can be trusted whose weights have a larger Pareto k, from however many.
TRUSTED_BY_NONE = 0.7
# Above this share of completions that carries weight, a mean of few is as good as one of many.
NEARLY_EQUAL = 0.95
# Where the other weights are a smaller share of the sum, they no longer say what the mean is biased by.
NEARLY_ALL = 0.05
# Squares of numbers between them neither vanish nor overflow, nor do sums of as many as there can be.
TINY, HUGE = 1e-140, 1e140


class Estimate(NamedTuple):
    """An estimated mean and its standard error, which is NaN where the data cannot tell."""

    value: float
    stderr: float


class Interval(NamedTuple):
    """A 95 % confidence interval, and what must hold for it to be one; NaN where the data cannot tell."""

    low: float
    high: float
    assumes: str


def clustered_mean(values: NDArray[np.float64], groups: Offsets) -> Estimate:
    """Return the mean over completions [N] with its standard error clustered by prompt.

    Completions of one prompt are not independent, prompts are: with residual sums ``u_p`` of the P prompts and the
    share ``h_p`` of each in the N completions, ``stderr^2 = sum_p u_p^2 / (1 - h_p) / N^2``, which allows for prompts
    of many completions drawing the mean to themselves. With a single prompt its completions are the independent draws.

    The standard error is NaN if there is only one draw, or if a value is not finite.

    References
    ----------
    Liang, Zeger, "Longitudinal data analysis using generalized linear models", Biometrika 1986; Bell, McCaffrey, "Bias
    reduction in standard errors for linear regression with multi-stage samples", Survey Methodology 2002 (the
    ``1 - h_p``).

    Examples
    --------
    >>> import numpy as np
    >>> value, stderr = clustered_mean(np.array([1.0, 2.0, 5.0, 6.0]), np.array([0, 2, 4]))
    >>> value, round(stderr, 6)
    (3.5, 2.0)
    """
    return clustered_ratio(values, np.ones(len(values)), groups)


def clustered_ratio(numerators: NDArray[np.float64], denominators: NDArray[np.float64], groups: Offsets) -> Estimate:
    """Return ``sum(numerators) / sum(denominators)`` over completions with its standard error clustered by prompt.

    A mean over tokens has their sums and their number as numerators and denominators, a weighted mean the weights as
    denominators. With ``u_p = sum_p (numerator - value * denominator)`` of the P prompts, and h_p their shares in the
    denominators, ``stderr^2 = sum_p u_p^2 / (1 - h_p) / sum(denominators)^2``: exact for a mean, linearised otherwise.

    Examples
    --------
    >>> import numpy as np
    >>> tokens = np.array([1.0, 3.0])
    >>> clustered_ratio(np.array([2.0, 4.0]), tokens, np.array([0, 1, 2]))
    Estimate(value=1.5, stderr=0.28867513459481287)
    """
    sums = _cluster_sums(numerators, denominators, groups)
    return Estimate(sums.value, sums.stderr)


def confidence_interval(
    numerators: NDArray[np.float64], groups: Offsets, denominators: NDArray[np.float64] | None = None
) -> Interval:
    """Return the 95 % interval of a mean, or of a ratio as in `clustered_ratio`, clustered by prompt.

    From 5 to 200 prompts, and to 2000 where they are skewed, the wider at each end of `bootstrap_t`, which follows
    skewness, and Student's t, which is the safer one where few prompts make the mean; with more, by the normal
    quantile; with fewer, by Student's, which needs the prompts' means to be normal. Prompts of unequal size are worth
    fewer, those of `effective_clusters`, by which Student's t has its degrees of freedom. With a single prompt its
    completions are the independent draws, and the interval says nothing of other prompts. Where none differs from the
    others the interval has no width, which says no more than that.

    Examples
    --------
    >>> import numpy as np
    >>> low, high, assumes = confidence_interval(np.array([1.0, 2.0, 5.0, 6.0]), np.array([0, 2, 4]))
    >>> round(low, 1), round(high, 1)
    (-21.9, 28.9)
    >>> assumes
    '2 prompts are independent and their means normal (Student t)'
    """
    denominators = np.ones(len(numerators)) if denominators is None else denominators
    return _interval(_cluster_sums(numerators, denominators, groups))


def with_interval(
    numerators: NDArray[np.float64], groups: Offsets, denominators: NDArray[np.float64] | None = None
) -> tuple[Estimate, Interval]:
    """Return what `clustered_ratio` and `confidence_interval` do, at the cost of one of them.

    Examples
    --------
    >>> import numpy as np
    >>> estimate, interval = with_interval(np.array([1.0, 2.0, 5.0, 6.0]), np.array([0, 2, 4]))
    >>> estimate.value, round(interval.high, 1)
    (3.5, 28.9)
    """
    denominators = np.ones(len(numerators)) if denominators is None else denominators
    sums = _cluster_sums(numerators, denominators, groups)
    return Estimate(sums.value, sums.stderr), _interval(sums)


def above_zero(interval: Interval) -> Interval:
    """Return the interval of what is never below 0, such as a KL: cut there, and none if all of it lies below.

    Examples
    --------
    >>> above_zero(Interval(-0.5, 1.0, "normal")).low, above_zero(Interval(-2.0, -1.0, "normal"))
    (0.0, Interval(low=nan, high=nan, assumes='no interval: all of it would lie below 0, where this cannot be'))
    """
    if interval.high < 0:
        return Interval(np.nan, np.nan, "no interval: all of it would lie below 0, where this cannot be")
    return interval._replace(low=max(interval.low, 0.0)) if interval.low < 0 else interval


def bootstrap_t(
    numerators: NDArray[np.float64],
    groups: Offsets,
    denominators: NDArray[np.float64] | None = None,
    *,
    rounds: int = ROUNDS,
    rng: np.random.Generator | None = None,
) -> tuple[float, float]:
    """Return the 95 % interval of a ratio of sums by the studentised bootstrap over prompts.

    Prompts are drawn with replacement, never tokens or completions; each round gives
    ``t = (value* - value) / stderr*``, and the interval is ``value - t_high stderr`` to ``value - t_low stderr``. All
    rounds together cost a few products of a matrix [rounds, P] with vectors [P].

    Parameters
    ----------
    numerators, groups, denominators
        As in `clustered_ratio`; denominators are 1 if not given.
    rounds
        How many resamples.
    rng
        Where the resamples come from; the same ones at every call if not given.

    Returns
    -------
    Its ends; NaN where there is no standard error, as of a single draw, and infinite where so few differ that rounds
    without an error are no exception.

    Raises
    ------
    ValueError
        If `rounds` is below 1.

    References
    ----------
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 12.5.

    Examples
    --------
    >>> import numpy as np
    >>> values = np.random.default_rng(1).exponential(size=40)
    >>> low, high = bootstrap_t(values, np.arange(41))
    >>> bool(low < 1 < high)
    True
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}: resample at least once")
    denominators = np.ones(len(numerators)) if denominators is None else denominators
    sums = _cluster_sums(numerators, denominators, groups)
    if not (np.isfinite(sums.value) and np.isfinite(sums.stderr)):
        return np.nan, np.nan
    return _resampled_t(sums, rounds, rng) if sums.stderr > 0 else (sums.value, sums.value)


def effective_clusters(sizes: NDArray[np.float64] | NDArray[np.int64]) -> float:
    """Return how many prompts of equal size those of these sizes are worth: ``(sum n)^2 / sum n^2``; 0 if all are 0.

    References
    ----------
    Kish, "Survey Sampling", 1965.

    Examples
    --------
    >>> import numpy as np
    >>> effective_clusters(np.array([8, 8, 8])), effective_clusters(np.array([80, 2, 2]))
    (3.0, 1.101123595505618)
    """
    squares = float(np.square(sizes, dtype=np.float64).sum())
    return float(sizes.sum()) ** 2 / squares if squares else 0.0


def student_interval(
    value: NDArray[np.float64], stderr: NDArray[np.float64], n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    """Return the ends of 95 % intervals of estimates from n completions of one prompt, and what they assume.

    Examples
    --------
    >>> import numpy as np
    >>> low, high, assumes = student_interval(np.array([1.0]), np.array([0.5]), n=4)
    >>> low.round(3), high.round(3)
    (array([-0.591]), array([2.591]))
    """
    reach = _student(n - 1) * stderr if n > 1 else np.full(len(stderr), np.nan)
    draws = _draws(n, np.array([0, n])).removesuffix(",")
    return value - reach, value + reach, f"{draws}, and their means are normal (Student t)"


def student_quantiles(freedom: ArrayLike) -> NDArray[np.float64]:
    """Return the quantiles of Student's t that bound 95 %, for degrees of freedom of 1 or more, in any shape.

    Examples
    --------
    >>> student_quantiles([1, 2.5, 30]).round(3)
    array([12.706,  3.575,  2.042])
    """
    quantiles: NDArray[np.float64] = np.vectorize(_student, otypes=[np.float64])(freedom)
    return quantiles


def bias_of_log_mean(relative: NDArray[np.float64], groups: Offsets) -> NDArray[np.float64]:
    """Return the bias of the log of each prompt's mean weight [P], from its weights relative to that mean [N].

    The log of a noisy mean is on average too low (Jensen). By the jackknife, with x the share of each weight in their
    sum: ``(n - 1) / n * sum(log(1 - x) - log(1 - 1/n))``. Beyond x = 1/2 the logarithm goes on as its tangent, so that
    a weight that is nearly all there is does not decide.

    References
    ----------
    Quenouille, "Notes on bias in estimation", Biometrika 1956.

    Examples
    --------
    >>> import numpy as np
    >>> bias_of_log_mean(np.array([0.5, 1.0, 1.5]), np.array([0, 3])).round(4)
    array([-0.043])
    """
    sizes = np.diff(groups)
    n = np.repeat(sizes, sizes)
    x = relative / n
    beyond = np.maximum(x - 0.5, 0.0)
    terms = np.log1p(-np.minimum(x, 0.5)) - 2 * beyond - np.log1p(-1.0 / np.maximum(n, 2))
    bias: NDArray[np.float64] = (sizes - 1) / np.maximum(sizes, 1) * _sums(terms, groups)
    return np.minimum(bias, 0.0)


def bias_of_weighted_mean(
    relative: NDArray[np.float64], values: NDArray[np.float64], groups: Offsets
) -> NDArray[np.float64]:
    """Return the bias of each prompt's self-normalised mean [P], from weights relative to their mean and values [N].

    Values of heavy weights are drawn too rarely, and count too much when they are. By the jackknife, with x the share
    of each weight in their sum: ``-(n - 1) / n * sum(x (v - mean) / max(1 - x, 0.05))``. Where one weight is nearly all
    there is the others, negligible as they are, would decide: hence the 0.05, and the bias is cut so that the mean
    without it lies among the values that have weight. Values of weight 0 do not count, whatever they are; where one
    that counts is infinite, so is the mean, and the bias is 0.

    References
    ----------
    Quenouille, "Notes on bias in estimation", Biometrika 1956.

    Examples
    --------
    >>> import numpy as np
    >>> bias_of_weighted_mean(np.array([0.5, 1.0, 1.5]), np.array([0.0, 1.0, 2.0]), np.array([0, 3])).round(4)
    array([-0.1556])
    """
    sizes = np.diff(groups)
    heaviest = _heaviest(relative, groups)
    # Beside that of the heaviest weight, near which the mean may be, so that no digits are lost to a large offset.
    beside = np.where(relative > 0, values, 0.0)
    # A mean that is infinite has no bias.
    infinite = np.repeat(_sums(np.isinf(beside).astype(np.float64), groups) > 0, sizes)
    beside[infinite] = 0.0
    beside -= np.repeat(beside[heaviest], sizes[sizes > 0])
    beside[relative == 0] = 0.0
    x = relative / np.repeat(sizes, sizes)
    means = _sums(x * beside, groups)
    terms = x * (beside - np.repeat(means, sizes)) / np.maximum(1.0 - x, NEARLY_ALL)
    bias: NDArray[np.float64] = -(sizes - 1) / np.maximum(sizes, 1) * _sums(terms, groups)
    least, most = (_extremes(extreme, beside, groups) for extreme in (np.minimum, np.maximum))
    return means - np.clip(means - bias, least, most)


def _heaviest(relative: NDArray[np.float64], groups: Offsets) -> NDArray[np.int64]:
    """Where the largest weight of each group is, the first of equal ones; of groups that are not empty."""
    sizes = np.diff(groups)
    starts = groups[:-1][sizes > 0]
    largest = np.flatnonzero(relative == np.repeat(np.maximum.reduceat(relative, starts), sizes[sizes > 0]))
    return largest[np.searchsorted(largest, starts)]


def _extremes(extreme: np.ufunc, values: NDArray[np.float64], groups: Offsets) -> NDArray[np.float64]:
    """Minimum or maximum of each group, 0 of an empty one."""
    sizes = np.diff(groups)
    found = np.zeros(len(sizes))
    found[sizes > 0] = extreme.reduceat(values, groups[:-1][sizes > 0])
    return found


def trusted_pareto_k(n: int) -> float:
    """Up to which Pareto k an estimate from n weights can be trusted: ``min(1 - 1 / log10(n), 0.7)``.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto smoothed importance sampling", JMLR 2024, eq. 13.

    Examples
    --------
    >>> trusted_pareto_k(100), trusted_pareto_k(10_000)
    (0.5, 0.7)
    """
    return min(1.0 - 1.0 / float(np.log10(n)), TRUSTED_BY_NONE) if n > 1 else -np.inf


def tails_that_decide(
    pareto_k: NDArray[np.float64], ess: NDArray[np.float64], alive: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return Pareto k, but -inf where weights hardly differ, but for those of 0: their tail decides nothing.

    Parameters
    ----------
    pareto_k, ess
        Tail shape and effective sample size of each prompt's weights [P, ...].
    alive
        How many of them are not 0, in a shape that fits.

    Examples
    --------
    >>> import numpy as np
    >>> tails_that_decide(np.array([0.9, 0.9]), np.array([99.0, 30.0]), np.array([100, 100]))
    array([-inf,  0.9])
    """
    return np.where((ess >= NEARLY_EQUAL * alive) & ~np.isnan(pareto_k), -np.inf, pareto_k)


def count_heavy(pareto_k: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return in how many prompts Pareto k is above what is to be trusted; 0 where that may be chance.

    k is itself an estimate, with an error of about ``(1 + k) / sqrt(tail)``: of many prompts some are always above. It
    is no chance if more than half of the prompts that have a k are, if more are by one of its errors than would be one
    time in 100, or if one is by so many of its errors as one time in 100 the largest would be.

    Parameters
    ----------
    pareto_k
        Tail shape of each prompt's weights [P, ...]; NaN where there is none.
    sizes
        Each prompt's number of weights [P].

    Returns
    -------
    The numbers, in the shape of `pareto_k` without its first axis.

    Examples
    --------
    >>> import numpy as np
    >>> few, most, one = [0.6, 0.2, 0.1], [0.6, 0.6, 0.1], [1.9, 0.2, 0.1]
    >>> count_heavy(np.transpose([few, most, one]), np.full(3, 100))
    array([0, 2, 1])
    """
    per_prompt = (-1, *[1] * (pareto_k.ndim - 1))
    known_sizes, which = np.unique(sizes, return_inverse=True)
    good = np.array([trusted_pareto_k(n) for n in known_sizes.tolist()])[which].reshape(per_prompt)
    tails = np.where(sizes > 225, 3 * np.sqrt(sizes), np.maximum(sizes, 1) / 5).reshape(per_prompt)
    error = (1 + np.maximum(good, 0.0)) / np.sqrt(tails)
    # NaN is above nothing.
    known, heavy = (~np.isnan(pareto_k)).sum(axis=0), (pareto_k > good).sum(axis=0)
    far = (pareto_k > good + NormalDist().inv_cdf(1 - CHANCE / max(len(sizes), 1)) * error).any(axis=0)
    several = (pareto_k > good + error).sum(axis=0) > _most_by_chance(known)
    counts: NDArray[np.int64] = np.where(far | several | (2 * heavy > known), heavy, 0)
    return counts


def _most_by_chance(n: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of n are beyond one standard error above, but for one time in 100 (binomial)."""
    beyond = 1 - NormalDist().cdf(1.0)
    quantiles = [_binomial_quantile(one, beyond, 1 - CHANCE) for one in n.ravel().tolist()]
    return np.array(quantiles, np.int64).reshape(n.shape)


@lru_cache(maxsize=256)
def _binomial_quantile(n: int, p: float, level: float) -> int:
    k = np.arange(1, n + 1)
    log_choices = np.concatenate([[0.0], np.cumsum(np.log((n - k + 1) / k))])
    every = np.arange(n + 1)
    return int(np.searchsorted(np.cumsum(np.exp(log_choices + every * np.log(p) + (n - every) * np.log1p(-p))), level))


def _sums(values: NDArray[np.float64], groups: Offsets) -> NDArray[np.float64]:
    """Sum over each prompt, of which some may be empty."""
    sums: NDArray[np.float64] = np.add.reduceat(np.append(values, 0.0), groups[:-1])
    sums[np.diff(groups) == 0] = 0.0
    return sums


class _Sums(NamedTuple):
    """A ratio with its standard error, and the draws' residual sums [P] and denominators [P] behind it.

    `draws` says how many independent ones there are, and of what. Without a finite value there are no residuals.
    """

    value: float
    stderr: float
    residuals: NDArray[np.float64]
    denominators: NDArray[np.float64]
    draws: str


def _cluster_sums(numerators: NDArray[np.float64], denominators: NDArray[np.float64], groups: Offsets) -> _Sums:
    n, total, draws = len(numerators), float(denominators.sum()), _draws(len(numerators), groups)
    none = np.empty(0)
    largest = float(np.abs(numerators).max(initial=0.0))
    if not total > 0 or np.isnan(largest):
        return _Sums(np.nan, np.nan, none, none, draws)
    if largest == np.inf:
        # Of infinities of both signs there is no mean; of one sign, it is that infinity.
        signs = set(numerators[np.isinf(numerators)].tolist())
        return _Sums(signs.pop() if len(signs) == 1 else np.nan, np.nan, none, none, draws)
    # Scaled by a power of two where needed, which costs no digit, so that no sum or square overflows.
    exponent = int(np.frexp(largest)[1]) if not TINY < largest < HUGE else 0
    numerators = np.ldexp(numerators, -exponent) if exponent else numerators
    value = float(numerators.sum()) / total
    starts = np.arange(n) if len(groups) == 2 else groups[:-1]
    residuals = np.add.reduceat(numerators - value * denominators, starts)
    by_cluster = np.add.reduceat(denominators, starts)
    stderr = float(np.ldexp(_spread(residuals, by_cluster / total) ** 0.5 / total, exponent))
    residuals = np.ldexp(residuals, exponent) if exponent else residuals
    return _Sums(float(np.ldexp(value, exponent)), stderr, residuals, by_cluster, draws)


def _spread(residuals: NDArray[np.float64], shares: NDArray[np.float64]) -> float:
    """Variance of the sum of residuals, of draws of these shares; NaN where one draw is all there is.

    Of equal shares the factor is taken once, so that it costs no digit.
    """
    if not shares.max() < 1.0:
        return np.nan
    if (shares == shares[0]).all():
        return len(residuals) / (len(residuals) - 1) * float(residuals @ residuals)
    return float(residuals @ (residuals / (1.0 - shares)))


def _draws(n: int, groups: Offsets) -> str:
    prompts = len(groups) - 1
    if prompts > 1:
        return f"{prompts} prompts"
    return f"{n} completion{'s' * (n != 1)} of one prompt, which sa{'y' if n != 1 else 'ys'} nothing of others,"


def _interval(sums: _Sums) -> Interval:
    value, stderr, clusters = sums.value, sums.stderr, effective_clusters(sums.denominators)
    if not (np.isfinite(value) and np.isfinite(stderr)):
        return Interval(np.nan, np.nan, f"{sums.draws.removesuffix(',')}: no interval")
    if stderr <= ROUNDING * abs(value):
        return Interval(value, value, f"{sums.draws} are all alike, which does not show how others would differ")
    is_many = len(sums.residuals) > MOST_RESAMPLED or _skewness(sums.residuals) ** 2 <= SKEWED * clusters
    if clusters > MANY and is_many:
        return Interval(value - NORMAL * stderr, value + NORMAL * stderr, f"{sums.draws} are independent (normal)")
    reach = _student(clusters - 1) * stderr
    if len(sums.residuals) >= FEWEST_RESAMPLED:
        low, high = _resampled_t(sums, ROUNDS, None)
        if np.isfinite([low, high]).all():
            low, high = min(low, value - reach), max(high, value + reach)
            return Interval(
                low, high, f"{sums.draws} are independent (the wider of studentised bootstrap and Student t)"
            )
    # Also where most are alike, and many resamples have no error.
    return Interval(value - reach, value + reach, f"{sums.draws} are independent and their means normal (Student t)")


def _skewness(residuals: NDArray[np.float64]) -> float:
    u = residuals / np.abs(residuals).max()
    squares = u * u
    return float(squares @ u / len(u) / (squares.sum() / len(u)) ** 1.5)


def _student(freedom: float) -> float:
    """Return the quantile of Student's t at (1 + LEVEL) / 2 (beyond the table: Abramowitz and Stegun, 26.7.5).

    Between the degrees of freedom of the table it goes as its logarithm does with that of the degrees.
    """
    freedom = max(freedom, 1.0)
    if freedom <= max(STUDENT):
        degrees, quantiles = np.array(list(STUDENT)), np.array(list(STUDENT.values()))
        return float(np.exp(np.interp(np.log(freedom), np.log(degrees), np.log(quantiles))))
    z = NORMAL
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(sum(term / freedom**power for power, term in enumerate(terms)))


def _resampled_t(sums: _Sums, rounds: int, rng: np.random.Generator | None) -> tuple[float, float]:
    # t is the same at any scale, and squares must not overflow.
    u, b = sums.residuals / np.abs(sums.residuals).max(), sums.denominators
    drawn = _drawn_sums(_resample(len(u), rounds, rng), u, b)
    sum_u, sum_b, sum_uu, sum_ub, sum_bb = drawn[:, drawn[1] > 0]  # a round without weight says nothing
    shift = sum_u / sum_b
    squares = sum_uu - 2 * shift * sum_ub + shift * shift * sum_bb
    # What rounding leaves of the squares of equal clusters is no error.
    squares[squares <= ROUNDING * (sum_uu + shift * shift * sum_bb)] = 0.0
    stderr = np.sqrt(len(u) / (len(u) - 1) * squares) / sum_b
    # A round of equal clusters has no error: it is infinitely far off, unless it did not move.
    t = np.divide(shift, stderr, out=np.copysign(np.inf, shift), where=stderr > 0)
    t[shift == 0] = 0.0
    low, high = np.quantile(t, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return float(sums.value - high * sums.stderr), float(sums.value - low * sums.stderr)


def _drawn_sums(counts: NDArray[np.float64], u: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums of u, b, u u, u b and b b in each round [5, rounds].

    Vector by vector, which is several times as fast as a thin matrix; of equal b, those with b follow from the others.
    """
    sum_u, sum_uu = counts @ u, counts @ (u * u)
    if (b == b[0]).all():
        ones = np.full(len(counts), len(b) * b[0])
        return np.stack([sum_u, ones, sum_uu, b[0] * sum_u, b[0] * ones])
    return np.stack([sum_u, counts @ b, sum_uu, counts @ (u * b), counts @ (b * b)])


def _resample(clusters: int, rounds: int, rng: np.random.Generator | None) -> NDArray[np.float64]:
    return _same_resample(clusters, rounds) if rng is None else _counts(clusters, rounds, rng)


@lru_cache(maxsize=2)
def _same_resample(clusters: int, rounds: int) -> NDArray[np.float64]:
    return _counts(clusters, rounds, np.random.default_rng(SEED))


def _counts(clusters: int, rounds: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """How often each cluster is drawn in each round [rounds, clusters]."""
    drawn = rng.integers(clusters, size=(rounds, clusters), dtype=np.int32)
    rows = np.arange(rounds, dtype=np.int32)[:, None] * clusters
    return np.bincount((drawn + rows).ravel(), minlength=rounds * clusters).reshape(rounds, clusters).astype(np.float64)
