"""Protocols of language models, tokenizers and rewards, and the checks that all models make of their input."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NotRequired, Protocol, Self, TypedDict, Unpack, runtime_checkable

import numpy as np

from esscher.ragged import Ragged
from esscher.samples import Samples, as_samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from esscher.ragged import Masked
    from esscher.token_scores import TokenScores


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
    start_token_id
        What an empty prompt begins with, and is counted as; `None` if an empty prompt is refused.
    max_tokens
        The longest prompt and completion together.
    """

    name: str
    vocabulary_size: int
    end_token_ids: tuple[int, ...]
    start_token_id: int | None
    max_tokens: int

    def logprobs(self, prompts: Ragged, completions: Ragged | Masked, groups: ArrayLike) -> Ragged:
        """Log-prob of every completion token given its prompt and its past, in nats, float32 or float64.

        Prompts are not counted; every completion token is, the end-of-sequence token included. `Masked` completions are
        read whole, and have log-probs of the tokens that the mask keeps alone.

        Raises
        ------
        ValueError
            If a token id is outside the vocabulary, a completion is empty, a prompt is empty and there is no start
            token, or prompt and completion are longer than `max_tokens`; the message names which one. Nothing has been
            computed then.
        MemoryError
            If a completion is too long for the memory there is, by itself; the message names it.
        """
        ...

    def token_scores(
        self, prompts: Ragged, completions: Ragged | Masked, groups: ArrayLike, prior: Self | None = None
    ) -> TokenScores:
        """Score every completion token by the whole next-token distribution [T], in nats, float32 or float64.

        Log-prob of the token and entropy; with a `prior`, a model of the same vocabulary, also the prior's log-prob and
        KL(self‖prior) over the vocabulary. Of `Masked` completions those tokens that are kept.

        Raises
        ------
        ValueError
            As `logprobs`, for either model; and if the two have different vocabularies.
        MemoryError
            As `logprobs`.
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


class NoTokenizerError(ValueError):
    """A model came without a tokenizer: it takes token ids, and no texts."""


class TokenizeOptions(TypedDict):
    """How texts become token ids.

    Attributes
    ----------
    add_special_tokens
        Whether prompts get the special tokens that the tokenizer puts around a text, such as a start token.
    parse_special_tokens
        Whether a special token that is spelled out in a text becomes that token, rather than plain text.
    terminated
        Which completions ended by themselves [N]: these get an end token, and the samples say so; none if not given.
    """

    add_special_tokens: bool
    parse_special_tokens: bool
    terminated: NotRequired[ArrayLike | None]


@runtime_checkable
class TextModel(Protocol):
    """A model that also turns texts into token ids and back."""

    def tokenize(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        groups: ArrayLike,
        **options: Unpack[TokenizeOptions],
    ) -> Samples:
        """Make samples of texts, each encoded by itself.

        Parameters
        ----------
        prompts, completions
            Their texts [P], [N].
        groups
            Offsets of the completions that share a prompt [P + 1].
        options
            See `TokenizeOptions`.

        Raises
        ------
        NoTokenizerError
            If the model came without a tokenizer.
        ValueError
            If a completion has no tokens, or groups or `terminated` do not fit the texts.
        """
        ...

    def decode(self, token_ids: Iterable[ArrayLike]) -> list[str]:
        """Texts of rows of token ids, special tokens left out; raises `NoTokenizerError`."""
        ...


class Reward(Protocol):
    """A function that gives every completion a number.

    Attributes
    ----------
    name
        What the reward is called in messages.
    """

    name: str

    def __call__(self, samples: Samples) -> ArrayLike:
        """Rewards of the completions [N], finite or -inf; whatever it raises fails these completions' rewards alone."""
        ...


class ModelLimits(NamedTuple):
    """What a model can read, where the model itself is elsewhere; the same as in `LanguageModel`."""

    name: str
    vocabulary_size: int
    start_token_id: int | None
    max_tokens: int


def check_scoring(
    model: LanguageModel,
    prompts: Ragged,
    completions: Ragged | Masked,
    groups: ArrayLike,
    prompt_ids: int | None = None,
) -> Samples:
    """Return the request as `Samples`, or raise what `LanguageModel.logprobs` promises.

    `prompt_ids` is how many token ids prompts are made of, where that is not the vocabulary's size.
    """
    samples = as_samples(prompts, completions, groups)
    _check_prompts(model, samples.prompts, prompt_ids)
    _check_vocabulary("completions", samples.completions, model.name, model.vocabulary_size)
    lengths = samples.completions.lengths
    too_long = first_too_long(model, read_lengths(model, samples.prompts)[samples.groups.of] + lengths)
    if too_long is not None:
        i, rule = too_long
        prompt = int(samples.groups.of[i])
        raise ValueError(
            f"completions[{i}] has {lengths[i]} tokens after the {samples.prompts.lengths[prompt]} of "
            f"prompts[{prompt}]: {rule}, cut them"
        )
    return samples


def read_lengths(model: LanguageModel | ModelLimits, prompts: Ragged) -> NDArray[np.int64]:
    """Return how many tokens the model reads of each prompt [P]; of an empty one it reads its start token."""
    return prompts.lengths if model.start_token_id is None else np.maximum(prompts.lengths, 1)


def first_too_long(model: LanguageModel | ModelLimits, lengths: NDArray[np.int64]) -> tuple[int, str] | None:
    """Return the first of some texts that is longer than a model reads, and the rule; `None` if none is."""
    too_long = np.flatnonzero(lengths > model.max_tokens)
    return (int(too_long[0]), f"{model.name} takes at most {model.max_tokens} together") if len(too_long) else None


def first_without_start(model: LanguageModel | ModelLimits, prompts: Ragged) -> tuple[int, str] | None:
    """Return the first prompt that has no token for a model to begin with, and the rule; `None` if all have one."""
    if model.start_token_id is not None or prompts.lengths.all():
        return None
    return int(prompts.lengths.argmin()), f"{model.name} has no start token: begin it with at least one token"


def token_id_rule(name: str, vocabulary_size: int) -> str:
    """Say which token ids a model knows."""
    return f"the token ids that {name} knows are 0 to {vocabulary_size - 1}; was another model's tokenizer used?"


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
    too_long = first_too_long(model, read_lengths(model, prompts) + max_new_tokens)
    if too_long is not None:
        i, rule = too_long
        raise ValueError(
            f"prompts[{i}] has {prompts.lengths[i]} tokens and max_new_tokens is {max_new_tokens}: {rule}, cut the "
            "prompt or ask for fewer new tokens"
        )


def _check_prompts(model: LanguageModel, prompts: Ragged, prompt_ids: int | None) -> None:
    if not isinstance(prompts, Ragged) or (len(prompts.values) and prompts.values.dtype.kind not in "iu"):
        raise TypeError("prompts is not Ragged rows of integer token ids: see Ragged.from_rows")
    if len(prompts) == 0:
        raise ValueError("prompts is empty: there is nothing to complete")
    startless = first_without_start(model, prompts)
    if startless is not None:
        raise ValueError(f"prompts[{startless[0]}] has no tokens, and {startless[1]}")
    _check_vocabulary("prompts", prompts, model.name, model.vocabulary_size if prompt_ids is None else prompt_ids)


def _check_vocabulary(what: str, tokens: Ragged, model_name: str, size: int) -> None:
    ids = tokens.values
    outside = np.flatnonzero((ids < 0) | (ids >= size))
    if len(outside):
        row, token = tokens.locate(outside[0])
        raise ValueError(f"{what}[{row}][{token}] is {ids[outside[0]]}: {token_id_rule(model_name, size)}")
