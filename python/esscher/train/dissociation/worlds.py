"""What the objectives are tried on: a prior, a reward and prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.lm.rewards import FunctionReward, sentiment
from esscher.lm.tabular import END
from esscher.lm.transformers import TransformersLM
from esscher.ragged import Ragged
from esscher.train.policies import TabularPolicy, TransformersPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from esscher.lm.base import Reward
    from esscher.samples import Samples
    from esscher.train.policies import Policy


class World(NamedTuple):
    """A prior, a reward, and prompts.

    Attributes
    ----------
    prompts, prompt_texts
        The prompts, as token ids and for people to read.
    reward
        What a completion is worth.
    untrained
        Returns a new policy that is still the prior, and shares nothing with those before it.
    texts
        Turns rows of token ids into texts for people to read.
    """

    prompts: Ragged
    prompt_texts: Sequence[str]
    reward: Reward
    untrained: Callable[[], Policy]
    texts: Callable[[Ragged], list[str]]


def transformers_world(
    source: str, prompts: Sequence[str], last_layers: int | None, device: str | None, dtype: str | None
) -> World:
    """Return a language model of transformers; a completion is worth how positive it sounds.

    Parameters
    ----------
    source, device, dtype
        As for `TransformersLM.load`.
    prompts
        Texts that are continued.
    last_layers
        How many of its layers are trained; all of it if not given.
    """
    lm = TransformersLM.load(source, device, dtype)
    return World(
        prompts=lm.encode(prompts),
        prompt_texts=prompts,
        reward=FunctionReward("sentiment", sentiment, lm),
        untrained=lambda: TransformersPolicy(TransformersLM.load(source, device, dtype), last_layers=last_layers),
        texts=lm.decode,
    )


def tabular_world(rng: np.random.Generator, prompts: int, vocabulary: int, depth: int) -> World:
    """Return random tables, under which every number is exact; a completion is worth the sum of its tokens' values."""
    nodes = sum((vocabulary - 1) ** k for k in range(depth))
    logits = rng.normal(np.linspace(0.3, -0.6, vocabulary), 1.0, size=(prompts, nodes, vocabulary))
    values = rng.normal(size=vocabulary) / depth
    values[END] = 0.0
    return World(
        prompts=Ragged.from_rows([[prompt] for prompt in range(prompts)]),
        prompt_texts=[f"table {prompt}:" for prompt in range(prompts)],
        reward=TokenValues(values),
        untrained=lambda: TabularPolicy(logits),
        texts=_letters,
    )


def _letters(rows: Ragged) -> list[str]:
    """Write tokens as letters, the end token as a full stop."""
    return ["".join("." if token == END else chr(ord("a") + token - 1) for token in row.tolist()) for row in rows]


class TokenValues:
    """Sum of the values of a completion's tokens."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self.name = "token values"
        self._values = values

    def __call__(self, samples: Samples) -> NDArray[np.float64]:
        """Rewards of the completions [N]."""
        completions = samples.completions
        return completions.rows.sums(self._values[completions.values])
