"""The frontier against exact enumeration, its formulas in plain NumPy, and its intervals over many repetitions."""

from __future__ import annotations

import numpy as np
import pytest

from esscher import sequence_logprobs
from esscher.frontier import Frontier, frontier
from esscher.inference.importance import importance, pareto_smooth
from esscher.lm.tabular import TabularLM

QUANTITIES = ("log_z", "reward", "kl", "prior_kl", "total_variation")
BETAS = np.array([2.0, 1.0, 0.5, 0.25])
PROMPTS, REPETITIONS = 50, 400


def enumerated():
    """The prior's probabilities and the rewards of every completion, [prompts, completions]."""
    rng = np.random.default_rng(7)
    every = TabularLM.random(rng, prompts=PROMPTS, vocabulary=4, depth=4).completions()
    prior = np.exp(sequence_logprobs(every.policy_logprobs)).reshape(PROMPTS, -1)
    return prior, np.tanh(rng.normal(-0.3, 0.8, size=prior.shape))


PRIOR, REWARDS = enumerated()


def exact(beta):
    """The five quantities of every prompt [5, prompts]."""
    weights = PRIOR * np.exp(REWARDS / beta)
    z = weights.sum(axis=1)
    target = weights / z[:, None]
    return np.stack(
        [
            np.log(z),
            (target * REWARDS).sum(axis=1),
            (target * np.log(target / PRIOR)).sum(axis=1),
            (PRIOR * np.log(PRIOR / target)).sum(axis=1),
            np.abs(target - PRIOR).sum(axis=1) / 2,
        ]
    )


EXACT = np.stack([exact(beta) for beta in BETAS], axis=-1)


CDF = PRIOR.cumsum(axis=1) / PRIOR.sum(axis=1, keepdims=True)
# Those of a prompt lie between its number and the next.
PLACES = (np.arange(PROMPTS)[:, None] + CDF).ravel()


def draw(rng, prompts, n):
    """Rewards of so many completions of each prompt, one prompt after another."""
    at = np.repeat(prompts, n) + rng.random(np.size(prompts) * n)
    return REWARDS.ravel()[np.searchsorted(PLACES, at, side="right")]


def curves(found: Frontier):
    return {name: getattr(found, name) for name in QUANTITIES}


def plug_in(rewards, beta):
    """The quantities of one prompt without correction, as their definitions say."""
    weights = np.exp((rewards - rewards.max()) / beta)
    relative = weights / weights.mean()
    log_z = np.log(weights.mean()) + rewards.max() / beta
    reward = (relative * rewards).mean()
    return np.array(
        [
            log_z,
            reward,
            reward / beta - log_z,
            log_z - rewards.mean() / beta,
            np.abs(relative - 1).mean() / 2,
        ]
    )


def test_many_samples_give_the_exact_curve():
    rng = np.random.default_rng(1)
    n = 200_000
    found = frontier(np.concatenate([draw(rng, p, n) for p in range(3)]), BETAS, np.arange(4) * n)
    for i, name in enumerate(QUANTITIES):
        expected = EXACT[i, :3].mean(axis=0)
        assert getattr(found, name).value == pytest.approx(expected, abs=0.02 * np.abs(expected).max()), name


@pytest.mark.parametrize("seed", range(4))
def test_values_are_those_of_the_definitions_less_their_bias(seed):
    """The jackknife takes off the same bias of order 1/n, by another way."""
    rng = np.random.default_rng(seed)
    rewards, n = np.tanh(rng.normal(-0.3, 0.8, size=400)), 400
    found = frontier(rewards, BETAS)
    for b, beta in enumerate(BETAS):
        all_of_them = plug_in(rewards, beta)
        without = np.stack([plug_in(np.delete(rewards, i), beta) for i in range(n)])
        bias = (n - 1) * (without.mean(axis=0) - all_of_them)
        spread = np.sqrt((n - 1) / n * ((without - without.mean(axis=0)) ** 2).sum(axis=0))
        for i, name in enumerate(QUANTITIES):
            curve = getattr(found, name)
            corrected = all_of_them[i] - (bias[i] if name != "total_variation" else 0.0)
            assert curve.value[b] == pytest.approx(corrected, rel=1e-10, abs=0.1 * abs(bias[i]) + 1e-12), name
            is_void = name == "total_variation" and np.isnan(curve.stderr[b])  # where its bias is not small
            assert is_void or curve.stderr[b] == pytest.approx(spread[i], rel=0.1), name


def test_weights_that_hardly_differ_are_trusted_whatever_their_tail_also_beside_excluded_ones():
    rewards = np.tanh(1e-3 * np.random.default_rng(0).standard_cauchy(1200))
    excluded = np.random.default_rng(1).random(1200) < 1 / 3
    rewards[excluded] = -np.inf
    found = frontier(rewards, [10.0, 1e-3], np.arange(0, 1201, 120))
    assert found.trusted.tolist() == [True, False]
    assert found.pareto_k[0] > 0.5  # of 80 weights up to 0.47 can be trusted
    assert found.ess[0] == pytest.approx(1200 - excluded.sum(), rel=1e-3)


def test_prompts_of_different_sizes_count_by_their_samples():
    rng = np.random.default_rng(2)
    parts = [rng.normal(size=n) for n in (3, 40, 7, 200)]
    together = frontier(np.concatenate(parts), BETAS, np.cumsum([0, 3, 40, 7, 200]))
    for name in QUANTITIES:
        each = np.stack([getattr(frontier(part, BETAS), name).value for part in parts])
        mean = np.average(each, axis=0, weights=[3, 40, 7, 200])
        assert getattr(together, name).value == pytest.approx(mean, rel=1e-12), name
    weights = [importance(part / 0.25, np.zeros(len(part))) for part in parts]
    assert together.ess[-1] == pytest.approx(sum(float(w.ess[0]) for w in weights), rel=1e-12)


def test_identities_hold_to_the_last_digits():
    rng = np.random.default_rng(3)
    found = frontier(rng.normal(size=500), groups=[0, 100, 350, 500])
    beta, reward = found.beta, found.reward.value
    scale = np.abs(reward / beta) + np.abs(found.log_z.value)
    assert (np.abs(found.kl.value - (reward / beta - found.log_z.value)) <= 1e-12 * scale).all()
    prior = found.prior_reward.value
    assert (np.abs(found.prior_kl.value - (found.log_z.value - prior / beta)) <= 1e-12 * scale).all()
    assert (np.diff(beta) < 0).all()
    assert len(beta) == 64
    shifted = frontier(np.array([0.5, 1.0, 4.0]) + 7.0, [0.8])
    plain = frontier([0.5, 1.0, 4.0], [0.8])
    assert shifted.log_z.value == pytest.approx(plain.log_z.value + 7.0 / 0.8, rel=1e-13)
    assert shifted.kl.value == pytest.approx(plain.kl.value, rel=1e-12)


def test_pareto_k_is_that_of_the_weights():
    rewards = np.random.default_rng(4).normal(size=2000)
    found = frontier(rewards, BETAS)
    expected = [float(pareto_smooth(rewards / beta).pareto_k[0]) for beta in BETAS]
    assert found.pareto_k == pytest.approx(expected, rel=1e-9)
    assert (found.pareto_k[-1] > 0.7) == (not found.trusted[-1])
    assert "not to be trusted" in found.warnings[0]


def test_what_is_too_few_or_too_unequal_is_told():
    heavy = frontier(np.log(np.random.default_rng(1).pareto(1.2, size=20_000) + 1), betas=[20.0, 1.0])
    assert heavy.ess[1] > 100
    assert heavy.warnings == (
        "Below beta = 20 what the samples say is not to be trusted: a few samples have much of the weight (Pareto k). "
        "Draw more samples a prompt to see further.",
    )
    rewards = np.tanh(np.random.default_rng(4).normal(size=200))
    found = frontier(rewards, groups=np.arange(0, 201, 20))
    last = found.beta[found.trusted][-1]
    assert found.warnings == (
        f"Below beta = {last:.3g} what the samples say is not to be trusted: halves of each prompt's samples say "
        "otherwise than all, so that a bias is left that is not small beside the error. Draw more samples a prompt to "
        "see further.",
    )
    few = frontier(rewards[:100], [3.0, 0.5], groups=np.arange(0, 101, 10))
    assert few.warnings == (
        f"Below beta = 3 what the samples say is not to be trusted: the samples are worth {few.ess[1]:.3g} or fewer of "
        "the target's, and 80 are needed. Draw more samples a prompt to see further.",
    )


def test_the_number_of_threads_changes_no_bit():
    rewards = np.random.default_rng(5).normal(size=100_000)
    one, eight = (frontier(rewards, BETAS, [0, 70_000, 70_010, 100_000], threads=n) for n in (1, 8))
    for name in QUANTITIES:
        np.testing.assert_array_equal(getattr(one, name), getattr(eight, name))
    assert np.array_equal(one.pareto_k, eight.pareto_k)


@pytest.mark.parametrize("seed", range(5))
def test_two_thousand_samples_give_the_curve_within_the_interval(seed):
    """Each interval misses in one of twenty cases; points of a curve miss together."""
    found = frontier(draw(np.random.default_rng(seed), 0, 2000), BETAS)
    assert found.trusted.all()
    for i, name in enumerate(QUANTITIES):
        curve = getattr(found, name)
        reach = 1.7 * (curve.high - curve.low) / 2  # of 100 intervals, so wide ones miss 0.1
        assert (np.abs(curve.value - EXACT[i, 0]) <= reach).all(), name


def coverage(sampled, truth):
    """The share of trusted 95 % intervals with the truth in them, and how many there were of each quantity."""
    hits, trusted = ({name: np.zeros(len(BETAS)) for name in QUANTITIES} for _ in range(2))
    for seed in range(REPETITIONS):
        found = sampled(np.random.default_rng(seed))
        for i, (name, curve) in enumerate(curves(found).items()):
            shown = found.trusted & np.isfinite(curve.low)
            trusted[name] += shown
            hits[name] += shown & (curve.low <= truth[i]) & (truth[i] <= curve.high)
    return {name: hit / np.maximum(trusted[name], 1) for name, hit in hits.items()}, trusted


def of_prompts(prompts, n):
    def sampled(rng):
        drawn = rng.integers(PROMPTS, size=prompts)
        return frontier(draw(rng, drawn, n), BETAS, np.arange(prompts + 1) * n)

    return sampled


CASES = {
    "1 prompt x 2000": (lambda rng: frontier(draw(rng, 0, 2000), BETAS), EXACT[:, 0]),
    "4 prompts x 512": (of_prompts(4, 512), EXACT.mean(axis=1)),
    "10 prompts x 64": (of_prompts(10, 64), EXACT.mean(axis=1)),
    "40 prompts x 16": (of_prompts(40, 16), EXACT.mean(axis=1)),
    "40 prompts x 128": (of_prompts(40, 128), EXACT.mean(axis=1)),
    "100 prompts x 16": (of_prompts(100, 16), EXACT.mean(axis=1)),
    "200 prompts x 16": (of_prompts(200, 16), EXACT.mean(axis=1)),
    "500 prompts x 32": (of_prompts(500, 32), EXACT.mean(axis=1)),
}


@pytest.mark.parametrize("case", CASES)
def test_intervals_cover(case):
    """Between 91 % and 98 %, where three of four repetitions are trusted; within the error of counting elsewhere."""
    shares, trusted = coverage(*CASES[case])
    assert (trusted["kl"] > 0.75 * REPETITIONS).any()
    for name, share in shares.items():
        often, at_times = trusted[name] > 0.75 * REPETITIONS, trusted[name] > 0.05 * REPETITIONS
        assert ((share[often] >= 0.91) & (share[often] <= 0.98)).all(), (name, share, trusted)
        error = 2 * np.sqrt(0.91 * 0.09 / trusted[name][at_times])
        assert (share[at_times] >= 0.91 - error).all(), (name, share, trusted)


def test_beta_so_small_that_one_sample_has_all_the_weight():
    found = frontier([0.0, 0.5, 1.0, 0.2], betas=[1e-300, 1e-3])
    assert found.kl.value[1] == pytest.approx(np.log(4) - 3 / 8, abs=1e-9)  # the correction of log Z is (n - 1) / 2n
    assert found.reward.value == pytest.approx([1.0, 1.0])
    assert not found.trusted.any()
    assert found.warnings == ("With 4 samples, no target can be trusted, whatever beta. Draw 50 a prompt or more.",)


def test_rewards_of_minus_infinity_have_no_weight():
    found = frontier([0.0, 1.0, -np.inf, 0.5] * 50, [1.0])
    kept = frontier([0.0, 1.0, 0.5] * 50, [1.0])
    # The correction of order 1/n knows how many samples there are.
    assert found.log_z.value == pytest.approx(kept.log_z.value + np.log(0.75), abs=0.01)
    assert found.reward.value == pytest.approx(kept.reward.value, abs=0.01)
    assert found.prior_kl.value[0] == np.inf
    assert found.prior_reward.value == -np.inf


def test_equal_rewards_are_a_point():
    found = frontier([0.3, 0.3, 0.1, 0.1], [1.0, 0.1], groups=[0, 2, 4])
    assert "the frontier is a point" in found.warnings[0]
    assert found.kl.value == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ValueError, match="the frontier is a point"):
        frontier([0.3, 0.3, 0.1, 0.1], groups=[0, 2, 4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rewards": []}, "rewards is empty|has 0 samples"),
        ({"rewards": [1.0, 2.0, 3.0], "groups": [0, 2, 3]}, "prompt 1 has 1 sample: log Z of a prompt needs several"),
        ({"rewards": [1.0, 2.0, -np.inf, -np.inf], "groups": [0, 2, 4]}, "prompt 1 has only rewards of -inf"),
        ({"rewards": [1.0, np.nan], "betas": [1.0]}, r"rewards\[1\] is NaN"),
        ({"rewards": [1.0, np.inf], "betas": [1.0]}, r"rewards\[1\] is inf"),
        ({"rewards": [1.0, 2.0], "betas": [1.0, 0.0]}, "betas is 0: it must be positive and finite"),
        ({"rewards": [1.0, 2.0], "betas": []}, "betas is empty"),
        ({"rewards": [1.0, 2.0], "betas": [1.0, 1e-320]}, r"rewards\[0\] is 1: divided by beta = .* it overflows"),
        ({"rewards": [1e308, -1e308]}, r"rewards\[0\] is 1e\+308: scale rewards"),
        ({"rewards": [1e-300, 2e-300]}, "at most 1e-300 apart: scale them up"),
        ({"rewards": [0.1] * 10}, "rewards are all equal within each prompt: the frontier is a point"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        frontier(**arguments)
