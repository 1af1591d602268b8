"""Models in 16 bits: their logits are not rounded to 16 bits before they are reduced."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from esscher import Ragged
from esscher.lm.transformers import TransformersLM, head
from esscher.lm.transformers.network import Network
from models import alice_folder, smollm2_folder
from test_transformers import ARCHITECTURES, random_model, real_completions

FOLDERS = {"alice": alice_folder, "smollm2": smollm2_folder}
HEADS = [name for name in ARCHITECTURES if name != "no positions, alibi"]


def load(name, dtype="bfloat16"):
    return TransformersLM.load(FOLDERS[name](), device="cpu", dtype=dtype)


def near(lm, scale=0.02):
    """A model whose weights are off by a little, in the same 16 bits."""
    torch.manual_seed(1)
    model = copy.deepcopy(lm.module)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(scale * weight.float().std() * torch.randn_like(weight))
    return TransformersLM(model, "near")


def in_float64(model, hidden):
    """Log-probs over the vocabulary as its configuration says they are made of hidden states."""
    output, config = model.get_output_embeddings(), model.config
    logits = hidden.double() @ output.weight.detach().double().t()
    if output.bias is not None:
        logits = logits + output.bias.detach().double()
    logits = logits * (getattr(config, "logit_scale", None) or 1) / (getattr(config, "logits_scaling", None) or 1)
    cap = getattr(config, "final_logit_softcapping", None)
    return torch.log_softmax(logits if cap is None else cap * torch.tanh(logits / cap), dim=1)


@pytest.fixture
def seen(monkeypatch):
    """The hidden states that each model projects, in their order."""
    rows = {}
    project = Network.project

    def recorded(self, hidden):
        rows.setdefault(id(self.model), []).append(hidden.detach().clone())
        return project(self, hidden)

    monkeypatch.setattr(Network, "project", recorded)
    return rows


def large(architecture, dtype):
    """A random model whose logits are tens, as a real one's are: 16 bits hold them to about 0.1."""
    model = random_model(architecture)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(2.0)
    return TransformersLM(model.to(dtype), architecture)


def one_text(lm, length=20):
    """A prompt and its completion, whose tokens are projected in their order."""
    ids = np.random.default_rng(0).integers(3, min(lm.vocabulary_size, 1000), 4 + length)
    return Ragged.from_rows([ids[:4]]), Ragged.from_rows([ids[4:]]), [0, 1]


def assert_exact(scores, token_ids, p, q, atol):
    """As near as sums of float32 are."""
    taken = torch.from_numpy(token_ids.astype(np.int64))[:, None]
    expected = (p.gather(1, taken)[:, 0], -(p.exp() * p).sum(1), q.gather(1, taken)[:, 0], (p.exp() * (p - q)).sum(1))
    for found, right in zip(scores, expected, strict=True):
        np.testing.assert_allclose(found, right.numpy(), rtol=1e-5, atol=atol)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", HEADS)
def test_scores_of_16_bits_are_those_of_their_hidden_states(architecture, dtype, seen):
    policy = large(architecture, dtype)
    prior, request = near(policy), one_text(policy)
    scores = policy.token_scores(*request, prior)
    p, q = (in_float64(lm.module, torch.cat(seen[id(lm.module)])) for lm in (policy, prior))
    assert_exact(scores, request[1].values, p, q, atol=2e-5)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_small_kl_in_16_bits_is_not_raised_by_rounding(name, seen):
    """Rounded logits read 0.0008 nats a token more on SmolLM2, and log-probs were off by 0.03."""
    policy = load(name)
    prior, request = near(policy), one_text(policy)
    scores = policy.token_scores(*request, prior)
    p, q = (in_float64(lm.module, torch.cat(seen[id(lm.module)])) for lm in (policy, prior))
    kl = float((p.exp() * (p - q)).sum(1).mean())
    assert 1e-4 < kl < 0.1
    assert abs(float(scores.kl.mean()) - kl) < 1e-6
    assert_exact(scores, request[1].values, p, q, atol=5e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_in_16_bits_has_no_kl_to_itself(dtype):
    policy, prior = load("alice", dtype), load("alice", dtype)
    request = real_completions(policy, prompts=4, n=20, longest_prompt=10, longest=20)
    scores = policy.token_scores(*request, prior)
    assert (scores.kl == 0).all()
    np.testing.assert_array_equal(scores.logprobs, scores.prior_logprobs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", HEADS)
def test_completions_in_16_bits_are_drawn_from_unrounded_logits(architecture, dtype, seen):
    lm = large(architecture, dtype)
    drawn = lm.sample(Ragged.from_rows([[5, 6, 7], [8]]), 30, 1, np.random.default_rng(0), sampling_temperature=0.7)
    logits = in_float64(lm.module, torch.cat(seen[id(lm.module)])) / 0.7
    logprobs = torch.log_softmax(logits, dim=1)
    taken = drawn.completions.values.astype(np.int64)
    expected = logprobs.gather(1, torch.from_numpy(taken)[:, None])[:, 0]
    np.testing.assert_allclose(drawn.policy_logprobs.values, expected.numpy(), rtol=1e-5, atol=2e-5)


def gradient_of_rows(lm, hidden, token_ids):
    rows = hidden.clone().requires_grad_()
    logprobs = torch.log_softmax(lm._network.logits(rows), dim=1).gather(1, token_ids[:, None])
    torch.autograd.backward(logprobs.sum())
    return rows.grad


@pytest.mark.parametrize("architecture", HEADS)
def test_gradients_in_16_bits_are_of_unrounded_logits(architecture):
    """What is left is the rounding of the gradient itself, two parts in a thousand of its largest numbers."""
    lm = large(architecture, torch.bfloat16)
    torch.manual_seed(2)
    hidden, token_ids = 6 * torch.randn(20, 32).bfloat16(), torch.randint(0, 40, (20,))
    exact = hidden.double().requires_grad_()
    torch.autograd.backward(in_float64(lm.module, exact).gather(1, token_ids[:, None]).sum())
    found = gradient_of_rows(lm, hidden, token_ids)
    assert found.dtype == torch.bfloat16
    assert (found.double() - exact.grad).norm() < 0.004 * exact.grad.norm()


def test_a_head_of_another_kind_is_called_in_float32(seen):
    """Such as one with adapters, or with a hook."""

    class Doubled(torch.nn.Linear):
        def forward(self, hidden):
            return 2 * super().forward(hidden)

    model = random_model("learned positions").to(torch.bfloat16)
    doubled = Doubled(32, 40, bias=False, dtype=torch.bfloat16)
    doubled.weight = model.lm_head.weight
    model.lm_head = doubled
    lm = TransformersLM(model, "doubled")
    found = lm.token_scores(Ragged.from_rows([[1, 2]]), Ragged.from_rows([[3, 4]]), [0, 1])
    logits = 2 * torch.cat(seen[id(model)]).double() @ doubled.weight.detach().double().t()
    expected = torch.log_softmax(logits, dim=1)[[0, 1], [3, 4]]
    np.testing.assert_allclose(found.logprobs, expected.numpy(), rtol=1e-5, atol=1e-5)


# The product of matrices.


@pytest.fixture(autouse=True)
def nothing_known_of_torch():
    head.sums_in_float32.cache_clear()
    yield
    head.sums_in_float32.cache_clear()


def some(dtype, tokens=600):
    torch.manual_seed(0)
    return torch.randn(7, 64).to(dtype), torch.randn(tokens, 64).to(dtype), torch.empty(7, tokens)


def test_a_product_that_sums_in_float32_is_used_where_torch_has_one(monkeypatch):
    """On CUDA, since torch 2.8: stood in for by what it promises."""
    hidden, weight, out = some(torch.bfloat16)
    mm, asked = torch.mm, []

    def product(one, other, *, out_dtype=None, out=None):
        asked.append(out_dtype)
        result = mm(one.float(), other.float())
        return result if out is None else out.copy_(result)

    monkeypatch.setattr(torch, "mm", product)
    found = head.multiply(hidden, weight, out)
    assert asked == [torch.float32, torch.float32]
    assert found is out
    monkeypatch.undo()
    torch.testing.assert_close(found, (hidden.double() @ weight.double().t()).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("error", [TypeError("mm() got an unexpected keyword"), NotImplementedError("no kernel")])
def test_elsewhere_the_product_is_made_in_pieces(error, monkeypatch):
    """Torch before 2.8 knows no such argument; a CPU has no such kernel."""
    hidden, weight, out = some(torch.float16)
    mm = torch.mm

    def product(one, other, *, out=None, **options):
        if options:
            raise error
        assert other.shape[1] <= head.TOKENS
        return mm(one, other, out=out)

    monkeypatch.setattr(torch, "mm", product)
    found = head.multiply(hidden, weight, out)
    monkeypatch.undo()
    torch.testing.assert_close(found, (hidden.double() @ weight.double().t()).float(), rtol=1e-5, atol=1e-5)


def test_logits_take_no_more_memory_than_they_may(monkeypatch):
    monkeypatch.setattr("esscher.lm.transformers.network.LOGITS_BYTES", 40 * 4 * 6)
    lm = TransformersLM(random_model("divided logits").to(torch.bfloat16), "small")
    assert lm._network.pace.rows == 6
    lm.logprobs(*one_text(lm))
    assert lm._network._logits.nbytes == 40 * 4 * 6
