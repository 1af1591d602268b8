"""A file's rows as samples, and samples as rows."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files import columns as arrow
from esscher.files.masks import MASK, of_completions, whole_where
from esscher.files.text_columns import TOKENS, has_texts
from esscher.groups import Groups
from esscher.ragged import Ragged
from esscher.samples import Samples, Tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

PROMPT_ID = "prompt_id"
# Our columns, the fields of `Samples` that they fill, and how they are read.
FIELDS: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "prompt_token_ids": ("prompts", arrow.token_ids),
    "completion_token_ids": ("completions", arrow.token_ids),
    "policy_logprobs": ("policy_logprobs", arrow.token_numbers),
    "prior_logprobs": ("prior_logprobs", arrow.token_numbers),
    "token_kl": ("token_kl", arrow.token_numbers),
    "policy_entropy": ("policy_entropy", arrow.token_numbers),
    "rewards": ("rewards", arrow.numbers),
    "terminated": ("terminated", arrow.booleans),
    "action_mask": ("action_mask", arrow.flags),
    "cross_log_probs": ("cross_log_probs", arrow.token_numbers),
}
NEEDED = ("prompt_token_ids", "completion_token_ids")
# Lists of something else than tokens: without gaps.
OF_PROMPTS = "cross_log_probs"
OPTIONAL = tuple(name for name in FIELDS if name not in NEEDED)
NAMES = (PROMPT_ID, *FIELDS)
# What files call a column of ours, too, where they have none of our own name for it.
ALSO = {"rewards": "reward"}


def to_table(samples: Samples) -> pa.Table:
    """Return samples as a table in our format, log-probs in float32; `prompt_id` is the prompt's index.

    Examples
    --------
    >>> from esscher import Ragged, Samples
    >>> to_table(Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[7, 8]]), [0, 1])).column_names
    ['prompt_id', 'prompt_token_ids', 'completion_token_ids']
    """
    table = {PROMPT_ID: pa.array(samples.groups.of)}
    table["prompt_token_ids"] = arrow.to_lists(samples.prompts.take(samples.groups.of))
    for name, (field, _) in list(FIELDS.items())[1:]:
        value = getattr(samples, field)
        if isinstance(value, Ragged):
            is_whole = value.values.dtype in (np.uint32, np.bool_)
            mask = None if name == OF_PROMPTS else samples.action_mask
            table[name] = arrow.to_lists(value) if is_whole else with_gaps(as_float32(value), mask)
        elif value is not None:
            table[name] = pa.array(value)
    if samples.tokens != "sampled":
        table[TOKENS] = pa.array([samples.tokens] * len(samples))
    return pa.table(table)


def as_float32(column: Ragged) -> Ragged:
    """Return numbers as files hold them."""
    return Ragged(column.values.astype(np.float32, copy=False), column.offsets)


def with_gaps(column: Ragged, action_mask: Ragged | None) -> pa.Array:
    """Return numbers of actions as files hold them: one for each completion token, null where others spoke.

    Examples
    --------
    >>> column, mask = Ragged.from_rows([[-1.0, -2.0]]), Ragged.from_rows([[True, False, True]])
    >>> with_gaps(column, mask).to_pylist()
    [[-1.0, None, -2.0]]
    """
    if action_mask is None:
        return arrow.to_lists(column)
    chosen = action_mask.values
    values = np.zeros(len(chosen), column.values.dtype)
    values[chosen] = column.values
    return arrow.to_lists(action_mask, pa.array(values, mask=~chosen))


def names_of(columns: Mapping[str, str], there: Collection[str]) -> dict[str, str]:
    """Return what each of our columns is called in a file, by what the user says and what is there.

    Raises
    ------
    ValueError
        If a column that is renamed is not ours.

    Examples
    --------
    >>> names_of({"terminated": "done"}, there=["reward", "done"])["rewards"]
    'reward'
    """
    for ours in columns:
        if ours not in NAMES:
            raise ValueError(f"columns renames {ours!r}, which is none of ours: {', '.join(NAMES)}")
    free = set(there) - set(columns.values())
    also = {ours: other for ours, other in ALSO.items() if other in free and ours not in there}
    return {ours: ours for ours in NAMES} | also | dict(columns)


def check_needed(path: Path, there: Sequence[str], names: Mapping[str, str], renamed: Collection[str]) -> None:
    """Raise `ValueError` if a file lacks a column that is needed, or one of ours that is said to be renamed."""
    if has_texts(there) and not set(NEEDED) & set(there):
        raise ValueError(f"{path} holds texts, not ids, in prompt and completion: give --tokenizer")
    for ours in (*NEEDED, *renamed):
        if names[ours] not in there:
            called = f" (read as {ours!r})" if ours in renamed else ""
            raise ValueError(
                f"{path} has no column {names[ours]!r}{called}. It has: {', '.join(there) or 'none'}. "
                "If it goes by another name, say so: columns {ours: theirs}, or --columns ours=theirs"
            )


def rows_of(table: pa.Table, names: Mapping[str, str]) -> Samples:
    """Return a table's rows as samples with a prompt each: in its order, so that an error's index is its row.

    Raises
    ------
    RowError
        If a row is refused.
    """
    known = {
        ours: theirs
        for ours, theirs in names.items()
        if ours != PROMPT_ID and (ours in NEEDED or arrow.is_known(table.column(theirs)))
    }
    filled: dict[str, Any] = {}
    for ours, theirs in known.items():
        field, convert = FIELDS[ours]
        if MASK in known and convert is arrow.token_numbers:
            convert = arrow.numbers_or_null  # which is what stands where nothing counts
        filled[field] = convert(theirs, table.column(theirs))
    if MASK in known:
        prompts, completions = (filled[FIELDS[ours][0]].lengths for ours in NEEDED)
        whole = np.asarray(table.column(known[MASK]).is_null())
        filled[MASK] = whole_where(whole, of_completions(filled[MASK], prompts, completions), completions)
    try:
        return _samples(filled, len(table))
    except ValueError as error:
        raise _first_error(filled, len(table)) from error


def tokens_of(table: pa.Table) -> Tokens:
    """Return what the ids of a file are, by a column that tells it; "sampled" if there is none.

    Raises
    ------
    ValueError
        If it tells several.
    """
    if TOKENS not in table.column_names or table.column(TOKENS).type != pa.string():
        return "sampled"
    told = table.column(TOKENS).unique().to_pylist()
    found = [tokens for tokens in get_args(Tokens) if tokens in told]
    if len(found) != len(told) or not told:
        return "sampled"  # something else goes by that name
    if len(found) > 1:
        raise ValueError(f"column {TOKENS!r} says {' and '.join(found)}: ids of one kind alone are read together")
    kind: Tokens = found[0]
    return kind


def _samples(columns: Mapping[str, Any], n: int) -> Samples:
    """Return the first `n` rows as samples."""
    return Samples(groups=np.arange(n + 1), **{name: _beginning(column, n) for name, column in columns.items()})


def _beginning(column: Any, n: int) -> Any:
    if isinstance(column, Ragged):
        return Ragged(column.values[: column.offsets[n]], column.offsets[: n + 1])
    return column[:n]


def _first_error(columns: Mapping[str, Any], n: int) -> arrow.RowError:
    """Return what is wrong with the first of `n` rows that are refused: each is judged by itself."""
    row = bisect_left(range(n - 1), True, key=lambda row: _error(columns, row + 1) is not None)
    return arrow.RowError(row, str(_error(columns, row + 1)))


def _error(columns: Mapping[str, Any], n: int) -> ValueError | None:
    try:
        _samples(columns, n)
    except ValueError as error:
        return error
    return None


def by_prompt(rows: Samples, groups: NDArray[np.int64]) -> tuple[Samples, NDArray[np.int64]]:
    """Put rows of one group together, whose prompts are equal; with the rows' numbers in the new order [N]."""
    order = np.argsort(groups, kind="stable")
    offsets = Groups.from_sizes(np.bincount(groups))
    taken = {name: take(getattr(rows, name), order) for name in rows.columns}
    prompts = rows.prompts.take(order[offsets[:-1]])
    completions = rows.completions.take(order)
    return replace(rows, prompts=prompts, completions=completions, groups=offsets, **taken), order


def take(column: Any, order: NDArray[np.int64]) -> Any:
    """Return some rows of a column."""
    return column.take(order) if isinstance(column, Ragged) else column[order]
