"""Folders, patterns and runs of many steps: what is read of them, in what order, and what is passed over and said."""

from __future__ import annotations

import json
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import trainer_dumps as dumps
from esscher import files
from trainer_dumps import COMPLETIONS, write_lines


def row(step, i=0, **columns):
    return {"prompt_token_ids": [1], "completion_token_ids": [7, 8 + i], "rewards": float(i), "step": step, **columns}


def verl(step):
    return {"input": "a", "output": "b", "gts": None, "score": 1.0, "step": step}


def said(run):
    return " ".join(run.warnings)


# Which files.


def test_files_come_in_the_order_of_their_steps_and_ranks_are_one_step(tmp_path):
    for step in (10, 9):
        for rank in (1, 0):
            folder = tmp_path / "token_exports" / f"step_{step}"
            write_lines(folder / f"rank_{rank}.jsonl", [dumps.prime_rl(2 * rank + i, step=step) for i in range(2)])
            (folder / "STABLE").touch()
    found = files.find([tmp_path])
    assert [(file.tool, file.step, file.path.stem) for file in found.files] == [
        ("prime-rl", step, f"rank_{rank}") for step in (9, 10) for rank in (0, 1)
    ]
    steps = list(files.read_run(tmp_path, ignore_masks=["action_mask"]))
    assert [(step.number, len(step.dump.samples)) for step in steps] == [(9, 4), (10, 4)]


def test_a_step_of_prime_rl_counts_once_it_is_stable(tmp_path):
    write_lines(tmp_path / "step_1" / "rank_0.jsonl", [dumps.prime_rl(0)])
    with pytest.raises(ValueError, match=r"1 passed over .rank_0.jsonl.: its step is not finished"):
        files.read(tmp_path)
    (tmp_path / "step_1" / "STABLE").touch()
    write_lines(tmp_path / "step_2" / "rank_0.jsonl", [dumps.prime_rl(0)])
    assert [file.step for file in files.find([tmp_path]).files] == [1]
    assert "its step is not finished" in said(files.find([tmp_path]))


def test_what_a_folder_holds_besides_is_passed_over_and_said(tmp_path):
    write_lines(tmp_path / "run_rollouts_000000.jsonl", [dumps.open_instruct(i) for i in range(4)])
    write_lines(tmp_path / "run_metadata.jsonl", [{"run_name": "x", "git_commit": "y", "model_name": "z"}])
    write_lines(tmp_path / "losses.jsonl", [{"loss": 1.0}])
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}, indent=1))
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "0.pt").write_bytes(b"x")
    (tmp_path / ".hidden.jsonl").write_text("{")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "cut.parquet").write_bytes(b"PAR1...")
    found = files.find([tmp_path])
    assert [file.path.name for file in found.files] == ["run_rollouts_000000.jsonl"]
    assert {path.name: reason for path, reason in found.passed_over} == {
        "run_metadata.jsonl": "what a run is called and where it is from (open-instruct)",
        "losses.jsonl": "no samples: neither texts nor token ids in its columns loss",
        "config.json": "no JSON lines: one whole {...} a line",
        "model.safetensors": "no file of rows",
        "0.pt": "a pickle, which runs code when it is opened: convert it",
        "empty.jsonl": "empty",
        "cut.parquet": "not a whole Parquet file",
    }
    dump = files.read(tmp_path)
    assert len(dump.samples) == 4
    assert [warning.code for warning in dump.warnings] == ["passed-over"]
    # A model's files are no news.
    assert "safetensors" not in said(found)


@pytest.mark.parametrize(
    ("name", "columns", "reason"),
    [
        ("aggregated_results.jsonl", {"eval/all/avg_score": 0.5}, "totals of an evaluation"),
        ("x_metadata.jsonl", {"run_name": "x", "git_commit": "y", "model_name": "z"}, "what a run is called"),
        ("summaries.jsonl", {"total_reward": 1.0, "steps": [{"ob_len": 3, "ac_len": 4}]}, "lengths and rewards"),
    ],
)
def test_what_is_no_samples_is_an_error_that_says_why_if_it_is_named(tmp_path, name, columns, reason):
    path = write_lines(tmp_path / name, [columns])
    with pytest.raises(ValueError, match=f"{name} has no samples, but {reason}"):
        files.read(path)


def test_a_file_that_is_being_written_is_skipped_in_a_folder_and_an_error_alone(tmp_path):
    whole = write_lines(tmp_path / "1.jsonl", [verl(1)])
    cut = tmp_path / "2.jsonl"
    cut.write_text(json.dumps(verl(2)) + "\n" + json.dumps(verl(2))[:20])
    found = files.find([tmp_path])
    assert [file.path for file in found.files] == [whole]
    assert found.passed_over == ((cut, "its last line is not whole yet"),)
    with pytest.raises(ValueError, match=r"2.jsonl, line 2 is not valid JSON"):
        files.read(cut)
    # The last line needs no line feed, and may be longer than what is read of the end.
    cut.write_text(json.dumps(verl(2)) + "\n" + json.dumps(verl(2) | {"x": "y" * 300_000}))
    assert len(files.find([tmp_path]).files) == 2
    cut.write_text(json.dumps(verl(2) | {"x": "y" * 300_000})[:-1])
    assert len(files.find([tmp_path]).files) == 1


def test_two_formats_in_one_folder_are_asked_about(tmp_path):
    write_lines(tmp_path / "1.jsonl", [verl(1)])
    write_lines(tmp_path / "train_data_step1.jsonl", [dumps.nemo_rl(0)])
    with pytest.raises(ValueError, match=r"two formats in one folder: .*1.jsonl is verl's, .*step1.jsonl is nemo-rl's"):
        files.find([tmp_path])
    assert [file.tool for file in files.find([tmp_path], "nemo-rl").files] == ["nemo-rl"]
    assert "not nemo-rl's, by its columns" in said(files.find([tmp_path], "nemo-rl"))


def test_validation_is_passed_over_beside_training_and_read_by_itself(tmp_path):
    write_lines(tmp_path / "train_data_step1.jsonl", [dumps.nemo_rl(i) for i in range(2)])
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    write_lines(tmp_path / "val_data_step1.jsonl", [{"content": [talk], "rewards": [1.0], "idx": 0}])
    assert len(files.read(tmp_path).samples) == 2
    evals = tmp_path / "dumped_evals" / "global_step_5_evals"
    write_lines(evals / "math.jsonl", [{"input_prompt": "a", "output_response": "b", "score": [0.0, 1.0]}])
    write_lines(evals / "aggregated_results.jsonl", [{"eval/all/avg_score": 1.0}])
    assert [(file.tool, file.step) for file in files.find([tmp_path / "dumped_evals"]).files] == [("skyrl", 5)]


def test_patterns_and_files_are_found_and_what_is_not_there_is_an_error(tmp_path):
    for step in (1, 2, 10):
        write_lines(tmp_path / "rollout" / f"{step}.jsonl", [verl(step)])
    assert [file.step for file in files.find([tmp_path / "rollout" / "*.jsonl"]).files] == [1, 2, 10]
    named = sorted((tmp_path / "rollout").glob("*.jsonl"))
    assert [file.step for file in files.find(named).files] == [1, 2, 10]
    with pytest.raises(FileNotFoundError, match="matches no file"):
        files.find([tmp_path / "*.parquet"])
    with pytest.raises(FileNotFoundError, match="is not there"):
        files.read(tmp_path / "nothing.jsonl")


def test_of_episodes_of_verifiers_all_are_read_once(tmp_path):
    late = dumps.verifiers(0, run={"work": {"type": "train", "step": 3}})
    for subset, rows in (("all", [late, dumps.verifiers(1)]), ("effective", [late])):
        write_lines(tmp_path / "rollouts" / "step_4" / "train" / subset / "traces.jsonl", rows)
    write_lines(tmp_path / "rollouts" / "step_4" / "eval" / "all" / "traces.jsonl", [dumps.verifiers(3)])
    found = files.find([tmp_path])
    assert [file.path.parts[-3:-1] for file in found.files] == [("train", "all")]
    assert [reason for _, reason in found.passed_over] == [
        "a part of what is in the folder all beside it",
        "sampled for validation, beside what training sampled: give it by itself",
    ]
    # The step is that of the folder, not that in which an episode was begun.
    ((number, dump),) = files.read_run(tmp_path)
    assert (number, len(dump.samples)) == (4, 2)


def test_a_step_of_two_runs_is_said(tmp_path):
    for run in "ab":
        write_lines(tmp_path / run / "3.jsonl", [verl(3)])
    assert "Several files hold step 3" in said(files.find([tmp_path]))


def test_of_a_dataset_the_parts_that_it_lists_are_read(tmp_path):
    table = pa.Table.from_pylist([row(1, i) for i in range(3)])
    for name in ("data-00000-of-00001.arrow", "cache-1a2b.arrow"):
        with pa.ipc.new_stream(tmp_path / name, table.schema) as stream:
            stream.write_table(table)
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    assert len(files.read(tmp_path).samples) == 3


def test_pickles_alone_are_refused_with_the_line_that_converts_them(tmp_path):
    (tmp_path / "rollout_data").mkdir()
    path = tmp_path / "rollout_data" / "0.pt"
    path.write_bytes(b"x")
    for given in (path, tmp_path):
        with pytest.raises(ValueError, match="looks like a pickle") as caught:
            files.read(given)
        assert "torch.load(sys.argv[1], weights_only=False)" in str(caught.value)
        assert f"{path} > 0.jsonl" in str(caught.value)


def test_ten_thousand_small_files_take_seconds(tmp_path):
    line = json.dumps(row(1)) + "\n"
    for i in range(2000):
        (tmp_path / f"{i}.jsonl").write_text(line)
    began = time.monotonic()
    assert len(files.read(tmp_path).samples) == 2000
    assert time.monotonic() - began < 20


# Which steps.


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("order", [[1, 1, 2, 2, 3], [3, 1, 1, 2, 2], [1, 2, 1, 2, 3, 1, 2], [2, 1, 2, 1]])
def test_a_file_of_several_steps_is_cut_by_step(tmp_path, monkeypatch, kind, order):
    monkeypatch.setattr("esscher.files.stepping.ROWS_AT_ONCE", 2)
    rows = [row(step, i) for i, step in enumerate(order)]
    path = tmp_path / f"rows.{kind}"
    files.write(pa.Table.from_pylist(rows), path)
    steps = list(files.read_run(path))
    assert [step.number for step in steps] == sorted(set(order))
    for step in steps:
        expected = [i for i, one in enumerate(order) if one == step.number]
        assert step.dump.samples.rewards.tolist() == expected
        assert step.dump.order.tolist() == expected
        np.testing.assert_array_equal(
            files.read(path, step=step.number).samples.completions.values, step.dump.samples.completions.values
        )
    codes = [warning.code for warning in steps[0].dump.warnings]
    assert ("steps-out-of-order" in codes) == (order != sorted(order))


def test_steps_are_read_across_files_and_after_a_step(tmp_path):
    write_lines(tmp_path / "b.jsonl", [row(1), row(2, 1)])
    write_lines(tmp_path / "a.jsonl", [row(2, 2), row(10, 3)])
    run = {step.number: step.dump.samples.rewards.tolist() for step in files.read_run(tmp_path)}
    assert run == {1: [0.0], 2: [2.0, 1.0], 10: [3.0]}
    assert [step.number for step in files.read_run(tmp_path, after=1)] == [2, 10]


def test_files_that_tell_no_step_are_one(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{k: v for k, v in row(1, i).items() if k != "step"} for i in range(3)])
    ((number, dump),) = files.read_run(path)
    assert number is None
    assert len(dump.samples) == 3


def test_a_step_that_is_no_number_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="'last' is a step by its column, but no number"):
        list(files.read_run(write_lines(tmp_path / "rows.jsonl", [row("last")])))


def test_several_steps_are_a_question_with_their_numbers(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [row(step) for step in (10, 9, 10)])
    with pytest.raises(files.SeveralStepsError, match=r"rows.jsonl: .* of 2 steps \(9, 10\)") as asked:
        files.read(path)
    assert asked.value.steps == ["9", "10"]
    assert len(files.read(path, step=10).samples) == 2
    with pytest.raises(ValueError, match="no completion is of step 11"):
        files.read(path, step="11")
    for step in range(20):
        write_lines(tmp_path / "rollout" / f"{step}.jsonl", [verl(step)])
    with pytest.raises(files.SeveralStepsError, match=r"completions of 20 steps \(0, 1, .* 11, ... 19\)"):
        files.read(tmp_path / "rollout")


def test_commands_ask_which_step_and_take_the_answer(tmp_path, esscher):
    rows = [dumps.open_instruct(i, step) for step in (1, 2) for i in range(4)]
    write_lines(tmp_path / "run_rollouts_000000.jsonl", rows)
    # What a line a step does not tell is asked about.
    for more in (["--threshold", "0.5"], ["--proposal", "prior"]):
        code, out, err = esscher("evaluate", tmp_path, *more)
        assert (code, out) == (2, "")
        assert "completions of 2 steps (1, 2), each of another policy: say which, --step N" in err
    for command in ("evaluate", "prototype"):
        code, out, err = esscher(command, tmp_path, "--step", "2", "--json")
        assert code == 0, err
        assert json.loads(out)["counts" if command == "evaluate" else "frontier"]


def test_evaluate_tells_of_each_step_and_prototype_asks(tmp_path, esscher):
    rows = [dumps.open_instruct(i, step) for step in (1, 2) for i in range(4)]
    write_lines(tmp_path / "run_rollouts_000000.jsonl", rows)
    told = [esscher(command, tmp_path, "--json") for command in ("evaluate", "trend")]
    assert told[0] == told[1]
    assert [json.loads(line).get("step") for line in told[0][1].splitlines()] == [1, 2, None]
    code, out, err = esscher("prototype", tmp_path)
    assert (code, out) == (2, "")
    assert "completions of 2 steps (1, 2), each of another policy: say which, --step N" in err


# Engines.


def test_engines_are_compared_over_a_folder_and_at_a_step(tmp_path):
    write_lines(tmp_path / "train_data_step1.jsonl", [dumps.nemo_rl(i) for i in range(2)])
    write_lines(tmp_path / "train_data_step2.jsonl", [dumps.nemo_rl(i) for i in range(2, 4)])
    assert len(files.read_logprobs([tmp_path]).train) == 4
    found = files.read_logprobs([tmp_path], step="2")
    assert [one.tolist() for one in found.train] == dumps.TRAINER[2:]


def test_completions_of_a_folder_are_those_of_its_files(tmp_path):
    path = write_lines(tmp_path / "run_rollouts_000000.jsonl", [dumps.open_instruct(i) for i in range(4)])
    dump = files.read(tmp_path)
    assert [one.tolist() for one in dump.samples.completions] == COMPLETIONS
    assert dump.samples.terminated.tolist() == [True, True, False, True]
    pq.write_table(files.load(path), tmp_path / "ours.parquet")
    assert files.scan(tmp_path / "ours.parquet").reader is None


def test_a_run_shows_each_of_several_rewards_and_a_gold_one(tmp_path, esscher):
    for step in (1, 2):
        rows = [{**verl(step), "short": 0.5 * i, "judge": i} for i in range(4)]
        write_lines(tmp_path / f"{step}.jsonl", rows)
    code, out, err = esscher("trend", tmp_path, "--reward", "score", "--reward", "short=2", "--gold", "judge")
    assert code == 0, err
    heading, first = [line.split() for line in out.splitlines() if line.strip()][1:3]
    assert heading[:5] == ["step", "reward", "judge", "score", "short"]
    assert first[0] == "1"
    code, out, err = esscher("trend", tmp_path, "--gold", "jugde")
    assert code == 2
    assert "has no reward 'jugde'" in " ".join(err.split())
