"""What readers of tools' files share: values of a block, and samples as a table."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files import columns as arrow
from esscher.files.conversion import Converted, as_json
from esscher.files.masks import ROW_MASKS, TOKEN_MASKS
from esscher.files.steps import STEPS
from esscher.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# What columns may hold that are ours by their names; what a tool means by them otherwise is called TOOL/NAME.
OURS = (
    "prompt_id",
    "prompt_token_ids",
    "completion_token_ids",
    "policy_logprobs",
    "prior_logprobs",
    "rollout_logprobs",
    "token_kl",
    "policy_entropy",
    "rewards",
    "reward",
    "terminated",
    "prompt",
    "completion",
    *TOKEN_MASKS,
    *ROW_MASKS,
    *STEPS,
)


def values(table: pa.Table, name: str) -> list[Any]:
    """Return the values of a column as Python's objects; `None` for each row if there is no such column.

    Examples
    --------
    >>> values(pa.table({"x": [1, None]}), "x"), values(pa.table({"x": [1, None]}), "y")
    ([1, None], [None, None])
    """
    if name not in table.column_names:
        return [None] * len(table)
    column = table.column(name)
    found: list[Any] = column.to_pylist()
    if arrow.is_json(column.type):
        return [None if text is None else json.loads(text) for text in found]
    return found


def column_of(found: Sequence[Any]) -> pa.Array:
    """Return objects as a column: as JSON, where they are of no one type.

    Examples
    --------
    >>> column_of([[1], []]).type, column_of(["x", {"a": 1}]).type
    (ListType(list<item: int64>), JsonType(extension<arrow.json>))
    """
    kinds = {type(value) for value in found}
    try:
        return as_json(found) if bool in kinds and float in kinds else pa.array(found)
    except (pa.ArrowException, ValueError, OverflowError):
        return as_json(found)


def numbers_of(found: Sequence[Any]) -> pa.Array:
    """Return lists of numbers as a column of float32, null where one is missing or none.

    Examples
    --------
    >>> numbers_of([[-0.5, None], None]).to_pylist()
    [[-0.5, None], None]
    """
    try:
        return pa.array(found, pa.list_(pa.float32()), from_pandas=True)
    except (pa.ArrowException, ValueError, OverflowError):  # which is said where it is read
        return column_of(found)


def number(value: Any) -> float | None:
    """Return a reward as a number: text that says one, a list's sum; `None` for what is none, or not a number.

    Examples
    --------
    >>> number("-7.3"), number([0.5, 1]), number(True), number(float("nan")), number("x"), number([])
    (-7.3, 1.5, 1.0, None, None, None)
    """
    if isinstance(value, list):
        parts = [number(one) for one in value]
        return math.fsum(part for part in parts if part is not None) if parts and None not in parts else None
    try:
        found = float({"true": 1.0, "false": 0.0}.get(value.lower(), value) if isinstance(value, str) else value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(found) else found


def rewards_of(found: Sequence[Any]) -> pa.Array:
    """Return a column of rewards, each as `number` reads it."""
    return pa.array([number(value) for value in found], pa.float64())


def step_in(path: Path, pattern: str | None) -> int | None:
    r"""Return the step that a file's path tells by the pattern of its tool.

    Examples
    --------
    >>> from pathlib import Path
    >>> step_in(Path("rollouts/step_12/train/traces.jsonl"), r"step_(\d+)/"), step_in(Path("x"), None)
    (12, None)
    """
    found = re.findall(pattern, path.as_posix()) if pattern is not None else []
    return int(found[-1]) if found else None


def steps_of(table: pa.Table, name: str, otherwise: int | None = None, n: int | None = None) -> pa.Array | None:
    """Return the steps of rows: a column's, or another's for each of `n`; `None` if neither tells.

    Examples
    --------
    >>> steps_of(pa.table({"step": ["3", "4"]}), "step").to_pylist()
    [3, 4]
    >>> steps_of(pa.table({"x": [1.5]}), "step", otherwise=12).to_pylist()
    [12]
    """
    told = [number(value) for value in values(table, name)]
    if None not in told:
        return pa.array([int(step) for step in told if step is not None], pa.int64())
    return None if otherwise is None else pa.array([otherwise] * (len(table) if n is None else n), pa.int64())


def known_sum(rewards: Sequence[pa.Array]) -> pa.Array:
    """Return the sum of what is known of each row's rewards, null where nothing is.

    Examples
    --------
    >>> known_sum([pa.array([1.0, None, None]), pa.array([2.0, 3.0, None])]).to_pylist()
    [3.0, 3.0, None]
    """
    known = np.array([column.is_valid().to_numpy(zero_copy_only=False) for column in rewards])
    filled = np.array([column.cast(pa.float64()).fill_null(0).to_numpy(zero_copy_only=False) for column in rewards])
    return pa.array(np.where(known.any(axis=0), filled.sum(axis=0), np.nan), from_pandas=True)


def endings(found: Sequence[Any]) -> pa.Array:
    """Return whether completions ended by themselves, of reasons as engines call them; null where it is not told.

    Examples
    --------
    >>> endings(["stop", "length", None, "FinishReason.STOP"]).to_pylist()
    [True, False, None, True]
    """
    return pa.array([arrow.ENDINGS.get(str(one).lower().rpartition(".")[2]) for one in found], pa.bool_())


class Split(NamedTuple):
    """Where rows of prompt and completion in one are parted: at the first token that the policy chose.

    Attributes
    ----------
    kept
        The rows that have such a token [K].
    first
        Where it stands in each of them [K].
    ends
        Where each of them ends [K]: what comes behind is padding.
    """

    kept: NDArray[np.int64]
    first: NDArray[np.int64]
    ends: NDArray[np.int64]

    def prompts(self, rows: Ragged) -> Ragged:
        """Return what stands before the completions of the rows that are kept."""
        return _between(rows.take(self.kept), np.zeros_like(self.first), self.first)

    def completions(self, rows: Ragged) -> Ragged:
        """Return what stands in the completions of the rows that are kept."""
        return _between(rows.take(self.kept), self.first, self.ends)


def split(mask: Ragged, lengths: NDArray[np.int64] | None = None) -> Split:
    """Find out where to part rows.

    Parameters
    ----------
    mask
        Which tokens the policy chose, 1 or true, of prompt and completion.
    lengths
        Where rows end, if that is known; else with the last token that the policy chose.

    Examples
    --------
    >>> parted = split(Ragged.from_rows([[0, 1, 0, 1, 0], [0, 0], [0, 1]]))
    >>> [row.tolist() for row in parted.completions(Ragged.from_rows([[5, 6, 7, 8, 0], [5, 0], [3, 4]]))]
    [[6, 7, 8], [4]]
    """
    place, chosen = mask.rows.place.astype(np.float64), mask.values == 1
    kept = np.flatnonzero(mask.rows.sums(chosen))
    first = mask.rows.smallest(np.where(chosen, place, np.inf))[kept].astype(np.int64)
    ends = mask.rows.largest(np.where(chosen, place, -np.inf))[kept].astype(np.int64) + 1
    if lengths is not None:
        ends = np.maximum(ends, np.minimum(lengths, mask.lengths)[kept])
    return Split(kept, first, ends)


def token_column(rows: Ragged, mask: Ragged) -> pa.Array:
    """Return numbers of tokens as a column of float32, null for NaN; 0 at tokens that the policy did not choose."""
    numbers = np.where(mask.values == 1, rows.values, 0).astype(np.float32)
    return pa.ListArray.from_arrays(rows.offsets.astype(np.int32), pa.array(numbers, from_pandas=True))


def logprobs_of(
    table: pa.Table, names: Mapping[str, str], mask: Ragged, parted: Split, first: int
) -> dict[str, pa.Array]:
    """Return columns of the completions' tokens, in our names; the sampler's stand for the policy's where it has none.

    Raises
    ------
    RowError
        If one has not as many values in a row as the mask.
    """
    found, chosen = {}, parted.completions(mask)
    for theirs, ours in names.items():
        if theirs in table.column_names and arrow.is_known(table.column(theirs)):
            rows = arrow.raw_numbers(theirs, table.column(theirs), first)
            same_lengths(theirs, rows, "mask", mask, first)
            found[ours] = token_column(parted.completions(rows), chosen)
    if "policy_logprobs" not in found and "rollout_logprobs" in found:
        found["policy_logprobs"] = found.pop("rollout_logprobs")
    return found


def action_mask(mask: Ragged) -> pa.Array:
    """Return which tokens of completions the policy chose, as a column."""
    return arrow.to_lists(Ragged(mask.values == 1, mask.offsets))


def same_lengths(name: str, rows: Ragged, other: str, others: Ragged, first: int) -> None:
    """Raise `RowError` if two columns of the same tokens have other lengths in some row."""
    differ = np.flatnonzero(rows.lengths != others.lengths)
    if len(differ):
        i = int(differ[0])
        raise arrow.RowError(
            first + i,
            f"column {name!r}, row {first + i} has {rows.lengths[i]} values, {other!r} {others.lengths[i]}: they are "
            "of the same tokens",
        )


def samples(
    tool: str,
    table: pa.Table,
    ours: Mapping[str, pa.Array | None],
    *,
    used: Collection[str],
    rows: NDArray[np.int64] | None = None,
    rewards: Sequence[str] = (),
    left_out: Mapping[str, int] | None = None,
) -> Converted:
    """Return what a reader made of a block, with the columns of the block that it did not use.

    Parameters
    ----------
    tool
        What the tool is called.
    table
        The block as it stands.
    ours
        Columns of samples, in our names; `None` for what is not there.
    used
        Columns of the block that are in others now, and not kept.
    rows
        Which row of the block each sample is from; all of them by default.
    rewards, left_out
        As `Converted` has them.
    """
    rows = np.arange(len(table)) if rows is None else rows
    made = {name: column for name, column in ours.items() if column is not None}
    for name in table.column_names:
        if name not in used:
            kept = f"{tool}/{name}" if name in OURS and name not in made else name
            made.setdefault(kept, table.column(name).take(pa.array(rows)))
    out = {reason: count for reason, count in (left_out or {}).items() if count}
    return Converted(pa.table(made), rows, tuple(rewards), out)


def _between(rows: Ragged, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> Ragged:
    inside = (rows.rows.place >= rows.rows.spread(begins)) & (rows.rows.place < rows.rows.spread(ends))
    return Ragged.from_lengths(rows.values[inside], ends - begins)
