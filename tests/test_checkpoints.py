"""A policy that changes while it is served: only whole checkpoints of the same kind, and no call is harmed."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import json
import shutil

import numpy as np
import pytest
import torch

from esscher import Ragged
from esscher.client import AsyncClient
from esscher.lm.checkpoints import checkpoints_in, incompleteness, newest_whole_checkpoint
from esscher.lm.transformers import TransformersLM
from esscher.server.following import follow_checkpoints
from esscher.server.loading_models import Sources, load_models
from esscher.server.serving import running
from models import alice, alice_folder

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Four versions of alice, each with weights of its own."""
    folders = []
    for seed in range(4):
        torch.manual_seed(seed)
        model = copy.deepcopy(alice()._network.model)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.05 * weight.std() * torch.randn_like(weight))
        folders.append(tmp_path_factory.mktemp("versions") / f"checkpoint-{seed}")
        model.save_pretrained(folders[-1])
    return folders


def complete(folder):
    return incompleteness(checkpoints_in(folder)[0]) is None


# What is whole.


def test_a_saved_model_is_whole(saved):
    assert complete(saved[0])


@pytest.mark.parametrize("size", [0, 3, 8, 100, 5000, -1])
def test_weights_that_are_cut_off_anywhere_are_not_whole(saved, tmp_path, size):
    shutil.copytree(saved[0], tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    assert not complete(tmp_path)


@pytest.mark.parametrize("config", ["", "{", '{"model_type": "lla', "[]"])
def test_a_configuration_that_is_cut_off_is_not_whole(saved, tmp_path, config):
    shutil.copytree(saved[0], tmp_path / "cut")
    (tmp_path / "cut" / "config.json").write_text(config)
    assert not complete(tmp_path)


def test_a_checkpoint_in_several_files_is_whole_with_the_last_of_them(tmp_path):
    alice()._network.model.save_pretrained(tmp_path / "shards", max_shard_size="1MB")
    files = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 1
    assert complete(tmp_path)
    files[-1].rename(tmp_path / "away")
    assert not complete(tmp_path)


def test_a_folder_without_checkpoints_has_none(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "events").touch()
    assert checkpoints_in(tmp_path) == []
    assert checkpoints_in(tmp_path / "absent") == []


def test_the_newest_is_the_one_written_last(saved, tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "again-1"):
        shutil.copytree(saved[0], tmp_path / name, copy_function=shutil.copyfile)
        assert newest_whole_checkpoint(tmp_path).folder.name == name
    (tmp_path / "again-1" / "model.safetensors").write_bytes(b"")
    assert newest_whole_checkpoint(tmp_path).folder.name == "checkpoint-10"


# What is taken.


async def following(folder, load, act):
    """Follow a folder while acting on it; what was loaded."""
    taken = []

    async def follow():
        async for policy in follow_checkpoints(folder, load, seconds=0.02):
            taken.append(policy)  # noqa: PERF401 - others look at it meanwhile

    task = asyncio.create_task(follow())
    try:
        await act(taken)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return taken


async def until(condition, seconds=20):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_checkpoint_is_taken_once_it_is_whole(saved, tmp_path):
    whole = (saved[0] / "model.safetensors").read_bytes()

    async def write_slowly(taken):
        folder = tmp_path / "checkpoint-1"
        folder.mkdir()
        shutil.copy(saved[0] / "config.json", folder)
        for size in (10, 1000, len(whole) // 2):
            (folder / "model.safetensors").write_bytes(whole[:size])
            await asyncio.sleep(0.2)
            assert taken == []
        (folder / "model.safetensors").write_bytes(whole)
        await until(lambda: taken)
        await asyncio.sleep(0.2)

    assert await following(tmp_path, lambda folder: folder.name, write_slowly) == ["checkpoint-1"]


async def test_a_checkpoint_that_cannot_be_used_is_skipped_and_the_next_is_taken(saved, tmp_path, caplog):
    def load(folder):
        if folder.name == "bad":
            raise ValueError("of another kind")
        return folder.name

    async def write(taken):
        shutil.copytree(saved[0], tmp_path / "bad", copy_function=shutil.copyfile)
        await until(lambda: "bad is refused, the policy stays as it is: of another kind" in caplog.text)
        shutil.copytree(saved[1], tmp_path / "good", copy_function=shutil.copyfile)
        await until(lambda: taken)

    assert await following(tmp_path, load, write) == ["good"]
    assert caplog.text.count("is refused") == 1


async def test_no_checkpoint_older_than_the_last_is_taken(saved, tmp_path):
    async def write(taken):
        for name in ("older", "newer"):
            shutil.copytree(saved[0], tmp_path / name, copy_function=shutil.copyfile)
        await until(lambda: taken)
        shutil.rmtree(tmp_path / "newer")
        await asyncio.sleep(0.3)

    assert await following(tmp_path, lambda folder: folder.name, write) == ["newer"]


async def test_a_checkpoint_that_is_never_finished_does_not_hide_a_whole_one(saved, tmp_path):
    async def write(taken):
        shutil.copytree(saved[0], tmp_path / "whole", copy_function=shutil.copyfile)
        shutil.copytree(saved[1], tmp_path / "dead", copy_function=shutil.copyfile)
        (tmp_path / "dead" / "model.safetensors").write_bytes(b"half")
        await until(lambda: taken)

    assert await following(tmp_path, lambda folder: folder.name, write) == ["whole"]


async def test_a_checkpoint_that_changes_while_it_is_loaded_is_loaded_again(saved, tmp_path):
    loads = []

    def load(folder):
        loads.append(folder.name)
        if len(loads) == 1:
            shutil.copyfile(saved[1] / "model.safetensors", folder / "model.safetensors")
        return len(loads)

    async def write(taken):
        shutil.copytree(saved[0], tmp_path / "one", copy_function=shutil.copyfile)
        await until(lambda: taken)

    assert await following(tmp_path, load, write) == [2]


async def test_a_checkpoint_that_could_not_be_loaded_is_tried_again(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("esscher.server.following.RETRY_SECONDS", 0.1)
    failures = iter([MemoryError("no room"), OSError("not there")])

    def load(folder):
        for error in failures:
            raise error
        return folder.name

    async def write(taken):
        shutil.copytree(saved[0], tmp_path / "late", copy_function=shutil.copyfile)
        await until(lambda: taken)

    assert await following(tmp_path, load, write) == ["late"]


async def test_a_checkpoint_written_over_the_last_one_is_taken(saved, tmp_path):
    async def write(taken):
        for i in (0, 1):
            shutil.copytree(saved[i], tmp_path, copy_function=shutil.copyfile, dirs_exist_ok=True)
            await until(lambda i=i: len(taken) == i + 1)

    assert len(await following(tmp_path, lambda folder: folder.name, write)) == 2


def test_another_architecture_or_vocabulary_is_refused(saved, tmp_path):
    _, _, load, _ = load_models(Sources(prior=str(alice_folder()), policy=str(saved[0]), device="cpu"), print)
    config = json.loads((saved[0] / "config.json").read_text())
    shutil.copytree(saved[0], tmp_path / "other")
    renamed = config | {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    (tmp_path / "other" / "config.json").write_text(json.dumps(renamed))
    with pytest.raises(ValueError, match="holds a MistralForCausalLM, but the server's model is a LlamaForCausalLM"):
        load(tmp_path / "other")
    larger = copy.deepcopy(alice()._network.model)
    larger.resize_token_embeddings(2048)
    larger.save_pretrained(tmp_path / "larger")
    with pytest.raises(ValueError, match=r"has 2048 tokens and .* 1024: policy and prior must share a vocabulary"):
        load(tmp_path / "larger")
    assert load(saved[1]).name == "checkpoint-1"


# The models to begin with.


def test_the_newest_whole_checkpoint_is_the_first_policy(saved, tmp_path):
    empty = load_models(Sources(prior=str(alice_folder()), policy_dir=tmp_path, device="cpu"), print)
    assert empty.models.policy is None
    shutil.copytree(saved[2], tmp_path / "checkpoint-2")
    loaded = load_models(Sources(prior=str(alice_folder()), policy_dir=tmp_path, device="cpu"), print)
    assert (loaded.models.policy.name, loaded.models.policy_revision) == ("checkpoint-2", 1)
    assert loaded.checkpoint == newest_whole_checkpoint(tmp_path)


def test_policy_and_prior_with_different_tokenizers_are_refused(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "policy")
    shutil.copy(alice_folder() / "tokenizer_config.json", tmp_path / "policy")
    tokenizer = json.loads((alice_folder() / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (tmp_path / "policy" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match=r"policy and \S+ have different tokenizers, which differ in"):
        load_models(Sources(prior=str(alice_folder()), policy=str(tmp_path / "policy"), device="cpu"), print)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy_dir": "absent"}, "absent is no folder"),
        (
            {"reward": "builtins:len", "reward_label": "joy"},
            "label 'joy' is given, but the reward is no classification",
        ),
        ({"reward_label": "joy"}, "label 'joy' is given"),
        ({"reward": "absent-model/x.gguf"}, "does not exist"),
    ],
)
def test_sources_that_cannot_be_are_refused(tmp_path, changes, message):
    if "policy_dir" in changes:
        changes = {"policy_dir": tmp_path / changes["policy_dir"]}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_models(Sources(prior=str(alice_folder()), device="cpu", **changes), print)


# A swap under load.


async def test_swaps_under_load_fail_no_call_and_no_call_is_answered_by_two_policies(saved, tmp_path):
    """Four callers score without a pause while a trainer saves three checkpoints, a part of the file at a time."""
    shutil.copytree(saved[0], tmp_path / "checkpoint-0")
    rng = np.random.default_rng(0)
    prompts = alice().encode(["Alice was", "The Queen"])
    samples = alice().sample(prompts, 6, 12, rng)
    expected = [TransformersLM.load(folder, device="cpu").logprobs(samples.prompts, samples.completions, samples.groups)
                for folder in saved]  # fmt: skip
    models, checkpoint, load, _ = load_models(
        Sources(prior=str(alice_folder()), policy_dir=tmp_path, device="cpu"), print
    )
    policies = follow_checkpoints(tmp_path, load, loaded=checkpoint, seconds=0.05)
    answers = {caller: [] for caller in range(4)}
    done = asyncio.Event()

    async def call(client, caller):
        while not done.is_set():
            answers[caller].append(await client.ask(samples, ("policy_logprobs", "token_kl")))

    def latest():
        return max((answer.policy_revisions[1] for answers in answers.values() for answer in answers), default=0)

    async with running(models, new_policies=policies) as address, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(AsyncClient(address)) for _ in answers]
        callers = [asyncio.create_task(call(client, i)) for i, client in enumerate(clients)]
        for i in (1, 2, 3):
            await save_slowly(saved[i], tmp_path)
            await until(lambda i=i: latest() == i + 1 or any(task.done() for task in callers))
        done.set()
        await asyncio.gather(*callers)
    for given in answers.values():
        revisions = [answer.policy_revisions for answer in given]
        assert all(first == last for first, last in revisions)
        assert revisions == sorted(revisions)
        for answer in given:
            of_revision = expected[answer.policy_revisions[0] - 1]
            found = answer.samples.policy_logprobs.values
            np.testing.assert_allclose(found, of_revision.values, rtol=0, atol=1e-4)
    differences = [np.abs(a.values - b.values).max() for a, b in itertools.pairwise(expected)]
    assert min(differences) > 0.01
    assert latest() == 4


async def save_slowly(source, folder):
    place = folder / source.name
    place.mkdir()
    shutil.copyfile(source / "config.json", place / "config.json")
    whole = (source / "model.safetensors").read_bytes()
    with (place / "model.safetensors").open("wb", buffering=0) as file:
        for start in range(0, len(whole), len(whole) // 4 + 1):
            file.write(whole[start : start + len(whole) // 4 + 1])
            await asyncio.sleep(0.1)


def test_a_text_without_a_tokenizer_says_so(saved):
    lm = TransformersLM.load(saved[0], device="cpu")
    with pytest.raises(ValueError, match="has no tokenizer that can be loaded, give token ids"):
        lm.tokenize(["a"], ["b"], [0, 1], add_special_tokens=True, parse_special_tokens=True)
    assert len(lm.logprobs(Ragged.from_rows([[1]]), Ragged.from_rows([[2]]), [0, 1]).values) == 1
