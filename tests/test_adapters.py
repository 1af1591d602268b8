"""Adapters of peft: a folder, or a module that is handed over; the numbers are those of the wrapped model itself."""

from __future__ import annotations

import copy
import json
import shutil
import sys

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from esscher import Ragged
from esscher.lm.checkpoints import checkpoints_in, incompleteness, newest_whole_checkpoint
from esscher.lm.pair import load_lm
from esscher.lm.transformers import TransformersLM
from esscher.server.loading_models import Sources, load_models
from models import alice, alice_folder
from test_transformers import each_on_its_own, real_completions, worst

pytestmark = [
    # What peft's wrapper asks of transformers, and its advice for those who merge.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting .save_embedding_layers:UserWarning"),
]
KINDS = {
    "LoRA of attention": peft.LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"]),
    "LoRA of everything": peft.LoraConfig(r=4, target_modules="all-linear", use_dora=True, task_type="CAUSAL_LM"),
    "LoRA of the head and embeddings": peft.LoraConfig(r=4, target_modules=["lm_head", "embed_tokens", "k_proj"]),
    "a norm that is trained whole": peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["norm"]),
    "IA3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
}


def adapted(kind, seed=0):
    """Alice with an adapter whose weights are all something."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(copy.deepcopy(alice().module), copy.deepcopy(KINDS[kind])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.peft_config["default"].base_model_name_or_path = str(alice_folder())
    return model


@pytest.fixture(scope="module")
def request_():
    return real_completions(alice(), prompts=4, n=12, longest_prompt=9, longest=14)


@pytest.fixture
def folder(tmp_path):
    adapted("LoRA of attention").save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def changed(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_that_is_wrapped_scores_and_samples_as_it_would_itself(kind, request_):
    model = adapted(kind)
    lm = TransformersLM(model, kind)
    expected = each_on_its_own(model, *request_)
    assert worst(lm.logprobs(*request_), expected) < 1e-4
    assert worst(alice().logprobs(*request_), expected) > 0.01, "the adapter does something"
    drawn = lm.sample(request_[0], 2, 6, np.random.default_rng(0))
    again = each_on_its_own(model, drawn.prompts, drawn.completions, drawn.groups)
    assert worst(drawn.policy_logprobs, again) < 1e-4


def test_an_adapter_that_is_switched_off_is_not_counted(request_):
    model = adapted("LoRA of attention")
    lm = TransformersLM(model, "adapted")
    with model.disable_adapter():
        assert worst(lm.logprobs(*request_), list(alice().logprobs(*request_))) < 1e-4
    assert worst(lm.logprobs(*request_), each_on_its_own(model, *request_)) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_read_with_the_model_that_it_names(kind, request_, tmp_path):
    model = adapted(kind)
    model.save_pretrained(tmp_path / "adapter")
    lm = TransformersLM.load(tmp_path / "adapter", device="cpu")
    assert lm.name == "adapter"
    assert worst(lm.logprobs(*request_), each_on_its_own(model, *request_)) < 1e-4
    assert lm.decode(lm.encode(["Alice was"])) == ["Alice was"]
    scores = lm.token_scores(*request_, alice())
    assert (scores.kl > 0).any()


def test_a_packaged_model_may_be_named_and_a_path_may_be_seen_from_the_folder(folder, request_):
    expected = TransformersLM.load(folder, device="cpu").logprobs(*request_).values
    shutil.copytree(alice_folder(), folder.parent / "model", copy_function=shutil.copyfile)
    for named in ("alice", "../model"):
        changed(folder, base_model_name_or_path=named)
        found = TransformersLM.load(folder, device="cpu").logprobs(*request_).values
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("named", ["/nowhere/model", "owner/absent-model"])
def test_a_model_that_is_not_to_be_had_is_named_with_what_to_do(folder, named, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    changed(folder, base_model_name_or_path=named)
    with pytest.raises(
        FileNotFoundError, match=rf"adapter is an adapter of {named}, .* or merge it \(merge_and_unload"
    ):
        TransformersLM.load(folder, device="cpu")


@pytest.mark.parametrize("named", ["/home/trainer/model", None])
def test_an_adapter_of_what_is_not_to_be_had_is_added_to_the_prior_and_that_is_said(folder, named, request_, caplog):
    expected = TransformersLM.load(folder, device="cpu").logprobs(*request_).values
    changed(folder, base_model_name_or_path=named)
    with pytest.raises((FileNotFoundError, ValueError)):
        TransformersLM.load(folder, device="cpu")
    lm = load_lm(folder, device="cpu", prior=alice())
    np.testing.assert_array_equal(lm.logprobs(*request_).values, expected)
    assert lm.decode(lm.encode(["Alice was"])) == ["Alice was"]
    said = f"{folder}: the model that it names is not to be had, and it is added to {alice_folder()}"
    assert [record.getMessage() for record in caplog.records if "added to" in record.getMessage()] == [said]


def test_an_adapter_is_never_added_to_another_adapter(folder):
    other = folder.parent / "other"
    shutil.copytree(folder, other)
    prior = TransformersLM.load(other, device="cpu")
    changed(folder, base_model_name_or_path="/home/trainer/model")
    with pytest.raises(ValueError, match=r"adapter is an adapter of .*other, which is an adapter itself"):
        load_lm(folder, device="cpu", prior=prior)


@pytest.mark.parametrize("place", ["policy", "policy_dir"])
def test_a_server_adds_adapters_to_its_prior_where_their_model_is_elsewhere(folder, place, request_):
    expected = TransformersLM.load(folder, device="cpu").logprobs(*request_).values
    changed(folder, base_model_name_or_path="/home/trainer/model")
    where = {"policy": str(folder)} if place == "policy" else {"policy_dir": folder.parent}
    loaded = load_models(Sources(prior=str(alice_folder()), device="cpu", **where), print)
    np.testing.assert_array_equal(loaded.models.policy.logprobs(*request_).values, expected)
    later = loaded.load_policy(folder)
    np.testing.assert_array_equal(later.logprobs(*request_).values, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_model_name_or_path": None}, "does not say of which model: set base_model_name_or_path"),
        ({"base_model_name_or_path": "."}, "which is an adapter itself"),
        ({"peft_type": "nonsense"}, "could not be added to LlamaForCausalLM"),
        ({"target_modules": ["nonsense"]}, "could not be added to LlamaForCausalLM"),
        ({"r": 8}, "could not be added to LlamaForCausalLM"),
        (
            {"target_modules": ["q_proj"]},
            r"it has .*v_proj.*, which the model has no place for; was it trained on another",
        ),
        ({"target_modules": ["q_proj", "v_proj", "k_proj"]}, "it lacks .*k_proj.*; was it trained on another"),
        ({"megatron_config": {}, "megatron_core": "antigravity"}, "is for Megatron's layers"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(folder, changes, message):
    if changes.get("base_model_name_or_path") == ".":
        changes = {"base_model_name_or_path": str(folder)}
    changed(folder, **changes)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        TransformersLM.load(folder, device="cpu")
    assert "antigravity" not in sys.modules


def test_pickled_adapters_are_not_read(folder):
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no adapter_model.safetensors: .* pickles are not read"):
        TransformersLM.load(folder, device="cpu")


def test_a_weight_of_an_adapter_that_is_no_number_is_named(folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    key = next(name for name in tensors if "lora_A" in name)
    tensors[key][1, 2] = np.nan
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"adapter cannot be used: its weight \S+lora_A\S+\[1, 2\] is nan"):
        TransformersLM.load(folder, device="cpu")


def test_without_peft_what_to_install_is_said(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match="for which peft is needed, which is not installed: pip install peft"):
        TransformersLM.load(folder, device="cpu")


def test_prompts_that_are_learnt_are_no_weights(tmp_path):
    model = peft.get_peft_model(
        copy.deepcopy(alice().module), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    )
    with pytest.raises(ValueError, match=r"has prompts that were learnt, .* the columns policy_logprobs"):
        TransformersLM(model, "prompted")
    model.peft_config["default"].base_model_name_or_path = str(alice_folder())
    model.save_pretrained(tmp_path / "prompts")
    with pytest.raises(ValueError, match="holds prompts, not weights"):
        TransformersLM.load(tmp_path / "prompts", device="cpu")


def test_an_adapter_is_a_checkpoint_once_it_is_whole(folder):
    assert newest_whole_checkpoint(folder.parent).folder == folder
    loaded = load_models(Sources(prior=str(alice_folder()), policy_dir=folder.parent, device="cpu"), print)
    assert loaded.models.policy.name == "adapter"
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "adapter_model.safetensors has" in incompleteness(checkpoints_in(folder)[0])


@pytest.mark.parametrize("named", [None, "/home/trainer/model"])
def test_a_file_is_scored_by_an_adapter(folder, tmp_path, esscher, named):
    lm = TransformersLM.load(folder, device="cpu")
    if named is not None:
        changed(folder, base_model_name_or_path=named)
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"prompt_token_ids": [5, 6], "completion_token_ids": [7, 8, 9]}) + "\n"
    )
    scored = tmp_path / "scored.jsonl"
    code, _, _ = esscher("score", tmp_path / "a.jsonl", "--prior", "alice", "--policy", folder, "-o", scored)
    assert code == 0
    row = json.loads(scored.read_text())
    prompts, completions = Ragged.from_rows([[5, 6]]), Ragged.from_rows([[7, 8, 9]])
    expected = lm.token_scores(prompts, completions, [0, 1], alice())
    np.testing.assert_allclose(row["token_kl"], expected.kl, rtol=0, atol=1e-5)
