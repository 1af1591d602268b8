"""A file's rows as samples, and what becomes of samples back in the file's rows."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files import columns as arrow
from esscher.files.formats import check_known_or_not, join, load, naming
from esscher.ragged import Ragged
from esscher.samples import Samples, concatenate

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

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
    "reward": ("rewards", arrow.numbers),
    "terminated": ("terminated", arrow.booleans),
}
NEEDED = ("prompt_token_ids", "completion_token_ids")
NAMES = (PROMPT_ID, *FIELDS)

StrPath = str | PathLike[str]


@dataclass(frozen=True, eq=False)
class Dump:
    """Rows of one or several files, and the samples that they hold.

    Parameters
    ----------
    table
        All rows and columns, in the files' order.
    samples
        The same completions, grouped by prompt.
    order
        The table's row of each completion of `samples` [N].
    """

    table: pa.Table
    samples: Samples
    order: NDArray[np.int64]


def read(
    paths: StrPath | Sequence[StrPath],
    *,
    columns: Mapping[str, str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Dump:
    """Read samples from Parquet (.parquet) or JSON lines (.jsonl), grouped by prompt.

    Rows with equal prompt tokens share a prompt, across files too; where there is a `prompt_id`, it must be equal as
    well. So ids keep apart prompts of equal tokens, and may start anew in every file. Prompts come in order of first
    appearance, and the completions of each in the files' order.

    Parameters
    ----------
    paths
        One file, or several with the same columns.
    columns
        What our columns are called in the files, ``{"reward": "score"}``; the table keeps the files' names.
    progress
        Called with the path of each file before it is read.

    Raises
    ------
    FileNotFoundError
        If a file is not there.
    ValueError
        If a file is not whole or not of its kind, lacks a needed column, holds a null, a value outside its column's
        range, or differs from the others in its columns. The message names the file, and the column and row where
        there is one.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from esscher.files import read
    >>> row = '{"prompt_token_ids": [1], "completion_token_ids": [7, 8], "score": 0.5}'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "rows.jsonl")
    ...     _ = path.write_text(row)
    ...     read(path, columns={"reward": "score"}).samples
    Samples(1 prompt, 1 completion, 2 tokens; rewards)
    """
    files = [Path(path) for path in ([paths] if isinstance(paths, str | PathLike) else paths)]
    if not files:
        raise ValueError("paths is empty: give at least one file")
    names = names_of(columns or {})
    tables, parts = [], []
    for path in files:
        if progress is not None:
            progress(str(path))
        tables.append(load(path))
        _check_columns(path, tables, names, columns or {})
        parts.append(naming(path, _rows, tables[-1], names))
        if parts[-1].columns != parts[0].columns:
            raise ValueError(
                f"{path} fills {', '.join(parts[-1].columns) or 'no optional column'}, {files[0]} fills "
                f"{', '.join(parts[0].columns) or 'none'}: files read together must agree"
            )
    if names[PROMPT_ID] in tables[0].column_names:
        check_known_or_not(files, tables, names[PROMPT_ID])
    table = join(files, tables)
    rows = parts[0] if len(parts) == 1 else concatenate(parts)
    samples, order = naming(files, _grouped, rows, table, names[PROMPT_ID])
    return Dump(table, samples, order)


def to_table(samples: Samples) -> pa.Table:
    """Return samples as a table in our format, log-probs in float32; `prompt_id` is the prompt's index.

    Examples
    --------
    >>> from esscher import Ragged, Samples
    >>> to_table(Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[7, 8]]), [0, 1])).column_names
    ['prompt_id', 'prompt_token_ids', 'completion_token_ids']
    """
    table = {PROMPT_ID: pa.array(samples.group_of)}
    table["prompt_token_ids"] = arrow.to_lists(samples.prompts.take(samples.group_of))
    for name, (field, _) in list(FIELDS.items())[1:]:
        value = getattr(samples, field)
        if isinstance(value, Ragged):
            table[name] = arrow.to_lists(value if value.values.dtype == np.uint32 else as_float32(value))
        elif value is not None:
            table[name] = pa.array(value)
    return pa.table(table)


def as_float32(column: Ragged) -> Ragged:
    """Return numbers as files hold them."""
    return Ragged(column.values.astype(np.float32, copy=False), column.offsets)


def field_of(ours: str) -> str:
    """Return the field of `Samples` that one of our columns fills.

    Examples
    --------
    >>> field_of("reward")
    'rewards'
    """
    return FIELDS[ours][0]


def names_of(columns: Mapping[str, str]) -> dict[str, str]:
    """Return what each of our columns is called in files that rename some; raises `ValueError` if one is not ours."""
    for ours in columns:
        if ours not in NAMES:
            raise ValueError(f"columns renames {ours!r}, which is none of ours: {', '.join(NAMES)}")
    return {ours: columns.get(ours, ours) for ours in NAMES}


def check_needed(path: Path, there: Sequence[str], names: Mapping[str, str], renamed: Collection[str]) -> None:
    """Raise `ValueError` if a file lacks a column that is needed, or one of ours that is said to be renamed."""
    for ours in (*NEEDED, *renamed):
        if names[ours] not in there:
            called = f" (read as {ours!r})" if ours in renamed else ""
            raise ValueError(
                f"{path} has no column {names[ours]!r}{called}. It has: {', '.join(there) or 'none'}. "
                "If it goes by another name, say so: columns {ours: theirs}, or --columns ours=theirs"
            )


def _check_columns(path: Path, tables: list[pa.Table], names: dict[str, str], renamed: Mapping[str, str]) -> None:
    there = tables[-1].column_names
    check_needed(path, there, names, renamed)
    first = set(tables[0].column_names)
    if set(there) != first:
        differ = ", ".join(sorted(set(there) ^ first))
        raise ValueError(f"{path} has other columns than the files before it, they differ in: {differ}")


def _rows(table: pa.Table, names: dict[str, str]) -> Samples:
    """Return one prompt per row: the table's own order, so that an error's index is the file's row."""
    filled = {}
    for ours, (field, convert) in FIELDS.items():
        theirs = names[ours]
        if theirs in table.column_names and (ours in NEEDED or arrow.is_known(table.column(theirs))):
            filled[field] = convert(theirs, table.column(theirs))
    return Samples(groups=np.arange(len(table) + 1), **filled)


def _grouped(rows: Samples, table: pa.Table, prompt_id: str) -> tuple[Samples, NDArray[np.int64]]:
    groups = arrow.row_codes(rows.prompts)
    if prompt_id in table.column_names and arrow.is_known(table.column(prompt_id)):
        ids = arrow.codes(prompt_id, table.column(prompt_id))
        groups = arrow.row_codes(Ragged.from_padded(np.stack([ids, groups], axis=1), lengths=np.full(len(ids), 2)))
    return by_prompt(rows, groups)


def by_prompt(rows: Samples, groups: NDArray[np.int64]) -> tuple[Samples, NDArray[np.int64]]:
    """Put rows of one group together, whose prompts are equal; with the rows' numbers in the new order [N]."""
    order = np.argsort(groups, kind="stable")
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(groups))])
    taken = {name: _take(getattr(rows, name), order) for name in rows.columns}
    prompts = rows.prompts.take(order[offsets[:-1]])
    return Samples(prompts, rows.completions.take(order), offsets, **taken), order


def _take(column: Any, order: NDArray[np.int64]) -> Any:
    return column.take(order) if isinstance(column, Ragged) else column[order]
