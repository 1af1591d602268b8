"""verl: `{step}.jsonl` of `rollout_data_dir` or `validation_data_dir`, texts with a score and what the reward tells.

The score is the reward; numbers may be written as text. Newer trainers give each row a `uid`, prompt_rollout_output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files.readers import reading

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from esscher.files.conversion import Converted

NAME = "verl"
STEP = r"(?:^|/)(\d+)\.[^/]*$"


def is_mine(_path: Path, names: Collection[str]) -> bool:
    """Tell by its columns whether a file is verl's."""
    return {"input", "output", "score"} <= set(names)


def convert(path: Path, table: pa.Table, _first: int) -> Converted:
    """Return the samples of a block."""
    rewards = reading.rewards_of(reading.values(table, "score"))
    ours = {
        "prompt_id": _prompt_ids(table),
        "prompt": table.column("input"),
        "completion": table.column("output"),
        "rewards": rewards,
        "score": rewards,
        "step": reading.steps_of(table, "step", reading.step_in(path, STEP)),
    }
    return reading.samples(NAME, table, ours, used=("input", "output", "score"), rewards=("score",))


def _prompt_ids(table: pa.Table) -> pa.Array | None:
    """Return the prompt's part of what names a row, if all have it."""
    parts = [str(uid).rsplit("_", 2) for uid in reading.values(table, "uid")]
    return pa.array([part[0] for part in parts]) if all(len(part) == 3 for part in parts) else None
