"""Means with a standard error and an interval that know which completions share a prompt."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.groups import Groups, as_groups

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

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


def clustered_mean(values: NDArray[np.float64], groups: ArrayLike) -> Estimate:
    """Return the mean over completions [N] with its standard error clustered by prompt.

    Completions of one prompt are not independent, prompts are: with residual sums ``u_p`` of the P prompts and the
    share ``h_p`` of each in the N completions, ``stderr^2 = sum_p u_p^2 / (1 - h_p) / N^2``, which allows for prompts
    of many completions drawing the mean to themselves. With a single prompt its completions are the independent draws.

    The standard error is NaN if there is only one draw, or if a value is not finite.

    References
    ----------
    Liang, Zeger, "Longitudinal data analysis using generalized linear models", Biometrika 1986,
    doi:10.1093/biomet/73.1.13; Bell, McCaffrey, "Bias reduction in standard errors for linear regression with
    multi-stage samples", Survey Methodology 2002 (the ``1 - h_p``).

    Examples
    --------
    >>> import numpy as np
    >>> value, stderr = clustered_mean(np.array([1.0, 2.0, 5.0, 6.0]), np.array([0, 2, 4]))
    >>> value, round(stderr, 6)
    (3.5, 2.0)
    """
    return clustered_ratio(values, np.ones(len(values)), groups)


def clustered_ratio(numerators: NDArray[np.float64], denominators: NDArray[np.float64], groups: ArrayLike) -> Estimate:
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
    numerators: NDArray[np.float64], groups: ArrayLike, denominators: NDArray[np.float64] | None = None
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
    numerators: NDArray[np.float64], groups: ArrayLike, denominators: NDArray[np.float64] | None = None
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
    groups: ArrayLike,
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
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 12.5, doi:10.1201/9780429246593.

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
    draws = _draws(Groups(np.array([0, n]))).removesuffix(",")
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


class _Sums(NamedTuple):
    """A ratio with its standard error, and the draws' residual sums [P] and denominators [P] behind it.

    `draws` says how many independent ones there are, and of what. Without a finite value there are no residuals.
    """

    value: float
    stderr: float
    residuals: NDArray[np.float64]
    denominators: NDArray[np.float64]
    draws: str


def _cluster_sums(numerators: NDArray[np.float64], denominators: NDArray[np.float64], groups: ArrayLike) -> _Sums:
    found, total = as_groups(groups, len(numerators)), float(denominators.sum())
    draws = _draws(found)
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
    # Of one prompt, each completion is a draw of its own.
    clusters = Groups(np.arange(len(numerators) + 1)) if len(found.sizes) == 1 else found
    residuals, by_cluster = clusters.sums(numerators - value * denominators), clusters.sums(denominators)
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


def _draws(groups: Groups) -> str:
    if len(groups.sizes) > 1:
        return f"{len(groups.sizes)} prompts"
    n = int(groups[-1])
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
