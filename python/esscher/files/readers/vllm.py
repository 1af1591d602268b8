"""vLLM: bodies of completions and chat completions, alone or as `run-batch` writes them.

A choice is a sample. The log-probs of its tokens are the policy's. Where `prompt_logprobs` go over prompt and
completion, the completion's are the prior's. A log-prob that the server bounds by -9999 is -inf.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from esscher.files.readers import reading

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

    from esscher.files.conversion import Converted

NAME = "vllm"
STEP = None
FAILED, EMPTY = "requests that failed", "choices without a token"
# What the server says where a log-prob is -inf, which JSON has no name for.
BOUND = -9999.0
TOKEN = "token_id:"
BODY = ("choices", "prompt_logprobs", "prompt_token_ids", "object", "usage")


class Choice(NamedTuple):
    """A completion of a request: the row that it is from, its body and itself."""

    row: int
    body: dict[str, Any]
    choice: dict[str, Any]


def is_mine(_path: Path, names: Collection[str]) -> bool:
    """Tell by its columns whether a file holds answers of a server."""
    return {"custom_id", "response"} <= set(names) or {"choices", "object"} <= set(names)


def convert(_path: Path, table: pa.Table, _first: int) -> Converted:
    """Return the samples of a block."""
    out: Counter[str] = Counter()
    found: list[Choice] = []
    for row, body in enumerate(_bodies(table)):
        if body is None:
            out[FAILED] += 1
        else:
            choices = [Choice(row, body, choice) for choice in body.get("choices") or ()]
            whole = [one for one in choices if _ids(one.choice) != []]
            out[EMPTY] += len(choices) - len(whole)
            found += whole
    prompts, completions = [_prompt(one) for one in found], [_ids(one.choice) for one in found]
    ours = {
        "prompt_token_ids": _if_all(prompts),
        "completion_token_ids": _if_all(completions),
        "policy_logprobs": _if_any([_logprobs(one.choice) for one in found]),
        "prior_logprobs": _if_any([_prior(*one) for one in zip(found, prompts, completions, strict=True)]),
        "terminated": reading.endings([one.choice.get("finish_reason") for one in found]),
        "prompt": _if_any([one.body.get("prompt_text") for one in found]),
        "completion": _if_any([_text(one.choice) for one in found]),
    }
    rows = np.array([one.row for one in found], np.int64)
    return reading.samples(NAME, table, ours, used=("response", "error", *BODY), rows=rows, left_out=out)


def _bodies(table: pa.Table) -> list[dict[str, Any] | None]:
    """Return the body of each row; `None` of one that failed."""
    if "response" not in table.column_names:
        columns = {name: reading.values(table, name) for name in table.column_names if name in BODY}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    pairs = zip(reading.values(table, "response"), reading.values(table, "error"), strict=True)
    return [None if error else _body(response) for response, error in pairs]


def _body(response: dict[str, Any] | None) -> dict[str, Any] | None:
    if not response or response.get("status_code") not in (None, 200):
        return None
    body = response.get("body")
    return body if isinstance(body, dict) and body.get("choices") else None


def _prompt(one: Choice) -> list[int] | None:
    ids: list[int] | None = one.choice.get("prompt_token_ids") or one.body.get("prompt_token_ids")
    return ids


def _text(choice: dict[str, Any]) -> Any:
    return (choice.get("message") or {}).get("content") if choice.get("text") is None else choice["text"]


def _tokens(choice: dict[str, Any]) -> list[tuple[str, float | None]] | None:
    """Return each token with its log-prob, as chat completions or completions tell them."""
    logprobs = choice.get("logprobs") or {}
    if logprobs.get("content") is not None:
        return [(one["token"], one["logprob"]) for one in logprobs["content"]]
    if logprobs.get("token_logprobs") is not None:
        return list(zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True))
    return None


def _ids(choice: dict[str, Any]) -> list[int] | None:
    """Return a choice's ids, which may be told as its tokens."""
    ids: list[int] | None = choice.get("token_ids")
    tokens = _tokens(choice)
    if ids is None and tokens and all(token.startswith(TOKEN) for token, _ in tokens):
        return [int(token.removeprefix(TOKEN)) for token, _ in tokens]
    return ids


def _logprobs(choice: dict[str, Any]) -> list[float | None] | None:
    tokens = _tokens(choice)
    if tokens is None:
        return None
    # With echo those of the prompt come first.
    return [_unbounded(logprob) for _, logprob in tokens][-len(_ids(choice) or tokens) :]


def _prior(one: Choice, prompt: list[int] | None, completion: list[int] | None) -> list[float | None] | None:
    """Return the completion's part of log-probs that go over prompt and completion."""
    places = one.choice.get("prompt_logprobs") or one.body.get("prompt_logprobs")
    if not places or prompt is None or completion is None or len(places) != len(prompt) + len(completion):
        return None
    pairs = zip(completion, places[len(prompt) :], strict=True)
    return [_unbounded(_of_token(place, token)) for token, place in pairs]


def _of_token(place: dict[str, Any] | None, token: int) -> float | None:
    found = (place or {}).get(str(token))
    logprob: float | None = found.get("logprob") if isinstance(found, dict) else found
    return logprob


def _unbounded(logprob: float | None) -> float | None:
    return -math.inf if logprob is not None and logprob <= BOUND else logprob


def _if_all(lists: list[Any]) -> pa.Array | None:
    return None if None in lists else reading.column_of(lists)


def _if_any(found: list[Any]) -> pa.Array | None:
    if all(one is None for one in found):
        return None
    return reading.numbers_of(found) if any(isinstance(one, list) for one in found) else reading.column_of(found)
