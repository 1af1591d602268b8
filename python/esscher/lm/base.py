"""What Esscher asks of a language model: log-probs of completions, and completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from esscher.ragged import Ragged
from esscher.samples import Samples

if TYPE_CHECKING:
    from esscher.ragged import Offsets


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
            If a token id is outside the vocabulary, a prompt or a completion is empty, or prompt and completion are
            longer than `max_tokens`; the message names which one. Nothing has been computed then.
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


def check_scoring(
    model: LanguageModel, prompts: Ragged, completions: Ragged, groups: Offsets, prompt_ids: int | None = None
) -> Samples:
    """Return the request as `Samples`, or raise what `LanguageModel.logprobs` promises.

    `prompt_ids` is how many token ids prompts are made of, where that is not the vocabulary's size.
    """
    samples = Samples(prompts, completions, groups)
    _check_prompts(model, samples.prompts, prompt_ids)
    _check_vocabulary("completions", samples.completions, model.name, model.vocabulary_size)
    total = samples.prompts.lengths[samples.group_of] + samples.completions.lengths
    too_long = np.flatnonzero(total > model.max_tokens)
    if len(too_long):
        i = int(too_long[0])
        prompt = int(samples.group_of[i])
        raise ValueError(
            f"completions[{i}] has {samples.completions.lengths[i]} tokens after the {samples.prompts.lengths[prompt]} "
            f"of prompts[{prompt}]: {model.name} takes at most {model.max_tokens} together, cut them"
        )
    return samples


def check_sampling(
    model: LanguageModel,
    prompts: Ragged,
    n: int,
    max_new_tokens: int,
    sampling_temperature: float,
    prompt_ids: int | None = None,
) -> None:
    """Raise what `LanguageModel.sample` promises; `prompt_ids` as in `check_scoring`."""
    _check_prompts(model, prompts, prompt_ids)
    for name, value in (("n", n), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise ValueError(f"{name} is {value}: it is at least 1")
    if not 0 < sampling_temperature < np.inf:
        raise ValueError(f"sampling_temperature is {sampling_temperature}: it is positive and finite")
    too_long = np.flatnonzero(prompts.lengths + max_new_tokens > model.max_tokens)
    if len(too_long):
        i = int(too_long[0])
        raise ValueError(
            f"prompts[{i}] has {prompts.lengths[i]} tokens and max_new_tokens is {max_new_tokens}: {model.name} takes "
            f"at most {model.max_tokens} together, cut the prompt or ask for fewer new tokens"
        )


def _check_prompts(model: LanguageModel, prompts: Ragged, prompt_ids: int | None) -> None:
    if not isinstance(prompts, Ragged) or (len(prompts.values) and prompts.values.dtype.kind not in "iu"):
        raise TypeError("prompts is not Ragged rows of integer token ids: see Ragged.from_rows")
    if len(prompts) == 0:
        raise ValueError("prompts is empty: there is nothing to complete")
    empty = np.flatnonzero(prompts.lengths == 0)
    if len(empty):
        raise ValueError(f"prompts[{empty[0]}] has no tokens: begin it with at least one, such as a start token")
    _check_vocabulary("prompts", prompts, model.name, model.vocabulary_size if prompt_ids is None else prompt_ids)


def _check_vocabulary(what: str, tokens: Ragged, model_name: str, size: int) -> None:
    ids = tokens.values
    outside = np.flatnonzero((ids < 0) | (ids >= size))
    if len(outside):
        row, token = tokens.locate(outside[0])
        raise ValueError(
            f"{what}[{row}][{token}] is {ids[outside[0]]}: the token ids that {model_name} "
            f"knows there are 0 to {size - 1}; was another model's tokenizer used?"
        )
