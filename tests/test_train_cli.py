"""`esscher train`: a run from its first step to its last, and again; how it is stopped; what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from esscher import Client, Samples, files
from esscher.lm.checkpoints import newest_whole_checkpoint
from esscher.lm.transformers import TransformersLM
from models import alice, alice_folder

pytestmark = pytest.mark.timeout(180)

# Sums differ in their last bits by the number of threads.
torch.set_num_threads(1)

TEXTS = ["Alice was", "The Queen said", "Down, down, down", "Oh dear! said the Rabbit, and"]
SENTIMENT = "esscher.lm.rewards:sentiment"
REWARDS = """
import time
from pathlib import Path

calls = []

def letters(prompts, completions):
    return [text.count("e") - 0.3 * text.count("a") + len(text) / 50 for text in completions]

def held(prompts, completions):
    "The prior's samples are the first call; the third step waits until it is let go."
    calls.append(1)
    if len(calls) == 4:
        Path("waiting").touch()
        while not Path("go on").exists():
            time.sleep(0.01)
    return letters(prompts, completions)

def broken(prompts, completions):
    raise RuntimeError("nothing can be read")
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with prompts and rewards."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(TEXTS) + "\n\n")
    (tmp_path / "train_rewards.py").write_text(REWARDS)
    return tmp_path


def arguments(output="run", prompts="prompts.txt", reward="train_rewards:letters", **others):
    options = {
        "model": "alice", "output": output, "prompts": prompts, "reward": reward, "steps": 4, "prompts-a-step": 2,
        "completions": 4, "new-tokens": 5, "prior-samples": 6, "save-every": 2, "learning-rate": 1e-3, "device": "cpu",
    }  # fmt: skip
    options |= {name.replace("_", "-"): value for name, value in others.items()}
    given = [(f"--{name}", str(value)) for name, value in options.items() if value is not None]
    return ["train", *(word for pair in given for word in pair)]


def log_of(folder):
    """The log, but for what time it took, which no two runs share."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("seconds")} for line in lines]


def checkpoints_of(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def random_samples():
    return alice().sample(alice().encode(TEXTS[:2]), 3, 6, np.random.default_rng(0))


# A run


def test_a_run_is_shown_and_kept(esscher, place):
    code, output, errors = esscher(*arguments(reward=SENTIMENT))
    assert code == 0, errors
    lines = output.splitlines()
    assert lines[0].split()[:2] == ["step", "reward"]
    assert [line.split()[0] for line in lines[1:] if line.split() and line.split()[0].isdigit()] == ["0", "1", "2", "3"]
    assert f"Checkpoints, log and the prior's samples: {place / 'run'}" in output
    assert checkpoints_of(place / "run") == ["step-000002", "step-000004"]
    assert (place / "run" / "prior.parquet").is_file()
    log = log_of(place / "run")
    assert [line["step"] for line in log] == [0, 1, 2, 3]
    assert {line["completions"] for line in log} == {8}
    told = json.loads((place / "run" / "run.json").read_text())
    assert (told["model"], told["reward"], told["steps"], told["objective"]) == ("alice", SENTIMENT, 4, "kl-rl")


def test_the_rewards_are_those_of_the_function(esscher, place):
    assert esscher(*arguments(steps=1))[0] == 0
    kept = files.read([place / "run" / "prior.parquet"]).samples
    texts = alice().decode(kept.completions)
    expected = [text.count("e") - 0.3 * text.count("a") + len(text) / 50 for text in texts]
    np.testing.assert_allclose(kept.rewards, expected, rtol=1e-12)
    assert alice().decode(kept.prompts) == TEXTS


def test_prompts_are_read_from_texts_and_from_json_lines(esscher, place):
    lines = [json.dumps({"id": i, "prompt": text}) for i, text in enumerate(TEXTS)]
    (place / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    assert esscher(*arguments(output="one"))[0] == 0
    assert esscher(*arguments(output="other", prompts="prompts.jsonl"))[0] == 0
    assert log_of(place / "one") == log_of(place / "other")


def test_a_prompt_may_hold_any_character_that_json_does(esscher, place):
    """Some of them end a line of a text, and none a line of JSON; nor is a byte order mark one of its."""
    texts = [*TEXTS, "one\u2028two\x85three\x0cfour"]
    lines = [json.dumps({"prompt": text}, ensure_ascii=False) for text in texts]
    (place / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    code, _, errors = esscher(*arguments(prompts="prompts.jsonl", steps=1))
    assert code == 0, errors


@pytest.mark.parametrize(
    "others",
    [
        {"objective": "plain-rl"},
        {"objective": "dpg"},
        {"objective": "f-dpg", "divergence": "forward-kl"},
        {"objective": "weighted-ml"},
        {"last_layers": 1},
        {"lora": 2},
        {"dtype": "bfloat16"},
        {"prior_samples": 0},
    ],
    ids=lambda others: "-".join(map(str, others.values())),
)
def test_options_reach_the_run(others, esscher, place):
    code, _, errors = esscher(*arguments(steps=2, **others))
    assert code == 0, errors
    told = json.loads((place / "run" / "run.json").read_text())
    assert all(str(told[name]) == str(value) for name, value in others.items())
    log = log_of(place / "run")
    assert all(line["gradient_norm"] > 0 for line in log)
    assert (log[0]["inference_gap"] is None) == (others.get("prior_samples") == 0)
    trainer = load_file(place / "run/checkpoints/step-000002/trainer.safetensors")
    names = {name.partition(".")[2] for name in trainer if name.startswith("weight.")}
    assert all(".lora_" in name for name in names) == ("lora" in others)
    assert (len(names) < len(list(alice().module.parameters()))) == ("last_layers" in others)


def test_the_same_command_goes_on_and_then_is_done(esscher, place):
    assert esscher(*arguments(output="whole"))[0] == 0
    assert esscher(*arguments(steps=2))[0] == 0
    assert esscher(*arguments())[0] == 0
    assert log_of(place / "run") == log_of(place / "whole")
    code, output, _ = esscher(*arguments())
    assert code == 0
    assert "step" not in output.splitlines()[0]
    assert "Checkpoints, log" in output
    assert log_of(place / "run") == log_of(place / "whole")


def test_other_settings_are_refused_unless_the_run_is_to_begin_again(esscher, place):
    assert esscher(*arguments())[0] == 0
    first = log_of(place / "run")
    (place / "others.txt").write_text("Some\nother\nprompts\nare here\n")
    for others, name in (
        ({"beta": 0.5}, "beta 0.1"),
        ({"lora": 2}, "lora"),
        ({"prompts": "others.txt"}, "prompts sha256"),
    ):
        code, _, errors = esscher(*arguments(**others))
        assert code == 2
        assert f"run holds a run with {name}" in errors
        assert "--restart" in errors
    assert log_of(place / "run") == first
    assert esscher(*arguments(beta=0.5, steps=2), "--restart")[0] == 0
    assert len(log_of(place / "run")) == 2
    assert log_of(place / "run")[0] != first[0]
    assert checkpoints_of(place / "run") == ["step-000002"]


@pytest.mark.parametrize("others", [{"prompts": "missing.txt"}, {"reward": "train_rewards:absent"}, {"beta": -1}])
def test_a_run_is_not_discarded_for_a_command_that_cannot_be_followed(others, esscher, place):
    assert esscher(*arguments(steps=1))[0] == 0
    assert esscher(*arguments(**others), "--restart")[0] == 2
    assert len(log_of(place / "run")) == 1


def test_a_folder_of_something_else_is_left_alone(esscher, place):
    (place / "run").mkdir()
    (place / "run" / "thesis.txt").write_text("years of work")
    for options in ((), ("--restart",)):
        code, _, errors = esscher(*arguments(), *options)
        assert code == 2
        assert "has files, and no run" in errors
    assert [path.name for path in (place / "run").iterdir()] == ["thesis.txt"]


# What is refused


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"\n  \n", "empty.txt has no prompts: write one a line"),
        ("empty.jsonl", b"", "empty.jsonl has no prompts"),
        (
            "torn.jsonl",
            b'{"prompt": "a"}\n\n{"prompt": "b"\n',
            "torn.jsonl, line 3: it is no JSON object with a prompt",
        ),
        ("list.jsonl", b'["a"]\n', "list.jsonl, line 1: it is no JSON object with a prompt"),
        ("other.jsonl", b'{"prompt": "a"}\n{"text": "b"}\n', "other.jsonl, line 2: it is no JSON object with a prompt"),
        ("number.jsonl", b'{"prompt": 7}\n', "number.jsonl, line 1: the prompt is 7, not a text"),
        ("blank.jsonl", b'{"prompt": ""}\n', "blank.jsonl, line 1: the prompt is '', not a text"),
        ("latin.txt", "caf\u00e9\n".encode("latin-1"), "latin.txt is not a text in UTF-8"),
        ("few.txt", b"one\n", "there are 1 prompts, and a step takes 2"),
        ("long.txt", b"one\n" + b"word " * 200 + b"\n", "prompts[1] has"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(name, content, message, esscher, place):
    (place / name).write_bytes(content)
    code, _, errors = esscher(*arguments(prompts=name))
    assert code == 2
    assert message in errors
    assert not (place / "run" / "log.jsonl").exists()


@pytest.mark.parametrize(
    ("others", "code", "message"),
    [
        ({"prompts": None}, 2, "--prompts and --reward"),
        ({"reward": None}, 2, "--prompts and --reward"),
        ({"output": None}, 2, "--output"),
        ({"prompts": "nowhere.txt"}, 2, "nowhere.txt"),
        ({"model": "nowhere/at/all"}, 2, "nowhere/at/all"),
        ({"reward": "train_rewards:absent"}, 2, "train_rewards has no absent"),
        ({"reward": "no_such_module:f"}, 2, "there is no module no_such_module"),
        ({"reward": "train_rewards:broken"}, 2, "raises RuntimeError: nothing can be read"),
        (
            {"reward": "train_rewards:broken", "prior_samples": 0, "steps": 30, "save_every": 30},
            2,
            "for 10 steps in a row",
        ),
        ({"objective": "ppo"}, 2, "ppo"),
        ({"objective": "weighted-ml", "prior_samples": 0}, 2, "weighted-ml needs completions of the prior"),
        ({"beta": 0}, 2, "beta is 0"),
        ({"steps": 0}, 2, "steps"),
        ({"learning_rate": -1}, 2, "learning_rate is -1"),
        ({"last_layers": 1, "lora": 2}, 2, "give one of them"),
        ({"last_layers": 99}, 2, "last_layers is 99"),
        ({"prior_server": "127.0.0.1:1"}, 3, "127.0.0.1:1"),
    ],
    ids=str,
)
def test_what_cannot_be_followed_is_refused(others, code, message, esscher, place):
    found, _, errors = esscher(*arguments(**others))
    assert found == code
    assert message in errors
    assert "Traceback" not in errors
    assert not (place / "run" / "checkpoints").exists()


# How it is stopped


@contextlib.contextmanager
def waiting(place):
    """A process that trains, in its third step; gives it, and lets that step end when told."""
    command = [sys.executable, "-m", "esscher", *arguments(reward="train_rewards:held")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (
        (place / "said").open("w") as said,
        subprocess.Popen(command, cwd=place, env=environment, stdout=said, stderr=said) as process,
    ):
        try:
            while not (place / "waiting").exists():
                assert process.poll() is None, (place / "said").read_text()
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


def signal_and_wait_until_it_is_heard(process, number, place):
    process.send_signal(number)
    while "stopping after this step" not in " ".join((place / "said").read_text().split()):
        assert process.poll() is None
        time.sleep(0.02)


@pytest.fixture
def whole(esscher, place):
    """The log of a run that nothing stopped."""
    (place / "go on").touch()
    assert esscher(*arguments(output="whole", reward="train_rewards:held"))[0] == 0
    (place / "go on").unlink()
    (place / "waiting").unlink(missing_ok=True)
    return log_of(place / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_after_the_step_with_a_checkpoint(number, whole, esscher, place):
    with waiting(place) as process:
        signal_and_wait_until_it_is_heard(process, number, place)
        (place / "go on").touch()
        assert process.wait(timeout=60) == 130
    assert "stopped after 3 of 4 steps: the same command goes on" in (place / "said").read_text()
    assert checkpoints_of(place / "run") == ["step-000002", "step-000003"]
    assert newest_whole_checkpoint(place / "run" / "checkpoints").folder.name == "step-000003"
    assert log_of(place / "run") == whole[:3]
    assert esscher(*arguments(reward="train_rewards:held"))[0] == 0
    assert log_of(place / "run") == whole
    assert checkpoints_of(place / "run") == ["step-000003", "step-000004"]


@pytest.mark.parametrize("end", ["twice", "kill"])
def test_an_end_at_once_leaves_the_last_checkpoint(end, whole, esscher, place):
    with waiting(place) as process:
        if end == "kill":
            process.kill()
            assert process.wait(timeout=60) == -signal.SIGKILL
        else:
            signal_and_wait_until_it_is_heard(process, signal.SIGINT, place)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) == 130
    assert "Traceback" not in (place / "said").read_text()
    assert checkpoints_of(place / "run") == ["step-000002"]
    (place / "go on").touch()
    assert esscher(*arguments(reward="train_rewards:held"))[0] == 0
    assert log_of(place / "run") == whole


# Together with a server


@contextlib.contextmanager
def serving(place, *options):
    command = [sys.executable, "-m", "esscher", "serve", "--prior", alice_folder(), "--port", "0", *options]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with (
        (place / "log").open("w") as log,
        subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as server,
    ):
        try:
            line = server.stdout.readline()
            assert line, (place / "log").read_text()
            yield line.split()[-1]
        finally:
            server.kill()


def test_a_server_takes_the_checkpoints_and_is_the_prior_of_a_run(esscher, place):
    assert esscher(*arguments(lora=2))[0] == 0
    checkpoints, samples = place / "run" / "checkpoints", random_samples()
    loaded = TransformersLM.load(newest_whole_checkpoint(checkpoints).folder, device="cpu")
    texts = samples.prompts, samples.completions, samples.groups
    with serving(place, "--policy-dir", checkpoints) as address, Client(address, timeout=60) as client:
        scored = client.score(Samples(*texts), ("policy_logprobs", "prior_logprobs"))
        code, _, errors = esscher(*arguments(output="served", lora=2, prior_server=address))
        assert code == 0, errors
        # That server holds alice: to a policy that begins with another model it is no prior.
        other = newest_whole_checkpoint(checkpoints).folder
        far = esscher(*arguments(output="far", model=_stirred(other, place), prior_server=address))
    np.testing.assert_allclose(scored.policy_logprobs.values, loaded.logprobs(*texts).values, rtol=0, atol=1e-4)
    assert np.abs(scored.policy_logprobs.values - scored.prior_logprobs.values).max() > 0.01
    for ours, theirs in zip(log_of(place / "run"), log_of(place / "served"), strict=True):
        assert ours["tokens"] == theirs["tokens"]
        assert ours["reward"] == pytest.approx(theirs["reward"], abs=1e-9)
        assert ours["kl"] == pytest.approx(theirs["kl"], abs=1e-4)
    assert far[0] == 2
    assert f"of {address} is" in far[2]
    assert "nats a token off the policy" in far[2]


def _stirred(folder, place):
    """Write a model that is another one: its weights are larger."""
    model = TransformersLM.load(folder, device="cpu")
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.mul_(1.3)
    model.module.save_pretrained(place / "stirred")
    model.tokenizer.save_pretrained(place / "stirred")
    return place / "stirred"
