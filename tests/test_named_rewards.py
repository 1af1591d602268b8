"""Rewards by name: which columns they are, what they weigh, and which completions have none."""

from __future__ import annotations

import json

import numpy as np
import pytest

import trainer_dumps as dumps
from esscher import files
from trainer_dumps import write_lines

WORDS = {"prompt_token_ids": [1], "completion_token_ids": [7, 8]}


@pytest.fixture
def rows(tmp_path):
    values = [("0.5", 1, [0.25, 0.5]), (1.5, True, [1.0]), ("2", None, [0.0, 0.0]), ("failed", 0, [3])]
    path = tmp_path / "rows.jsonl"
    return write_lines(path, [WORDS | {"text": a, "flag": b, "tokens": c} for a, b, c in values])


def test_rewards_are_weighed_and_summed_and_completions_without_one_are_left_out(rows):
    dump = files.read(rows, rewards={"text": 1.0, "tokens": 2.0})
    assert dump.samples.rewards.tolist() == [2.0, 3.5, 2.0]
    assert dump.order.tolist() == [0, 1, 2]
    assert dump.rewards_by_name["text"].tolist() == [0.5, 1.5, 2.0]
    assert dump.rewards_by_name["tokens"].tolist() == [0.75, 1.0, 0.0]
    assert "Left out: 1 completions without a reward." in dump.warnings


def test_a_reward_without_weight_is_reported_and_leaves_nothing_out(rows):
    dump = files.read(rows, rewards={"tokens": 1.0, "flag": 0.0})
    assert dump.samples.rewards.tolist() == [0.75, 1.0, 0.0, 3.0]
    np.testing.assert_array_equal(dump.rewards_by_name["flag"], [1.0, 1.0, np.nan, 0.0])
    assert dump.warnings == ()


def test_an_unknown_reward_is_an_error_that_lists_those_there(tmp_path):
    path = write_lines(tmp_path / "traces.jsonl", [dumps.verifiers(i) for i in range(4)])
    with pytest.raises(ValueError, match=r"traces.jsonl has no reward 'wrong'. There are: right, short, turns"):
        files.read(path, rewards={"wrong": 1.0})
    with pytest.raises(ValueError, match="none of its 1 completions has a reward"):
        files.read(write_lines(tmp_path / "none.jsonl", [WORDS | {"r": "x"}]), rewards={"r": 1.0})


def test_a_tool_s_total_is_the_reward_and_its_rewards_go_by_name(tmp_path):
    rows = [dumps.verifiers(i) for i in (0, 1, 3)]
    rows[1]["traces"][0]["rewards"]["right"]["score"] = None
    dump = files.read(write_lines(tmp_path / "traces.jsonl", rows))
    assert dump.samples.rewards.tolist() == [0.5, 0.0]
    assert dump.order.tolist() == [0, 2]
    assert dump.rewards_by_name["right"].tolist() == [-0.5, -1.0]
    assert [row.tolist() for row in dump.rollout_logprobs] == [dumps.SAMPLER[i] for i in (0, 3)]
    assert [warning.code for warning in dump.warnings] == ["left-out"]


def test_a_reward_that_is_ours_by_its_name_is_found_under_the_tool_s(tmp_path):
    rows = [dumps.verifiers(i) for i in range(2)]
    for one in rows:
        one["traces"][0]["rewards"]["step"] = {"score": 3.0, "weight": 0.0}
    path = write_lines(tmp_path / "traces.jsonl", rows)
    assert files.read(path, rewards={"step": 1.0}).samples.rewards.tolist() == [3.0, 3.0]
    assert files.load(path).column("step").to_pylist() == [1, 1]


def test_a_bad_value_behind_rows_that_are_left_out_has_its_own_line(tmp_path):
    rows = [WORDS | {"r": value} for value in (None, 1.0, 2.0)]
    rows[2]["completion_token_ids"] = [1.5]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ValueError, match=r"rows.jsonl, line 3: column 'completion_token_ids'"):
        files.read(path, rewards={"r": 1.0})


@pytest.mark.parametrize("command", ["evaluate", "prototype"])
def test_commands_take_rewards_by_name(tmp_path, esscher, command):
    rows = [WORDS | {"prompt_token_ids": [i % 4], "a": float(i), "b": str(i % 3)} for i in range(16)]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    code, out, err = esscher(command, path, "--reward", "a", "--reward", "b=0.5", "--json")
    assert code == 0, err
    assert json.loads(out)
    code, _, err = esscher(command, path, "--reward", "a=x")
    assert code == 2
    assert "--reward a=x: write it as NAME or NAME=WEIGHT" in err
    code, _, err = esscher(command, path, "--reward", "c")
    assert code == 2
    assert "has no reward 'c'. There are: a" in err


def test_each_reward_is_in_the_report_and_in_its_table(tmp_path, esscher):
    rows = [WORDS | {"prompt_token_ids": [i % 4], "a": float(i), "b": None if i < 4 else 2.0} for i in range(16)]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    arguments = ("evaluate", path, "--reward", "a=2", "--reward", "b=0")
    code, out, err = esscher(*arguments, "--json")
    assert code == 0, err
    report = json.loads(out)
    # By prompt the means of a are 6, 7, 8 and 9.
    assert report["reward"]["value"] == pytest.approx(15.0)
    assert report["rewards"]["a"] == pytest.approx({"value": 7.5, "stderr": np.std([6, 7, 8, 9], ddof=1) / 2})
    assert report["rewards"]["b"]["value"] == 2.0
    table = esscher(*arguments)[1]
    assert "  a  " in table
    assert "7.5" in table
