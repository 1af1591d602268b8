"""The engine: completions that share prompts, mixed lengths, two models at once, loading."""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import cache, partial
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from bench.lm.measure import Figure, Peer, Row, compare
from esscher import Ragged
from esscher.lm.packaged import resolve
from esscher.lm.transformers import TransformersLM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BATCH = 16  # sequences in a peer's batch
DTYPES = ("float32", "bfloat16")
# Log-probs of one token by two ways to batch: of random tokens, which are as improbable as can be.
TOLERANCE = {"float32": 1e-3, "bfloat16": 2.0}


@cache
def model(dtype: str) -> TransformersLM:
    return TransformersLM.load(resolve("smollm2"), device="cpu", dtype=dtype)


@cache
def text() -> NDArray[np.uint32]:
    """Tokens of the Python manual."""
    from pydoc_data.topics import topics

    return model("float32").encode(["\n".join(topics.values())[:400_000]])[0]


def pieces(lengths: NDArray[np.int64], seed: int) -> Ragged:
    starts = np.random.default_rng(seed).integers(0, len(text()) - lengths.max(), len(lengths))
    return Ragged.from_rows([text()[s : s + n] for s, n in zip(starts, lengths, strict=True)])


def shared(dtype: str) -> list[Row]:
    prompts, completions = pieces(np.full(8, 384), 0), pieces(np.full(128, 48), 1)
    groups = np.arange(9) * 16
    request = prompts, completions, groups
    return compare(
        f"8 prompts x 16 completions, prompt 384, completion 48 tokens: {dtype}",
        lambda: model(dtype).logprobs(*request).values,
        [Peer("transformers, padded, log_softmax + gather", partial(padded, dtype, *request), 5.0)],
        rounds=2,
        tolerance=TOLERANCE[dtype],
    )


def mixed(dtype: str) -> list[Row]:
    lengths = np.random.default_rng(2).integers(16, 257, 512)
    prompt_lengths = np.maximum(1, lengths // 4)
    request = pieces(prompt_lengths, 3), pieces(lengths - prompt_lengths, 4), np.arange(513)
    rows = compare(
        f"512 sequences of 16 to 256 tokens, one completion a prompt: {dtype}",
        lambda: model(dtype).logprobs(*request).values,
        [Peer("transformers, padded in file order", partial(padded, dtype, *request), 2.0)],
        rounds=2,
        tolerance=TOLERANCE[dtype],
    )
    sums = compare(
        f"the same, a sum for each completion: {dtype}",
        lambda: np.add.reduceat(model(dtype).logprobs(*request).values.astype(np.float64), request[1].offsets[:-1]),
        [Peer("lm-eval, HFLM's loglikelihood", partial(lm_eval, dtype, *request), 1.5)],
        rounds=2,
        tolerance=100 * TOLERANCE[dtype],
    )
    return [*rows, *sums]


@torch.inference_mode()
def padded(dtype: str, prompts: Ragged, completions: Ragged, groups: NDArray[np.int64]) -> NDArray[np.float32]:
    """What a trainer does: batches in order, padded on the right, logits for every position."""
    which = np.repeat(np.arange(len(prompts)), np.diff(groups))
    network = model(dtype)._network.model
    parts = []
    for start in range(0, len(completions), BATCH):
        rows = range(start, min(start + BATCH, len(completions)))
        ids = Ragged.from_rows([np.concatenate([prompts[which[i]], completions[i]]) for i in rows])
        token_ids = torch.from_numpy(ids.to_padded(fill=2).astype(np.int64))
        mask = torch.arange(token_ids.shape[1]) < torch.from_numpy(ids.lengths)[:, None]
        logits = network(input_ids=token_ids, attention_mask=mask.long(), use_cache=False).logits[:, :-1]
        logprobs = torch.log_softmax(logits.float(), -1).gather(2, token_ids[:, 1:, None])[..., 0]
        first = torch.from_numpy(prompts.lengths[which[rows.start : rows.stop]] - 1)[:, None]
        last = torch.from_numpy(ids.lengths - 1)[:, None]
        position = torch.arange(logprobs.shape[1])
        parts.append(logprobs[(position >= first) & (position < last)].numpy())
    return np.concatenate(parts)


@cache
def harness(dtype: str) -> Any:
    from lm_eval.models.huggingface import HFLM

    lm = model(dtype)
    return HFLM(pretrained=lm._network.model, tokenizer=lm.tokenizer, batch_size=BATCH, device="cpu")


def lm_eval(dtype: str, prompts: Ragged, completions: Ragged, _: NDArray[np.int64]) -> list[float]:
    requests = [
        (("", ""), prompt.tolist(), completion.tolist())
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    return [total for total, _ in harness(dtype)._loglikelihood_tokens(requests, disable_tqdm=True)]


def exact_kl(dtype: str) -> list[Row]:
    """The part after the last hidden states: 4096 of them, of two models."""
    from esscher.lm.transformers.scoring import _over_the_vocabulary

    policy = model(dtype)._network
    prior = copy.copy(policy)
    prior.output = copy.deepcopy(policy.output)
    prior._logits = None
    torch.manual_seed(0)
    hidden = [torch.randn(4096, policy.output.in_features).to(policy.model.dtype) for _ in range(2)]
    token_ids = torch.randint(0, policy.vocabulary_size, (4096,))
    with torch.inference_mode():
        return compare(
            f"log-probs, entropy, exact KL of 4096 tokens from two models' hidden states: {dtype}",
            lambda: _columns(_over_the_vocabulary([policy, prior], hidden, token_ids)),
            [Peer("torch eager, full logits", lambda: _columns(_eager(policy, prior, hidden, token_ids)), 2.0)],
            rounds=3,
            tolerance=1e-2,
        )


def _columns(columns: tuple[torch.Tensor, ...]) -> NDArray[np.float32]:
    return torch.stack(columns).numpy()


def _eager(policy: Any, prior: Any, hidden: list[torch.Tensor], token_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    p, q = (net.output(h).float().log_softmax(-1) for net, h in zip((policy, prior), hidden, strict=True))
    taken = [one.gather(-1, token_ids[:, None])[:, 0] for one in (p, q)]
    probs = p.exp()
    return taken[0], -(probs * p).sum(-1), taken[1], (probs * (p - q)).sum(-1)


def memory() -> list[Figure]:
    """Peak memory of the same, each in a process of its own."""
    peaks = {who: _peak(who) for who in ("ours", "torch")}
    ratio = peaks["torch"] / peaks["ours"]
    text = f"{peaks['ours'] / 2**20:.0f} MiB; torch eager {peaks['torch'] / 2**20:.0f} MiB, {ratio:.0f} x (mark 10)"
    return [Figure("exact KL of 4096 tokens, float32: peak memory above the models and hidden states", text)]


def _peak(who: str) -> int:
    command = [sys.executable, "-m", "bench.lm.memory", who]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def loading() -> list[Figure]:
    """From nothing to a first log-prob, each time in a new process: ours, and from_pretrained with one forward."""
    ours, theirs = [], []
    for _ in range(3):
        ours.append(_loaded(_OURS))
        theirs.append(_loaded(_THEIRS))
    a, b = median(ours), median(theirs)
    return [
        Figure("loading and first score", f"{a:.2f} s, from_pretrained and a forward {b:.2f} s: + {a - b:.2f} (mark 1)")
    ]


_OURS = """
from esscher.lm.transformers import TransformersLM
from esscher import Ragged
lm = TransformersLM.load({folder!r}, device="cpu")
lm.logprobs(Ragged.from_rows([[504, 1605]]), Ragged.from_rows([[436, 253]]), [0, 1])
"""
_THEIRS = """
import torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained({folder!r}, dtype=torch.float32)
with torch.inference_mode():
    model(input_ids=torch.tensor([[504, 1605, 436, 253]])).logits.log_softmax(-1)
"""


def _loaded(code: str) -> float:
    timed = f"import time; start = time.perf_counter()\n{code.format(folder=str(resolve('smollm2')))}\n"
    run = [sys.executable, "-c", f"{timed}print(time.perf_counter() - start)"]
    return float(subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()[-1])


def profiled() -> list[Figure]:
    return [figure for dtype in DTYPES for figure in _shares(dtype)]


def _shares(dtype: str) -> Iterator[Figure]:
    prompts, completions = pieces(np.full(8, 384), 0), pieces(np.full(128, 48), 1)
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        model(dtype).logprobs(prompts, completions, np.arange(9) * 16)
    spent = {event.key: event.self_cpu_time_total for event in recorded.key_averages()}
    total = max(event.time_range.end for event in recorded.events()) - min(
        event.time_range.start for event in recorded.events()
    )
    products = sum(spent.get(name, 0) for name in ("aten::mm", "aten::addmm", "aten::bmm"))
    attention = spent.get("aten::_scaled_dot_product_flash_attention_for_cpu", 0)
    inside = sum(spent.values())
    value = (
        f"matrix products {products / total:.0%}, attention {attention / total:.0%}, other operations of the model "
        f"{(inside - products - attention) / total:.0%}, the rest (Esscher) {1 - inside / total:.0%}"
    )
    yield Figure(f"8 prompts x 16 completions, {dtype}: share of the time", value)


COMPARISONS = {
    f"{name}-{dtype}": partial(job, dtype)
    for name, job in (("shared", shared), ("mixed", mixed), ("exact-kl", exact_kl))
    for dtype in DTYPES
}
FIGURES = {"memory": memory, "loading": loading, "profile": profiled}
