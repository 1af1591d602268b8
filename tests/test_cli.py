"""The command line as a user meets it: what it writes, what it says, and how it ends."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from esscher import Samples, Tilt, evaluate, files
from models import alice, alice_folder


@pytest.fixture(scope="module")
def samples():
    """Completions of alice with rewards, and policy log-probs of a hotter sampler."""
    rng = np.random.default_rng(0)
    drawn = alice().sample(alice().encode(["Alice was", "The Queen said"]), 6, 10, rng, sampling_temperature=1.3)
    return Samples(
        drawn.prompts,
        drawn.completions,
        drawn.groups,
        policy_logprobs=drawn.policy_logprobs,
        rewards=rng.normal(size=len(drawn)),
        terminated=drawn.terminated,
    )


@pytest.fixture
def unscored(samples, tmp_path):
    path = tmp_path / "samples.parquet"
    files.write(files.to_table(samples), path)
    return path


@pytest.fixture
def scored(unscored, tmp_path, esscher):
    path = tmp_path / "scored.parquet"
    code, _, err = esscher("score", unscored, "--prior", alice_folder(), "--output", path)
    assert code == 0, err
    return path


def test_help_names_every_command(esscher):
    code, out, _ = esscher("--help")
    assert code == 0
    for command in ("demo", "serve", "score", "evaluate", "prototype", "compare", "mismatch"):
        assert command in out
        assert esscher(command, "--help")[0] == 0


def test_score_adds_the_log_probs_and_keeps_the_rest(unscored, scored, samples):
    before, after = pq.read_table(unscored), pq.read_table(scored)
    assert after.drop_columns("prior_logprobs").equals(before)
    expected = alice().logprobs(samples.prompts, samples.completions, samples.groups)
    got = files.read(scored).samples.prior_logprobs
    assert got.values == pytest.approx(expected.values, abs=1e-4)


def test_score_takes_a_column_only_when_told_to(scored, esscher, tmp_path):
    before = scored.read_bytes()
    arguments = ("score", scored, "--prior", alice_folder(), "--output", scored)
    code, _, err = esscher(*arguments)
    assert code == 2
    assert "has a column prior_logprobs already: say --overwrite" in err
    assert scored.read_bytes() == before
    assert esscher(*arguments, "--overwrite")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples.parquet", "scored.parquet"]


def test_score_of_the_policy_fills_the_policys_column(unscored, tmp_path, esscher):
    output = tmp_path / "policy.jsonl"
    arguments = ("--policy", alice_folder(), "--output", output, "--overwrite")
    assert esscher("score", unscored, *arguments)[0] == 0
    assert "prior_logprobs" not in files.read(output).samples.columns


def test_evaluate_prints_the_report_of_the_library(scored, esscher):
    code, out, err = esscher("evaluate", scored, "--beta", 0.5, "--json")
    assert code == 0, err
    report = evaluate(files.read(scored).samples, Tilt(0.5))
    got = json.loads(out)
    assert got["kl"]["k1"]["value"] == report.kl["k1"].value
    assert got["target"]["log_z"]["value"] == report.target.log_z.value


def test_evaluate_of_several_files_is_that_of_one(scored, tmp_path, esscher):
    whole = files.read(scored).samples
    for i in range(2):
        files.write(files.to_table(whole.take_prompts([i])), tmp_path / f"part{i}.jsonl")
    one = esscher("evaluate", scored, "--beta", 1, "--json")
    two = esscher("evaluate", tmp_path / "part0.jsonl", tmp_path / "part1.jsonl", "--beta", 1, "--json")
    assert one[:2] == two[:2]
    assert one[0] == 0


def test_evaluate_shows_a_table_and_writes_a_page(scored, tmp_path, esscher):
    page = tmp_path / "report.html"
    code, out, _ = esscher("evaluate", scored, "--threshold", 0, "--html", page, "--tokenizer", alice_folder())
    assert code == 0
    for words in ("KL", "log Z", "distinct-2", str(page.name)):
        assert words in out
    assert "<svg" in page.read_text()


def test_columns_can_be_renamed(samples, tmp_path, esscher):
    path = tmp_path / "theirs.parquet"
    table = files.to_table(samples)
    files.write(table.rename_columns({"rewards": "score"}), path)
    assert "lack the column rewards" in json.loads(esscher("evaluate", path, "--json")[1])["unavailable"]["reward"]
    assert json.loads(esscher("evaluate", path, "--json", "--columns", "rewards=score")[1])["reward"] is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "FILE", "--beta", "0"), "beta is 0.0: it must be a positive number"),
        (("evaluate", "FILE", "--beta", "1", "--threshold", "1"), "give one of them"),
        (("evaluate", "FILE", "--columns", "rewards"), "write it as ours=theirs"),
        (("evaluate", "missing.parquet"), "missing.parquet"),
        (("evaluate", "FILE", "--html", "no/folder/x.html"), "make the folder first"),
        (("evaluate", "FILE", "--html", "."), "is a folder: name a file"),
        (("score", "FILE", "--prior", "nowhere/at/all/x", "--output", "out.parquet"), "nowhere/at/all/x"),
        (("score", "FILE", "--prior", "alice", "--output", "out.pkl"), "out.pkl"),
        (("score", "FILE", "--prior", "alice", "--output", "no/such/folder/out.parquet"), "folder"),
        (("score", "FILE", "--output", "out.parquet"), "no model is given: say --prior MODEL"),
        (("score", "FILE", "--server", "x:1", "--prior", "alice", "--output", "out.parquet"), "give it alone"),
        (("score", "FILE", "--prior", "alice", "--column", "token_kl", "-o", "o.jsonl"), "fill prior_logprobs"),
        (("serve", "--prior", "nowhere/at/all/x"), "nowhere/at/all/x"),
        (("serve", "--prior", "alice", "--host", "0.0.0.0"), "neither encrypted nor authenticated"),
    ],
)
def test_bad_input_says_what_is_wrong_and_ends_with_2(arguments, message, unscored, tmp_path, esscher, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    code, out, err = esscher(*[unscored if argument == "FILE" else argument for argument in arguments])
    assert (code, out) == (2, "")
    assert "error: " in err
    assert message in err
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_column_is_named_with_what_is_there(samples, tmp_path, esscher):
    path = tmp_path / "bare.parquet"
    files.write(files.to_table(samples).drop_columns("completion_token_ids"), path)
    code, _, err = esscher("evaluate", path)
    assert code == 2
    assert "completion_token_ids" in err
    assert "prompt_token_ids" in err


def test_a_truncated_file_is_told(unscored, tmp_path, esscher):
    path = tmp_path / "half.parquet"
    path.write_bytes(unscored.read_bytes()[:500])
    code, _, err = esscher("evaluate", path)
    assert code == 2
    assert "half.parquet" in err


def test_a_port_in_use_is_told(esscher):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = esscher("serve", "--prior", alice_folder(), "--port", port)
    assert code == 2
    assert str(port) in err


def test_the_installed_command_runs():
    done = subprocess.run(
        [sys.executable, "-m", "esscher", "evaluate", "nothing.parquet"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
