import itertools

import arviz_stats.base
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logsumexp

import oracle
from esscher import exponential_weights, importance, resample, tilt_log_z
from strategies import groups_over, log_weight

columns = st.lists(log_weight, max_size=12).map(np.array)


def pareto_k(log_ratios, **options):
    return importance(log_ratios, np.zeros(len(log_ratios)), **options).pareto_k[0]


@given(columns)
def test_weights_equal_50_digits(log_ratios):
    got = importance(log_ratios, np.zeros(len(log_ratios)))
    log_weights, log_z, ess = oracle.normalise(log_ratios)
    assert got.log_weights == pytest.approx(log_weights, rel=1e-13, abs=1e-13)
    assert got.log_z[0] == pytest.approx(log_z, rel=1e-13, abs=1e-13)
    assert got.ess[0] == pytest.approx(ess, rel=1e-13)


@given(columns)
def test_log_sum_exp_equals_scipy(log_ratios):
    log_z = importance(log_ratios, np.zeros(len(log_ratios))).log_z[0]
    if len(log_ratios) == 0:
        assert log_z == -np.inf == logsumexp(log_ratios)
    else:
        assert log_z + np.log(len(log_ratios)) == pytest.approx(float(logsumexp(log_ratios)), rel=1e-14, abs=1e-14)


@pytest.mark.parametrize(
    "special",
    [[-np.inf], [-np.inf, -np.inf], [0.0], [1e308, 1e308], [-1e308, -1e308], [1000.0, -1000.0], [-np.inf, 0.0, 710.0]],
)
def test_log_sum_exp_special_cases_equal_scipy(special):
    got = importance(special, np.zeros(len(special))).log_z[0] + np.log(len(special))
    assert got == pytest.approx(float(logsumexp(special)), rel=1e-15)


@given(st.data())
def test_groups_are_separate(data):
    log_ratios = data.draw(columns)
    groups = data.draw(groups_over(len(log_ratios)))
    got = importance(log_ratios, np.zeros(len(log_ratios)), groups)
    for p, (start, stop) in enumerate(itertools.pairwise(groups)):
        alone = importance(log_ratios[start:stop], np.zeros(stop - start))
        assert np.array_equal(got.log_weights[start:stop], alone.log_weights)
        assert np.array_equal([got.log_z[p], got.ess[p]], [alone.log_z[0], alone.ess[0]])


@given(st.data(), st.integers(2, 8), st.booleans())
def test_threads_do_not_change_a_bit(data, threads, smooth):
    log_ratios = np.array(data.draw(st.lists(log_weight, min_size=30, max_size=90)))
    groups, zeros = data.draw(groups_over(len(log_ratios))), np.zeros(len(log_ratios))
    one = importance(log_ratios, zeros, groups, smooth, threads=1)
    many = importance(log_ratios, zeros, groups, smooth, threads=threads)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, many, strict=True))


@given(columns, st.sampled_from([1e-3, 0.1, 1.0, 3.0, 1e4]))
def test_exponential_weights_equal_50_digits(rewards, beta):
    got = exponential_weights(rewards, beta)
    log_weights, log_z, ess = oracle.normalise([oracle.over(r, beta) for r in rewards])
    assert got.weights == pytest.approx(np.exp(np.array(log_weights)), rel=1e-13, abs=1e-300)
    assert got.log_z[0] == pytest.approx(log_z, rel=1e-13, abs=1e-13)
    assert got.ess[0] == pytest.approx(ess, rel=1e-13)
    assert [column.tolist() for column in tilt_log_z(rewards, beta)] == [got.log_z.tolist(), got.ess.tolist()]


def test_large_groups_and_threads_change_no_bit():
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=60_000)
    groups = np.array([0, 3, 3, 2051, 30_000, 30_008, 60_000])
    one = exponential_weights(rewards, 0.1, groups, threads=1)
    for threads in (2, 5, 16):
        for a, b in zip(one, exponential_weights(rewards, 0.1, groups, threads=threads), strict=True):
            assert np.array_equal(a, b)
    assert np.add.reduceat(one.weights, [0, 3, 2051, 30_000, 30_008]) == pytest.approx(np.ones(5), rel=1e-13)
    assert one.log_z[1] == -np.inf


@pytest.mark.parametrize("beta", [0.0, -1.0, np.nan, np.inf])
def test_beta_is_positive(beta):
    with pytest.raises(ValueError, match=r"beta is .*: it must be positive and finite"):
        exponential_weights([1.0], beta)


def test_rewards_are_not_nan():
    with pytest.raises(ValueError, match=r"rewards\[1\] is NaN"):
        tilt_log_z([1.0, np.nan], 1.0)


def test_a_group_without_weight():
    got = importance([-np.inf, -np.inf, 1.0], np.zeros(3), [0, 2, 3])
    assert got.log_z.tolist() == [-np.inf, 1.0]
    assert got.ess.tolist() == [0.0, 1.0]
    assert got.log_weights.tolist() == [-np.inf, -np.inf, 0.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([np.nan], [0.0]), r"log_target\[0\] is NaN"),
        (([0.0, np.inf], [0.0, 0.0]), r"log_target\[1\] is inf: it must be finite or -inf"),
        (([0.0], [-np.inf]), r"log_proposal\[0\] is -inf: a sample has a finite log-prob"),
        (([0.0], [0.0, 0.0]), "log_proposal has 2 entries, log_target has 1"),
        (([0.0], [0.0], [0, 2]), "groups ends at 2"),
        (([[0.0]], [0.0]), "log_target has 2 dimensions"),
    ],
)
def test_bad_weights(arguments, message):
    with pytest.raises(ValueError, match=message):
        importance(*arguments)


LOG_WEIGHTS = {
    "pareto": lambda n, rng: rng.pareto(1.5, n),
    "normal": lambda n, rng: rng.normal(0, 2, n),
    "cauchy": lambda n, rng: np.clip(rng.standard_cauchy(n), -500, 500),
    "uniform": lambda n, rng: rng.random(n),
    "some impossible": lambda n, rng: np.where(rng.random(n) < 0.2, -np.inf, rng.normal(0, 1, n)),
}


@pytest.mark.parametrize("law", LOG_WEIGHTS)
@pytest.mark.parametrize("n", [25, 30, 100, 225, 226, 1000, 20_000])
def test_pareto_equals_arviz(law, n):
    log_ratios = LOG_WEIGHTS[law](n, np.random.default_rng(n))
    # arviz-stats takes log-likelihoods, the negatives of log-weights.
    smoothed, k = arviz_stats.base.array_stats.psislw(-log_ratios)
    got = importance(log_ratios, np.zeros(n), smooth=True)
    assert got.pareto_k[0] == pytest.approx(float(k), abs=1e-9)
    # Sorted: of equal weights, either may take the larger of two quantiles.
    assert np.sort(got.log_weights) == pytest.approx(np.sort(smoothed), rel=1e-9, abs=1e-9)


def test_pareto_published_values():
    u = (np.arange(1000) + 0.5) / 1000
    assert pareto_k(-0.5 * np.log(u)) == pytest.approx(0.4966301752, abs=1e-10)
    assert pareto_k(stats.norm.ppf(u) - 0.5) == pytest.approx(0.2904924281, abs=1e-10)


def test_tail_rules_differ_in_length_only():
    log_ratios = np.random.default_rng(1).normal(0, 1, 100)
    assert pareto_k(log_ratios, tail_rule="loo") == pareto_k(log_ratios)
    assert pareto_k(log_ratios[:98], tail_rule="loo") != pareto_k(log_ratios[:98])
    with pytest.raises(ValueError, match='tail_rule is "r": it must be one of arviz-stats, loo'):
        pareto_k(log_ratios, tail_rule="r")


def test_no_tail_is_a_status_and_not_an_error():
    assert pareto_k(np.zeros(1000)) == -np.inf
    assert pareto_k(np.full(1000, -np.inf)) == -np.inf
    assert np.isnan(pareto_k(np.arange(24.0)))
    assert np.isnan(pareto_k([]))


def test_on_policy_weights_have_no_tail_whatever_the_rounding():
    """With a constant reward, log target - log proposal is that constant and the rounding of two sums."""
    log_policy = -40 * np.random.default_rng(0).exponential(size=500)
    got = importance(log_policy + 0.7 / 0.3, log_policy)
    assert len(set(log_policy + 0.7 / 0.3 - log_policy)) > 1
    assert got.pareto_k[0] == -np.inf


def test_binary_weights_are_left_as_they_are():
    """Rewards of 0 and 1: the tail ties with the cutoff, so there is nothing to fit."""
    log_ratios = np.log(np.repeat([1.0, 2.0], [950, 50]))
    got = importance(log_ratios, np.zeros(1000), smooth=True)
    raw = importance(log_ratios, np.zeros(1000))
    assert np.isnan(got.pareto_k[0]) or got.pareto_k[0] == -np.inf
    assert np.array_equal(got.log_weights, raw.log_weights)


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=9), st.lists(st.floats(0, 1, exclude_max=True), max_size=20))
def test_resampling_inverts_the_cumulative_weights(log_weights, uniforms):
    from esscher import _core

    groups = np.array([0, len(log_weights)])
    got = _core.resample(np.array(log_weights), groups, np.array(uniforms, dtype=np.float64))
    expected = oracle.resample(log_weights, uniforms)
    shares = np.exp(np.array(log_weights) - max(log_weights))
    borders = np.cumsum(shares) / shares.sum()
    # On a border, rounding decides which side: both are right.
    for drawn, want, u in zip(got, expected, uniforms, strict=True):
        assert drawn == want or np.abs(borders - u).min() < 1e-12


@pytest.mark.parametrize("scheme", ["multinomial", "stratified", "systematic"])
def test_resampling_draws_in_proportion(scheme):
    log_weights = np.log([0.1, 0.0001, 0.6, 0.2999, 0.25, 0.75])
    size = 40_000
    drawn = resample(log_weights, size, np.random.default_rng(3), scheme=scheme, groups=[0, 4, 6])
    shares = np.bincount(drawn, minlength=6) / size
    # Five standard deviations of a multinomial share.
    assert np.abs(shares - np.exp(log_weights)).max() < 5 * 0.5 / np.sqrt(size)
    assert ((drawn[:size] < 4) & (drawn[size:] >= 4)).all()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([0.0], 0), {}, "size is 0: draw at least 1"),
        (([-np.inf, 0.0], 2), {"groups": [0, 1, 2]}, "group 0 has no weight"),
        (([np.nan], 2), {}, r"log_weights\[0\] is NaN"),
        (([0.0], 2), {"scheme": "lottery"}, "scheme is 'lottery': it must be one of multinomial"),
    ],
)
def test_bad_resampling(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        resample(*arguments, np.random.default_rng(0), **options)
