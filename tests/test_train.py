"""Training on tables, where every expectation is exact: gradients, the optimum of each objective, and what is measured.

Whatever is compared with an expectation over the policy is enumerated: `TabularLM.completions`.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from esscher import Ragged, Samples, sequence_logprobs
from esscher.inference.f_divergences import FDivergence
from esscher.lm.tabular import TabularLM
from esscher.samples import concatenate
from esscher.train import RunFolder, TabularPolicy, Task, TrainingSettings, train
from esscher.train.ascent import accumulate
from esscher.train.lessons import known_prior, lesson_of, resampled_lesson
from esscher.train.optimiser import Optimiser
from esscher.train.training import with_prior

torch.set_num_threads(1)

DIVERGENCES = get_args(FDivergence)
BETA = 1.2
# Two prompts, three tokens, at most two of them in a completion: seven completions a prompt.
SHAPE = (2, 3, 3)
PROMPTS = Ragged.from_rows([[0], [1]])


def log_probs(logits):
    return sequence_logprobs(TabularLM(logits).completions().policy_logprobs)


def draw_world():
    rng = np.random.default_rng(11)
    prior = rng.normal(np.linspace(0.4, -0.5, 3), 1.0, size=SHAPE)
    policy = prior + rng.normal(0.1, 0.4, size=SHAPE)
    n = len(log_probs(prior))
    return prior, policy, rng.gamma(1.5, size=n) - rng.exponential(size=n)


PRIOR_LOGITS, POLICY_LOGITS, REWARDS = draw_world()
EVERYTHING = TabularLM(POLICY_LOGITS).completions()
GROUP_OF = EVERYTHING.groups.of
LOG_PRIOR = log_probs(PRIOR_LOGITS)


def log_z_of(log_target):
    return np.log(np.add.reduceat(np.exp(log_target), EVERYTHING.groups[:-1]))


LOG_TARGET = LOG_PRIOR + REWARDS / BETA
LOG_Z = log_z_of(LOG_TARGET)
LOG_POSTERIOR = LOG_TARGET - LOG_Z[GROUP_OF]
POSTERIOR = np.exp(LOG_POSTERIOR)


class TableReward:
    """The reward that each completion of a table has."""

    name = "table"

    def __init__(self, everything, rewards):
        self._rewards = dict(zip(_keys(everything), rewards.tolist(), strict=True))
        self.seen = []

    def __call__(self, samples):
        self.seen.append(samples)
        return [self._rewards[key] for key in _keys(samples)]


def _keys(samples):
    rows = zip(samples.groups.of, samples.completions, strict=True)
    return [(int(samples.prompts[prompt][0]), *row.tolist()) for prompt, row in rows]


REWARD = TableReward(EVERYTHING, REWARDS)


def trained(policy, settings, folder, reward=None, prompts=PROMPTS, show=lambda _: None):
    task = Task(policy, policy.frozen_copy(), reward or TableReward(EVERYTHING, REWARDS), prompts)
    reached = train(task, settings, RunFolder(folder / "run", settings, {}), show=show)
    assert reached == settings.steps
    return policy


# Gradients


def exact_f(t, name):
    """The generators as the textbooks have them."""
    return {
        "forward-kl": lambda: -np.log(t),
        "reverse-kl": lambda: t * np.log(t),
        "tv": lambda: np.abs(t - 1) / 2,
        "js": lambda: t * np.log(2 * t / (1 + t)) + np.log(2 / (1 + t)),
        "forward-chi2": lambda: 1 / t - 1,
        "reverse-chi2": lambda: (t - 1) ** 2,
    }[name]()


EXACT = {
    ("plain-rl", "js"): lambda lp: (np.exp(lp) * REWARDS).sum(),
    ("kl-rl", "js"): lambda lp: (np.exp(lp) * (REWARDS - BETA * (lp - LOG_PRIOR))).sum(),
    ("dpg", "js"): lambda lp: -(POSTERIOR * (LOG_POSTERIOR - lp)).sum(),
    ("weighted-ml", "js"): lambda lp: (POSTERIOR * lp).sum(),
    **{
        ("f-dpg", name): lambda lp, name=name: -(POSTERIOR * exact_f(np.exp(lp - LOG_POSTERIOR), name)).sum()
        for name in DIVERGENCES
    },
}


def exact_gradient(function, step=1e-5):
    """Central differences of the mean over prompts with respect to every logit."""
    found = np.empty(SHAPE)
    for index in np.ndindex(SHAPE):
        up, down = POLICY_LOGITS.copy(), POLICY_LOGITS.copy()
        up[index] += step
        down[index] -= step
        found[index] = (function(log_probs(up)) - function(log_probs(down))) / (2 * step)
    return found / SHAPE[0]


def draw_lesson(settings, policy, prior, rng):
    """A lesson of many small groups: each has its own baseline, as in training."""
    if settings.objective == "weighted-ml":
        known = prior.sample(PROMPTS, 4000, 2, rng)
        return resampled_lesson(settings, replace(known, rewards=np.array(REWARD(known))), rng)
    repeats = 200
    prompts = Ragged.from_rows([[0], [1]] * repeats)
    drawn = with_prior(prior, policy.lm.sample(prompts, settings.completions, 2, rng))
    log_z = None if settings.objective in ("plain-rl", "kl-rl") else np.tile(LOG_Z, repeats)
    return lesson_of(settings, replace(drawn, rewards=np.array(REWARD(drawn))), log_z)


def gradient_of(lesson, policy, settings, micro_batch_tokens):
    optimiser = Optimiser(policy.parameters, settings)
    assert accumulate(policy, optimiser, lesson, micro_batch_tokens) == micro_batch_tokens
    gradient = policy.logits.grad.numpy().copy()
    optimiser.clear()
    return gradient


@pytest.mark.parametrize(("objective", "divergence"), EXACT)
def test_the_gradient_of_a_step_is_that_of_the_exact_objective_in_expectation(objective, divergence):
    exact = exact_gradient(EXACT[objective, divergence])
    completions = 3000 if objective == "weighted-ml" else 4
    settings = TrainingSettings(objective=objective, divergence=divergence, beta=BETA, completions=completions)
    policy, prior, rng = TabularPolicy(POLICY_LOGITS), TabularLM(PRIOR_LOGITS), np.random.default_rng(5)
    batches = [
        gradient_of(draw_lesson(settings, policy, prior, rng), policy, settings, micro_batch_tokens=2000)
        for _ in range(40)
    ]
    mean, stderr = np.mean(batches, axis=0), np.std(batches, axis=0, ddof=1) / np.sqrt(len(batches))
    tolerance = 5 * stderr + 1e-8
    assert (np.abs(mean - exact) < tolerance).all()
    # Another sign, or a factor of 0.8 or 1.2, would be seen.
    assert (tolerance < 0.2 * np.abs(exact)).any(axis=(1, 2)).all()
    assert (tolerance < 0.25 * np.abs(exact).max()).all()


@pytest.mark.parametrize("objective", ["kl-rl", "dpg"])
def test_a_gradient_is_the_same_in_micro_batches_of_any_size(objective):
    settings = TrainingSettings(objective=objective, beta=BETA, completions=4)
    policy, prior = TabularPolicy(POLICY_LOGITS), TabularLM(PRIOR_LOGITS)
    lesson = draw_lesson(settings, policy, prior, np.random.default_rng(2))
    whole = gradient_of(lesson, policy, settings, 10**6)
    assert np.abs(whole).max() > 0.01
    for tokens in (1, 3, 100):
        np.testing.assert_allclose(gradient_of(lesson, policy, settings, tokens), whole, rtol=0, atol=1e-12)


def test_completions_that_are_drawn_several_times_count_as_often():
    settings = TrainingSettings(objective="weighted-ml", beta=BETA, completions=50)
    known = TabularLM(PRIOR_LOGITS).sample(PROMPTS, 6, 2, np.random.default_rng(0))
    known = replace(known, rewards=np.array(REWARD(known)))
    lesson = resampled_lesson(settings, known, np.random.default_rng(1))
    shares = lesson.objective.coefficients / len(lesson.samples)
    assert len(lesson.samples) <= 12
    np.testing.assert_allclose(np.add.reduceat(shares, lesson.samples.groups[:-1]), 0.5, rtol=1e-12)
    np.testing.assert_allclose(shares * 100, np.round(shares * 100), atol=1e-9)


def test_log_z_is_that_of_the_prior_and_is_corrected_for_its_bias():
    """Over many repetitions the plain estimate is too low, by far more than the corrected one."""
    prior, rng, n, repeats = TabularLM(PRIOR_LOGITS), np.random.default_rng(9), 10, 8000
    drawn = prior.sample(Ragged.from_rows([[0]] * repeats), n, 2, rng)
    known = known_prior(replace(drawn, rewards=np.array(REWARD(drawn))), BETA)
    errors = known.log_z - LOG_Z[0], known.corrected_log_z - LOG_Z[0]
    plain, corrected = (error.mean() for error in errors)
    assert plain < -5 * errors[0].std() / np.sqrt(repeats)
    assert abs(corrected) < 0.3 * abs(plain)


# Where training ends


def kl_to_target(policy):
    log_policy = log_probs(policy.logits.detach().numpy())
    return (np.exp(log_policy) * (log_policy - LOG_POSTERIOR)).sum() / SHAPE[0]


def enough(objective, **others):
    given = {
        "beta": BETA, "steps": 300, "prompts": 2, "completions": 64, "new_tokens": 2, "prior_samples": 20000,
        "learning_rate": 0.05, "warm_up": 0, "clip": 100.0, "save_every": 1000,
    }  # fmt: skip
    return TrainingSettings(objective=objective, **given | others)


@pytest.mark.parametrize(("objective", "others"), [("kl-rl", {}), ("dpg", {}), ("dpg", {"prior_samples": 0})])
def test_kl_rl_and_dpg_reach_the_target(objective, others, tmp_path):
    policy = TabularPolicy(PRIOR_LOGITS)
    assert kl_to_target(policy) > 0.2
    seen = []
    trained(policy, enough(objective, **others), tmp_path, show=seen.append)
    assert kl_to_target(policy) < 1e-3
    if others:
        assert np.isnan(seen[-1].inference_gap)
    else:
        assert abs(seen[-1].inference_gap - kl_to_target(policy)) < 0.02
        # Of 128 completions.
        assert abs(seen[0].inference_gap - kl_to_target(TabularPolicy(PRIOR_LOGITS))) < 0.15
    assert seen[0].ess < 0.8
    assert seen[-1].ess > 0.99


def test_weighted_ml_comes_as_near_to_the_target_as_the_samples_of_the_prior_do(tmp_path):
    policy = trained(TabularPolicy(PRIOR_LOGITS), enough("weighted-ml", completions=500), tmp_path)
    assert kl_to_target(policy) < 0.01


def test_plain_rl_collapses_onto_the_best_completions(tmp_path):
    policy = trained(TabularPolicy(PRIOR_LOGITS), enough("plain-rl", steps=400), tmp_path)
    log_policy = log_probs(policy.logits.detach().numpy())
    probability = np.exp(log_policy)
    assert -(probability * log_policy).sum() / SHAPE[0] < 0.1
    best = np.maximum.reduceat(REWARDS, EVERYTHING.groups[:-1]).sum()
    assert (probability * REWARDS).sum() > best - 0.05
    # That is far from the target, whose entropy is not small.
    assert -(POSTERIOR * LOG_POSTERIOR).sum() / SHAPE[0] > 0.5


def test_the_policy_is_what_has_the_parameters_and_its_copy_stays_as_it_is(tmp_path):
    policy = TabularPolicy(PRIOR_LOGITS)
    copy = policy.frozen_copy()
    trained(policy, enough("kl-rl", steps=3), tmp_path)
    after = sequence_logprobs(policy.lm.completions().policy_logprobs)
    np.testing.assert_array_equal(after, log_probs(policy.logits.detach().numpy()))
    np.testing.assert_array_equal(sequence_logprobs(copy.completions().policy_logprobs), LOG_PRIOR)
    assert np.abs(after - LOG_PRIOR).max() > 0.01


# A family of policies that the target is not in

WORDS, LENGTH = 4, 2
NODES = sum((WORDS - 1) ** k for k in range(LENGTH))
TIED_PRIOR = np.array([-1.0, 0.3, 0.1, -0.2])
TIED_BETA = 0.3
TIED_EVERYTHING = TabularLM(np.zeros((1, NODES, WORDS))).completions()
TOKEN_COUNTS = np.array([np.bincount(row, minlength=WORDS) for row in TIED_EVERYTHING.completions])
# One word and the same again is worth something; which word, how much.
TIED_REWARDS = np.array(
    [
        {1: 1.0, 2: 0.9, 3: 0.7}[int(row[0])] if len(row) == 2 and row[0] == row[1] else 0.0
        for row in TIED_EVERYTHING.completions
    ]
)


class TiedPolicy:
    """One distribution of the next token, whatever came before."""

    def __init__(self, logits):
        self.logits = torch.nn.Parameter(torch.tensor(logits))
        self.parameters = {"logits": self.logits}

    @property
    def lm(self):
        return TabularLM(np.tile(self.logits.detach().numpy(), (1, NODES, 1)))

    def frozen_copy(self):
        return self.lm

    def add_gradient(self, samples, coefficients):
        tokens = torch.from_numpy(samples.completions.values.astype(np.int64))
        factors = torch.from_numpy(np.repeat(coefficients, samples.completions.lengths))
        torch.autograd.backward(factors @ torch.log_softmax(self.logits, dim=0)[tokens])

    def save(self, folder):
        (folder / "nothing").touch()


def tied_log_probs(logits):
    return TOKEN_COUNTS @ (logits - np.logaddexp.reduce(logits))


def tied_target():
    log_target = tied_log_probs(TIED_PRIOR) + TIED_REWARDS / TIED_BETA
    return log_target - np.logaddexp.reduce(log_target)


def tied_divergence(logits, name):
    log_target = tied_target()
    return np.exp(log_target) @ exact_f(np.exp(tied_log_probs(logits) - log_target), name)


def alignment_and_entropy(logits):
    log_policy = tied_log_probs(logits)
    return np.exp(log_policy) @ TIED_REWARDS, -np.exp(log_policy) @ log_policy


def minimiser(divergence):
    """The best of the family, from several starts: some divergences have more than one minimum."""
    starts = [TIED_PRIOR, *np.random.default_rng(0).normal(scale=1.5, size=(8, WORDS))]
    options = {"xatol": 1e-6, "fatol": 1e-10, "maxiter": 4000}
    ends = [
        minimize(tied_divergence, start, args=(divergence,), method="Nelder-Mead", options=options) for start in starts
    ]
    return min(ends, key=lambda end: end.fun)


@pytest.fixture(scope="module")
def minimisers():
    return {name: minimiser(name) for name in DIVERGENCES}


def test_the_target_is_not_in_the_family(minimisers):
    assert all(found.fun > 0.1 for found in minimisers.values())


def check_order(points):
    """Assert that alignment and entropy are ordered as Go et al. say."""
    forward, between, reverse = ("forward-kl", "forward-chi2"), ("tv", "js"), ("reverse-kl", "reverse-chi2")
    for lower, higher in itertools.pairwise((forward, between, reverse)):
        for one, other in itertools.product(lower, higher):
            assert points[one][0] < points[other][0] - 0.05, (one, other)
            assert points[one][1] > points[other][1] + 0.05, (one, other)


def test_divergences_order_alignment_and_entropy(minimisers):
    """The reverse ones seek a mode, the forward ones cover all of them, total variation and Jensen-Shannon lie between.

    So the expected reward rises and the entropy falls from forward to reverse, where the policy cannot be the target:
    Go, Korbak, Kruszewski, Rozen, Ryu, Dymetman, "Aligning language models with preferences through f-divergence
    minimization", ICML 2023.
    """
    points = {name: alignment_and_entropy(found.x) for name, found in minimisers.items()}
    check_order(points)
    # More than the target itself has, for the modes it leaves out.
    log_target = tied_target()
    assert points["reverse-chi2"][0] > np.exp(log_target) @ TIED_REWARDS > points["forward-kl"][0]
    assert points["reverse-kl"][1] < -np.exp(log_target) @ log_target < points["forward-kl"][1]


@pytest.fixture(scope="module")
def trained_by_divergence(tmp_path_factory):
    found = {}
    for name in DIVERGENCES:
        policy = TiedPolicy(TIED_PRIOR)
        settings = TrainingSettings(
            objective="f-dpg", divergence=name, beta=TIED_BETA, steps=150, prompts=2, completions=250,
            new_tokens=LENGTH, prior_samples=10000, learning_rate=0.05, warm_up=0, clip=10.0, save_every=1000,
        )  # fmt: skip
        reward = TableReward(TIED_EVERYTHING, TIED_REWARDS)
        trained(policy, settings, tmp_path_factory.mktemp(name), reward, Ragged.from_rows([[0], [0]]))
        found[name] = policy.logits.detach().numpy()
    return found


def test_training_finds_the_minimiser_of_each_divergence(minimisers, trained_by_divergence):
    # The prior is at 0.26 and 2.46.
    for name, logits in trained_by_divergence.items():
        least, expected, found = (
            minimisers[name].fun,
            alignment_and_entropy(minimisers[name].x),
            alignment_and_entropy(logits),
        )
        assert tied_divergence(logits, name) < least + 0.01, name
        assert found[0] == pytest.approx(expected[0], abs=0.06), name
        assert found[1] == pytest.approx(expected[1], abs=0.15), name


def test_training_orders_alignment_and_entropy(trained_by_divergence):
    check_order({name: alignment_and_entropy(logits) for name, logits in trained_by_divergence.items()})


# The optimiser


def test_the_learning_rate_rises_over_the_warm_up():
    settings = TrainingSettings(learning_rate=0.3, warm_up=2)
    policy = TabularPolicy(PRIOR_LOGITS)
    optimiser = Optimiser(policy.parameters, settings)
    assert [optimiser.learning_rate(step) for step in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.3])
    for step, rate in enumerate((0.1, 0.2, 0.3, 0.3)):
        before = policy.logits.detach().clone()
        policy.logits.grad = torch.full_like(policy.logits, 0.5)
        optimiser.ascend(step)
        optimiser.clear()
        # Of one gradient again and again, Adam's step is the learning rate: upwards.
        torch.testing.assert_close(policy.logits.detach() - before, torch.full_like(before, rate), rtol=1e-6, atol=0)


def test_a_gradient_is_cut_to_the_clip_and_its_norm_told():
    policy = TabularPolicy(PRIOR_LOGITS)
    optimiser = Optimiser(policy.parameters, TrainingSettings(clip=2.0))
    gradient = torch.from_numpy(np.random.default_rng(0).normal(size=SHAPE))
    policy.logits.grad = gradient.clone()
    assert optimiser.ascend(0) == pytest.approx(float(gradient.norm()))
    assert float(gradient.norm()) > 2.5
    # Adam's first moment after one step is a tenth of what it was given, which AdamW negates to ascend.
    moment = optimiser.state()["exp_avg.logits"]
    torch.testing.assert_close(moment.abs(), 0.1 * 2.0 / gradient.norm() * gradient.abs(), rtol=1e-5, atol=0)


def test_weight_decay_draws_to_zero():
    policy = TabularPolicy(PRIOR_LOGITS)
    optimiser = Optimiser(policy.parameters, TrainingSettings(weight_decay=0.5, learning_rate=0.1, warm_up=0))
    policy.logits.grad = torch.zeros_like(policy.logits)
    optimiser.ascend(0)
    np.testing.assert_allclose(policy.logits.detach().numpy(), PRIOR_LOGITS * (1 - 0.1 * 0.5), rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    policy = TabularPolicy(PRIOR_LOGITS)
    optimiser = Optimiser(policy.parameters, TrainingSettings())
    policy.logits.grad = torch.zeros_like(policy.logits)
    policy.logits.grad[1, 2, 0] = bad
    with pytest.raises(FloatingPointError, match="the gradient of step 7 is not finite"):
        optimiser.ascend(7)
    np.testing.assert_array_equal(policy.logits.detach().numpy(), PRIOR_LOGITS)


# Steps


def draw_tables(count):
    return np.random.default_rng(4).normal(np.linspace(0.3, -0.6, 3), 1.0, size=(count, 3, 3))


def table_reward(policy):
    everything = policy.lm.completions()
    return TableReward(everything, np.random.default_rng(8).gamma(1.3, size=len(everything)))


def test_every_prompt_comes_once_before_any_comes_again(tmp_path):
    policy = TabularPolicy(draw_tables(6))
    reward = table_reward(policy)
    settings = enough("kl-rl", steps=12, prompts=2, completions=2, prior_samples=0)
    trained(policy, settings, tmp_path, reward, Ragged.from_rows([[i] for i in range(6)]))
    steps = [samples.prompts.values.tolist() for samples in reward.seen]
    assert all(len(step) == 2 for step in steps)
    rounds = [steps[i : i + 3] for i in range(0, 12, 3)]
    assert all(sorted(itertools.chain(*one)) == list(range(6)) for one in rounds)
    assert len({str(one) for one in rounds}) > 1


def test_prompts_that_do_not_fill_a_step_come_in_other_rounds(tmp_path):
    policy = TabularPolicy(draw_tables(5))
    reward = table_reward(policy)
    settings = enough("kl-rl", steps=20, prompts=2, completions=2, prior_samples=0)
    trained(policy, settings, tmp_path, reward, Ragged.from_rows([[i] for i in range(5)]))
    steps = [samples.prompts.values.tolist() for samples in reward.seen]
    assert all(len({*one, *other}) == 4 for one, other in zip(steps[::2], steps[1::2], strict=True))
    assert {prompt for step in steps for prompt in step} == set(range(5))


def test_another_seed_draws_other_completions_and_the_same_seed_the_same(tmp_path):
    seen = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        reward = TableReward(EVERYTHING, REWARDS)
        settings = enough("kl-rl", steps=2, completions=16, prior_samples=4, seed=seed)
        trained(TabularPolicy(PRIOR_LOGITS), settings, tmp_path / name, reward)
        seen[name] = [samples.completions.values.tolist() for samples in reward.seen]
    assert seen["a"] == seen["b"]
    # The prior's samples, and those of each step.
    assert all(one != other for one, other in zip(seen["a"], seen["c"], strict=True))
    assert seen["a"][1] != seen["a"][2]


def test_the_numbers_of_a_step_are_those_of_its_completions(tmp_path):
    policy = TabularPolicy(draw_tables(4))
    reward = table_reward(policy)
    settings = enough("kl-rl", steps=6, prompts=3, completions=8, prior_samples=30, learning_rate=0.2)
    steps = []
    trained(policy, settings, tmp_path, reward, Ragged.from_rows([[i] for i in range(4)]), steps.append)
    known, *drawn = reward.seen
    check_numbers(steps[-1], drawn[-1], np.array(reward(drawn[-1])), known, np.array(reward(known)))
    assert steps[-1].kl > 0.05
    assert [metrics.step for metrics in steps] == list(range(6))
    assert all(metrics.notes == () for metrics in steps)


def check_numbers(metrics, drawn, rewards, known, known_rewards):
    group = drawn.groups.of
    log_policy, log_prior = (
        np.array([row.sum() for row in column]) for column in (drawn.policy_logprobs, drawn.prior_logprobs)
    )
    log_target = log_prior + rewards / BETA
    gap = log_z_by_hand(known, known_rewards, drawn.prompts.values)[group] - log_target + log_policy
    assert metrics.reward == pytest.approx(rewards.mean(), rel=1e-12)
    assert metrics.reward_stderr == pytest.approx(stderr_by_hand(rewards, group), rel=1e-9)
    assert metrics.kl == pytest.approx((log_policy - log_prior).mean(), rel=1e-9)
    assert metrics.kl_stderr == pytest.approx(stderr_by_hand(log_policy - log_prior, group), rel=1e-9)
    assert metrics.inference_gap == pytest.approx(gap.mean(), rel=1e-9)
    assert metrics.inference_gap_stderr == pytest.approx(stderr_by_hand(gap, group), rel=1e-9)
    tokens = drawn.completions.lengths.sum()
    assert metrics.entropy == pytest.approx(-log_policy.sum() / tokens, rel=1e-12)
    weights = np.exp(log_target - log_policy)
    sizes = [weights[group == p].sum() ** 2 / (weights[group == p] ** 2).sum() for p in range(3)]
    assert metrics.ess == pytest.approx(sum(sizes) / len(drawn), rel=1e-9)
    assert metrics.objective == pytest.approx((rewards - BETA * (log_policy - log_prior)).mean(), rel=1e-12)
    assert metrics.distinct_2 == pytest.approx(distinct_2_by_hand(drawn))
    assert (metrics.completions, metrics.unscored, metrics.tokens) == (24, 0, tokens)
    assert metrics.terminated == sum(row[-1] == 0 for row in drawn.completions)
    parts = (metrics.seconds_sampling, metrics.seconds_prior, metrics.seconds_reward, metrics.seconds_gradient)
    assert metrics.seconds == pytest.approx(sum(parts))


def stderr_by_hand(values, group):
    sums = [(values - values.mean())[group == p].sum() for p in range(3)]
    return np.sqrt(3 / 2 * np.square(sums).sum()) / len(values)


def log_z_by_hand(known, rewards, prompts):
    """Log of the mean weight by the jackknife, which takes the bias of order 1 / n away."""
    found = []
    for p in prompts:
        weights = np.exp(rewards[known.groups.of == p] / BETA)
        n = len(weights)
        without_one = np.log((weights.sum() - weights) / (n - 1))
        found.append(n * np.log(weights.mean()) - (n - 1) * without_one.mean())
    return np.array(found)


def distinct_2_by_hand(drawn):
    shares = []
    for p in range(3):
        rows = [drawn.completions[i].tolist() for i in np.flatnonzero(drawn.groups.of == p)]
        pairs = [pair for row in rows for pair in itertools.pairwise(row)]
        if pairs:
            shares.append(len(set(pairs)) / len(pairs))
    return np.mean(shares)


# What training adds to samples and tables


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.data())
def test_taken_completions_are_those_rows(sizes, data):
    n = sum(sizes)
    rows = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))
    prompts = Ragged.from_rows([[100 + p] * (p + 1) for p in range(len(sizes))])
    completions = Ragged.from_rows([[i] * (i % 3 + 1) for i in range(n)])
    samples = Samples(
        prompts,
        completions,
        np.concatenate([[0], np.cumsum(sizes)]),
        policy_logprobs=Ragged(-np.arange(float(len(completions.values))), completions.offsets),
        rewards=np.arange(n) / 7,
        terminated=np.arange(n) % 2 == 0,
    )
    taken = samples.take_completions(rows)
    assert len(taken) == len(rows)
    assert taken.columns == samples.columns
    for new, old in enumerate(rows):
        assert taken.completions[new].tolist() == samples.completions[old].tolist()
        assert taken.policy_logprobs[new].tolist() == samples.policy_logprobs[old].tolist()
        assert taken.rewards[new] == samples.rewards[old]
        assert taken.terminated[new] == samples.terminated[old]
        assert taken.prompts[taken.groups.of[new]].tolist() == prompts[samples.groups.of[old]].tolist()


@pytest.mark.parametrize("rows", [[1, 0], [1, 1]])
def test_completions_are_taken_once_and_in_order(rows):
    samples = Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[7], [8]]), [0, 2])
    with pytest.raises(ValueError, match="rows do not rise"):
        samples.take_completions(rows)


def test_places_are_where_the_log_probs_come_from():
    """Also of prompts that begin inside the tree, and to its last level."""
    model = TabularLM.random(np.random.default_rng(3), prompts=2, vocabulary=4, depth=3)
    rng, parts = np.random.default_rng(1), []
    for prompt, new_tokens in (([1], 3), ([0, 2], 2), ([1, 3, 1], 1)):
        parts.append(model.sample(Ragged.from_rows([prompt]), 20, new_tokens, rng))
    samples = concatenate(parts)
    expected = []
    for group, completion in zip(samples.groups.of, samples.completions, strict=True):
        table, *before = samples.prompts[group].tolist()
        node = 0
        for token in before:
            node = 3 * node + token
        for token in completion.tolist():
            expected.append((table, node))
            node = 3 * node + token
    tables, nodes = model.places(samples)
    assert list(zip(tables.tolist(), nodes.tolist(), strict=True)) == expected
    assert nodes.max() > 3
    logprobs = torch.log_softmax(torch.from_numpy(model._logits), dim=-1).numpy()
    found = logprobs[tables, nodes, samples.completions.values.astype(np.int64)]
    np.testing.assert_allclose(found, samples.policy_logprobs.values, rtol=0, atol=1e-12)


# TrainingSettings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objective": "ppo"}, "objective is 'ppo': it is one of plain-rl"),
        ({"divergence": "kl"}, "divergence is 'kl'"),
        ({"beta": 0.0}, "beta is 0"),
        ({"beta": np.inf}, "beta is inf"),
        ({"beta": np.nan}, "beta is nan"),
        ({"steps": 0}, "steps is 0: it is at least 1"),
        ({"prompts": 0}, "prompts is 0"),
        ({"completions": 0}, "completions is 0"),
        ({"new_tokens": 0}, "new_tokens is 0"),
        ({"prior_samples": -1}, "prior_samples is -1: it is at least 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0: it is positive and finite"),
        ({"learning_rate": np.nan}, "learning_rate is nan"),
        ({"clip": np.inf}, "clip is inf"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"weight_decay": np.nan}, "weight_decay is nan"),
        ({"warm_up": -1}, "warm_up is -1"),
        ({"micro_batch_tokens": 0}, "micro_batch_tokens is 0"),
        ({"save_every": 0}, "save_every is 0"),
        ({"keep": 0}, "keep is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"objective": "f-dpg", "prior_samples": 0}, "f-dpg needs completions of the prior"),
        ({"objective": "weighted-ml", "prior_samples": 0}, "weighted-ml needs completions of the prior"),
    ],
)
def test_settings_outside_their_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**given)
