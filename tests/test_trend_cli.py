"""`esscher trend`: a real run whose policy collapses, files of all kinds, and following what training writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from esscher import Tilt, files, summarise_step, trend
from esscher.lm.prompts import ALICE_PROMPTS
from esscher.report.trend import print_trend, write_trend_page
from models import alice_folder
from pages import Page, check_page, plain
from report_json import validator
from run_stories import Levels, healthy, seen
from trainer_dumps import nemo_rl, write_lines

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Plain RL on "alice" until it has collapsed, by the command line, with each step's completions kept."""
    folder = tmp_path_factory.mktemp("trend")
    (folder / "prompts.txt").write_text("\n".join(ALICE_PROMPTS))
    options = {
        "model": alice_folder(), "prompts": folder / "prompts.txt", "reward": "esscher.lm.rewards:sentiment",
        "objective": "plain-rl", "steps": 30, "prompts-a-step": 8, "completions": 12, "prior-samples": 64,
        "learning-rate": 1e-3, "save-every": 100, "device": "cpu", "output": folder / "run",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "esscher", "train", *words, "--keep-samples"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def steps(run):
    """What the run's steps say, by the library."""
    found = sorted((run / "samples").iterdir())
    return [summarise_step(i, files.read(path).samples, target=Tilt(0.1)) for i, path in enumerate(found)]


def lines_of(output):
    return [json.loads(line) for line in output.splitlines()]


def write_steps(folder, numbers, name="step-{:04}.parquet", **more):
    """Small files of a step each."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for number in numbers:
        rows = [
            {"prompt_token_ids": [p], "completion_token_ids": rng.integers(9, size=4).tolist(), "reward": float(p)}
            | {"step": number}
            | {key: make(number, rng) for key, make in more.items()}
            for p in (1, 1, 2, 2)
        ]
        path = folder / name.format(number)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        source = path.with_suffix(".jsonl")
        source.write_text(text)
        if path.suffix == ".parquet":
            files.write(files.load(source), path)
            source.unlink()


# A real run.


def test_a_kept_step_is_what_was_drawn_in_it(run):
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for i in (0, 17):
        samples = files.read(run / "samples" / f"step-{i:06}.parquet").samples
        step = summarise_step(i, samples)
        assert step.reward == pytest.approx((log[i]["reward"], log[i]["reward_stderr"]))
        assert step.kl["k1"] == pytest.approx((log[i]["kl"], log[i]["kl_stderr"]), abs=1e-4)
        assert step.entropy.value == pytest.approx(log[i]["entropy"], rel=1e-6)
        assert (step.completions, step.tokens) == (log[i]["completions"], log[i]["tokens"])


def test_the_collapse_of_a_real_policy_is_named_within_a_few_steps_of_the_truth(steps):
    """The truth by all steps, those after the collapse too: when half of the entropy was gone for good."""
    entropy = np.array([step.entropy.value for step in steps])
    first = entropy[:5].mean()
    gone = int(np.flatnonzero(entropy >= first / 2)[-1]) + 1
    (event,) = (event for event in trend(steps).events if event.code == "entropy-collapse")
    assert gone <= event.named <= gone + 5
    # It began with the last step of the old level, give or take a few, and fell by half soon after.
    kept = int(np.flatnonzero(entropy >= 0.95 * first)[-1])
    assert abs(event.began - (kept + 1)) <= 3
    assert event.began < event.named


def test_the_story_is_told_in_a_terminal_on_a_page_and_as_json_lines(run, steps, esscher, tmp_path):
    page = tmp_path / "trend.html"
    code, output, errors = esscher(
        "trend", run / "samples", "--beta", 0.1, "--prior", run / "prior.parquet", "--html", page
    )
    assert code == 0, errors
    text = plain(output)
    assert text.startswith("30 steps, 0 to 29, of 2,880 completions, 96 a step; target tilt|beta:0.1")
    assert "The entropy collapses from step" in text
    assert "The entropy was 3." in text
    assert f"Page: {page}" in output
    html = page.read_text()
    check_page(html)
    shown = plain(Page(html).text)
    assert "The path over the frontier" in shown
    assert "4 The entropy collapses" in shown or "3 The entropy collapses" in shown

    code, output, errors = esscher("trend", run / "samples", "--beta", 0.1, "--json")
    assert code == 0, errors
    lines = lines_of(output)
    of_steps = [line for line in lines if "step" in line]
    events = [line for line in lines if "code" in line]
    assert [line["step"] for line in of_steps] == list(range(30))
    assert of_steps[7]["reward"] == pytest.approx(dict(zip(("value", "stderr"), steps[7].reward, strict=True)))
    for line in lines:
        kind = "a step" if "step" in line else "an event" if "code" in line else "the end"
        validator(f"trend: {kind}").validate(line)
    # An event stands below the step at which it is named, and all of them are in the end.
    assert [(e["code"], e["began"], e["named"]) for e in events] == [
        (e.code, e.began, e.named) for e in trend(steps).events
    ]
    assert all(lines[lines.index(event) - 1].get("step", event["named"]) == event["named"] for event in events)
    assert lines[-1]["events"] == events
    assert (lines[-1]["steps"], lines[-1]["target"]) == (30, "tilt|beta:0.1")


# Files.


def test_steps_come_in_the_order_of_their_numbers_from_one_file_or_many(esscher, tmp_path):
    write_steps(tmp_path / "run", (2, 10, 0), "part{}.jsonl")
    joined = tmp_path / "joined.jsonl"
    joined.write_text("".join((tmp_path / "run" / f"part{i}.jsonl").read_text() for i in (2, 10, 0)))
    told = [esscher("trend", place, "--json")[1] for place in (tmp_path / "run", joined, tmp_path / "run" / "*.jsonl")]
    assert [line.get("step") for line in lines_of(told[0])] == [0, 2, 10, None]
    of_steps = [[line for line in lines_of(one) if "step" in line] for one in told]
    assert of_steps[0] == of_steps[1] == of_steps[2]


def test_what_a_trainer_writes_is_read(esscher, tmp_path):
    """NeMo-RL's files, a step each by their names, with log-probs of both engines."""
    for step in (3, 4):
        write_lines(tmp_path / f"train_data_step{step}.jsonl", [nemo_rl(i) for i in range(4)])
    first, second, end = lines_of(esscher("trend", tmp_path, "--json")[1])
    assert (first["step"], second["step"], end["steps"]) == (3, 4, 2)
    assert first["mismatch"] is not None
    assert first["completions"] == 4


def test_log_probs_of_the_other_engine_are_compared(esscher, tmp_path):
    write_steps(
        tmp_path / "run", range(2),
        policy_logprobs=lambda *_: [-1.0] * 4,
        rollout_logprobs=lambda number, _: [-1.0 - 0.25 * number] * 4,
    )  # fmt: skip
    first, second, _ = lines_of(esscher("trend", tmp_path / "run", "--json")[1])
    assert first["mismatch"]["mean_difference"]["value"] == 0.0
    assert second["mismatch"]["mean_difference"]["value"] == 0.25
    assert second["mismatch"]["kl"]["value"] == -0.25


def test_what_cannot_be_read_is_left_out_and_said(esscher, tmp_path):
    write_steps(tmp_path / "run", range(3))
    whole = (tmp_path / "run" / "step-0002.parquet").read_bytes()
    (tmp_path / "run" / "step-0003.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "run" / "notes.txt").write_text("not of the run")
    code, output, _ = esscher("trend", tmp_path / "run", "--explain")
    assert code == 0
    assert "3 steps, 0 to 2" in output
    assert "not a whole Parquet file" in plain(output)
    assert esscher("trend", tmp_path / "run", "--until", 1)[1].startswith("2 steps, 0 to 1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.parquet"], "missing.parquet is not there"),
        (["empty"], "empty is a folder, and no files are in it"),
        (["unnumbered"], "unnumbered: nothing tells which step rows are of. Give them a column 'step'"),
        (["run", "--beta", "-1"], "beta is -1.0"),
        (["run", "--prior", "missing.parquet"], "missing.parquet is not there"),
        (["run", "--html", "missing/page.html"], "missing"),
        (["halves"], "column 'step', row 0 is 0.5"),
    ],
)
def test_bad_input_is_named(arguments, said, esscher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_steps(tmp_path / "run", range(2))
    (tmp_path / "empty").mkdir()
    write_steps(tmp_path / "unnumbered", [0], step=lambda *_: None)
    write_steps(tmp_path / "halves", [0], step=lambda *_: 0.5)
    code, _, errors = esscher("trend", *arguments)
    assert code == 2
    assert said in errors


def test_a_step_with_bad_values_is_named(esscher, tmp_path):
    write_steps(tmp_path / "run", [4], policy_logprobs=lambda *_: [0.5] * 4)
    code, _, errors = esscher("trend", tmp_path / "run")
    assert code == 2
    assert "step-0004.parquet: policy_logprobs[0][0] is 0.5" in errors


# Following.


def follow(folder, *arguments):
    command = [sys.executable, "-m", "esscher", "trend", str(folder), "--follow", "--json", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_run_is_followed_until_a_step(tmp_path):
    write_steps(tmp_path / "run", range(2))
    with follow(tmp_path / "run", "--until", 4) as following:
        assert [json.loads(following.stdout.readline())["step"] for _ in range(2)] == [0, 1]
        # Half of a file, then all of it.
        write_steps(tmp_path / "other", range(2, 5))
        whole = (tmp_path / "other" / "step-0002.parquet").read_bytes()
        (tmp_path / "run" / "step-0002.parquet").write_bytes(whole[:200])
        time.sleep(1)
        for i in range(2, 5):
            (tmp_path / "other" / f"step-{i:04}.parquet").replace(tmp_path / "run" / f"step-{i:04}.parquet")
        output, errors = following.communicate(timeout=60)
    assert following.returncode == 0, errors
    assert [line.get("step") for line in lines_of(output)] == [2, 3, 4, None]


def test_following_ends_with_ctrl_c_and_the_story_so_far(tmp_path):
    write_steps(tmp_path / "run", range(3))
    page = tmp_path / "page.html"
    with follow(tmp_path / "run", "--html", page) as following:
        for _ in range(3):
            following.stdout.readline()
        os.kill(following.pid, signal.SIGINT)
        output, errors = following.communicate(timeout=60)
    assert following.returncode == 130, errors
    assert json.loads(output)["steps"] == 3
    check_page(page.read_text())


def test_rows_are_printed_as_they_come(esscher, tmp_path, monkeypatch):
    monkeypatch.setattr("esscher.cli.run_steps.PAUSE", 0.01)
    write_steps(tmp_path / "run", range(4))
    code, output, _ = esscher("trend", tmp_path / "run", "--follow", "--until", 3)
    assert code == 0
    lines = output.splitlines()
    assert lines[0].split()[:2] == ["step", "reward"]
    assert [line.split()[0] for line in lines[1:5]] == ["0", "1", "2", "3"]
    assert "What happened" in output


# Reports of long runs.


def long_run(steps):
    rng = np.random.default_rng(0)
    fallen = {"entropy": 0.2}
    return trend(seen(i, Levels(**(vars(healthy(i)) | (fallen if i > 300 else {}))), rng) for i in range(steps))


def test_a_long_run_is_thinned_with_the_steps_of_its_events(capsys):
    from rich.console import Console

    story = long_run(400)
    print_trend(story, Console(width=200))
    text = capsys.readouterr().out
    shown = [int(line.split()[0]) for line in text.splitlines() if line.split() and line.split()[0].isdigit()]
    assert shown.pop(0) == 400
    left = shown.pop()
    assert len(shown) < 35
    assert {0, 399, story.events[0].began, story.events[0].named} <= set(shown)
    assert f"{left} steps between these are not shown: --json has all" in text
    assert left == 400 - len(shown)
    print_trend(story, Console(width=60))
    assert "A wider terminal also has" in plain(capsys.readouterr().out)


def test_a_page_of_a_long_run_stays_small(tmp_path):
    write_trend_page(long_run(1500), tmp_path / "page.html")
    check_page((tmp_path / "page.html").read_text())


@pytest.mark.parametrize("count", [1, 12])
def test_a_page_of_little_is_a_page_too(esscher, tmp_path, count):
    """Samples without log-probs, of a single completion a prompt in part, and of one step or several."""
    write_steps(tmp_path / "run", range(count))
    code, output, errors = esscher(
        "trend", tmp_path / "run", "--beta", 1, "--html", tmp_path / "page.html", "--explain"
    )
    assert code == 0, errors
    told = plain(output)
    assert "KL not available: the samples lack policy_logprobs or prior_logprobs. `esscher score` adds them." in told
    assert "The numbers of the target are not available" in told
    html = (tmp_path / "page.html").read_text()
    check_page(html)
    assert "Diversity" in html
    assert "KL(policy‖prior)" not in html


def test_a_page_of_no_steps_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there are no steps"):
        write_trend_page(trend([]), tmp_path / "page.html")
