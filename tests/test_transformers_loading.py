"""Which models are read, which are refused, and what is said of those."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from esscher import Ragged
from esscher.lm.transformers import TransformersLM
from models import alice, alice_folder
from test_transformers import SMALL, each_on_its_own, own_logprobs, worst

HYBRID = {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8}
READ = {
    "its own base model": transformers.Llama4TextConfig(
        **SMALL, num_key_value_heads=2, head_dim=8, intermediate_size_mlp=48, num_local_experts=4,
        attention_chunk_size=8,
    ),
    "hybrid, multiplied logits": transformers.FalconH1Config(
        **SMALL, **HYBRID, num_key_value_heads=2, lm_head_multiplier=0.25
    ),
    "recurrent, capped logits": transformers.RecurrentGemmaConfig(
        **SMALL, num_key_value_heads=2, lru_width=32, attention_window_size=16, logits_soft_cap=1.5,
        block_types=["recurrent", "attention"],
    ),
    "scaling that multiplies": transformers.HyperCLOVAXConfig(**SMALL, num_key_value_heads=2, logits_scaling=4.0),
    "text part of pictures": transformers.MllamaConfig(
        text_config=SMALL | {"num_key_value_heads": 2, "cross_attention_layers": [], "pad_token_id": 0}
    ),
}  # fmt: skip
REFUSED = {
    "a layer before its output embeddings": transformers.ModernBertDecoderConfig(**SMALL, pad_token_id=0),
    "embeddings of another width": transformers.RemBertConfig(**SMALL, is_decoder=True, input_embedding_size=16),
}
PROMPTS = Ragged.from_rows([[5, 6], [7, 8, 9, 10, 11]])
COMPLETIONS = Ragged.from_rows([[12, 13, 14, 15, 16, 17], [18], [19, 20, 21]])
GROUPS = np.array([0, 2, 3])


def built(config, seed=0):
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("kind", READ)
def test_models_that_keep_head_and_body_elsewhere_are_scored_as_they_score(kind):
    model = built(READ[kind])
    lm = TransformersLM(model, kind)
    expected = each_on_its_own(model, PROMPTS, COMPLETIONS, GROUPS)
    assert worst(lm.logprobs(PROMPTS, COMPLETIONS, GROUPS), expected) < 1e-4


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_whose_halves_do_not_fit_is_refused_with_the_way_round(kind):
    with pytest.raises(ValueError, match=r"log-probs .* to `esscher evaluate` as the columns policy_logprobs"):
        TransformersLM(built(REFUSED[kind]), kind)


# Positions past a model's length.


def test_texts_past_the_length_of_dynamic_ntk_are_refused_and_the_way_round_is_said(caplog):
    """There the library rotates by the length of the text: a longer one gives its first tokens other log-probs."""
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    model = built(transformers.LlamaConfig(**SMALL | {"max_position_embeddings": 16}, rope_parameters=rope))
    lm = TransformersLM(model, "dynamic")
    assert "dynamic is read up to 16 tokens: beyond" in caplog.text
    assert "yarn or linear" in caplog.text
    text, longer = Ragged.from_rows([[5] * 15]), Ragged.from_rows([[5] * 16])
    expected = [own_logprobs(model, np.array([1]), text[0])]
    assert worst(lm.logprobs(Ragged.from_rows([[1]]), text, [0, 1]), expected) < 1e-4
    with pytest.raises(ValueError, match=r"completions\[0\] has 16 tokens after .*: dynamic takes at most 16 together"):
        lm.logprobs(Ragged.from_rows([[1]]), longer, [0, 1])


# Weights that are no numbers.


def copied(folder, *, config=None, generation=None, **weights):
    """A copy of alice with a changed configuration, and tensors that functions have changed."""
    shutil.copytree(alice_folder(), folder, copy_function=shutil.copyfile)
    for name, changes in (("config.json", config), ("generation_config.json", generation)):
        if changes is not None:
            (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))
    if weights:
        tensors = load_file(folder / "model.safetensors")
        for name, change in weights.items():
            change(tensors[name.replace("__", ".")])
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def set_to(value, *place):
    return lambda tensor: tensor.__setitem__(place, value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(2, 7), (1000, 0)], ids=["a token that is tried", "one that is not"])
def test_a_weight_that_is_no_number_is_named_with_its_place(tmp_path, value, place):
    folder = copied(tmp_path / "broken", model__embed_tokens__weight=set_to(value, *place))
    where = rf"model.embed_tokens.weight\[{place[0]}, {place[1]}\] is {value}"
    with pytest.raises(ValueError, match=rf"broken cannot be used: its weight {where}; did"):
        TransformersLM.load(folder, device="cpu")


def test_a_module_whose_logits_are_no_numbers_is_refused_with_its_weight():
    model = copy.deepcopy(alice().module)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = np.nan
    with pytest.raises(ValueError, match=r"broken cannot be used: its weight \S+1.mlp.up_proj.weight\[3, 4\] is nan"):
        TransformersLM(model, "broken")


def test_finite_weights_that_give_nan_are_told_apart(tmp_path):
    folder = copied(tmp_path / "odd", config={"rms_norm_eps": -1e9})
    with pytest.raises(
        ValueError, match=r"odd gives NaN, although its weights are finite: .* its config.json is another"
    ):
        TransformersLM.load(folder, device="cpu")


def test_weights_too_large_for_16_bits_are_named(tmp_path):
    folder = copied(tmp_path / "large", model__norm__weight=set_to(1e5, 0))
    with pytest.raises(ValueError, match=r"weight model.norm.weight\[0\] is inf; .* its dtype not hold its weights"):
        TransformersLM.load(folder, device="cpu", dtype="float16")


# Configurations that cannot be.


@pytest.mark.parametrize("limit", [-1, 0, 10**30])
def test_an_impossible_length_is_refused(tmp_path, limit):
    folder = copied(tmp_path / "odd", config={"max_position_embeddings": limit})
    with pytest.raises(ValueError, match=rf"odd.* max_position_embeddings.*{limit}"):
        TransformersLM.load(folder, device="cpu")


@pytest.mark.parametrize("ids", [1024, [3, 5000], -1, [-7]])
def test_end_tokens_that_no_token_has_are_refused(tmp_path, ids):
    wrong = ids if isinstance(ids, int) else ids[-1]
    folder = copied(tmp_path / "odd", config={"eos_token_id": ids}, generation={"eos_token_id": ids})
    with pytest.raises(ValueError, match=rf"odd has the end token {wrong} in .*, but its tokens are 0 to 1023"):
        TransformersLM.load(folder, device="cpu")


@pytest.mark.parametrize("size", [1000, 1100, 0, -5])
def test_a_vocabulary_of_another_size_than_the_embeddings_has_is_refused(tmp_path, size):
    folder = copied(tmp_path / "odd", config={"vocab_size": size})
    with pytest.raises(ValueError, match=rf"odd.*(vocab_size {size}|embed_tokens.weight is .1024.*{size}.*vocab_size)"):
        TransformersLM.load(folder, device="cpu")


def test_of_a_model_that_reads_pictures_the_part_for_text_is_named(tmp_path):
    transformers.LlavaConfig(text_config=transformers.LlamaConfig(**SMALL)).save_pretrained(tmp_path / "pictures")
    with pytest.raises(
        ValueError, match=r"is a llava model, which is not .*: its part for text, a llama model, is one"
    ):
        TransformersLM.load(tmp_path / "pictures", device="cpu")


# Caches that are not rearranged, and layers that take what is left of a text for part of it.

UNSAMPLED = {
    "a cache that keeps the order of its prompts": transformers.MiniMaxConfig(
        **SMALL, num_key_value_heads=2, head_dim=8, num_local_experts=4, block_size=8,
        layer_types=["full_attention", "linear_attention"],
    ),
    "layers that compress padding": transformers.DeepseekV4Config(
        **SMALL | {"max_position_embeddings": 512, "intermediate_size": 16, "initializer_range": 0.3},
        num_key_value_heads=1, head_dim=16, q_lora_rank=16, o_lora_rank=8, n_routed_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=16, index_n_heads=4, index_head_dim=8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNSAMPLED)
def test_models_that_would_sample_what_they_do_not_score_do_not_sample(kind):
    model = built(UNSAMPLED[kind])
    lm = TransformersLM(model, kind)
    expected = each_on_its_own(model, PROMPTS, COMPLETIONS, GROUPS)
    assert worst(lm.logprobs(PROMPTS, COMPLETIONS, GROUPS), expected) < 1e-4
    with pytest.raises(ValueError, match="can score, not sample: a"):
        lm.sample(PROMPTS, 2, 4, np.random.default_rng(0))
