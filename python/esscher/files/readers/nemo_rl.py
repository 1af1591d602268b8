"""NeMo-RL: `train_data_step{N}.jsonl`, ids with a mask, and `val_data_step{N}.jsonl`, messages.

In the first, each value is in a list of its own, ids of prompt and completion are one row, padded on the right, and the
mask tells the tokens that the policy chose. `prev_logprobs` are the trainer's, `generation_logprobs` the sampler's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files import columns as arrow
from esscher.files.readers import reading
from esscher.files.readers.messages import prompt_and_completion

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from numpy.typing import NDArray

    from esscher.files.conversion import Converted
    from esscher.ragged import Ragged

NAME = "nemo-rl"
STEP = r"(?:train|val)_data_step(\d+)\.[^/]*$"
IDS, MASK, ROW_MASK = "token_ids", "token_loss_mask", "sample_loss_mask"
# Their log-probs, and which of ours they are.
LOGPROBS = {
    "prev_logprobs": "policy_logprobs",
    "generation_logprobs": "rollout_logprobs",
    "reference_policy_logprobs": "prior_logprobs",
}
LEFT_OUT = "rows that sample_loss_mask leaves out", "rows without a token that token_loss_mask keeps"


def is_mine(path: Path, names: Collection[str]) -> bool:
    """Tell by its name and columns whether a file is NeMo-RL's."""
    is_train, is_val = {IDS, MASK} <= set(names), {"content", "rewards"} <= set(names)
    return is_train or (is_val and reading.step_in(path, STEP) is not None)


def convert(path: Path, table: pa.Table, first: int) -> Converted:
    """Return the samples of a block."""
    if IDS not in table.column_names:
        return _validation(path, table)
    ids = arrow.token_ids(IDS, table.column(IDS), first)
    mask = arrow.raw_numbers(MASK, table.column(MASK), first)
    reading.same_lengths(MASK, mask, IDS, ids, first)
    counts = _counts(table, first)
    parted = reading.split(_of_rows(mask, counts), _lengths(table, first))
    chosen = parted.completions(mask)
    ours: dict[str, Any] = {
        "prompt_token_ids": arrow.to_lists(parted.prompts(ids)),
        "completion_token_ids": arrow.to_lists(parted.completions(ids)),
        **reading.logprobs_of(table, LOGPROBS, mask, parted, first),
        "rewards": _rewards(table).take(pa.array(parted.kept)),
        "action_mask": reading.action_mask(chosen),
        "step": reading.steps_of(table, "", reading.step_in(path, STEP), len(parted.kept)),
    }
    out = {LEFT_OUT[0]: int((~counts).sum()), LEFT_OUT[1]: int(counts.sum()) - len(parted.kept)}
    used = (IDS, MASK, ROW_MASK, "input_lengths", "rewards", "advantages", *LOGPROBS)
    return reading.samples(NAME, table, ours, used=used, rows=parted.kept, rewards=("rewards",), left_out=out)


def _validation(path: Path, table: pa.Table) -> Converted:
    messages = [one[0] if one and isinstance(one[0], list) else one for one in reading.values(table, "content")]
    prompts, completions = zip(*map(prompt_and_completion, messages), strict=True)
    ours = {
        "prompt": reading.column_of(prompts),
        "completion": reading.column_of(completions),
        "rewards": _rewards(table),
        "step": reading.steps_of(table, "", reading.step_in(path, STEP)),
    }
    return reading.samples(NAME, table, ours, used=("content", "rewards"), rewards=("rewards",))


def _rewards(table: pa.Table) -> pa.Array:
    return reading.rewards_of(reading.values(table, "rewards"))


def _counts(table: pa.Table, first: int) -> NDArray[np.bool_]:
    """Return which rows count, by the mask of rows."""
    if ROW_MASK not in table.column_names:
        return np.ones(len(table), np.bool_)
    counts: NDArray[np.bool_] = arrow.numbers(ROW_MASK, table.column(ROW_MASK), first) != 0
    return counts


def _lengths(table: pa.Table, first: int) -> NDArray[np.int64] | None:
    if "input_lengths" not in table.column_names or table.column("input_lengths").null_count:
        return None
    return arrow.numbers("input_lengths", table.column("input_lengths"), first).astype(np.int64)


def _of_rows(mask: Ragged, counts: NDArray[np.bool_]) -> Ragged:
    """Return a mask of tokens that keeps nothing of rows that do not count."""
    return type(mask)(mask.values * mask.rows.spread(counts), mask.offsets)
