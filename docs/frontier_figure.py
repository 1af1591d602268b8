"""Sample SmolLM2-135M, reward its completions by sentiment, draw the frontier: `python docs/frontier_figure.py`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from esscher import Ragged, Samples, compare, concatenate, prototype
from esscher.lm.packaged import resolve
from esscher.lm.transformers import TransformersLM
from esscher.report.comparison import print_comparison
from esscher.report.prototype import print_prototype, write_picture

FIGURES = Path(__file__).parent / "figures"
PROMPTS = ["The movie was", "I think that", "Yesterday my friend told me", "The food at the restaurant"]
# Two policies that need no training: the prior told good news first, and the prior at a lower sampling temperature.
WANTED = "Good news! "
COOLER = 0.9
COMPLETIONS, BATCH, NEW_TOKENS = 512, 64, 18


def draw(lm: TransformersLM, told: str = "", sampling_temperature: float = 1.0) -> Samples:
    """Completions of the prompts with their log-probs under what drew them; `told` comes before each prompt."""
    rng = np.random.default_rng(0)
    prompts = lm.encode([told + prompt for prompt in PROMPTS])
    parts = [
        lm.sample(prompts.take(np.array([p])), BATCH, NEW_TOKENS, rng, sampling_temperature)
        for p in range(len(PROMPTS))
        for _ in range(COMPLETIONS // BATCH)
    ]
    drawn = concatenate(parts)
    return replace(drawn, prompts=prompts, groups=np.arange(len(PROMPTS) + 1) * COMPLETIONS)


def rewarded(lm: TransformersLM, drawn: Samples) -> Samples:
    """Give the completions of the bare prompts the sentiment of prompt and completion, -1 to 1."""
    texts = lm.decode(drawn.completions)
    analyzer = SentimentIntensityAnalyzer()
    rewards = [
        analyzer.polarity_scores(PROMPTS[p] + text)["compound"]
        for p, text in zip(drawn.groups.of.tolist(), texts, strict=True)
    ]
    return replace(drawn, prompts=lm.encode(PROMPTS), rewards=np.array(rewards))


def scored(lm: TransformersLM, drawn: Samples) -> Samples:
    """Give completions of a policy their log-probs under the prior, prompt by prompt, so that little memory is used."""
    parts = [drawn.take_prompts([p]) for p in range(len(PROMPTS))]
    logprobs = [lm.logprobs(part.prompts, part.completions, part.groups) for part in parts]
    return replace(drawn, prior_logprobs=Ragged.concatenate(logprobs))


def main() -> None:
    """Sample, and say how long what comes after takes."""
    torch.manual_seed(0)
    lm = TransformersLM.load(resolve("smollm2"), device="cpu", dtype="bfloat16")
    own = rewarded(lm, draw(lm))
    prior = replace(own, prior_logprobs=own.policy_logprobs, policy_logprobs=None)
    start = time.perf_counter()
    found = prototype(prior)
    elapsed = time.perf_counter() - start
    print_prototype(found)
    write_picture(found, FIGURES / "frontier.svg")
    print(f"{elapsed:.2f} s after sampling")
    policies = {
        f"told “{WANTED.strip()}”": scored(lm, rewarded(lm, draw(lm, told=WANTED))),
        f"temperature {COOLER}": scored(lm, rewarded(lm, draw(lm, sampling_temperature=COOLER))),
    }
    compared = compare(prior, policies)
    print_comparison(compared)
    write_picture(compared.prototype, FIGURES / "compare.svg", compared.policies)


if __name__ == "__main__":
    main()
