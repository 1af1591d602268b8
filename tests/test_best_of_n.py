"""Best-of-n against its exact law, and the all-subsets estimators against all subsets."""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esscher.estimate import confidence_interval
from esscher.inference.best_of_n import best_of_n, best_of_n_weights
from esscher.inference.best_of_n_kl import best_of_n_kl, best_of_n_kl_bound
from esscher.inference.best_of_n_rewards import best_of_n_interval, best_of_n_rewards
from esscher.lm.tabular import TabularLM

# Few values, so that there are ties.
reward = st.one_of(st.integers(-3, 3).map(float), st.floats(-50, 50), st.just(-np.inf))
pools = st.lists(st.lists(reward, min_size=1, max_size=7), min_size=1, max_size=4)


def flat(rows):
    return np.array([x for row in rows for x in row]), np.cumsum([0, *map(len, rows)])


def world(distinct):
    """Prior of every completion of one prompt, and its rewards: all different, or rounded to have ties."""
    rng = np.random.default_rng(21)
    rows = TabularLM.random(rng, 1, 4, 3).completions().policy_logprobs
    rewards = rng.normal(size=len(rows))
    return np.exp(np.add.reduceat(rows.values, rows.offsets[:-1])), rewards if distinct else rewards.round()


def exact_law(prior, rewards, n):
    """The law of best-of-n: F^n - F^-^n for each reward, shared among equal rewards as the prior is."""
    law = np.zeros(len(prior))
    for value in np.unique(rewards):
        same = rewards == value
        below, up_to = prior[rewards < value].sum(), prior[rewards <= value].sum()
        law[same] = (up_to**n - below**n) * prior[same] / prior[same].sum()
    return law


@pytest.mark.parametrize("distinct", [True, False])
@pytest.mark.parametrize("n", [1, 3, 8])
def test_the_law_of_the_winners(n, distinct):
    prior, rewards = world(distinct)
    rng = np.random.default_rng(22)
    winners, groups = 30_000, np.array([0, 10_000 * n, 30_000 * n + n - 1])
    drawn = rng.choice(len(prior), size=groups[-1], p=prior / prior.sum())
    got = best_of_n(rewards[drawn], n, rng, groups)
    assert got.groups.tolist() == [0, 10_000, 30_000]
    assert (got.indices[:10_000] < groups[1]).all()
    assert (got.indices[10_000:] >= groups[1]).all()
    assert len(set(got.indices)) == winners
    law = exact_law(prior, rewards, n)
    assert law.sum() == pytest.approx(1)
    shares = np.bincount(drawn[got.indices], minlength=len(prior)) / winners
    # With few expected counts a binomial has longer tails than a normal: Bernstein's term.
    assert (np.abs(shares - law) < 5 * (np.sqrt(law * (1 - law) / winners) + 2 / winners)).all()


def test_winners_of_random_subsets_have_the_weights_as_their_law():
    rewards, groups, size = np.array([1.0, 2.0, 2.0, -np.inf, 0.5, 3.0, 1.0, 7.0]), [0, 5, 8], 40_000
    got = best_of_n(rewards, 2, np.random.default_rng(3), groups, size=size)
    assert got.groups.tolist() == [0, size, 2 * size]
    weights = best_of_n_weights(rewards, 2, groups)
    shares = np.bincount(got.indices, minlength=8) / size
    assert (np.abs(shares - weights) <= 5 * np.sqrt(weights * (1 - weights) / size)).all()
    assert ((got.indices[:size] < 5) & (got.indices[size:] >= 5)).all()


def test_blocks_do_not_depend_on_the_order_of_the_pool():
    """A pool that is sorted by reward gives winners as any other does: each sample wins as often as its weight says."""
    rewards, rounds = np.array([0.0, 1.0, 2.0, 3.0, 3.0]), 20_000
    rng = np.random.default_rng(4)
    got = best_of_n(np.tile(rewards, rounds), 2, rng, np.arange(rounds + 1) * 5)
    shares = np.bincount(got.indices % 5, minlength=5) / len(got.indices)
    weights = best_of_n_weights(rewards, 2)
    assert np.abs(shares - weights).max() < 5 * 0.5 / np.sqrt(len(got.indices))


@given(pools, st.integers(1, 4))
def test_weights_are_the_shares_of_subsets_won(rows, n):
    rows = [row for row in rows if len(row) >= n]
    rewards, groups = flat(rows)
    weights = best_of_n_weights(rewards, n, groups)
    for row, start in zip(rows, groups, strict=False):
        wins = np.zeros(len(row))
        subsets = list(itertools.combinations(range(len(row)), n))
        for subset in subsets:
            best = [i for i in subset if row[i] == max(row[j] for j in subset)]
            wins[best] += 1 / len(best)
        assert weights[start : start + len(row)] == pytest.approx(wins / len(subsets), abs=1e-14)


def mean_of_best(row, n):
    if n > len(row):
        return np.nan
    best = [max(subset) for subset in itertools.combinations(row, n)]
    return -np.inf if -np.inf in best else np.mean(best)


def mean_of_best_drawn_twice(row, n):
    """The expected best of n draws with replacement, from the distribution function at the different rewards."""
    values = np.unique(row)
    cdf = np.array([np.mean(np.array(row) <= value) for value in values]) ** n
    return np.diff(cdf, prepend=0.0) @ values


@given(pools)
def test_rewards_and_jackknife_equal_all_subsets(rows):
    rewards, groups = flat(rows)
    numbers = [2, 1, 3, 8]
    got = best_of_n_rewards(rewards, groups, numbers)
    assert got.n.tolist() == numbers
    for p, row in enumerate(rows):
        for k, n in enumerate(numbers):
            exact = mean_of_best(row, n)
            assert got.reward[p, k] == pytest.approx(exact, abs=1e-12, nan_ok=True)
            if not (n < len(row) and exact > -np.inf):
                assert np.isnan(got.stderr[p, k])
                continue
            without = [mean_of_best(row[:i] + row[i + 1 :], n) for i in range(len(row))]
            jackknife = np.sqrt((len(row) - 1) * np.var(without))
            if not np.isnan(got.stderr[p, k]):
                assert got.stderr[p, k] == pytest.approx(jackknife, abs=1e-6)
            moved = abs(mean_of_best_drawn_twice(row, n) - exact)
            if -np.inf not in row and abs(moved - 0.2 * jackknife) > 1e-9:
                assert np.isnan(got.stderr[p, k]) == (moved > 0.2 * jackknife)


@given(st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=9), st.integers(1, 9))
def test_rewards_are_the_weighted_means(row, n):
    if n <= len(row):
        mean = (best_of_n_weights(row, n) * row).sum()
        assert best_of_n_rewards(row, n=[n]).reward[0, 0] == pytest.approx(mean, abs=1e-12)


def test_the_expected_reward_is_unbiased_and_its_error_honest():
    """Over many pools the mean is the exact one, and the mean squared standard error is at least the variance."""
    prior, rewards = world(distinct=True)
    pools, size = 8000, 48
    drawn = np.random.default_rng(5).choice(len(prior), size=(pools, size), p=prior / prior.sum())
    got = best_of_n_rewards(rewards[drawn].ravel(), np.arange(pools + 1) * size)
    assert got.n.tolist() == [1, 2, 4, 8, 16, 32]
    for k, n in enumerate(got.n):
        exact = exact_law(prior, rewards, n) @ rewards
        spread = got.reward[:, k].std()
        assert abs(got.reward[:, k].mean() - exact) < 5 * spread / np.sqrt(pools)
        known = ~np.isnan(got.stderr[:, k])
        assert {1: known.all(), 2: known.all(), 32: not known.any()}.get(n, True)
        if known.all():
            # A standard deviation over 8000 pools has an error of 5 / sqrt(2 * 8000) = 4 %.
            ratio = np.sqrt((got.stderr[:, k] ** 2).mean()) / spread
            # The excess of the jackknife grows with n / size.
            assert 0.95 < ratio < 1.06, ratio


def binary(rng, size):
    return (rng.random(size) < 0.3) * 1.0


LAWS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "skewed": lambda rng, size: rng.exponential(size=size),
    "heavy": lambda rng, size: np.exp(rng.normal(size=size)),
    "capped": lambda rng, size: -rng.exponential(size=size),
    "binary": binary,
}


@pytest.mark.parametrize("law", LAWS)
def test_intervals_of_one_pool_hold_or_are_not_given(law):
    rng, size = np.random.default_rng(7), 64
    pools = [LAWS[law](rng, size) for _ in range(300)]
    many = LAWS[law](rng, (200_000, 32))
    for n in (1, 2, 4, 8, 16, 32):
        exact = many[:, :n].max(axis=1).mean()
        ends = np.array([best_of_n_interval(pool, n)[:2] for pool in pools])
        known = ~np.isnan(ends[:, 0])
        held = (ends[known, 0] <= exact) & (exact <= ends[known, 1])
        # Where an interval is given to some pools only, it holds in these nearly always.
        assert known.sum() == 0 or 0.91 <= held.mean() <= (0.99 if known.all() else 1.0), n
    assert known.sum() == 0
    assert best_of_n_interval(pools[0], 32).assumes == "no interval: of 64 samples a few decide which is the best of 32"
    no_errors = best_of_n_rewards(np.concatenate(pools), np.arange(301) * size, [32]).stderr
    assert np.isnan(no_errors).all()


def test_the_interval_of_one_is_that_of_the_mean():
    pool = np.random.default_rng(8).normal(size=30)
    got, mean = best_of_n_interval(pool, 1), confidence_interval(np.sort(pool), np.array([0, 30]))
    assert got[:2] == pytest.approx(mean[:2], rel=1e-12)
    assert got.assumes == mean.assumes


def test_large_pools_keep_their_digits():
    size = 100_000
    rewards = np.random.default_rng(6).permutation(size).astype(float)
    # E of the largest of n of 0 .. N - 1 without replacement is n (N + 1) / (n + 1) - 1.
    numbers = np.array([1, 7, 1000, 50_000, 100_000])
    got = best_of_n_rewards(rewards, n=numbers)
    assert got.reward[0] == pytest.approx(numbers * (size + 1) / (numbers + 1) - 1, rel=1e-12)
    assert best_of_n_weights(rewards, 1000).sum() == pytest.approx(1, abs=1e-12)


def test_sizes_that_differ_and_groups_without_samples():
    got = best_of_n_rewards([1.0, 4.0, 2.0], [0, 0, 1, 3], [1, 2])
    assert got.reward == pytest.approx(np.array([[np.nan] * 2, [1.0, np.nan], [3.0, 4.0]]), nan_ok=True)
    assert np.isnan(got.stderr).sum() == 5
    assert best_of_n_rewards([]).reward.shape == (1, 0)
    assert best_of_n([], 2, np.random.default_rng(0), [0]).indices.tolist() == []
    assert best_of_n_weights([], 2, [0]).tolist() == []
    constant = best_of_n_rewards([0.1] * 7, n=[3])
    assert (constant.reward[0, 0], constant.stderr[0, 0]) == (0.1, 0.0)


@pytest.mark.parametrize("n", [1, 2, 5, 40])
@pytest.mark.parametrize("distinct", [True, False])
def test_the_kl_does_not_exceed_the_bound(n, distinct):
    prior, rewards = world(distinct)
    law = exact_law(prior, rewards, n)
    # A law that is 0 adds nothing.
    exact = np.sum(law * np.log(np.where(law > 0, law, prior) / prior))
    assert -1e-12 <= exact <= best_of_n_kl_bound(n) + 1e-12
    if distinct:
        tight = law @ best_of_n_kl(np.log(prior), n)
        # It lies between, and where the winner is likely far below the bound.
        assert exact - 1e-12 <= tight <= best_of_n_kl_bound(n) + 1e-12
        assert n < 40 or tight - exact < (best_of_n_kl_bound(n) - exact) / 10


def exact_kl_term(log_e, n):
    with mpmath.workdps(600):
        e = mpmath.exp(mpmath.mpf(log_e))
        lost = (1 - e) ** n
        kept = lost * (mpmath.log(n) + (n - 1) * mpmath.log(1 - e) - mpmath.mpf(n - 1) / n)
        return float(kept + (1 - lost) * mpmath.log((1 - lost) / e))


@pytest.mark.parametrize("n", [1, 2, 3, 16, 1000, 10**6])
def test_kl_terms_equal_600_digits(n):
    log_e = [-1e-300, -1e-17, -1e-9, -1e-3, -0.5, -0.6931, -0.6932, -2.0, -13.8, -36.9, -100, -700, -745, -1000]
    exact = [exact_kl_term(x, n) for x in log_e]
    got = best_of_n_kl(log_e, n)
    assert got == pytest.approx(exact, abs=1e-14)
    assert got[-1] == pytest.approx(best_of_n_kl_bound(n), abs=1e-14)
    assert best_of_n_kl([0.0], n)[0] == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: best_of_n([0.0, np.nan], 1, rng), r"rewards\[1\] is nan"),
        (lambda rng: best_of_n([0.0, 1.0], 2, rng, [0, 1, 2]), "group 0 has 1 samples: the best of 2 needs"),
        (lambda rng: best_of_n([0.0], 0, rng), "n is 0: the best is taken of at least 1 sample"),
        (lambda rng: best_of_n([0.0], 1, rng, size=0), "size is 0"),
        (lambda _: best_of_n_weights([np.inf], 1), r"rewards\[0\] is inf"),
        (lambda _: best_of_n_weights([0.0], 2), "group 0 has 1 samples"),
        (lambda _: best_of_n_rewards([0.0], n=[1, 0]), r"n\[1\] is 0"),
        (lambda _: best_of_n_rewards([[0.0]]), "rewards has 2 dimensions"),
        (lambda _: best_of_n_rewards([0.0], [0, 2]), "groups ends at 2"),
        (lambda _: best_of_n_kl([-1.0, 0.5], 2), r"log_prior_of_winners\[1\] is 0.5"),
        (lambda _: best_of_n_kl([-np.inf], 2), r"log_prior_of_winners\[0\] is -inf"),
        (lambda _: best_of_n_kl([-1.0], 0), "n is 0"),
        (lambda _: best_of_n_kl_bound([2, 0]), "n is 0.0: the best is taken of at least 1"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0))


def test_numbers_that_are_not_integers():
    with pytest.raises(TypeError, match="n has dtype float64: it must be integers"):
        best_of_n_rewards([0.0, 1.0], n=[1.5])
