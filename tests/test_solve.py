"""Solving for beta and for coefficients: closed forms, enumeration, round trips, and what cannot be solved."""

from __future__ import annotations

import itertools
import time

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import logsumexp

from esscher.frontier import solve_beta, solve_moments
from esscher.target import Moments, Tilt

GROUPS = np.array([0, 4, 4, 9, 11])  # one prompt has no samples
REWARDS = np.array([0.3, -1.2, 2.0, 0.7, 1.1, 1.1, -0.4, 0.9, 3.0, 0.0, 0.5])


def seen(rewards, beta, groups=None):
    """Mean KL and mean reward over completions, to 50 digits."""
    groups = [0, len(rewards)] if groups is None else groups
    kl = reward = total = mpmath.mpf(0)
    with mpmath.workdps(50):
        for start, stop in itertools.pairwise(groups):
            n = int(stop - start)
            values = [mpmath.mpf(r) for r in map(float, rewards[start:stop]) if r != -np.inf]
            if not values:
                continue
            weights = [mpmath.exp((r - max(values)) / mpmath.mpf(beta)) for r in values]
            z = sum(weights)
            kl += n * sum(w / z * mpmath.log(n * w / z) for w in weights if w > 0)
            reward += n * sum(w / z * r for w, r in zip(weights, values, strict=True))
            total += n
        return float(kl / total), float(reward / total)


def test_a_binary_reward_has_a_closed_form():
    # A pass rate of 3/10, tilted to 6/10 and to 9/10.
    rewards = np.repeat([0.0, 1.0], [7, 3])
    for m in (0.6, 0.9):
        expected = 1 / np.log(m * 0.7 / ((1 - m) * 0.3))
        assert solve_beta(rewards, reward=m) == pytest.approx(expected, rel=1e-13)
        kl = m * np.log(m / 0.3) + (1 - m) * np.log((1 - m) / 0.7)
        assert solve_beta(rewards, kl=kl) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("beta", [50.0, 3.0, 0.7, 0.2])
def test_what_is_solved_for_is_reached(beta):
    kl, reward = seen(REWARDS, beta, GROUPS)
    assert solve_beta(REWARDS, kl=kl, groups=GROUPS) == pytest.approx(beta, rel=1e-12)
    assert solve_beta(REWARDS, reward=reward, groups=GROUPS) == pytest.approx(beta, rel=1e-11)


def test_multiplicities_are_probabilities():
    counts, values = np.array([5, 1, 9, 2, 3]), np.array([0.2, 1.7, -0.6, 0.9, 0.4])
    prior = counts / counts.sum()

    def kl(beta):
        log_pi = np.log(prior) + values / beta
        log_pi -= logsumexp(log_pi)
        return float(np.exp(log_pi) @ (log_pi - np.log(prior)))

    expected = brentq(lambda beta: kl(beta) - 0.4, 0.05, 50, xtol=1e-15, rtol=1e-14)
    assert solve_beta(np.repeat(values, counts), kl=0.4) == pytest.approx(expected, rel=1e-12)


@given(
    st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=6), min_size=1, max_size=4),
    st.floats(-2.5, 4),
    st.sampled_from([1e-8, 1.0, 1e8]),
)
def test_round_trip(prompts, log_beta, unit):
    rewards = np.round(np.concatenate(prompts), 3)
    groups = np.cumsum([0, *map(len, prompts)])
    assume(max(np.ptp(r) for r in np.split(rewards, groups[1:-1])) > 0.05)
    beta = np.exp(log_beta)
    kl, _ = seen(rewards, beta, groups)
    supremum, _ = seen(rewards, 1e-6, groups)
    assume(supremum - kl > 1e-3 * supremum)  # nearer, and kl's own rounding moves beta
    assert solve_beta(rewards * unit, kl=kl, groups=groups) == pytest.approx(beta * unit, rel=1e-9)


@pytest.mark.parametrize("kl", [1e-300, 1e-18, 1e-9, 1e-5])
def test_small_kl_follows_the_variance(kl):
    rewards = np.random.default_rng(3).normal(size=1000)
    beta = solve_beta(rewards, kl=kl)
    # KL = var / (2 beta^2) + skewness / (3 beta^3) + ...
    centred = rewards - rewards.mean()
    inverse = np.sqrt(2 * kl / np.mean(centred**2))
    expected = np.mean(centred**2) / 2 + np.mean(centred**3) * inverse / 3
    assert kl * beta**2 == pytest.approx(expected, rel=max(100 * kl, 1e-12))


def test_digits_of_a_small_kl_are_kept():
    rewards = np.array([0.1, -0.3, 0.45, 0.0, 1000.0])
    for beta in (1e6, 1e9):
        assert solve_beta(rewards, kl=seen(rewards, beta)[0]) == pytest.approx(beta, rel=1e-13)
    rewards = np.append(np.linspace(0, 1, 50), -1e9)  # an outlier, put out before anything else moves
    for beta in (30.0, 0.5):
        assert solve_beta(rewards, kl=seen(rewards, beta)[0]) == pytest.approx(beta, rel=1e-11)


def test_scale_and_offset():
    expected = solve_beta(REWARDS, kl=0.3, groups=GROUPS)
    for unit in (2.0**-1000, 2.0**-30, 2.0**900):
        assert solve_beta(REWARDS * unit, kl=0.3, groups=GROUPS) == pytest.approx(expected * unit, rel=1e-14)
    assert solve_beta(REWARDS + 1e6, kl=0.3, groups=GROUPS) == pytest.approx(expected, rel=1e-9)
    wide = np.array([1.5e308, -1.5e308, 0.0])
    assert solve_beta(wide, kl=0.3) == pytest.approx(1.5e308 * solve_beta([1.0, -1.0, 0.0], kl=0.3), rel=1e-13)
    assert solve_beta(wide, reward=1.2e308) == pytest.approx(
        1.5e308 * solve_beta([1.0, -1.0, 0.0], reward=0.8), rel=1e-13
    )


def test_rewards_of_minus_infinity_have_no_weight():
    rewards = np.array([-np.inf, 0.2, 1.0, -np.inf, -np.inf, 0.7, 0.1, -0.4, 0.3])
    groups = [0, 3, 5, 9]  # the second prompt has none with weight, and is left out
    for beta in (5.0, 0.6):
        kl, reward = seen(rewards, beta, groups)
        assert solve_beta(rewards, kl=kl, groups=groups) == pytest.approx(beta, rel=1e-12)
        assert solve_beta(rewards, reward=reward, groups=groups) == pytest.approx(beta, rel=1e-11)
    with pytest.raises(ValueError, match=r"kl is 0.1: the target excludes rewards of -inf, which alone takes 0.17377"):
        solve_beta(rewards, kl=0.1, groups=groups)  # 3/7 log(3/2)


@pytest.mark.parametrize("wanted", [{"kl": 2.0794}, {"kl": np.nextafter(np.log(8), 0)}, {"reward": 7.0 - 1e-12}])
def test_near_the_limit_beta_is_small_and_positive(wanted):
    beta = solve_beta(np.arange(8.0), **wanted)
    assert 0.01 < beta < 0.2
    assert seen(np.arange(8.0), beta)[0] == pytest.approx(np.log(8), rel=1e-4)


def test_a_million_samples_are_fast():
    rewards = np.random.default_rng(5).normal(size=1_000_000)
    groups = np.arange(0, 1_000_001, 8)
    start = time.perf_counter()
    beta = solve_beta(rewards, kl=0.3, groups=groups)
    assert time.perf_counter() - start < 2  # 0.1 s; a machine may be busy
    potential = Tilt(beta).log_potential(rewards).reshape(-1, 8)
    log_pi = potential - logsumexp(potential, axis=1, keepdims=True)
    assert np.mean(np.sum(np.exp(log_pi) * (log_pi + np.log(8)), axis=1)) == pytest.approx(0.3, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either kl, in nats, or reward"),
        ({"kl": 1.0, "reward": 1.0}, "give either kl, in nats, or reward"),
        ({"kl": 0.0}, "kl is 0.0: it must be a positive number of nats"),
        ({"kl": -1.0}, "kl is -1.0: it must be a positive"),
        ({"kl": np.nan}, "kl is nan: it must be a positive"),
        ({"kl": np.inf}, "kl is inf: it must be a positive"),
        ({"kl": np.log(2)}, r"at most 0.693147 nats from 4 samples a prompt.*Draw more"),
        ({"kl": 1.5, "groups": [0, 1, 4]}, r"at most 0.304099 nats from 1 to 3 samples a prompt"),
        ({"reward": np.nan}, "reward is nan: it must be finite"),
        ({"reward": 3.0}, "reward is 3: the mean of the prompts' highest rewards is 3, and no beta reaches it"),
        ({"reward": 1.75}, "reward is 1.75: the prior's mean is 1.75 .*infinite or negative"),
        ({"reward": -5.0}, "reward is -5: the prior's mean is 1.75 .*infinite or negative"),
        ({"kl": 0.1, "groups": [0, 5]}, "groups ends at 5"),
    ],
)
def test_what_no_beta_reaches(arguments, message):
    with pytest.raises(ValueError, match=message):
        solve_beta([0.0, 1.0, 3.0, 3.0], **arguments)


@pytest.mark.parametrize(
    ("rewards", "groups", "message"),
    [
        ([], None, "rewards is empty"),
        ([-np.inf, -np.inf], None, "all rewards are -inf"),
        ([0.0, np.nan], None, r"rewards\[1\] is nan"),
        ([np.inf, 0.0], None, r"rewards\[0\] is inf"),
        ([[0.0, 1.0]], None, "rewards has 2 dimensions"),
        ([0.5, 0.5, 2.0, 2.0], [0, 2, 4], "the frontier is a point, no beta changes anything"),
        ([0.5, -np.inf, 2.0], [0, 2, 3], "the frontier is a point"),
        ([0.5, 2.0], [0, 1, 2], "a single completion a prompt.*Draw several"),
    ],
)
def test_rewards_without_a_frontier(rewards, groups, message):
    for wanted in ({"kl": 0.1}, {"reward": 0.6}):
        with pytest.raises(ValueError, match=message):
            solve_beta(rewards, groups=groups, **wanted)


def test_a_beta_beyond_doubles_is_an_error():
    with pytest.raises(ValueError, match="beta is above"):
        solve_beta([0.0, 1e308], kl=1e-200)


def attained(features, coefficients, groups=None):
    """Mean features of each prompt under the target, and their mean over completions."""
    features = np.asarray(features, dtype=float).reshape(len(features), -1)
    groups = [0, len(features)] if groups is None else groups
    potential = Moments(coefficients).log_potential(features=features)
    means, sizes = [], np.diff(groups)
    for start, stop in itertools.pairwise(groups):
        log_weights = potential[start:stop] - (logsumexp(potential[start:stop]) if stop > start else 0.0)
        means.append(np.exp(log_weights) @ features[start:stop])
    return np.array(means), sizes @ np.array(means) / sizes.sum()


@pytest.mark.parametrize(("passing", "m"), [(3, 0.5), (3, 0.9999), (9, 0.2), (1, 1e-6)])
def test_one_binary_feature_has_a_closed_form(passing, m):
    p = passing / 10
    got = solve_moments(np.repeat([1.0, 0.0], [passing, 10 - passing]), [m])
    assert got == pytest.approx([np.log(m * (1 - p) / ((1 - m) * p))], rel=1e-10)


def features_of(n, k, seed):
    rng = np.random.default_rng(seed)
    return rng.gamma(2.0, size=(n, k)) @ rng.normal(size=(k, k))


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_global_moments_hold_on_average_over_prompts(k, unit):
    features, expected = features_of(90, k, seed=k), np.random.default_rng(9).normal(size=k) * 0.4
    groups = [0, 20, 20, 57, 90]
    _, moments = attained(features, expected, groups)
    got = solve_moments(features * unit, moments * unit, groups=groups)
    assert got * unit == pytest.approx(expected, rel=1e-9)


def test_coefficients_of_each_prompt():
    features, groups = features_of(60, 2, seed=2), [0, 25, 60]
    wanted = np.array([[0.4, -0.2], [-0.1, 0.3]])
    moments = np.array([attained(features[:25], wanted[0])[1], attained(features[25:], wanted[1])[1]])
    got = solve_moments(features, moments, groups=groups, per_prompt=True)
    assert got == pytest.approx(wanted, rel=1e-9)
    shared = features.mean(axis=0)
    got = solve_moments(features, shared, groups=groups, per_prompt=True)
    for p, part in enumerate((features[:25], features[25:])):
        assert got[p] == pytest.approx(solve_moments(part, shared), rel=1e-12)
        assert attained(part, got[p])[1] == pytest.approx(shared, rel=1e-10)


def test_the_prior_needs_no_coefficients():
    features = features_of(50, 3, seed=4) + 1e6
    assert solve_moments(features, features.mean(axis=0)) == pytest.approx(np.zeros(3), abs=1e-8)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.floats(0, 8))
def test_moments_round_trip(seed, k, length):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(40, k)) * np.exp(rng.normal(size=k))
    expected = rng.normal(size=k) / features.std(axis=0)
    expected *= length / np.linalg.norm(expected * features.std(axis=0))
    _, moments = attained(features, expected)
    got = solve_moments(features, moments)
    assert attained(features, got)[1] == pytest.approx(moments, abs=1e-10 * np.abs(features).max())


def test_dependent_features_get_the_smallest_coefficients():
    one = np.array([0.0, 1.0, 3.0, 4.0, 4.5])
    single = solve_moments(one, [3.0])[0]
    got = solve_moments(np.stack([one, one], axis=1), [3.0, 3.0])
    assert got == pytest.approx([single / 2, single / 2], rel=1e-9)
    # And one that never varies gets none.
    got = solve_moments(np.stack([one, np.full(5, 0.1)], axis=1), [3.0, 0.1])
    assert got == pytest.approx([single, 0.0], rel=1e-9)
    with pytest.raises(ValueError, match="moments cannot be met together"):
        solve_moments(np.stack([one, 2 * one], axis=1), [3.0, 5.9])
    with pytest.raises(ValueError, match=r"moments\[1\] is 0.2: feature 1 is 0.1 in every sample, and stays so"):
        solve_moments(np.stack([one, np.full(5, 0.1)], axis=1), [3.0, 0.2])


TRIANGLE = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.2, 0.3]])


@pytest.mark.parametrize("moments", [[0.5, 0.5], [0.25, 0.75], [0.6, 0.6], [0.5, 0.500001], [0.99, 0.99]])
def test_moments_on_the_border_or_outside_the_hull(moments):
    with pytest.raises(ValueError, match=r"moments cannot be met together.*range from 0 to 1, 0 to 1.*draw more"):
        solve_moments(TRIANGLE, moments)


@pytest.mark.parametrize("moments", [[0.5, 0.499], [0.01, 0.98], [0.4999995, 0.4999995], [1e-9, 1e-9]])
def test_moments_just_inside_the_hull(moments):
    assert attained(TRIANGLE, solve_moments(TRIANGLE, moments))[1] == pytest.approx(moments, abs=1e-10)


def test_the_hull_of_several_prompts_is_the_mean_of_theirs():
    features, groups = np.array([0.0, 1.0, 10.0, 12.0, 11.0]), [0, 2, 5]
    # From (2 * 0 + 3 * 10) / 5 to (2 * 1 + 3 * 12) / 5.
    for moment in (6.0, 7.6, 9.0):
        with pytest.raises(ValueError, match=r"feature 0 a mean between 6 and 7.6, both excluded"):
            solve_moments(features, [moment], groups=groups)
    for moment in (6.001, 7.599):
        got = solve_moments(features, [moment], groups=groups)
        assert attained(features, got, groups)[1] == pytest.approx([moment], abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"moments": [0.5, 1.0]}, r"moments\[1\] is 1: .*between 0 and 1, both excluded \(features: 0 to 1, 0 to 1\)"),
        ({"moments": [-0.1, 0.2]}, r"moments\[0\] is -0.1: weighting the samples gives feature 0 a mean between 0"),
        ({"moments": [0.5]}, r"moments has shape \(1,\): it must be \(2,\)"),
        ({"moments": [[0.5, 0.5]]}, r"moments has shape \(1, 2\): it must be \(2,\),"),
        (
            {"moments": [[0.1, 0.1]], "groups": [0, 3, 4], "per_prompt": True},
            r"moments has shape \(1, 2\): it must be \(2,\) or \(2, 2\)",
        ),
        ({"moments": [0.5, np.nan]}, r"moments\[1\] is nan: it must be finite"),
        ({"moments": [0.5, 0.1], "groups": [0, 3]}, "groups ends at 3"),
        (
            {"moments": [0.1, 0.1], "groups": [0, 4, 4], "per_prompt": True},
            "prompt 1 has no samples",
        ),
        (
            {"moments": [[0.1, 0.1], [0.2, 0.4]], "groups": [0, 3, 4], "per_prompt": True},
            r"moments\[1, 1\] is 0.4: feature 1 is 0.3 in every sample of prompt 1",
        ),
        (
            {"moments": [[0.1, 0.1], [0.1, 2.0]], "groups": [0, 2, 4], "per_prompt": True},
            r"moments\[0, 1\] is 0.1: feature 1 is 0 in every sample of prompt 0",
        ),
    ],
)
def test_moments_that_cannot_be_met(arguments, message):
    with pytest.raises(ValueError, match=message):
        solve_moments(TRIANGLE, **arguments)


def test_features_are_checked():
    with pytest.raises(ValueError, match=r"features\[1, 0\] is nan"):
        solve_moments([0.0, np.nan], [0.5])
    with pytest.raises(ValueError, match="features is empty"):
        solve_moments(np.empty((0, 2)), [0.5, 0.5])
