"""Conversations: messages of several speakers, of whom one is the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]
# A text, or a conversation: messages with a "role", and a "content" that is a text or a list of parts.
Text = str | Sequence[Message]
POLICY = ("assistant", "model", "gpt")


def is_policys(message: Message) -> bool:
    """Tell by its role whether a message is the policy's.

    Examples
    --------
    >>> is_policys({"role": "assistant", "content": "Yes"}), is_policys({"role": "tool", "content": "4"})
    (True, False)
    """
    return message.get("role") in POLICY


def text_of(content: Text) -> str:
    """Return a text as it is, or of a conversation what its messages say, each beginning a line.

    Parameters
    ----------
    content
        A text, or messages with a "content" that is a text or a list of parts, such as {"type": "text", "text": "Hi"}.

    Raises
    ------
    ValueError
        If a part is no text.

    Examples
    --------
    >>> text_of([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who are you?"}]).splitlines()
    ['Be kind.', 'Who are you?']
    """
    if isinstance(content, str):
        return content
    return "\n".join(_content_of(message) for message in content)


def _content_of(message: Message) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else "".join(_text_of_part(part) for part in content or ())


def _text_of_part(part: Message) -> str:
    if part.get("text") is None:
        raise ValueError(f"a message has a part of type {part.get('type')!r}: only texts are read")
    return str(part["text"])
