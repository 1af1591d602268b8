"""A module handed over and then changed by others: followed, or refused, never misread in silence."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, inject_adapter_in_model

from esscher import Ragged, Samples
from esscher.lm.transformers import TransformersLM
from test_transformers import SMALL, each_on_its_own, random_model, worst

REQUEST = (
    Ragged.from_rows([[5, 6, 7, 8], [9, 9]]),
    Ragged.from_rows([[1, 2, 4], [5], [6, 7, 8, 9], [30, 31]]),
    [0, 3, 4],
)
NEW_TOKENS = 6


def with_dropout(seed=0):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.6, eos_token_id=3,
        resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5, tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.AutoModelForCausalLM.from_config(config)


def modes(model):
    return [one.training for one in model.modules()]


def assert_followed(lm, model):
    """Scores and samples are the model's own, as it is now."""
    evaluated = copy.deepcopy(model).eval()
    assert worst(lm.logprobs(*REQUEST), each_on_its_own(evaluated, *REQUEST)) < 1e-4
    drawn = lm.sample(REQUEST[0], 4, NEW_TOKENS, np.random.default_rng(0))
    expected = each_on_its_own(evaluated, drawn.prompts, drawn.completions, drawn.groups)
    assert worst(drawn.policy_logprobs, expected) < 1e-4


# Training mode.


def test_a_module_in_training_mode_is_read_as_in_evaluation_and_left_in_training_mode():
    model = with_dropout()
    lm = TransformersLM(model, "dropping")
    expected = lm.token_scores(*REQUEST, lm)
    model.train()
    # As a trainer may have it: frozen parts stay in evaluation mode.
    model.transformer.h[0].eval()
    before = modes(model)
    scores = lm.token_scores(*REQUEST, lm)
    for found, right in zip(scores, expected, strict=True):
        np.testing.assert_array_equal(found, right)
    assert_followed(lm, model)
    assert modes(model) == before
    assert any(before)


def test_the_gradient_of_a_module_in_training_mode_is_that_of_its_log_probs():
    samples, coefficients = Samples(*REQUEST), np.array([1.0, -0.5, 0.3, 2.0])
    gradients = []
    for training in (False, True):
        model = with_dropout()
        lm = TransformersLM(model, "dropping")
        model.train(training)
        lm.add_gradient(samples, coefficients)
        assert model.training is training
        gradients.append([one.grad for one in model.parameters()])
    for ours, right in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=0)


def test_a_module_that_fails_is_left_in_training_mode():
    model = with_dropout()
    lm = TransformersLM(model, "broken")
    model.train()
    with torch.no_grad():
        model.transformer.wte.weight[9] = torch.nan
    with pytest.raises(FloatingPointError, match="broken gives NaN"):
        lm.logprobs(*REQUEST)
    assert all(modes(model))


# Parts that were replaced.


def new_head(model):
    model.lm_head = torch.nn.Linear(32, 40, bias=False)


def new_head_with_a_bias(model):
    model.set_output_embeddings(torch.nn.Linear(32, 40))


def new_head_by_name_of_its_weight(model):
    model.lm_head.weight = torch.nn.Parameter(torch.randn(40, 32))


def new_embeddings(model):
    model.set_input_embeddings(torch.nn.Embedding(40, 32))


def adapters(model):
    inject_adapter_in_model(
        LoraConfig(r=2, target_modules=["c_attn", "c_proj"], init_lora_weights=False, fan_in_fan_out=True), model
    )


def adapters_of_the_head(model):
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False), model)


def hook_on_the_head(model):
    model.lm_head.register_forward_hook(lambda _module, _arguments, logits: 0.5 * logits)


def hook_before_the_head(model):
    model.lm_head.register_forward_pre_hook(lambda _module, arguments: (2 * arguments[0],))


def forward_of_the_head(model):
    whole = model.lm_head.forward
    model.lm_head.forward = lambda hidden: whole(hidden).clamp(-1, 1)


def hook_on_a_layer(model):
    """Of a kind that packs do not give: it reads all of a text."""

    def shifted(_module, _arguments, states):
        hidden = states[0] if isinstance(states, tuple) else states
        sums = hidden.cumsum(1) * 0.3
        return (sums, *states[1:]) if isinstance(states, tuple) else sums

    model.transformer.h[1].register_forward_hook(shifted)


FOLLOWED = [
    new_head, new_head_with_a_bias, new_head_by_name_of_its_weight, new_embeddings, adapters, adapters_of_the_head,
    hook_on_the_head, hook_before_the_head, forward_of_the_head,
]  # fmt: skip


@pytest.mark.parametrize("change", FOLLOWED)
def test_what_is_changed_is_followed(change):
    model = with_dropout()
    lm = TransformersLM(model, "changed")
    before = lm.logprobs(*REQUEST)
    torch.manual_seed(7)
    change(model)
    assert_followed(lm, model)
    assert worst(lm.logprobs(*REQUEST), list(before)) > 0.01


def test_a_hook_that_reads_all_of_a_text_puts_packs_off_and_sampling_with_them():
    model = with_dropout()
    lm = TransformersLM(model, "summed")
    assert lm._network.longest_in_pack > 0
    lm.sample(REQUEST[0], 1, 1, np.random.default_rng(0))
    hook_on_a_layer(model)
    assert worst(lm.logprobs(*REQUEST), each_on_its_own(model, *REQUEST)) < 1e-4
    assert lm._network.longest_in_pack == 0
    with pytest.raises(ValueError, match="summed can score, not sample"):
        lm.sample(REQUEST[0], 1, 1, np.random.default_rng(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("architecture", ["divided logits", "head with a bias"])
def test_another_precision_is_followed(architecture, dtype):
    model = random_model(architecture)
    lm = TransformersLM(model, "cast")
    model.to(dtype)
    found, again = lm.logprobs(*REQUEST), TransformersLM(copy.deepcopy(model), "again").logprobs(*REQUEST)
    np.testing.assert_array_equal(found.values, again.values)


# What cannot be followed.


def test_embeddings_of_another_size_are_refused():
    model = with_dropout()
    lm = TransformersLM(model, "grown")
    model.resize_token_embeddings(44, mean_resizing=False)
    message = "grown was changed after it was handed over: its vocabulary_size was 40 and is 44; make a new Trans"
    for call in (
        lambda: lm.logprobs(*REQUEST),
        lambda: lm.sample(REQUEST[0], 1, 1, np.random.default_rng(0)),
        lambda: lm.add_gradient(Samples(*REQUEST), np.ones(4)),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert TransformersLM(model, "again").vocabulary_size == 44


def test_a_head_of_another_size_is_refused():
    model = with_dropout()
    lm = TransformersLM(model, "grown")
    model.lm_head = torch.nn.Linear(32, 48, bias=False)
    with pytest.raises(ValueError, match="its logits_per_token was 40 and is 48"):
        lm.logprobs(*REQUEST)


def test_a_hook_that_changes_the_logits_of_the_whole_model_is_refused():
    model = with_dropout()
    lm = TransformersLM(model, "hooked")

    def halved(_module, _arguments, out):
        out.logits = out.logits / 2
        return out

    model.register_forward_hook(halved)
    with pytest.raises(ValueError, match="hooked: a GPT2LMHeadModel makes its logits in a way that is not known here"):
        lm.logprobs(*REQUEST)


def test_a_hook_that_changes_nothing_is_let_be():
    model, seen = with_dropout(), []
    lm = TransformersLM(model, "watched")
    expected = lm.logprobs(*REQUEST)
    model.register_forward_hook(lambda *_: seen.append(1))
    np.testing.assert_array_equal(lm.logprobs(*REQUEST).values, expected.values)
    assert seen == [1]


def test_a_module_that_was_not_changed_is_not_looked_at_again():
    lm = TransformersLM(transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SMALL)), "same")
    network = lm._network
    lm.module.train()
    with torch.no_grad():
        lm.module.lm_head.weight.mul_(2)
    assert_followed(lm, lm.module)
    assert lm._network is network
