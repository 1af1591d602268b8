"""Files with completions of several steps of training say so, whatever the column is called."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from esscher import files
from esscher.cli import app


def row(i, **columns):
    return {
        "prompt_token_ids": [1, 3 + i % 2],
        "completion_token_ids": [7 + i, 8, 2],
        "policy_logprobs": [-1.1, -0.3 - 0.01 * i, -0.2],
        "prior_logprobs": [-1.2, -0.4, -0.1 - 0.02 * i],
        "rewards": 0.1 * i,
        **columns,
    }


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
@pytest.mark.parametrize("name", ["step", "global_step", "training_step", "policy_version"])
def test_several_steps_are_told_by_name(tmp_path, kind, name):
    path = write(tmp_path / f"rows{kind}", [row(i, **{name: 10 * (i % 3)}) for i in range(8)])
    (said,) = files.read(path, step="all").warnings
    assert said.startswith(
        f"The column {name!r} holds 3 values (0, 10, 20): completions of several steps are of several"
    )


def test_steps_are_told_across_files_and_cut_short(tmp_path):
    paths = [write(tmp_path / f"{n}.jsonl", [row(i, step=n) for i in range(2)]) for n in range(5)]
    assert files.read(paths[:1]).warnings == ()
    (said,) = files.read(paths, step="all").warnings
    assert "'step' holds 5 values (0, 1, 2, ...)" in said


@pytest.mark.parametrize(
    "values", [[5] * 4, [None] * 4, [5, None, 5.0, "5"], [[1, 2], [3], [4], [5]], [{"a": 1}, 2, 3, 4]]
)
def test_one_step_and_what_is_none_are_not_told(tmp_path, values):
    path = write(tmp_path / "rows.jsonl", [row(i, step=value) for i, value in enumerate(values)])
    assert files.read(path).warnings == ()


def test_a_column_that_is_used_is_not_a_step(tmp_path):
    path = write(tmp_path / "rows.jsonl", [row(i, step=i) for i in range(4)])
    assert files.read(path, columns={"rewards": "step"}).warnings == ()


@pytest.mark.parametrize("command", ["evaluate", "prototype", "compare"])
def test_every_report_says_so(tmp_path, command):
    mixed = write(tmp_path / "mixed.jsonl", [row(i, step=i % 2) for i in range(40)])
    prior = write(tmp_path / "prior.jsonl", [row(i) for i in range(40)])
    with_prior = ["--prior", str(prior)] if command == "compare" else []
    all_steps = [] if command == "compare" else ["--step", "all"]
    result = CliRunner().invoke(app, [command, str(mixed), *with_prior, *all_steps, "--json"])
    assert result.exit_code == 0, result.output
    first = json.loads(result.stdout)["warnings"][0]
    assert first["code"] == "several-steps"
    assert first["where"] == (["mixed"] if command == "compare" else [])
    assert first["evidence"].startswith("The column 'step' holds 2 values (0, 1)")
