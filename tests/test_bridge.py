"""Log Z from two distributions together: against enumeration, by repetition, and where there is nothing in common."""

from __future__ import annotations

import numpy as np
import pytest
from mpmath import mp

from esscher import importance
from esscher.inference.bridge import bridge_log_z
from esscher.inference.mixture import mixture_log_z


def draw_world(seed=6, sizes=(40, 25)):
    """Per prompt: log-probs of all completions under prior and policy, and the unnormalised target.

    The policy is past the target in some places and short of it in others, so that prior and policy both miss some.
    """
    rng = np.random.default_rng(seed)
    world = []
    for size in sizes:
        rewards = rng.gamma(1.5, size=size)
        log_prior = log_softmax(rng.normal(0, 1.2, size))
        log_policy = log_softmax(log_prior + 0.8 * rewards + rng.normal(0, 0.7, size))
        world.append((log_prior, log_policy, log_prior + rewards / 0.7))
    return world


def log_softmax(values):
    return values - np.logaddexp.reduce(values)


WORLD = draw_world()
LOG_Z = np.array([np.logaddexp.reduce(log_target) for *_, log_target in WORLD])


def offsets(sizes):
    return np.concatenate([[0], np.cumsum(sizes)])


def mixture_draws(rng, sizes):
    """Draws of prior and policy of each prompt, shuffled: log_target, log_prior, log_policy, from_policy."""
    parts = []
    for (log_prior, log_policy, log_target), (n_prior, n_policy) in zip(WORLD, sizes, strict=True):
        drawn = np.concatenate([choose(log_prior, n_prior, rng), choose(log_policy, n_policy, rng)])
        order = rng.permutation(len(drawn))
        columns = [column[drawn] for column in (log_target, log_prior, log_policy)]
        parts.append([column[order] for column in (*columns, np.arange(len(drawn)) >= n_prior)])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def bridge_draws(rng, n_proposals, n_targets):
    """Log-probs under target and policy of draws of the policy, and of the target."""
    return [column for sizes, of in ((n_proposals, 1), (n_targets, 2)) for column in pool(rng, sizes, of)]


def pool(rng, sizes, of):
    drawn = [choose(log_softmax(law[of]), size, rng) for law, size in zip(WORLD, sizes, strict=True)]
    return [np.concatenate([law[i][d] for law, d in zip(WORLD, drawn, strict=True)]) for i in (2, 1)]


def choose(log_law, n, rng):
    return rng.choice(len(log_law), n, p=np.exp(log_law))


def test_the_mixture_is_calibrated_and_better_than_prior_or_policy_alone():
    """Over 400 repetitions: errors over their standard errors have spread 1, and log Z less spread than alone."""
    rng = np.random.default_rng(1)
    sizes = np.array([(300, 500), (600, 200)])
    found, scores, alone = [], [], []
    for _ in range(400):
        log_target, log_prior, log_policy, from_policy = mixture_draws(rng, sizes)
        got = mixture_log_z(log_target, log_prior, log_policy, from_policy, offsets(sizes.sum(axis=1)))
        found.append(got.log_z)
        scores.append((got.log_z - LOG_Z) / got.stderr)
        alone.append(
            [
                importance(log_target[keep], column[keep], offsets(counts)).log_z
                for keep, column, counts in (
                    (~from_policy, log_prior, sizes[:, 0]),
                    (from_policy, log_policy, sizes[:, 1]),
                )
            ]
        )
    check_scores(scores)
    assert (np.std(found, axis=0) < np.std(alone, axis=0)).all()


def gaussians(rng, repeats, sizes, means):
    """Draws of unit Gaussians, [repeats, n] of each of the means, and the log of such a density up to a constant.

    A prior of mean 0 tilted by ``exp(t x)`` is the Gaussian of mean t, with ``log Z = t^2 / 2``.
    """
    drawn = np.concatenate([rng.normal(m, 1, (repeats, n)) for n, m in zip(sizes, means, strict=True)], axis=1).ravel()
    return drawn, lambda mean: -((drawn - mean) ** 2) / 2


@pytest.mark.parametrize("sizes", [(3, 3), (5, 5), (10, 10), (25, 25), (2, 8), (40, 4)])
@pytest.mark.parametrize(("tilt", "mean"), [(0.5, 0.5), (0.5, 0.25), (1.0, 0.5), (1.0, 1.5), (2.0, 1.0), (2.0, 1.4)])
def test_intervals_of_few_samples_of_the_mixture_hold_log_z(tilt, mean, sizes):
    """In 2000 repetitions; ± 1.96 standard errors held in 76 to 94 %."""
    drawn, log_density = gaussians(np.random.default_rng(5), 2000, sizes, (0.0, mean))
    log_prior, from_policy = log_density(0.0), np.tile(np.arange(sum(sizes)) >= sizes[0], 2000)
    groups = np.arange(2001) * sum(sizes)
    got = mixture_log_z(log_prior + tilt * drawn, log_prior, log_density(mean), from_policy, groups)
    held = (got.low <= tilt**2 / 2) & (tilt**2 / 2 <= got.high)
    assert 0.91 <= held.mean() <= 0.985


@pytest.mark.parametrize("sizes", [(3, 3), (5, 5), (10, 10), (25, 25), (40, 4)])
@pytest.mark.parametrize("tilt", [0.5, 1.0, 2.0])
def test_the_error_of_few_samples_of_the_bridge_holds_log_z(tilt, sizes):
    rng = np.random.default_rng(6)
    columns = []
    for n, mean in zip(sizes, (0.0, tilt), strict=True):
        drawn, log_density = gaussians(rng, 2000, [n], [mean])
        columns += [log_density(0.0) + tilt * drawn, log_density(0.0)]
    got = bridge_log_z(*columns, *(np.arange(2001) * n for n in sizes))
    held = np.abs(got.log_z - tilt**2 / 2) <= 1.96 * got.stderr
    assert 0.925 <= held.mean() <= 0.98


def test_what_has_no_error_has_no_end():
    """A single sample of one of the two, and a group in which nothing has weight."""
    flags = np.array([False, False, True, False, False])
    got = mixture_log_z([0.0, 0.3, 0.1, -np.inf, -np.inf], np.zeros(5), np.zeros(5), flags, [0, 3, 5])
    np.testing.assert_array_equal(got.stderr, [np.inf, np.inf])
    np.testing.assert_array_equal(got.low, [-np.inf, -np.inf])
    np.testing.assert_array_equal(got.high, [np.inf, np.inf])
    same = mixture_log_z(np.full(4, 0.5), np.zeros(4), np.zeros(4), [False, False, True, True])
    assert (same.low[0], same.high[0]) == pytest.approx((0.5, 0.5), abs=1e-12)


def test_the_bridge_is_calibrated_and_better_than_its_proposal_alone():
    rng = np.random.default_rng(2)
    n_proposals, n_targets = (400, 300), (200, 500)
    found, scores, alone = [], [], []
    for _ in range(400):
        columns = bridge_draws(rng, n_proposals, n_targets)
        got = bridge_log_z(*columns, offsets(n_proposals), offsets(n_targets))
        assert got.converged.all()
        found.append(got.log_z)
        scores.append((got.log_z - LOG_Z) / got.stderr)
        alone.append(importance(*columns[:2], offsets(n_proposals)).log_z)
    check_scores(scores)
    assert (np.std(found, axis=0) < np.std(alone, axis=0)).all()


def check_scores(scores):
    # Of 800 normals, one in 180 times is one this large.
    assert np.abs(scores).max() < 4.5
    assert np.std(scores, axis=0) == pytest.approx(np.ones(2), abs=5 / np.sqrt(800))
    assert np.abs(np.mean(scores, axis=0)).max() < 5 / np.sqrt(400)


def test_the_mixture_has_no_bias_for_z():
    """By enumeration of all draws of one sample of each: the expected Z hat is Z."""
    log_prior, log_policy, log_target = WORLD[1]
    n = len(log_prior)
    first, second = (index.ravel() for index in np.meshgrid(np.arange(n), np.arange(n)))
    drawn = np.stack([first, second], axis=1).ravel()
    columns = [column[drawn] for column in (log_target, log_prior, log_policy)]
    got = mixture_log_z(*columns, np.tile([False, True], n * n), np.arange(0, len(drawn) + 1, 2))
    probability = np.exp(log_prior[first] + log_policy[second])
    assert probability @ np.exp(got.log_z) == pytest.approx(np.exp(LOG_Z[1]), rel=1e-12)


def test_the_mixture_of_one_distribution_is_importance_sampling():
    rng = np.random.default_rng(3)
    sizes = np.array([(50, 0), (0, 70)])
    log_target, log_prior, log_policy, from_policy = mixture_draws(rng, sizes)
    got = mixture_log_z(log_target, log_prior, log_policy, from_policy, [0, 50, 120])
    log_proposal = np.where(from_policy, log_policy, log_prior)
    expected = importance(log_target, log_proposal, [0, 50, 120])
    np.testing.assert_allclose(got.log_z, expected.log_z, atol=1e-12)
    # The delta method with n - 1: (n / ess - 1) / (n - 1).
    n = np.array([50, 70])
    np.testing.assert_allclose(got.stderr, np.sqrt((n / expected.ess - 1) / (n - 1)), rtol=1e-10)


def test_the_bridge_solves_its_equation():
    """The fixed point found in 30 digits by a root finder, from the definition."""
    rng = np.random.default_rng(4)
    columns = bridge_draws(rng, (12, 9), (7, 15))
    got = bridge_log_z(*columns, offsets((12, 9)), offsets((7, 15)), tolerance=1e-13)
    ratios, of_targets = columns[0] - columns[1], columns[2] - columns[3]
    for p, (a, b) in enumerate([((0, 12), (0, 7)), ((12, 21), (7, 22))]):
        root = root_of(ratios[slice(*a)], of_targets[slice(*b)], float(got.log_z[p]) + 0.3)
        assert got.log_z[p] == pytest.approx(root, abs=1e-10)
    assert 1 < got.iterations < 200


def root_of(of_proposals, of_targets, start):
    with mp.workdps(30):
        n_p, n_t = len(of_proposals), len(of_targets)
        s_p, s_t = mp.mpf(n_p) / (n_p + n_t), mp.mpf(n_t) / (n_p + n_t)

        def moved(log_z):
            z = mp.exp(log_z)
            above = mp.fsum(mp.exp(v) / (s_t * mp.exp(v) + s_p * z) for v in map(mp.mpf, of_proposals)) / n_p
            below = mp.fsum(1 / (s_t * mp.exp(v) + s_p * z) for v in map(mp.mpf, of_targets)) / n_t
            return mp.log(above / below) - log_z

        return float(mp.findroot(moved, start))


def test_both_shift_with_the_target():
    """A constant in log_target moves log Z by itself, however large, and leaves the rest."""
    rng = np.random.default_rng(5)
    sizes = np.array([(30, 20), (10, 40)])
    log_target, *rest = mixture_draws(rng, sizes)
    columns = bridge_draws(rng, (30, 20), (10, 40))
    shifted = [columns[0] - 2000, columns[1], columns[2] - 2000, columns[3]]
    for one, other in (
        (mixture_log_z(log_target, *rest, [0, 50, 100]), mixture_log_z(log_target - 2000, *rest, [0, 50, 100])),
        (bridge_log_z(*columns, [0, 30, 50], [0, 10, 50]), bridge_log_z(*shifted, [0, 30, 50], [0, 10, 50])),
    ):
        np.testing.assert_allclose(other.log_z, one.log_z - 2000, atol=1e-6)
        np.testing.assert_allclose(other.stderr, one.stderr, rtol=1e-6)


def test_groups_do_not_touch_each_other():
    rng = np.random.default_rng(7)
    columns = bridge_draws(rng, (30, 20), (10, 40))
    both = bridge_log_z(*columns, [0, 30, 50], [0, 10, 50])
    second = bridge_log_z(columns[0][30:], columns[1][30:], columns[2][10:], columns[3][10:])
    np.testing.assert_allclose(both.log_z[1], second.log_z[0], atol=1e-8)
    np.testing.assert_allclose(both.stderr[1], second.stderr[0], rtol=1e-6)
    np.testing.assert_allclose(both.overlap[1], second.overlap[0], rtol=1e-6)


def test_nothing_has_weight():
    """Beside a group that has."""
    log_target = [-np.inf, -np.inf, -1.0, -1.5, -2.0, -1.0]
    prior = [-1.0, -2.0, -1.0, -2.0, -2.0, -1.0]
    policy = [-1.0, -np.inf, -1.5, -1.0, -2.0, -1.0]
    got = mixture_log_z(log_target, prior, policy, [True, False, True, True, False, False], [0, 2, 6])
    assert got.log_z[0] == -np.inf
    assert got.stderr[0] == np.inf
    assert np.isfinite([got.log_z[1], got.stderr[1]]).all()
    of_targets = [-1.0, -1.2, -1.0, -1.5]
    both = bridge_log_z(log_target, prior, of_targets, [-1.0, -1.0, -2.0, -1.0], [0, 2, 6], [0, 2, 4])
    assert (both.log_z[0], both.stderr[0], both.overlap[0], both.converged[0]) == (-np.inf, np.inf, 0, False)
    assert np.isfinite([both.log_z[1], both.stderr[1]]).all()
    assert both.converged[1]
    assert both.iterations < 1000


def test_a_single_sample_says_nothing_of_its_error():
    got = mixture_log_z([-1.0, -1.2, -1.5], [-1.0, -2.0, -1.0], [-1.0, -1.0, -1.0], [False, True, True])
    assert np.isfinite(got.log_z).all()
    assert got.stderr[0] == np.inf
    both = bridge_log_z([-1.0], [-1.0], [-1.0, -2.0], [-1.0, -1.0])
    assert np.isfinite(both.log_z).all()
    assert both.stderr[0] == np.inf


def test_little_in_common_is_little_known():
    """The ratios of both samples hardly vary, but lie 60 nats apart: a spread would say 0.01, which is wrong."""
    rng = np.random.default_rng(9)
    of_proposals, of_targets = rng.normal(-30, 0.1, 100), rng.normal(30, 0.1, 200)
    got = bridge_log_z(of_proposals, np.zeros(100), of_targets, np.zeros(200))
    assert got.overlap[0] < 1e-10
    assert got.stderr[0] > 1e4
    apart = bridge_log_z(of_proposals - 1e4, np.zeros(100), of_targets + 1e4, np.zeros(200))
    assert apart.stderr[0] == np.inf
    assert apart.overlap[0] == 0


def test_the_limit_of_passes_is_a_clear_outcome():
    rng = np.random.default_rng(10)
    columns = bridge_draws(rng, (30, 20), (10, 40))
    got = bridge_log_z(*columns, [0, 30, 50], [0, 10, 50], max_iterations=1)
    assert got.iterations == 1
    assert not got.converged.any()
    assert np.isfinite(got.log_z).all()


def test_the_same_distribution_has_no_error():
    got = bridge_log_z([-1.0, -2.0], [-1.5, -2.5], [-1.0, -2.0], [-1.5, -2.5])
    assert got.log_z == pytest.approx([0.5])
    assert got.overlap == pytest.approx([1.0])
    assert got.stderr == pytest.approx([0.0], abs=1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mixture_log_z([], [], [], np.zeros(0, bool)), "groups: group 0 is empty"),
        (lambda: mixture_log_z([np.nan], [0.0], [0.0], [True]), r"log_target\[0\] is nan"),
        (lambda: mixture_log_z([0.0], [0.0, 0.0], [0.0], [True]), "log_prior has 2 entries"),
        (lambda: mixture_log_z([0.0], [0.0], [0.0], [1]), "from_policy has dtype int64"),
        (lambda: mixture_log_z([0.0], [0.0], [-np.inf], [True]), r"log_policy\[0\] is -inf, but the sample was drawn"),
        (lambda: mixture_log_z([0.0], [np.nan], [0.0], [True]), r"log_prior\[0\] is nan"),
        (lambda: bridge_log_z([0.0], [-np.inf], [0.0], [0.0]), r"log_proposal_of_proposals\[0\] is -inf"),
        (
            lambda: bridge_log_z([0.0], [0.0], [-np.inf], [0.0]),
            r"log_target_of_targets\[0\] is -inf: a draw of the target",
        ),
        (lambda: bridge_log_z([0.0], [0.0], [0.0, 0.0], [0.0]), "log_proposal_of_targets has 1 entries"),
        (lambda: bridge_log_z([0.0], [0.0], [], []), "groups_of_targets: group 0 is empty"),
        (lambda: bridge_log_z([0.0], [0.0], [0.0, 0.0], [0.0, 0.0], None, [0, 1, 2]), "the same groups"),
        (lambda: bridge_log_z([0.0], [0.0], [0.0], [0.0], max_iterations=0), "max_iterations is 0"),
        (lambda: bridge_log_z([0.0], [0.0], [0.0], [0.0], tolerance=0.0), "tolerance is 0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
