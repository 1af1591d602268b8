import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubts import doubts
from esscher import Condition, Ragged, Samples, Tilt, _core, concatenate, evaluate


def random_samples(seed=0, prompts=12, per_prompt=5):
    rng = np.random.default_rng(seed)
    n = prompts * per_prompt
    lengths = rng.integers(1, 9, n)
    tokens = int(lengths.sum())

    def column(values):
        return Ragged.from_lengths(values.astype(np.float32), lengths)

    return Samples(
        prompts=Ragged.from_rows([[p, 1] for p in range(prompts)]),
        completions=Ragged.from_lengths(rng.integers(0, 6, tokens), lengths),
        groups=np.arange(prompts + 1) * per_prompt,
        policy_logprobs=column(-rng.exponential(1.0, tokens)),
        prior_logprobs=column(-rng.exponential(1.2, tokens)),
        rewards=rng.normal(0.3, 0.5, n),
        terminated=rng.random(n) < 0.7,
    )


SAMPLES = random_samples()


def numbers(report):
    """Every scalar of a report."""
    return {
        "reward": report.reward,
        **{f"kl {name}": estimate[:2] for name, estimate in report.kl.items()},
        "perplexity": report.prior_perplexity,
        "entropy": report.entropy,
        "target": tuple(vars(report.target).values())[2:],
        "diversity": [(d.metric, d.within, d.across) for d in report.diversity],
    }


@given(st.lists(st.integers(1, 11), max_size=3))
def test_however_a_corpus_is_cut_the_report_is_the_same_to_the_last_bit(cuts):
    borders = [0, *sorted(set(cuts)), 12]
    parts = [SAMPLES.take_prompts(range(a, b)) for a, b in itertools.pairwise(borders)]
    whole, joined = evaluate(SAMPLES, Tilt(0.5)), evaluate(concatenate(parts), Tilt(0.5))
    assert repr(numbers(joined)) == repr(numbers(whole))
    assert joined.top_ngrams == whole.top_ngrams
    assert np.array_equal(joined.per_completion.log_weights, whole.per_completion.log_weights)


def test_the_order_of_prompts_does_not_matter():
    shuffled = SAMPLES.take_prompts(np.random.default_rng(1).permutation(12))
    one, other = evaluate(SAMPLES, Tilt(0.5)), evaluate(shuffled, Tilt(0.5))
    assert other.reward == pytest.approx(one.reward, rel=1e-12)
    assert other.target.log_z == pytest.approx(one.target.log_z, rel=1e-12, nan_ok=True)
    assert other.target.inference_gap == pytest.approx(one.target.inference_gap, rel=1e-12, nan_ok=True)
    assert other.kl["k3"][:2] == pytest.approx(one.kl["k3"][:2], rel=1e-12)
    # What a compressor makes of completions depends on their order.
    same = [d.metric for d in one.diversity if d.across is not None and d.metric != "compression ratio"]
    across, across_other = ({d.metric: d.across for d in report.diversity} for report in (one, other))
    assert [across_other[m] for m in same] == pytest.approx([across[m] for m in same], rel=1e-12)


def test_what_samples_cannot_tell_is_said():
    bare = replace(SAMPLES, policy_logprobs=None, prior_logprobs=None, rewards=None, terminated=None)
    report = evaluate(bare, Tilt(1.0))
    assert report.kl == {}
    assert report.reward is report.prior_perplexity is report.entropy is report.target is None
    assert report.counts.terminated is None
    assert report.unavailable["kl"] == "the samples lack the columns policy_logprobs and prior_logprobs"
    assert set(report.unavailable) == {"reward", "kl", "prior_perplexity", "entropy", "target", "terminated"}
    assert evaluate(SAMPLES).unavailable == {"target": "no target was given"}
    assert evaluate(SAMPLES, Tilt(1.0)).unavailable == {}


def test_samples_of_the_prior_need_rewards_only():
    bare = replace(SAMPLES, policy_logprobs=None, prior_logprobs=None)
    report = evaluate(bare, Tilt(0.5), proposal="prior")
    weights = np.exp(SAMPLES.rewards.reshape(12, 5) / 0.5)
    assert weights.max(axis=1).max() / weights.sum(axis=1).min() > 0.5
    for row in range(12):
        one = evaluate(bare.take_prompts([row]), Tilt(0.5), proposal="prior").target
        without = [np.delete(weights[row], i) for i in range(5)]
        if weights[row].max() < 0.5 * weights[row].sum():
            by_hand = 5 * np.log(weights[row].mean()) - 4 * np.mean([np.log(w.mean()) for w in without])
            assert one.log_z.value == pytest.approx(by_hand, rel=1e-12)
        means = [np.average(np.delete(bare.rewards[5 * row : 5 * row + 5], i), weights=without[i]) for i in range(5)]
        by_hand = 5 * np.average(bare.rewards[5 * row : 5 * row + 5], weights=weights[row]) - 4 * np.mean(means)
        assert one.reward.value == pytest.approx(by_hand, rel=1e-12)
    assert "came from the prior" in report.unavailable["kl"]


def test_bad_proposal():
    with pytest.raises(ValueError, match="proposal is 'target': it must be 'policy' or 'prior'"):
        evaluate(SAMPLES, proposal="target")


@pytest.mark.parametrize("beta", [0.0, -1.0, np.nan, np.inf])
def test_bad_beta(beta):
    with pytest.raises(ValueError, match=r"beta is .*: it must be a positive number"):
        Tilt(beta)


def test_bad_threshold():
    with pytest.raises(ValueError, match="threshold is nan"):
        Condition(np.nan)


def test_bad_rewards_of_a_target():
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"rewards\[1\] is (nan|inf): a reward is finite or -inf"):
            Tilt(1.0).log_potential([0.0, bad])


def test_a_completion_that_its_policy_forbids_is_an_error():
    values = SAMPLES.policy_logprobs.values.copy()
    values[0] = -np.inf
    samples = replace(SAMPLES, policy_logprobs=Ragged(values, SAMPLES.policy_logprobs.offsets))
    with pytest.raises(ValueError, match=r"policy_logprobs\[0\] sums to -inf"):
        evaluate(samples, Tilt(1.0))


def test_a_completion_that_the_prior_forbids_has_no_weight():
    values = SAMPLES.prior_logprobs.values.copy()
    values[0] = -np.inf
    report = evaluate(replace(SAMPLES, prior_logprobs=Ragged(values, SAMPLES.prior_logprobs.offsets)), Tilt(1.0))
    assert report.kl["k1"].value == np.inf
    assert np.isnan(report.kl["k1"].stderr)
    assert report.per_completion.log_weights[0] == -np.inf
    assert np.isfinite(report.target.log_z.value)
    assert report.target.elbo.value == -np.inf


def test_a_reward_of_minus_infinity_has_no_weight():
    rewards = np.array([-np.inf, *SAMPLES.rewards[1:]])
    report = evaluate(replace(SAMPLES, rewards=rewards), Tilt(1.0))
    assert report.reward.value == -np.inf
    assert np.exp(report.per_completion.log_weights[0]) == 0
    assert np.isfinite(report.target.reward.value)


def test_prompts_where_nothing_passes_are_told_and_left_out_of_the_targets_reward():
    rewards = SAMPLES.rewards.copy()
    rewards[:5] = -5.0
    report = evaluate(replace(SAMPLES, rewards=rewards), Condition(-1.0))
    assert report.target.log_z.value == -np.inf
    assert report.target.reward.value > -1.0
    assert report.target.objective is None
    assert any("In 1 of 12 prompts no completion has weight" in warning for warning in report.warnings)
    nothing = evaluate(replace(SAMPLES, rewards=np.full(60, -5.0)), Condition(-1.0))
    assert np.isnan(nothing.target.reward.value)
    assert nothing.target.ess == 0


def _only_first(one):
    return replace(
        one,
        completions=one.completions.take([0]),
        groups=np.array([0, 1]),
        policy_logprobs=one.policy_logprobs.take([0]),
        prior_logprobs=one.prior_logprobs.take([0]),
        rewards=one.rewards[:1],
        terminated=one.terminated[:1],
    )


def test_one_completion_is_enough_for_a_report():
    one = _only_first(SAMPLES.take_prompts([0]))
    report = evaluate(one, Tilt(0.5))
    assert np.isnan(report.reward.stderr)
    assert report.kl["k1"].value == pytest.approx(report.kl["k1"].per_sequence[0])
    assert (report.target, report.target_diversity) == (None, ())
    assert "only completion says nothing of log Z" in report.unavailable["target"]


def test_one_completion_a_prompt_has_no_gap_and_a_few_such_are_told():
    per_prompt = [SAMPLES.take_prompts([p]) for p in range(len(SAMPLES.prompts))]
    singles = [_only_first(samples) for samples in per_prompt]
    assert evaluate(concatenate(singles), Tilt(0.5)).target is None
    report = evaluate(concatenate([*singles[:2], *per_prompt[2:]]), Tilt(0.5))
    assert any(w.startswith(f"2 of {len(per_prompt)} prompts have a single completion") for w in report.warnings)
    assert report.target is not None


def _of_target(report):
    """All that is said, but for the one token that makes k3 of these samples."""
    return [warning for warning in report.warnings if not warning.startswith("KL (k3) is made by one token")]


def test_a_target_that_nothing_meets_is_told_once():
    highest = SAMPLES.rewards.max()
    (warning,) = _of_target(evaluate(SAMPLES, Condition(highest + 1)))
    assert warning.startswith(
        f"No completion reaches the threshold, {highest + 1:g}: the highest reward is {highest:g}"
    )
    excluded = replace(SAMPLES, rewards=np.full(len(SAMPLES), -np.inf))
    for target in (Tilt(0.1), Condition(0.0)):
        (warning,) = _of_target(evaluate(excluded, target))
        assert warning.startswith("All rewards are -inf: the target excludes every completion")


@pytest.mark.parametrize("target", [Tilt(0.5), Condition(-10.0)])
def test_a_prior_that_can_produce_nothing_is_told(target):
    values = SAMPLES.prior_logprobs.values.copy()
    values[SAMPLES.completions.offsets[:-1]] = -np.inf
    report = evaluate(replace(SAMPLES, prior_logprobs=Ragged(values, SAMPLES.completions.offsets)), target)
    assert report.target.log_z.value == -np.inf
    assert any("The prior cannot produce any of the completions that the target allows" in w for w in report.warnings)


def test_a_prompt_without_weight_leaves_the_gap_unknown_and_the_report_says_why():
    rewards = SAMPLES.rewards.copy()
    rewards[:5] = -np.inf
    report = evaluate(replace(SAMPLES, rewards=rewards), Tilt(0.5))
    assert np.isnan(report.target.inference_gap.value)
    text = "\n".join(report.warnings)
    assert "In 1 of 12 prompts no completion has weight" in text
    assert "the inference gap is not known" in text
    assert "log Z and the inference gap are" not in text


def test_a_pareto_k_is_held_against_its_own_prompts_size():
    large = random_samples(prompts=5, per_prompt=100)
    near = replace(large, prior_logprobs=Ragged(large.policy_logprobs.values * 1.01, large.completions.offsets))
    single = _only_first(near.take_prompts([0]))
    warnings = evaluate(concatenate([single, near]), Tilt(5.0)).warnings
    assert any("1 of 6 prompts has a single completion" in warning for warning in warnings)
    assert not any("Pareto k" in warning for warning in warnings)


def test_one_pareto_k_that_none_can_trust_is_told_whatever_chance_may_do():
    """Of four prompts one is at 0.74, and the errors of k are as large as what that is too much."""
    on_policy = random_samples(prompts=4, per_prompt=256)
    u = (np.random.default_rng(0).permutation(256) + 0.5) / 256
    heavy = replace(
        on_policy,
        prior_logprobs=on_policy.policy_logprobs,
        rewards=np.concatenate([-k * np.log(u) for k in (0.40, 0.40, 0.42, 0.82)]),
    )
    report = evaluate(heavy, Tilt(1.0))
    assert 0.7 < report.target.pareto_k < 0.8
    told = f"In 1 of 4 prompts Pareto k is above 0.7 (up to {report.target.pareto_k:.2f}), which no estimate"
    assert any(warning.startswith(told) for warning in report.warnings)
    assert any("In 1 of 4 prompts Pareto k" in warning for warning in report.target.forward_kl.warnings)


def test_a_policy_that_the_target_excludes_is_infinitely_far_and_the_report_says_why():
    samples = random_samples(per_prompt=40)
    report = evaluate(samples, Condition(float(np.median(samples.rewards))))
    assert report.target.inference_gap.value == np.inf
    text = "\n".join(report.warnings)
    assert "The inference gap is infinite: the policy produced completions that the target excludes" in text
    assert "Raise beta" not in text
    assert "log Z and the inference gap are" not in text


def test_what_is_no_target_is_refused():
    with pytest.raises(TypeError, match="target is float: it must be a Tilt, a Condition"):
        evaluate(SAMPLES, 0.5)


def test_a_reward_that_beta_divides_beyond_any_number_is_named():
    rewards = SAMPLES.rewards.copy()
    rewards[7] = 1e308
    with pytest.raises(ValueError, match=r"rewards\[7\] is 1e\+308: divided by beta = 0.1, it overflows"):
        evaluate(replace(SAMPLES, rewards=rewards), Tilt(0.1))


def test_one_prompt_is_told():
    assert any("There is one prompt" in warning for warning in evaluate(SAMPLES.take_prompts([0])).warnings)


def test_an_impossible_completion_is_told_without_a_target():
    values = SAMPLES.policy_logprobs.values.copy()
    values[0] = -np.inf
    broken = replace(SAMPLES, policy_logprobs=Ragged(values, SAMPLES.completions.offsets))
    told = [w for w in evaluate(broken).warnings if "cannot have produced 1 of" in w]
    assert len(told) == 1


def test_a_prior_beyond_any_perplexity_is_infinitely_perplexed():
    unheard_of = Ragged(np.full(len(SAMPLES.completions.values), -1e4), SAMPLES.completions.offsets)
    assert evaluate(replace(SAMPLES, prior_logprobs=unheard_of)).prior_perplexity == np.inf


def test_warnings_say_what_is_wrong_and_what_to_do():
    few = evaluate(random_samples(prompts=3, per_prompt=40), Tilt(0.01))
    text = "\n".join(few.warnings)
    assert "there are only 3 prompts" in text
    assert "The effective sample size is" in text


def test_a_clearly_negative_kl_is_told():
    low = replace(SAMPLES, policy_logprobs=Ragged(SAMPLES.prior_logprobs.values - 0.5, SAMPLES.completions.offsets))
    assert any("below 0, which no KL is" in warning for warning in evaluate(low).warnings)


def test_heavy_tails_are_told():
    n = 2000
    rewards = np.random.default_rng(0).pareto(1.0, n)
    samples = Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[2]] * n), [0, n], rewards=np.log(rewards + 1))
    report = evaluate(samples, Tilt(0.5), proposal="prior")
    assert report.target.pareto_k > 0.7
    assert any("Pareto k is" in warning for warning in report.warnings)


def test_a_panic_of_a_kernel_is_an_exception_and_the_next_call_works():
    from esscher import _core

    with pytest.raises(RuntimeError, match="a kernel panicked, which is a bug: on purpose"):
        _core.panic()
    assert evaluate(SAMPLES).counts.completions == 60


def test_many_completions_with_equal_weights_are_not_called_few():
    """Where the tail's weights are mostly ties there is no Pareto k, however many completions there are."""
    n = 200
    samples = Samples(
        prompts=Ragged.from_rows([[1]]),
        completions=Ragged.from_rows([[5]] * n),
        groups=[0, n],
        policy_logprobs=Ragged.from_rows([[-1.0]] * n),
        prior_logprobs=Ragged.from_rows([[-1.0]] * n),
        rewards=np.where(np.arange(n) % 4 == 0, 1.0, np.where(np.arange(n) == 1, 1.5, 0.0)),
    )
    report = evaluate(samples, Tilt(0.5))
    assert np.isnan(report.target.pareto_k)
    assert not any("too few" in warning for warning in report.warnings)


def test_pairs_have_no_excess_of_distinct_pairs_and_the_report_says_why():
    report = evaluate(random_samples(per_prompt=2), Tilt(1.0))
    distinct, repetition = report.excess_collapse
    assert np.isnan(distinct.within.value)
    assert np.isfinite(repetition.within.value)
    assert report.unavailable.keys() == {"excess of distinct-2 of 2"}
    assert "of two completions there is one pair" in report.unavailable["excess of distinct-2 of 2"]


def test_prompts_without_an_excess_are_told():
    """One completion has nearly all the weight of its prompt, so that there is no pair under the target."""
    samples = random_samples(prompts=12, per_prompt=8)
    rewards = np.where(np.arange(len(samples)) == 0, 100.0, samples.rewards)
    report = evaluate(replace(samples, rewards=rewards), Tilt(1.0))
    assert report.excess_collapse[0].left_out >= 1
    left = 12 - report.excess_collapse[0].left_out
    assert any(f"The excess of distinct-2 of 2 is that of {left} of 12 prompts" in text for text in report.warnings)


def test_a_reward_of_minus_infinity_that_has_weight_is_the_targets_mean():
    samples = random_samples(per_prompt=8)
    rewards = np.where(np.arange(len(samples)) % 5 == 0, -np.inf, samples.rewards)
    report = evaluate(replace(samples, rewards=rewards), Condition(-np.inf))
    assert report.target.reward.value == -np.inf
    assert np.isfinite(report.target.log_z.value)


def test_tails_of_nearly_equal_weights_are_not_told_by_the_kl_of_the_target_either():
    rng = np.random.default_rng(0)
    completions = Ragged.from_rows([[i] for i in range(4000)])
    policy = Ragged(np.full(4000, -1.0), completions.offsets)
    noise = 0.01 * np.clip(rng.standard_cauchy(4000), -40.0, 40.0)
    samples = Samples(
        Ragged.from_rows([[p] for p in range(20)]),
        completions,
        np.arange(0, 4001, 200),
        policy,
        Ragged(-1.0 + noise, completions.offsets),
        rewards=np.zeros(4000),
    )
    report = evaluate(samples, Tilt(1.0))
    assert report.target.pareto_k > 0.7
    assert report.target.ess > 0.95 * 4000
    assert not any("Pareto k" in text for text in (*report.warnings, *report.target.forward_kl.warnings))


def test_excess_is_that_of_metrics_between_0_and_1():
    """The jackknife of a few completions would go beyond."""
    for seed in range(60):
        samples = random_samples(seed, prompts=4, per_prompt=4)
        for excess in evaluate(samples, Tilt(0.3)).excess_collapse:
            assert np.isnan(excess.within.value) or -1 <= excess.within.value <= 1


@pytest.mark.parametrize(("exact", "is_told"), [(6.0, False), (7.0, True), (4.0, True)])
def test_k3_far_from_the_exact_kl_is_told_though_its_own_error_does_not_show_it(exact, is_told):
    """One token of 80, that the prior likes, makes the mean of prior/policy 1 within its error; k3 is 48.1 nats."""
    log_ratios = np.full(80, 5.0)
    log_ratios[3] = -4.3
    lengths = np.full(8, 10)
    samples = Samples(
        prompts=Ragged.from_rows([[p] for p in range(8)]),
        completions=Ragged.from_lengths(np.arange(80), lengths),
        groups=np.arange(9),
        policy_logprobs=Ragged.from_lengths(np.full(80, -5.0), lengths),
        prior_logprobs=Ragged.from_lengths(-5.0 - log_ratios, lengths),
        token_kl=Ragged.from_lengths(np.full(80, exact * 0.8), lengths),
    )
    report = evaluate(samples)
    assert doubts(report.kl["k3"]) == ()
    told = [text for text in report.warnings if text.startswith("k3 at token level reads 48.1 nats")]
    assert len(told) == is_told


def test_samples_are_weighed_once(monkeypatch):
    """Log-probs of each model are summed once, the KL takes one pass, and only the four halvings have other weights."""
    calls = Counter()

    def counted(name, kernel):
        def call(*arguments):
            calls[name] += 1
            return kernel(*arguments)

        return call

    kernels = ("aggregate_logprobs", "kl", "normalise", "pareto_smooth")
    for name in kernels:
        monkeypatch.setattr(_core, name, counted(name, getattr(_core, name)))
    evaluate(replace(SAMPLES), Tilt(1.0))
    assert [calls[name] for name in kernels] == [2, 1, 5, 1]
