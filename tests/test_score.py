"""Scoring files from end to end: any size, any interruption, the same bytes."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from esscher import files
from esscher.lm.tabular import TabularLM
from esscher.offline import LocalModels, model_fingerprint, parts_folder, score_file
from esscher.server.models import Models
from esscher.server.serving import running_in_thread
from models import alice_folder
from offline_runs import BLOCK, ROWS, Recorder, other, plan, rows, score, write
from service_models import tabular

TESTS = Path(__file__).parent
SUFFIXES = (".parquet", ".jsonl")
BOTH = ("prior_logprobs", "policy_logprobs", "token_kl", "policy_entropy")


def interrupted(file, output, after, **options):
    """Score some blocks and no more."""
    with pytest.raises(KeyboardInterrupt):
        score(file, output, Recorder(stop_at=after), **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# What comes out.


@pytest.mark.parametrize("suffix_out", SUFFIXES)
@pytest.mark.parametrize("suffix_in", SUFFIXES)
def test_blocks_give_what_the_whole_table_would(tmp_path, suffix_in, suffix_out):
    file = write(tmp_path / f"in{suffix_in}")
    output = score(file, tmp_path / f"out{suffix_out}", Recorder(BOTH))
    dump = files.read(file, optional=())
    filled = Recorder(BOTH).fill(dump.samples)
    columns = files.to_columns(filled, dump.order, {name: name for name in BOTH})
    whole = tmp_path / f"whole{suffix_out}"
    files.write(files.with_columns(files.load(file), columns), whole)
    if suffix_out == ".jsonl":
        assert output.read_bytes() == whole.read_bytes()
    else:
        assert pq.read_table(output).equals(pq.read_table(whole))
        assert pq.ParquetFile(output).metadata.num_row_groups == -(-ROWS // BLOCK)
    assert names(tmp_path) == sorted([file.name, output.name, whole.name])


def test_rows_keep_their_order_and_prompts_of_a_block_are_read_once(tmp_path):
    scorer = Recorder()
    output = score(write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl", scorer)
    assert [row["text"] for row in map(json.loads, output.read_text().splitlines())] == rows().column(
        "text"
    ).to_pylist()
    assert [len(samples) for samples in scorer.asked] == [5, 5, 5, 5, 2]
    for samples in scorer.asked:
        assert len(set(samples.prompts.values.tolist())) == len(samples.prompts)


def test_blocks_depend_on_the_file_alone(tmp_path):
    table = rows()
    pq.write_table(table, tmp_path / "one.parquet", row_group_size=3)
    pq.write_table(table, tmp_path / "other.parquet", row_group_size=100)
    one, other = (score(tmp_path / f"{name}.parquet", tmp_path / f"{name}-out.parquet") for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("columns", "calls"),
    [
        (("prior_logprobs",), "prior.logprobs"),
        (("policy_logprobs",), "policy.logprobs"),
        (("policy_entropy", "policy_logprobs"), "policy.token_scores"),
        (("token_kl",), "policy.token_scores prior"),
        (BOTH, "policy.token_scores prior"),
    ],
)
def test_models_do_no_more_than_they_are_asked_for(columns, calls):
    seen = []

    class Watched(TabularLM):
        def logprobs(self, *tokens):
            seen.append(f"{self.name}.logprobs")
            return super().logprobs(*tokens)

        def token_scores(self, *tokens):
            seen.append(f"{self.name}.token_scores" + "".join(f" {prior.name}" for prior in tokens[3:] if prior))
            return super().token_scores(*tokens)

    prior, policy = Watched(tabular()._logits, "prior"), Watched(other()._logits, "policy")
    samples, _ = files.grouped(files.completions(files.Block(0, rows()), files.names_of({}, ())))
    filled = LocalModels(prior, policy, columns, {}).fill(samples)
    assert seen == [calls]
    assert set(filled.columns) == set(columns)
    assert filled.columns == tuple(name for name in Recorder(BOTH).fill(samples).columns if name in columns)
    for name in columns:
        np.testing.assert_array_equal(getattr(filled, name).values, getattr(Recorder(BOTH).fill(samples), name).values)


def test_columns_go_by_the_names_one_gives_in_and_out(tmp_path):
    theirs = rows().rename_columns({"prompt_token_ids": "p", "completion_token_ids": "c"})
    file = write(tmp_path / "in.parquet", theirs)
    renames = {"prompt_token_ids": "p", "completion_token_ids": "c", "prior_logprobs": "ref"}
    output = score(file, tmp_path / "out.parquet", renames=renames)
    got, plain = pq.read_table(output), score(write(tmp_path / "plain.parquet"), tmp_path / "plain-out.parquet")
    assert got.column_names == [*theirs.column_names, "ref"]
    assert got.column("ref").equals(pq.read_table(plain).column("prior_logprobs"))
    with pytest.raises(ValueError, match="no column 'score'"):
        plan(file, output, renames={**renames, "rewards": "score"})


def test_a_column_is_replaced_only_when_told_to(tmp_path):
    file = write(tmp_path / "in.parquet", rows().append_column("prior_logprobs", pa.array(["theirs"] * ROWS)))
    with pytest.raises(ValueError, match="has a column prior_logprobs already: say --overwrite"):
        plan(file, tmp_path / "out.parquet")
    output = score(file, tmp_path / "out.parquet", overwrite=True)
    assert files.read(output).samples.columns == ("prior_logprobs",)
    assert pq.read_table(output).column_names == pq.read_table(file).column_names


def test_a_column_cannot_take_the_place_of_what_is_scored(tmp_path):
    file = write(tmp_path / "in.parquet")
    renames = {"prior_logprobs": "prompt_token_ids"}
    with pytest.raises(ValueError, match="prompt_token_ids would be a new column and something else"):
        plan(file, tmp_path / "out.parquet", renames=renames, overwrite=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_can_take_its_own_place(tmp_path, suffix):
    file = write(tmp_path / f"in{suffix}")
    expected = score(file, tmp_path / f"out{suffix}").read_bytes()
    interrupted(file, file, 2)
    assert score(file, file).read_bytes() == expected


def test_a_link_keeps_pointing_to_what_is_written(tmp_path):
    (tmp_path / "real").mkdir()
    link, real = tmp_path / "link.jsonl", tmp_path / "real" / "out.jsonl"
    link.symlink_to(real)
    score(write(tmp_path / "in.jsonl"), link)
    assert link.is_symlink()
    assert len(real.read_text().splitlines()) == ROWS
    assert names(real.parent) == ["out.jsonl"]


# Interruptions.


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_run_goes_on_after_its_finished_blocks(tmp_path, suffix):
    file, output = write(tmp_path / f"in{suffix}"), tmp_path / f"out{suffix}"
    expected = score(file, tmp_path / f"expected{suffix}").read_bytes()
    interrupted(file, output, 2)
    assert not output.exists()
    assert parts_folder(output).is_dir()
    scorer, seen = Recorder(), []
    score_file(plan(file, output), scorer, notify=seen.append)
    assert len(scorer.asked) == 3
    assert seen[0][:2] == ("resuming", 2 * BLOCK)
    assert [done.rows for done in seen if done.step == "scoring"] == [5, 10, 15, 20, 22]
    assert output.read_bytes() == expected
    assert not parts_folder(output).exists()


class Death(BaseException):
    """The process has ended: what it does afterwards must not happen."""


@pytest.fixture
def dying(monkeypatch):
    """Let the process die at the nth step that leaves a trace on the disk; gives how many steps there were."""
    real = {name: getattr(os, name) for name in ("mkdir", "fsync", "replace", "rename", "unlink", "rmdir")}

    def at(n):
        steps = 0

        def step(name):
            def call(*arguments, **options):
                nonlocal steps
                steps += 1
                if steps >= n:
                    raise Death
                return real[name](*arguments, **options)

            return call

        for name in real:
            monkeypatch.setattr(os, name, step(name))

    def alive():
        for name, function in real.items():
            monkeypatch.setattr(os, name, function)

    return at, alive


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("place", ["new", "old", "own"])
def test_death_at_any_step_leaves_the_old_or_the_new_and_the_next_run_the_same(tmp_path, dying, suffix, place):
    at, alive = dying
    source = write(tmp_path / f"source{suffix}").read_bytes()
    expected = score(tmp_path / f"source{suffix}", tmp_path / f"expected{suffix}").read_bytes()
    for n in range(1, 1000):
        folder = tmp_path / str(n)
        folder.mkdir()
        file = folder / f"in{suffix}"
        file.write_bytes(source)
        output = file if place == "own" else folder / f"out{suffix}"
        if place == "old":
            output.write_bytes(b"old")
        before = output.read_bytes() if output.exists() else None
        at(n)
        try:
            score(file, output)
            died = False
        except Death:
            died = True
        alive()
        now = output.read_bytes() if output.exists() else None
        assert now in (before, expected)
        if not died:
            break
        if place == "own" and now == expected and not names(parts_folder(output)):
            # All is done but for an empty folder, and a file that has the column would not get it again.
            continue
        assert score(file, output).read_bytes() == expected
        assert names(folder) == sorted({file.name, output.name})
    assert n > 30
    assert now == expected


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from offline_runs import Recorder, score

class Slow(Recorder):
    def fill(self, samples):
        time.sleep(0.01)
        return super().fill(samples)

score(Path(sys.argv[2]), Path(sys.argv[3]), Slow(), block=1)
"""


def test_kill_9_at_random_moments_changes_no_byte(tmp_path):
    file, output = write(tmp_path / "in.parquet", rows(150)), tmp_path / "out.parquet"
    expected = score(file, tmp_path / "expected.parquet", block=1).read_bytes()
    moments, kills = random.Random(0), 0
    arguments = [sys.executable, "-c", SLOW, str(TESTS), str(file), str(output)]
    while not output.exists():
        process = subprocess.Popen(arguments)
        begun = time.monotonic()
        while not parts_folder(output).exists() and time.monotonic() < begun + 60:
            time.sleep(0.01)
        # The first few times early, so that there are many; later it must be able to finish.
        time.sleep(moments.uniform(0, 0.3 + 0.2 * kills))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert output.read_bytes() == expected
    assert kills >= 3
    assert score(file, output, block=1).read_bytes() == expected
    assert names(tmp_path) == ["expected.parquet", "in.parquet", "out.parquet"]


def test_two_runs_do_not_write_to_one_output(tmp_path):
    file, output = write(tmp_path / "in.parquet"), tmp_path / "out.parquet"

    class Nested(Recorder):
        def fill(self, samples):
            with pytest.raises(ValueError, match="another process is scoring to the same output"):
                score(file, output)
            return super().fill(samples)

    score(file, output, Nested())


def change_size(file):
    write(file, rows().slice(1))


def change_time(file):
    os.utime(file, ns=(0, 0))


def change_content(file):
    times = file.stat()
    data = file.read_bytes()
    file.write_bytes(data.replace(b"row 21", b"row 22"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "options", "scorer", "message"),
    [
        (change_size, {}, {}, "input size was"),
        (change_time, {}, {}, "input modified was"),
        (change_content, {}, {}, "input content was"),
        (None, {"block": 4}, {}, "block was 5, is 4"),
        (None, {"renames": {"prior_logprobs": "ref"}}, {}, 'names prior_logprobs was "prior_logprobs", is "ref"'),
        (None, {}, {"columns": ("token_kl",)}, "columns was"),
        (None, {}, {"identity": {"prior": "another"}}, 'prior was "tabular", is "another"'),
        (None, {}, {"identity": {"prior": "tabular", "policy": "x"}}, 'policy was null, is "x"'),
    ],
)
def test_a_run_that_differs_is_refused_and_says_in_what(tmp_path, change, options, scorer, message):
    file, output = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    interrupted(file, output, 2)
    if change is not None:
        change(file)
    with pytest.raises(ValueError, match="keeps 2 finished blocks of a run that differs") as caught:
        score(file, output, Recorder(**scorer), **options)
    assert message in str(caught.value)
    assert "--restart" in str(caught.value)
    again = Recorder(**scorer)
    score(file, output, again, restart=True, **options)
    assert len(again.asked) > 3
    assert names(tmp_path) == ["in.jsonl", "out.jsonl"]


def test_a_file_that_changes_meanwhile_is_refused(tmp_path):
    file, output = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"

    class Changing(Recorder):
        def fill(self, samples):
            change_time(file)
            return super().fill(samples)

    with pytest.raises(ValueError, match="was changed after this run had begun"):
        score(file, output, Changing())
    assert not output.exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    file, output = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    parts_folder(output).mkdir()
    (parts_folder(output) / "notes").write_text("mine")
    for restart in (False, True):
        with pytest.raises(ValueError, match="holds something else: move it"):
            score(file, output, restart=restart)
    assert names(parts_folder(output)) == ["notes"]


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    file, output = write(tmp_path / "in.parquet"), tmp_path / "out.parquet"
    expected = score(file, tmp_path / "expected.parquet").read_bytes()
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        score(file, output)
    # The record of the run, and two blocks.
    assert len(names(parts_folder(output))) == 3
    again = Recorder()
    assert score(file, output, again).read_bytes() == expected
    assert len(again.asked) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "model.safetensors").write_bytes(b"other weights"),
        lambda folder: os.utime(folder / "model.safetensors", ns=(0, 0)),
        lambda folder: (folder / "config.json").write_text("{ }"),
        lambda folder: (folder / "more.safetensors").touch(),
    ],
)
def test_a_model_is_told_from_others_by_its_files(tmp_path, change):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"some weights")
    before = model_fingerprint("mine", folder)
    (folder / "README.md").touch()
    assert model_fingerprint("mine", folder) == before
    change(folder)
    assert model_fingerprint("mine", folder) != before


def test_a_hub_s_model_is_told_by_its_copy_here(tmp_path, monkeypatch):
    copy = tmp_path / "models--owner--name" / "snapshots" / "0123"
    copy.mkdir(parents=True)
    (copy / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(copy / "config.json"))
    assert model_fingerprint("owner/name", "owner/name") == model_fingerprint("owner/name", copy)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    assert model_fingerprint("owner/name", "owner/name") == {"name": "owner/name"}


# What is known before anything is scored.


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path, monkeypatch):
    file = write(tmp_path / "in.jsonl")
    # A superuser may write anywhere, so that permissions alone would not tell.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match=f"{tmp_path} cannot be written to"):
        plan(file, tmp_path / "out.jsonl")


def test_a_block_has_rows(tmp_path):
    with pytest.raises(ValueError, match="block is 0"):
        plan(write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl", block=0)


BAD = {
    "null row": ({"completion_token_ids": None}, "column 'completion_token_ids', row 17 is null"),
    "null token": ({"completion_token_ids": [1, None]}, "column 'completion_token_ids', row 17 holds a null"),
    "no tokens": ({"completion_token_ids": []}, "column 'completion_token_ids', row 17 has no tokens"),
    "no prompt": ({"prompt_token_ids": []}, "row 17 has a prompt without tokens, and tabular has no start token"),
    "unknown token": ({"completion_token_ids": [1, 5]}, "row 17, token 1 is 5: the token ids that tabular knows are 0"),
    "unknown in prompt": ({"prompt_token_ids": [7]}, "column 'prompt_token_ids', row 17, token 0 is 7"),
    "too long": ({"completion_token_ids": [1] * 7}, "row 17 has 7 tokens after the 1 of its prompt: tabular takes at"),
    "not an id": ({"completion_token_ids": [-1]}, "row 17, token 0 is -1"),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_a_bad_row_is_named_as_in_the_file_before_any_is_scored(tmp_path, monkeypatch, suffix, change, message):
    monkeypatch.setattr("esscher.offline.plan.ROWS_AT_ONCE", 4)
    good = rows().to_pylist()
    good[17] |= change
    file = write(tmp_path / f"in{suffix}", pa.Table.from_pylist(good))
    scorer = Recorder()
    with pytest.raises(ValueError, match="rows count from 0") as caught:
        score(file, tmp_path / f"out{suffix}", scorer)
    assert str(caught.value).startswith(f"{file}: " if suffix == ".parquet" else f"{file}, line 18: ")
    assert message in str(caught.value)
    assert not scorer.asked
    assert names(tmp_path) == [file.name]


def test_what_json_lines_cannot_hold_is_known_before(tmp_path, monkeypatch):
    monkeypatch.setattr("esscher.offline.plan.ROWS_AT_ONCE", 4)
    odd = [None] * ROWS
    odd[17] = float("nan")
    table = rows().append_column("odd", pa.array(odd, pa.float64()))
    file, scorer = write(tmp_path / "in.parquet", table), Recorder()
    with pytest.raises(ValueError, match=r"in.parquet: column 'odd', row 17 cannot be written as JSON lines"):
        score(file, tmp_path / "out.jsonl", scorer)
    assert not scorer.asked
    # But what is replaced may hold anything.
    renamed = write(tmp_path / "in.parquet", table.rename_columns({"odd": "prior_logprobs"}))
    score(renamed, tmp_path / "out.jsonl", overwrite=True)


def test_what_a_model_refuses_by_itself_names_file_and_rows(tmp_path):
    # This model's prompts go on with tokens that do not end a completion.
    table = pa.table({"prompt_token_ids": [[1]] * 7 + [[1, 0]], "completion_token_ids": [[0]] * 8})
    file = write(tmp_path / "in.parquet", table)
    with pytest.raises(ValueError, match=r"in.parquet, rows 5 to 7, put together by prompt: prompts\[1\]\[1\] is 0"):
        score(file, tmp_path / "out.parquet")


def test_models_of_two_vocabularies_are_refused():
    small = TabularLM.random(np.random.default_rng(0), prompts=1, vocabulary=3, depth=2)
    with pytest.raises(ValueError, match="must share a vocabulary"):
        LocalModels(tabular(), small, BOTH, {})


# Memory.

MEASURE = """
import re, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from offline_runs import score
score(Path(sys.argv[2]), Path(sys.argv[3]), block=100)
# Not `ru_maxrss`, which counts what the process was forked from.
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_is_that_of_a_block(tmp_path, suffix):
    few, many = 2_000, 12_000
    rng = np.random.default_rng(0)
    table = rows(few).append_column("noise", pa.array([rng.bytes(4000).hex() for _ in range(few)]))
    peaks = []
    for times in (1, many // few):
        file = write(tmp_path / f"in{times}{suffix}", pa.concat_tables([table] * times).combine_chunks())
        arguments = [sys.executable, "-c", MEASURE, str(TESTS), str(file), str(tmp_path / f"out{times}{suffix}")]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) * 1024)
    grown = (many - few) * 8000
    assert peaks[1] - peaks[0] < 0.5 * grown


# The command.


@pytest.fixture
def server():
    with running_in_thread(Models(prior=tabular())) as address:
        yield address


def test_a_server_s_columns_are_those_of_its_models(tmp_path, esscher, server):
    file, output = write(tmp_path / "in.parquet"), tmp_path / "out.parquet"
    code, out, err = esscher("score", file, "-o", output, "--server", server, "--block", BLOCK)
    assert code == 0, err
    assert "prior_logprobs of 22 completions" in " ".join(out.split())
    expected = score(file, tmp_path / "expected.parquet")
    got, local = (files.read(path).samples.prior_logprobs.values for path in (output, expected))
    np.testing.assert_array_equal(got, local)


def test_a_server_without_a_model_is_told_before_anything_is_scored(tmp_path, esscher, server):
    file = write(tmp_path / "in.parquet")
    arguments = ("score", file, "-o", tmp_path / "out.parquet", "--server", server)
    code, _, err = esscher(*arguments, "--column", "token_kl", "--column", "rewards")
    assert code == 2
    assert "has no token_kl, rewards: it fills prior_logprobs" in err


def test_no_server_is_told_with_3(tmp_path, esscher):
    code, _, err = esscher(
        "score", write(tmp_path / "in.parquet"), "-o", tmp_path / "o.jsonl", "--server", "127.0.0.1:1"
    )
    assert code == 3
    assert "127.0.0.1:1" in err


@dataclasses.dataclass
class Length:
    name: str = "length"

    def __call__(self, samples):
        return -samples.completions.lengths


def test_a_server_s_rewards_fill_the_column_rewards(tmp_path, esscher):
    file, output = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    with running_in_thread(Models(prior=tabular(), policy=other(), reward=Length())) as address:
        chosen = [word for name in (*BOTH, "rewards") for word in ("--column", name)]
        code, _, err = esscher("score", file, "-o", output, "--server", address, *chosen)
    assert code == 0, err
    for row in map(json.loads, output.read_text().splitlines()):
        assert row["rewards"] == -len(row["completion_token_ids"])
        assert len(row["token_kl"]) == len(row["completion_token_ids"])


def test_a_file_that_calls_its_rewards_reward_has_them_replaced_only_when_told_to(tmp_path):
    table = rows().append_column("reward", pa.array([0.5] * ROWS))
    file, output = write(tmp_path / "in.parquet", table), tmp_path / "out.parquet"
    with pytest.raises(ValueError, match="has a column reward already: say --overwrite"):
        plan(file, output, ("rewards",))
    assert plan(file, output, ("rewards",), overwrite=True).written == {"rewards": "reward"}


def test_two_models_fill_four_columns_and_a_stopped_command_goes_on(tmp_path, esscher, monkeypatch):
    text = [[1, 300], [5], [1, 300], [7, 8, 9]]
    file = write(tmp_path / "in.jsonl", pa.table({"prompt_token_ids": text, "completion_token_ids": text[::-1]}))
    output = tmp_path / "out.jsonl"
    arguments = ("score", file, "--prior", alice_folder(), "--policy", alice_folder(), "-o", output, "--block", 1)
    code, out, err = esscher(*arguments)
    assert code == 0, err
    expected = output.read_bytes()
    assert "prior_logprobs, policy_logprobs, token_kl, policy_entropy of 4 completions" in " ".join(out.split())
    output.unlink()
    fill, calls = LocalModels.fill, []

    def stopped(self, samples):
        calls.append(samples)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fill(self, samples)

    monkeypatch.setattr(LocalModels, "fill", stopped)
    code, out, err = esscher(*arguments)
    assert (code, out) == (130, "")
    assert f"what is finished is kept in {parts_folder(output)}: run the same command again" in err
    assert not output.exists()
    code, _, err = esscher(*arguments, "--dtype", "bfloat16")
    assert code == 2
    assert 'dtype was "float32", is "bfloat16"' in err
    code, _, err = esscher(*arguments)
    assert code == 0
    assert f"going on after 2 of 4 rows, kept in {parts_folder(output)}" in err
    assert output.read_bytes() == expected
    assert len(calls) == 5


def test_objects_without_keys_are_kept(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt_token_ids": [1], "completion_token_ids": [2], "meta": {}}\n')
    score(file, tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").column("meta").to_pylist() == ["{}"]
    score(tmp_path / "out.parquet", tmp_path / "out.jsonl", overwrite=True)
    assert json.loads((tmp_path / "out.jsonl").read_text())["meta"] == {}
