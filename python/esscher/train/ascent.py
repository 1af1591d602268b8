"""The gradient of a lesson, a few completions at a time, as memory allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from esscher.lm.memory import run_divided
from esscher.lm.packing import micro_batches, text_lengths

if TYPE_CHECKING:
    from esscher.train.lessons import Lesson
    from esscher.train.optimiser import Optimiser
    from esscher.train.policies import Policy


def accumulate(policy: Policy, optimiser: Optimiser, lesson: Lesson, micro_batch_tokens: int) -> int:
    """Collect the gradient of ``mean_i(coefficients_i log_prob(x_i))`` in micro-batches; return how large they were.

    When memory runs out, what was collected is forgotten, and all is done again in micro-batches of half the tokens.

    Raises
    ------
    MemoryError
        If memory does not suffice for the longest completion by itself.
    """
    samples, objective = lesson
    coefficients, lengths = objective.coefficients / len(samples), text_lengths(samples)

    def collect(tokens: int) -> int:
        optimiser.clear()
        for rows in micro_batches(lengths, tokens):
            chosen = np.sort(rows)
            policy.add_gradient(samples.take_completions(chosen), coefficients[chosen])
            optimiser.collect()
        return tokens

    def halve(tokens: int, error: BaseException) -> list[int]:
        optimiser.clear()
        if max(map(len, micro_batches(lengths, tokens))) == 1:
            raise MemoryError(
                f"the gradient of one completion, of at most {lengths.max()} tokens with its prompt, does not fit "
                "into memory: train fewer layers or adapters, or shorter completions"
            ) from error
        torch.cuda.empty_cache()
        return [max(min(tokens, int(lengths.sum())) // 2, 1)]

    (fitting,) = run_divided([micro_batch_tokens], collect, halve)
    return fitting
