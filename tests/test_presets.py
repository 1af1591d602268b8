"""Each preset against the formula that its tool computes in float32 on padded batches, and against TRL itself."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracle
from doubts import doubts
from esscher import Ragged, Samples, Tilt, concatenate
from esscher.divergence.presets import PRESETS, PresetName, estimate_preset
from esscher.estimate import clustered_mean
from esscher.lm.tabular import TabularLM
from models import THREADS, alice_folder
from strategies import finite_logprob, logprob

REVERSE = [(name, estimator) for name in PRESETS if name != "disco" for estimator in PRESETS[name].recipes]


def samples_of(policy, prior, groups=None, **columns):
    policy, prior = (rows if isinstance(rows, Ragged) else Ragged.from_rows(rows) for rows in (policy, prior))
    groups = [0, len(policy)] if groups is None else groups
    return Samples(
        prompts=Ragged.from_rows([[1]] * (len(groups) - 1)),
        completions=Ragged(np.ones(len(policy.values), np.uint32), policy.offsets),
        groups=groups,
        policy_logprobs=policy,
        prior_logprobs=prior,
        **columns,
    )


def mean_over(mask, values, axis=None):
    return (values * mask).sum(axis) / mask.sum(axis)


def schulman(estimator, d):
    return {"k1": d, "k2": d**2 / 2, "k3": torch.exp(-d) - 1 + d, "abs": d.abs()}[estimator]


def trl_kl(_, estimator, policy, prior, mask):
    """GRPOTrainer._compute_loss (k3), RLOOTrainer._generate_and_score_completions (k1), TRL 1.16.0."""
    return mean_over(mask, schulman(estimator, policy - prior))


def trl_ppo_kl(_, estimator, policy, prior, mask):
    """PPOTrainer.train, TRL 0.24.0: padding has the same invalid log-prob of 1 in both."""
    policy, prior = (torch.where(mask, values, 1.0) for values in (policy, prior))
    return schulman(estimator, policy - prior).sum(1).mean()


def openrlhf_kl(_, estimator, policy, prior, mask):
    """compute_approx_kl and the masked_mean of each sequence, OpenRLHF 0.11.0."""
    return mean_over(mask, schulman(estimator, policy - prior).clamp(-10, 10), -1).mean()


def verl_kl(_, estimator, policy, prior, mask):
    """kl_penalty_forward; agg_loss or, for k1, apply_kl_penalty, verl 0.9.0."""
    if estimator == "k1":
        return mean_over(mask, policy - prior, -1).mean()
    if estimator == "k3":
        return mean_over(mask, schulman("k3", (policy - prior).clamp(-20, 20)).clamp(-10, 10))
    return mean_over(mask, schulman(estimator, policy - prior))


def nemo_kl(_, estimator, policy, prior, mask):
    """calculate_kl, its kl_importance_weights, and masked_mean, NeMo-RL 0.7.0."""
    weights = torch.nan_to_num(torch.exp(policy - policy.detach()), nan=0.0, posinf=0.0, neginf=0.0)
    tokens = (weights * schulman(estimator, (policy - prior).clamp(-20, 20))).clamp(-10, 10)
    return (tokens * mask).sum() / (mask.sum() + 1e-8)


TOOLS = {
    "trl-grpo": trl_kl,
    "trl-rloo": trl_kl,
    "trl-ppo": trl_ppo_kl,
    "openrlhf": openrlhf_kl,
    "verl": verl_kl,
    "nemo-rl": nemo_kl,
}


def as_the_tool(preset, estimator, samples):
    """The tool's own number: float32, and padded with log-probs that must not count."""
    lengths = samples.completions.lengths
    policy = torch.tensor(samples.policy_logprobs.to_padded(fill=-3.0), dtype=torch.float32)
    prior = torch.tensor(samples.prior_logprobs.to_padded(fill=-9.0), dtype=torch.float32)
    mask = torch.arange(policy.shape[1])[None] < torch.tensor(lengths)[:, None]
    # A product with the mask would make NaN of what is infinite behind it: there is nothing infinite there.
    return float(TOOLS[preset](preset, estimator, policy, prior, mask))


def rollouts(seed=0, spread=1.0):
    """Completions of unequal lengths of 12 prompts, with some tokens beyond every clamp."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 40, size=48)
    policy = -rng.gamma(0.7, size=lengths.sum())
    prior = np.minimum(policy + spread * rng.normal(-0.2, 0.8, size=lengths.sum()), -1e-3)
    wild = rng.choice(len(policy), 40, replace=False)
    prior[wild[:20]] -= rng.uniform(5, 40, 20)
    policy[wild[20:]] -= rng.uniform(2, 30, 20)
    columns = (Ragged.from_lengths(values.astype(np.float32), lengths) for values in (policy, prior))
    return samples_of(*columns, groups=np.arange(13) * 4)


def test_every_preset_has_a_tool_here():
    assert set(TOOLS) | {"disco"} == set(PRESETS) == set(get_args(PresetName))


@pytest.mark.parametrize(("preset", "estimator"), REVERSE)
def test_a_preset_is_the_tools_float32_number(preset, estimator):
    samples = rollouts()
    estimate = estimate_preset(samples, preset, estimator)
    assert estimate.value == pytest.approx(as_the_tool(preset, estimator, samples), rel=2e-6)


@pytest.mark.parametrize(("preset", "estimator"), REVERSE)
def test_a_clamp_is_told(preset, estimator):
    estimate = estimate_preset(rollouts(), preset, estimator)
    clamps = PRESETS[preset].recipes[estimator].clamp
    assert (estimate.clamped > 0) == (estimate.raw != estimate.value) == (clamps != "none")
    assert f"|clamp:{clamps}|" in estimate.signature


def by_definition(preset, estimator, samples):
    """Value, value without clamps, share of tokens clamped: token by token, in 50 digits."""
    recipe = PRESETS[preset].recipes[estimator]
    rows = zip(samples.policy_logprobs, samples.prior_logprobs, strict=True)
    ratios = [[float(a) - float(b) for a, b in zip(*row, strict=True)] for row in rows]
    raw = [[one_token(estimator, d) for d in row] for row in ratios]
    limit, bound = recipe.ratio_clamp, recipe.value_clamp
    skipped = -math.inf if recipe.skips_forbidden else None
    clamped = [
        [
            0.0 if d == skipped else max(-bound, min(bound, one_token(estimator, max(-limit, min(limit, d)))))
            for d in row
        ]
        for row in ratios
    ]
    changed = [a != b for row, other in zip(raw, clamped, strict=True) for a, b in zip(row, other, strict=True)]
    return average(recipe.aggregation, clamped), average(recipe.aggregation, raw), sum(changed) / len(changed)


def one_token(estimator, d):
    return math.inf if d == -math.inf and estimator == "k3" else float(oracle.estimator_at(estimator, d))


def average(aggregation, rows):
    sums = [sum(row) for row in rows]
    if aggregation == "token-mean":
        return sum(sums) / sum(map(len, rows))
    if aggregation == "seq-mean":
        sums = [total / len(row) for total, row in zip(sums, rows, strict=True)]
    return sum(sums) / len(rows)


@st.composite
def any_samples(draw):
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    token = st.one_of(st.tuples(finite_logprob, logprob), st.tuples(logprob, finite_logprob))
    policy, prior = np.array(draw(st.lists(token, min_size=sum(lengths), max_size=sum(lengths)))).T
    return samples_of(*(Ragged.from_lengths(values, lengths) for values in (policy, prior)))


@given(any_samples(), st.sampled_from(REVERSE))
def test_a_preset_is_its_definition(samples, preset):
    estimate = estimate_preset(samples, *preset)
    value, raw, clamped = by_definition(*preset, samples)
    scale = np.abs(estimate.per_sequence[np.isfinite(estimate.per_sequence)]).max(initial=0)
    assert estimate.value == pytest.approx(value, rel=1e-12, abs=1e-15 * scale, nan_ok=True)
    assert estimate.raw == pytest.approx(raw, rel=1e-12, abs=1e-9 if abs(raw) < 1e9 else None, nan_ok=True)
    assert estimate.clamped == clamped


@pytest.mark.parametrize(("preset", "estimator"), REVERSE)
def test_the_value_is_what_the_completions_contribute(preset, estimator):
    samples = rollouts()
    estimate = estimate_preset(samples, preset, estimator)
    if PRESETS[preset].recipes[estimator].aggregation == "token-mean":
        lengths = samples.completions.lengths
        assert estimate.value == pytest.approx(estimate.per_sequence.sum() / lengths.sum(), rel=1e-12)
        residuals = np.add.reduceat(estimate.per_sequence - estimate.value * lengths, samples.groups[:-1])
        shares = np.add.reduceat(lengths, samples.groups[:-1]) / lengths.sum()
        stderr = np.sqrt((residuals**2 / (1 - shares)).sum()) / lengths.sum()
    else:
        value, stderr = clustered_mean(estimate.per_sequence, samples.groups)
        assert estimate.value == pytest.approx(value, rel=1e-12)
    assert estimate.stderr == pytest.approx(stderr, rel=1e-9)
    assert estimate.interval.low < estimate.value < estimate.interval.high


FORBIDDEN_BY_PRIOR = samples_of([[-1.0, -2.0], [-0.5]], [[-1.5, -np.inf], [-0.25]])
FORBIDDEN_BY_POLICY = samples_of([[-1.0, -np.inf], [-0.5]], [[-1.5, -2.0], [-0.25]])
CLAMPED = [(preset, estimator) for preset, estimator in REVERSE if PRESETS[preset].recipes[estimator].clamp != "none"]
UNCLAMPED = sorted(set(REVERSE) - set(CLAMPED))


@pytest.mark.parametrize(("preset", "estimator"), CLAMPED)
def test_what_the_prior_forbids_is_clamped_as_the_tool_does(preset, estimator):
    estimate = estimate_preset(FORBIDDEN_BY_PRIOR, preset, estimator)
    assert estimate.value == pytest.approx(as_the_tool(preset, estimator, FORBIDDEN_BY_PRIOR), rel=1e-6)
    assert math.isfinite(estimate.value)
    assert estimate.raw == math.inf
    assert estimate.clamped == pytest.approx(1 / 3)
    assert doubts(estimate) == ()


@pytest.mark.parametrize(("preset", "estimator"), UNCLAMPED)
def test_what_the_prior_forbids_is_infinite_without_a_clamp(preset, estimator):
    estimate = estimate_preset(FORBIDDEN_BY_PRIOR, preset, estimator)
    assert estimate.value == estimate.raw == as_the_tool(preset, estimator, FORBIDDEN_BY_PRIOR) == math.inf
    assert math.isnan(estimate.stderr)


@pytest.mark.parametrize(("preset", "estimator"), REVERSE)
def test_what_the_policy_forbids_is_as_the_tool_has_it_but_for_nan(preset, estimator):
    estimate, tool = (f(FORBIDDEN_BY_POLICY) for f in (ours(preset, estimator), theirs(preset, estimator)))
    does = "logs NaN." if math.isnan(tool) else "counts 0 for each." if preset == "nemo-rl" else None
    (warning,) = doubts(estimate)
    assert warning.startswith("1 token has a log-prob of -inf under the policy, which cannot have produced them")
    assert warning.endswith("the model that sampled." if does is None else f"{PRESETS[preset].tool} itself {does}")
    if math.isnan(tool):
        assert estimator == "k3"
        assert estimate.raw == math.inf
        limit = PRESETS[preset].recipes["k3"].value_clamp
        assert estimate.value == math.inf or estimate.per_sequence[0] == pytest.approx((0.1065307 + limit) / 2)
    else:
        assert estimate.value == pytest.approx(tool, rel=1e-6)


def ours(preset, estimator):
    return lambda samples: estimate_preset(samples, preset, estimator)


def theirs(preset, estimator):
    return lambda samples: as_the_tool(preset, estimator, samples)


# disco ----------------------------------------------------------------------------------------------------------------


def disco_kl(log_target, log_policy, log_proposal, groups):
    """KL.pointwise_estimates with each context's Z, the mean of what they give, disco 1.1.2."""
    parts = []
    for start, end in itertools.pairwise(groups):
        target, policy, proposal = (x[start:end] for x in (log_target, log_policy, log_proposal))
        ratios = torch.exp(target - proposal)
        products = ratios * (target - policy)
        products[torch.isnan(products)] = 0
        parts.append(-torch.log(ratios.mean()) + products / ratios.mean())
    return float(torch.cat(parts).mean())


def tensors(*columns):
    return (torch.tensor(column, dtype=torch.float32) for column in columns)


def mild_rollouts(n=200, prompts=4, seed=1):
    rng = np.random.default_rng(seed)
    policy = -rng.gamma(2.0, 0.2, size=(n, 5))
    prior = np.minimum(policy + rng.normal(0.0, 0.2, size=(n, 5)), 0.0)
    groups = np.linspace(0, n, prompts + 1).astype(int)
    return samples_of(*(Ragged.from_rows(list(x)) for x in (policy, prior)), groups), rng.normal(0, 0.7, size=n)


@pytest.mark.parametrize("prompts", [1, 4])
@pytest.mark.parametrize("other_proposal", [False, True])
def test_disco_is_its_float32_number(prompts, other_proposal):
    samples, log_potential = mild_rollouts(prompts=prompts)
    log_potential[::5] = -np.inf
    log_policy, log_prior = (x.to_padded(fill=0.0).sum(1) for x in (samples.policy_logprobs, samples.prior_logprobs))
    log_proposal = 0.8 * log_policy - 0.1 if other_proposal else log_policy
    estimate = estimate_preset(
        samples, "disco", log_potential=log_potential, log_proposal=log_proposal if other_proposal else None
    )
    theirs = disco_kl(*tensors(log_prior + log_potential, log_policy, log_proposal), samples.groups)
    assert estimate.value == pytest.approx(theirs, rel=1e-4)
    assert estimate.per_sequence.mean() == pytest.approx(estimate.value, rel=1e-12)
    assert "|level:sequence|agg:seq-sum|dir:target-policy|" in estimate.signature


def test_disco_on_an_enumerated_world_is_the_exact_forward_kl():
    rng = np.random.default_rng(5)
    policy, prior = (TabularLM.random(rng, prompts=3, vocabulary=4, depth=3) for _ in range(2))
    every = policy.completions()
    prior_logprobs = prior.logprobs(every.prompts, every.completions, every.groups)
    samples = samples_of(every.policy_logprobs, prior_logprobs, every.groups)
    log_potential = rng.normal(0, 1.5, size=len(every))
    log_potential[rng.random(len(every)) < 0.2] = -np.inf
    uniform = np.full(len(every), -np.log(len(every) / 3))
    got = estimate_preset(samples, "disco", log_potential=log_potential, log_proposal=uniform)
    exact = []
    for p in range(3):
        rows = slice(*every.groups[p : p + 2])
        weights = np.exp([math.fsum(row) for row in prior_logprobs.take(np.arange(rows.start, rows.stop))])
        target = weights * np.exp(log_potential[rows])
        target /= target.sum()
        log_policy = every.policy_logprobs.to_padded(fill=0.0).sum(1)[rows]
        exact.append((target[target > 0] * (np.log(target[target > 0]) - log_policy[target > 0])).sum())
    assert got.value == pytest.approx(np.mean(exact), rel=1e-12)


def test_discos_weights_do_not_overflow():
    samples, log_potential = mild_rollouts()
    expected = estimate_preset(samples, "disco", log_potential=log_potential)
    far = estimate_preset(samples, "disco", log_potential=log_potential + 2000)
    assert far.value == pytest.approx(expected.value, rel=1e-9)
    theirs = disco_kl(*tensors(log_potential + 2000, np.ones(200), np.ones(200)), samples.groups)
    assert not math.isfinite(theirs)


def test_discos_standard_error_knows_that_z_is_estimated():
    """As the jackknife over completions has it, which estimates all anew without each."""
    samples, log_potential = mild_rollouts(n=300, prompts=1)
    estimate = estimate_preset(samples, "disco", log_potential=log_potential)
    log_policy, log_prior = (x.to_padded(fill=0.0).sum(1) for x in (samples.policy_logprobs, samples.prior_logprobs))

    def without(i):
        ratios, target, policy = (np.delete(x, i) for x in (log_ratios, log_prior + log_potential, log_policy))
        weights = np.exp(ratios)
        return -np.log(weights.mean()) + (weights * (target - policy)).mean() / weights.mean()

    log_ratios = log_prior + log_potential - log_policy
    values = np.array([without(i) for i in range(300)])
    jackknife = np.sqrt(299 / 300 * ((values - values.mean()) ** 2).sum())
    assert estimate.stderr == pytest.approx(jackknife, rel=0.02)
    assert clustered_mean(estimate.per_sequence, samples.groups).stderr != pytest.approx(jackknife, rel=0.2)


def test_a_prompt_that_the_target_excludes_is_left_out():
    (first, potential), (other, _) = mild_rollouts(prompts=1), mild_rollouts(prompts=1, seed=2)
    alone = estimate_preset(first, "disco", log_potential=potential)
    both = estimate_preset(
        concatenate([other, first]), "disco", log_potential=np.append(np.full(200, -np.inf), potential)
    )
    assert both.value == pytest.approx(alone.value, rel=1e-12)
    assert np.isnan(both.per_sequence[:200]).all()
    assert both.warnings[0].startswith("1 of 2 prompts has no completion that the target allows")
    nothing = estimate_preset(first, "disco", log_potential=np.full(200, -np.inf))
    assert math.isnan(nothing.value)
    assert math.isnan(nothing.interval.low)


def test_weights_that_a_few_completions_hold_are_told():
    samples, log_potential = mild_rollouts(n=400, prompts=2)
    assert doubts(estimate_preset(samples, "disco", log_potential=log_potential)) == ()
    heavy = estimate_preset(samples, "disco", log_potential=np.append(log_potential[:200], 6 * log_potential[200:]))
    assert heavy.pareto_k > 0.6
    assert heavy.warnings[0].startswith("In 1 of 2 prompts Pareto k of target/proposal is above what can be trusted")


def test_disco_takes_a_tilts_potential():
    samples = samples_of([[-1.0], [-2.0]], [[-1.0], [-2.0]])
    estimate = estimate_preset(samples, "disco", log_potential=Tilt(2.0).log_potential([1.0, 3.0]))
    z = (math.exp(0.5) + math.exp(1.5)) / 2
    assert estimate.value == pytest.approx((math.exp(0.5) * 0.5 + math.exp(1.5) * 1.5) / 2 / z - math.log(z))


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("trl",), ValueError, "preset is 'trl': it must be one of trl-grpo, trl-rloo, .*, disco"),
        (("trl-grpo", "k1"), ValueError, r"estimator is 'k1': TRL 1.16.0 \(trl-grpo\) logs k3; without preset, all"),
        (("disco", "k1"), ValueError, r"estimator is 'k1': disco 1.1.2 \(disco\) logs forward"),
        (("disco",), ValueError, r"give log_potential, .*Tilt\(beta\).log_potential\(samples.rewards\)"),
        (("verl", None, [0.0, 0.0]), ValueError, "preset 'verl' knows no target: log_potential and log_proposal are"),
        (("disco", None, [0.0]), ValueError, r"log_potential has shape \(1,\), but there are 2 completions"),
        (("disco", None, [0.0, np.nan]), ValueError, r"log_potential\[1\] is nan: it is finite, or -inf to exclude"),
        (("disco", None, ["a", "b"]), TypeError, "log_potential has dtype <U1: it must be numbers"),
        (("disco", None, [0.0, 0.0], [0.0, -np.inf]), ValueError, r"log_proposal\[1\] is -inf: a completion is poss"),
    ],
)
def test_what_a_preset_cannot_do_is_said(arguments, error, message):
    preset, estimator, log_potential, log_proposal = (*arguments, None, None, None)[:4]
    samples = samples_of([[-1.0], [-2.0]], [[-1.0], [-2.0]])
    with pytest.raises(error, match=message):
        estimate_preset(samples, preset, estimator, log_potential=log_potential, log_proposal=log_proposal)


@pytest.mark.parametrize("preset", ["trl-grpo", "disco"])
def test_log_probs_that_lack_or_are_impossible_are_named(preset):
    potential = {"log_potential": [0.0, 0.0]} if preset == "disco" else {}
    bare = Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[2], [3]]), [0, 2])
    with pytest.raises(ValueError, match="samples have no policy_logprobs: the KL needs those of policy and prior"):
        estimate_preset(bare, preset, **potential)
    rows = [[-1.0], [-1.0, -np.inf]]
    with pytest.raises(ValueError, match=r"policy_logprobs\[1\]\[1\] and prior_logprobs\[1\]\[1\] are both -inf"):
        estimate_preset(samples_of(rows, rows), preset, **potential)


def test_disco_needs_samples_that_their_proposal_can_produce():
    with pytest.raises(ValueError, match="the policy's log-prob of completion 0 is -inf: a completion is possible"):
        estimate_preset(FORBIDDEN_BY_POLICY, "disco", log_potential=[0.0, 0.0])


# TRL ------------------------------------------------------------------------------------------------------------------


def spy(trainer_class):
    """The trainer, which notes at each step the log-probs and the mask from which it computes its KL."""

    class Spy(trainer_class):
        def _get_per_token_logps_and_entropies(self, model, *args, **kwargs):
            outputs = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
            self.latest[model is self.ref_model] = outputs[0].detach().clone()
            return outputs

        def _generate_and_score_completions(self, inputs):
            self.latest = {}
            batch = super()._generate_and_score_completions(inputs)
            # RLOO has computed its KL by now; GRPO has yet to, with the rows of the batch in another order.
            if False in self.latest:
                self.note(self.latest[True], batch["completion_mask"])
            return batch

        def _compute_loss(self, model, inputs):
            loss = super()._compute_loss(model, inputs)
            if "ref_per_token_logps" in inputs:
                self.note(inputs["ref_per_token_logps"], inputs["completion_mask"])
            return loss

        def note(self, prior, mask):
            self.seen.append((self.latest[False], prior, mask))

        seen: list  # set by the test

    return Spy


def some_reward(completions, **_):
    """One that asks neither for long completions nor for short ones: both must be there at every step."""
    return [float(len(text) % 5) for text in completions]


def trained(trainer_class, config_class, folder):
    """Three steps with a rate at which the policy leaves the prior at once, on completions that end at a "the"."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(alice_folder())
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.eos_token = "▁the"
    prompts = ["Alice was", "The Queen", "said the", "Down the"]
    settings = {"max_steps": 3, "learning_rate": 4e-3, "beta": 0.1, "logging_steps": 1, "seed": 0}
    size = {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 24}
    quiet = {"report_to": "none", "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "bf16": False}
    trainer = spy(trainer_class)(
        model=AutoModelForCausalLM.from_pretrained(alice_folder()),
        processing_class=tokenizer,
        reward_funcs=some_reward,
        args=config_class(output_dir=str(folder), **settings, **size, **quiet),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
    )
    trainer.seen = []
    trainer.train()
    return trainer


# TRL 1.16 uses names that transformers 5.23 is about to rename.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.parametrize("preset", ["trl-grpo", "trl-rloo"])
def test_a_preset_is_what_trl_logs(preset, tmp_path):
    import trl

    trainer_class, config_class = {
        "trl-grpo": (trl.GRPOTrainer, trl.GRPOConfig),
        "trl-rloo": (trl.RLOOTrainer, trl.RLOOConfig),
    }[preset]
    trainer = trained(trainer_class, config_class, tmp_path)
    logged = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    assert len(logged) == len(trainer.seen) == 3
    ours = []
    for policy, prior, mask in trainer.seen:
        lengths = mask.sum(1).numpy()
        columns = [Ragged.from_padded(values.numpy().clip(max=0.0), lengths=lengths) for values in (policy, prior)]
        ours.append(estimate_preset(samples_of(*columns), preset))
    assert [estimate.value for estimate in ours] == pytest.approx(logged, rel=1e-5, abs=1e-7)
    # Without KL, or with completions all of one length, much else would be equal too.
    assert min(logged[1:]) > 0.1
    assert all(len(set(mask.sum(1).tolist())) > 1 for *_, mask in trainer.seen)
