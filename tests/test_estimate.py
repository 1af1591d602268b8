"""Means and ratios clustered by prompt, and their intervals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from scipy.linalg import fractional_matrix_power

from esscher.estimate import (
    LEVEL,
    MANY,
    NORMAL,
    STUDENT,
    _student,
    bootstrap_t,
    clustered_mean,
    clustered_ratio,
    confidence_interval,
    student_interval,
    with_interval,
)
from esscher.weights import bias_of_weighted_mean, count_heavy, trusted_pareto_k


def clustered(rng, clusters):
    """Numerators and denominators of skewed clusters of 1 to 6; the ratio of their expectations is 0.7."""
    sizes = rng.integers(1, 7, clusters)
    groups = np.concatenate([[0], np.cumsum(sizes)])
    denominators = rng.integers(1, 40, groups[-1]).astype(np.float64)
    scale = np.repeat(rng.gamma(2.0, 0.5, clusters), sizes)
    return 0.7 * denominators * scale * rng.exponential(size=groups[-1]), denominators, groups


def oracle_ratio(numerators, denominators, groups):
    """The CR2 standard error of the intercept of a regression with weights, from whole matrices."""
    y, x = numerators / np.sqrt(denominators), np.sqrt(denominators)
    value = x @ y / (x @ x)
    meat = 0.0
    for i, j in itertools.pairwise(groups):
        hat = np.outer(x[i:j], x[i:j]) / (x @ x)
        adjusted = fractional_matrix_power(np.eye(j - i) - hat, -0.5) @ (y[i:j] - value * x[i:j])
        meat += (x[i:j] @ adjusted) ** 2
    return value, float(np.sqrt(meat) / (x @ x))


@pytest.mark.parametrize("seed", range(5))
def test_the_stderr_of_a_ratio_is_that_of_a_regression(seed):
    data = clustered(np.random.default_rng(seed), 11)
    assert clustered_ratio(*data) == pytest.approx(oracle_ratio(*data), rel=1e-12)


@pytest.mark.parametrize(("prompts", "least"), [(3, 0.90), (20, 0.91)])
def test_intervals_of_clusters_of_unequal_size_cover(prompts, least):
    """A few prompts have most of the completions, and are what the mean rests on."""
    covered = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        sizes = np.minimum(2 / rng.random(prompts) ** 1.2, 80).astype(int)
        values = np.repeat(rng.normal(1.0, 1.0, prompts), sizes) + rng.normal(size=sizes.sum())
        low, high, _ = confidence_interval(values, np.concatenate([[0], np.cumsum(sizes)]))
        covered += low <= 1.0 <= high
    assert least <= covered / 400 <= 0.985


def test_one_cluster_that_is_all_there_is_has_no_error():
    weights, groups = np.array([1.0, 0.0, 0.0]), np.arange(4)
    value, stderr = clustered_ratio(np.array([2.0, 0.0, 0.0]), weights, groups)
    assert value == 2.0
    assert np.isnan(stderr)


def test_a_mean_is_a_ratio_over_ones():
    values, _, groups = clustered(np.random.default_rng(1), 9)
    assert clustered_mean(values, groups) == clustered_ratio(values, np.ones(len(values)), groups)


@pytest.mark.parametrize("clusters", [5, 8, 20, 60, MANY + 100])
def test_intervals_of_skewed_clusters_cover(clusters):
    rng, covered = np.random.default_rng(clusters), 0
    for _ in range(400):
        numerators, denominators, groups = clustered(rng, clusters)
        low, high, _ = confidence_interval(numerators, groups, denominators)
        covered += low <= 0.7 <= high
    # Three standard errors of a share of 400, and what skewness takes where prompts are few.
    assert 0.95 - 0.033 - 0.04 * (clusters < 20) <= covered / 400 <= 0.983


def test_the_studentised_bootstrap_covers_where_students_t_does_not():
    rng, covered = np.random.default_rng(7), np.zeros(2)
    for _ in range(400):
        values = rng.gamma(0.3, size=8)
        value, stderr = clustered_mean(values, np.arange(9))
        low, high = bootstrap_t(values, np.arange(9))
        reach = stats.t.ppf(0.975, 7) * stderr
        covered += [value - reach <= 0.3 <= value + reach, low <= 0.3 <= high]
    assert covered[0] / 400 < 0.85
    assert covered[1] / 400 > 0.89


def test_many_skewed_clusters_are_resampled_too():
    rng, covered, resampled = np.random.default_rng(3), 0, 0
    for _ in range(400):
        low, high, assumes = confidence_interval(rng.lognormal(sigma=1.5, size=MANY + 50), np.arange(MANY + 51))
        covered += low <= np.exp(1.5**2 / 2) <= high
        resampled += "bootstrap" in assumes
    # The normal quantile covers 0.87 to 0.89 here.
    assert covered / 400 > 0.89
    assert resampled > 380


def test_a_bootstrap_of_clusters_that_are_alike_has_no_width():
    assert bootstrap_t(np.ones(10), np.arange(11)) == (1.0, 1.0)
    assert np.isnan(bootstrap_t(np.array([1.0, np.inf, 3.0]), np.arange(4))).all()
    assert np.isnan(bootstrap_t(np.ones(1), np.arange(2))).all()
    with pytest.raises(ValueError, match="rounds is 0: resample at least once"):
        bootstrap_t(np.arange(5.0), np.arange(6), rounds=0)


def test_the_quantiles_are_students():
    for freedom, quantile in STUDENT.items():
        assert quantile == pytest.approx(stats.t.ppf((1 + LEVEL) / 2, freedom), rel=1e-7)
    assert pytest.approx(stats.norm.ppf((1 + LEVEL) / 2), rel=1e-7) == NORMAL
    for freedom in range(1, MANY):
        assert _student(freedom) == pytest.approx(stats.t.ppf((1 + LEVEL) / 2, freedom), rel=1e-3)


@pytest.mark.parametrize(
    ("prompts", "each", "says"),
    [
        (1, 1, "1 completion of one prompt, which says nothing of others: no interval"),
        (1, 3, "3 completions of one prompt, which say nothing of others, are independent and their means normal"),
        (1, 30, "30 completions of one prompt, which say nothing of others, are independent (the wider of"),
        (4, 2, "4 prompts are independent and their means normal (Student t)"),
        (5, 1, "5 prompts are independent (the wider of"),
        (201, 1, "201 prompts are independent (normal)"),
    ],
)
def test_an_interval_says_what_it_assumes(prompts, each, says):
    values = np.random.default_rng(0).normal(size=prompts * each)
    interval = confidence_interval(values, np.arange(prompts + 1) * each)
    assert interval.assumes.startswith(says)
    assert np.isnan(interval.low) == (prompts * each == 1)


def test_equal_values_have_an_interval_of_no_width():
    assert confidence_interval(np.full(12, 0.1), np.arange(7) * 2)[:2] == pytest.approx((0.1, 0.1), rel=1e-15)


def test_where_most_prompts_are_alike_the_interval_is_students():
    values = np.eye(20)[3]
    low, high, assumes = confidence_interval(values, np.arange(21))
    value, stderr = clustered_mean(values, np.arange(21))
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 19, value, stderr), rel=1e-4)
    assert assumes == "20 prompts are independent and their means normal (Student t)"


@pytest.mark.parametrize("common", [1.0, 0.7, 1 / 3, -1e6])
def test_what_rounding_leaves_of_equal_prompts_is_no_error(common):
    values = np.full(12, common)
    values[[3, 8]] -= 0.014 * abs(common)
    low, high, assumes = confidence_interval(values, np.arange(13))
    assert assumes.endswith("(Student t)")
    assert high - low < 0.02 * abs(common)


def test_an_interval_holds_at_any_scale():
    values, denominators, groups = clustered(np.random.default_rng(3), 12)
    low, high, _ = confidence_interval(values, groups, denominators)
    for exponent in (-900, 900):
        scaled = confidence_interval(np.ldexp(values, exponent), groups, denominators)
        assert np.ldexp(scaled[:2], -exponent) == pytest.approx([low, high], rel=1e-12)


def test_the_same_data_has_the_same_interval_and_another_rng_nearly_so():
    values, denominators, groups = clustered(np.random.default_rng(4), 40)
    low, high = bootstrap_t(values, groups, denominators)
    assert (low, high) == bootstrap_t(values, groups, denominators)
    other = bootstrap_t(values, groups, denominators, rounds=4000, rng=np.random.default_rng(9))
    assert other != (low, high)
    assert other == pytest.approx((low, high), abs=0.25 * (high - low))


def test_both_at_once_are_the_two():
    values, denominators, groups = clustered(np.random.default_rng(5), 15)
    estimate, interval = with_interval(values, groups, denominators)
    assert estimate == clustered_ratio(values, denominators, groups)
    assert interval == confidence_interval(values, groups, denominators)


def test_rounds_without_weight_are_left_out():
    values, denominators = np.array([1.0, 2.0, 0, 0, 0, 0, 0]), np.array([1.0, 1.0, 0, 0, 0, 0, 0])
    low, high = bootstrap_t(values, np.arange(8), denominators)
    assert low < 1.5 < high


def test_infinite_and_missing_values_have_no_interval():
    for values in ([np.inf, 1.0, 2.0], [np.inf, -np.inf, 1.0], [np.nan, 1.0, 2.0]):
        assert np.isnan(confidence_interval(np.array(values), np.arange(4))[:2]).all()


@pytest.mark.parametrize(("n", "k"), [(1, -np.inf), (10, 0.0), (100, 0.5), (2200, 0.7), (10**6, 0.7)])
def test_more_weights_bear_a_heavier_tail(n, k):
    assert trusted_pareto_k(n) == pytest.approx(k, abs=2e-3)


@pytest.mark.parametrize("offset", [0.0, 2.0**20])
def test_the_bias_of_a_weighted_mean_is_that_of_its_replicates(offset):
    """The jackknife by leaving each out, of two prompts with an empty one between them; the offset costs no digit."""
    rng = np.random.default_rng(8)
    weights, values = rng.exponential(size=23), np.round(rng.normal(size=23) * 4096) / 4096
    groups = np.array([0, 9, 9, 23])
    expected = []
    for start, stop in itertools.pairwise(groups):
        w, v, n = weights[start:stop], values[start:stop], stop - start
        without = [np.average(np.delete(v, i), weights=np.delete(w, i)) for i in range(n)]
        expected.append((n - 1) * (np.mean(without) - np.average(v, weights=w)) if n else np.nan)
    relative = np.concatenate([weights[:9] / weights[:9].mean(), weights[9:] / weights[9:].mean()])
    found = bias_of_weighted_mean(values + offset, relative, groups)
    assert found == pytest.approx(expected, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e9])
def test_a_corrected_mean_stays_among_the_values_that_have_weight(offset):
    """Where one weight is nearly all there is, the others alone would decide."""
    values = np.array([0.0] * 98 + [0.05, 1.0])
    relative = np.exp(values / 0.1)
    relative /= relative.mean()
    mean = np.average(values, weights=relative)
    (bias,) = bias_of_weighted_mean(values + offset, relative, np.array([0, 100]))
    assert mean - bias == pytest.approx(1.0, abs=1e-15 * max(abs(offset), 100.0))
    excluded = np.append(values, [-np.inf, 7.0]) + offset
    (beside,) = bias_of_weighted_mean(excluded, np.append(relative * 1.02, [0.0, 0.0]), np.array([0, 102]))
    assert beside == pytest.approx(bias, rel=1e-15 * max(abs(offset), 100.0))


def test_an_infinite_mean_has_no_bias():
    relative, groups = np.array([0.5, 1.0, 1.5, 0.5, 1.5]), np.array([0, 3, 5])
    first, second = bias_of_weighted_mean(np.array([-np.inf, -np.inf, 1.0, 0.0, 1.0]), relative, groups)
    assert first == 0
    assert second == bias_of_weighted_mean(np.array([0.0, 1.0]), np.array([0.5, 1.5]), np.array([0, 2]))[0]


def test_tails_that_are_heavy_in_many_prompts_are_no_chance():
    """Of 40 prompts 19 are beyond by more than one error, of which 12 or more are one time in 100."""
    k = np.full(40, 0.1)
    k[:19] = 1.0
    assert count_heavy(k, np.full(40, 100)) == 19
    k[11:] = 0.1
    assert stats.binom(40, stats.norm.sf(1)).sf(11) > 0.01
    assert count_heavy(k, np.full(40, 100)) == 0
    k[11:13] = 1.0
    assert stats.binom(40, stats.norm.sf(1)).sf(12) < 0.01
    assert count_heavy(k, np.full(40, 100)) == 13
    assert count_heavy(np.array([np.nan, 0.2]), np.array([0, 100])) == 0


def test_a_single_completion_has_no_interval():
    low, high, _ = student_interval(np.array([1.0]), np.array([np.nan]), n=1)
    assert np.isnan([low, high]).all()


def test_negligible_weights_decide_nothing():
    """As they vanish, so does the bias; the replicate without the heavy one would still say 52."""
    for small in (1e-6, 1e-12, 1e-100, 1e-300):
        weights = np.array([1.0, small, small])
        (bias,) = bias_of_weighted_mean(np.array([5.0, 4.0, 100.0]), weights / weights.mean(), np.array([0, 3]))
        assert abs(bias) <= 2e3 * small
