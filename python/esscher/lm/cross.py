"""Completions after other prompts than their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher.ragged import Ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.lm.base import LanguageModel
    from esscher.samples import Samples


def other_prompts(prompts: int, others: int) -> NDArray[np.int64]:
    """Return which other prompts each of so many is exchanged for [P, K]; all others, if there are no more.

    They lie evenly around the prompts, as neighbours in a file are often alike, and each is taken as often.

    Examples
    --------
    >>> other_prompts(6, 2).tolist()
    [[2, 4], [3, 5], [4, 0], [5, 1], [0, 2], [1, 3]]
    >>> other_prompts(3, 8).tolist()
    [[1, 2], [2, 0], [0, 1]]
    """
    k = min(others, prompts - 1)
    steps = np.arange(1, k + 1) * prompts // (k + 1)
    found: NDArray[np.int64] = (np.arange(prompts)[:, None] + steps) % prompts
    return found


def cross_log_probs(model: LanguageModel, samples: Samples, others: int) -> Ragged:
    """Return the log-prob of each completion after so many of the other prompts, summed over its actions.

    Parameters
    ----------
    model
        The policy.
    samples
        Completions of at least two prompts, which differ.
    others
        How many other prompts to take, as `other_prompts` says.

    Returns
    -------
    Rows of K numbers for each completion, float64 nats.

    Raises
    ------
    ValueError
        If there is a single prompt, and as `LanguageModel.logprobs`.

    Examples
    --------
    >>> from esscher.lm.tabular import TabularLM
    >>> model = TabularLM(np.log([[[0.5, 0.5]], [[0.25, 0.75]]]))
    >>> drawn = model.sample(Ragged.from_rows([[0], [1]]), 2, 1, np.random.default_rng(0))
    >>> [row.tolist() for row in drawn.completions]
    [[1], [0], [0], [0]]
    >>> np.exp(cross_log_probs(model, drawn, 1).values).round(2)
    array([0.75, 0.25, 0.5 , 0.5 ])
    """
    which = other_prompts(len(samples.prompts), others)
    if which.shape[1] == 0:
        raise ValueError("there is a single prompt: no completion can be put after another")
    columns = []
    for prompts in which.T:
        found = model.logprobs(samples.prompts.take(prompts), samples.actions, samples.groups)
        columns.append(found.rows.sums(found.values.astype(np.float64)))
    return Ragged.from_lengths(np.stack(columns, axis=1).ravel(), np.full(len(samples), len(columns)))
