"""What the objectives are tried on: a prior, a reward and prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from esscher.lm.rewards import FunctionReward, sentiment
from esscher.lm.tabular import END
from esscher.lm.transformers import TransformersLM
from esscher.ragged import Ragged
from esscher.train.policies import TabularPolicy, TransformersPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from esscher.lm.base import Reward
    from esscher.samples import Samples
    from esscher.train.policies import Policy


class World(Protocol):
    """A prior, a reward, and prompts."""

    prompts: Ragged
    prompt_texts: Sequence[str]
    reward: Reward

    def untrained(self) -> Policy:
        """Return a policy that is the prior still, and shares nothing with those before it."""
        ...

    def texts(self, rows: Ragged) -> list[str]:
        """Write token ids so that they can be read."""
        ...


class TransformersWorld:
    """A language model of transformers; a completion is worth how positive it sounds.

    Parameters
    ----------
    source, device, dtype
        As for `TransformersLM.load`.
    last_layers
        How many of its layers are trained; all of it if not given.
    prompts
        Texts that are continued.
    """

    def __init__(
        self, source: str, prompts: Sequence[str], last_layers: int | None, device: str | None, dtype: str | None
    ) -> None:
        self._source, self._device, self._dtype, self._last_layers = source, device, dtype, last_layers
        self._lm = TransformersLM.load(source, device, dtype)
        self.prompts = self._lm.encode(prompts)
        self.prompt_texts = prompts
        self.reward: Reward = FunctionReward("sentiment", sentiment, self._lm)

    def untrained(self) -> TransformersPolicy:
        """Load the model anew; see `World.untrained`."""
        lm = TransformersLM.load(self._source, self._device, self._dtype)
        return TransformersPolicy(lm, last_layers=self._last_layers)

    def texts(self, rows: Ragged) -> list[str]:
        """Decode; see `World.texts`."""
        return self._lm.decode(rows)


class TabularWorld:
    """Tables that know every number exactly; a completion is worth the sum of what its tokens are.

    Parameters
    ----------
    rng
        Draws the tables and the tokens' values.
    """

    def __init__(self, rng: np.random.Generator, prompts: int, vocabulary: int, depth: int) -> None:
        nodes = sum((vocabulary - 1) ** k for k in range(depth))
        self._logits = rng.normal(np.linspace(0.3, -0.6, vocabulary), 1.0, size=(prompts, nodes, vocabulary))
        self.prompts = Ragged.from_rows([[prompt] for prompt in range(prompts)])
        self.prompt_texts: Sequence[str] = [f"table {prompt}:" for prompt in range(prompts)]
        values = rng.normal(size=vocabulary) / depth
        values[END] = 0.0
        self.reward: Reward = TokenValues(values)

    def untrained(self) -> TabularPolicy:
        """Return tables of their own; see `World.untrained`."""
        return TabularPolicy(self._logits)

    def texts(self, rows: Ragged) -> list[str]:
        """Write tokens as letters, the end token as a full stop; see `World.texts`."""
        return ["".join("." if token == END else chr(ord("a") + token - 1) for token in row.tolist()) for row in rows]


class TokenValues:
    """Sum of the values of a completion's tokens."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self.name = "token values"
        self._values = values

    def __call__(self, samples: Samples) -> NDArray[np.float64]:
        """Rewards of the completions [N]."""
        completions = samples.completions
        sums: NDArray[np.float64] = np.add.reduceat(self._values[completions.values], completions.offsets[:-1])
        return sums
