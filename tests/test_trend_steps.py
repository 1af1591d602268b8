"""What a step of a run says is what `evaluate`, `compare` and `mismatch` say of its samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from esscher import Estimate, Ragged, Tilt, compare, evaluate, mismatch, summarise_step, trend
from esscher.lm.tabular import TabularLM
from esscher.trend import known_frontier, summarise_ahead

PROMPTS, TARGET = Ragged.from_rows([[p] for p in range(6)]), Tilt(0.5)
LOGITS = np.random.default_rng(5).normal(size=(6, 13, 4))
PRIOR, POLICY = TabularLM(LOGITS), TabularLM(LOGITS + 0.7 * np.random.default_rng(6).normal(size=LOGITS.shape))


def rewarded(samples):
    values = np.array([0.0, 0.2, 1.0, -0.5])
    return replace(samples, rewards=samples.completions.rows.sums(values[samples.completions.values]))


def drawn(model, n=40, seed=0, prompts=PROMPTS):
    samples = model.sample(prompts, n, 3, np.random.default_rng(seed))
    scores = model.token_scores(samples.prompts, samples.completions, samples.groups, prior=PRIOR)
    columns = {name: Ragged(column, samples.completions.offsets) for name, column in scores.columns().items()}
    return rewarded(replace(samples, **columns))


@pytest.fixture(scope="module")
def samples():
    return drawn(POLICY)


@pytest.fixture(scope="module")
def prior():
    return drawn(PRIOR, 400, 1)


def test_a_step_says_what_evaluate_does(samples):
    step, report = summarise_step(7, samples, target=TARGET), evaluate(samples, TARGET)
    assert step.step == 7
    assert (step.prompts, step.completions, step.tokens) == (6, 240, report.counts.tokens)
    assert step.terminated == report.counts.terminated / 240
    assert step.reward == report.reward
    assert step.kl == {name: Estimate(report.kl[name].value, report.kl[name].stderr) for name in ("k1", "k3", "exact")}
    assert step.best_kl == step.kl["exact"]
    assert step.entropy.value == pytest.approx(report.entropy, rel=1e-12)
    diversity = {one.metric: one.within for one in report.diversity}
    assert step.distinct_2 == diversity["distinct-2 of 2"]
    assert step.unique_share == diversity["unique share"]
    assert step.ess == report.target.ess / 240
    assert (step.log_z, step.inference_gap) == (report.target.log_z, report.target.inference_gap)
    assert step.excess_collapse == report.excess_collapse[0].within
    assert step.mismatch is None
    assert step.frontier is None


def test_lengths_and_shares_are_those_by_hand(samples):
    step = summarise_step(0, samples)
    lengths, groups = samples.completions.lengths, samples.groups
    assert step.length.value == pytest.approx(lengths.mean())
    assert step.longest == 3
    assert step.cut_off.value == pytest.approx(np.mean((lengths == 3) & ~samples.terminated))
    assert summarise_step(0, replace(samples, terminated=None)).cut_off.value == pytest.approx(np.mean(lengths == 3))
    entropy = np.concatenate(list(samples.policy_entropy)).mean()
    assert step.best_entropy.value == step.exact_entropy.value == pytest.approx(entropy)
    rewards = samples.rewards.copy()
    rewards[: groups[2]] = 0.25
    assert summarise_step(0, replace(samples, rewards=rewards)).alike.value == pytest.approx(2 / 6)
    assert step.alike.value == 0.0


def test_what_samples_lack_is_not_told():
    bare = replace(
        drawn(POLICY), policy_logprobs=None, prior_logprobs=None, token_kl=None, policy_entropy=None, rewards=None,
        terminated=None,
    )  # fmt: skip
    step = summarise_step(0, bare, target=TARGET)
    absent = (step.reward, step.entropy, step.exact_entropy, step.best_kl, step.terminated, step.alike, step.ess)
    assert absent == (None,) * 7
    assert step.kl == {}
    assert (step.log_z, step.inference_gap, step.excess_collapse) == (None,) * 3
    assert step.distinct_2.value > 0
    single = bare.take_completions(bare.groups.starts)
    assert summarise_step(0, replace(single, rewards=np.arange(6.0))).alike is None


def test_rewards_have_names_and_some_are_missing(samples):
    first, second = samples.rewards * 2, np.where(np.arange(240) % 3, samples.rewards, np.nan)
    named = summarise_step(0, samples, rewards_by_name={"first": first, "second": second}).rewards_by_name
    assert named["first"].value == pytest.approx(first.mean())
    assert named["second"].value == pytest.approx(np.nanmean(second))
    with pytest.raises(ValueError, match=r"rewards_by_name\['first'\] has shape \(3,\)"):
        summarise_step(0, samples, rewards_by_name={"first": [1, 2, 3]})


def test_the_engines_differ_as_mismatch_says(samples):
    noise = np.random.default_rng(0).normal(0.01, 0.02, len(samples.completions.values))
    rollout = Ragged(np.minimum(samples.policy_logprobs.values + noise, 0.0), samples.completions.offsets)
    found = summarise_step(0, samples, rollout_logprobs=rollout).mismatch
    metrics = mismatch(samples.policy_logprobs, rollout, samples.groups).metrics
    assert found.kl == pytest.approx(metrics.kl)
    size = np.abs(rollout.values - samples.policy_logprobs.values)
    assert found.mean_difference.value == pytest.approx(size.mean())
    assert found.largest_difference == size.max()
    holes = rollout.values.copy()
    holes[::4] = np.nan
    found = summarise_step(0, samples, rollout_logprobs=Ragged(holes, rollout.offsets)).mismatch
    assert found.mean_difference.value == pytest.approx(np.delete(size, np.s_[::4]).mean())
    assert summarise_step(0, samples, rollout_logprobs=Ragged(holes * np.nan, rollout.offsets)).mismatch is None
    with pytest.raises(ValueError, match="rollout_logprobs have other rows"):
        summarise_step(0, samples, rollout_logprobs=Ragged.from_rows([[-1.0]]))


# Beside the frontier.


def test_the_place_beside_the_frontier_is_that_of_compare(samples, prior):
    place = summarise_step(0, samples, target=TARGET, known=known_frontier(prior, TARGET)).frontier
    point = compare(prior, {"step": samples}).policies[0]
    assert place.prompts == 6
    assert place.beta == pytest.approx(point.beta, rel=1e-12)
    assert place.reachable == pytest.approx(point.reachable)
    assert place.trusted
    assert place.regret.value == pytest.approx(point.reachable.value - point.reward.value)
    # Over beta it is the gap to the target that has the policy's KL.
    assert place.regret_nats.value == pytest.approx(point.inference_gap.value, abs=3 * point.inference_gap.stderr)
    gap = compare(prior, {"step": samples}, beta=0.5).policies[0].inference_gap
    assert place.inference_gap.value == pytest.approx(gap.value, abs=3 * gap.stderr)


def test_regret_is_the_exact_one():
    """By enumeration of all completions: the KL, and the reward of the target of that KL."""
    every = rewarded(POLICY.completions())
    log_policy, groups = every.policy_log_prob, every.groups
    log_prior = PRIOR.logprobs(every.prompts, every.completions, groups).rows.sums(
        PRIOR.logprobs(every.prompts, every.completions, groups).values
    )
    kl = float(np.exp(log_policy) @ (log_policy - log_prior)) / 6
    reward = float(np.exp(log_policy) @ every.rewards) / 6

    def target(beta):
        weights = np.exp(log_prior + every.rewards / beta)
        weights /= groups.spread(groups.sums(weights))
        return float(weights @ (np.log(weights) - log_prior)) / 6, float(weights @ every.rewards) / 6

    low, high = 0.01, 100.0
    for _ in range(100):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if target(middle)[0] > kl else (low, middle)
    regret, found = target(middle)[1] - reward, []
    known = known_frontier(drawn(PRIOR, 2000, 3))
    for seed in range(20):
        place = summarise_step(0, drawn(POLICY, 40, seed), known=known).frontier
        found.append((place.regret.value, place.regret.stderr))
    values = np.array(found)[:, 0]
    assert values.mean() == pytest.approx(regret, abs=4 * values.std(ddof=1) / 20**0.5)


def test_diversity_under_the_target_is_that_of_prototype(samples, prior):
    from esscher.diversity import estimate_size_free
    from esscher.inference.importance import exponential_weights

    weights = exponential_weights(prior.rewards, 0.5, prior.groups).weights
    expected = estimate_size_free(prior.completions, prior.groups, weights)[0].within
    place = summarise_step(0, samples, target=TARGET, known=known_frontier(prior, TARGET)).frontier
    assert place.target_distinct_2 == pytest.approx(expected)
    place = summarise_step(0, samples, known=known_frontier(prior)).frontier
    assert (place.target_distinct_2, place.inference_gap) == (None, None)


def test_only_prompts_of_both_are_held_against_each_other(samples, prior):
    known = known_frontier(prior.take_prompts([5, 3, 1, 0]), TARGET)
    place = summarise_step(0, samples.take_prompts([0, 1, 2, 3]), target=TARGET, known=known).frontier
    shared = known_frontier(prior.take_prompts([0, 1, 3]), TARGET)
    expected = summarise_step(0, samples.take_prompts([0, 1, 3]), target=TARGET, known=shared).frontier
    assert place.prompts == 3
    assert (place.beta, place.reachable, place.regret) == (expected.beta, expected.reachable, expected.regret)
    told = trend([summarise_step(0, samples, target=TARGET, known=known)], known=known).end.warnings
    assert [warning.code for warning in told if warning.code == "unshared-prompts"] == ["unshared-prompts"]


def test_of_no_common_prompt_the_whole_frontier_is_what_there_is(samples, prior):
    known = known_frontier(prior.take_prompts([0, 1, 2]), TARGET)
    step = summarise_step(0, samples.take_prompts([3, 4, 5]), target=TARGET, known=known)
    assert step.frontier.prompts == 0
    assert step.frontier.regret.value == pytest.approx(step.frontier.reachable.value - step.reward.value)
    assert step.frontier.regret.stderr > step.frontier.reachable.stderr
    assert step.frontier.inference_gap is None
    (told,) = (w for w in trend([step], known=known).end.warnings if w.code == "unshared-prompts")
    assert "and 1 of which they have none against the frontier of all their prompts" in told


def test_a_kl_that_no_target_has_has_no_place(samples, prior):
    known = known_frontier(prior, TARGET)
    still = replace(samples, policy_logprobs=samples.prior_logprobs, token_kl=None)
    beyond = replace(samples, token_kl=Ragged(np.full(len(samples.token_kl.values), 9.0), samples.token_kl.offsets))
    infinite = replace(samples, rewards=np.where(np.arange(240) == 3, -np.inf, samples.rewards))
    for one in (still, beyond, infinite):
        place = summarise_step(0, one, target=TARGET, known=known).frontier
        assert (place.beta, place.reachable, place.regret, place.trusted) == (None, None, None, False)


def test_another_target_than_the_frontiers_is_refused(samples, prior):
    with pytest.raises(ValueError, match=r"known is of the target tilt\|beta:0.5, and target is tilt\|beta:1"):
        summarise_step(0, samples, target=Tilt(1.0), known=known_frontier(prior, TARGET))


# Many steps.


def test_steps_summarised_ahead_are_the_same_in_order():
    parts = [(i, drawn(POLICY, 4, i)) for i in range(9)]
    one_by_one = [summarise_step(i, samples, target=TARGET) for i, samples in parts]
    assert list(summarise_ahead(parts, lambda part: summarise_step(*part, target=TARGET))) == one_by_one


def test_no_more_parts_are_read_ahead_than_are_worked_on():
    read = []

    def parts():
        for i in range(20):
            read.append(i)
            yield i

    steps = summarise_ahead(parts(), lambda part: part, threads=2)
    assert next(steps) == 0
    assert len(read) <= 3


def test_an_error_of_a_part_is_raised_in_its_place():
    def fail(part):
        if part == 2:
            raise ValueError("part 2 is bad")
        return part

    steps = summarise_ahead(range(5), fail)
    assert [next(steps), next(steps)] == [0, 1]
    with pytest.raises(ValueError, match="part 2 is bad"):
        next(steps)
