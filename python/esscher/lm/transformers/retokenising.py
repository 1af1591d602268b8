"""Token ids of texts that a model wrote: made again, they need not be those that it sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from esscher.lm.conversations import is_policys, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import transformers

    from esscher.lm.conversations import Message, Text


class Retokeniser:
    """Makes token ids of prompts and completions as a tokenizer and its chat template read them.

    A prompt that is a text gets the special tokens that the tokenizer puts before one, unless it begins with them; one
    that is a conversation goes through the chat template, and ends where the policy begins. A completion gets no
    special tokens: one that spells them out has them, and one without text is an end token. Of a completion of several
    messages the template's own words, and those of others, are not the policy's.

    Parameters
    ----------
    name
        What the tokenizer is called in messages.
    tokenizer
        The tokenizer.
    """

    tokens: Literal["retokenised"] = "retokenised"

    def __init__(self, name: str, tokenizer: transformers.PreTrainedTokenizerBase) -> None:
        self.name, self._tokenizer = name, tokenizer
        self._prompts: dict[str, list[int]] = {}

    @property
    def size(self) -> int:
        """How many token ids it knows."""
        return len(self._tokenizer)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return str(self._tokenizer.decode(list(ids)))

    def read(self, prompt: Text, completion: Text) -> tuple[list[int], list[int], list[bool]]:
        """Return the ids of a prompt, those of its completion, and which of these are the policy's.

        Raises
        ------
        ValueError
            If there is a conversation and no chat template, or its template does not read one message after the other.
        """
        before = self._prompt(prompt)
        if not isinstance(completion, str) and len(completion) == 1 and is_policys(completion[0]):
            completion = text_of(completion)
        if isinstance(completion, str):
            ids = self._encode(completion) or self._end()
            return before, ids, [True] * len(ids)
        if isinstance(prompt, str):
            raise ValueError("the completion is a conversation, and its prompt is none")
        return before, *self._conversation(prompt, completion)

    def _prompt(self, prompt: Text) -> list[int]:
        key = repr(prompt)
        if key not in self._prompts:
            ids = (
                self._encoded(prompt) if isinstance(prompt, str) else self._encode(self._templated(prompt, begun=True))
            )
            self._prompts[key] = ids
        return self._prompts[key]

    def _encoded(self, prompt: str) -> list[int]:
        start = self._tokenizer.bos_token
        return self._encode(prompt, special=not (isinstance(start, str) and start and prompt.startswith(start)))

    def _encode(self, text: str, *, special: bool = False) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=special, verbose=False))

    def _end(self) -> list[int]:
        end = self._tokenizer.eos_token_id
        if end is None:
            raise ValueError(f"a completion is empty, and {self.name} has no end token")
        return [int(end)]

    def _conversation(self, prompt: Sequence[Message], messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Return the ids of messages after a prompt up to the policy's last, and which of them are the policy's.

        What is the policy's is encoded by itself, as it was sampled.
        """
        read = self._templated(prompt, begun=is_policys(messages[0]))
        ids, chosen = [], []
        for i, message in enumerate(messages):
            # What the template puts before and behind the policy's words is not the policy's.
            begun = self._templated([*prompt, *messages[:i]], begun=True) if is_policys(message) else read
            whole = self._templated([*prompt, *messages[: i + 1]], begun=False)
            if not (begun.startswith(read) and whole.startswith(begun)):
                raise ValueError(
                    f"the chat template of {self.name} changes what it made of earlier messages when message {i} "
                    "comes, so that the policy's tokens cannot be told: give token ids"
                )
            said = self._encode(whole[len(begun) :])
            own = self._up_to_the_end(said) if is_policys(message) else 0
            before = self._encode(begun[len(read) :])
            ids += [*before, *said]
            chosen += [False] * len(before) + [True] * own + [False] * (len(said) - own)
            read = whole
        last = max((i + 1 for i, own in enumerate(chosen) if own), default=len(ids))
        return ids[:last], chosen[:last]

    def _up_to_the_end(self, ids: list[int]) -> int:
        """Return how many ids there are up to the last special one, which ends a message; all if there is none."""
        special = set(self._tokenizer.all_special_ids)
        return max((i + 1 for i, token in enumerate(ids) if token in special), default=len(ids))

    def _templated(self, messages: Sequence[Message], *, begun: bool) -> str:
        if not self._tokenizer.chat_template:
            raise ValueError(f"there is a conversation, and {self.name} has no chat template")
        text = self._tokenizer.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=begun, tokenize=False
        )
        return str(text)
