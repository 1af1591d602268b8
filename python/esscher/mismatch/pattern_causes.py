"""Causes that a pattern in the differences tells, in words: what was seen, and what to do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from esscher.mismatch.findings import Cause
from esscher.mismatch.values import LOUD
from esscher.mismatch.wording import SMALLEST_STDERR, engine, number, percent, times

if TYPE_CHECKING:
    from esscher.mismatch.alignment import Pairs
    from esscher.mismatch.ends_and_noise import LastTokens, Noise
    from esscher.mismatch.kept_mass import KeptMass
    from esscher.mismatch.temperature import Temperature

# With so few tokens differing, it is those that are strange, not the engines.
STRANGE_TOKENS = 0.2


def last_tokens(found: LastTokens, pairs: Pairs) -> Cause:
    """Say that only the ends of rows differ."""
    n = int(found.hit.sum())
    size = float(np.median(np.abs(pairs.difference[found.hit])))
    evidence = (
        f"the last token of {n} of {times(found.of, 'completion')} differs by {number(size)} nats in the median, where "
        f"of all other tokens 99% differ by less than {number(found.ordinary)}"
    )
    advice = (
        "the end of a completion is handled in two ways: count the end-of-sequence token if it was sampled, give it "
        "its own log-prob and not padding's, and mask it in neither engine or in both"
    )
    return Cause("last-token", "both", evidence, advice, n, n / len(found.hit), size)


def temperature(found: Temperature, pairs: Pairs) -> Cause:
    """Say that one engine's logits are divided by another number than the other's."""
    tau, stderr = found.tau, found.stderr
    if found.column == "train":
        tau, stderr = 1.0 / tau, stderr / tau**2
    size = np.abs(pairs.difference)
    if found.bound:
        how = (
            f"{number(tau)} or {'below' if tau < 1 else 'above'}, as unlikely tokens are "
            f"{'less' if tau < 1 else 'more'} likely in it and likely ones the other way. Given groups, tokens of one "
            "context tell it exactly"
        )
    else:
        error = f" ± {number(stderr, 2)}" if stderr > SMALLEST_STDERR else ""
        how = (
            f"{number(tau, 4)}{error}, from {times(found.pairs, 'pair')} of tokens of one context, which lie on a line"
        )
    evidence = (
        f"the {engine(found.column)}'s logits were divided by a sampling temperature, and the "
        f"{engine('train' if found.column == 'rollout' else 'rollout')}'s were not: it is {how}"
    )
    advice = (
        "divide the trainer's logits by the sampling temperature before log_softmax, or sample at temperature 1; know "
        "which log-probs the rollout engine returns (vLLM: --logprobs-mode raw_logprobs or processed_logprobs)"
    )
    return Cause("sampling-temperature", found.column, evidence, advice, len(size), 1.0, float(np.median(size)), tau)


def kept_mass(found: KeptMass, pairs: Pairs) -> Cause:
    """Say that one column was renormalised after truncation."""
    mean, stderr = found.mean
    size = np.abs(pairs.difference)
    higher = int((pairs.difference > 0).sum() if found.column == "rollout" else (pairs.difference < 0).sum())
    evidence = (
        f"the {engine(found.column)}'s log-probs are renormalised over part of the vocabulary, which holds "
        f"{number(mean)} ± {number(stderr, 2)} of the other's probability: {percent(higher, len(size))} of tokens are "
        f"higher, by {number(float(np.median(size)))} nats in the median"
    )
    above = int(((pairs.rollout if found.column == "rollout" else pairs.train) > 0).sum())
    if above:
        evidence += f", and {above} of them end above 0, where no log-prob is: a constant was added"
    elif found.one_way:
        evidence += f", and 99% by no more than {number(-math.log(found.least))} = -log {number(found.least)}"
    advice = (
        "sample without top-p, top-k and min-p, or apply the same truncation in the trainer; weights made with these "
        "log-probs miss what the truncation cut off"
    )
    return Cause("kept-mass", found.column, evidence, advice, len(size), 1.0, float(np.median(size)), mean)


def noise(found: Noise, pairs: Pairs) -> Cause:
    """Say that engines differ without a pattern."""
    difference, size = pairs.difference, np.abs(pairs.difference)
    advice = (
        "other kernels, 16-bit forward passes or an older policy do this: see whether the effective sample size bears "
        "it; if not, correct with truncated importance weights, or run both engines in one precision on one policy"
    )
    if found.within_contexts:
        evidence = (
            f"what remains between tokens of one context has a standard deviation of about {number(found.sd)} nats a "
            "token"
        )
    elif found.tokens <= STRANGE_TOKENS * len(size) and np.median(size) < LOUD:
        rows = times(len(np.unique(pairs.row[found.where])), "completion")
        evidence = (
            f"{times(found.tokens, 'token')} ({percent(found.tokens, len(size))}) of {rows} "
            f"differ{'s' * (found.tokens == 1)}, by "
            f"{number(float(np.median(size[found.where])))} nats in the median and {number(float(size.max()))} at "
            "most, where the others agree"
        )
        advice = "look at these completions: their text may have been edited, or tokenised anew into other tokens"
    else:
        evidence = (
            f"{times(found.tokens, 'token')} ({percent(found.tokens, len(size))}) "
            f"differ{'s' * (found.tokens == 1)} without a pattern: standard deviation about {number(found.sd)} nats, "
            f"mean {number(float(difference.mean()))}, largest {number(float(size.max()))}"
        )
    # Seen in most pairs of one context, it is in all tokens.
    n = len(size) if found.within_contexts else found.tokens
    return Cause("noise", "both", evidence, advice, n, n / len(size), float(np.median(size)), found.sd)
