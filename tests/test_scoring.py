"""Scoring in packs: the numbers of transformers itself, whatever shares a prompt, a pack or a batch."""

from __future__ import annotations

import copy
import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import pytest
import torch
import transformers

from esscher import Ragged, Samples, estimate_kl
from esscher.lm.packing import divide, divide_unshared, pack
from esscher.lm.transformers import TransformersLM, attention, scoring
from esscher.lm.transformers.network import Network
from models import alice, alice_folder, smollm2, smollm2_folder
from test_transformers import ARCHITECTURES, TEXT, own_logprobs, paced, random_model, real_completions, worst

# Log-probs of one token in bfloat16 by two ways to batch: seen up to 0.07 (alice) and 0.5 nats (SmolLM2).
BFLOAT16 = {"alice": 0.2, "smollm2": 1.0}


def naive(model, samples, side, start=None):
    """Every completion with its prompt in one padded batch: log-probs, entropies and the whole distributions."""
    prompts = [row if len(row) else np.array([start]) for row in samples.prompts]
    rows = [np.concatenate([prompts[p], row]) for p, row in zip(samples.groups.of, samples.completions, strict=True)]
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), 7), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, place], mask[i, place] = torch.from_numpy(row.astype(np.int64)), 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits.float()
    first = [len(prompts[p]) for p in samples.groups.of]
    begin = [width - len(row) if side == "left" else 0 for row in rows]
    parts = [
        torch.log_softmax(logits[i, b + f - 1 : b + len(row) - 1], -1)
        for i, (row, b, f) in enumerate(zip(rows, begin, first, strict=True))
    ]
    distributions = torch.cat(parts).double().numpy()
    tokens = samples.completions.values.astype(np.int64)
    return distributions[np.arange(len(tokens)), tokens], distributions


def random_samples(rng, lm, *, longest_prompt=12, longest=16, empty_prompts=True):
    """Prompts with one to four completions each, a token or more long; text half of the time, any tokens else."""
    prompts = int(rng.integers(1, 5))
    sizes = rng.integers(1, 5, prompts)
    lengths = rng.integers(0 if empty_prompts else 1, longest_prompt + 1, prompts)
    completions = np.where(rng.random(sizes.sum()) < 0.2, 1, rng.integers(1, longest + 1, sizes.sum()))
    if rng.random() < 0.5:
        tokens = text_tokens(lm)
        starts = rng.integers(0, len(tokens) - 40, prompts + len(completions))
        rows = [tokens[s : s + n] for s, n in zip(starts, [*lengths, *completions], strict=True)]
    else:
        rows = [rng.integers(0, lm.vocabulary_size, n) for n in [*lengths, *completions]]
    return Samples(
        Ragged.from_rows(rows[:prompts], np.uint32),
        Ragged.from_rows(rows[prompts:], np.uint32),
        np.concatenate([[0], np.cumsum(sizes)]),
    )


@lru_cache
def text_tokens(lm):
    return lm.encode([TEXT * 3])[0]


def arguments(samples):
    return samples.prompts, samples.completions, samples.groups


def perturbed(lm, scale=0.05, seed=1):
    """A policy near its prior: every weight off by a few per cent."""
    torch.manual_seed(seed)
    model = copy.deepcopy(lm._network.model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(scale * weight.float().std() * torch.randn_like(weight))
    return TransformersLM(model, "policy")


@pytest.fixture(scope="module")
def policy():
    return perturbed(alice())


# The same numbers as transformers.


def test_a_thousand_ragged_batches_are_scored_as_transformers_scores_them():
    """Shared prompts, packs of many sizes, both sides of padding, one token, no prompt: about half a minute."""
    rng, differences = np.random.default_rng(0), []
    lms = [paced(alice()._network.model, tokens, rows) for tokens, rows in ((2048, 128), (40, 5), (100, 128))]
    assert all(lm._network.longest_in_pack >= 128 for lm in lms)
    for i in range(1000):
        samples = random_samples(rng, alice())
        expected, _ = naive(alice()._network.model, samples, ("left", "right")[i % 2], start=alice().start_token_id)
        found = lms[i % 3].logprobs(*arguments(samples)).values
        differences.append(np.abs(found - expected).max())
    assert max(differences) < 1e-4


def test_smollm2_scores_ragged_batches_as_transformers_does():
    rng = np.random.default_rng(1)
    for i in range(12):
        samples = random_samples(rng, smollm2())
        expected, _ = naive(smollm2()._network.model, samples, ("left", "right")[i % 2], start=1)
        assert np.abs(smollm2().logprobs(*arguments(samples)).values - expected).max() < 1e-4


@pytest.mark.parametrize("name", ["alice", "smollm2"])
def test_bfloat16_is_off_by_no_more_than_its_own_rounding(name):
    """Packed or padded, 16 bits are as far from float32, and from one another by no more than is stated."""
    folder, exact = {"alice": (alice_folder, alice), "smollm2": (smollm2_folder, smollm2)}[name]
    lm, rng = TransformersLM.load(folder(), device="cpu", dtype="bfloat16"), np.random.default_rng(2)
    assert lm._network.longest_in_pack >= 128
    ours, theirs = [], []
    for i in range(100 if name == "alice" else 8):
        samples = random_samples(rng, lm)
        truth = exact().logprobs(*arguments(samples)).values
        padded, _ = naive(lm._network.model, samples, ("left", "right")[i % 2], start=lm.start_token_id)
        found = lm.logprobs(*arguments(samples)).values
        assert np.abs(found - padded).max() < BFLOAT16[name]
        ours.append(found - truth)
        theirs.append(padded - truth)
    assert np.square(np.concatenate(ours)).mean() < 1.5 * np.square(np.concatenate(theirs)).mean()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_architecture_scores_a_policy_against_a_prior(architecture):
    models = [random_model(architecture, seed) for seed in (0, 1)]
    policy, prior = (TransformersLM(model, architecture) for model in models)
    prompts = Ragged.from_rows([[5, 6, 7, 8, 9, 4], [8], [9, 9, 4]])
    completions = Ragged.from_rows([[1, 2], [3], [4, 5, 6, 7, 8, 9], [1], [2, 2, 2], [30, 31, 32, 33]])
    samples = Samples(prompts, completions, [0, 3, 5, 6])
    scores = policy.token_scores(*arguments(samples), prior)
    (p, p_all), (q, q_all) = (naive(model, samples, "right") for model in models)
    np.testing.assert_allclose(scores.logprobs, p, rtol=0, atol=1e-4)
    np.testing.assert_allclose(scores.prior_logprobs, q, rtol=0, atol=1e-4)
    np.testing.assert_allclose(scores.entropy, -(np.exp(p_all) * p_all).sum(1), rtol=0, atol=2e-4)
    np.testing.assert_allclose(scores.kl, (np.exp(p_all) * (p_all - q_all)).sum(1), rtol=1e-4, atol=2e-4)


def test_a_prior_changes_nothing_about_the_policy(policy):
    samples = random_samples(np.random.default_rng(5), alice())
    alone, both = policy.token_scores(*arguments(samples)), policy.token_scores(*arguments(samples), alice())
    assert alone.prior_logprobs is None
    assert alone.kl is None
    np.testing.assert_allclose(both.logprobs, alone.logprobs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(both.prior_logprobs, alice().logprobs(*arguments(samples)).values, rtol=0, atol=1e-5)


def test_an_empty_prompt_is_the_start_token():
    completions = Ragged.from_rows([[5, 6], [7]])
    empty, start = (Ragged.from_rows([row], np.uint32) for row in ([], [alice().start_token_id]))
    expected = alice().logprobs(start, completions, [0, 2])
    np.testing.assert_array_equal(alice().logprobs(empty, completions, [0, 2]).values, expected.values)
    drawn = alice().sample(empty, 3, 5, np.random.default_rng(0))
    again = alice().sample(start, 3, 5, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn.completions.values, again.completions.values)


def test_an_empty_prompt_is_refused_by_a_model_without_a_start_token():
    config = transformers.GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=4, bos_token_id=None)
    lm = TransformersLM(transformers.AutoModelForCausalLM.from_config(config), "no start")
    with pytest.raises(ValueError, match=r"prompts\[0\] has no tokens, and no start has no start token"):
        lm.logprobs(Ragged.from_rows([[]], np.uint32), Ragged.from_rows([[1]]), [0, 1])


# What is shared, and what is not.


def test_a_prompt_is_read_once_for_its_completions(monkeypatch):
    read = []
    run = Network.run
    monkeypatch.setattr(
        Network, "run", lambda self, ids, *a, **o: (read.append(ids.numel()), run(self, ids, *a, **o))[1]
    )
    prompts, completions = Ragged.from_rows([[5] * 40]), Ragged.from_rows([[6] * 5] * 8)
    alice().logprobs(prompts, completions, [0, 8])
    assert read == [40 + 8 * 4]


def test_an_architecture_with_attention_of_its_own_is_read_padded():
    lm = TransformersLM(random_model("no positions, alibi"), "alibi")
    assert lm._network.longest_in_pack == 0


def test_texts_longer_than_a_sliding_window_are_read_padded():
    config = transformers.MistralConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=8, initializer_range=0.6,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    lm = TransformersLM(model, "sliding")
    assert lm._network.longest_in_pack == 8
    prompts, completions = Ragged.from_rows([[1, 2, 3, 4, 5]]), Ragged.from_rows([[6], [7] * 3, [8, 9] * 6])
    expected = [own_logprobs(model, prompts[0], row) for row in completions]
    assert worst(lm.logprobs(prompts, completions, [0, 3]), expected) < 1e-4


def test_a_text_that_is_read_padded_costs_no_other_its_shared_prompt(monkeypatch):
    read = []
    read_pack, read_padded = Network.read_pack, Network.read_padded
    monkeypatch.setattr(Network, "read_pack", lambda *a: (read.append(("pack", len(a[1].token_ids))), read_pack(*a))[1])
    monkeypatch.setattr(
        Network, "read_padded", lambda *a: (read.append(("padded", len(a[1].token_ids))), read_padded(*a))[1]
    )
    lm = paced(alice()._network.model, 2048, 128)
    lm._network.longest_in_pack = 20
    prompts, completions = Ragged.from_rows([[5] * 10, [6] * 10]), Ragged.from_rows([[7] * 5] * 3 + [[8] * 30])
    read.clear()
    found = lm.logprobs(prompts, completions, [0, 3, 4])
    assert read == [("pack", 10 + 3 * 4), ("padded", 10 + 29)]
    np.testing.assert_allclose(
        found.values, alice().logprobs(prompts, completions, [0, 3, 4]).values, rtol=0, atol=1e-5
    )


def test_positions_that_depend_on_the_longest_text_are_those_of_each_text():
    """Of longrope all texts in a batch would get the long factors if one does."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [1.0, 3.0, 5.0, 9.0]}
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, initializer_range=0.6,
        rope_parameters=rope | {"original_max_position_embeddings": 16, "factor": 4.0},
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    lm = TransformersLM(model, "longrope")
    assert lm._network.longest_in_pack == 16
    prompts, completions = (
        Ragged.from_rows([[1, 2, 3, 4, 5]]),
        Ragged.from_rows([[6], [7] * 3, [8, 9] * 7, [3, 4] * 12]),
    )
    expected = [own_logprobs(model, prompts[0], row) for row in completions]
    assert worst(lm.logprobs(prompts, completions, [0, 4]), expected) < 1e-4


def test_logits_are_made_of_a_few_rows_at_a_time(monkeypatch):
    made = []
    project = Network.project
    monkeypatch.setattr(Network, "project", lambda self, hidden: (made.append(len(hidden)), project(self, hidden))[1])
    lm = paced(alice()._network.model, 2048, 10)
    samples = Samples(*real_completions(alice(), prompts=3, n=9, longest_prompt=10, longest=30))
    lm.token_scores(*arguments(samples), lm)
    assert max(made) == 10
    assert sum(made) == 2 * len(samples.completions.values)


@pytest.mark.parametrize("budget", [1, 7, 30, 1000])
def test_packs_hold_every_completion_token_once(budget):
    rng = np.random.default_rng(3)
    for _ in range(50):
        samples = random_samples(rng, alice(), empty_prompts=False)
        for division, of in ((divide, samples.prompts), (divide_unshared, samples.completions)):
            packs = [pack(samples, trees) for trees in division(samples, budget, np.arange(len(of)))]
            counted = np.concatenate([laid.counted for laid in packs])
            np.testing.assert_array_equal(np.sort(counted), np.arange(len(samples.completions.values)))
            for laid in packs:
                assert laid.segments[-1] == len(laid.token_ids) == len(laid.positions)
                assert (np.diff(laid.segments) > 0).all()


def attention_one_by_one(queries, keys, values, query_offsets, key_offsets, *longest_and_scale, is_causal):
    """What torch's kernel for sequences of any length promises, by the textbook."""
    *longest, scale = longest_and_scale
    out, lse = torch.zeros_like(queries), torch.zeros(queries.shape[:2])
    places = [list(itertools.pairwise(offsets.tolist())) for offsets in (query_offsets, key_offsets)]
    assert longest == [max(stop - start for start, stop in place) for place in places]
    for (a, b), (c, d) in zip(*places, strict=True):
        repeats = queries.shape[1] // keys.shape[1]
        key, value = (one[c:d].repeat_interleave(repeats, 1) for one in (keys, values))
        logits = torch.einsum("qhd,khd->hqk", queries[a:b], key) * (scale or queries.shape[-1] ** -0.5)
        if is_causal:
            logits = logits.masked_fill(torch.ones(b - a, d - c).triu(1).bool(), -torch.inf)
        out[a:b] = torch.einsum("hqk,khd->qhd", logits.softmax(-1), value)
        lse[a:b] = logits.logsumexp(-1).T
    return out, lse


def test_both_plans_of_attention_agree_with_each_other_and_the_textbook(monkeypatch):
    """That for CUDA runs with its kernel in Python: what is checked is who sees whom."""
    monkeypatch.setattr(attention, "_varlen", attention_one_by_one)
    rng = np.random.default_rng(6)
    torch.manual_seed(0)
    for i in range(60):
        samples = random_samples(rng, alice(), empty_prompts=False)
        for trees in divide(samples, int(rng.choice([20, 60, 1000])), np.arange(len(samples.prompts))):
            laid = pack(samples, trees)
            states = [torch.randn(len(laid.token_ids), heads, 8) for heads in (4, 2, 2)]
            scaling = None if i % 2 else 0.5
            on_cpu = attention._cpu_plan(laid).attend(*states, scaling)
            on_cuda = attention._cuda_plan(laid, torch.device("cpu")).attend(*states, scaling)
            torch.testing.assert_close(on_cpu, on_cuda, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(on_cpu, seen_by_each(laid, states, scaling), rtol=1e-5, atol=1e-5)


def seen_by_each(laid, states, scaling):
    """Attention with one mask of who sees whom."""
    n = len(laid.token_ids)
    segment = np.repeat(np.arange(len(laid.segments) - 1), np.diff(laid.segments))
    sees = (segment[:, None] == segment) & (np.arange(n)[:, None] >= np.arange(n))
    for start, stop, trunk_start, trunk_stop in laid.crossings:
        sees[start:stop, trunk_start:trunk_stop] = True
    query, key, value = (one.transpose(0, 1)[None] for one in states)
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=torch.from_numpy(sees), scale=scaling, enable_gqa=True
    )
    return out[0].transpose(0, 1)


# The vocabulary.


def test_the_torch_reduction_is_that_of_the_kernel():
    """What runs on a GPU, compiled there."""
    torch.manual_seed(0)
    logits, prior = 3 * torch.randn(2, 50, 300)
    logits[0, 5] = logits[1, 6] = prior[1, 6] = -torch.inf
    token_ids = torch.randint(0, 300, (50,))
    for given in ((logits,), (logits, prior)):
        for ours, theirs in zip(
            scoring._reduce_on_cpu(token_ids, *given), scoring._reduce(token_ids, *given), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_policy_that_gives_what_its_prior_forbids_is_infinitely_far():
    logits, prior = torch.zeros(1, 4), torch.tensor([[0.0, 0.0, 0.0, -torch.inf]])
    for reduce in (scoring._reduce_on_cpu, scoring._reduce):
        assert reduce(torch.tensor([0]), logits, prior)[3].item() == np.inf


def test_nan_of_either_model_is_named():
    policy, prior = random_model("divided logits"), random_model("divided logits", 1)
    with torch.no_grad():
        prior.model.embed_tokens.weight[9] = np.nan
    lm, broken = TransformersLM(policy, "fine"), TransformersLM(prior, "broken")
    prompts, completions = Ragged.from_rows([[1]]), Ragged.from_rows([[2, 2, 2], [9, 4]])
    with pytest.raises(FloatingPointError, match=r"broken gives NaN at completions\[1\]\[1\]"):
        lm.token_scores(prompts, completions, [0, 2], broken)


def test_models_of_different_vocabularies_are_not_compared():
    with pytest.raises(ValueError, match=r"has 1024 tokens and \S+ 49152: policy and prior must share a vocabulary"):
        alice().token_scores(Ragged.from_rows([[1]]), Ragged.from_rows([[1]]), [0, 1], smollm2())


def test_models_of_different_precision_are_compared_in_float32():
    samples = random_samples(np.random.default_rng(8), alice())
    expected = alice().token_scores(*arguments(samples), alice())
    for dtype in ("bfloat16", "float16"):
        other = TransformersLM.load(alice_folder(), device="cpu", dtype=dtype)
        for policy, prior in ((alice(), other), (other, alice())):
            found = policy.token_scores(*arguments(samples), prior)
            np.testing.assert_allclose(found.logprobs, expected.logprobs, rtol=0, atol=BFLOAT16["alice"])
            assert found.kl.max() < 0.05


def test_models_of_different_start_tokens_need_a_prompt():
    policy, prior = random_model("divided logits"), random_model("divided logits", 1)
    prior.config = copy.deepcopy(prior.config)
    prior.config.bos_token_id = 5
    lm, other = TransformersLM(policy, "policy"), TransformersLM(prior, "prior")
    empty, completions = Ragged.from_rows([[]], np.uint32), Ragged.from_rows([[1, 2]])
    with pytest.raises(
        ValueError, match=r"prompts\[0\] has no tokens, and policy and prior have different start tokens"
    ):
        lm.token_scores(empty, completions, [0, 1], other)
    assert lm.token_scores(Ragged.from_rows([[4]]), completions, [0, 1], other).kl is not None


def test_an_architecture_that_selects_keys_is_read_padded(monkeypatch):
    """What attention is asked for and not known is never left out in silence."""
    attend = attention.attend
    monkeypatch.setitem(
        transformers.AttentionInterface._global_mapping,
        attention.NAME,
        lambda *states, **options: attend(*states, **options, block_indices=torch.zeros(1)),
    )
    lm = TransformersLM(random_model("divided logits"), "selecting")
    assert lm._network.longest_in_pack == 0


def test_threads_may_share_a_model():
    """One at a time runs it: the way it attends is part of its configuration."""
    lm = paced(random_model("divided logits"), 64, 8)
    prompts, completions = Ragged.from_rows([[1, 2, 3], [4]]), Ragged.from_rows([[5, 6], [7], [8, 9, 10]])
    expected = lm.logprobs(prompts, completions, [0, 2, 3]).values

    def work(i):
        if i % 3 == 0:
            return lm.sample(prompts, 2, 4, np.random.default_rng(i)).terminated is not None
        return np.array_equal(lm.logprobs(prompts, completions, [0, 2, 3]).values, expected)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(60)))
    assert lm._network.model.config._attn_implementation == "sdpa"


# Memory.


def short_of_memory(monkeypatch, most, error):
    read = Network.read_pack

    def limited(self, laid):
        if len(laid.token_ids) > most:
            raise error
        return read(self, laid)

    monkeypatch.setattr(Network, "read_pack", limited)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["CUDA", "CPU", "Python"],
)
def test_what_does_not_fit_into_memory_is_done_in_smaller_parts(monkeypatch, error):
    samples = Samples(*real_completions(alice(), prompts=5, n=30, longest_prompt=20, longest=30))
    expected = alice().logprobs(*arguments(samples))
    short_of_memory(monkeypatch, 52, error)
    found = alice().logprobs(*arguments(samples))
    np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=1e-4)


def test_a_completion_that_does_not_fit_by_itself_is_named(monkeypatch):
    short_of_memory(monkeypatch, 20, MemoryError())
    prompts, completions = Ragged.from_rows([[1, 2]]), Ragged.from_rows([[3] * 10, [4] * 30, [5]])
    with pytest.raises(MemoryError, match=r"completions\[1\] has 30 tokens after the 2 of prompts\[0\]: .* memory"):
        alice().logprobs(prompts, completions, [0, 3])


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    short_of_memory(monkeypatch, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        alice().logprobs(Ragged.from_rows([[1]]), Ragged.from_rows([[1]]), [0, 1])


# Exact KL.


def test_exact_kl_is_as_sure_as_k1_and_k3_or_surer_and_agrees_with_them(policy):
    prompts = alice().encode(["Alice", "The Queen said", "“Who are you?” said", "It was", "The Hatter"])
    drawn = policy.sample(prompts, 60, 20, np.random.default_rng(0))
    scores = policy.token_scores(*arguments(drawn), alice())
    columns = {
        "policy_logprobs": scores.logprobs,
        "prior_logprobs": scores.prior_logprobs,
        "token_kl": scores.kl,
        "policy_entropy": scores.entropy,
    }
    offsets = drawn.completions.offsets
    samples = Samples(*arguments(drawn), **{name: Ragged(values, offsets) for name, values in columns.items()})
    exact, *sampled = (estimate_kl(samples, estimator) for estimator in ("exact", "k1", "k3"))
    assert exact.value > 0.1
    for estimate in sampled:
        assert exact.stderr <= estimate.stderr
        assert abs(exact.value - estimate.value) < 4 * np.hypot(exact.stderr, estimate.stderr)
