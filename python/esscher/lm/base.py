"""What Esscher asks of a language model: log-probs of completions, and completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from esscher.ragged import Offsets, Ragged
    from esscher.samples import Samples


class LanguageModel(Protocol):
    """A distribution over token sequences given a prompt.

    Attributes
    ----------
    name
        What the model is called in messages and reports.
    vocabulary_size
        Token ids lie in ``0 .. vocabulary_size - 1``.
    end_token_ids
        Ids that end a completion; each counts as a token of the completion it ends.
    max_tokens
        The longest prompt and completion together.
    """

    name: str
    vocabulary_size: int
    end_token_ids: tuple[int, ...]
    max_tokens: int

    def logprobs(self, prompts: Ragged, completions: Ragged, groups: Offsets) -> Ragged:
        """Log-prob of every completion token given its prompt and its past, in nats, float32 or float64.

        Prompts are not counted; every completion token is, the end-of-sequence token included.

        Raises
        ------
        ValueError
            If a token id is outside the vocabulary, a prompt is empty, or prompt and completion are longer than
            `max_tokens`; the message names which one.
        """
        ...

    def sample(
        self, prompts: Ragged, n: int, max_new_tokens: int, rng: np.random.Generator, sampling_temperature: float = 1.0
    ) -> Samples:
        """Draw `n` completions of every prompt.

        The result's `policy_logprobs` are those of the distribution sampled from, `sampling_temperature` included, and
        `terminated` tells which completions ended by themselves within `max_new_tokens`.

        Raises
        ------
        ValueError
            As `logprobs`, and if `n` or `max_new_tokens` is below 1 or `sampling_temperature` is not positive.
        """
        ...
