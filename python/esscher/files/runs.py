"""Samples of files and of runs: all of a step at once, or step by step."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files import columns as arrow
from esscher.files.blocks import Rows, read_table, scan
from esscher.files.dump import NEEDED, OPTIONAL, PROMPT_ID, by_prompt
from esscher.files.file_part import ROLLOUT, FilePart, Wanted, part_of, reading_of
from esscher.files.finding import RunFile, find, of_step
from esscher.files.formats import naming
from esscher.files.readers import OURS
from esscher.files.steps import SeveralStepsError, rows_of_step, several_steps
from esscher.ragged import Ragged
from esscher.samples import Samples, concatenate
from esscher.warning import ReportWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from esscher.files.text_columns import TextReader
    from esscher.samples import Tokens

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
        What the files say of the completions that `samples` cannot: that they are of several steps, that some are
        left out.
    rewards_by_name
        Each single reward [N], by its name: NaN where a completion has none.
    rollout_logprobs
        Log-probs of the tokens that the policy chose, as the engine recorded them that sampled; `None` if the files
        have none.
    """

    samples: Samples
    order: NDArray[np.int64]
    warnings: tuple[ReportWarning, ...] = ()
    rewards_by_name: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    rollout_logprobs: Ragged | None = None


def read(
    paths: StrPath | Sequence[StrPath],
    *,
    columns: Mapping[str, str] | None = None,
    optional: Collection[str] = (*OPTIONAL, ROLLOUT),
    ignore_masks: Collection[str] = (),
    progress: Callable[[str], None] | None = None,
    tool: str | None = None,
    step: int | str | None = None,
    rewards: Mapping[str, float] | None = None,
    beside: Collection[str] = (),
    texts: TextReader | None = None,
) -> Dump:
    """Read samples from files, ours or a tool's, grouped by prompt; no other columns are read.

    Rows with equal prompt tokens share a prompt, across files too; where there is a `prompt_id`, it must be equal as
    well. So ids keep apart prompts of equal tokens, and may start anew in every file. Prompts come in order of first
    appearance, and the completions of each in the files' order.

    Parameters
    ----------
    paths
        Files, folders, and patterns; one, or several.
    columns
        What our columns are called in the files, ``{"rewards": "score"}``.
    optional
        Which of the optional columns are needed: others are not read.
    ignore_masks
        Masks that are said to matter not: all tokens and rows count. Others that leave something out are asked about.
    progress
        Called with the path of each file before it is read.
    tool
        Which tool wrote the files, as `readers.TOOLS` calls it, or "ours"; by default it is recognised.
    step
        Which step's completions to read, where there are several; "all" for all of them, as one policy's.
    rewards
        Which columns are rewards, and what each weighs in their sum; by default the tool's own total. Completions
        without one are left out, and counted in a warning.
    beside
        Further columns of numbers, which stand among the rewards by name and are of no weight.
    texts
        What makes ids of texts, where files have no ids: the policy's tokenizer, or numbers of words.

    Raises
    ------
    FileNotFoundError
        If a file is not there.
    ValueError
        If a file is not whole or not of its kind, lacks a needed column, holds a null, a value outside its column's
        range, or a mask by which not everything counts, or fills other columns than the others; or if there is no such
        reward. The message names the file, and the column, row and line where there is one.
    SeveralStepsError
        If there are several steps, and it is not said which.

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
    given = listed(paths)
    wanted = Wanted(columns or {}, optional, ignore_masks, rewards, beside, texts)
    found = find(given, tool_of(tool, wanted))
    files = of_step(found.files, step)
    if step is None:
        _check_one_step(given, files)
    parts: list[FilePart] = []
    left_out: Counter[str] = Counter()
    first = 0
    for file in files:
        if progress is not None:
            progress(str(file.path))
        rows = scan(file.path, file.tool, texts)
        left_out.update(rows.left_out)
        part = _part(rows, wanted, step)
        if part is not None:
            parts.append(part._replace(numbers=part.numbers + first))
        first += rows.count
    if not parts:
        raise ValueError(f"{_shown(given)}: no completion is of step {step}")
    if step is None:
        _check_one_step_of_rows(given, parts)
    dump = joined(parts, wanted)
    return replace(dump, warnings=(*found.warnings, *left_out_warnings(left_out), *dump.warnings))


def listed(paths: StrPath | Sequence[StrPath]) -> list[Path]:
    """Return one path or several as a list; raises `ValueError` if it is empty."""
    given = [Path(path) for path in ([paths] if isinstance(paths, str | PathLike) else paths)]
    if not given:
        raise ValueError("paths is empty: give at least one file")
    return given


def joined(parts: Sequence[FilePart], wanted: Wanted) -> Dump:
    """Return parts that are read together, grouped by prompt.

    Raises
    ------
    ValueError
        If they fill other columns.
    """
    for part in parts:
        if part.columns != parts[0].columns:
            raise ValueError(
                f"{part.located.path} fills {', '.join(part.columns) or 'no optional column'}, "
                f"{parts[0].located.path} fills {', '.join(parts[0].columns) or 'none'}: files read together must agree"
            )
    rows = parts[0].rows if len(parts) == 1 else concatenate([part.rows for part in parts])
    samples, order = _grouped(rows, _prompt_ids(parts, wanted.columns.get(PROMPT_ID, PROMPT_ID)))
    rollout = [part.rollout for part in parts if part.rollout is not None]
    out: Counter[str] = Counter()
    for part in parts:
        out.update(part.left_out)
    return Dump(
        samples,
        np.concatenate([part.numbers for part in parts])[order],
        (*several_steps([part.steps for part in parts]), *left_out_warnings(out), *_of_texts(samples.tokens)),
        {name: values[order] for name, values in _single(parts).items()},
        Ragged.concatenate(rollout).take(order) if rollout else None,
    )


def tool_of(tool: str | None, wanted: Wanted) -> str | None:
    """Return which tool wrote files: who says what the columns of ids are called takes rows as they stand."""
    return OURS if tool is None and set(NEEDED) & set(wanted.columns) else tool


def _part(rows: Rows, wanted: Wanted, step: int | str | None) -> FilePart | None:
    """Return the rows of a file that are of a step; `None` if none are."""
    reading = reading_of(rows, wanted)
    table = read_table(rows, reading.columns)
    numbers = rows_of_step(table, reading.steps, step)
    if len(numbers) < len(table):
        table = table.take(pa.array(numbers))
    return part_of(rows, table, wanted, reading, numbers) if len(table) else None


def _check_one_step(given: Sequence[Path], files: Sequence[RunFile]) -> None:
    """Raise `SeveralStepsError` if files are of several steps by their paths."""
    steps = dict.fromkeys(str(file.step) for file in files if file.step is not None)
    if len(steps) > 1:
        raise SeveralStepsError(_shown(given), list(steps))


def _check_one_step_of_rows(given: Sequence[Path], parts: Sequence[FilePart]) -> None:
    """Raise `SeveralStepsError` if rows are of several steps by a column of steps."""
    for name in dict.fromkeys(name for part in parts for name in part.steps):
        steps = dict.fromkeys(step for part in parts for step in part.steps.get(name, ()))
        if len(steps) > 1:
            raise SeveralStepsError(_shown(given), list(steps))


def _shown(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths[:3])) + ", ..." * (len(paths) > 3)


def left_out_warnings(reasons: Mapping[str, int]) -> tuple[ReportWarning, ...]:
    """Say what is left out, and why."""
    said = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
    return (ReportWarning("left-out", f"Left out: {said}."),) if said else ()


def _of_texts(tokens: Tokens) -> tuple[ReportWarning, ...]:
    """Say what ids are, if not those that were sampled."""
    if tokens == "words":
        seen = "The files hold texts, not token ids: lengths and diversity are of words, and nothing has a log-prob."
        return (ReportWarning("texts-not-ids", seen, "Give --tokenizer MODEL; keep the ids where you can."),)
    if tokens == "retokenised":
        seen = (
            "Token ids were made of texts again: they need not be those that were sampled, nor log-probs of them those "
            "of what was."
        )
        return (ReportWarning("retokenised", seen, "Keep the ids that are sampled."),)
    return ()


def _single(parts: Sequence[FilePart]) -> dict[str, NDArray[np.float64]]:
    """Return each single reward of all parts, NaN in those that do not have it."""
    names = dict.fromkeys(name for part in parts for name in part.single)
    return {
        name: np.concatenate([part.single.get(name, np.full(len(part.rows), np.nan)) for part in parts])
        for name in names
    }


def _prompt_ids(parts: Sequence[FilePart], name: str) -> pa.Array | None:
    """Return the ids of all rows as text, or `None` if there are none."""
    known = [part.located.path for part in parts if part.ids is not None]
    if not any(part.ids is not None and arrow.is_known(part.ids) for part in parts):
        return None
    for part in parts:
        if part.ids is None:
            raise ValueError(
                f"{part.located.path} has no column {name!r}, {known[0]} has: files read together must agree"
            )
    return pa.concat_arrays([naming(part.located, arrow.keys, name, part.ids) for part in parts])


def _grouped(rows: Samples, ids: pa.Array | None) -> tuple[Samples, NDArray[np.int64]]:
    groups = arrow.row_codes(rows.prompts)
    if ids is not None:
        pairs = np.stack([arrow.codes(ids), groups], axis=1)
        groups = arrow.row_codes(Ragged.from_padded(pairs, lengths=np.full(len(pairs), 2)))
    return by_prompt(rows, groups)
