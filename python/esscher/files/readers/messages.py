"""Conversations: lists of messages, each with a role and a content."""

from __future__ import annotations

from typing import Any

from esscher.lm.conversations import is_policys


def prompt_and_completion(messages: Any) -> tuple[Any, Any]:
    """Part a conversation before the first message of the policy.

    One message of text alone is given as its text; what is no conversation is all completion.

    Examples
    --------
    >>> prompt_and_completion([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
    ([{'role': 'user', 'content': 'Hi'}], 'Hello')
    >>> prompt_and_completion("Hi there")
    (None, 'Hi there')
    """
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        return None, messages
    first = next((i for i, one in enumerate(messages) if is_policys(one)), len(messages))
    completion: Any = messages[first:]
    if len(completion) == 1 and isinstance(completion[0].get("content"), str):
        completion = completion[0]["content"]
    return messages[:first], completion
