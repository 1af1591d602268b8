"""KL(policy‖prior) of samples: values against oracles, intervals against exact enumeration, warnings against causes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import oracle
from doubts import doubts
from esscher import Ragged, Samples, estimate_kl, sequence_logprobs
from esscher.divergence import estimate_kls
from esscher.lm.tabular import TabularLM
from models import alice

SEQUENCE = ("sequence_k2", "sequence_k3", "sequence_abs", "sequence_k1_cv")
TOKEN = ("k1", "k2", "k3", "abs", "k1_cv")


def models(seed, prompts=6, distance=0.6):
    """A prior and a policy at some distance from it."""
    rng = np.random.default_rng(seed)
    nodes = sum(3**k for k in range(4))
    logits = rng.normal(np.linspace(0.4, -0.5, 4), 1.0, size=(prompts, nodes, 4))
    return TabularLM(logits), TabularLM(logits + distance * rng.normal(0.2, 1.0, size=logits.shape))


def draw(policy, prior, n, seed, prompts=None):
    """`n` completions of every prompt of the policy, with log-probs under both."""
    prompts = Ragged.from_rows([[p] for p in range(6)]) if prompts is None else prompts
    drawn = policy.sample(prompts, n, 4, np.random.default_rng(seed))
    found = prior.logprobs(drawn.prompts, drawn.completions, drawn.groups)
    return replace(drawn, prior_logprobs=found)


def exact_kl(policy, prior):
    """The KL of every prompt, by enumerating its completions."""
    every = policy.completions()
    log_policy = sequence_logprobs(every.policy_logprobs)
    log_prior = sequence_logprobs(prior.logprobs(every.prompts, every.completions, every.groups))
    return np.add.reduceat(np.exp(log_policy) * (log_policy - log_prior), every.groups[:-1])


PRIOR, POLICY = models(1)
SAMPLES = draw(POLICY, PRIOR, 7, seed=0)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs"])
def test_values_and_errors_are_those_of_the_oracles(estimator, level):
    got = estimate_kl(SAMPLES, estimator, level=level)
    per_sequence = oracle.kl(SAMPLES.policy_logprobs, SAMPLES.prior_logprobs, estimator, level)
    assert got.per_sequence == pytest.approx(per_sequence, rel=1e-11)
    assert got[:2] == pytest.approx(oracle.clustered_mean(per_sequence, SAMPLES.groups), rel=1e-11)
    assert got.raw == got.value
    assert (got.clamped, got.ess, got.pareto_k) == (0.0, None, None)
    assert got.interval.low < got.value < got.interval.high


def test_all_at_once_are_the_single_ones():
    every = estimate_kls(SAMPLES)
    assert tuple(every) == (*TOKEN, *SEQUENCE)
    for name, estimate in every.items():
        level = "sequence" if name.startswith("sequence_") else "token"
        alone = estimate_kl(SAMPLES, name.removeprefix("sequence_"), level=level)
        assert alone.signature == estimate.signature
        assert alone[:2] == estimate[:2]


def test_the_default_is_k1():
    assert estimate_kl(SAMPLES).signature == estimate_kls(SAMPLES)["k1"].signature


@pytest.mark.parametrize("groups", [SAMPLES.groups, [0, 42]], ids=["prompts", "one prompt"])
@pytest.mark.parametrize("name", ["k1_cv", "sequence_k1_cv"])
def test_the_control_variate_is_the_regression_on_it_of_the_others(name, groups):
    prompts = Ragged.from_rows([[p] for p in range(len(groups) - 1)])
    every = estimate_kls(replace(SAMPLES, prompts=prompts, groups=np.array(groups)))
    k1 = every["k1"].per_sequence
    control = every[name.replace("k1_cv", "k3")].per_sequence - k1
    draw_of = np.arange(42) if len(groups) == 2 else SAMPLES.groups.of
    # The coefficient solves min_c var(k1 + c control) where the control's mean is known to be 0.
    best = np.empty(42)
    for one in range(int(draw_of[-1]) + 1):
        others = draw_of != one
        centred = k1[others] - k1[others].mean()
        best[~others] = np.linalg.lstsq(control[others, None], -centred, rcond=None)[0][0]
    assert every[name].per_sequence == pytest.approx(k1 + best * control, rel=1e-9)
    assert f"|cv:{best.mean():.6g}|" in every[name].signature


def test_the_control_variate_lowers_the_error_and_stays_unbiased():
    exact = exact_kl(POLICY, PRIOR).mean()
    errors = {name: [] for name in ("k1", "k3", "k1_cv")}
    for seed in range(200):
        found = estimate_kls(draw(POLICY, PRIOR, 40, seed))
        for name in errors:
            errors[name].append(found[name].value - exact)
    rms = {name: float(np.sqrt(np.mean(np.square(error)))) for name, error in errors.items()}
    assert rms["k1_cv"] < 1.02 * min(rms["k1"], rms["k3"])
    assert rms["k1_cv"] < 0.6 * rms["k1"]
    assert abs(np.mean(errors["k1_cv"])) < 3 * rms["k1_cv"] / np.sqrt(200)


@pytest.mark.parametrize(("prompts", "n"), [(6, 6), (1, 36)])
@pytest.mark.parametrize("name", ["k1_cv", "sequence_k1_cv"])
def test_the_control_variate_is_unbiased_under_heavy_tails(name, prompts, n):
    prior, policy = models(1, distance=1.0)
    exact = exact_kl(policy, prior)[:prompts].mean()
    asked = Ragged.from_rows([[p] for p in range(prompts)])
    found = [estimate_kls(draw(policy, prior, n, seed, asked))[name] for seed in range(400)]
    errors = np.array([estimate.value - exact for estimate in found])
    assert abs(errors.mean()) < 3 * errors.std() / 20


def test_few_completions_fit_no_coefficient():
    few = estimate_kls(SAMPLES.take_prompts([0]))
    assert "|cv:0|" in few["k1_cv"].signature
    assert few["k1_cv"][:2] == few["k1"][:2]


@pytest.mark.parametrize("name", ["k1", "k3", "k1_cv"])
def test_intervals_cover_the_exact_kl(name):
    prior, policy = models(3, prompts=60, distance=0.4)
    exact = exact_kl(policy, prior)
    covered, rng = 0, np.random.default_rng(0)
    for seed in range(400):
        # The prompts are a sample too: the KL to be covered is the mean over all sixty.
        prompts = Ragged.from_rows([[p] for p in rng.integers(60, size=12)])
        low, high, _ = estimate_kls(draw(policy, prior, 4, seed, prompts=prompts))[name].interval
        covered += low <= exact.mean() <= high
    assert 0.91 <= covered / 400 <= 0.98


def test_exact_sums_the_tokens_kl():
    values = np.random.default_rng(0).gamma(1.0, size=len(SAMPLES.completions.values))
    token_kl = Ragged(values, SAMPLES.completions.offsets)
    got = estimate_kl(replace(SAMPLES, token_kl=token_kl), "exact")
    sums = [float(row.sum()) for row in token_kl]
    assert got.per_sequence == pytest.approx(sums, rel=1e-13)
    assert got[:2] == pytest.approx(oracle.clustered_mean(sums, SAMPLES.groups))
    assert got.signature.startswith("kl:exact|level:token|agg:seq-sum|")


def test_an_infinite_exact_kl_is_told():
    values = np.ones(len(SAMPLES.completions.values))
    values[[0, 1]] = np.inf
    rows = {SAMPLES.completions.locate(i)[0] for i in (0, 1)}
    got = estimate_kl(replace(SAMPLES, token_kl=Ragged(values, SAMPLES.completions.offsets)), "exact")
    assert got.value == np.inf
    assert got.warnings[0].startswith(f"KL is infinite: somewhere in {len(rows)} of 42 completions the policy gives")


def test_exact_without_token_kl_says_what_is_missing():
    with pytest.raises(ValueError, match="no token_kl: the exact KL needs the full-vocabulary KL of each token"):
        estimate_kl(SAMPLES, "exact")


def test_a_signature_says_how_to_make_the_number_again():
    presets = {name: estimate_kl(SAMPLES, preset=name) for name in ("trl-grpo", "trl-ppo", "openrlhf", "verl")}
    for made in [*estimate_kls(SAMPLES).values(), *presets.values()]:
        parts = dict(part.split(":") for part in made.signature.split("|"))
        if "preset" in parts:
            again = estimate_kl(SAMPLES, parts["kl"], preset=parts["preset"])
        else:
            again = estimate_kl(SAMPLES, parts["kl"], level=parts["level"])
        assert (again.value, again.stderr, again.signature) == (made.value, made.stderr, made.signature)
    assert len({made.signature for made in estimate_kls(SAMPLES).values()}) == 9


class TestOffPolicy:
    """Samples of an older policy, weighted to stand for the present one."""

    OLD = models(1, distance=0.25)[1]

    def drawn(self, n, seed):
        drawn = draw(self.OLD, PRIOR, n, seed)
        now = POLICY.logprobs(drawn.prompts, drawn.completions, drawn.groups)
        return replace(drawn, policy_logprobs=now), drawn.policy_logprobs

    @pytest.mark.parametrize("name", ["k1", "k3", "k1_cv", "sequence_k3"])
    def test_weights_remove_the_bias(self, name):
        exact, errors, unweighted = exact_kl(POLICY, PRIOR).mean(), [], []
        for seed in range(60):
            samples, proposal = self.drawn(100, seed)
            errors.append(estimate_kls(samples, proposal_logprobs=proposal)[name].value - exact)
            unweighted.append(estimate_kls(samples)[name].value - exact)
        stderr = np.std(errors) / np.sqrt(60)
        assert abs(np.mean(errors)) < 4 * stderr + 0.01
        assert abs(np.mean(unweighted)) > 0.05

    def test_the_value_is_the_weighted_mean(self):
        samples, proposal = self.drawn(20, seed=1)
        got = estimate_kl(samples, "k2", proposal_logprobs=proposal)
        weights = np.exp(sequence_logprobs(samples.policy_logprobs) - sequence_logprobs(proposal))
        assert got.value == pytest.approx(np.average(got.per_sequence, weights=weights), rel=1e-12)
        assert got.ess == pytest.approx(weights.sum() ** 2 / (weights @ weights), rel=1e-12)
        assert got.pareto_k is not None
        assert "|weights:policy/proposal|" in got.signature

    def test_the_policy_itself_as_proposal_changes_nothing(self):
        got = estimate_kl(SAMPLES, "k3", proposal_logprobs=SAMPLES.policy_logprobs)
        plain = estimate_kl(SAMPLES, "k3")
        assert got[:2] == pytest.approx(plain[:2], rel=1e-13)
        assert got.ess == len(SAMPLES)
        assert doubts(got) == doubts(plain) == ()

    def test_one_completion_a_prompt_can_be_weighted(self):
        samples, proposal = self.drawn(1, seed=2)
        got = estimate_kl(samples, proposal_logprobs=proposal)
        assert np.isfinite(got.value)
        assert 1 < got.ess < 6

    def test_a_far_proposal_is_told(self):
        policy = models(1, distance=4.0)[1]
        drawn = draw(PRIOR, PRIOR, 200, 0)
        now = policy.logprobs(drawn.prompts, drawn.completions, drawn.groups)
        got = estimate_kl(replace(drawn, policy_logprobs=now), proposal_logprobs=drawn.policy_logprobs)
        assert "policy/proposal" in " ".join(got.warnings)

    def test_a_proposal_that_cannot_have_produced_a_completion_is_refused(self):
        values = SAMPLES.policy_logprobs.values.copy()
        values[SAMPLES.completions.offsets[3]] = -np.inf
        with pytest.raises(ValueError, match=r"proposal_logprobs\[3\] sums to -inf"):
            estimate_kl(SAMPLES, proposal_logprobs=Ragged(values, SAMPLES.completions.offsets))

    def test_rows_must_be_those_of_the_completions(self):
        with pytest.raises(ValueError, match="proposal_logprobs has 1 rows, completions has 42: they must be equal"):
            estimate_kl(SAMPLES, proposal_logprobs=Ragged.from_rows([[-1.0]]))

    def test_a_policy_that_gives_nothing_weight_is_refused(self):
        nothing = Ragged(np.full(len(SAMPLES.completions.values), -np.inf), SAMPLES.completions.offsets)
        with pytest.raises(ValueError, match=r"policy_logprobs sum to -inf in every completion|undefined"):
            estimate_kl(replace(SAMPLES, policy_logprobs=nothing), proposal_logprobs=SAMPLES.policy_logprobs)


class TestWarnings:
    def test_good_samples_have_none(self):
        for seed in range(5):
            for estimate in estimate_kls(draw(POLICY, PRIOR, 50, seed)).values():
                assert doubts(estimate) == ()

    def test_a_policy_equal_to_its_prior_has_none(self):
        same = replace(SAMPLES, policy_logprobs=SAMPLES.prior_logprobs)
        for estimate in estimate_kls(same).values():
            assert estimate[:2] == (0.0, 0.0)
            assert estimate.interval[:2] == (0.0, 0.0)
            assert doubts(estimate) == ()
        weighted = estimate_kl(same, proposal_logprobs=same.policy_logprobs)
        assert (weighted.value, weighted.ess, weighted.pareto_k) == (0.0, len(same), -np.inf)
        assert doubts(weighted) == ()

    def test_a_collapsed_policy_makes_k3_read_low_and_it_says_by_how_much(self):
        # Nearly all mass on one token where the prior gives it a tenth: the rest is never sampled.
        samples = collapsed()
        every = estimate_kls(samples)
        exact = 12 * np.log(10)
        assert every["k1"].value == pytest.approx(exact, rel=1e-3)
        assert doubts(every["k1"]) == ()
        assert every["k3"].value < 0.65 * exact
        assert every["k3"].stderr < 0.01 * exact
        missed = every["k1"].value - every["k3"].value
        assert f"is about {missed:.3g} nats too low" in every["k3"].warnings[0]
        assert "mean of prior/policy over the sampled tokens is 0.1, not 1" in every["k3"].warnings[0]
        # Of a whole completion, k3 is at least k1 - 1: it misses little here.
        assert every["sequence_k3"].value == pytest.approx(exact - 1, rel=1e-3)
        assert doubts(every["sequence_k3"]) == ()

    @pytest.mark.parametrize(("sampling_temperature", "told"), [(1.0, False), (0.7, False), (0.2, True)])
    def test_on_a_real_model_k3_is_doubted_only_where_it_fails(self, sampling_temperature, told):
        lm = alice()
        prompts = lm.encode(["Alice was", "The Queen said", "Down the", "Said the Hatter", "At last", "The Rabbit"])
        rng = np.random.default_rng(0)
        drawn = lm.sample(prompts, 12, 16, rng, sampling_temperature=sampling_temperature)
        prior = lm.logprobs(drawn.prompts, drawn.completions, drawn.groups)
        every = estimate_kls(replace(drawn, prior_logprobs=prior))
        assert doubts(every["k1"]) == ()
        assert bool(doubts(every["k3"])) == told
        # What is doubted is more than its error bar away from k1, which is unbiased at any temperature.
        away = abs(every["k3"].value - every["k1"].value)
        assert (away > max(4 * every["k3"].stderr, 1e-3)) == told

    def test_samples_of_another_policy_are_told_from_a_mean_ratio_above_one(self):
        drawn = draw(PRIOR, PRIOR, 400, 0)
        far = POLICY.logprobs(drawn.prompts, drawn.completions, drawn.groups)
        warnings = estimate_kl(replace(drawn, policy_logprobs=far), "k3").warnings
        assert "they come from another policy" in warnings[0]

    def test_a_clearly_negative_kl_is_told(self):
        drawn = draw(POLICY, PRIOR, 200, 0)
        exchanged = replace(drawn, policy_logprobs=drawn.prior_logprobs, prior_logprobs=drawn.policy_logprobs)
        assert "below 0, which no KL is" in estimate_kl(exchanged).warnings[0]
        assert "policy and prior are not exchanged" in estimate_kl(exchanged).warnings[0]

    @pytest.mark.parametrize("name", ["policy_logprobs", "prior_logprobs"])
    def test_zero_filled_log_probs_are_told(self, name):
        column = getattr(SAMPLES, name)
        values = column.values.copy()
        values[column.offsets[2] : column.offsets[4]] = 0.0
        filled = replace(SAMPLES, **{name: Ragged(values, column.offsets)})
        long = int((column.lengths[2:4] > 1).sum())
        assert long > 0
        (warning,) = (w for w in estimate_kl(filled).warnings if "exactly 0" in w)
        assert warning.startswith(f"{long} of 42 completions have {name.partition('_')[0]} log-probs of exactly 0")

    def test_what_the_prior_cannot_produce_is_told(self):
        values = SAMPLES.prior_logprobs.values.copy()
        values[0] = -np.inf
        got = estimate_kl(replace(SAMPLES, prior_logprobs=Ragged(values, SAMPLES.completions.offsets)))
        assert got.value == np.inf
        assert np.isnan(got.stderr)
        assert doubts(got) == ("KL is infinite: the prior cannot produce 1 of 42 completions (a log-prob is -inf).",)

    @pytest.mark.parametrize("name", ["k1", "k3", "sequence_k2"])
    def test_what_the_policy_cannot_have_produced_is_told_whatever_the_estimator(self, name):
        values = SAMPLES.policy_logprobs.values.copy()
        values[0] = -np.inf
        forbidden = replace(SAMPLES, policy_logprobs=Ragged(values, SAMPLES.completions.offsets))
        got = estimate_kls(forbidden)[name]
        assert np.isinf(got.value)
        assert got.warnings[0].startswith("The policy cannot have produced 1 of 42 completions")
        # A proposal that could have produced it makes its weight 0, and all is well.
        weighted = estimate_kls(forbidden, proposal_logprobs=SAMPLES.policy_logprobs)[name]
        assert np.isfinite(weighted.value)
        assert not any("cannot have produced" in warning for warning in weighted.warnings)

    def test_a_huge_log_ratio_does_not_overflow_the_fit(self):
        policy = np.full((20, 2), -1.0)
        policy[0, 0] = -500.0
        prior = np.linspace(-1.5, -0.5, 40).reshape(20, 2)
        offsets = np.arange(21) * 2
        samples = Samples(
            prompts=Ragged.from_rows([[1]] * 20),
            completions=Ragged(np.ones(40, np.uint32), offsets),
            groups=np.arange(21),
            policy_logprobs=Ragged(policy.ravel(), offsets),
            prior_logprobs=Ragged(prior.ravel(), offsets),
        )
        every = estimate_kls(samples)
        # Of the others none is moved by it; its own estimate is what k3 makes of it, times what they were fitted to.
        k1, k3, with_control = (every[name].per_sequence for name in ("k1", "k3", "k1_cv"))
        assert with_control[1:] == pytest.approx(k1[1:])
        assert 0.1 < with_control[0] / k3[0] < 2


def collapsed():
    """A policy that is nearly certain, of a prior with ten equal tokens; sixteen prompts, four completions each."""
    n, rng = 64, np.random.default_rng(0)
    odd = rng.random(12 * n) < 1e-4
    policy = np.where(odd, np.log(1e-4 / 9), np.log(1 - 1e-4))
    offsets = np.arange(n + 1) * 12
    return Samples(
        prompts=Ragged.from_rows([[p] for p in range(16)]),
        completions=Ragged(odd.astype(np.uint32), offsets),
        groups=np.arange(17) * 4,
        policy_logprobs=Ragged(policy, offsets),
        prior_logprobs=Ragged(np.full(12 * n, -np.log(10)), offsets),
    )


def test_disco_can_be_made_from_samples_of_another_policy():
    potential = np.zeros(len(SAMPLES))
    plain = estimate_kl(SAMPLES, preset="disco", log_potential=potential)
    same = estimate_kl(SAMPLES, preset="disco", log_potential=potential, proposal_logprobs=SAMPLES.policy_logprobs)
    other = estimate_kl(SAMPLES, preset="disco", log_potential=potential, proposal_logprobs=SAMPLES.prior_logprobs)
    assert same.value == plain.value
    # From the prior's samples weights are equal where nothing is asked for: KL(prior‖policy) is the mean of -k1.
    assert other.value == pytest.approx(-estimate_kl(SAMPLES).value, rel=1e-12)


@pytest.mark.parametrize("preset", [None, "disco"])
def test_a_proposal_with_other_rows_is_refused_by_presets_too(preset):
    other = Ragged(SAMPLES.policy_logprobs.values, np.sort(SAMPLES.completions.offsets)[[0, *range(2, 43), 42]])
    potential = np.zeros(len(SAMPLES)) if preset else None
    with pytest.raises(ValueError, match=r"proposal_logprobs row 0 has \d+ tokens, completions\[0\] has"):
        estimate_kl(SAMPLES, preset=preset, log_potential=potential, proposal_logprobs=other)
    with pytest.raises(TypeError, match="proposal_logprobs is list: it must be Ragged"):
        estimate_kl(SAMPLES, preset=preset, log_potential=potential, proposal_logprobs=[[-1.0]])


def test_disco_of_few_completions_says_that_it_is_off():
    few = estimate_kl(SAMPLES, preset="disco", log_potential=SAMPLES.completions.lengths / 2)
    assert any("In 5 of 6 prompts there are too few completions" in warning for warning in few.warnings)
    single = draw(POLICY, PRIOR, 1, 0)
    alone = estimate_kl(single, preset="disco", log_potential=np.zeros(len(single)))
    assert any("In 6 of 6 prompts there are too few completions" in warning for warning in alone.warnings)
    many = draw(POLICY, PRIOR, 60, 0)
    enough = estimate_kl(many, preset="disco", log_potential=many.completions.lengths / 2)
    assert not any("too few completions" in warning for warning in enough.warnings)


class TestFewPrompts:
    """Whatever estimates a KL says by how few prompts its error is clustered, and by how unequal ones."""

    @staticmethod
    def estimates(samples):
        presets = {name: estimate_kl(samples, preset=name) for name in ("trl-grpo", "openrlhf", "verl")}
        target = estimate_kl(samples, preset="disco", log_potential=np.zeros(len(samples)))
        return [*estimate_kls(samples).values(), *presets.values(), target]

    @staticmethod
    def of_sizes(sizes):
        rng, n = np.random.default_rng(0), sum(sizes)
        groups = np.concatenate([[0], np.cumsum(sizes)])
        columns = (Ragged(rng.uniform(-2, -1, n), np.arange(n + 1)) for _ in range(2))
        rows = Ragged(np.ones(n, np.uint32), np.arange(n + 1))
        return Samples(Ragged.from_rows([[p] for p in range(len(sizes))]), rows, groups, *columns)

    @pytest.mark.parametrize(
        ("sizes", "said"),
        [
            ([8], "There is one prompt: what its completions show, standard errors included, says nothing of other"),
            (
                [8] * 3,
                "and there are only 3 prompts: they are rough, and intervals too narrow where prompts are skewed",
            ),
            ([8] * 9, "and there are only 9 prompts"),
            ([2, 80], "and there are only 2 prompts"),
            ([40] * 2 + [2] * 18, "and the 20 prompts differ so much in size that they are worth 4.1"),
        ],
    )
    def test_it_is_said(self, sizes, said):
        for estimate in self.estimates(self.of_sizes(sizes)):
            assert said in estimate.warnings[-1], estimate.signature

    @pytest.mark.parametrize("sizes", [[8] * 10, [1] * 10, [6, 10] * 6])
    def test_of_enough_it_is_not(self, sizes):
        for estimate in self.estimates(self.of_sizes(sizes)):
            assert not any("clustered by prompt" in warning for warning in estimate.warnings), estimate.signature


class TestBadInput:
    def test_a_missing_column_is_named(self):
        for name in ("policy_logprobs", "prior_logprobs"):
            with pytest.raises(ValueError, match=f"samples have no {name}"):
                estimate_kls(replace(SAMPLES, **{name: None}))

    @pytest.mark.parametrize("value", [np.nan, 0.5])
    def test_what_is_no_log_prob_is_refused_where_it_stands(self, value):
        values = SAMPLES.policy_logprobs.values.copy()
        values[3] = value
        row, token = SAMPLES.completions.locate(3)
        with pytest.raises(ValueError, match=rf"policy_logprobs\[{row}\]\[{token}\] is {value}"):
            replace(SAMPLES, policy_logprobs=Ragged(values, SAMPLES.completions.offsets))

    def test_one_prompt_says_that_its_error_is_its_own(self):
        got = estimate_kl(SAMPLES.take_prompts([2]))
        assert got.interval.assumes.startswith("7 completions of one prompt, which say nothing of others,")
        assert "|clusters:1|" in got.signature

    def test_one_completion_has_a_value_and_no_error(self):
        one = draw(POLICY, PRIOR, 1, 0, prompts=Ragged.from_rows([[4]]))
        for estimate in estimate_kls(one).values():
            assert np.isfinite(estimate.value)
            assert np.isnan([estimate.stderr, estimate.interval.low, estimate.interval.high]).all()
            assert doubts(estimate) == ()

    def test_one_completion_a_prompt_is_clustered_as_it_is(self):
        single = draw(POLICY, PRIOR, 1, 0)
        got = estimate_kl(single)
        assert got.stderr == pytest.approx(np.std(got.per_sequence, ddof=1) / np.sqrt(6), rel=1e-12)

    def test_columns_of_different_types_are_compared_in_the_wider_one(self):
        narrow = Ragged(SAMPLES.prior_logprobs.values.astype(np.float32), SAMPLES.completions.offsets)
        mixed = estimate_kl(replace(SAMPLES, prior_logprobs=narrow), "k3")
        widened = Ragged(narrow.values.astype(np.float64), narrow.offsets)
        wide = estimate_kl(replace(SAMPLES, prior_logprobs=widened), "k3")
        assert mixed[:2] == wide[:2]
        assert "|dtype:f64+f32|" in mixed.signature
        assert "|dtype:f64|" in wide.signature

    def test_names_that_are_none_are_answered_with_those_that_are(self):
        with pytest.raises(ValueError, match="estimator is 'k4': it must be one of k1, k2, k3, abs, k1_cv, exact"):
            estimate_kl(SAMPLES, "k4")
        with pytest.raises(ValueError, match="level is 'word': it must be one of token, sequence"):
            estimate_kl(SAMPLES, level="word")

    def test_a_preset_leaves_nothing_to_say(self):
        with pytest.raises(ValueError, match="preset 'verl' says how the KL is made"):
            estimate_kl(SAMPLES, preset="verl", level="sequence")
        with pytest.raises(ValueError, match="log_proposal are for 'disco' alone"):
            estimate_kl(SAMPLES, preset="verl", proposal_logprobs=SAMPLES.policy_logprobs)
        with pytest.raises(ValueError, match="log_potential is given without preset='disco'"):
            estimate_kl(SAMPLES, log_potential=np.zeros(len(SAMPLES)))


@pytest.mark.parametrize("preset", [None, "trl-rloo", "openrlhf"])
def test_the_interval_of_a_kl_never_goes_below_0(preset):
    """k1 may be below 0; what it estimates is not."""
    rng, shape = np.random.default_rng(1), (40, 5)
    prior = -rng.exponential(1.0, size=shape) - 0.5
    for shift, is_known in ((0.0, True), (-0.3, False)):
        policy = np.minimum(prior + rng.normal(shift, 0.3, size=shape), 0.0)
        samples = Samples(
            Ragged.from_rows([[p] for p in range(20)]),
            Ragged.from_padded(np.ones(shape, np.uint32), lengths=np.full(40, 5)),
            np.arange(21) * 2,
            Ragged.from_padded(policy, lengths=np.full(40, 5)),
            Ragged.from_padded(prior, lengths=np.full(40, 5)),
        )
        found = estimate_kl(samples, "k1") if preset is None else estimate_kl(samples, preset=preset, estimator="k1")
        low, high, assumes = found.interval
        assert (low == 0.0 < high) if is_known else np.isnan([low, high]).all()
        assert is_known != ("all of it would lie below 0" in assumes)
