"""Masks that a command does not use: it asks, and goes on where that is answered or there is nothing to ask."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from esscher import Ragged, Samples, files
from esscher.files.masks import ROW_MASKS, TOKEN_MASKS
from models import alice_folder
from offline_runs import Recorder, score

PROMPT, COMPLETION = [1, 2], [3, 4, 1]
NONE_OUT = {
    "all ones": [1, 1, 1],
    "all true": [True] * 3,
    "fractions": [1.0, 1.0, 1.0],
    "in a list": [[1, 1, 1]],
    "over the prompt too": [0, 0, 1, 1, 1],
    "nothing known": None,
}
SOME_OUT = {
    "a token": ([1, 0, 1], "row 1, token 1"),
    "false": ([True, True, False], "row 1, token 2"),
    "a weight": ([1.0, 1.0, 0.5], "row 1, token 2"),
    "in a list": ([[1, 0, 1]], "row 1, token 1"),
    "over the prompt too": ([0, 0, 1, 1, 0], "row 1, token 4"),
    "a null": ([1, None, 1], "row 1, token 1"),
    "padded": ([1, 1, 1, 0], "row 1, token 3"),
}


def row(**columns):
    return {"prompt_token_ids": PROMPT, "completion_token_ids": COMPLETION, "rewards": 1.0} | columns


def lines(path, *rows):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def question(path, tmp_path):
    """Return what reading and scoring both say."""
    scorer = Recorder()
    said = []
    for ask in (lambda: files.read(path), lambda: score(path, tmp_path / "out.parquet", scorer, block=1)):
        with pytest.raises(ValueError, match="it looks like a mask") as caught:
            ask()
        said.append(str(caught.value))
    assert not scorer.asked
    assert said[0] == said[1]
    return said[0]


def goes_through(path, tmp_path, ignore=()):
    assert len(files.read(path, ignore_masks=ignore).samples) == 2
    assert score(path, tmp_path / f"{path.stem}-out.parquet", ignore_masks=ignore).exists()


@pytest.mark.parametrize("name", [name for name in TOKEN_MASKS if name != files.MASK])
def test_a_mask_under_any_trainer_s_name_is_asked_about(tmp_path, name):
    path = lines(tmp_path / "rows.jsonl", row(**{name: [1, 1, 1]}), row(**{name: [1, 0, 0]}))
    said = question(path, tmp_path)
    assert said.startswith(f"{path}, line 2: column {name!r}, row 1, token 1 is not 1: it looks like a mask")
    assert "was not chosen by the policy, but it would be counted" in said
    assert f"--ignore-mask {name}" in said
    goes_through(path, tmp_path, [name])


@pytest.mark.parametrize("values", [[1, 0], [True, False], [1.0, 0.0], [[1], [0]], [1, None]])
@pytest.mark.parametrize("name", ROW_MASKS)
def test_a_mask_of_whole_rows_is_asked_about(tmp_path, name, values):
    path = lines(tmp_path / "rows.jsonl", *(row(**{name: value}) for value in values))
    said = question(path, tmp_path)
    assert said.startswith(f"{path}, line 2: column {name!r}, row 1 is not 1: it looks like a mask, by which this row")
    goes_through(path, tmp_path, [name])
    goes_through(lines(tmp_path / "ones.jsonl", *(row(**{name: values[0]}) for _ in range(2))), tmp_path)


@pytest.mark.parametrize(("mask", "place"), SOME_OUT.values(), ids=SOME_OUT)
def test_where_something_is_left_out_it_is_named(tmp_path, mask, place):
    path = lines(tmp_path / "rows.jsonl", row(loss_mask=[1, 1, 1]), row(loss_mask=mask))
    assert f"{path}, line 2: column 'loss_mask', {place} is not 1" in question(path, tmp_path)


@pytest.mark.parametrize("mask", NONE_OUT.values(), ids=NONE_OUT)
def test_a_mask_that_leaves_nothing_out_is_no_question(tmp_path, mask):
    goes_through(lines(tmp_path / "rows.jsonl", row(loss_mask=[1, 1, 1]), row(loss_mask=mask)), tmp_path)


def test_a_mask_in_parquet_is_asked_about_with_its_row(tmp_path):
    path = tmp_path / "rows.parquet"
    mask = pa.array([[1, 1, 1], [1, 1, 0]], pa.list_(pa.int8(), 3))
    pq.write_table(pa.Table.from_pylist([row(), row()]).append_column("response_mask", mask), path)
    assert question(path, tmp_path).startswith(f"{path}: column 'response_mask', row 1, token 2 is not 1")


def test_what_looks_like_a_mask_by_its_name_alone_is_asked_about(tmp_path):
    path = lines(tmp_path / "rows.jsonl", row(mask="[MASK]"), row(mask="[MASK]"))
    assert "column 'mask' has type string" in question(path, tmp_path)
    goes_through(path, tmp_path, ["mask"])


def test_several_masks_are_answered_one_by_one(tmp_path):
    masked = row(loss_mask=[1, 0, 1], sample_mask=0)
    path = lines(tmp_path / "rows.jsonl", masked, masked)
    with pytest.raises(ValueError, match="--ignore-mask sample_mask"):
        files.read(path, ignore_masks=["loss_mask"])
    goes_through(path, tmp_path, ["loss_mask", "sample_mask"])


@pytest.fixture
def masked(tmp_path):
    """Files of a prior's and a policy's samples, four tokens of a tool in every completion of the latter."""
    rng = np.random.default_rng(0)
    completions = Ragged.from_rows([[*rng.integers(3, 60, 6).tolist(), 2] for _ in range(64)], np.uint32)
    logprobs = Ragged(rng.uniform(-3, -1, len(completions.values)).astype(np.float32), completions.offsets)
    drawn = Samples(
        Ragged.from_rows([[1, 3], [1, 4]]),
        completions,
        [0, 32, 64],
        policy_logprobs=logprobs,
        prior_logprobs=logprobs,
        rewards=rng.normal(size=64),
    )
    table = files.to_table(drawn)
    mask = pa.array([[1, 0, 0, 0, 0, 1, 1]] * 64)
    files.write(table.append_column("tool_mask", mask), tmp_path / "policy.parquet")
    files.write(table, tmp_path / "prior.parquet")
    return tmp_path / "policy.parquet", tmp_path / "prior.parquet"


@pytest.mark.parametrize("command", ["evaluate", "prototype", "compare", "compare the prior", "score"])
def test_every_command_asks_and_takes_the_answer(masked, tmp_path, esscher, command):
    policy, prior = masked
    arguments = {
        "evaluate": ("evaluate", policy),
        "prototype": ("prototype", policy),
        "compare": ("compare", policy, "--prior", prior),
        "compare the prior": ("compare", prior, "--prior", policy),
        "score": ("score", policy, "--prior", alice_folder(), "--overwrite", "-o", tmp_path / "out.parquet"),
    }[command]
    code, out, err = esscher(*arguments)
    assert (code, out) == (2, "")
    assert f"{policy}: column 'tool_mask', row 0, token 1 is not 1: it looks like a mask" in err
    assert not (tmp_path / "out.parquet").exists()
    code, _, err = esscher(*arguments, "--ignore-mask", "tool_mask")
    assert code == 0, err
