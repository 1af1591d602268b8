"""The laws of the posterior, by enumerating every completion of a tabular language model."""

from __future__ import annotations

import math

import numpy as np
import pytest

from esscher import (
    Condition,
    Moments,
    Ragged,
    Samples,
    Tilt,
    concatenate,
    evaluate,
    importance,
    kl,
    resample,
    sequence_logprobs,
)
from esscher.evaluate.posterior import assess
from esscher.lm.tabular import TabularLM

BETAS = (0.1, 0.7, 3.0)


def world(seed, prompts=3, vocabulary=4, depth=3):
    """Every completion of each prompt, with exact log-probs under a prior and a policy, and random rewards."""
    rng = np.random.default_rng(seed)
    nodes = sum((vocabulary - 1) ** k for k in range(depth))
    logits = rng.normal(np.linspace(0.5, -0.5, vocabulary), 1.0, size=(prompts, nodes, vocabulary))
    prior, policy = TabularLM(logits), TabularLM(logits + rng.normal(0.2, 0.5, size=logits.shape))
    every = policy.completions()
    return Samples(
        prompts=every.prompts,
        completions=every.completions,
        groups=every.groups,
        policy_logprobs=every.policy_logprobs,
        prior_logprobs=prior.logprobs(every.prompts, every.completions, every.groups),
        rewards=rng.gamma(1.5, size=len(every)) - rng.exponential(size=len(every)),
        terminated=every.terminated,
    )


# Prompts with 80 and 40 completions, in one set of samples of unequal groups.
WORLD = concatenate([world(1), world(2, prompts=2, vocabulary=3, depth=4)])
LOG_PRIOR = sequence_logprobs(WORLD.prior_logprobs)
LOG_POLICY = sequence_logprobs(WORLD.policy_logprobs)
PRIOR, POLICY = np.exp(LOG_PRIOR), np.exp(LOG_POLICY)


def per_prompt(values):
    return np.add.reduceat(values, WORLD.groups[:-1])


def posterior(beta, rewards=None):
    """Exact target and log Z of every prompt, by our kernel: a uniform proposal over an enumerated set is exact."""
    rewards = WORLD.rewards if rewards is None else rewards
    sizes = np.diff(WORLD.groups)[WORLD.groups.of]
    weights = importance(LOG_PRIOR + Tilt(beta).log_potential(rewards), -np.log(sizes), WORLD.groups)
    return np.exp(weights.log_weights), weights.log_z


def test_the_enumeration_is_whole():
    assert per_prompt(PRIOR) == pytest.approx(np.ones(5), abs=1e-12)
    assert per_prompt(POLICY) == pytest.approx(np.ones(5), abs=1e-12)
    assert len(set(np.diff(WORLD.groups))) == 2


@pytest.mark.parametrize("beta", BETAS)
def test_the_target_is_prior_times_exp_reward_over_beta_over_z(beta):
    target, log_z = posterior(beta)
    unnormalised = PRIOR * np.exp(WORLD.rewards / beta)
    assert np.exp(log_z) == pytest.approx(per_prompt(unnormalised), rel=1e-12)
    assert target == pytest.approx(unnormalised / per_prompt(unnormalised)[WORLD.groups.of], rel=1e-12)


@pytest.mark.parametrize("beta", BETAS)
def test_j_is_beta_log_z_minus_beta_kl_to_the_target(beta):
    target, log_z = posterior(beta)
    j = per_prompt(POLICY * (WORLD.rewards - beta * (LOG_POLICY - LOG_PRIOR)))
    gap = per_prompt(POLICY * (LOG_POLICY - np.log(target)))
    assert j == pytest.approx(beta * log_z - beta * gap, abs=1e-10)
    assert (j < beta * log_z).all()


@pytest.mark.parametrize("beta", BETAS)
def test_the_target_attains_the_bound(beta):
    target, log_z = posterior(beta)
    kl_to_prior = per_prompt(target * (np.log(target) - LOG_PRIOR))
    assert per_prompt(target * WORLD.rewards) - beta * kl_to_prior == pytest.approx(beta * log_z, abs=1e-10)
    assert kl_to_prior == pytest.approx(per_prompt(target * WORLD.rewards) / beta - log_z, abs=1e-10)


@pytest.mark.parametrize("beta", BETAS)
def test_the_gain_in_reward_is_beta_times_both_kls_and_a_covariance_under_the_prior(beta):
    target, _ = posterior(beta)
    gain = per_prompt((target - PRIOR) * WORLD.rewards)
    forward, backward = per_prompt(target * np.log(target / PRIOR)), per_prompt(PRIOR * np.log(PRIOR / target))
    assert gain == pytest.approx(beta * (forward + backward), abs=1e-10)
    assert (np.abs(forward - backward) > 1e-4).all()
    means = per_prompt(PRIOR * WORLD.rewards)[WORLD.groups.of]
    assert gain == pytest.approx(per_prompt(PRIOR * (target / PRIOR - 1) * (WORLD.rewards - means)), abs=1e-10)


@pytest.mark.parametrize("beta", BETAS)
def test_a_constant_reward_shifts_log_z(beta):
    shifted_target, shifted = posterior(beta, WORLD.rewards + 2.5)
    target, log_z = posterior(beta)
    assert shifted == pytest.approx(log_z + 2.5 / beta, abs=1e-10)
    assert shifted_target == pytest.approx(target, rel=1e-10)


@pytest.mark.parametrize("beta", BETAS)
def test_the_derivative_of_log_z_is_the_targets_reward(beta):
    target, _ = posterior(beta)
    step = 1e-5
    up, down = posterior(1 / (1 / beta + step))[1], posterior(1 / (1 / beta - step))[1]
    assert (up - down) / (2 * step) == pytest.approx(per_prompt(target * WORLD.rewards), abs=1e-7)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_k1_and_k3_are_unbiased_and_k2_and_abs_are_not(level):
    exact = per_prompt(POLICY * (LOG_POLICY - LOG_PRIOR))
    means = {
        name: per_prompt(POLICY * kl(WORLD.policy_logprobs, WORLD.prior_logprobs, name, level=level))
        for name in ("k1", "k2", "k3", "abs")
    }
    assert means["k1"] == pytest.approx(exact, abs=1e-12)
    assert means["k3"] == pytest.approx(exact, abs=1e-12)
    assert np.abs(means["k2"] - exact).min() > 1e-3
    assert np.abs(means["abs"] - exact).min() > 1e-3


def test_conditioning_gives_the_pass_rate_and_keeps_ratios():
    target = Condition(threshold=0.3)
    sizes = np.diff(WORLD.groups)[WORLD.groups.of]
    got = importance(LOG_PRIOR + target.log_potential(WORLD.rewards), -np.log(sizes), WORLD.groups)
    passes = WORLD.rewards >= 0.3
    assert np.exp(got.log_z) == pytest.approx(per_prompt(PRIOR * passes), rel=1e-12)
    assert np.exp(got.log_weights)[passes] == pytest.approx(
        (PRIOR / per_prompt(PRIOR * passes)[WORLD.groups.of])[passes], rel=1e-12
    )
    assert (got.log_weights[~passes] == -np.inf).all()


def draw(log_probs, n, seed):
    """`n` completions of every prompt, drawn from the enumerated world with the given log-probs."""
    rng = np.random.default_rng(seed)
    drawn = resample(log_probs, n, rng, scheme="multinomial", groups=WORLD.groups)
    return Samples(
        prompts=WORLD.prompts,
        completions=WORLD.completions.take(drawn),
        groups=np.arange(len(WORLD.prompts) + 1) * n,
        policy_logprobs=WORLD.policy_logprobs.take(drawn),
        prior_logprobs=WORLD.prior_logprobs.take(drawn),
        rewards=WORLD.rewards[drawn],
    )


BETA = 1.5
TARGET, LOG_Z = posterior(BETA)
EXACT = {
    "reward": per_prompt(POLICY * WORLD.rewards).mean(),
    "k1": per_prompt(POLICY * (LOG_POLICY - LOG_PRIOR)).mean(),
    "log_z": LOG_Z.mean(),
    "target_reward": per_prompt(TARGET * WORLD.rewards).mean(),
    "inference_gap": per_prompt(POLICY * (LOG_POLICY - np.log(TARGET))).mean(),
    "forward_kl": per_prompt(TARGET * (np.log(TARGET) - LOG_POLICY)).mean(),
    "elbo": per_prompt(POLICY * (WORLD.rewards / BETA + LOG_PRIOR - LOG_POLICY)).mean(),
    "eubo": per_prompt(TARGET * (WORLD.rewards / BETA + LOG_PRIOR - LOG_POLICY)).mean(),
    "objective": per_prompt(POLICY * (WORLD.rewards - BETA * (LOG_POLICY - LOG_PRIOR))).mean(),
}


def estimates(report):
    found = {
        "reward": report.reward,
        "k1": report.kl["k1"][:2] if report.kl else None,
        "log_z": report.target.log_z,
        "target_reward": report.target.reward,
        "inference_gap": report.target.inference_gap,
        "forward_kl": None if report.target.forward_kl is None else report.target.forward_kl[:2],
        "elbo": report.target.elbo,
        "eubo": report.target.eubo,
        "objective": report.target.objective,
    }
    return {name: value for name, value in found.items() if value is not None}


def test_evaluate_converges_to_the_exact_values_from_the_policys_samples():
    report = evaluate(draw(LOG_POLICY, 100_000, seed=5), Tilt(BETA))
    for name, (value, _) in estimates(report).items():
        # Prompts are fixed here, so their spread in the standard error is not the error: a plain bound is.
        assert value == pytest.approx(EXACT[name], abs=0.02), name


def test_evaluate_converges_to_the_exact_values_from_the_priors_samples():
    report = evaluate(draw(LOG_PRIOR, 100_000, seed=6), Tilt(BETA), proposal="prior")
    assert report.target.log_z.value == pytest.approx(EXACT["log_z"], abs=0.02)
    assert report.target.reward.value == pytest.approx(EXACT["target_reward"], abs=0.02)
    assert report.target.elbo is report.target.eubo is report.target.inference_gap is report.target.objective is None
    assert report.target.inference_gap_interval is report.target.forward_kl is None
    assert report.excess_collapse == ()
    assert report.kl == {}


def test_standard_errors_of_one_prompt_are_calibrated():
    """Over many repetitions, errors divided by their standard errors have the spread of a standard normal."""
    single = [draw_one(seed) for seed in range(400)]
    exact = exact_of_one()
    for name in exact:
        scores = [(found[name][0] - exact[name]) / found[name][1] for found in single]
        # The standard deviation of 400 normals lies within 5 / sqrt(2 * 400) of 1.
        assert np.std(scores) == pytest.approx(1.0, abs=0.18), name
        assert abs(np.mean(scores)) < 5 / np.sqrt(400) + 0.1, name


def draw_one(seed, n=1000):
    rng = np.random.default_rng(seed)
    size = WORLD.groups[1]
    drawn = resample(LOG_POLICY[:size], n, rng, scheme="multinomial")
    samples = Samples(
        prompts=Ragged.from_rows([[0]]),
        completions=WORLD.completions.take(drawn),
        groups=[0, n],
        policy_logprobs=WORLD.policy_logprobs.take(drawn),
        prior_logprobs=WORLD.prior_logprobs.take(drawn),
        rewards=WORLD.rewards[drawn],
    )
    return estimates(evaluate(samples, Tilt(BETA)))


def exact_of_one():
    first = WORLD.groups.of == 0
    return {
        "reward": (POLICY * WORLD.rewards)[first].sum(),
        "k1": (POLICY * (LOG_POLICY - LOG_PRIOR))[first].sum(),
        "log_z": LOG_Z[0],
        "target_reward": (TARGET * WORLD.rewards)[first].sum(),
        "inference_gap": (POLICY * (LOG_POLICY - np.log(TARGET)))[first].sum(),
        "forward_kl": (TARGET * (np.log(TARGET) - LOG_POLICY))[first].sum(),
        "eubo": (TARGET * (WORLD.rewards / BETA + LOG_PRIOR - LOG_POLICY))[first].sum(),
    }


def expected_errors(n, chance=0.3):
    """Exact bias of what is estimated from n completions of one prompt that can have two, over all counts of them."""
    prior, log_potential = np.log([0.6, 0.4]), np.array([0.2, 1.1])
    policy = np.log([1 - chance, chance])
    log_z = np.log(np.exp(prior + log_potential).sum())
    target = np.exp(prior + log_potential - log_z)
    exact = [log_z, target @ log_potential, target @ (np.log(target) - policy)]
    biases = np.zeros(3)
    for k in range(n + 1):
        drawn = np.arange(n) >= n - k
        samples = Samples(
            prompts=Ragged.from_rows([[0]]),
            completions=Ragged.from_rows([[int(i)] for i in drawn]),
            groups=[0, n],
            policy_logprobs=Ragged.from_rows([[policy[int(i)]] for i in drawn]),
            prior_logprobs=Ragged.from_rows([[prior[int(i)]] for i in drawn]),
            rewards=log_potential[drawn.astype(int)],
        )
        found, _ = assess(samples, Tilt(1.0))
        values = [found.log_z.value, found.reward.value, found.forward_kl.value]
        biases += math.comb(n, k) * chance**k * (1 - chance) ** (n - k) * (np.array(values) - exact)
    return biases


def test_estimates_have_no_bias_of_order_one_over_n():
    """Of the order 1 / n^2, it falls by four where n doubles, and not by two; it is tiny, and the errors are not."""
    some, more = expected_errors(24), expected_errors(48)
    assert (np.abs(some / more) > 3.3).all()
    assert (np.abs(more) < 1e-3).all()
    assert (np.abs(more) > 1e-7).all()


def test_the_expected_z_hat_is_z():
    """Over 4000 draws of 20 completions the mean of Z hat is Z, within five standard errors."""
    z_hats = []
    for seed in range(40):
        samples = draw(LOG_POLICY, 2000, seed)
        log_ratio = sequence_logprobs(samples.prior_logprobs) - sequence_logprobs(samples.policy_logprobs)
        groups = np.arange(0, len(samples) + 1, 20)
        z_hats.append(np.exp(importance(samples.rewards / BETA + log_ratio, np.zeros(len(samples)), groups).log_z))
    z_hats = np.array(z_hats).reshape(40, 5, 100).transpose(1, 0, 2).reshape(5, -1)
    errors = z_hats.std(axis=1) / np.sqrt(z_hats.shape[1])
    assert (np.abs(z_hats.mean(axis=1) - np.exp(LOG_Z)) < 5 * errors).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [2, 8])
def test_j_never_exceeds_its_bound_on_the_same_samples(seed, n):
    report = evaluate(draw(LOG_POLICY, n, seed), Tilt(BETA)).target
    assert report.objective.value <= report.objective_bound.value + 1e-12
    assert report.inference_gap.value >= -1e-12
    assert report.inference_gap.value == pytest.approx(report.log_z.value - report.elbo.value, abs=1e-12)
    assert report.forward_kl.value == pytest.approx(report.eubo.value - report.log_z.value, abs=1e-12)


def test_excess_collapse_is_what_the_policy_lost_beyond_the_target():
    """Of two completions of a prompt, against the exact share of different 2-grams in two draws."""
    samples = draw(LOG_POLICY, 4000, seed=8)
    report = evaluate(samples, Tilt(BETA))
    (excess,) = (d for d in report.excess_collapse if d.metric == "distinct-2 of 2")
    asked = draw(np.log(TARGET), 4000, seed=9)
    plain = {d.metric: d.within.value for d in report.diversity}
    of_target = {d.metric: d.within.value for d in evaluate(asked).diversity}
    assert excess.within.value == pytest.approx(plain[excess.metric] - of_target[excess.metric], abs=0.01)
    assert excess.interval.low < excess.within.value < excess.interval.high


def test_the_interval_of_the_gap_is_about_the_gap():
    report = evaluate(draw(LOG_POLICY, 50, seed=3), Tilt(BETA)).target
    low, high, _ = report.inference_gap_interval
    assert low < report.inference_gap.value < high
    low, high, _ = report.forward_kl.interval
    assert low < report.forward_kl.value < high
    assert "target-policy" in report.forward_kl.signature
    assert "target:tilt" in report.forward_kl.signature


def test_targets_of_features_and_products_are_evaluated_as_others_are():
    """Moments of the reward itself is a tilt; a product with a condition cuts it."""
    samples = draw(LOG_POLICY, 200, seed=4)
    tilt = evaluate(samples, Tilt(0.5)).target
    moments = evaluate(samples, Moments([2.0]), features=samples.rewards).target
    assert moments.log_z == pytest.approx(tilt.log_z, rel=1e-12, nan_ok=True)
    assert moments.inference_gap == pytest.approx(tilt.inference_gap, rel=1e-9, nan_ok=True)
    assert moments.objective is None
    cut = evaluate(samples, Condition(0.3) * Moments([1.0]) * Tilt(1.0), features=samples.rewards).target
    assert cut.reward.value > tilt.reward.value
    assert cut.inference_gap.value == np.inf
    with pytest.raises(ValueError, match="features"):
        evaluate(samples, Moments([1.0]))
    with pytest.raises(ValueError, match="features"):
        evaluate(samples, Moments([1.0]), features=samples.rewards[1:])
    nothing = evaluate(samples, Condition(1e9) * Tilt(1.0))
    assert any("excludes every completion" in warning for warning in nothing.warnings)
