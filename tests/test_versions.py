"""What versions of torch and transformers name differently, and what is said where packs are off that could be on."""

from __future__ import annotations

import copy
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from esscher import Ragged
from esscher.lm.packing import divide, pack
from esscher.lm.transformers import TransformersLM, attention
from models import alice
from test_handed_over import REQUEST
from test_scoring import attention_one_by_one, random_samples
from test_transformers import each_on_its_own, random_model, worst

SAID = "reads each prompt once for each of its completions, where once for all would do: "


# Attention for sequences of any length, as torch has it on CUDA.


def of_torch_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)
):
    """What 2.11 promises, by the textbook."""
    assert return_aux.lse
    is_causal = {(-1, 0): True, (-1, -1): False}[window_size]
    out, lse = attention_one_by_one(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, is_causal=is_causal)
    return out, lse.transpose(0, 1)


def of_torch_2_12(*arguments, enable_gqa=False, **options):
    assert enable_gqa == (arguments[0].shape[1] != arguments[1].shape[1])
    return of_torch_2_11(*arguments, **options)


@pytest.mark.parametrize("heads", [(4, 2), (4, 4)])
@pytest.mark.parametrize("kernel", [of_torch_2_11, of_torch_2_12])
def test_packs_are_read_by_the_kernel_of_either_version(kernel, heads, monkeypatch):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    for _ in range(5):
        samples = random_samples(rng, alice(), empty_prompts=False)
        for trees in divide(samples, 60, np.arange(len(samples.prompts))):
            laid = pack(samples, trees)
            states = [torch.randn(len(laid.token_ids), n, 8) for n in (heads[0], heads[1], heads[1])]
            found = attention._cuda_plan(laid, torch.device("cpu")).attend(*states, None)
            torch.testing.assert_close(found, attention._cpu_plan(laid).attend(*states, None), rtol=1e-5, atol=1e-5)


# The cache.


def with_its_cache_called(name):
    """A model whose cache has the name it had before transformers 5.24, and no other."""
    model = random_model("divided logits")
    expected = copy.deepcopy(model)
    whole = model.model.forward

    def run(input_ids, position_ids, attention_mask, use_cache, held, others):
        assert others.pop("cache", None) is None
        out = whole(
            input_ids,
            position_ids=position_ids,
            attention_mask=attention_mask,
            use_cache=use_cache,
            cache=held,
            **others,
        )
        fields = {"last_hidden_state": out.last_hidden_state, "hidden_states": None, "attentions": None, "cache": None}
        return SimpleNamespace(**fields, **{name: out.cache})

    def with_keys(input_ids, position_ids=None, attention_mask=None, use_cache=None, past_key_values=None, **others):
        return run(input_ids, position_ids, attention_mask, use_cache, past_key_values, others)

    def with_parameters(input_ids, position_ids=None, attention_mask=None, use_cache=None, cache_params=None, **others):
        return run(input_ids, position_ids, attention_mask, use_cache, cache_params, others)

    model.model.forward = {"past_key_values": with_keys, "cache_params": with_parameters}[name]
    return model, expected


@pytest.mark.parametrize("name", ["past_key_values", "cache_params"])
def test_samples_are_drawn_whatever_the_cache_is_called(name):
    model, expected = with_its_cache_called(name)
    lm = TransformersLM(model, "older")
    drawn = lm.sample(Ragged.from_rows([[5, 6, 7], [8]]), 5, 8, np.random.default_rng(0))
    logprobs = each_on_its_own(expected, drawn.prompts, drawn.completions, drawn.groups)
    assert worst(drawn.policy_logprobs, logprobs) < 1e-4
    again = TransformersLM(expected, "newer").sample(drawn.prompts, 5, 8, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn.completions.values, again.completions.values)


# Packs that are off.


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(
    "error", [ImportError("cannot import name 'varlen_attn'"), TypeError("unexpected keyword"), RuntimeError("sm_80")]
)
def test_a_torch_that_cannot_read_packs_is_told_of(error, monkeypatch, caplog):
    def fail(*_arguments, **_options):
        raise error

    monkeypatch.setattr(attention, "_flash", fail)
    model = random_model("divided logits")
    lm = TransformersLM(model, "slow")
    assert lm._network.longest_in_pack == 0
    (said,) = warnings_of(caplog)
    assert said == f"slow {SAID}torch {torch.__version__} cannot attend so in float32 ({error})"
    assert worst(lm.logprobs(*REQUEST), each_on_its_own(model, *REQUEST)) < 1e-4


def test_attention_of_another_kind_is_told_of(caplog):
    # A copy, since a configuration is shared by those that are made of it.
    model = copy.deepcopy(random_model("divided logits"))
    model.set_attn_implementation("eager")
    TransformersLM(model, "eager")
    assert warnings_of(caplog) == [f"eager {SAID}its attention is 'eager', set it to 'sdpa'"]


@pytest.mark.parametrize("architecture", ["divided logits", "no positions, alibi", "learned positions"])
def test_nothing_is_said_where_packs_are_on_or_cannot_be(architecture, caplog):
    TransformersLM(random_model(architecture), "model")
    assert warnings_of(caplog) == []
