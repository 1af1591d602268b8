"""Sample SmolLM2-135M, reward its completions by sentiment, draw the frontier: `python docs/frontier_figure.py`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from esscher import Samples, concatenate, prototype
from esscher.lm.packaged import resolve
from esscher.lm.transformers import TransformersLM
from esscher.report.prototype import print_prototype, write_picture

PICTURE = Path(__file__).parent / "figures/frontier.svg"
PROMPTS = ["The movie was", "I think that", "Yesterday my friend told me", "The food at the restaurant"]
COMPLETIONS, BATCH, NEW_TOKENS = 512, 64, 18


def draw(lm: TransformersLM) -> Samples:
    """Completions of the prompts with their log-probs and the sentiment of prompt and completion, -1 to 1."""
    rng = np.random.default_rng(0)
    prompts = lm.encode(PROMPTS)
    parts = [
        lm.sample(prompts.take(np.array([p])), BATCH, NEW_TOKENS, rng)
        for p in range(len(PROMPTS))
        for _ in range(COMPLETIONS // BATCH)
    ]
    drawn = concatenate(parts)
    merged = replace(drawn, prompts=prompts, groups=np.arange(len(PROMPTS) + 1) * COMPLETIONS)
    texts = lm.decode(merged.completions)
    analyzer = SentimentIntensityAnalyzer()
    rewards = [
        analyzer.polarity_scores(PROMPTS[p] + text)["compound"]
        for p, text in zip(merged.group_of.tolist(), texts, strict=True)
    ]
    return replace(merged, prior_logprobs=merged.policy_logprobs, policy_logprobs=None, rewards=np.array(rewards))


def main() -> None:
    """Sample, and say how long what comes after takes."""
    torch.manual_seed(0)
    samples = draw(TransformersLM.load(resolve("smollm2"), device="cpu", dtype="bfloat16"))
    start = time.perf_counter()
    found = prototype(samples)
    elapsed = time.perf_counter() - start
    print_prototype(found)
    write_picture(found, PICTURE)
    print(f"{elapsed:.2f} s after sampling; {PICTURE}")


if __name__ == "__main__":
    main()
