"""Texts as ids again: what a tokenizer makes of texts that files hold without the ids that were sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files.readers.messages import ASSISTANT
from esscher.files.readers.reading import values

if TYPE_CHECKING:
    from collections.abc import Sequence

TEXTS = ("prompt", "completion")
# What is made of them; the mask, only of conversations, is of the completion's tokens.
IDS = ("prompt_token_ids", "completion_token_ids", "action_mask")


class TextTokenizer(Protocol):
    """What turns texts into ids: the part of a tokenizer of transformers that is used."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the ids of a text."""
        ...

    def apply_chat_template(
        self, conversation: Sequence[dict[str, Any]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        """Return a conversation as a text."""
        ...


class Retokenised(NamedTuple):
    """A prompt and a completion as ids, and which of the completion's the policy chose."""

    prompt: list[int]
    completion: list[int]
    chosen: list[bool]


def retokenise(tokenizer: TextTokenizer, prompt: Any, completion: Any) -> Retokenised:
    """Return the ids of a prompt and a completion, texts or messages.

    Texts are taken as they are: nothing is put before or behind them, and what looks like a special token is one.
    Conversations are texts by the chat template; of a completion's messages the policy wrote those of the assistant,
    each behind the template's prompt for it.

    Parameters
    ----------
    tokenizer
        The policy's tokenizer.
    prompt, completion
        Each a text, or messages with a role and a content.

    Raises
    ------
    ValueError
        If the tokenizer has no chat template and messages need one, or it writes earlier messages otherwise when later
        ones follow, so that it cannot be told which are whose.
    """
    if isinstance(completion, str) and not isinstance(prompt, list):
        parts = [(prompt or "", False), (completion, True)]
    else:
        said = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}] if prompt else []
        answer = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
        parts = _rendered(tokenizer, said, answer)
    ids = [(tokenizer.encode(text, add_special_tokens=False), chosen) for text, chosen in parts]
    first = next((i for i, (_, chosen) in enumerate(ids) if chosen), len(ids))
    behind = [(token, chosen) for tokens, chosen in ids[first:] for token in tokens]
    return Retokenised(
        [token for tokens, _ in ids[:first] for token in tokens],
        [token for token, _ in behind],
        [chosen for _, chosen in behind],
    )


def with_ids(table: pa.Table, tokenizer: TextTokenizer) -> pa.Table:
    """Return rows with the ids of their texts, and with a mask where conversations have turns of others."""
    pairs = zip(values(table, TEXTS[0]), values(table, TEXTS[1]), strict=True)
    made = [retokenise(tokenizer, prompt, completion) for prompt, completion in pairs]
    kinds = (pa.uint32(), pa.uint32(), pa.bool_())
    for name, column, kind in zip(IDS, zip(*made, strict=True), kinds, strict=True):
        table = table.append_column(name, pa.array(column, pa.list_(kind)))
    return table


def _rendered(
    tokenizer: TextTokenizer, prompt: Sequence[dict[str, Any]], completion: Sequence[dict[str, Any]]
) -> list[tuple[str, bool]]:
    """Return a conversation's text in parts, and which the policy wrote: those of the assistant behind the prompt."""
    parts: list[tuple[str, bool]] = []
    done, said = "", list(prompt)
    for message in completion:
        is_own = message.get("role") in ASSISTANT
        if is_own:
            asked = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
            parts.append((_behind(done, asked), False))
            done = asked
        said.append(message)
        told = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=False)
        parts.append((_behind(done, told), is_own))
        done = told
    return parts


def _behind(done: str, text: str) -> str:
    if not text.startswith(done):
        raise ValueError(
            "the chat template writes earlier messages otherwise when later ones follow: which tokens are whose cannot "
            "be told from the texts"
        )
    return text.removeprefix(done)
