"""Models whose positions mean something else beyond some length: what is read beside what, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from esscher import Ragged, Samples
from esscher.lm.transformers import TransformersLM
from esscher.lm.transformers.classifier import ClassifierReward
from test_transformers import each_on_its_own, worst

LIMIT = 16
SIZES = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.6, "pad_token_id": None,
    "eos_token_id": 3, "bos_token_id": 1,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [1.0, 3.0, 5.0, 9.0],
    "original_max_position_embeddings": LIMIT,
}  # fmt: skip
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
# What the types of the library need besides.
NEEDED = {
    "longrope": LONGROPE,
    "yarn": {"original_max_position_embeddings": LIMIT},
    "llama3": {"original_max_position_embeddings": LIMIT, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
MODELS = {
    "phi3": (transformers.Phi3Config, LONGROPE),
    "llama": (transformers.LlamaConfig, LONGROPE | {"factor": 4.0}),
    "phimoe": (transformers.PhimoeConfig, LONGROPE | {"short_mscale": 1.0, "long_mscale": 1.5}),
    "gemma3": (transformers.Gemma3TextConfig, {"full_attention": LONGROPE, "sliding_attention": PLAIN}),
}
OTHERS = {
    "phi3": {"original_max_position_embeddings": LIMIT},
    "phimoe": {"num_local_experts": 2, "original_max_position_embeddings": LIMIT},
    "gemma3": {"head_dim": 8, "layer_types": ["full_attention", "sliding_attention"], "sliding_window": 64},
}


def model_of(name, seed=0):
    config, rope = MODELS[name]
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(
        config(**SIZES | OTHERS.get(name, {}), rope_parameters=dict(rope))
    ).eval()


def text(length, seed=0):
    return np.random.default_rng([length, seed]).integers(4, 40, length)


def assert_sampled_as_scored(lm, model, prompts, n, new):
    drawn = lm.sample(prompts, n, new, np.random.default_rng(0))
    expected = each_on_its_own(model, drawn.prompts, drawn.completions, drawn.groups)
    assert worst(drawn.policy_logprobs, expected) < 1e-4
    assert worst(lm.logprobs(drawn.prompts, drawn.completions, drawn.groups), expected) < 1e-4


# Sampling.


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("lengths", [(1, 4, LIMIT - 6), (LIMIT + 1, 40, 20), (2, LIMIT + 1, 5, 50, LIMIT - 6)])
def test_what_is_drawn_has_the_log_probs_that_it_is_scored_with(name, lengths):
    """Texts that end before the limit, that begin beyond it, and both in one call."""
    model = model_of(name)
    prompts = Ragged.from_rows([text(length) for length in lengths])
    assert_sampled_as_scored(TransformersLM(model, name), model_of(name), prompts, n=4, new=6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("length", "new", "remedy"),
    [
        (12, 5, f"ask for at most 4 new tokens, or give a prompt of more than {LIMIT}"),
        (1, 40, "ask for at most 15 new tokens"),
        (LIMIT, 1, f"cut the prompt, or give a prompt of more than {LIMIT}"),
    ],
)
def test_a_text_that_may_cross_the_limit_is_not_begun(name, length, new, remedy):
    lm = TransformersLM(model_of(name), name)
    prompts = Ragged.from_rows([text(3), text(length)])
    i = 1 if length > 3 else 0
    message = (
        rf"prompts\[{i}\] has {(3, length)[i]} tokens and max_new_tokens is {new}: beyond 16 together .* to {name}"
    )
    with pytest.raises(ValueError, match=message) as raised:
        lm.sample(prompts, 2, new, np.random.default_rng(0))
    if i == 1:
        assert remedy in str(raised.value)


def test_dynamic_frequencies_are_not_left_for_others():
    """They change with every token beyond the model's own length, where nothing is read."""
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES | {"max_position_embeddings": LIMIT}, rope_parameters=rope)
    lm = TransformersLM(transformers.AutoModelForCausalLM.from_config(config), "dynamic")
    with pytest.raises(ValueError, match="dynamic takes at most 16 together"):
        lm.sample(Ragged.from_rows([text(12)]), 1, 5, np.random.default_rng(0))
    prompts = Ragged.from_rows([text(1), text(LIMIT - 6)])
    assert_sampled_as_scored(lm, lm.module, prompts, n=4, new=6)


@pytest.mark.parametrize("rope_type", ["default", *ROPE_INIT_FUNCTIONS])
def test_of_every_type_what_is_drawn_is_scored_so_or_refused(rope_type):
    """Whatever types a version of transformers has: none may be drawn from in silence otherwise."""
    rope = PLAIN | {"factor": 4.0} | NEEDED.get(rope_type, {}) | {"rope_type": rope_type}
    config = transformers.LlamaConfig(**SIZES, rope_parameters=rope)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    lm = TransformersLM(model, rope_type)
    prompts = Ragged.from_rows([text(2), text(LIMIT + 1), text(50), text(9)])
    assert_sampled_as_scored(lm, model, prompts, n=3, new=6)
    crossing = Ragged.from_rows([text(LIMIT - 2)])
    if lm._network.longest_alike == LIMIT:
        with pytest.raises(ValueError, match="beyond 16 together"):
            lm.sample(crossing, 1, 6, np.random.default_rng(0))
    else:
        assert_sampled_as_scored(lm, model, crossing, n=8, new=20)


# Scores, gradients and rewards.


@pytest.mark.parametrize("name", MODELS)
def test_texts_around_the_limit_are_scored_as_each_by_itself(name):
    prompts = Ragged.from_rows([text(5), text(LIMIT), text(3)])
    rows = [text(length, 1) for length in (*range(LIMIT - 8, LIMIT - 1), 40, 1, 2, 1, 30, 4)]
    completions, groups = Ragged.from_rows(rows), [0, 8, 10, 13]
    expected = each_on_its_own(model_of(name), prompts, completions, groups)
    lm = TransformersLM(model_of(name), name)
    assert worst(lm.logprobs(prompts, completions, groups), expected) < 1e-4
    scores = lm.token_scores(prompts, completions, groups, TransformersLM(model_of(name, 1), "other"))
    assert worst(Ragged(scores.logprobs, completions.offsets), expected) < 1e-4


@pytest.mark.parametrize("name", ["phi3", "phimoe"])
def test_the_gradient_of_texts_around_the_limit_is_the_sum_of_their_own(name):
    rows = [text(length, 1) for length in (3, 40, 12, 13, 1, 11)]
    samples = Samples(Ragged.from_rows([text(5)]), Ragged.from_rows(rows), [0, len(rows)])
    coefficients = np.array([0.3, -1.0, 0.5, 0.7, 0.2, -0.4])
    lm, model = TransformersLM(model_of(name), name), model_of(name)
    lm.add_gradient(samples, coefficients)
    for coefficient, row in zip(coefficients, rows, strict=True):
        ids = torch.tensor(np.concatenate([samples.prompts[0], row]))
        logprobs = torch.log_softmax(model(input_ids=ids[None]).logits[0, 4:-1], dim=-1)
        torch.autograd.backward(coefficient * logprobs.gather(1, ids[5:, None]).sum())
    for (what, found), expected in zip(lm.module.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-3, msg=what)


@torch.inference_mode()
def test_a_classifier_reads_no_text_beside_one_that_changes_its_positions():
    reward = object.__new__(ClassifierReward)
    config, rope = MODELS["phi3"]
    torch.manual_seed(0)
    model = transformers.Phi3ForSequenceClassification(
        config(**SIZES | OTHERS["phi3"], num_labels=1, rope_parameters=dict(rope))
    ).eval()
    reward._model, reward._config, reward._device, reward._label = model, model.config, model.device, None
    lengths = np.array([5, 30, LIMIT, LIMIT + 1, 9, 60])
    rows = [text(length).tolist() for length in lengths]
    alone = [float(reward._rewards([row])[0]) for row in rows]
    found = np.empty(len(rows))
    for batch in reward._batches(lengths):
        found[batch] = reward._rewards([rows[i] for i in batch])
    np.testing.assert_allclose(found, alone, rtol=0, atol=1e-4)
