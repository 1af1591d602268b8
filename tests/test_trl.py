"""TRL's real trainers with a real server: the numbers in their logs, and what becomes of them when the server fails."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from esscher import Ragged, Samples, Tilt, distinct, estimate_kl, evaluate
from esscher.integrations.trl import EsscherCallback, EsscherReward
from esscher.integrations.trl_judge import TrainerBatch, samples_of
from models import THREADS, alice, alice_folder

pytestmark = [
    pytest.mark.timeout(120),
    # TRL 1.16 asks for it by the old name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

# Line breaks, commas and full stops: completions of all lengths.
ENDS = [3, 4, 11, 13]
PROMPTS = ["Alice was", "The Queen said", "“Who are you?”", "Down the"]
KL = {"esscher/kl", "esscher/kl_stderr", "esscher/kl_trl_grpo", "esscher/kl_trl_rloo"}
TARGET = {
    "esscher/ess",
    "esscher/largest_weight",
    "esscher/log_z",
    "esscher/inference_gap",
}
# Of four completions a prompt they are left out where a bias is left that is not small beside them.
ERRORS = {"esscher/log_z_stderr", "esscher/inference_gap_stderr"}
DIVERSITY = {"esscher/distinct_2", "esscher/unique"}
ALWAYS = {"esscher/dropped", "esscher/failed"}
ALL = KL | TARGET | DIVERSITY | ALWAYS | {"esscher/step", "esscher/completions"}
REWARDS = """
import time
def letters(prompts, completions):
    if "slow" in prompts:
        time.sleep(1)
    rewards = [text.count("e") / 4 - len(prompt) / 100 for prompt, text in zip(prompts, completions)]
    return [float("-inf") if "forbidden" in text else reward for text, reward in zip(completions, rewards)]
"""


def letters(prompts, completions, **_):
    return [text.count("e") / 4 - len(prompt) / 100 for prompt, text in zip(prompts, completions, strict=True)]


class Server:
    """A server process; started again, it has the same address."""

    def __init__(self, folder):
        self.folder, self.address = folder, None
        (folder / "our_rewards.py").write_text(REWARDS)

    def start(self):
        port = "0" if self.address is None else self.address.rpartition(":")[2]
        command = [sys.executable, "-m", "esscher", "serve", "--prior", alice_folder(), "--port", port]
        command += ["--reward", "our_rewards:letters"]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        with (self.folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        line = self.process.stdout.readline()
        assert line, (self.folder / "log").read_text()
        self.address = line.split()[-1]

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


@contextlib.contextmanager
def serving(folder):
    server = Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server


class Recorder(TrainerCallback):
    """What the trainer logs, and what is to be done at the end of each step."""

    def __init__(self, at_step_end=lambda _: None):
        self.lines, self.at_step_end = [], at_step_end

    def on_step_end(self, args, state, control, **_):  # noqa: ARG002
        self.at_step_end(state.global_step)

    def on_log(self, args, state, control, logs, **_):  # noqa: ARG002
        if "loss" in logs:
            self.lines.append(dict(logs))


def make(kind, folder, rewards, *, prompts=PROMPTS, steps=3, model=None, **options):
    torch.set_num_threads(THREADS)
    config, trainer = {"rloo": (RLOOConfig, RLOOTrainer), "grpo": (GRPOConfig, GRPOTrainer)}[kind]
    tokenizer = AutoTokenizer.from_pretrained(alice_folder())
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    settings = {
        "per_device_train_batch_size": 16,
        "num_generations": 4,
        "max_completion_length": 8,
        "learning_rate": 2e-3,
        "beta": 0.05,
        "max_steps": steps,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "disable_tqdm": True,
        "lr_scheduler_type": "constant",
        "seed": 1,
    }
    model = model or AutoModelForCausalLM.from_pretrained(alice_folder(), dtype=torch.float32)
    model.generation_config.eos_token_id = ENDS
    return trainer(
        model=model,
        reward_funcs=rewards,
        args=config(output_dir=str(folder), **{**settings, **options}),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
    )


def watch(trainer, address, at_step_end=None, **options):
    """Train; gives the log's lines, and waits for the numbers at each step's end if nothing else is to be done."""
    callback = EsscherCallback(trainer, address, **options)
    recorder = Recorder(at_step_end or (lambda _: callback.wait(30)))
    # The recorder first: what it waits for is logged with the same step.
    trainer.add_callback(recorder)
    trainer.add_callback(callback)
    trainer.train()
    return recorder.lines


def ours(line):
    return {name for name in line if name.startswith("esscher/")} - ERRORS


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("esscher-judge")]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("rloo", {}),
        ("rloo", {"beta": 0.2, "num_iterations": 2, "steps": 4}),
        ("grpo", {}),
        ("grpo", {"num_iterations": 2, "steps": 4}),
    ],
)
def test_the_kl_is_what_trl_logs(kind, options, server, tmp_path):
    trainer = make(kind, tmp_path, [letters], **options)
    lines = watch(trainer, server.address, beta=0.05)
    fresh = [line for line in lines if "esscher/kl" in line]
    assert [line["esscher/step"] for line in fresh] == list(range(1, len(lines) + 1, options.get("num_iterations", 1)))
    for line in fresh:
        assert ours(line) == ALL
        assert line[f"esscher/kl_trl_{kind}"] == pytest.approx(line["kl"], abs=1e-4)
        assert line["esscher/completions"] == 16
    # The policy has moved: a KL of nothing would agree with anything.
    assert abs(fresh[-1]["kl"]) > 1e-3
    assert max(abs(line["esscher/kl_trl_rloo"] - line["esscher/kl_trl_grpo"]) for line in fresh) > 2e-4
    assert lines[-1]["esscher/dropped"] == lines[-1]["esscher/failed"] == 0
    assert threads() == []
    assert not set(vars(trainer)) & {"_compute_loss", "_generate_and_score_completions"}


def test_log_probs_that_come_in_parts_are_put_together(server, tmp_path):
    trainer = make("grpo", tmp_path, [letters], per_device_train_batch_size=4, gradient_accumulation_steps=4)
    counts = []
    original = trainer._compute_loss

    def loss(model, inputs):
        counts.append(int(inputs["completion_mask"].sum()))
        return original(model, inputs)

    trainer._compute_loss = loss
    kept = []

    def at_step_end(_):
        kept.append(list(trainer._metrics["train"]["kl"]))
        callback_of(trainer).wait(30)

    lines = watch(trainer, server.address, at_step_end)
    assert len(counts) == 12
    assert len(set(counts)) > 1
    for step, line in enumerate(lines):
        assert line["esscher/completions"] == 16
        parts = kept[step], counts[4 * step : 4 * step + 4]
        # TRL logs the mean of the parts' means; over all tokens, each part has its tokens' weight.
        assert line["kl"] == pytest.approx(np.mean(parts[0]))
        assert line["esscher/kl_trl_grpo"] == pytest.approx(np.average(parts[0], weights=parts[1]), abs=1e-4)
    assert lines[-1]["kl"] > 1e-3
    assert trainer._compute_loss is loss


def callback_of(trainer):
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, EsscherCallback))


@pytest.mark.parametrize("parts", [1, 4])
def test_the_numbers_are_those_of_the_samples(parts, server, tmp_path):
    """By other means: a frozen policy, whose completions are read back and judged in process."""
    trainer = make(
        "grpo",
        tmp_path,
        [letters],
        steps=1,
        learning_rate=0.0,
        per_device_train_batch_size=16 // parts,
        gradient_accumulation_steps=parts,
        model=shaken(),
    )
    seen = {}
    trainer._calculate_rewards = remember(trainer._calculate_rewards, seen)
    (line,) = watch(trainer, server.address, beta=0.3)
    prompts = trainer.processing_class([row["prompt"] for row in seen["inputs"][::4]])["input_ids"]
    completions = Ragged.from_rows(seen["completion_ids"])
    samples = Samples(Ragged.from_rows(prompts), completions, [0, 4, 8, 12, 16])
    policy = logprobs(trainer.model, samples)
    prior = alice().logprobs(samples.prompts, samples.completions, samples.groups)
    samples = Samples(
        samples.prompts, completions, samples.groups, policy, prior, rewards=seen["rewards"][:, 0].numpy()
    )
    report = evaluate(samples, Tilt(0.3))
    found = {
        "kl": report.kl["k1"].value,
        "kl_stderr": report.kl["k1"].stderr,
        "kl_trl_grpo": estimate_kl(samples, preset="trl-grpo").value,
        "kl_trl_rloo": estimate_kl(samples, preset="trl-rloo").value,
        "ess": report.target.ess,
        "largest_weight": report.per_completion.relative_weights.reshape(4, 4).max(axis=1).mean() / 4,
        "log_z": report.target.log_z.value,
        "log_z_stderr": report.target.log_z.stderr,
        "inference_gap": report.target.inference_gap.value,
        "inference_gap_stderr": report.target.inference_gap.stderr,
        "distinct_2": distinct(completions, 2, samples.groups).mean(),
    }
    assert abs(found["kl"]) > 0.1
    for name, value in found.items():
        if np.isnan(value):
            assert f"esscher/{name}" in ERRORS - line.keys()
        else:
            assert line[f"esscher/{name}"] == pytest.approx(value, abs=2e-3, rel=1e-3), name


def shaken():
    """A policy that is not its prior."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(alice_folder(), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * parameter.std() * torch.randn_like(parameter) if parameter.ndim > 1 else 0
    return model


def remember(original, seen):
    def calculate(inputs, prompts, completions, completion_ids):
        rewards = original(inputs, prompts, completions, completion_ids)
        seen.update(inputs=inputs, completion_ids=completion_ids, rewards=rewards)
        return rewards

    return calculate


@torch.inference_mode()
def logprobs(model, samples):
    """Log-probs of each completion read by itself."""
    model.eval()
    rows = []
    for completion, group in zip(samples.completions, samples.groups.of, strict=True):
        ids = torch.tensor(np.concatenate([samples.prompts[group], completion]).astype(np.int64))[None]
        scores = model(input_ids=ids).logits[0, -len(completion) - 1 : -1].log_softmax(-1)
        rows.append(scores.gather(1, ids[0, -len(completion) :, None])[:, 0].numpy())
    return Ragged.from_rows(rows)


def test_a_server_that_is_killed_stops_nothing_and_comes_back(tmp_path, caplog):
    with serving(tmp_path) as server:
        reward = EsscherReward(server.address, timeout=3, name="remote")
        trainer = make("rloo", tmp_path / "run", [reward, letters], steps=9)

        def at_step_end(step):
            callback_of(trainer).wait(30)
            if step == 2:
                server.kill()
            if step == 5:
                server.start()

        with caplog.at_level(logging.WARNING, "esscher"):
            lines = watch(trainer, server.address, at_step_end, timeout=3)
    assert len(lines) == 9
    whole = [ours(line) == ALL for line in lines]
    assert whole == [True] * 2 + [False] * 3 + [True] * 4
    for line in lines[2:5]:
        assert ours(line) == ALWAYS
        assert line["rewards/remote/mean"] is None
        assert line["rewards/letters/mean"] == pytest.approx(line["reward"])
    for line in lines[:2] + lines[5:]:
        assert line["rewards/remote/mean"] == pytest.approx(line["rewards/letters/mean"], abs=1e-5)
    assert lines[-1]["esscher/failed"] == 3
    # One warning for the episode, one for its end: of the reward, and of the numbers.
    told = [record.getMessage() for record in caplog.records if record.name.startswith("esscher")]
    assert len([text for text in told if "gives no answer" in text]) == 2, told
    assert len([text for text in told if "answers again" in text]) == 2, told


def test_a_server_that_hangs_lengthens_no_step(server, tmp_path):
    trainer = make("rloo", tmp_path, [letters], steps=8)
    times = []

    def at_step_end(step):
        times.append(time.monotonic())
        if step == 2:
            server.process.send_signal(signal.SIGSTOP)

    try:
        lines = watch(trainer, server.address, at_step_end, timeout=20, patience=0.2, waiting=1)
        left = time.monotonic() - times[-1]
    finally:
        server.process.send_signal(signal.SIGCONT)
    # Far below the 20 s that a step would wait for the server.
    assert max(np.diff(times)[2:]) < 5.0
    assert left < 5.0
    # One batch with the server, one that waits: the others are dropped.
    assert lines[-1]["esscher/dropped"] >= 3
    assert ours(lines[-1]) == ALWAYS
    assert threads() == []


def test_a_reward_that_is_slow_is_none_and_not_zero(server, caplog):
    reward = EsscherReward(server.address, timeout=0.5)
    with caplog.at_level(logging.WARNING, "esscher"):
        assert reward(prompts=["slow"] * 2, completions=[" tired", " late"], step=1) == [None, None]
        assert reward(prompts=["slow"], completions=[" tired"]) == [None]
        assert [record.levelname for record in caplog.records if record.name.startswith("esscher")] == ["WARNING"]
        answers = (reward(prompts=["A"], completions=["e"]) for _ in range(100))
        assert next(answer for answer in answers if answer != [None]) == [pytest.approx(0.24)]
    assert caplog.records[-1].getMessage() == f"the server at {server.address} answers again"


def test_rewards_that_some_completions_lack(server, tmp_path):
    """They are left out of the target's numbers, not of the others."""

    def patchy(completions, **_):
        return [None if i % 4 == 0 else float(i % 3) for i in range(len(completions))]

    lone = [None, None, None, 1.0, *[None] * 4, 0.5, 1.0, None, None, *[None] * 4]
    trainer = make("rloo", tmp_path / "a", [patchy], steps=2)
    for line in watch(trainer, server.address):
        assert ours(line) == ALL
        assert 4 <= line["esscher/ess"] <= 12 + 1e-9
        assert line["esscher/completions"] == 16
    trainer = make("rloo", tmp_path / "b", [lambda **_: lone], steps=1)
    (line,) = watch(trainer, server.address)
    # One prompt is left with two rewards, and a single prompt's errors come of its completions.
    assert line["esscher/ess"] <= 2
    trainer = make("rloo", tmp_path / "c", [lambda completions, **_: [None] * len(completions)], steps=1)
    (line,) = watch(trainer, server.address)
    assert ours(line) == ALL - TARGET


def test_rewards_are_weighted_and_clipped_as_trl_does(server, tmp_path):
    """Rewards that are all the same after clipping leave a target that is the prior."""
    trainer = make(
        "rloo",
        tmp_path,
        [letters, lambda completions, **_: [100.0] * len(completions)],
        steps=1,
        reward_weights=[0.0, 1.0],
        reward_clip_range=(-1.0, 1.0),
    )
    (line,) = watch(trainer, server.address, beta=0.5)
    # At the first step the policy is the prior: log Z is that of a constant reward.
    assert line["esscher/log_z"] == pytest.approx(2.0, abs=1e-3)
    assert line["esscher/inference_gap"] == pytest.approx(0.0, abs=1e-3)
    assert line["esscher/ess"] == pytest.approx(16, abs=1e-2)


def test_completions_of_one_token(server, tmp_path):
    trainer = make("grpo", tmp_path, [letters], steps=2, max_completion_length=1)
    lines = watch(trainer, server.address, beta=0.1)
    for line in lines:
        assert ours(line) == ALL - {"esscher/distinct_2"}
        assert line["esscher/kl_trl_grpo"] == pytest.approx(line["kl"], abs=1e-4)


def test_completions_that_trl_masks_are_left_out(server, tmp_path):
    trainer = make("rloo", tmp_path, [letters], steps=2, mask_truncated_completions=True)
    for line in watch(trainer, server.address):
        assert 0 < line["completions/clipped_ratio"] < 1
        assert line["esscher/completions"] == round(16 * (1 - line["completions/clipped_ratio"]))
        assert line["esscher/kl_trl_rloo"] == pytest.approx(line["kl"], abs=1e-4)


def test_without_beta_grpo_has_no_target(server, tmp_path):
    (line,) = watch(make("grpo", tmp_path, [letters], steps=1), server.address)
    assert ours(line) == ALL - TARGET


def test_several_steps_in_a_line_are_averaged(server, tmp_path):
    trainer = make("rloo", tmp_path, [letters], steps=4, logging_steps=2)
    lines = watch(trainer, server.address)
    assert [line["esscher/step"] for line in lines] == [1.5, 3.5]
    for line in lines:
        assert line["esscher/kl_trl_rloo"] == pytest.approx(line["kl"], abs=1e-4)


def test_evaluation_is_not_mixed_up_with_training(server, tmp_path):
    trainer = make("grpo", tmp_path, [letters], steps=2, per_device_eval_batch_size=8, eval_steps=1)
    trainer.args.eval_strategy = "steps"
    trainer.eval_dataset = Dataset.from_dict({"prompt": PROMPTS[:2]})
    callback = EsscherCallback(trainer, server.address)
    recorder = Recorder(lambda _: callback.wait(30))
    trainer.add_callback(recorder)
    trainer.add_callback(callback)
    trainer.train()
    assert [line["esscher/step"] for line in recorder.lines] == [1, 2]
    assert [line["esscher/completions"] for line in recorder.lines] == [16, 16]
    # A trainer that trains again is watched again.
    trainer.args.max_steps = 3
    trainer.train()
    assert recorder.lines[-1]["esscher/step"] == 3
    assert threads() == []


def test_what_the_capture_does_not_understand_is_logged_once(server, tmp_path, caplog):
    trainer = make("rloo", tmp_path, [letters], steps=3)
    original = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: {**original(inputs), "pixel_values": torch.ones(16, 8)}
    loss = trainer._compute_loss  # which has no images
    trainer._compute_loss = lambda model, inputs: loss(model, {k: v for k, v in inputs.items() if k != "pixel_values"})
    with caplog.at_level(logging.WARNING, "esscher"):
        lines = watch(trainer, server.address)
    assert [ours(line) for line in lines] == [ALWAYS] * 3
    assert [record.getMessage() for record in caplog.records if "images" in record.getMessage()] == [
        "the trainer's completions cannot be judged: ValueError: they have images, which the server's prior does "
        "not read"
    ]


def test_results_of_tools_are_read_and_not_counted():
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    tools = torch.tensor([[1, 0, 0, 1, 1], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    ids = torch.arange(20).reshape(4, 5)
    batch = TrainerBatch(
        step=1,
        columns={
            "prompt_ids": torch.tensor([[7], [7], [8], [8]]),
            "prompt_mask": torch.ones(4, 1, dtype=torch.long),
            "completion_ids": ids,
            "completion_mask": mask,
            "tool_mask": tools,
        },
        rewards=torch.tensor([[0.0], [1.0], [2.0], [3.0]]),
        weights=torch.ones(1),
        reward_range=None,
        logprobs=-ids / 10,
    )
    samples, rewards, _ = samples_of(batch)
    # The third is a tool's alone, the fourth is left out by the trainer.
    assert [row.tolist() for row in samples.completions] == [[0, 1, 2, 3], [5, 6, 7]]
    assert [row.tolist() for row in samples.actions.kept] == [[0, 3], [5, 6, 7]]
    np.testing.assert_allclose(samples.policy_log_prob, [-0.3, -1.8], rtol=1e-6)
    assert rewards.tolist() == [0.0, 1.0]


def test_completions_with_results_of_tools_are_judged(server, tmp_path):
    trainer = make("grpo", tmp_path, [letters], steps=1)
    original = trainer._generate_and_score_completions

    def generate(inputs):
        output = original(inputs)
        tools = torch.ones_like(output["completion_mask"])
        tools[:, 1] = 0
        return {**output, "tool_mask": tools}

    trainer._generate_and_score_completions = generate
    (line,) = watch(trainer, server.address)
    assert {"esscher/kl", *DIVERSITY} <= ours(line)
    assert line["esscher/failed"] == 0


def test_the_reward_is_the_local_one_for_texts_and_messages(server):
    reward = EsscherReward(server.address)
    assert reward.__name__ == "esscher_reward"
    prompts, texts = ["Alice was", "Alice was", "The Queen"], [" never there", "", " said “Here!” <eos>"]
    expected = letters(prompts, texts)
    assert reward(prompts=prompts, completions=texts, completion_ids=[[1], [2], [3]], trainer_state=None) == expected
    messages = [[{"role": "user", "content": [{"type": "text", "text": prompt}]}] for prompt in prompts]
    replies = [[{"role": "assistant", "content": text}] for text in texts]
    assert reward(prompts=messages, completions=replies) == expected
    shouted = EsscherReward(server.address, render=lambda prompt: prompt[0]["content"][0]["text"] + "!!!!!")
    assert shouted(prompts=messages, completions=replies) == pytest.approx([r - 0.05 for r in expected])
    assert reward(prompts=["A", "A"], completions=["forbidden", "e"]) == [None, pytest.approx(0.24)]
    pictures = [[{"role": "user", "content": [{"type": "image"}]}]]
    assert reward(prompts=pictures, completions=[" tired"]) == [None]


def test_conversations_in_training(server, tmp_path):
    trainer = make("rloo", tmp_path, [EsscherReward(server.address)], prompts=conversations(), steps=2)
    trainer.processing_class.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    for line in watch(trainer, server.address):
        assert ours(line) == ALL
        assert line["rewards/esscher_reward/mean"] is not None
        assert line["esscher/kl_trl_rloo"] == pytest.approx(line["kl"], abs=1e-4)


def conversations():
    return [[{"role": "user", "content": prompt}] for prompt in PROMPTS]


def test_wrong_arguments_are_refused_at_once(tmp_path):
    trainer = make("rloo", tmp_path, [letters])
    for options, error in (
        ({"beta": 0.0}, "beta"),
        ({"beta": float("nan")}, "beta"),
        ({"timeout": -1.0}, "timeout"),
        ({"waiting": 0}, "waiting is 0"),
        ({"patience": -1.0}, "patience is -1"),
    ):
        with pytest.raises(ValueError, match=error):
            EsscherCallback(trainer, "127.0.0.1:1", **options)
    with pytest.raises(ValueError, match="host:port"):
        EsscherCallback(trainer, "nowhere")
    with pytest.raises(ValueError, match="host:port"):
        EsscherReward("nowhere")
    with pytest.raises(TypeError, match=r"object has no _generate_and_score_completions\(inputs, \.\.\.\).*TRL 1\.16"):
        EsscherCallback(object(), "127.0.0.1:1")
    other = make("grpo", tmp_path, [letters])
    other._metrics = {"train": {}}
    with pytest.raises(TypeError, match=r"does not keep its numbers where TRL 1\.16 does"):
        EsscherCallback(other, "127.0.0.1:1")
    with pytest.raises(ValueError, match=r"temperature is 0\.7"):
        EsscherCallback(make("rloo", tmp_path, [letters], temperature=0.7), "127.0.0.1:1")
