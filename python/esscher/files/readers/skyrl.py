"""SkyRL: `dumped_evals/global_step_{N}_evals/{set}.jsonl`, texts with a score, which may be a list with one a token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esscher.files.readers import reading

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

    from esscher.files.conversion import Converted

NAME = "skyrl"
STEP = r"global_step_(\d+)_evals/[^/]*$"


def is_mine(_path: Path, names: Collection[str]) -> bool:
    """Tell by its columns whether a file is SkyRL's."""
    return {"input_prompt", "output_response"} <= set(names)


def convert(path: Path, table: pa.Table, _first: int) -> Converted:
    """Return the samples of a block."""
    rewards = reading.rewards_of(reading.values(table, "score"))
    ours = {
        "prompt": table.column("input_prompt"),
        "completion": table.column("output_response"),
        "rewards": rewards,
        "score": rewards,
        "terminated": reading.endings(reading.values(table, "stop_reason")),
        "step": reading.steps_of(table, "step", reading.step_in(path, STEP)),
    }
    used = ("input_prompt", "output_response", "score", "stop_reason")
    return reading.samples(NAME, table, ours, used=used, rewards=("score",))
