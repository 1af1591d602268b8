"""AReaL: `{version}/{task_id}.jsonl`, texts with a reward; the step is the last version of the weights that sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files.readers import reading

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from esscher.files.conversion import Converted

NAME = "areal"
STEP = r"(?:^|/)(\d+)/[^/]*$"


def is_mine(_path: Path, names: Collection[str]) -> bool:
    """Tell by its columns whether a file is AReaL's."""
    return {"task_id", "seqlen", "prompt_len", "prompt", "completion"} <= set(names)


def convert(path: Path, table: pa.Table, _first: int) -> Converted:
    """Return the samples of a block."""
    ours = {
        "prompt_id": pa.array(map(str, reading.values(table, "task_id"))),
        "prompt": table.column("prompt"),
        "completion": table.column("completion"),
        "rewards": reading.rewards_of(reading.values(table, "reward")),
        "step": reading.steps_of(table, "tail_version", reading.step_in(path, STEP)),
    }
    return reading.samples(NAME, table, ours, used=("prompt", "completion", "reward"), rewards=("rewards",))
