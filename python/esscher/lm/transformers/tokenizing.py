"""Texts to token ids and back, by the tokenizer that comes with a model."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from esscher.groups import as_integers
from esscher.lm.base import NoTokenizerError
from esscher.lm.transformers.loading import load_tokenizer
from esscher.ragged import Ragged
from esscher.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike
    from transformers import PreTrainedTokenizerBase

    from esscher.lm.transformers.sources import ModelSource


class TextCoder:
    """The part of a model that reads and writes texts; see `TextModel`.

    Parameters
    ----------
    name
        What the model is called in messages.
    source
        Where its tokenizer comes from; without it, only token ids can be used.
    """

    end_token_ids: tuple[int, ...]

    def __init__(self, name: str, source: ModelSource | None) -> None:
        self.name = name
        self._source = source
        # Options change the tokenizer while it encodes, so one thread uses it at a time.
        self._tokenizing = threading.Lock()

    def encode(
        self, texts: Sequence[str], *, add_special_tokens: bool = False, parse_special_tokens: bool = True
    ) -> Ragged:
        """Token ids of texts, uint32.

        Parameters
        ----------
        texts
            The texts.
        add_special_tokens
            Whether the tokenizer puts its special tokens around each text, such as a start token.
        parse_special_tokens
            Whether a special token that is spelled out in a text becomes that token, rather than plain text.

        Raises
        ------
        NoTokenizerError
            If the model came without a tokenizer.
        TypeError
            If `texts` is one text instead of several.
        """
        if isinstance(texts, str):
            raise TypeError("texts is one text: give a list of them")
        tokenizer = self.tokenizer
        options = {"add_special_tokens": add_special_tokens, "split_special_tokens": not parse_special_tokens}
        rows = []
        for text in texts:
            # Locked for one text at a time, so that a thread with few texts need not wait for one with many.
            with self._tokenizing:
                # Not verbose: `logprobs` and `sample` check whether a text is too long.
                rows.append(tokenizer.encode(text, verbose=False, **options))
        return Ragged.from_rows(rows, dtype=np.uint32)

    def tokenize(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        groups: ArrayLike,
        *,
        add_special_tokens: bool,
        parse_special_tokens: bool,
        terminated: ArrayLike | None = None,
    ) -> Samples:
        """Make samples of texts; see `TextModel.tokenize`.

        Raises
        ------
        NoTokenizerError
            If the model came without a tokenizer.
        ValueError
            As `TextModel.tokenize`.
        """
        samples = Samples(
            self.encode(prompts, add_special_tokens=add_special_tokens, parse_special_tokens=parse_special_tokens),
            self._ended(self.encode(completions, parse_special_tokens=parse_special_tokens), terminated),
            as_integers("groups", groups),
        )
        return samples if terminated is None else replace(samples, terminated=np.asarray(terminated))

    def _ended(self, completions: Ragged, terminated: ArrayLike | None) -> Ragged:
        """Put the end token behind each completion that ended by itself."""
        if terminated is None:
            return completions
        ends = np.asarray(terminated)
        if ends.dtype != np.bool_ or ends.shape != (len(completions),):
            raise ValueError(f"terminated is {ends.dtype} {ends.shape}: it is one boolean for each completion")
        if ends.any() and not self.end_token_ids:
            raise ValueError(f"terminated is set, but {self.name} has no end token to put behind a completion")
        rows = [
            np.append(row, self.end_token_ids[0]) if ended else row
            for row, ended in zip(completions, ends, strict=True)
        ]
        return Ragged.from_rows(rows, dtype=np.uint32)

    def decode(self, token_ids: Iterable[ArrayLike]) -> list[str]:
        """Texts of rows of token ids, special tokens left out.

        Raises
        ------
        NoTokenizerError
            If the model came without a tokenizer.
        """
        rows = [np.asarray(row, dtype=np.int64).tolist() for row in token_ids]
        tokenizer = self.tokenizer
        with self._tokenizing:
            # Tidying up spaces would give a text that encodes to other tokens.
            return [
                str(tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False)) for row in rows
            ]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that came with the model, loaded when first needed."""
        if self._source is None:
            raise NoTokenizerError(f"{self.name} was given without a source for its tokenizer: give token ids")
        return load_tokenizer(self._source)
