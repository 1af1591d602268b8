"""Completions that were really sampled with a temperature, top-p or top-k, with the log-probs of both engines.

`golden` reads those of SmolLM2-135M-Instruct, and of a collapsed policy, that ``python tests/rollouts.py`` once wrote,
which takes ten minutes; test_mismatch.py scores some of them again. `record` makes the same of any model.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from esscher import Ragged
from esscher.lm.transformers import TransformersLM
from esscher.lm.transformers.decoding import read, write
from models import alice_folder, smollm2, smollm2_folder

GOLDEN = Path(__file__).parent / "golden"
PROMPTS = [
    "The movie was",
    "I think that",
    "Yesterday my friend told me",
    "The food at the restaurant",
    "My favourite book is",
    "In the morning we",
    "The weather in spring",
    "She opened the door and",
]
COLLAPSED_PROMPTS = [
    "Alice was",
    "The Queen said",
    "“What is",
    "The Rabbit",
    "She looked",
    "The King",
    "Down the",
    "Off with",
]
TOKENS = 24
# Of the collapsed policy: alice, with logits so many times as large. Half of its tokens are above -0.02.
SHARPNESS = 8
# The thresholds of `mismatch` were set with these completions, and those of seeds 0 and 1, in view.
SEEDS = (2, 3)


class World(NamedTuple):
    """Whose completions, how many of each of its eight prompts, and the token that they end and are padded with."""

    file: str
    completions: int
    end: int


SMOLLM2, COLLAPSED = World("rollouts.npz", 8, 2), World("collapsed.npz", 32, 3)


class Sampler(NamedTuple):
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None


SAMPLERS = {
    "plain": Sampler(),
    "bf16 engine": Sampler(),
    "top-p 0.9": Sampler(top_p=0.9),
    "top-k 20": Sampler(top_k=20),
    "temperature 0.7": Sampler(temperature=0.7),
    "temperature 1.3": Sampler(temperature=1.3),
    "temperature 0.7, top-p 0.9": Sampler(temperature=0.7, top_p=0.9),
    "bf16 engine, temperature 0.7": Sampler(temperature=0.7),
    "bf16 engine, top-p 0.9": Sampler(top_p=0.9),
}


class Rollout(NamedTuple):
    """What a sampler drew; `wrong_end` is the trainer's log-prob of padding in place of each last token [N]."""

    completions: Ragged
    train: Ragged
    rollout: Ragged
    groups: np.ndarray
    terminated: np.ndarray
    wrong_end: np.ndarray


class Engine:
    """A `Network` that draws with a `Sampler`, as inference engines do: temperature, then top-k, then top-p."""

    def __init__(self, network, sampler):
        self._network, self._sampler = network, sampler

    def __getattr__(self, name):
        return getattr(self._network, name)

    def draw(self, hidden, uniforms, _):
        logits = self._network.logits(hidden) / self._sampler.temperature
        logits, tokens = logits.sort(dim=1, descending=True)
        if self._sampler.top_k is not None:
            logits[:, self._sampler.top_k :] = -torch.inf
        probs = logits.softmax(1)
        logits[probs.cumsum(1) - probs >= self._sampler.top_p] = -torch.inf
        logprobs = logits.log_softmax(1)
        cdf = logprobs.double().exp().cumsum(1)
        place = torch.searchsorted(cdf, uniforms[:, None] * cdf[:, -1:], right=True).clamp_(max=cdf.shape[1] - 1)
        return tokens.gather(1, place)[:, 0], logprobs.gather(1, place)[:, 0]


def record(trainer, prompts, sampler, rng, n=SMOLLM2.completions, tokens=TOKENS, sampled_by=None):
    """Draw `n` completions of each prompt with one engine, and score them with the trainer's."""
    network = (sampled_by or trainer)._network
    with torch.inference_mode():
        texts = read(network, prompts, np.arange(len(prompts) * n) // n)
        ids, logprobs, lengths = write(Engine(network, sampler), texts, rng.random((len(prompts) * n, tokens)), 1.0)
    completions = Ragged.from_padded(ids, lengths=lengths)
    groups = np.arange(len(prompts) + 1) * n
    end = trainer.end_token_ids[0]
    replaced = completions.values.copy()
    replaced[completions.offsets[1:] - 1] = end
    return Rollout(
        completions,
        trainer.logprobs(prompts, completions, groups),
        Ragged.from_padded(logprobs, lengths=lengths),
        groups,
        np.isin(ids[np.arange(len(ids)), lengths - 1], trainer.end_token_ids),
        trainer.logprobs(prompts, Ragged(replaced, completions.offsets), groups).values[completions.offsets[1:] - 1],
    )


@lru_cache
def golden(name, seed=SEEDS[0], world=SMOLLM2):
    """What a world's policy gave with one of `SAMPLERS`."""
    with np.load(GOLDEN / world.file) as arrays:
        column = {field: arrays[f"{name}/{seed}/{field}"] for field in ("ids", "train", "rollout", "lengths", "end")}
    rows = [Ragged.from_lengths(column[field], column["lengths"]) for field in ("ids", "train", "rollout")]
    groups = np.arange(len(PROMPTS) + 1) * world.completions
    terminated = rows[0].values[rows[0].offsets[1:] - 1] == world.end
    return Rollout(*rows, groups, terminated, column["end"])


def collapsed(dtype="float32"):
    """Return alice with sharper logits, as a policy that lost its entropy has them."""
    model = TransformersLM.load(alice_folder(), device="cpu", dtype=dtype)
    with torch.no_grad():
        model._network.model.model.norm.weight.mul_(SHARPNESS)
    return model


def write_golden(world, prompts, trainer, bf16):
    arrays = {}
    for seed in SEEDS:
        for i, (name, sampler) in enumerate(SAMPLERS.items()):
            engine, rng = bf16 if name.startswith("bf16") else trainer, np.random.default_rng([seed, i])
            made = record(trainer, trainer.encode(prompts), sampler, rng, world.completions, sampled_by=engine)
            ids = made.completions.values.astype(np.uint16)
            fields = {"ids": ids, "train": made.train.values, "rollout": made.rollout.values}
            fields |= {"lengths": made.train.lengths.astype(np.uint8), "end": made.wrong_end}
            arrays |= {f"{name}/{seed}/{field}": column for field, column in fields.items()}
            print(seed, name, flush=True)
    GOLDEN.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN / world.file, **arrays)


if __name__ == "__main__":
    half = TransformersLM.load(smollm2_folder(), device="cpu", dtype="bfloat16")
    write_golden(SMOLLM2, PROMPTS, smollm2(), half)
    write_golden(COLLAPSED, COLLAPSED_PROMPTS, collapsed(), collapsed("bfloat16"))
