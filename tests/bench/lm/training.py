"""What a step of the reference trainer costs beyond its own completions, log-probs and gradients."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from bench.lm.measure import Figure, seconds
from esscher.lm.packaged import resolve
from esscher.lm.prompts import NEUTRAL_PROMPTS
from esscher.lm.rewards import FunctionReward, sentiment
from esscher.lm.transformers import TransformersLM
from esscher.train import RunFolder, Task, TrainingSettings, TransformersPolicy
from esscher.train.training import TrainingLoop

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 8
SETTINGS = TrainingSettings(prior_samples=8, steps=10_000)
LAST_LAYERS = {"the last 4 layers": 4, "the whole model": None}


def steps() -> list[Figure]:
    """A step, and its parts alone on the same prompts, in turns."""
    return [figure for trained, layers in LAST_LAYERS.items() for figure in _figures(trained, layers)]


def _figures(trained: str, last_layers: int | None) -> Iterator[Figure]:
    lm = TransformersLM.load(resolve("smollm2"), device="cpu", dtype="bfloat16")
    policy = TransformersPolicy(lm, last_layers=last_layers)
    prior, prompts = policy.frozen_copy(), lm.encode(NEUTRAL_PROMPTS[: SETTINGS.prompts])
    with tempfile.TemporaryDirectory() as folder:
        task = Task(policy, prior, FunctionReward("sentiment", sentiment, lm), prompts)
        trainer = TrainingLoop(task, SETTINGS, RunFolder(Path(folder), SETTINGS, {}))
        rows = [_round(trainer, policy, prior, prompts) for _ in range(ROUNDS + 1)][1:]
    step, sampling, log_probs, gradient = (median(column) for column in zip(*rows, strict=True))
    name = f"training step, {trained}, bfloat16"
    parts = f"{sampling:.2f} s of completions, {log_probs:.2f} of the prior's log-probs, {gradient:.2f} of gradients"
    yield Figure(name, f"{step:.2f} s: {parts}")
    yield Figure(
        f"{name}, over completions, log-probs and gradients", f"{step / (sampling + log_probs + gradient):.3f}"
    )
    yield Figure(f"{name}, over completions and gradients", f"{step / (sampling + gradient):.3f}")


def _round(trainer, policy, prior, prompts) -> tuple[float, ...]:
    step = seconds(trainer.take_step)
    rng = np.random.default_rng(trainer.step)
    drawn = []
    sampling = seconds(lambda: drawn.append(policy.lm.sample(prompts, SETTINGS.completions, SETTINGS.new_tokens, rng)))
    (samples,) = drawn
    log_probs = seconds(lambda: prior.logprobs(samples.prompts, samples.completions, samples.groups))
    gradient = seconds(lambda: policy.add_gradient(samples, np.ones(len(samples))))
    for parameter in policy.parameters.values():
        parameter.grad = None
    return step, sampling, log_probs, gradient


FIGURES = {"train-step": steps}
