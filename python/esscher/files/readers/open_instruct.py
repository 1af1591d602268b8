"""open-instruct: `{name}_rollouts_{k}.jsonl`, ids of prompts and responses, several steps in a file.

The sampler's log-probs stand for the policy's. What tools said is within the response, and no mask tells it: rows in
which tools were called are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files.readers import reading

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from esscher.files.conversion import Converted

NAME = "open-instruct"
STEP = None
TOKENS = ("prompt_tokens", "response_tokens")
TOOLS = "rows with what tools said, which no mask tells"
EMPTY = "rows with empty responses"


def is_mine(_path: Path, names: Collection[str]) -> bool:
    """Tell by its columns whether a file is open-instruct's."""
    return set(TOKENS) <= set(names)


def convert(_path: Path, table: pa.Table, _first: int) -> Converted:
    """Return the samples of a block."""
    asked = [_used_tools(one) for one in reading.values(table, "request_info")]
    empty = [response == [] for response in reading.values(table, "response_tokens")]
    rows = np.flatnonzero(~(np.array(asked) | np.array(empty)))
    kept = table.take(pa.array(rows))
    rewards = reading.rewards_of(reading.values(kept, "reward"))
    logprobs = reading.values(kept, "logprobs")
    ours = {
        "prompt_id": _prompt_ids(kept),
        "prompt_token_ids": kept.column("prompt_tokens"),
        "completion_token_ids": kept.column("response_tokens"),
        "policy_logprobs": reading.numbers_of(logprobs) if any(one is not None for one in logprobs) else None,
        "rewards": rewards,
        "terminated": reading.endings(reading.values(kept, "finish_reason")),
        "step": reading.steps_of(kept, "step"),
    }
    out = {TOOLS: sum(asked), EMPTY: int((np.array(empty) & ~np.array(asked)).sum())}
    used = (*TOKENS, "reward", "logprobs", "finish_reason", "prompt_idx")
    return reading.samples(NAME, table, ours, used=used, rows=rows, rewards=("rewards",), left_out=out)


def _used_tools(info: Any) -> bool:
    """Whether a request's record tells of calls of tools."""
    return isinstance(info, dict) and bool(info.get("tool_calleds") or info.get("tool_outputs"))


def _prompt_ids(table: pa.Table) -> pa.Array | None:
    """Return which prompt each row is of: within a step, where numbers begin anew in each."""
    told = reading.values(table, "prompt_idx")
    steps = reading.values(table, "step")
    return None if None in told else pa.array([f"{step}/{one}" for step, one in zip(steps, told, strict=True)])
