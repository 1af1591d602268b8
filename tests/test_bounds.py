"""Bounds on log Z: the sandwich by exact enumeration, standard errors by repetition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from esscher.inference.agreement import agreement
from esscher.inference.bounds import log_z_bounds, log_z_lower_bound, log_z_upper_bound


def draw_world(seed=3, sizes=(5, 4)):
    """Log-weights target / policy of every completion of prompts of different sizes, and the policy."""
    rng = np.random.default_rng(seed)
    policies = [rng.dirichlet(rng.uniform(2, 5, size)) for size in sizes]
    return [(policy, np.log(policy) * 0.3 + rng.normal(0.4, 0.9, len(policy))) for policy in policies]


WORLD = draw_world()
LOG_Z = np.array([np.log(policy @ np.exp(log_weights)) for policy, log_weights in WORLD])


def expected_bound(policy, log_weights, k):
    """E[log mean of k weights], over all ordered choices of k completions."""
    chosen = np.array(list(itertools.product(range(len(policy)), repeat=k)))
    blocks = log_z_lower_bound(log_weights[chosen].ravel(), k, np.arange(len(chosen) + 1) * k)
    return policy[chosen].prod(axis=1) @ blocks.value


def expected_upper_bound(policy, log_weights, k):
    """The same with the first of the k drawn from the target."""
    chosen = np.array(list(itertools.product(range(len(policy)), repeat=k)))
    target = policy * np.exp(log_weights) / (policy @ np.exp(log_weights))
    rows = log_weights[chosen]
    # With k = 1 the policy's samples are not used, but every group has some.
    others = rows[:, 1:] if k > 1 else rows
    groups = np.arange(len(rows) + 1)
    got = log_z_upper_bound(rows[:, 0], others.ravel(), k, groups, groups * others.shape[1])
    return target[chosen[:, 0]] * policy[chosen[:, 1:]].prod(axis=1) @ got.value


@pytest.mark.parametrize("which", [0, 1])
def test_the_sandwich_with_its_exact_gaps(which):
    policy, log_weights = WORLD[which]
    target = policy * np.exp(log_weights - LOG_Z[which])
    one_each = np.arange(len(policy) + 1)
    elbo = policy @ log_z_lower_bound(log_weights, groups=one_each).value
    eubo = target @ log_z_upper_bound(log_weights, groups_of_target=one_each).value
    assert LOG_Z[which] - elbo == pytest.approx(policy @ np.log(policy / target), abs=1e-12)
    assert eubo - LOG_Z[which] == pytest.approx(target @ np.log(target / policy), abs=1e-12)
    bounds = [expected_bound(policy, log_weights, k) for k in range(1, 6)]
    assert bounds[0] == pytest.approx(elbo, abs=1e-12)
    # Each step is worth something, in this world.
    above = [expected_upper_bound(policy, log_weights, k) for k in range(5, 0, -1)]
    assert above[-1] == pytest.approx(eubo, abs=1e-12)
    assert (np.diff([*bounds, LOG_Z[which], *above]) > 1e-3).all()


def draws(n, rng, of_target=False):
    """`n[p]` draws of each prompt, their log-weights."""
    columns = []
    for (policy, log_weights), log_z, size in zip(WORLD, LOG_Z, n, strict=True):
        law = policy * np.exp(log_weights - log_z) if of_target else policy
        columns.append(log_weights[rng.choice(len(policy), size, p=law / law.sum())])
    return np.concatenate(columns), np.concatenate([[0], np.cumsum(n)])


def test_values_and_standard_errors_are_those_of_the_blocks():
    log_weights, groups = draws((11, 7), np.random.default_rng(0))
    got = log_z_lower_bound(log_weights, [1, 3, 7], groups)
    assert got.value.shape == got.stderr.shape == (3, 2)
    for row, k in enumerate([1, 3, 7]):
        for p, (start, end) in enumerate(itertools.pairwise(groups)):
            rows = [log_weights[i : i + k] for i in range(start, end - k + 1, k)]
            logs = [np.log(np.exp(block).mean()) for block in rows]
            assert got.value[row, p] == pytest.approx(np.mean(logs), abs=1e-12)
            stderr = np.std(logs, ddof=1) / np.sqrt(len(logs)) if len(logs) > 1 else np.inf
            assert got.stderr[row, p] == pytest.approx(stderr, abs=1e-12)
    one = log_z_lower_bound(log_weights, 3, groups)
    np.testing.assert_array_equal(one.value, got.value[1])
    elbo = log_z_lower_bound(log_weights, groups=groups)
    np.testing.assert_allclose(elbo, [part[0] for part in got], atol=1e-12)


def test_standard_errors_are_calibrated():
    """Over 400 repetitions errors over their standard errors have spread 1, within 5 / sqrt(800)."""
    rng = np.random.default_rng(8)
    exact = {"elbo": [], "eubo": [], "iwae": []}
    for (policy, log_weights), log_z in zip(WORLD, LOG_Z, strict=True):
        target = policy * np.exp(log_weights - log_z)
        exact["elbo"].append(policy @ log_weights)
        exact["eubo"].append(target @ log_weights)
        exact["iwae"].append(expected_bound(policy, log_weights, 3))
    scores = {name: [] for name in exact}
    for _ in range(400):
        log_weights, groups = draws((300, 600), rng)
        of_target, groups_of_target = draws((300, 600), rng, of_target=True)
        found = {
            "elbo": log_z_lower_bound(log_weights, groups=groups),
            "iwae": log_z_lower_bound(log_weights, 3, groups),
            "eubo": log_z_upper_bound(of_target, groups_of_target=groups_of_target),
        }
        for name, bound in found.items():
            scores[name].append((bound.value - exact[name]) / bound.stderr)
    for name, values in scores.items():
        assert np.std(values, axis=0) == pytest.approx(np.ones(2), abs=5 / np.sqrt(800)), name
        assert np.abs(np.mean(values, axis=0)).max() < 5 / np.sqrt(400), name


@pytest.mark.parametrize("n", [5, 10, 20, 50])
def test_intervals_of_few_draws_hold_the_bound(n):
    """Of normal log-weights, in 2000 repetitions; ± 1.96 standard errors held in 69 % for two blocks."""
    repeats, rng = 2000, np.random.default_rng(n)
    groups = np.arange(repeats + 1) * n
    log_weights = rng.normal(size=(repeats, n))
    found = {"elbo": (log_z_lower_bound(log_weights.ravel(), groups=groups), 0.0)}
    found["eubo"] = log_z_upper_bound(log_weights.ravel(), groups_of_target=groups), 0.0
    for k in (2, 5):
        if n // k > 1:
            exact = float(np.log(np.exp(rng.normal(size=(200_000, k))).mean(axis=1)).mean())
            found[f"iwae {k}"] = log_z_lower_bound(log_weights.ravel(), k, groups), exact
    for name, (bound, exact) in found.items():
        held = (bound.low <= exact) & (exact <= bound.high)
        assert 0.92 <= held.mean() <= 0.98, name


def test_a_single_draw_has_no_interval():
    got = log_z_lower_bound([0.5, -np.inf, 0.1], groups=[0, 1, 3])
    np.testing.assert_array_equal(got.low, [-np.inf, -np.inf])
    np.testing.assert_array_equal(got.high, [np.inf, np.inf])


def test_the_interval_holds_log_z():
    rng = np.random.default_rng(4)
    of_policy, groups_of_policy = draws((400, 900), rng)
    of_target, groups_of_target = draws((300, 200), rng, of_target=True)
    got = log_z_bounds(of_policy, of_target, 4, groups_of_policy, groups_of_target)
    assert (got.lower.value < LOG_Z).all()
    assert (got.upper.value > LOG_Z).all()
    np.testing.assert_array_equal(got.lower, log_z_lower_bound(of_policy, 4, groups_of_policy))
    expected = log_z_upper_bound(of_target, of_policy, 4, groups_of_target, groups_of_policy)
    np.testing.assert_array_equal(got.upper, expected)
    widest = log_z_bounds(of_policy, of_target, 1, groups_of_policy, groups_of_target)
    np.testing.assert_allclose(widest.lower, log_z_lower_bound(of_policy, groups=groups_of_policy))
    np.testing.assert_allclose(widest.upper, log_z_upper_bound(of_target, groups_of_target=groups_of_target))
    assert (widest.upper.value - widest.lower.value > got.upper.value - got.lower.value).all()


def test_the_blocks_of_the_upper_bound_stay_within_their_groups():
    """Groups where the samples of the target, and of the policy, run out first."""
    of_target, of_policy = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.arange(9) / 10
    got = log_z_upper_bound(of_target, of_policy, 3, [0, 1, 5], [0, 4, 9])
    blocks = [[1.0, 0.0, 0.1], [2.0, 0.4, 0.5], [3.0, 0.6, 0.7]]
    logs = [np.log(np.exp(block).mean()) for block in blocks]
    np.testing.assert_allclose(got.value, [logs[0], np.mean(logs[1:])], atol=1e-12)
    np.testing.assert_allclose(got.stderr, [np.inf, abs(logs[2] - logs[1]) / 2], atol=1e-12)


def test_a_completion_without_weight_ends_the_elbo_and_not_its_multi_sample_form():
    log_weights = [0.0, -np.inf, 1.0, 2.0, -np.inf, -np.inf]
    elbo = log_z_lower_bound(log_weights, groups=[0, 2, 4, 6])
    np.testing.assert_array_equal(elbo.value, [-np.inf, 1.5, -np.inf])
    np.testing.assert_array_equal(elbo.stderr, [np.inf, 0.5, np.inf])
    pair = log_z_lower_bound(log_weights, 2, [0, 2, 4, 6])
    np.testing.assert_allclose(pair.value, [-np.log(2), np.log((np.e + np.e**2) / 2), -np.inf], atol=1e-12)
    np.testing.assert_array_equal(pair.stderr, np.inf)


def test_agreement_takes_the_worst_pair():
    got = agreement([0.0, 3.0, 1.0], [3.0, 4.0, 0.5])
    assert got.largest == pytest.approx(3 / 5)
    assert got.agrees
    assert not agreement([0.0, 3.0, 1.0], [3.0, 4.0, 0.5], threshold=0.55).agrees


def test_agreement_of_exact_and_of_unknown_estimates():
    assert agreement([1.0, 1.0], [0.0, 0.0]).largest == 0
    assert agreement([1.0, 1.1], [0.0, 0.0]).largest == np.inf
    assert agreement([0.1 + 0.2, 0.3], [0.0, 1e-18]).agrees
    assert not agreement([1.0, 1.1], [0.0, 0.0]).agrees
    unknown = agreement([[-np.inf, 1.0], [1.0, -np.inf]], [[np.inf, 0.1], [0.1, np.inf]])
    np.testing.assert_array_equal(unknown.largest, [0, 0])
    assert agreement([-np.inf, 1.0, 2.0], [np.inf, 0.1, 0.1]).largest == pytest.approx(1 / np.hypot(0.1, 0.1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: log_z_lower_bound([]), "groups: group 0 is empty"),
        (lambda: log_z_lower_bound([0.0, 1.0], groups=[0, 2, 2]), "groups: group 1 is empty"),
        (lambda: log_z_lower_bound([0.0, np.nan]), r"log_weights\[1\] is nan"),
        (lambda: log_z_lower_bound([np.inf]), r"log_weights\[0\] is inf"),
        (lambda: log_z_lower_bound([[0.0]]), "log_weights has 2 dimensions"),
        (lambda: log_z_upper_bound([0.0, -np.inf]), r"log_weights_of_target\[1\] is -inf: a draw of the target"),
        (lambda: log_z_lower_bound([0.0, 0.0, 0.0], 3, [0, 1, 3]), "k is 3: it must be between 1 and 1"),
        (lambda: log_z_lower_bound([0.0], 0), "k is 0"),
        (lambda: log_z_lower_bound([0.0], 1.5), "k is 1.5"),
        (lambda: log_z_bounds([0.0], [0.0, 0.0], groups_of_target=[0, 1, 2]), "the same groups"),
        (lambda: log_z_upper_bound([0.0], k=2), "log_weights_of_policy is missing"),
        (lambda: log_z_upper_bound([0.0], [0.0], 3), "k is 3: it must be between 1 and 2"),
        (lambda: log_z_upper_bound([0.0], [0.0], 1.5), "k is 1.5"),
        (lambda: log_z_upper_bound([0.0], [0.0], [1, 2]), r"k is \[1, 2\]: it is one integer"),
        (lambda: log_z_upper_bound([-np.inf], [0.0], 2), r"log_weights_of_target\[0\] is -inf"),
        (lambda: log_z_upper_bound([0.0], [np.nan], 2), r"log_weights_of_policy\[0\] is nan"),
        (lambda: agreement([1.0], [0.1]), "it takes two"),
        (lambda: agreement([1.0, 2.0], [0.1]), "shape"),
        (lambda: agreement([1.0, 2.0], [0.1, -0.1]), r"stderrs\[1\] is -0.1"),
        (lambda: agreement([1.0, 2.0], [0.1, np.nan]), r"stderrs\[1\] is nan"),
        (lambda: agreement([1.0, -np.inf], [0.1, 0.1]), r"values\[1\] is -inf"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
