"""A file's rows as samples, and samples as rows."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files import columns as arrow
from esscher.files.asking import ask_about_masks, masks_in
from esscher.files.blocks import read_table, scan
from esscher.files.formats import naming
from esscher.files.masks import of_completions
from esscher.files.steps import read_steps, several_steps, steps_in
from esscher.files.text_columns import TOKENS
from esscher.groups import Groups
from esscher.ragged import Ragged
from esscher.samples import Samples, Tokens, concatenate
from esscher.warning import ReportWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from esscher.files.blocks import Rows

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
MASK = "action_mask"
# Lists of something else than tokens: without gaps.
OF_PROMPTS = "cross_log_probs"
OPTIONAL = tuple(name for name in FIELDS if name not in NEEDED)
NAMES = (PROMPT_ID, *FIELDS)
# What files call a column of ours, too, where they have none of our own name for it.
ALSO = {"rewards": "reward"}

StrPath = str | PathLike[str]


@dataclass(frozen=True, eq=False)
class Dump:
    """The samples that one or several files hold.

    Parameters
    ----------
    samples
        The completions, grouped by prompt.
    order
        The row of each completion of `samples` [N], counted from 0 through all files.
    warnings
        What the files say of the completions that `samples` cannot: that they are of several steps, or that some were
        left out.
    """

    samples: Samples
    order: NDArray[np.int64]
    warnings: tuple[ReportWarning, ...] = ()


def read(
    paths: StrPath | Sequence[StrPath],
    *,
    columns: Mapping[str, str] | None = None,
    optional: Collection[str] = OPTIONAL,
    ignore_masks: Collection[str] = (),
    progress: Callable[[str], None] | None = None,
) -> Dump:
    """Read samples from Parquet (.parquet) or JSON lines (.jsonl), grouped by prompt; no other columns are read.

    Rows with equal prompt tokens share a prompt, across files too; where there is a `prompt_id`, it must be equal as
    well. So ids keep apart prompts of equal tokens, and may start anew in every file. Prompts come in order of first
    appearance, and the completions of each in the files' order.

    Parameters
    ----------
    paths
        One file, or several.
    columns
        What our columns are called in the files, ``{"rewards": "score"}``.
    optional
        Which of the optional columns are needed, as files call them: others are not read.
    ignore_masks
        Masks that are said to matter not: all tokens and rows count. Others that leave something out are asked about.
    progress
        Called with the path of each file before it is read.

    Raises
    ------
    FileNotFoundError
        If a file is not there.
    ValueError
        If a file is not whole or not of its kind, lacks a needed column, holds a null, a value outside its column's
        range, or a mask by which not everything counts, or fills other columns than the others. The message names the
        file, and the column, row and line where there is one.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from esscher.files import read
    >>> row = '{"prompt_token_ids": [1], "completion_token_ids": [7, 8], "score": 0.5}'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "rows.jsonl")
    ...     _ = path.write_text(row)
    ...     read(path, columns={"rewards": "score"}).samples
    Samples(1 prompt, 1 completion, 2 tokens; rewards)
    """
    files = [Path(path) for path in ([paths] if isinstance(paths, str | PathLike) else paths)]
    if not files:
        raise ValueError("paths is empty: give at least one file")
    parts = []
    for path in files:
        if progress is not None:
            progress(str(path))
        parts.append(_part(path, columns or {}, optional, ignore_masks))
        if parts[-1].rows.columns != parts[0].rows.columns:
            raise ValueError(
                f"{path} fills {', '.join(parts[-1].rows.columns) or 'no optional column'}, {files[0]} fills "
                f"{', '.join(parts[0].rows.columns) or 'none'}: files read together must agree"
            )
    rows = parts[0].rows if len(parts) == 1 else concatenate([part.rows for part in parts])
    samples, order = _grouped(rows, _prompt_ids(files, parts, (columns or {}).get(PROMPT_ID, PROMPT_ID)))
    firsts = np.cumsum([0, *(part.total for part in parts)])
    numbers = np.concatenate([part.numbers + first for part, first in zip(parts, firsts[:-1], strict=True)])
    left_out = int(firsts[-1]) - len(numbers)
    return Dump(samples, numbers[order], (*several_steps([part.steps for part in parts]), *_without_actions(left_out)))


def _without_actions(count: int) -> tuple[ReportWarning, ...]:
    """Say how many rows have no token that counts."""
    if count == 0:
        return ()
    return (
        ReportWarning(
            "rows-without-actions",
            f"{count:,} row{'s' * (count != 1)} of which the mask keeps no token {'are' if count != 1 else 'is'} left "
            "out, in every number: the policy chose nothing there, or the trainer left it out of the loss.",
        ),
    )


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
    for ours in (*NEEDED, *renamed):
        if names[ours] not in there:
            called = f" (read as {ours!r})" if ours in renamed else ""
            raise ValueError(
                f"{path} has no column {names[ours]!r}{called}. It has: {', '.join(there) or 'none'}. "
                "If it goes by another name, say so: columns {ours: theirs}, or --columns ours=theirs"
            )


class _Part(NamedTuple):
    """What a file of so many rows holds: a prompt for each that has actions, and which these are; ids and steps."""

    found: Rows
    rows: Samples
    numbers: NDArray[np.int64]
    total: int
    ids: pa.ChunkedArray | None
    steps: dict[str, list[str]]


def _part(
    path: Path,
    renames: Mapping[str, str],
    optional: Collection[str],
    ignored: Collection[str],
) -> _Part:
    found = scan(path)
    there = found.schema.names
    names = names_of(renames, there)
    check_needed(path, there, names, renames)
    # What tells the tokens that count is read, whatever else is needed.
    wanted = dict.fromkeys((PROMPT_ID, *NEEDED, MASK, *optional))
    read = {ours: names[ours] for ours in wanted if names[ours] in there}
    if names[MASK] in ignored:
        read.pop(MASK, None)
    masks = masks_in(there, (*ignored, read.get(MASK, "")))
    steps = steps_in(there, read.values())
    told = [TOKENS] if TOKENS in there and found.schema.field(TOKENS).type == pa.string() else []
    table = read_table(found, list(dict.fromkeys([*read.values(), *masks, *steps, *told])))
    numbers = np.arange(len(table))
    if MASK in read:
        numbers = naming(found, _rows_with_actions, path, table.column(read[MASK]), read[MASK])
    kept = table if len(numbers) == len(table) else table.take(numbers)
    rows = replace(naming(found, _rows, kept, read, numbers), tokens=naming(found, _tokens_of, table))
    naming(found, ask_about_masks, kept, rows, masks)
    ids = kept.column(read[PROMPT_ID]) if PROMPT_ID in read else None
    return _Part(found, rows, numbers, len(table), ids, read_steps(kept, steps))


def _rows_with_actions(path: Path, column: pa.ChunkedArray, name: str) -> NDArray[np.int64]:
    """Return the rows of which a mask does not leave out everything; raises `ValueError` if there are none."""
    if not arrow.is_known(column):
        return np.arange(len(column))
    mask = arrow.flags(name, column)
    numbers = np.flatnonzero((mask.rows.sums(mask.values) > 0) | (mask.lengths == 0))
    if len(numbers) == 0:
        raise ValueError(f"{path} has no row in which the mask {name!r} keeps a token: there is nothing to read")
    return numbers


def _rows(table: pa.Table, names: Mapping[str, str], numbers: NDArray[np.int64]) -> Samples:
    """Return one prompt per row, whose `numbers` in the file go into errors."""
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
        lengths = (filled[FIELDS[ours][0]].lengths for ours in NEEDED)
        filled[MASK] = of_completions(filled[MASK], *lengths)
    try:
        return _samples(filled, len(table))
    except ValueError as error:
        raise _first_error(filled, numbers) from error


def _samples(columns: Mapping[str, Any], n: int) -> Samples:
    """Return the first `n` rows as samples."""
    return Samples(groups=np.arange(n + 1), **{name: _beginning(column, n) for name, column in columns.items()})


def _tokens_of(table: pa.Table) -> Tokens:
    """Return what the ids of a file are, by a column that tells it; "sampled" if there is none."""
    if TOKENS not in table.column_names:
        return "sampled"
    told = table.column(TOKENS).unique().to_pylist()
    found = [tokens for tokens in get_args(Tokens) if tokens in told]
    if len(found) != len(told):
        return "sampled"  # something else goes by that name
    if len(found) > 1:
        raise ValueError(f"column {TOKENS!r} says {' and '.join(found)}: ids of one kind alone are read together")
    kind: Tokens = found[0]
    return kind


def _beginning(column: Any, n: int) -> Any:
    if isinstance(column, Ragged):
        return Ragged(column.values[: column.offsets[n]], column.offsets[: n + 1])
    return column[:n]


def _first_error(columns: Mapping[str, Any], numbers: NDArray[np.int64]) -> arrow.RowError:
    """Return what is wrong with the first of the rows that are refused: each is judged by itself."""
    row = bisect_left(range(len(numbers) - 1), True, key=lambda row: _error(columns, row + 1) is not None)
    return arrow.RowError(int(numbers[row]), str(_error(columns, row + 1)))


def _error(columns: Mapping[str, Any], n: int) -> ValueError | None:
    try:
        _samples(columns, n)
    except ValueError as error:
        return error
    return None


def _prompt_ids(files: Sequence[Path], parts: Sequence[_Part], name: str) -> pa.Array | None:
    """Return the ids of all rows as text, or `None` if there are none."""
    known = [path for path, part in zip(files, parts, strict=True) if part.ids is not None]
    if not any(part.ids is not None and arrow.is_known(part.ids) for part in parts):
        return None
    for path in files:
        if path not in known:
            raise ValueError(f"{path} has no column {name!r}, {known[0]} has: files read together must agree")
    return pa.concat_arrays([naming(part.found, arrow.keys, name, part.ids) for part in parts])


def _grouped(rows: Samples, ids: pa.Array | None) -> tuple[Samples, NDArray[np.int64]]:
    groups = arrow.row_codes(rows.prompts)
    if ids is not None:
        pairs = np.stack([arrow.codes(ids), groups], axis=1)
        groups = arrow.row_codes(Ragged.from_padded(pairs, lengths=np.full(len(pairs), 2)))
    return by_prompt(rows, groups)


def by_prompt(rows: Samples, groups: NDArray[np.int64]) -> tuple[Samples, NDArray[np.int64]]:
    """Put rows of one group together, whose prompts are equal; with the rows' numbers in the new order [N]."""
    order = np.argsort(groups, kind="stable")
    offsets = Groups.from_sizes(np.bincount(groups))
    taken = {name: _take(getattr(rows, name), order) for name in rows.columns}
    prompts = rows.prompts.take(order[offsets[:-1]])
    completions = rows.completions.take(order)
    return replace(rows, prompts=prompts, completions=completions, groups=offsets, **taken), order


def _take(column: Any, order: NDArray[np.int64]) -> Any:
    return column.take(order) if isinstance(column, Ragged) else column[order]
