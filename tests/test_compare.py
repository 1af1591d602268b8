"""`compare`: policies beside the frontier, against exact enumeration, and from the command line."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from esscher import Ragged, Samples, Tilt, compare, estimate_kl, evaluate, files, sequence_logprobs
from esscher.compare.efficiency import estimate_efficiency
from esscher.lm.tabular import TabularLM
from esscher.report.comparison import print_comparison
from pages import check_page, plain
from report_json import read, record_of

PROMPTS, DRAWN = 6, 1000


def reward(completion):
    """Of one completion always the same, and of no two alike."""
    return float(np.tanh(np.random.default_rng(completion.tolist()).normal()))


def rewarded(samples):
    return replace(samples, rewards=np.array([reward(row) for row in samples.completions]))


LOGITS = np.random.default_rng(0).normal(size=(PROMPTS, 13, 4))
LIKED = np.array([reward(np.array([token])) for token in range(4)])
PRIOR = TabularLM(LOGITS)
POLICIES = {"little": TabularLM(LOGITS + 0.5 * LIKED), "much": TabularLM(LOGITS + 2.0 * LIKED)}
EVERY = rewarded(PRIOR.completions())
PRIOR_PROBABILITY = np.exp(sequence_logprobs(EVERY.policy_logprobs))
BETA = 0.5


def draw(model, seed):
    drawn = model.sample(Ragged.from_rows([[p] for p in range(PROMPTS)]), DRAWN, 3, np.random.default_rng(seed))
    scored = PRIOR.logprobs(drawn.prompts, drawn.completions, drawn.groups)
    return rewarded(replace(drawn, prior_logprobs=scored))


def exact_target(beta):
    weights = PRIOR_PROBABILITY * np.exp(EVERY.rewards / beta)
    z = np.add.reduceat(weights, EVERY.groups[:-1])
    return weights / z[EVERY.groups.of]


def exact(model):
    """Reward and KL of a policy, the reward of the target at that KL, and its inference gap at BETA."""
    probability = np.exp(sequence_logprobs(model.logprobs(EVERY.prompts, EVERY.completions, EVERY.groups)))

    def kl(p, q):
        return float((p * np.log(p / q)).sum() / PROMPTS)

    low, high = 0.01, 1e4
    for _ in range(100):
        middle = np.sqrt(low * high)
        low, high = (
            (middle, high)
            if kl(exact_target(middle), PRIOR_PROBABILITY) > kl(probability, PRIOR_PROBABILITY)
            else (low, middle)
        )
    return {
        "reward": float(probability @ EVERY.rewards / PROMPTS),
        "kl": kl(probability, PRIOR_PROBABILITY),
        "reachable": float(exact_target(low) @ EVERY.rewards / PROMPTS),
        "gap": kl(probability, exact_target(BETA)),
    }


@pytest.fixture(scope="module")
def prior():
    return replace(draw(PRIOR, 1), policy_logprobs=None)


@pytest.fixture(scope="module")
def policies():
    return {name: draw(model, 2 + i) for i, (name, model) in enumerate(POLICIES.items())}


@pytest.fixture(scope="module")
def found(prior, policies):
    return compare(prior, policies, beta=BETA)


def test_points_are_near_the_exact_ones(found):
    least = float(PRIOR_PROBABILITY @ EVERY.rewards / PROMPTS)
    for point, model in zip(found.policies, POLICIES.values(), strict=True):
        expected = exact(model)
        assert point.reward.value == pytest.approx(expected["reward"], abs=0.05)
        assert point.kl.value == pytest.approx(expected["kl"], abs=0.05)
        assert point.reachable.value == pytest.approx(expected["reachable"], abs=0.05)
        efficiency = (expected["reward"] - least) / (expected["reachable"] - least)
        # Prompts are the same in both sets of samples, so that the error is well below the standard error.
        assert abs(point.efficiency.value - efficiency) < 2 * point.efficiency.stderr
        assert point.inference_gap.value == pytest.approx(expected["gap"], abs=0.05)
        assert point.efficiency_interval.low < point.efficiency.value < point.efficiency_interval.high


def test_own_gap_and_excess_are_those_of_evaluate(found, policies):
    for point, samples in zip(found.policies, policies.values(), strict=True):
        report = evaluate(samples, Tilt(BETA))
        assert point.own_inference_gap == report.target.inference_gap
        assert point.excess_collapse == report.excess_collapse


def test_the_gap_is_the_exact_one_by_the_priors_samples_or_by_both(prior, policies):
    for name, model in POLICIES.items():
        scored = replace(prior, policy_logprobs=model.logprobs(prior.prompts, prior.completions, prior.groups))
        for samples, by in ((prior, {"prior": PROMPTS}), (scored, {"both": PROMPTS})):
            (point,) = compare(samples, {name: policies[name]}, beta=BETA).policies
            assert point.log_z.best_by == by
            assert abs(point.inference_gap.value - exact(model)["gap"]) < 0.05
            low, high, _ = point.inference_gap_interval
            assert 0 <= low < exact(model)["gap"] < high


def test_of_a_collapsed_policy_the_gap_is_not_what_its_own_samples_show(prior):
    """They show nothing of what the policy misses, so that by them it looks near to its target."""
    model = TabularLM(LOGITS + 8.0 * LIKED)
    (point,) = compare(prior, {"collapsed": draw(model, 9)}, beta=BETA).policies
    expected = exact(model)["gap"]
    assert point.own_inference_gap.value < expected - 0.2
    assert np.isnan(point.own_inference_gap.stderr)
    assert abs(point.inference_gap.value - expected) < 0.05
    assert point.inference_gap_interval.low < expected < point.inference_gap_interval.high
    assert point.log_z.best_by == {"prior": PROMPTS}


def test_of_one_prompt_the_gap_has_an_interval_of_its_completions(prior, policies):
    one, much = prior.take_prompts([0]), policies["much"].take_prompts([0])
    scored = replace(one, policy_logprobs=POLICIES["much"].logprobs(one.prompts, one.completions, one.groups))
    for samples in (one, scored):
        (point,) = compare(samples, {"much": much}, beta=BETA).policies
        assert point.inference_gap.stderr > 0
        assert "of one prompt" in point.inference_gap_interval.assumes


def test_the_target_itself_is_fully_efficient(prior):
    """Its samples are drawn from the enumeration."""
    rng, target = np.random.default_rng(5), exact_target(BETA)
    drawn = np.concatenate(
        [
            rng.choice(np.arange(a, b), size=DRAWN, p=target[a:b] / target[a:b].sum())
            for a, b in zip(EVERY.groups[:-1], EVERY.groups[1:], strict=True)
        ]
    )
    logprobs = EVERY.policy_logprobs.take(drawn)
    shares = np.log(target / PRIOR_PROBABILITY)[drawn] / logprobs.lengths
    samples = replace(
        EVERY,
        completions=EVERY.completions.take(drawn),
        groups=np.arange(PROMPTS + 1) * DRAWN,
        policy_logprobs=Ragged(
            np.minimum(logprobs.values + np.repeat(shares, logprobs.lengths), 0.0), logprobs.offsets
        ),
        prior_logprobs=logprobs,
        rewards=EVERY.rewards[drawn],
        terminated=None,
    )
    (point,) = compare(prior, {"target": samples}).policies
    assert point.efficiency.value == pytest.approx(1.0, abs=0.08)
    assert point.beta == pytest.approx(BETA, rel=0.15)


def test_without_beta_each_is_held_against_the_target_of_its_kl(prior, policies):
    points = compare(prior, policies).policies
    assert [point.target.beta for point in points] == [point.beta for point in points]
    assert points[0].beta > points[1].beta


def test_what_the_priors_samples_do_not_show_is_not_known(prior, policies):
    far = replace(policies["much"], policy_logprobs=policies["much"].prior_logprobs)
    far = replace(far, prior_logprobs=Ragged(far.prior_logprobs.values - 10.0, far.prior_logprobs.offsets))
    same = replace(policies["little"], policy_logprobs=policies["little"].prior_logprobs)
    found = compare(replace(prior, prior_logprobs=None), {"far": far, "same": same})
    for point in found.policies:
        assert point.beta is point.reachable is point.efficiency is point.inference_gap is None
    assert any("far: What its KL could buy is not known: kl is" in warning for warning in found.warnings)
    assert any("same: Its KL is exactly 0" in warning for warning in found.warnings)
    record_of("compare", found)
    out = StringIO()
    print_comparison(found, Console(file=out, width=100))
    assert "not known" in out.getvalue()


def test_log_z_is_known_by_the_samples_of_prior_and_policy_and_by_both(prior, policies):
    """All within 4 of their standard errors of the exact one, of which that by both is the smallest."""
    z = np.add.reduceat(PRIOR_PROBABILITY * np.exp(EVERY.rewards / BETA), EVERY.groups[:-1])
    for name, model in POLICIES.items():
        scored = replace(prior, policy_logprobs=model.logprobs(prior.prompts, prior.completions, prior.groups))
        (point,) = compare(scored, {name: policies[name]}, beta=BETA).policies
        found = point.log_z
        for estimate in (found.prior, found.policy, found.both):
            assert abs(estimate.value - np.log(z).mean()) < 4 * estimate.stderr
        assert found.both.stderr < min(found.prior.stderr, found.policy.stderr)
        assert found.agree
        assert found.difference < 3
        lower, upper = point.log_z_bounds
        assert lower.value < found.both.value < upper.value
        report = evaluate(policies[name], Tilt(BETA)).target
        assert (lower, upper) == (report.elbo, report.eubo)
        assert found.policy.value == pytest.approx(report.log_z.value, rel=1e-12)


def test_log_z_by_both_needs_log_probs_of_the_one_policy(prior, policies):
    """Those of the sampler are the prior's own, and of several policies it is not known whose they are."""
    own = replace(prior, policy_logprobs=prior.prior_logprobs)
    assert compare(own, {"much": policies["much"]}).policies[0].log_z.both is None
    logprobs = POLICIES["much"].logprobs(prior.prompts, prior.completions, prior.groups)
    several = compare(replace(prior, policy_logprobs=logprobs), policies).policies
    assert [point.log_z.both for point in several] == [None, None]


def test_prompts_are_matched_whatever_their_order(prior, policies):
    """And only those that all files have are compared, and a warning says so."""
    logprobs = POLICIES["much"].logprobs(prior.prompts, prior.completions, prior.groups)
    scored, much = replace(prior, policy_logprobs=logprobs), policies["much"]
    (straight,) = compare(scored, {"much": much}).policies
    (backwards,) = compare(scored, {"much": much.take_prompts(np.arange(PROMPTS)[::-1])}).policies
    assert backwards.efficiency == pytest.approx(straight.efficiency, rel=1e-12)
    assert backwards.log_z.both == pytest.approx(straight.log_z.both, rel=1e-12)
    partly = compare(scored, {"much": much.take_prompts([4, 0, 2])})
    alone = compare(scored.take_prompts([0, 2, 4]), {"much": much.take_prompts([0, 2, 4])})
    assert partly.policies[0].efficiency == alone.policies[0].efficiency
    seen = "that all samples share are compared, 3 of them: the prior's samples have 6, 'much' has 3"
    assert [seen in warning for warning in partly.warnings].count(True) == 1
    single = of_first(replace(scored, policy_logprobs=scored.prior_logprobs), 1)
    with pytest.raises(ValueError, match="prior, of the shared prompts: prompt 0 has 1 sample"):
        compare(single, {"much": much.take_prompts([4])})
    with pytest.raises(ValueError, match="the prior's samples and 'much' share no prompt"):
        compare(scored.take_prompts([0]), {"much": much.take_prompts([1])})


def test_prompts_of_different_sizes_count_alike_for_both():
    """Rewards of different prompts lie 10 apart, and neither set of samples has as many of one as the other."""
    rng = np.random.default_rng(11)

    def cut(samples):
        sizes = rng.integers(200, DRAWN, PROMPTS)
        rows = np.concatenate([start + np.arange(n) for start, n in zip(samples.groups[:-1], sizes, strict=True)])
        return Samples(
            samples.prompts,
            samples.completions.take(rows),
            np.concatenate([[0], np.cumsum(sizes)]),
            samples.policy_logprobs.take(rows),
            samples.prior_logprobs.take(rows),
            rewards=samples.rewards[rows] + 10.0 * samples.groups.of[rows],
        )

    points = [
        compare(cut(draw(PRIOR, seed)), {"much": cut(draw(POLICIES["much"], seed + 50))}).policies[0]
        for seed in range(8)
    ]
    least = float(PRIOR_PROBABILITY @ EVERY.rewards / PROMPTS)
    expected = exact(POLICIES["much"])
    efficiency = (expected["reward"] - least) / (expected["reachable"] - least)
    found = [point.efficiency.value for point in points]
    assert np.std(found) < 0.1  # prompts that count otherwise would move it by more than 1
    assert np.mean(found) == pytest.approx(efficiency, abs=0.2)


def test_what_evaluate_warns_of_is_told_and_by_whom(prior, policies):
    few = {name: of_first(samples, 4) for name, samples in policies.items()}
    found = compare(prior, few | {"alone": of_first(policies["much"], 1)}, beta=BETA)
    for name in few:
        for said in evaluate(few[name], Tilt(BETA)).warnings:
            # The gap of a comparison is another.
            warning = re.sub("(the) inference gap", r"\1 gap by its own samples", said, flags=re.I)
            assert any(name in told.split(": ")[0] and warning in told for told in found.warnings), warning
    assert sum("Standard errors are clustered by prompt" in told for told in found.warnings) == 1
    assert any("alone: Gap and excess not available: a prompt's only" in told for told in found.warnings)
    assert any("alone: log Z of tilt" in told and "cannot be compared" in told for told in found.warnings)
    assert (found.policies[2].log_z.compared, found.policies[2].log_z.agree) == (0, None)
    assert record_of("compare", found)["policies"][2]["log_z"]["agree"] is None


def of_first(samples, n):
    """Return the first n completions of each prompt."""
    rows = np.concatenate([start + np.arange(n) for start in samples.groups[:-1]])
    return replace(
        samples,
        completions=samples.completions.take(rows),
        groups=np.arange(len(samples.prompts) + 1) * n,
        policy_logprobs=samples.policy_logprobs.take(rows),
        prior_logprobs=samples.prior_logprobs.take(rows),
        rewards=samples.rewards[rows],
        terminated=None,
    )


@pytest.mark.parametrize("whose", ["its", "the prior's"])
def test_rewards_of_minus_infinity_leave_no_share(prior, policies, whose):
    def spoilt(samples):
        return replace(samples, rewards=np.where(samples.rewards < -0.9, -np.inf, samples.rewards))

    others = spoilt(prior), spoilt(policies["much"])
    found = compare(others[0] if whose != "its" else without_low(prior), {"much": others[1]}, beta=BETA)
    (point,) = found.policies
    assert point.efficiency is point.efficiency_interval is point.reachable is None
    assert any("have a reward of -inf, and so has their mean" in told for told in found.warnings)
    out = StringIO()
    print_comparison(found, Console(file=out, width=100))
    assert "not known %" not in out.getvalue()
    if whose != "its":
        assert np.isneginf(found.prototype.best_of_n.reward.value).all()


def without_low(samples):
    """Return the samples less those whose reward is made -inf, so that none disagrees."""
    rows = np.flatnonzero(samples.rewards >= -0.9)
    kept = np.add.reduceat((samples.rewards >= -0.9).astype(int), samples.groups[:-1])
    return Samples(
        samples.prompts,
        samples.completions.take(rows),
        np.concatenate([[0], np.cumsum(kept)]),
        rewards=samples.rewards[rows],
    )


def test_completions_that_nothing_can_have_produced_are_refused(prior, policies):
    def without(logprobs):
        values = logprobs.values.copy()
        values[7] = -np.inf
        return Ragged(values, logprobs.offsets)

    much = policies["much"]
    with pytest.raises(ValueError, match=r"policy 'much': policy_logprobs\[\d\] sums to -inf: the policy cannot"):
        compare(prior, {"much": replace(much, policy_logprobs=without(much.policy_logprobs))})
    with pytest.raises(ValueError, match=r"prior: prior_logprobs\[\d\] sums to -inf: the prior cannot"):
        compare(replace(prior, prior_logprobs=without(prior.prior_logprobs)), {"much": much})
    found = compare(prior, {"much": replace(much, prior_logprobs=without(much.prior_logprobs))})
    assert any("much: KL is infinite: the prior cannot produce" in told for told in found.warnings)


def test_other_rewards_of_the_same_completions_are_told_or_refused(prior, policies):
    much = policies["much"]
    with pytest.raises(ValueError, match=r"policy 'much': the reward of completion \d+ is .* another reward"):
        compare(prior, {"much": replace(much, rewards=much.rewards * 100.0)})
    found = compare(prior, {"much": replace(much, rewards=much.rewards + 0.01)})
    assert any("much: The reward of completion" in told for told in found.warnings)
    assert not any("The reward of completion" in told for told in compare(prior, {"much": much}).warnings)


def test_a_few_log_probs_that_differ_are_not_told(prior, policies):
    """Up to one in twenty completions, as of an engine that is off here and there."""
    much = policies["much"]
    values = much.prior_logprobs.values.copy()
    values[: int(much.prior_logprobs.offsets[len(much) // 25])] -= 1.0
    found = compare(prior, {"much": replace(much, prior_logprobs=Ragged(values, much.completions.offsets))})
    assert not any("prior_logprobs of completion" in told for told in found.warnings)


def test_no_more_is_reachable_than_the_highest_reward():
    """One of ten samples is better by far, and the correction of a mean that it decides would go beyond it."""
    rewards = np.where(np.arange(100) % 10 == 0, 1.0, 0.0)
    logprobs = Ragged.from_rows([[-1.0]] * 100)
    samples = Samples(
        Ragged.from_rows([[p] for p in range(10)]),
        Ragged.from_rows([[i] for i in range(100)]),
        np.arange(0, 101, 10),
        logprobs,
        Ragged.from_rows([[-1.0 - 2.0 * r] for r in rewards]),
        rewards=rewards,
    )
    found = estimate_efficiency(samples, estimate_kl(samples, "k1"), 0.1, samples)
    assert found.reachable.value == 1.0


def test_more_than_any_policy_can_get_is_told(prior, policies):
    """A policy that another, kinder reward was given to."""
    little = policies["little"]
    found = compare(prior, {"little": replace(little, rewards=little.rewards + 0.45)})
    assert found.policies[0].efficiency_interval.low > 1
    assert any("little: It got more than any policy of its KL can" in told for told in found.warnings)


def test_a_prompt_scored_by_another_model_is_told(prior, policies):
    much = policies["much"]
    values = much.prior_logprobs.values.copy()
    values[: int(much.prior_logprobs.offsets[much.groups[2]])] -= 1.0
    found = compare(prior, {"much": replace(much, prior_logprobs=Ragged(values, much.completions.offsets))})
    assert any("much: The prior_logprobs of completion" in told for told in found.warnings)


def test_samples_that_miss_the_target_disagree(prior, policies):
    """The policy's samples of what it likes best are taken away: what they say of log Z is wrong."""
    whole = policies["much"]
    poor = whole.rewards < 0.3
    kept = Samples(
        prompts=whole.prompts,
        completions=whole.completions.take(np.flatnonzero(poor)),
        groups=np.concatenate([[0], np.cumsum(np.add.reduceat(poor.astype(int), whole.groups[:-1]))]),
        policy_logprobs=whole.policy_logprobs.take(np.flatnonzero(poor)),
        prior_logprobs=whole.prior_logprobs.take(np.flatnonzero(poor)),
        rewards=whole.rewards[poor],
    )
    found = compare(prior, {"cut": kept}, beta=BETA)
    assert not found.policies[0].log_z.agree
    assert any("cut: log Z of " in warning for warning in found.warnings)
    record = record_of("compare", found)["policies"][0]["log_z"]
    assert record["agree"] is False
    assert record["both"] is None
    assert record["difference"] > 3


@pytest.mark.parametrize("column", ["prior_logprobs", "policy_logprobs"])
def test_log_probs_of_other_models_are_refused(prior, policies, column):
    logprobs = POLICIES["much"].logprobs(prior.prompts, prior.completions, prior.groups)
    scored = replace(prior, policy_logprobs=logprobs)
    off = getattr(scored, column)
    off = Ragged(off.values - 0.8 * np.random.default_rng(3).random(len(off.values)), off.offsets)
    with pytest.raises(ValueError, match=f"policy 'much': the {column} of completion .* different models"):
        compare(replace(scored, **{column: off}), {"much": policies["much"]})
    noisy = getattr(scored, column)
    noisy = Ragged(noisy.values - 0.2 * np.random.default_rng(3).random(len(noisy.values)), noisy.offsets)
    compare(replace(scored, **{column: noisy}), {"much": policies["much"]})


def test_few_completions_are_told_to_be_few_and_not_to_be_wrong(prior):
    """The policy has what it can have at its KL; of few samples of the prior, that seems more than can be."""
    scored = PRIOR.completions()
    weights = exact_target(BETA)
    rng = np.random.default_rng(3)
    rows = np.concatenate(
        [
            rng.choice(np.arange(a, b), 200, p=weights[a:b] / weights[a:b].sum())
            for a, b in itertools.pairwise(scored.groups)
        ]
    )
    prior_logprobs = scored.policy_logprobs.take(rows)
    shift = np.repeat(np.log(weights / PRIOR_PROBABILITY)[rows] / prior_logprobs.lengths, prior_logprobs.lengths)
    target = Samples(
        scored.prompts,
        scored.completions.take(rows),
        np.arange(PROMPTS + 1) * 200,
        Ragged(np.minimum(prior_logprobs.values + shift, 0.0), prior_logprobs.offsets),
        prior_logprobs,
        EVERY.rewards[rows],
    )
    few = of_first(replace(prior, policy_logprobs=prior.prior_logprobs), 2)
    told = "\n".join(compare(few, {"target": target}, beta=0.1).warnings)
    assert "With 12 samples, 2 a prompt, no target can be trusted" in told
    assert "With few completions a prompt both are on average too low: draw 8 or more of each" in told
    assert "more than any policy" not in told


def test_columns_that_lack_are_named(prior, policies):
    with pytest.raises(ValueError, match="policy 'bare': samples have no rewards: a comparison is of rewards"):
        compare(prior, {"bare": replace(policies["much"], rewards=None)})
    with pytest.raises(ValueError, match=r"policy 'bare': samples have no prior_logprobs: .* `esscher score` adds"):
        compare(prior, {"bare": replace(policies["much"], prior_logprobs=None)})
    with pytest.raises(ValueError, match="policies is empty"):
        compare(prior, {})


def test_the_command_says_the_same(found, prior, policies, tmp_path, esscher, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write(files.to_table(prior), tmp_path / "prior.parquet")
    for name, samples in policies.items():
        files.write(files.to_table(samples), tmp_path / f"{name}.parquet")
    arguments = ("compare", "little.parquet", "much.parquet", "--prior", "prior.parquet", "--beta", BETA)
    code, out, err = esscher(*arguments, "--html", "page.html", "--picture", "picture.png")
    assert code == 0, err
    text = plain(out)
    assert "Policies, and what their KL could buy" in text
    assert f"target tilt|beta:{BETA}" in text
    assert "Picture: " in text
    page = (tmp_path / "page.html").read_text()
    check_page(page)
    assert ">little<" in page
    assert "± of log Z by samples is of these prompts" in page
    assert "± is one standard error over prompts" in page
    assert (tmp_path / "picture.png").exists()
    record = read("compare", esscher(*arguments, "--json")[1])
    assert [policy["name"] for policy in record["policies"]] == ["little", "much"]
    # Files hold log-probs as float32.
    efficiencies = [policy["efficiency"]["value"] for policy in record["policies"]]
    assert efficiencies == pytest.approx([point.efficiency.value for point in found.policies], rel=1e-4)
    code, _, err = esscher("compare", "much.parquet", "much.parquet", "--prior", "prior.parquet")
    assert code == 2
    assert "two files are called much" in plain(err)
    table = files.to_table(policies["much"])
    names = {"policy_logprobs": "logp", "rewards": "score"}
    renamed = table.rename_columns([names.get(name, name) for name in table.column_names])
    files.write(renamed, tmp_path / "renamed.parquet")
    renames = ("--columns", "policy_logprobs=logp", "--columns", "rewards=score")
    code, out, err = esscher("compare", "renamed.parquet", "--prior", "prior.parquet", "--json", *renames)
    assert code == 0, err
    assert read("compare", out)["policies"][0]["kl"] == record["policies"][1]["kl"]
    code, _, err = esscher("compare", "prior.parquet", "--prior", "prior.parquet")
    assert code == 2
    assert "given as the prior and as a policy" in plain(err)
