"""Training objectives: their gradients against finite differences of the exact objectives, by enumeration."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esscher import sequence_logprobs
from esscher.inference.f_divergences import FDivergence
from esscher.inference.objectives import dpg, f_dpg, kl_rl, plain_rl
from esscher.lm.tabular import TabularLM

DIVERGENCES = get_args(FDivergence)
BETA = 0.8
# Two prompts, three tokens, at most two of them in a completion: seven completions a prompt.
SHAPE = (2, 3, 3)


def log_probs(logits):
    model = TabularLM(logits)
    return sequence_logprobs(model.completions().policy_logprobs)


def draw_world():
    rng = np.random.default_rng(11)
    prior = rng.normal(np.linspace(0.4, -0.5, 3), 1.0, size=SHAPE)
    policy = prior + rng.normal(0.1, 0.6, size=SHAPE)
    n = len(log_probs(prior))
    return prior, policy, rng.gamma(1.5, size=n) - rng.exponential(size=n)


PRIOR_LOGITS, POLICY_LOGITS, REWARDS = draw_world()
GROUPS = TabularLM(POLICY_LOGITS).completions().groups
GROUP_OF = TabularLM(POLICY_LOGITS).completions().groups.of
LOG_PRIOR, LOG_POLICY = log_probs(PRIOR_LOGITS), log_probs(POLICY_LOGITS)
POLICY = np.exp(LOG_POLICY)
LOG_TARGET = LOG_PRIOR + REWARDS / BETA
LOG_Z = np.log(np.add.reduceat(np.exp(LOG_TARGET), GROUPS[:-1]))
LOG_POSTERIOR = LOG_TARGET - LOG_Z[GROUP_OF]
POSTERIOR = np.exp(LOG_POSTERIOR)
N, P = len(LOG_POLICY), len(LOG_Z)
# Groups of one completion: no baseline, so the coefficient is the pseudo-reward itself.
ALONE = np.arange(N + 1)


def derivative(function, step=1e-5):
    """Central differences with respect to every logit of the policy, [..., parameters]."""
    columns = []
    for index in np.ndindex(SHAPE):
        up, down = POLICY_LOGITS.copy(), POLICY_LOGITS.copy()
        up[index] += step
        down[index] -= step
        columns.append((function(up) - function(down)) / (2 * step))
    return np.stack(columns, axis=-1)


GRAD_LOG_POLICY = derivative(log_probs)


def exact_f(t, name):
    """The generators as the textbooks have them."""
    return {
        "forward-kl": -np.log(t),
        "reverse-kl": t * np.log(t),
        "tv": np.abs(t - 1) / 2,
        "js": t * np.log(2 * t / (1 + t)) + np.log(2 / (1 + t)),
        "forward-chi2": 1 / t - 1,
        "reverse-chi2": (t - 1) ** 2,
    }[name]


def exact_divergence(log_policy, name):
    """Sum over prompts of D_f."""
    return (POSTERIOR * exact_f(np.exp(log_policy - LOG_POSTERIOR), name)).sum()


EXACT = {
    "plain": lambda lp: (np.exp(lp) * REWARDS).sum(),
    "kl": lambda lp: (np.exp(lp) * (REWARDS - BETA * (lp - LOG_PRIOR))).sum(),
    "dpg": lambda lp: -exact_divergence(lp, "forward-kl"),
    **{name: lambda lp, name=name: -exact_divergence(lp, name) for name in DIVERGENCES},
}


def objective(name, chosen, groups, log_policy=LOG_POLICY):
    """An objective on chosen completions, whose groups lie each within a prompt."""
    policy, target = log_policy[chosen], LOG_TARGET[chosen]
    log_z = LOG_Z[GROUP_OF[chosen][groups[:-1]]]
    match name:
        case "plain":
            return plain_rl(REWARDS[chosen], groups)
        case "kl":
            return kl_rl(REWARDS[chosen], policy, LOG_PRIOR[chosen], BETA, groups)
        case "dpg":
            return dpg(target, policy, log_z=log_z, groups=groups)
    return f_dpg(target, policy, log_z, name, groups)


def pairs():
    """All ordered pairs of completions of a prompt, flat, and their probability under the policy."""
    chosen = [(i, j) for i in range(N) for j in range(N) if GROUP_OF[i] == GROUP_OF[j]]
    chosen = np.array(chosen)
    return chosen.ravel(), POLICY[chosen].prod(axis=1)


PAIRS, PAIR_PROBABILITY = pairs()
PAIR_GROUPS = np.arange(0, len(PAIRS) + 1, 2)


def gradient_over_pairs(coefficients):
    products = (coefficients[:, None] * GRAD_LOG_POLICY[PAIRS]).reshape(-1, 2, GRAD_LOG_POLICY.shape[1])
    return PAIR_PROBABILITY @ products.mean(axis=1)


@pytest.mark.parametrize("name", EXACT)
def test_the_expected_gradient_is_the_finite_difference_of_the_exact_objective(name):
    exact = derivative(lambda logits: EXACT[name](log_probs(logits)))
    got = (POLICY * objective(name, np.arange(N), ALONE).coefficients) @ GRAD_LOG_POLICY
    assert np.abs(exact).max() > 0.01
    np.testing.assert_allclose(got, exact, atol=1e-6)


@pytest.mark.parametrize("name", EXACT)
def test_leave_one_out_keeps_the_expected_gradient(name):
    without = (POLICY * objective(name, np.arange(N), ALONE).coefficients) @ GRAD_LOG_POLICY
    together = gradient_over_pairs(objective(name, PAIRS, PAIR_GROUPS).coefficients)
    np.testing.assert_allclose(together, without, atol=1e-10)


def test_the_baseline_lowers_the_variance_and_takes_a_shift_away():
    """Of the mean gradient of a pair, exactly: its second moment, as its mean is the same with a baseline."""
    shift = 2 * REWARDS.std()
    no_baseline = np.arange(len(PAIRS) + 1)
    for call in (
        lambda rewards, groups: plain_rl(rewards[PAIRS], groups),
        lambda rewards, groups: kl_rl(rewards[PAIRS], LOG_POLICY[PAIRS], LOG_PRIOR[PAIRS], BETA, groups),
    ):
        shifted, centred = call(REWARDS + shift, PAIR_GROUPS), call(REWARDS, PAIR_GROUPS)
        np.testing.assert_allclose(shifted.coefficients, centred.coefficients, atol=1e-12)
        assert noise(shifted) < 0.7 * noise(call(REWARDS + shift, no_baseline))
    assert noise(objective("forward-kl", PAIRS, PAIR_GROUPS)) < 0.9 * noise(objective("forward-kl", PAIRS, no_baseline))


def noise(got):
    products = (got.coefficients[:, None] * GRAD_LOG_POLICY[PAIRS]).reshape(-1, 2, GRAD_LOG_POLICY.shape[1])
    return PAIR_PROBABILITY @ (products.mean(axis=1) ** 2).sum(axis=1)


def test_the_baseline_of_dpg_lowers_the_variance():
    coefficients = dpg(LOG_TARGET, LOG_POLICY, log_z=LOG_Z, groups=GROUPS).coefficients
    squares = POLICY * (GRAD_LOG_POLICY**2).sum(axis=1)
    assert squares @ coefficients**2 < 0.9 * squares @ np.exp(LOG_POSTERIOR - LOG_POLICY) ** 2


@pytest.mark.parametrize("name", sorted(EXACT.keys() - {"plain"}))
def test_every_coefficient_vanishes_at_the_target(name):
    got = objective(name, PAIRS, PAIR_GROUPS, log_policy=LOG_POSTERIOR)
    # The total variation has a kink there: rounding decides the sign of a gradient that is 0 in expectation.
    if name != "tv":
        np.testing.assert_allclose(got.coefficients, 0, atol=1e-12)
    away = objective(name, PAIRS, PAIR_GROUPS).coefficients
    assert np.abs(away).max() > 0.1


@pytest.mark.parametrize("name", EXACT)
def test_the_value_is_the_exact_objective_in_expectation(name):
    # The mean over N groups of one, each weighted by its probability: one completion at a time.
    values = [objective(name, np.array([i]), np.array([0, 1])).value for i in range(N)]
    assert POLICY @ values == pytest.approx(EXACT[name](LOG_POLICY), abs=1e-12)
    if name not in ("plain", "kl"):
        assert max(values) <= 1e-15
    together = objective(name, np.arange(N), ALONE)
    assert together.value == pytest.approx(np.mean(values), abs=1e-12)


def test_kl_rl_is_beta_times_reverse_kl_dpg():
    got = kl_rl(REWARDS, LOG_POLICY, LOG_PRIOR, BETA, GROUPS)
    other = f_dpg(LOG_TARGET, LOG_POLICY, LOG_Z, "reverse-kl", GROUPS)
    np.testing.assert_allclose(got.coefficients, BETA * other.coefficients, atol=1e-12)


def test_dpg_off_policy_has_the_same_gradient_and_value():
    proposal = np.exp(LOG_PRIOR)
    got = dpg(LOG_TARGET, LOG_POLICY, LOG_PRIOR, LOG_Z[GROUP_OF], ALONE)
    exact = derivative(lambda logits: EXACT["dpg"](log_probs(logits)))
    np.testing.assert_allclose((proposal * got.coefficients) @ GRAD_LOG_POLICY, exact, atol=1e-6)
    values = [dpg(*([column[i]] for column in (LOG_TARGET, LOG_POLICY, LOG_PRIOR, LOG_Z[GROUP_OF]))) for i in range(N)]
    assert proposal @ [v.value for v in values] == pytest.approx(EXACT["dpg"](LOG_POLICY), abs=1e-12)


def test_dpg_estimates_z_from_the_same_completions():
    """Weights of a group then have mean 1, so that its coefficients sum to 0 on policy; groups of two sizes."""
    groups = [0, 3, 7, N]
    got = dpg(LOG_TARGET, LOG_POLICY, groups=groups)
    np.testing.assert_allclose(np.add.reduceat(got.coefficients, groups[:-1]), 0, atol=1e-12)
    weights = np.exp(LOG_TARGET - LOG_POLICY)[:3]
    np.testing.assert_allclose(got.coefficients[:3], weights / weights.mean() - 1, atol=1e-12)


def test_dpg_bears_completions_and_prompts_without_weight():
    got = dpg([-1.0, -np.inf, -np.inf, -np.inf], [-1.0, -1.0, -2.0, -3.0], groups=[0, 2, 4])
    np.testing.assert_allclose(got.coefficients, [1, -1, 0, 0], atol=1e-12)
    assert got.value == pytest.approx(-np.log(2))
    nothing = dpg([-np.inf, -np.inf], [-1.0, -2.0])
    assert nothing.value == -np.inf
    assert (nothing.coefficients == 0).all()
    known = dpg([-1.0, -np.inf], [-1.0, -1.0], log_z=np.log(0.5))
    np.testing.assert_allclose(known.coefficients, [1, -1], atol=1e-12)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_f_dpg_bears_excluded_completions_where_the_divergence_does(name):
    """The limit of an ever less likely completion is what -inf gives."""
    policy = [np.log(0.5), np.log(0.5)]
    if name.startswith("reverse"):
        with pytest.raises(ValueError, match=rf"log_target\[1\] is -inf, and {name} infinite"):
            f_dpg([0.0, -np.inf], policy, 0.0, name)
        return
    excluded, unlikely = f_dpg([0.0, -np.inf], policy, 0.0, name), f_dpg([0.0, -60.0], policy, 0.0, name)
    np.testing.assert_allclose(excluded.coefficients, unlikely.coefficients, atol=1e-12)
    assert excluded.value == pytest.approx(unlikely.value, abs=1e-12)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=12), st.data())
def test_the_baseline_is_the_mean_of_the_others(rewards, data):
    cut = data.draw(st.integers(0, len(rewards)))
    got = plain_rl(rewards, [0, cut, len(rewards)]).coefficients
    for start, end in ((0, cut), (cut, len(rewards))):
        for i in range(start, end):
            others = rewards[start:i] + rewards[i + 1 : end]
            assert got[i] == pytest.approx(rewards[i] - (np.mean(others) if others else 0), abs=1e-11)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plain_rl([]), "rewards is empty"),
        (lambda: plain_rl([1.0, -np.inf]), r"rewards\[1\] is -inf.*dpg"),
        (lambda: plain_rl([np.nan]), r"rewards\[0\] is nan"),
        (lambda: plain_rl([1.0], [0, 2]), "groups ends at 2"),
        (lambda: kl_rl([1.0], [-1.0, -2.0], [-1.0], 1.0), "log_policy has 2 entries for 1"),
        (lambda: kl_rl([1.0], [-1.0], [-np.inf], 1.0), r"log_prior\[0\] is -inf"),
        (lambda: kl_rl([1.0], [-np.inf], [-1.0], 1.0), r"log_policy\[0\] is -inf"),
        (lambda: kl_rl([1.0], [-1.0], [-1.0], 0.0), "beta is 0"),
        (lambda: dpg([np.nan], [-1.0]), r"log_target\[0\] is nan"),
        (lambda: dpg([np.inf], [-1.0]), r"log_target\[0\] is inf"),
        (lambda: dpg([-1.0], [-1.0], [-np.inf]), r"log_proposal\[0\] is -inf"),
        (lambda: dpg([-1.0], [-1.0], log_z=-np.inf), r"log_z\[0\] is -inf"),
        (lambda: dpg([-1.0], [-1.0], log_z=[0.0, 0.0]), "log_z has 2 entries"),
        (lambda: dpg([-1.0], [-1.0], log_z=-1000.0), "coefficient 0 overflows"),
        (lambda: f_dpg([1000.0, 0.0], [-1.0, -1.0], 0.0, "forward-kl"), "coefficient 0 overflows"),
        (lambda: f_dpg([-1.0], [-1.0], 0.0, "hellinger"), "divergence is 'hellinger'"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
