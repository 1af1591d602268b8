"""Rejection and quasi-rejection sampling against exact enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp

from esscher.inference.rejection import quasi_rejection, rejection
from esscher.lm.tabular import TabularLM
from strategies import groups_over, log_weight

BETA = 1.7


def world(seed, prompts, vocabulary, depth):
    """Log-prob of every completion of each prompt under a proposal, and its weight for a tilt of another prior."""
    rng = np.random.default_rng(seed)
    nodes = sum((vocabulary - 1) ** k for k in range(depth))
    logits = rng.normal(np.linspace(0.5, -0.5, vocabulary), 1.0, size=(prompts, nodes, vocabulary))
    proposal, prior = TabularLM(logits), TabularLM(logits + rng.normal(0.2, 0.5, size=logits.shape))
    every = proposal.completions()
    columns = [model.completions().policy_logprobs for model in (proposal, prior)]
    log_q, log_prior = (np.add.reduceat(rows.values, rows.offsets[:-1]) for rows in columns)
    rewards = rng.gamma(1.5, size=len(every)) - rng.exponential(size=len(every))
    # One in seven is ruled out.
    rewards[rng.random(len(every)) < 1 / 7] = -np.inf
    return log_q, log_prior + rewards / BETA, every.groups


LOG_Q, LOG_TARGET, GROUPS = world(3, prompts=2, vocabulary=3, depth=3)
LOG_W = LOG_TARGET - LOG_Q
P = len(GROUPS) - 1
GROUP_OF = np.repeat(np.arange(P), np.diff(GROUPS))


def per_prompt(values):
    return np.add.reduceat(values, GROUPS[:-1])


def law(log_bounds):
    """Exact law of the accepted samples, and the acceptance rate of each prompt."""
    kept = np.exp(LOG_Q + np.minimum(LOG_W - np.asarray(log_bounds)[GROUP_OF], 0))
    return kept / per_prompt(kept)[GROUP_OF], per_prompt(kept)


def draws(n, seed):
    """`n` draws of the proposal for each prompt: their indices into the enumeration, and their offsets."""
    rng = np.random.default_rng(seed)
    drawn = [
        rng.choice(np.arange(start, stop), n + p, p=np.exp(LOG_Q[start:stop]))
        for p, (start, stop) in enumerate(itertools.pairwise(GROUPS))
    ]
    return np.concatenate(drawn), np.cumsum([0, *map(len, drawn)])


MAX_W = np.maximum.reduceat(LOG_W, GROUPS[:-1])


@pytest.mark.parametrize("below", [0.0, 1.5, 4.0])
def test_the_law_of_what_is_accepted(below):
    bounds = MAX_W - below
    drawn, groups = draws(150_000, seed=4)
    got = rejection(LOG_TARGET[drawn], LOG_Q[drawn], bounds, np.random.default_rng(5), groups)
    exact, rate = law(bounds)
    counts = np.diff(got.groups)
    assert got.groups[-1] == len(got.accepted)
    shares = np.bincount(drawn[got.accepted], minlength=len(LOG_Q)) / counts[GROUP_OF]
    # With few expected counts a binomial has longer tails than a normal: Bernstein's term.
    spread = np.sqrt(exact * (1 - exact) / counts[GROUP_OF]) + 2 * (exact > 0) / counts[GROUP_OF]
    assert (np.abs(shares - exact) <= 5 * spread).all()
    sizes = np.diff(groups)
    # A variable between 0 and 1 varies no more than a coin with its mean, which the realised share is.
    error = np.sqrt(rate * (1 - rate) / sizes)
    assert (np.abs(got.acceptance_rate - rate) < 5 * error).all()
    assert (np.abs(counts / sizes - rate) < 5 * error).all()
    assert (got.exceeding == 0).all() == (below == 0)
    if below == 0:
        target = np.exp(LOG_TARGET) / per_prompt(np.exp(LOG_TARGET))[GROUP_OF]
        assert exact == pytest.approx(target, rel=1e-12)
        assert bounds + np.log(got.acceptance_rate) == pytest.approx(got.log_z, abs=1e-12)


def test_rates_and_log_z_of_given_samples():
    drawn, groups = draws(300, seed=6)
    got = rejection(LOG_TARGET[drawn], LOG_Q[drawn], 0.5, np.random.default_rng(5), groups)
    for p, (start, stop) in enumerate(itertools.pairwise(groups)):
        w = np.exp(LOG_W[drawn[start:stop]])
        assert got.acceptance_rate[p] == pytest.approx(np.minimum(1, w / np.exp(0.5)).mean(), rel=1e-13)
        assert got.log_z[p] == pytest.approx(np.log(w.mean()), rel=1e-13)
        assert got.exceeding[p] == (w > np.exp(0.5)).mean() > 0
        mine = got.accepted[got.groups[p] : got.groups[p + 1]]
        assert ((start <= mine) & (mine < stop)).all()
        assert np.isin(start + np.flatnonzero(w >= np.exp(0.5)), mine).all()
    assert (LOG_TARGET[drawn[got.accepted]] > -np.inf).all()


def repeated(copies):
    """An enumeration as samples: each completion as often as a proposal of `copies` equal parts would give it."""
    return np.repeat(np.arange(len(copies)), copies)


def test_the_trade_off_is_exact_on_an_enumerated_proposal():
    """With each item as often as its share of the proposal says, importance sampling makes no error."""
    rng = np.random.default_rng(7)
    copies, groups = rng.integers(1, 9, size=17), np.array([0, 5, 17])
    q = copies / np.add.reduceat(copies, groups[:-1])[np.repeat([0, 1], [5, 12])]
    target = q * rng.lognormal(0.3, 1.5, size=17) * (np.arange(17) != 6)
    items = repeated(copies)
    sample_groups = np.concatenate([[0], np.cumsum(np.add.reduceat(copies, groups[:-1]))])
    log_target = np.log(target, out=np.full(17, -np.inf), where=target > 0)
    log_bounds = np.array([3.0, -4.0, -0.5, 0.6, 1.0])
    got = quasi_rejection(log_target[items], np.log(q)[items], log_bounds, sample_groups)
    for b, log_bound in enumerate(log_bounds):
        for p, span in enumerate((slice(0, 5), slice(5, 17))):
            kept = np.minimum(target[span], np.exp(log_bound) * q[span])
            p_star, p_b = target[span] / target[span].sum(), kept / kept.sum()
            some = p_star > 0
            assert got.acceptance_rate[b, p] == pytest.approx(kept.sum() / np.exp(log_bound), rel=1e-12)
            kl = (p_star[some] * np.log(p_star[some] / p_b[some])).sum()
            assert got.kl[b, p] == pytest.approx(kl, abs=1e-13)
            assert got.total_variation[b, p] == pytest.approx(np.abs(p_star - p_b).sum() / 2, abs=1e-13)
    order = np.argsort(log_bounds)
    assert (np.diff(got.acceptance_rate[order], axis=0) < 0).all()
    assert (np.diff(got.kl[order], axis=0) <= 0).all()
    assert np.array_equal(got.log_bounds, log_bounds)


@pytest.mark.parametrize("log_bound", [-1.0, 0.0, 0.6])
def test_the_trade_off_converges_to_the_laws(log_bound):
    """Estimates from samples lie within five standard errors, by their exact influence functions, of enumeration."""
    n = 100_000
    drawn, groups = draws(n, seed=8)
    got = quasi_rejection(LOG_TARGET[drawn], LOG_Q[drawn], [log_bound], groups)
    for p, (start, stop) in enumerate(itertools.pairwise(GROUPS)):
        q, w = np.exp(LOG_Q[start:stop]), np.exp(LOG_W[start:stop])
        m = np.minimum(w, np.exp(log_bound))
        z, z_b = q @ w, q @ m
        w, m, over = w / z, m / z_b, np.log(np.maximum(w / np.exp(log_bound), 1))
        sign = np.sign(w - m) / 2
        kl = q @ (w * over) + np.log(z_b / z)
        influences = {
            "acceptance_rate": (z_b / np.exp(log_bound), m * z_b / np.exp(log_bound)),
            "kl": (kl, w * over - w * (q @ (w * over)) + m - w),
            "total_variation": (
                q @ (sign * (w - m)),
                sign * (w - m) - w * (q @ (sign * w)) + m * (q @ (sign * m)),
            ),
        }
        for name, (exact, influence) in influences.items():
            error = np.sqrt((q @ influence**2 - (q @ influence) ** 2) / n)
            assert abs(getattr(got, name)[0, p] - exact) < 5 * error, name
            assert 0 < error < 0.02, name


@given(st.data())
def test_the_formula_in_log_space(data):
    """The distances equal the formula of the paper, whatever the weights and the bounds."""
    log_w = np.array(data.draw(st.lists(log_weight, max_size=12)))
    groups = data.draw(groups_over(len(log_w)))
    log_bounds = data.draw(st.lists(st.sampled_from([-1e5, -800.0, -3.0, 0.1, 2.0, 900.0, 1e5]), max_size=3))
    got = quasi_rejection(log_w, np.zeros(len(log_w)), log_bounds, groups)
    for b, log_bound in enumerate(log_bounds):
        for p, (start, stop) in enumerate(itertools.pairwise(groups)):
            w = log_w[start:stop]
            if np.all(w == -np.inf):
                assert got.acceptance_rate[b, p] == 0
                assert np.isnan(got.kl[b, p])
                assert np.isnan(got.total_variation[b, p])
                continue
            m = np.minimum(w, log_bound)
            p_star, p_b = np.exp(w - logsumexp(w)), np.exp(m - logsumexp(m))
            over = np.where(w > log_bound, w - log_bound, 0.0)
            kl = (p_star * over).sum() + logsumexp(m) - logsumexp(w)
            # The formula's own: it multiplies a weight of so large a log with as large a log.
            span = np.abs(log_bound) + np.abs(w[w > -np.inf]).max()
            rounding = 1e-15 * span * (1 + span) + 1e-12
            assert got.kl[b, p] == pytest.approx(kl, abs=rounding)
            assert got.total_variation[b, p] == pytest.approx(np.abs(p_star - p_b).sum() / 2, abs=rounding)
            rate = np.exp(m - log_bound).mean()
            assert got.acceptance_rate[b, p] == pytest.approx(rate, rel=1e-9, abs=1e-300)


@given(st.data())
def test_rejection_has_no_failures_by_accident(data):
    log_w = np.array(data.draw(st.lists(log_weight, max_size=12)))
    groups = data.draw(groups_over(len(log_w)))
    bound = data.draw(st.sampled_from([-1e5, 0.0, 1e5]))
    got = rejection(log_w, np.zeros(len(log_w)), bound, np.random.default_rng(0), groups)
    assert not np.isnan([*got.acceptance_rate, *got.log_z, *got.exceeding]).any()
    assert (log_w[got.accepted] > -np.inf).all()
    assert np.isin(np.flatnonzero(log_w >= bound), got.accepted).all()
    for p, (start, stop) in enumerate(itertools.pairwise(groups)):
        if np.all(log_w[start:stop] == -np.inf):
            assert (got.acceptance_rate[p], got.log_z[p], got.exceeding[p]) == (0, -np.inf, 0)
            assert got.groups[p] == got.groups[p + 1]


def test_bounds_by_group_equal_groups_alone():
    drawn, groups = draws(50, seed=9)
    both = rejection(LOG_TARGET[drawn], LOG_Q[drawn], [0.3, 1.1], np.random.default_rng(2), groups)
    first = rejection(LOG_TARGET[drawn][: groups[1]], LOG_Q[drawn][: groups[1]], 0.3, np.random.default_rng(2))
    assert np.array_equal(both.accepted[: both.groups[1]], first.accepted)
    assert both.acceptance_rate[0] == first.acceptance_rate[0]


@pytest.mark.parametrize(
    ("log_target", "log_proposal", "log_bound", "message"),
    [
        ([np.nan], [0.0], 0.0, r"log_target\[0\] is NaN"),
        ([0.0], [-np.inf], 0.0, r"log_proposal\[0\] is -inf"),
        ([0.0, 0.0], [0.0], 0.0, "log_proposal has 1 entries, log_target has 2"),
        ([0.0], [0.0], np.inf, r"log_bound\[0\] is inf: a bound is finite"),
        ([0.0], [0.0], [0.0, 1.0], r"log_bound has shape \(2,\): it is one number, or one for each of 1 groups"),
    ],
)
def test_bad_arguments(log_target, log_proposal, log_bound, message):
    with pytest.raises(ValueError, match=message):
        rejection(log_target, log_proposal, log_bound, np.random.default_rng(0))


def test_bad_bounds():
    with pytest.raises(ValueError, match=r"log_bounds\[1\] is nan: a bound is finite"):
        quasi_rejection([0.0], [0.0], [0.0, np.nan])
