"""Rewards of texts: functions that an operator names, and classification models."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import transformers

from esscher import Ragged, Samples
from esscher.lm.rewards import FunctionReward, find_function
from esscher.lm.transformers.classifier import ClassifierReward
from esscher.server.loading_models import Sources, load_models
from models import alice, alice_folder

COMPLETIONS = (" said the Queen", ", and so", " thought Alice, who was tired", "!")


@pytest.fixture(scope="module")
def samples():
    return alice().tokenize(
        ["“Off with her head”", "It was very odd"], COMPLETIONS, [0, 3, 4], add_special_tokens=False,
        parse_special_tokens=False, terminated=[True, False, True, False],
    )  # fmt: skip


# Functions.


def test_a_function_gets_a_text_for_every_completion(samples):
    seen = {}

    def reward(prompts, completions):
        seen.update(prompts=prompts, completions=completions)
        return [len(text) for text in completions]

    rewards = FunctionReward("length", reward, alice())(samples)
    assert seen["prompts"] == ["“Off with her head”"] * 3 + ["It was very odd"]
    assert seen["completions"] == list(COMPLETIONS)
    np.testing.assert_array_equal(rewards, [len(text) for text in COMPLETIONS])


def test_a_function_of_a_trainer_gets_token_ids_too(samples):
    rewards = FunctionReward("tokens", lambda completion_ids, **_: [len(row) for row in completion_ids], alice())
    np.testing.assert_array_equal(rewards(samples), samples.completions.lengths)


def test_none_is_no_reward(samples):
    reward = FunctionReward("sometimes", lambda prompts, completions: [1.0, None, 2.0, None], alice())  # noqa: ARG005
    with pytest.raises(ValueError, match="sometimes gives None for completion 1"):
        reward(samples)


def test_a_function_is_found_by_name_in_the_working_folder(samples, tmp_path, monkeypatch):
    (tmp_path / "our_rewards.py").write_text(
        "def exclaims(prompts, completions): return ['!' in c for c in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    reward = FunctionReward("exclaims", find_function("our_rewards:exclaims"), alice())
    np.testing.assert_array_equal(reward(samples), [0, 0, 0, 1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("exclaims", "name a function as module:function"),
        ("os:system;x", "name a function as module:function"),
        ("no_such_module:f", "there is no module no_such_module, here or installed"),
        ("os.no_such:f", r"there is no module os\.no_such"),
        ("os:no_such_function", "os has no no_such_function"),
        ("os:sep", "that is str, not a function"),
        ("asyncio:sleep", "that is a coroutine, and only ordinary functions are called"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        find_function(name)


def test_a_name_that_leads_nowhere_is_refused_before_models_are_looked_for():
    with pytest.raises(ValueError, match="os has no no_such_function"):
        load_models(Sources("no such model", reward="os:no_such_function"), notify=print)


def test_a_module_that_lacks_another_says_so(tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        find_function("needy:f")


# Classification models.


def classifier(folder, labels):
    """A small random classifier that reads alice's tokens."""
    config = transformers.LlamaConfig(
        vocab_size=1024, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, num_labels=labels, pad_token_id=0, initializer_range=0.6,
    )  # fmt: skip
    torch.manual_seed(labels)
    model = transformers.LlamaForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(alice_folder()).save_pretrained(folder)
    return model


def outputs(model, samples):
    prompts, completions = alice().decode(samples.prompts), alice().decode(samples.completions)
    texts = [prompts[p] + text for p, text in zip(samples.groups.of, completions, strict=True)]
    with torch.inference_mode():
        rows = [model(input_ids=torch.from_numpy(alice().encode([text])[0].astype(int))[None]).logits for text in texts]
    return torch.cat(rows).double()


def test_a_model_with_one_output_gives_its_score(samples, tmp_path):
    model = classifier(tmp_path, 1)
    rewards = ClassifierReward(tmp_path, alice(), device="cpu")(samples)
    np.testing.assert_allclose(rewards, outputs(model, samples)[:, 0], rtol=0, atol=1e-5)


def test_a_model_with_labels_gives_the_log_probability_of_one(samples, tmp_path):
    model = classifier(tmp_path, 3)
    rewards = ClassifierReward(tmp_path, alice(), label="LABEL_2", device="cpu")(samples)
    expected = torch.log_softmax(outputs(model, samples), 1)[:, 2]
    np.testing.assert_allclose(rewards, expected, rtol=0, atol=1e-5)


def test_texts_that_end_with_the_padding_of_a_tokenizer_are_read_to_their_end(tmp_path):
    """Models find a text's end as the last token that is not padding, and id 0 is a word to many."""
    model = classifier(tmp_path, 1)
    reward = ClassifierReward(tmp_path, alice(), device="cpu")
    rows = [[5, 6, 0], [7, 0, 0, 0], [8]]
    with torch.inference_mode():
        model.config.pad_token_id = 1000
        expected = [model(input_ids=torch.tensor([row])).logits[0, 0].item() for row in rows]
        found = reward._rewards(rows)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_labels_that_are_missing_or_too_many_are_refused(tmp_path):
    classifier(tmp_path / "three", 3)
    for label in (None, "joy"):
        with pytest.raises(ValueError, match=r"three has 3 labels, LABEL_0, LABEL_1, LABEL_2: name the one"):
            ClassifierReward(tmp_path / "three", alice(), label=label, device="cpu")
    classifier(tmp_path / "one", 1)
    with pytest.raises(ValueError, match="one has one output, its score: name no label"):
        ClassifierReward(tmp_path / "one", alice(), label="joy", device="cpu")


def test_texts_longer_than_the_model_reads_are_named(tmp_path):
    classifier(tmp_path, 1)
    long = Samples(Ragged.from_rows([[5]]), Ragged.from_rows([[6], [40] * 80]), [0, 2])
    with pytest.raises(ValueError, match=r"completion 1 has \d+ tokens with its prompt: \S+ reads 64"):
        ClassifierReward(tmp_path, alice(), device="cpu")(long)


def test_a_model_that_classifies_nothing_is_refused(tmp_path):
    transformers.CLIPTextConfig().save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(alice_folder()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not classify sequences"):
        ClassifierReward(tmp_path, alice(), device="cpu")
