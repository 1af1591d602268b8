"""The completions that TRL's trainers sampled, in our files: what was known of them, whatever becomes of the server."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import TrainerCallback

from esscher import Ragged, Samples, estimate_kl, files
from esscher.integrations.trl import EsscherCallback
from esscher.integrations.trl_dump import StepWriter, table_of
from esscher.integrations.trl_judge import TrainerBatch
from models import alice
from test_trl import ENDS, Recorder, letters, make, serving

pytestmark = [
    pytest.mark.timeout(120),
    # TRL 1.16 asks for it by the old name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server")) as server:
        yield server


def short(prompts, completions, **_):  # noqa: ARG001
    """Nothing for completions of a single character or none."""
    return [None if len(text) < 2 else -len(text) / 10 for text in completions]


def train(trainer, address, dump, **options):
    """Train; gives the log's lines."""
    callback = EsscherCallback(trainer, address, dump=dump, **options)
    recorder = Recorder(lambda _: callback.wait(30))
    trainer.add_callback(recorder)
    trainer.add_callback(callback)
    trainer.train()
    return recorder.lines


@pytest.mark.parametrize(
    ("kind", "options"),
    [("rloo", {}), ("grpo", {}), ("grpo", {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4})],
)
def test_a_file_a_step_says_what_the_log_does(kind, options, server, tmp_path):
    trainer = make(kind, tmp_path / "run", [letters, short], reward_weights=[1.0, 0.5], **options)
    lines = train(trainer, server.address, tmp_path / "dump")
    paths = sorted((tmp_path / "dump").iterdir())
    assert [path.name for path in paths] == ["step-000001.parquet", "step-000002.parquet", "step-000003.parquet"]
    for step, (path, line) in enumerate(zip(paths, lines, strict=True), 1):
        table = pq.read_table(path)
        assert table.column_names[-4:] == ["rewards", "letters", "short", "step"]
        assert table.column("step").to_pylist() == [step] * 16
        each = [np.array(table.column(name).to_pylist(), float) for name in ("letters", "short")]
        expected = each[0] + 0.5 * np.nan_to_num(each[1])
        assert table.column("rewards").to_pylist() == pytest.approx(expected.tolist(), rel=1e-6)
        samples = files.read(path).samples
        assert set(samples.columns) == {"policy_logprobs", "prior_logprobs", "rewards", "terminated"}
        assert estimate_kl(samples, "k1").value == pytest.approx(line["esscher/kl"], abs=1e-6)
        ends = np.isin([row[-1] for row in samples.completions], ENDS)
        assert samples.terminated.tolist() == (ends | (samples.completions.lengths < 8)).tolist()
    first = files.read(paths[0]).samples
    again = alice().logprobs(first.prompts, first.completions, first.groups)
    assert first.prior_logprobs.values == pytest.approx(again.values, abs=1e-4)
    # Nothing has been learned yet.
    assert first.policy_logprobs.values == pytest.approx(again.values, abs=1e-4)
    last = files.read(paths[-1]).samples
    assert np.abs(last.policy_logprobs.values - last.prior_logprobs.values).max() > 1e-3


def test_without_a_server_nothing_is_lost_but_the_priors_log_probs(tmp_path):
    trainer = make("rloo", tmp_path / "run", [letters])
    train(trainer, "127.0.0.1:1", tmp_path / "dump" / "new", timeout=0.2)
    paths = sorted((tmp_path / "dump" / "new").iterdir())
    assert len(paths) == 3
    for path in paths:
        samples = files.read(path).samples
        assert len(samples) == 16
        assert set(samples.columns) == {"policy_logprobs", "rewards", "terminated"}


def test_batches_that_nobody_judges_are_kept(server, tmp_path):
    """One is under way all the time, one waits, the others are dropped, and in the end the first two are given up."""
    trainer, ended = make("rloo", tmp_path / "run", [letters], steps=5), threading.Event()
    callback = EsscherCallback(trainer, server.address, dump=tmp_path / "dump", waiting=1, patience=0.0)

    def hang():
        ended.wait(60)
        raise ConnectionError("the server is away")

    class Hanging(TrainerCallback):
        def on_step_begin(self, *_, **__):
            callback._judge._server.client = hang

        def on_train_end(self, *_, **__):
            ended.set()

    recorder = Recorder()
    for one in (Hanging(), callback, recorder):
        trainer.add_callback(one)
    trainer.train()
    assert recorder.lines[-1]["esscher/dropped"] == 3
    assert sorted(path.name for path in (tmp_path / "dump").iterdir()) == [f"step-{i:06}.parquet" for i in range(1, 6)]


def test_a_disk_that_is_full_is_logged_once_and_training_goes_on(server, tmp_path, caplog, monkeypatch):
    trainer = make("rloo", tmp_path / "run", [letters])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write", full)
    with caplog.at_level(logging.WARNING, "esscher"):
        lines = train(trainer, server.address, tmp_path / "dump")
    assert len(lines) == 3
    assert all("esscher/kl" in line for line in lines)
    told = [record.getMessage() for record in caplog.records if "dump" in record.getMessage()]
    assert told == ["completions cannot be written to the dump: OSError: [Errno 28] No space left on device"]
    assert list((tmp_path / "dump").iterdir()) == []


def test_a_folder_that_cannot_be_is_told_when_the_callback_is_made(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        EsscherCallback(make("rloo", tmp_path / "run", [letters]), server.address, dump=tmp_path / "file")


def batch(**changes):
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
    ids = torch.arange(16).reshape(4, 4)
    known = {
        "step": 7,
        "columns": {
            "prompt_ids": torch.tensor([[0, 5], [0, 5], [6, 6], [6, 6]]),
            "prompt_mask": torch.tensor([[0, 1], [0, 1], [1, 1], [1, 1]]),
            "completion_ids": ids,
            "completion_mask": mask,
        },
        "rewards": torch.tensor([[0.5, 1.0], [torch.nan, 2.0], [torch.nan, torch.nan], [0.0, 0.0]]),
        "weights": torch.tensor([1.0, 2.0]),
        "reward_range": None,
        "logprobs": -ids / 10,
    }
    return TrainerBatch(**{**known, **changes})


def test_a_table_has_what_the_trainer_knows():
    mask = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
    tools = batch(columns={**batch().columns, "tool_mask": mask})
    table = table_of(tools, None, ["judge", "policy_logprobs"], [3, 10])
    assert table.to_pylist()[0] == {
        "prompt_id": 0,
        "prompt_token_ids": [5],
        "completion_token_ids": [0, 1, 2, 3],
        "policy_logprobs": [0.0, None, pytest.approx(-0.2), pytest.approx(-0.3)],
        "terminated": True,
        "action_mask": [True, False, True, True],
        "rewards": 2.5,
        "judge": 0.5,
        "policy_logprobs_2": 1.0,
        "step": 7,
    }
    # Of the third no reward is known, and the last is masked: the trainer leaves out both.
    assert table.column("rewards").to_pylist() == [2.5, 4.0]
    assert table.column("judge").to_pylist() == [0.5, None]
    assert table.column("terminated").to_pylist() == [True, False]
    assert table.column("completion_token_ids").to_pylist()[1:] == [[4, 5]]


def test_without_any_reward_the_completions_are_kept_and_can_be_read(tmp_path):
    nothing = torch.full((4, 2), torch.nan)
    files.write(table_of(batch(rewards=nothing), None, ["one", "two"], []), tmp_path / "step.parquet")
    samples = files.read(tmp_path / "step.parquet").samples
    assert samples.columns == ("policy_logprobs", "terminated")
    assert len(samples) == 3


def test_the_folder_is_a_run(tmp_path, esscher):
    writer = StepWriter(tmp_path, ["one", "two"], [3])
    for step in (1, 2, 3):
        writer.keep(batch(step=step), None)
    writer.close(10)
    code, out, err = esscher("trend", tmp_path, "--json")
    assert code == 0, err
    assert '"step": 3' in out or '"step":3' in out
    code, out, err = esscher("evaluate", tmp_path, "--step", 2)
    assert code == 0, err


def test_what_never_came_is_not_there():
    table = table_of(batch(logprobs=None), None, ["one", "one"], [])
    assert "policy_logprobs" not in table.column_names
    assert table.column_names[-4:] == ["rewards", "one", "one_2", "step"]


def test_several_batches_of_a_step_are_several_files(tmp_path):
    writer = StepWriter(tmp_path, ["one", "two"], [3])
    scored = Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[2], [3], [4]]), [0, 3])
    for found in (None, scored):
        writer.keep(batch(), found)
    writer.close(10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000007-2.parquet", "step-000007.parquet"]
    assert pq.read_table(tmp_path / "step-000007-2.parquet").column("completion_token_ids").to_pylist() == [[2], [3]]
    assert pq.read_schema(tmp_path / "step-000007.parquet").field("rewards").type == pa.float64()
