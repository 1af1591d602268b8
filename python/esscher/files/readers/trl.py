"""TRL: `completions/completions_{step}.parquet` of `log_completions=True`, texts or conversations with rewards.

Behind the completion come a column of numbers for each reward function, what they log besides, and the advantage. Which
are rewards is not said: they are the columns whose sum gives the advantages, else all of fractions. The reward is their
sum, each with weight 1, without those that are null: so TRL adds them, of functions that are each for some prompts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files.readers import reading

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from numpy.typing import NDArray

    from esscher.files.conversion import Converted

NAME = "trl"
STEP = r"completions_(\d+)\.[^/]*$"
# How much of their size advantages may differ from what rewards make of them.
ROUNDING = 1e-3
# What TRL adds to a deviation that it divides by.
ADDED = 1e-4


def is_mine(path: Path, names: Collection[str]) -> bool:
    """Tell by its name and columns whether a file is TRL's."""
    is_table = {"step", "prompt", "completion"} <= set(names)
    return is_table and ("advantage" in names or path.name.startswith("completions_"))


def convert(path: Path, table: pa.Table, _first: int) -> Converted:
    """Return the samples of a block."""
    names = _reward_names(table)
    rewards = {name: reading.rewards_of(reading.values(table, name)) for name in names}
    apart = {f"{NAME}/{name}" if name in reading.OURS else name: column for name, column in rewards.items()}
    ours: dict[str, Any] = {
        "prompt": table.column("prompt"),
        "completion": table.column("completion"),
        "rewards": reading.known_sum(list(rewards.values())) if rewards else None,
        "step": reading.steps_of(table, "step", reading.step_in(path, STEP)),
        **apart,
    }
    return reading.samples(NAME, table, ours, used=tuple(names), rewards=tuple(apart))


def _reward_names(table: pa.Table) -> list[str]:
    """Return the columns whose sum the advantages follow, of those of fractions behind the completion."""
    behind = table.column_names[table.column_names.index("completion") + 1 :]
    found = []
    for name in behind:
        if name == "advantage" or not _may_be_reward(table.column(name).type):
            break
        found.append(name)
    if "advantage" not in table.column_names:
        return found
    prompts, advantages = _codes(table), _numbers(table, "advantage")
    sums = np.cumsum([_numbers(table, name) for name in found], axis=0)
    for test in (_gives, _follows):
        many = [i + 1 for i, total in enumerate(sums) if test(advantages, total, prompts)]
        if many:
            return found[: many[-1]]
    return found


def _may_be_reward(kind: Any) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_null(kind))


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    """Return a column as numbers; what is missing counts as 0, as in TRL's own sum."""
    found = np.array([reading.number(value) for value in reading.values(table, name)], np.float64)
    return np.nan_to_num(found, nan=0.0)


def _codes(table: pa.Table) -> NDArray[np.int64]:
    texts = [repr(prompt) for prompt in reading.values(table, "prompt")]
    return np.unique(texts, return_inverse=True)[1]


def _gives(advantages: NDArray[np.float64], total: NDArray[np.float64], prompts: NDArray[np.int64]) -> bool:
    """Whether advantages are what TRL makes of rewards: less each prompt's mean, by its deviation, that of all or 1."""
    if not np.abs(advantages).max() > 0:
        return False
    groups = [total[prompts == prompt] for prompt in range(int(prompts.max()) + 1)]
    mean, deviation = np.array([one.mean() for one in groups]), np.array([_deviation(one) for one in groups])
    centred = total - mean[prompts]
    ways = (centred, centred / (deviation[prompts] + ADDED), centred / (_deviation(total) + ADDED))
    return any(np.allclose(advantages, way, rtol=1e-5, atol=1e-6) for way in ways)


def _deviation(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _follows(advantages: NDArray[np.float64], total: NDArray[np.float64], prompts: NDArray[np.int64]) -> bool:
    """Whether advantages are rewards less their mean, times a number that is each prompt's own."""
    seen = False
    for prompt in range(int(prompts.max()) + 1):
        one, other = (column[prompts == prompt] - column[prompts == prompt].mean() for column in (advantages, total))
        if not np.abs(one).max() > ROUNDING:
            continue
        scale = one @ other / max(other @ other, 1e-300)
        if scale <= 0 or np.abs(one - scale * other).max() > ROUNDING * np.abs(one).max():
            return False
        seen = True
    return seen
