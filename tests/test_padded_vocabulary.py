"""Two models of one vocabulary, padded to different sizes: distributions over the token ids that both know."""

from __future__ import annotations

import copy
import json
import logging
import shutil

import numpy as np
import pytest
import torch

from esscher import Client, Ragged, Samples
from esscher.lm.pair import side_by_side
from esscher.lm.tabular import TabularLM
from esscher.lm.transformers import TransformersLM
from esscher.server.models import Models
from esscher.server.serving import running_in_thread
from models import alice, alice_folder
from test_scoring import arguments, naive, perturbed
from test_transformers import random_model, real_completions

SIZE, PADDED = 1024, 1088


def padded(lm, size=PADDED, seed=0):
    """A copy with rows for ids that no token has, which get some probability."""
    torch.manual_seed(seed)
    model = copy.deepcopy(lm.module)
    model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        rows = model.get_input_embeddings().weight[SIZE:]
        rows.copy_(0.3 * model.get_input_embeddings().weight[: len(rows)] + 0.01 * torch.randn_like(rows))
    return TransformersLM(model, "padded")


@pytest.fixture(scope="module")
def samples():
    return Samples(*real_completions(alice(), prompts=4, n=12, longest_prompt=9, longest=14))


@pytest.fixture(scope="module")
def policy():
    return perturbed(alice())


def test_padding_alone_changes_nothing(samples):
    """A model and its padded copy: not the slightly negative sum that unnormalised parts would give."""
    expected = alice().token_scores(*arguments(samples), alice())
    for first, second in ((alice(), padded(alice())), (padded(alice()), alice())):
        found = first.token_scores(*arguments(samples), second)
        for name in ("logprobs", "entropy", "prior_logprobs", "kl"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=0, atol=2e-5, err_msg=name)
    alone = padded(alice()).token_scores(*arguments(samples))
    assert np.abs(alone.logprobs - expected.logprobs).max() > 1e-3, "the padding has no probability to speak of"


@pytest.mark.parametrize("larger", ["policy", "prior", "both"])
def test_numbers_are_those_of_enumeration_over_the_shared_ids(samples, policy, larger):
    pair = {
        "policy": (padded(policy), alice()),
        "prior": (policy, padded(alice())),
        "both": (padded(policy, 1064), padded(alice())),
    }[larger]
    found = pair[0].token_scores(*arguments(samples), pair[1])
    size = min(lm.vocabulary_size for lm in pair)
    ours, theirs = (naive(lm.module, samples, "right", 2)[1][:, :size] for lm in pair)
    ours, theirs = (one - np.logaddexp.reduce(one, axis=1, keepdims=True) for one in (ours, theirs))
    tokens = samples.completions.values.astype(int)
    each = np.arange(len(tokens))
    np.testing.assert_allclose(found.logprobs, ours[each, tokens], rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.prior_logprobs, theirs[each, tokens], rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.entropy, -(np.exp(ours) * ours).sum(1), rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.kl, (np.exp(ours) * (ours - theirs)).sum(1), rtol=0, atol=1e-4)
    assert (found.kl >= 0).all()


def test_heads_of_different_sizes_over_the_same_embeddings_are_compared_over_what_both_make():
    policy, prior = random_model("head with a bias"), random_model("head with a bias", 1)
    prior.lm_head = torch.nn.Linear(32, 44)
    samples = Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[2, 3]]), [0, 1])
    found = TransformersLM(policy, "policy").token_scores(*arguments(samples), TransformersLM(prior, "prior"))
    _, distributions = naive(prior, samples, "right")
    expected = distributions[:, :40] - np.logaddexp.reduce(distributions[:, :40], axis=1, keepdims=True)
    np.testing.assert_allclose(found.prior_logprobs, expected[[0, 1], [2, 3]], rtol=0, atol=1e-5)


def test_ids_beyond_the_shared_ones_are_refused_where_they_are():
    prompts, completions = Ragged.from_rows([[1], [2, 3]]), Ragged.from_rows([[5], [6, 7, 1030]])
    with pytest.raises(ValueError, match=r"completions\[1\]\[2\] is 1030: .* alice-\S+ knows are 0 to 1023"):
        padded(alice()).token_scores(prompts, completions, [0, 1, 2], alice())
    with pytest.raises(ValueError, match=r"prompts\[1\]\[0\] is 1087: .* alice-\S+ knows are 0 to 1023"):
        alice().token_scores(Ragged.from_rows([[1], [1087]]), Ragged.from_rows([[5], [6]]), [0, 1, 2], padded(alice()))
    assert len(padded(alice()).logprobs(prompts, completions, [0, 1, 2])) == 2


def test_a_file_is_scored_over_the_shared_ids_and_one_beyond_is_refused_with_its_row(tmp_path, esscher):
    padded(alice()).module.save_pretrained(tmp_path / "padded")
    rows = [
        {"prompt_token_ids": [5, 6], "completion_token_ids": [7, 8, 9]},
        {"prompt_token_ids": [5], "completion_token_ids": [9, 3]},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ("score", tmp_path / "a.jsonl", "--prior", alice_folder(), "--policy", tmp_path / "padded")
    code, _, _ = esscher(*command, "-o", tmp_path / "scored.jsonl")
    assert code == 0
    scored = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    for row in scored:
        np.testing.assert_allclose(row["token_kl"], 0, atol=1e-5)
        np.testing.assert_allclose(row["policy_logprobs"], row["prior_logprobs"], rtol=0, atol=2e-5)
    rows[1]["completion_token_ids"] = [9, 1050]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, said = esscher(*command, "-o", tmp_path / "again.jsonl")
    assert code == 2
    assert "1050" in said
    assert "row 1" in said
    assert not (tmp_path / "again.jsonl").exists()


def test_a_server_answers_alike_whatever_columns_are_asked_for(samples, caplog):
    """Padding has some probability, so alone and beside the other a model would differ."""
    with caplog.at_level(logging.WARNING):
        models = Models(alice(), padded(alice()))
    assert "padded has 1088 tokens and alice-0.1.0 1024: both are read as distributions over the 1024" in caplog.text
    with running_in_thread(models) as address, Client(address) as client:
        assert client.info().vocabulary_size == SIZE
        alone = client.score(samples, ("policy_logprobs",)).policy_logprobs.values
        both = client.score(samples, ("policy_logprobs", "token_kl"))
    np.testing.assert_allclose(alone, both.policy_logprobs.values, rtol=0, atol=1e-5)
    np.testing.assert_allclose(both.token_kl.values, 0, atol=1e-5)


def test_a_narrowed_model_samples_no_padding():
    narrow, _ = padded(alice()).beside(alice())
    drawn = narrow.sample(Ragged.from_rows([[5]]), 200, 8, np.random.default_rng(0))
    assert drawn.completions.values.max() < SIZE
    rescored = narrow.logprobs(*arguments(drawn))
    np.testing.assert_allclose(drawn.policy_logprobs.values, rescored.values, rtol=0, atol=1e-4)


# What is no padding.


def with_tokenizer(folder, size, change):
    """A padded alice with a tokenizer of its own."""
    padded(alice(), size).module.save_pretrained(folder)
    shutil.copy(alice_folder() / "tokenizer_config.json", folder)
    tokenizer = json.loads((alice_folder() / "tokenizer.json").read_text())
    change(tokenizer)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return TransformersLM.load(folder, device="cpu")


def add_token(tokenizer):
    token = {"id": SIZE, "content": "<tool>", "special": True}
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | token)


def swap_two(tokenizer):
    words = tokenizer["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]


@pytest.mark.parametrize("change", [lambda _: None, add_token], ids=["none", "a token that the prior lacks"])
def test_one_tokenizer_up_to_the_shared_ids_is_one_vocabulary(tmp_path, change):
    policy = with_tokenizer(tmp_path / "policy", 2048, change)
    assert [one.vocabulary_size for one in side_by_side(policy, alice())] == [SIZE, SIZE]


def test_another_tokenizer_is_another_vocabulary_whatever_the_sizes(tmp_path):
    policy = with_tokenizer(tmp_path / "policy", 1028, swap_two)
    with pytest.raises(
        ValueError, match=r"policy has 1028 tokens and \S+ 1024: policy and prior must share .* differ in"
    ):
        policy.token_scores(Ragged.from_rows([[1]]), Ragged.from_rows([[1]]), [0, 1], alice())


def test_sizes_that_differ_by_more_than_padding_are_other_vocabularies_where_no_tokenizer_tells():
    policy = padded(alice(), 1200)
    with pytest.raises(ValueError, match=r"padded has 1200 tokens and \S+ 1024: policy and prior must share"):
        side_by_side(policy, alice())


def test_tables_have_no_padding():
    rng = np.random.default_rng(0)
    small, large = (TabularLM.random(rng, prompts=1, vocabulary=size, depth=2) for size in (3, 4))
    with pytest.raises(ValueError, match="has 4 tokens and tabular 3: policy and prior must share"):
        side_by_side(large, small)
