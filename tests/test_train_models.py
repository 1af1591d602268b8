"""Training a real model: gradients, what is trained of it, checkpoints, a served prior, and bad input."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from esscher import Client, Ragged, Samples, files, sequence_logprobs
from esscher.inference.objectives import dpg, kl_rl
from esscher.lm.checkpoints import newest_whole_checkpoint
from esscher.lm.packing import text_lengths
from esscher.lm.tabular import TabularLM
from esscher.lm.transformers import TransformersLM, decoding
from esscher.server.models import Models
from esscher.server.serving import running_in_thread
from esscher.train import RunFolder, TabularPolicy, Task, TrainingSettings, TransformersPolicy, train
from esscher.train.ascent import accumulate
from esscher.train.lessons import Lesson, Objective
from esscher.train.optimiser import Optimiser
from esscher.train.served import ServedPrior
from models import alice, alice_folder

# Sums differ in their last bits by the number of threads.
torch.set_num_threads(1)

TEXTS = ("Alice was", "The Queen said", "Down, down, down", "Oh dear! said the Rabbit, and")
NO_MEMORY = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"


def load(dtype=None):
    return TransformersLM.load(alice_folder(), device="cpu", dtype=dtype)


PARTS = {"full": {}, "last layers": {"last_layers": 1}, "lora": {"lora": 2}}


def policy_of(kind):
    """A policy of its own: training changes it."""
    if kind == "tabular":
        return TabularPolicy(np.random.default_rng(4).normal(np.linspace(0.3, -0.6, 3), 1.0, size=(4, 7, 3)))
    if kind == "bfloat16":
        return TransformersPolicy(load("bfloat16"))
    return TransformersPolicy(load(), **PARTS[kind])


def prompts_of(kind):
    return Ragged.from_rows([[i] for i in range(4)]) if kind == "tabular" else alice().encode(TEXTS)


class IdsReward:
    """A number that each completion's token ids give; no two have the same."""

    name = "ids"

    def __init__(self):
        self.seen = []

    def __call__(self, samples):
        self.seen.append(samples)
        return [float(np.sin(1.0 + row * np.arange(1.0, 1.0 + len(row))).sum()) for row in samples.completions]


def settings_of(**others):
    given = {
        "steps": 6, "prompts": 2, "completions": 4, "new_tokens": 3, "prior_samples": 8, "learning_rate": 2e-3,
        "save_every": 3, "warm_up": 2,
    }  # fmt: skip
    return TrainingSettings(**given | others)


def run_training(folder, kind="full", settings=None, reward=None, policy=None, prompts=None, prior=None, **others):
    settings = settings or settings_of()
    policy = policy or policy_of(kind)
    prior = prior or policy.frozen_copy()
    task = Task(policy, prior, reward or IdsReward(), prompts_of(kind) if prompts is None else prompts)
    train(task, settings, RunFolder(folder, settings, {}), **others)
    return policy


def weights_of(policy):
    return {name: parameter.detach().clone() for name, parameter in policy.parameters.items()}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def log_of(folder):
    """The log, but for what time it took, which no two runs share."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("seconds")} for line in lines]


# Gradients


def ragged_samples():
    """Prompts and completions of unequal lengths, a single token among them."""
    rng = np.random.default_rng(1)
    sizes, lengths = (3, 1, 4), (5, 1, 9, 1, 2, 17, 4, 1)
    prompts = Ragged.from_rows([rng.integers(3, 1000, size=n) for n in (7, 1, 3)])
    completions = Ragged.from_rows([rng.integers(3, 1000, size=n) for n in lengths])
    return Samples(prompts, completions, np.concatenate([[0], np.cumsum(sizes)])), rng.normal(0.2, 1.0, size=8)


def straightforward_gradient(policy, samples, coefficients):
    """A completion at a time: all logits, their log-softmax, and torch's gradient of the whole."""
    total = 0.0
    for i, completion in enumerate(samples.completions):
        prompt = samples.prompts[samples.groups.of[i]]
        text = torch.tensor(np.concatenate([prompt, completion]).astype(np.int64))
        logits = policy.lm.module(input_ids=text[None], use_cache=False).logits[0]
        logprobs = torch.log_softmax(logits.float(), dim=-1)[len(prompt) - 1 : -1]
        total = total + coefficients[i] * logprobs.gather(1, text[len(prompt) :, None]).sum()
    names, tensors = zip(*policy.parameters.items(), strict=True)
    return dict(zip(names, torch.autograd.grad(total, tensors), strict=True))


def collected(policy):
    found = {name: parameter.grad.clone() for name, parameter in policy.parameters.items()}
    for parameter in policy.parameters.values():
        parameter.grad = None
    return found


def assert_close(ours, theirs, tolerance=1e-4):
    """Against the largest entry of each parameter's gradient: small entries are what rounding leaves of sums."""
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor, theirs[name], rtol=tolerance, atol=tolerance * float(theirs[name].abs().max())
        )
    assert max(float(tensor.abs().max()) for tensor in theirs.values()) > 0.01


def stirred_policy(kind):
    """With adapters that do something: they begin as 0."""
    policy, generator = policy_of(kind), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.parameters.items():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return policy


@pytest.mark.parametrize("kind", PARTS)
def test_the_gradient_is_that_of_the_straightforward_way(kind):
    policy, (samples, coefficients) = stirred_policy(kind), ragged_samples()
    policy.add_gradient(samples, coefficients)
    assert_close(collected(policy), straightforward_gradient(policy, samples, coefficients))


@pytest.mark.parametrize("kind", PARTS)
def test_the_gradient_of_many_is_the_sum_of_those_of_one(kind):
    policy, (samples, coefficients) = stirred_policy(kind), ragged_samples()
    policy.add_gradient(samples, coefficients)
    together = collected(policy)
    for i in range(len(samples)):
        policy.add_gradient(samples.take_completions([i]), coefficients[i : i + 1])
    assert_close(collected(policy), together)


def test_the_gradient_is_the_same_in_pieces_of_the_vocabulary_of_any_size():
    policy, (samples, coefficients) = policy_of("full"), ragged_samples()
    policy.add_gradient(samples, coefficients)
    whole = collected(policy)
    policy.lm._network.pace = policy.lm._network.pace._replace(rows=7)
    policy.add_gradient(samples, coefficients)
    assert_close(collected(policy), whole)


@pytest.mark.parametrize("tokens", [1, 20, 50, 10**6])
def test_the_gradient_of_a_step_is_the_same_in_micro_batches_of_any_size(tokens):
    policy, (samples, coefficients) = policy_of("last layers"), ragged_samples()
    calls = []
    whole = policy.add_gradient
    policy.add_gradient = lambda *arguments: (calls.append(1), whole(*arguments))
    accumulate(
        policy, Optimiser(policy.parameters, settings_of()), Lesson(samples, Objective(0.0, coefficients)), tokens
    )
    assert_close(collected(policy), straightforward_gradient(policy, samples, coefficients / len(samples)))
    assert len(calls) == {1: 8, 20: 5, 50: 3, 10**6: 1}[tokens]


def test_a_gradient_of_the_wrong_number_of_coefficients_is_refused():
    samples, coefficients = ragged_samples()
    with pytest.raises(ValueError, match=r"coefficients has shape \(7,\): it is one for each of 8 completions"):
        policy_of("full").add_gradient(samples, coefficients[:-1])


# What of a model is trained


@pytest.mark.parametrize("kind", PARTS)
def test_only_what_is_trained_changes_and_the_prior_stays(kind, tmp_path):
    policy = policy_of(kind)
    everything = {name: one.detach().clone() for name, one in policy.lm.module.named_parameters()}
    prior, (samples, _) = policy.frozen_copy(), ragged_samples()
    texts = samples.prompts, samples.completions, samples.groups
    before = prior.logprobs(*texts).values.copy()
    np.testing.assert_allclose(before, alice().logprobs(*texts).values, rtol=0, atol=1e-5)
    run_training(tmp_path / "run", policy=policy, prior=prior)
    np.testing.assert_array_equal(prior.logprobs(*texts).values, before)
    assert np.abs(policy.lm.logprobs(*texts).values - before).max() > 0.01
    changed = {
        name for name, one in policy.lm.module.named_parameters() if not torch.equal(one.detach(), everything[name])
    }
    assert changed == policy.parameters.keys()
    match kind:
        case "full":
            assert changed == everything.keys()
        case "lora":
            assert all(".lora_" in name for name in changed)
            assert changed
        case _:
            # Alice has several layers and a norm above them; her embeddings are not trained.
            numbers = sorted({int(part) for name in everything for part in name.split(".") if part.isdigit()})
            assert len(numbers) > 1
            assert {name for name in everything if f".{numbers[-1]}." in name} < changed
            assert not any(f".{number}." in name for name in changed for number in numbers[:-1])
            assert not any("emb" in name or "wte" in name or "head" in name for name in changed)


@pytest.mark.parametrize("kind", PARTS)
def test_a_copy_shares_what_is_not_trained(kind):
    policy = policy_of(kind)
    ours = dict(policy.lm.module.named_parameters())
    theirs = dict(policy.frozen_copy().module.named_parameters())
    assert ours.keys() == theirs.keys()
    shared = {name for name, one in ours.items() if one.data_ptr() == theirs[name].data_ptr()}
    assert shared == ours.keys() - policy.parameters.keys()
    assert not any(one.requires_grad for one in theirs.values())


@pytest.mark.parametrize("kind", [*PARTS, "bfloat16"])
def test_a_checkpoint_is_a_model_by_itself(kind, tmp_path, monkeypatch):
    policy, (samples, _) = run_training(tmp_path / "run", kind), ragged_samples()
    texts = samples.prompts, samples.completions, samples.groups
    expected = policy.lm.logprobs(*texts).values
    # What reads it needs to know nothing of adapters.
    monkeypatch.setitem(sys.modules, "peft", None)
    found = newest_whole_checkpoint(tmp_path / "run" / "checkpoints")
    assert found.folder.name == "step-000006"
    loaded = TransformersLM.load(found.folder, device="cpu", dtype="bfloat16" if kind == "bfloat16" else None)
    np.testing.assert_allclose(loaded.logprobs(*texts).values, expected, rtol=0, atol=1e-5)
    assert np.abs(expected - alice().logprobs(*texts).values).max() > 0.01
    assert loaded.encode(TEXTS).values.tolist() == alice().encode(TEXTS).values.tolist()
    assert (
        load_file(found.folder / "model.safetensors").keys() == load_file(alice_folder() / "model.safetensors").keys()
    )


def test_adapters_are_drawn_from_their_seed_alone():
    one = TransformersPolicy(load(), lora=2, seed=3)
    state = torch.random.get_rng_state()
    torch.rand(5)
    other, third = TransformersPolicy(load(), lora=2, seed=3), TransformersPolicy(load(), lora=2, seed=4)
    assert_same(weights_of(one), weights_of(other))
    assert any(not torch.equal(weight, third.parameters[name]) for name, weight in one.parameters.items())
    torch.random.set_rng_state(state)
    TransformersPolicy(load(), lora=2)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"last_layers": 1, "lora": 1}, "two ways"),
        ({"last_layers": 0}, "last_layers is 0: .* has [0-9]+ layers"),
        ({"last_layers": 100}, "last_layers is 100"),
        ({"lora": 0}, "lora is 0"),
    ],
)
def test_parts_that_there_are_not_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        TransformersPolicy(load(), **given)


def test_adapters_without_peft_are_refused_with_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match="pip install peft"):
        TransformersPolicy(load(), lora=2)


def test_small_steps_add_up_in_16_bits():
    """Each is below half the distance between two numbers of 16 bits, so that without a copy nothing would change."""
    start = torch.linspace(0.02, 0.03, 50).bfloat16()
    parameter = torch.nn.Parameter(start.clone())
    optimiser = Optimiser({"x": parameter}, settings_of(learning_rate=2e-5, warm_up=0))
    assert torch.equal((start.float() + 2e-5).bfloat16(), start)
    for step in range(20):
        parameter.grad = torch.ones_like(parameter)
        optimiser.collect()
        optimiser.ascend(step)
        optimiser.clear()
    weight = optimiser.state()["weight.x"]
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, start.float() + 20 * 2e-5, rtol=0, atol=1e-7)
    assert torch.equal(parameter.detach(), weight.bfloat16())
    assert (parameter.detach() > start).all()


def test_gradients_in_16_bits_are_summed_in_32():
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    optimiser = Optimiser({"x": parameter}, settings_of(warm_up=0, clip=1e9))
    for part in (256.0, *[1.0] * 64):
        parameter.grad = torch.full_like(parameter, part)
        optimiser.collect()
    # In 16 bits 256 + 1 is 256.
    assert optimiser.ascend(0) == 320.0


# Checkpoints

KINDS = ("tabular", "full", "last layers", "lora", "bfloat16")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Six steps in one go: the folder of the run, and the weights."""
    runs = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp("whole") / "run"
        runs[kind] = folder, weights_of(run_training(folder, kind))
    return runs


def assert_as_uninterrupted(folder, policy, whole):
    expected, weights = whole
    assert_same(weights_of(policy), weights)
    assert log_of(folder) == log_of(expected)
    assert len(log_of(folder)) == 6
    ours, theirs = (load_file(one / "checkpoints/step-000006/trainer.safetensors") for one in (folder, expected))
    assert_same(ours, theirs)
    assert any(name.startswith("exp_avg_sq.") for name in ours)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_on_gets_to_the_same_bits(kind, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    run_training(folder, kind, settings_of(steps=3))
    assert_as_uninterrupted(folder, run_training(folder, kind), uninterrupted[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_asked_to_stop_goes_on_to_the_same_bits(kind, uninterrupted, tmp_path):
    folder, seen = tmp_path / "run", []
    run_training(folder, kind, show=seen.append, is_stopped=lambda: len(seen) == 2)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000002"]
    assert_as_uninterrupted(folder, run_training(folder, kind), uninterrupted[kind])


class Stop(Exception):  # noqa: N818 - it is no error
    pass


@pytest.mark.parametrize("kind", ["tabular", "full"])
def test_steps_after_the_last_checkpoint_are_taken_again(kind, uninterrupted, tmp_path):
    folder = tmp_path / "run"

    def show(metrics):
        if metrics.step == 4:
            raise Stop

    with pytest.raises(Stop):
        run_training(folder, kind, show=show)
    assert [line["step"] for line in log_of(folder)] == [0, 1, 2, 3, 4]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000003"]
    # As of a run that was killed while it wrote a line.
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "rew')
    assert_as_uninterrupted(folder, run_training(folder, kind), uninterrupted[kind])


def test_a_run_that_was_stopped_before_its_first_step_goes_on(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    run_training(folder, "last layers", is_stopped=lambda: True)
    assert_as_uninterrupted(folder, run_training(folder, "last layers"), uninterrupted["last layers"])


def test_a_run_that_is_done_takes_no_step(tmp_path):
    first = run_training(tmp_path / "run", "tabular")
    seen = []
    again = run_training(tmp_path / "run", "tabular", show=seen.append)
    assert seen == []
    assert_same(weights_of(first), weights_of(again))
    assert len(log_of(tmp_path / "run")) == 6


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
@pytest.mark.parametrize("kind", ["tabular", "last layers"])
def test_a_checkpoint_is_there_whole_or_not_at_all(kind, error, uninterrupted, tmp_path):
    folder, policy = tmp_path / "run", policy_of(kind)
    whole, saved = policy.save, []

    def save(place):
        whole(place)
        saved.append(place)
        if len(saved) == 2:
            raise error

    policy.save = save
    with pytest.raises(type(error)):
        run_training(folder, kind, policy=policy)
    assert [path.name for path in (folder / "checkpoints").glob("[!.]*")] == ["step-000003"]
    assert not list((folder / "checkpoints").glob(".*partial"))
    assert_as_uninterrupted(folder, run_training(folder, kind), uninterrupted[kind])


def test_what_a_kill_left_of_a_checkpoint_is_not_taken_for_one(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    run_training(folder, "last layers", settings_of(steps=3))
    left = folder / "checkpoints" / ".step-000006.partial"
    shutil.copytree(folder / "checkpoints" / "step-000003", left)
    for name in ("trainer.safetensors", "model.safetensors"):
        (left / name).write_bytes((left / name).read_bytes()[:1000])
    assert newest_whole_checkpoint(folder / "checkpoints").folder.name == "step-000003"
    assert_as_uninterrupted(folder, run_training(folder, "last layers"), uninterrupted["last layers"])
    assert not left.exists()


def test_a_kill_after_the_model_was_written_leaves_nothing_that_a_server_takes(tmp_path):
    """The folder would be removed under the server's hands when the run goes on."""
    checkpoints = tmp_path / "run" / "checkpoints"
    run_training(tmp_path / "run", "last layers", settings_of(steps=3))
    left = checkpoints / ".step-000006.partial"
    left.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(checkpoints / "step-000003" / name, left / name)
    assert newest_whole_checkpoint(checkpoints).folder.name == "step-000003"


def test_as_many_checkpoints_are_kept_as_told(tmp_path):
    run_training(tmp_path / "run", "tabular", settings_of(save_every=1, keep=2, steps=5))
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-000004", "step-000005"]


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path):
    run_training(tmp_path / "run", "last layers", settings_of(steps=1))
    with pytest.raises(ValueError, match="the checkpoint trains other parameters than this run, such as"):
        run_training(tmp_path / "run", "full")


@pytest.mark.parametrize("others", [{"beta": 0.2}, {"seed": 1}, {"objective": "dpg"}, {"new_tokens": 2}])
def test_a_run_of_other_settings_is_refused(others, tmp_path):
    RunFolder(tmp_path / "run", settings_of(), {})
    with pytest.raises(ValueError, match=rf"holds a run with {next(iter(others))} .*--restart"):
        RunFolder(tmp_path / "run", settings_of(**others), {})
    RunFolder(tmp_path / "run", settings_of(steps=100, save_every=7, keep=1), {})


def test_a_run_of_other_facts_and_a_folder_with_something_else_are_refused(tmp_path):
    RunFolder(tmp_path / "run", settings_of(), {"model": "alice", "torch": "2"})
    RunFolder(tmp_path / "run", settings_of(), {"model": "alice", "torch": "3"})
    with pytest.raises(ValueError, match="a run with model 'alice', not 'smollm2'"):
        RunFolder(tmp_path / "run", settings_of(), {"model": "smollm2"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="has files, and no run"):
        RunFolder(tmp_path / "other", settings_of(), {})
    RunFolder.discard(tmp_path / "other")
    assert (tmp_path / "other" / "thesis.txt").exists()
    RunFolder.discard(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_samples_of_the_prior_are_kept(tmp_path):
    reward = IdsReward()
    run_training(tmp_path / "run", "full", settings_of(steps=1), reward=reward)
    (known,) = (samples for samples in reward.seen if len(samples) == 4 * 8)
    kept = files.read([tmp_path / "run" / "prior.parquet"]).samples
    assert [row.tolist() for row in kept.completions] == [row.tolist() for row in known.completions]
    np.testing.assert_array_equal(kept.rewards, IdsReward()(known))
    np.testing.assert_array_equal(kept.prior_logprobs.values, known.prior_logprobs.values)
    again = IdsReward()
    run_training(tmp_path / "run", "full", settings_of(steps=2), reward=again)
    assert [len(samples) for samples in again.seen] == [8]


# Rewards that fail


class FailingReward(IdsReward):
    """What `fails` says of a completion's token ids, it does not reward; from the first step on."""

    name = "failing"

    def __init__(self, how, fails=lambda row: row.sum() % 3 == 0):
        super().__init__()
        self.how, self.fails = how, fails

    def __call__(self, samples):
        rewards = super().__call__(samples)
        failed = [i for i, row in enumerate(samples.completions) if self.fails(row)]
        if failed and self.how == "raise":
            raise RuntimeError("this one cannot be read")
        for i in failed:
            rewards[i] = self.how
        return rewards


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("raise", "failing raises RuntimeError: this one cannot be read"),
        (np.nan, "failing gives nan"),
        (None, "failing gives nan"),
        (np.inf, "failing gives inf"),
    ],
    ids=str,
)
def test_completions_without_a_reward_are_counted_and_the_others_learned_from(how, why, tmp_path):
    reward, seen, settings = FailingReward(how), [], settings_of(steps=1, prior_samples=0, completions=6)
    policy = run_training(tmp_path / "run", "last layers", settings, reward, show=seen.append)
    drawn = reward.seen[0]
    good = np.array([not reward.fails(row) for row in drawn.completions])
    assert 2 <= good.sum() < 12
    (metrics,) = seen
    assert (metrics.completions, metrics.unscored) == (12, 12 - good.sum())
    assert metrics.notes[0].startswith(f"{12 - good.sum()} of 12 completions have no reward: {why}")
    assert metrics.reward == pytest.approx(np.mean(IdsReward()(drawn.take_completions(np.flatnonzero(good)))))
    # What a policy learns that never saw the others.
    kept, other = drawn.take_completions(np.flatnonzero(good)), policy_of("last layers")
    columns = (sequence_logprobs(column) for column in (kept.policy_logprobs, kept.prior_logprobs))
    objective = kl_rl(IdsReward()(kept), *columns, settings.beta, kept.groups)
    optimiser = Optimiser(other.parameters, settings)
    accumulate(other, optimiser, Lesson(kept, objective), settings.micro_batch_tokens)
    assert optimiser.ascend(0) == metrics.gradient_norm
    assert_same(weights_of(policy), weights_of(other))
    assert metrics.objective == objective.value


def test_a_reward_that_gives_too_few_numbers_gives_none(tmp_path):
    class Short(IdsReward):
        def __call__(self, samples):
            return super().__call__(samples)[:-1]

    settings = settings_of(steps=20, prior_samples=0)
    with pytest.raises(
        ValueError, match=r"for 10 steps in a row: ids raises ValueError: it gives \(0,\) rewards for 1"
    ):
        run_training(tmp_path / "run", "tabular", settings, Short())


@pytest.mark.parametrize("how", ["raise", np.nan])
def test_a_reward_that_always_fails_ends_the_run_after_ten_steps(how, tmp_path):
    reward, seen = FailingReward(how, fails=lambda _: True), []
    policy, start = policy_of("last layers"), weights_of(policy_of("last layers"))
    why = "raises RuntimeError: this one cannot be read" if how == "raise" else "gives nan for completion 0"
    with pytest.raises(ValueError, match=f"no completion got a reward for 10 steps in a row: failing {why}"):
        run_training(
            tmp_path / "run", settings=settings_of(steps=20, prior_samples=0), reward=reward, policy=policy,
            show=seen.append,
        )  # fmt: skip
    assert len(seen) == 9
    assert all(metrics.unscored == 8 and np.isnan(metrics.reward) for metrics in seen)
    assert np.isnan(seen[0].gradient_norm)
    assert_same(weights_of(policy), start)
    assert log_of(tmp_path / "run")[0]["reward"] is None
    with pytest.raises(ValueError, match=f"of some prompt no completion of the prior got a reward: failing {why}"):
        run_training(tmp_path / "other", "last layers", reward=reward)


def test_a_reward_that_fails_now_and_then_does_not_end_the_run(tmp_path):
    class Moody(IdsReward):
        def __call__(self, samples):
            rewards = super().__call__(samples)
            return rewards if len(self.seen) % 10 == 0 else [np.nan] * len(rewards)

    seen = []
    run_training(tmp_path / "run", "tabular", settings_of(steps=25, prior_samples=0), Moody(), show=seen.append)
    assert [metrics.step for metrics in seen if not metrics.unscored] == [9, 19]


@pytest.mark.parametrize("objective", ["dpg", "f-dpg"])
def test_a_prompt_without_rewards_leaves_the_others_their_log_z(objective, tmp_path):
    class OneLess(IdsReward):
        """None for the lowest prompt of a step; the prior's completions have theirs."""

        def __call__(self, samples):
            rewards = super().__call__(samples)
            if len(self.seen) == 1:
                return rewards
            return np.where(samples.groups.of == 0, np.nan, rewards)

    reward, seen, settings = OneLess(), [], settings_of(objective=objective, divergence="forward-kl", steps=1, beta=0.7)
    run_training(tmp_path / "run", "tabular", settings, reward, show=seen.append)
    known, drawn = reward.seen
    other = drawn.prompts.values[1]
    weights = np.exp(np.array(IdsReward()(known))[known.groups.of == other] / settings.beta)
    kept = drawn.take_prompts([1])
    log_policy, log_prior = (sequence_logprobs(column) for column in (kept.policy_logprobs, kept.prior_logprobs))
    log_target = log_prior + np.array(IdsReward()(kept)) / settings.beta
    # Both minimise the same divergence, and estimate it alike.
    expected = dpg(log_target, log_policy, log_z=np.log(weights.mean()))
    assert seen[0].objective == pytest.approx(expected.value, rel=1e-9)
    gap = (log_policy - log_target).mean() + np.log(weights.mean())
    # Its log Z is corrected for its bias.
    assert gap < seen[0].inference_gap < gap + 1


def test_a_reward_alone_is_not_called_equal_to_others(tmp_path):
    seen = []
    run_training(tmp_path, "tabular", settings_of(completions=1, steps=1), show=seen.append)
    assert seen[0].notes == ()
    assert seen[0].gradient_norm > 0


@pytest.mark.parametrize("objective", ["plain-rl", "kl-rl", "dpg", "f-dpg", "weighted-ml"])
def test_rewards_that_are_all_equal_are_told_and_make_no_nan(objective, tmp_path):
    class Flat(IdsReward):
        def __call__(self, samples):
            return np.full(len(samples), 0.3)

    seen, settings = [], settings_of(objective=objective, steps=2)
    policy = run_training(tmp_path / "run", "last layers", settings, Flat(), show=seen.append)
    for metrics in seen:
        assert any("one and the same reward" in note for note in metrics.notes)
        assert (metrics.reward, metrics.reward_stderr) == (pytest.approx(0.3), pytest.approx(0.0, abs=1e-12))
        assert np.isfinite([metrics.kl, metrics.inference_gap, metrics.gradient_norm, metrics.ess]).all()
    if objective == "plain-rl":
        assert_same(weights_of(policy), weights_of(policy_of("last layers")))
        assert seen[0].gradient_norm == 0
    else:
        assert all(torch.isfinite(weight).all() for weight in weights_of(policy).values())


@pytest.mark.parametrize("objective", ["plain-rl", "kl-rl", "dpg", "f-dpg", "weighted-ml"])
@pytest.mark.parametrize("completions", [1, 4])
def test_completions_of_one_token_can_be_learned_from(objective, completions, tmp_path):
    seen, settings = [], settings_of(objective=objective, steps=2, new_tokens=1, completions=completions)
    policy = run_training(tmp_path / "run", "full", settings, show=seen.append)
    assert [metrics.tokens for metrics in seen] == [2 * completions] * 2
    assert np.isnan(seen[0].distinct_2)
    assert any(not torch.equal(ours, theirs) for ours, theirs in _pairs(policy, policy_of("full")))


def _pairs(policy, other):
    return [(weight, weights_of(other)[name]) for name, weight in weights_of(policy).items()]


def test_completions_without_weight_are_for_dpg_and_not_for_rl(tmp_path):
    reward = FailingReward(-np.inf)
    with pytest.raises(ValueError, match="is -inf: a reward is finite here"):
        run_training(tmp_path / "plain", "tabular", settings_of(objective="plain-rl", prior_samples=0), reward)
    seen = []
    policy = run_training(tmp_path / "dpg", "tabular", settings_of(objective="dpg"), reward, show=seen.append)
    assert all(metrics.unscored == 0 for metrics in seen)
    assert all(np.isfinite([metrics.gradient_norm, metrics.ess]).all() for metrics in seen)
    assert len(log_of(tmp_path / "dpg")) == 6
    assert all(torch.isfinite(weight).all() for weight in weights_of(policy).values())


def test_a_prompt_whose_completions_all_lack_weight_is_named(tmp_path):
    class Barred(IdsReward):
        def __call__(self, samples):
            return np.where(samples.groups.of == 2, -np.inf, super().__call__(samples))

    with pytest.raises(ValueError, match=r"prompts\[2\]: every completion of the prior has a reward of -inf"):
        run_training(tmp_path / "run", "tabular", settings_of(objective="dpg"), Barred())


# Prompts


def test_a_prompt_that_is_too_long_is_named_before_any_step(tmp_path):
    reward = IdsReward()
    prompts = Ragged.from_rows([*prompts_of("full"), np.full(126, 5)])
    with pytest.raises(ValueError, match=r"prompts\[4\] has 126 tokens and max_new_tokens is 3"):
        run_training(tmp_path / "run", "full", reward=reward, prompts=prompts)
    assert reward.seen == []


def test_fewer_prompts_than_a_step_takes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there are 4 prompts, and a step takes 5"):
        run_training(tmp_path / "run", "full", settings_of(prompts=5))


# Memory


def without_memory(policy, tokens):
    """Let memory hold so many tokens, padding included; where it ends, part of the gradient is there already."""
    whole = policy.add_gradient

    def add_gradient(samples, coefficients):
        if len(samples) * int(text_lengths(samples).max()) > tokens:
            half = np.arange((len(samples) + 1) // 2)
            whole(samples.take_completions(half), coefficients[half])
            raise RuntimeError(NO_MEMORY)
        whole(samples, coefficients)

    policy.add_gradient = add_gradient
    return policy


@pytest.mark.parametrize(("kind", "held"), [("tabular", 12), ("last layers", 40), ("bfloat16", 40)])
def test_micro_batches_are_halved_when_memory_ends(kind, held, tmp_path):
    """To the same bits as with micro-batches that were so small from the first."""
    seen, policy = [], without_memory(policy_of(kind), held)
    run_training(tmp_path / "run", kind, policy=policy, show=seen.append)
    tokens = json.loads((tmp_path / "run/checkpoints/step-000006/trainer.json").read_text())["micro_batch_tokens"]
    told = [(metrics.step, note) for metrics in seen for note in metrics.notes if "memory" in note]
    assert told == [(0, f"out of memory: micro-batches have {tokens} tokens from now on")]
    assert tokens <= held
    small = run_training(tmp_path / "small", kind, settings_of(micro_batch_tokens=tokens))
    assert_same(weights_of(policy), weights_of(small))


def test_a_gradient_that_was_begun_when_memory_ended_is_forgotten():
    (samples, coefficients), policy = ragged_samples(), without_memory(policy_of("last layers"), 50)
    optimiser = Optimiser(policy.parameters, settings_of())
    # Left from before, too.
    policy.add_gradient(samples.take_completions([0, 5]), np.array([3.0, -2.0]))
    tokens = accumulate(policy, optimiser, Lesson(samples, Objective(0.0, coefficients)), 10**6)
    assert tokens < 60
    assert_close(collected(policy), straightforward_gradient(policy, samples, coefficients / len(samples)))


def test_a_completion_that_does_not_fit_into_memory_ends_the_run(tmp_path):
    policy = without_memory(policy_of("last layers"), 3)
    with pytest.raises(MemoryError, match=r"one completion, of at most \d+ tokens with its prompt, does not fit"):
        run_training(tmp_path / "run", "last layers", policy=policy)
    assert all(parameter.grad is None for parameter in policy.parameters.values())


def test_other_errors_are_not_taken_for_want_of_memory(tmp_path):
    policy = policy_of("last layers")

    def broken(*_):
        raise RuntimeError("a bug")

    policy.add_gradient = broken
    with pytest.raises(RuntimeError, match="a bug"):
        run_training(tmp_path / "run", "last layers", policy=policy)


def test_a_run_goes_on_with_the_micro_batches_that_fit(tmp_path):
    def policy():
        return without_memory(policy_of("last layers"), 40)

    run_training(tmp_path / "run", settings=settings_of(steps=3), policy=policy())
    seen = []
    run_training(tmp_path / "run", policy=policy(), show=seen.append)
    assert [metrics.step for metrics in seen] == [3, 4, 5]
    assert not any("out of memory" in note for metrics in seen for note in metrics.notes)


def test_completions_are_written_in_halves_when_memory_ends(monkeypatch):
    prompts, sizes = prompts_of("full"), []
    whole = alice().sample(prompts, 5, 6, np.random.default_rng(3))
    write = decoding.write

    def write_few(network, texts, uniforms, sampling_temperature):
        sizes.append(len(uniforms))
        if len(uniforms) > 3:
            raise RuntimeError(NO_MEMORY)
        return write(network, texts, uniforms, sampling_temperature)

    monkeypatch.setattr(decoding, "write", write_few)
    halved = alice().sample(prompts, 5, 6, np.random.default_rng(3))
    assert sizes[0] == 20
    assert sum(size for size in sizes if size <= 3) == 20
    assert [row.tolist() for row in halved.completions] == [row.tolist() for row in whole.completions]
    np.testing.assert_allclose(halved.policy_logprobs.values, whole.policy_logprobs.values, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(halved.terminated, whole.terminated)


@pytest.mark.parametrize("error", [RuntimeError(NO_MEMORY), MemoryError()])
def test_a_completion_that_cannot_be_written_for_want_of_memory_is_named(error, monkeypatch):
    def write(*_):
        raise error

    monkeypatch.setattr(decoding, "write", write)
    with pytest.raises(MemoryError, match=r"a completion of the \d+ tokens of prompts\[\d\] is more than memory"):
        alice().sample(prompts_of("full"), 2, 4, np.random.default_rng(0))


def test_other_errors_of_writing_are_not_taken_for_want_of_memory(monkeypatch):
    def write(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(decoding, "write", write)
    with pytest.raises(RuntimeError, match="a bug"):
        alice().sample(prompts_of("full"), 2, 4, np.random.default_rng(0))


# TensorBoard


def test_the_numbers_go_to_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen, folder = [], tmp_path / "run"
    run_training(folder, "tabular", show=seen.append)
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    found = events.Scalars("esscher/inference_gap")
    assert [event.step for event in found] == list(range(6))
    assert [event.value for event in found] == pytest.approx([metrics.inference_gap for metrics in seen], rel=1e-6)


@pytest.mark.parametrize("missing", ["torch.utils.tensorboard", "tensorboard"])
def test_without_tensorboard_nothing_is_missed(missing, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    run_training(tmp_path / "run", "tabular")
    assert len(log_of(tmp_path / "run")) == 6
    assert not (tmp_path / "run" / "tensorboard").exists()


# A prior that a server holds


def test_a_served_prior_gives_the_same_training(tmp_path):
    here = []
    run_training(tmp_path / "here", "last layers", show=here.append)
    there = []
    with running_in_thread(Models(load())) as address, Client(address, timeout=60) as client:
        prior = ServedPrior(client)
        assert address in prior.name
        run_training(tmp_path / "there", "last layers", prior=prior, show=there.append)
    for ours, theirs in zip(here, there, strict=True):
        assert (ours.tokens, ours.terminated) == (theirs.tokens, theirs.terminated)
        assert ours.reward == pytest.approx(theirs.reward, abs=1e-9)
        assert ours.kl == pytest.approx(theirs.kl, abs=1e-4)
        assert ours.inference_gap == pytest.approx(theirs.inference_gap, abs=1e-3)
        assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-3)
    assert abs(here[-1].kl) > 0.01


def test_another_model_is_refused_as_a_prior(tmp_path):
    other = load()
    with torch.no_grad():
        for parameter in other.module.parameters():
            parameter.mul_(1.3)
    for samples in (0, 6):
        with pytest.raises(ValueError, match="nats a token off the policy before its first step"):
            run_training(tmp_path / f"run-{samples}", "full", settings_of(prior_samples=samples), prior=other)
    with (
        running_in_thread(Models(other)) as address,
        Client(address, timeout=60) as client,
        pytest.raises(ValueError, match=rf"of {address} is [\d.]+ nats a token off the policy"),
    ):
        run_training(tmp_path / "served", "full", prior=ServedPrior(client))


def test_a_run_does_not_go_on_with_another_prior(tmp_path):
    run_training(tmp_path, "tabular", settings_of(steps=2))
    other = TabularLM.random(np.random.default_rng(9), prompts=4, vocabulary=3, depth=3)
    with pytest.raises(ValueError, match="nats a token off the policy before its first step"):
        run_training(tmp_path, "tabular", settings_of(steps=4), prior=other)


def test_a_prior_of_another_vocabulary_is_refused(tmp_path):
    small = TabularLM.random(np.random.default_rng(0), prompts=4, vocabulary=3, depth=4)
    with (
        running_in_thread(Models(small)) as address,
        Client(address, timeout=60) as client,
        pytest.raises(ValueError, match=r"prompts\[0\]"),
    ):
        run_training(tmp_path / "run", "full", prior=ServedPrior(client))


def test_a_server_that_is_not_there_is_told():
    with Client("127.0.0.1:1", timeout=5) as client, pytest.raises(ConnectionError):
        ServedPrior(client)
