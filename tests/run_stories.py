"""Runs whose levels are known at every step, seen through the noise of few completions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from esscher import Estimate
from esscher.trend import StepMismatch, TrendStep


@dataclass
class Levels:
    """What a policy is at one step; the default is a policy that stays as it is."""

    reward: float = 0.1
    kl: float = 1.5
    entropy: float = 3.0
    distinct_2: float = 0.95
    cut_off: float = 0.1
    alike: float = 0.1
    mismatch: float = 0.004


def seen(step, levels, rng, prompts=16, completions=8, *, same_prompts=False):
    """A step of a policy, estimated from completions of few prompts, which differ by half of each number's spread.

    Of the same prompts at every step only the completions are drawn anew, so that errors over prompts are too large.
    """
    n = prompts * completions

    def noisy(value, sd):
        """Prompts differ as much as all completions of one do on average."""
        of_prompts = np.random.default_rng(1).normal(size=prompts) if same_prompts else rng.normal(size=prompts)
        values = value + sd * (of_prompts - of_prompts.mean() * same_prompts + rng.normal(size=prompts)) / 2**0.5
        return Estimate(float(values.mean()), float(values.std(ddof=1) / prompts**0.5))

    def share(p):
        values = rng.binomial(completions, min(max(p, 0.0), 1.0), size=prompts) / completions
        return Estimate(float(values.mean()), float(values.std(ddof=1) / prompts**0.5))

    alike = rng.random(prompts) < levels.alike
    return TrendStep(
        step=step,
        prompts=prompts,
        completions=n,
        tokens=32 * n,
        reward=noisy(levels.reward, 0.3),
        rewards_by_name={},
        kl={"k1": noisy(levels.kl, 0.1 + 0.5 * (2 * max(levels.kl, 0.0)) ** 0.5)},
        entropy=noisy(levels.entropy, 0.25),
        exact_entropy=None,
        distinct_2=noisy(levels.distinct_2, 0.03),
        unique_share=Estimate(1.0, 0.0),
        length=Estimate(32.0, 1.0),
        longest=64,
        cut_off=share(levels.cut_off),
        terminated=None,
        alike=Estimate(float(alike.mean()), float(alike.std(ddof=1) / prompts**0.5)),
        ess=None,
        log_z=None,
        inference_gap=None,
        excess_collapse=None,
        mismatch=StepMismatch(noisy(0.0, 1e-4), noisy(levels.mismatch, 0.3 * levels.mismatch), 0.1),
        frontier=None,
    )


def healthy(i):
    """A run that learns: KL grows from warm-up on, the reward rises, entropy and diversity fall a little."""
    far = i / 200
    return Levels(
        reward=0.1 + 0.6 * (1 - np.exp(-i / 60)),
        kl=8.0 * (1 - np.exp(-((max(i - 2.5, 0.0) / 60) ** 2) / 2)) if i < 60 else 3.148 + 3.0 * (i - 60) / 140,
        entropy=3.0 * (1 - 0.25 * far),
        distinct_2=0.95 * (1 - 0.1 * far),
        cut_off=0.05 + 0.2 * far,
        alike=0.05 + 0.5 * far,
        mismatch=0.004 * (1 + far),
    )
