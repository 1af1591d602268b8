"""What is trained, and how: a frozen record that a run keeps beside what it writes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from esscher.inference.f_divergences import FDivergence
from esscher.target import Tilt

ObjectiveName = Literal["plain-rl", "kl-rl", "dpg", "f-dpg", "weighted-ml"]
# Those that need log Z of every prompt, or weights of the prior's samples, before they begin.
NEED_PRIOR_SAMPLES = ("f-dpg", "weighted-ml")


def _at_least(least: int, default: int) -> Any:
    return field(default=default, metadata={"least": least})


@dataclass(frozen=True)
class TrainingSettings:
    """How a policy is trained.

    Attributes
    ----------
    objective
        "plain-rl" maximises E[r], "kl-rl" E[r] - beta KL(policy‖prior), "dpg" -KL(target‖policy), "f-dpg" minus
        another divergence from the target, all from completions of the policy; "weighted-ml" the log-likelihood of
        the prior's completions resampled so that they stand for the target.
    beta
        Strength of the KL penalty, reward per nat; the target is ``prior exp(r / beta) / Z``. "plain-rl" does not use
        it, but is measured against that target too.
    divergence
        Which one "f-dpg" minimises (see `f_dpg`).
    steps
        Updates of the parameters.
    prompts
        Prompts of a step, from a random order of all; those that are too few for a step are left for a new order.
    completions
        Completions of each prompt of a step.
    new_tokens
        The longest completion.
    prior_samples
        Completions of every prompt that are drawn from the prior before the first step: log Z is estimated from them,
        and "weighted-ml" resamples them. 0 draws none: there is no inference gap then, and "dpg" estimates Z from each
        step's completions.
    learning_rate, weight_decay
        Of AdamW.
    warm_up
        Steps over which the learning rate rises to its value.
    clip
        The largest norm of the gradient; what is longer is shortened to it.
    micro_batch_tokens
        How many tokens are differentiated at a time, prompts and padding included; more than fit into memory are
        halved. Gradients are accumulated over a step whatever it is.
    save_every
        Steps between checkpoints; there is one at the end, too.
    keep
        How many checkpoints are kept, those that were written last.
    keep_samples
        Whether each step's completions that have a reward are kept, as Parquet files that `esscher trend` reads.
    seed
        Of everything that is random.

    Raises
    ------
    ValueError
        If a number is outside its range, or a name is unknown; the message names which.

    Examples
    --------
    >>> TrainingSettings(objective="dpg", beta=0.25).steps
    100
    >>> TrainingSettings(objective="ppo")
    Traceback (most recent call last):
    ...
    ValueError: objective is 'ppo': it is one of plain-rl, kl-rl, dpg, f-dpg, weighted-ml
    """

    objective: ObjectiveName = "kl-rl"
    beta: float = 0.1
    divergence: FDivergence = "js"
    steps: int = _at_least(1, 100)
    prompts: int = _at_least(1, 4)
    completions: int = _at_least(1, 8)
    new_tokens: int = _at_least(1, 16)
    prior_samples: int = _at_least(0, 64)
    learning_rate: float = 2e-4
    weight_decay: float = 0.0
    warm_up: int = _at_least(0, 5)
    clip: float = 1.0
    micro_batch_tokens: int = _at_least(1, 4096)
    save_every: int = _at_least(1, 50)
    keep: int = _at_least(1, 2)
    keep_samples: bool = False
    seed: int = _at_least(0, 0)

    def __post_init__(self) -> None:
        for name, names in (("objective", ObjectiveName), ("divergence", FDivergence)):
            if getattr(self, name) not in get_args(names):
                raise ValueError(f"{name} is {getattr(self, name)!r}: it is one of {', '.join(get_args(names))}")
        for one in fields(self):
            value, least = getattr(self, one.name), one.metadata.get("least")
            if least is not None and value < least:
                raise ValueError(f"{one.name} is {value}: it is at least {least}")
        Tilt(self.beta)  # raises what is wrong with it
        for name in ("learning_rate", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: it is positive and finite")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is {self.weight_decay}: it is at least 0, and finite")
        if self.objective in NEED_PRIOR_SAMPLES and self.prior_samples == 0:
            raise ValueError(
                f"prior_samples is 0: {self.objective} needs completions of the prior, such as 64 a prompt"
            )
