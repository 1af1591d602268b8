"""ms-swift: `completions.jsonl`, of which each line is a table: a list of steps, one of prompts, of completions, ...

Rewards are the columns between completion and advantages; the reward is their sum, without those that are null.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from esscher.files.readers import reading

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

    from esscher.files.conversion import Converted

NAME = "ms-swift"
STEP = None
STEPS = ("step", "gen_step")


def is_mine(path: Path, names: Collection[str]) -> bool:
    """Tell by its name and columns whether a file is ms-swift's."""
    is_table = {"prompt", "completion"} <= set(names) and bool({*STEPS} & set(names))
    return is_table and ("advantages" in names or path.name.startswith("completions."))


def convert(_path: Path, table: pa.Table, _first: int) -> Converted:
    """Return the samples of a block."""
    columns = {name: reading.values(table, name) for name in table.column_names}
    sizes = [len(prompts or ()) for prompts in columns["prompt"]]
    flat = {name: _flat(values, sizes) for name, values in columns.items()}
    names = _reward_names(flat)
    apart = {f"{NAME}/{name}" if name in reading.OURS else name: reading.rewards_of(flat[name]) for name in names}
    told = next((flat[name] for name in STEPS if name in flat), [None])
    steps = [reading.number(step) for step in told]
    ours: dict[str, Any] = {
        "prompt": reading.column_of(flat["prompt"]),
        "completion": reading.column_of(flat["completion"]),
        "rewards": reading.known_sum(list(apart.values())) if apart else None,
        "step": None if None in steps else reading.column_of([int(step) for step in steps if step is not None]),
        **apart,
    }
    used = {"prompt", "completion", *STEPS, *names}
    for name in [name for name in flat if name not in used]:
        ours[f"{NAME}/{name}" if name in reading.OURS else name] = reading.column_of(flat[name])
    rows = np.repeat(np.arange(len(sizes)), sizes)
    return reading.samples(NAME, table, ours, used=table.column_names, rows=rows, rewards=tuple(apart))


def _flat(tables: list[Any], sizes: list[int]) -> list[Any]:
    """Return a column of all tables; `None` where one is shorter than its prompts."""
    found = []
    for values, size in zip(tables, sizes, strict=True):
        told = list(values) if isinstance(values, list) else []
        found += (told + [None] * size)[:size]
    return found


def _reward_names(flat: dict[str, list[Any]]) -> list[str]:
    names = list(flat)
    behind = names[names.index("completion") + 1 :]
    if "advantages" not in behind:
        return []
    return [name for name in takewhile(lambda name: name != "advantages", behind) if _are_numbers(flat[name])]


def _are_numbers(values: list[Any]) -> bool:
    return all(value is None or reading.number(value) is not None for value in values)
