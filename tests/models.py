"""Real models that several test files use, each loaded once: a small one in seconds, SmolLM2 in a minute at first."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from esscher.lm.packaged import resolve
from esscher.lm.transformers import TransformersLM

# With more, a machine that is busy with something else makes torch many times slower, not faster.
THREADS = 1


@lru_cache
def alice_folder() -> Path:
    """Where the converted glassllm model is: 0.85 M parameters, 1024 tokens, at most 128 of them in a text."""
    return Path(resolve("alice"))


@lru_cache
def alice() -> TransformersLM:
    return _load(alice_folder())


@lru_cache
def smollm2_folder() -> Path:
    """Where the converted SmolLM2-135M-Instruct is; its padding token is its end-of-sequence token, 2."""
    return Path(resolve("smollm2"))


@lru_cache
def smollm2() -> TransformersLM:
    return _load(smollm2_folder())


def _load(folder: Path) -> TransformersLM:
    torch.set_num_threads(THREADS)
    return TransformersLM.load(folder, device="cpu")
