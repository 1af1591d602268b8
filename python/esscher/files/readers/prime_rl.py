"""prime-rl: `token_exports/step_{N}/rank_{R}.jsonl`, ids of prompt and completion in one row, with a mask.

`trainer_logprobs` are the policy's, `inference_logprobs` the sampler's, `entropy` the policy's. Numbers that are not
finite are null there. There are no rewards; those are in verifiers' traces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files import columns as arrow
from esscher.files.readers import reading

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from esscher.files.conversion import Converted

NAME = "prime-rl"
STEP = r"step_(\d+)/[^/]*$"
IDS, MASK = "token_ids", "loss_mask"
COLUMNS = {
    "trainer_logprobs": "policy_logprobs",
    "inference_logprobs": "rollout_logprobs",
    "entropy": "policy_entropy",
}
LEFT_OUT = "rows without a token that loss_mask keeps"


def is_mine(_path: Path, names: Collection[str]) -> bool:
    """Tell by its columns whether a file is an export of prime-rl's."""
    return {IDS, MASK} <= set(names) and bool({"inference_logprobs", "trainer_logprobs"} & set(names))


def convert(path: Path, table: pa.Table, first: int) -> Converted:
    """Return the samples of a block."""
    ids = arrow.token_ids(IDS, table.column(IDS), first)
    mask = arrow.raw_numbers(MASK, table.column(MASK), first)
    reading.same_lengths(MASK, mask, IDS, ids, first)
    parted = reading.split(mask)
    chosen = parted.completions(mask)
    steps = reading.steps_of(table, "step", reading.step_in(path, STEP))
    columns = {
        "prompt_token_ids": arrow.to_lists(parted.prompts(ids)),
        "completion_token_ids": arrow.to_lists(parted.completions(ids)),
        **reading.logprobs_of(table, COLUMNS, mask, parted, first),
        "action_mask": reading.action_mask(chosen),
        "step": None if steps is None else steps.take(pa.array(parted.kept)),
    }
    out = {LEFT_OUT: len(ids) - len(parted.kept)}
    used = (IDS, MASK, "position_ids", *COLUMNS)
    return reading.samples(NAME, table, columns, used=used, rows=parted.kept, left_out=out)
