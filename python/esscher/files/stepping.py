"""A run step by step: where the rows of each step are, and their samples, holding one step at a time."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files.blocks import ROWS_AT_ONCE, Rows, read_blocks, read_table, scan
from esscher.files.dump import OPTIONAL
from esscher.files.file_part import ROLLOUT, FilePart, Reading, Wanted, part_of, reading_of
from esscher.files.finding import find
from esscher.files.runs import Dump, StrPath, joined, left_out_warnings, listed, tool_of
from esscher.files.steps import in_order, rows_of_step, steps_in, steps_of_rows
from esscher.warning import ReportWarning, merge_warnings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from esscher.files.finding import RunFile
    from esscher.files.text_columns import TextReader


class Step(NamedTuple):
    """A step of a run: its number, `None` where the files tell none, and its samples."""

    number: int | None
    dump: Dump


class Piece(NamedTuple):
    """Rows of a step that follow one another in a file.

    Attributes
    ----------
    step
        Which step, as text; "" where the file tells none.
    file
        The file.
    rows
        What is known of it, where it has been looked at.
    first, size
        The first row's number and how many there are; of a file that is of one step, or whose steps alternate, all.
    """

    step: str
    file: RunFile
    rows: Rows | None = None
    first: int = 0
    size: int | None = None


def read_run(
    paths: StrPath | Sequence[StrPath],
    *,
    columns: Mapping[str, str] | None = None,
    optional: Collection[str] = (*OPTIONAL, ROLLOUT),
    ignore_masks: Collection[str] = (),
    tool: str | None = None,
    rewards: Mapping[str, float] | None = None,
    after: int | None = None,
    beside: Collection[str] = (),
    texts: TextReader | None = None,
    settled: Collection[Path] | None = None,
) -> Iterator[Step]:
    r"""Read the steps of a run one after the other, in order of their numbers; memory is that of a step.

    Parameters
    ----------
    paths, columns, optional, ignore_masks, tool, rewards, beside, texts
        As `read` takes them.
    after
        Only steps with a larger number are read.
    settled
        The files that are not being written any more; all by default.

    Raises
    ------
    ValueError
        As `read` raises it, when the step is read; if a step is no number.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> row = '{{"prompt_token_ids": [1], "completion_token_ids": [7, 8], "rewards": 0.5, "step": {}}}\n'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "rows.jsonl")
    ...     _ = path.write_text("".join(map(row.format, [2, 2, 10])))
    ...     [(step.number, len(step.dump.samples)) for step in read_run(path)]
    [(2, 2), (10, 1)]
    """
    wanted = Wanted(columns or {}, optional, ignore_masks, rewards, beside, texts)
    found = find(listed(paths), tool_of(tool, wanted), settled)
    told = [piece for file in found.files for piece in _pieces(file, wanted, after)]
    pieces = sorted(told, key=lambda piece: in_order(piece.step))
    warnings = (*found.warnings, *_out_of_order(told))
    parts_of = _reader(pieces, wanted)
    for step, of_step in groupby(pieces, key=lambda piece: piece.step):
        parts, out = [], Counter[str]()
        for part, left_out in map(parts_of, of_step):
            parts.append(part)
            out.update(left_out)
        dump = joined(parts, wanted)
        said = merge_warnings((*warnings, *left_out_warnings(out), *dump.warnings))
        yield Step(_number(step), replace(dump, warnings=said))
        warnings = ()


def _reader(pieces: Sequence[Piece], wanted: Wanted) -> Callable[[Piece], tuple[FilePart, Mapping[str, int]]]:
    """Return what reads pieces in their order: those of one file in one go, where they follow one another in it."""
    of_file: defaultdict[Path, list[Piece]] = defaultdict(list)
    for piece in pieces:
        of_file[piece.file.path].append(piece)
    begun: dict[Path, Iterator[tuple[FilePart, Mapping[str, int]]]] = {}

    def read(piece: Piece) -> tuple[FilePart, Mapping[str, int]]:
        path = piece.file.path
        of_this = of_file[path]
        if len(of_this) == 1 or of_this != sorted(of_this, key=lambda one: one.first):
            return next(_parts([piece], wanted))
        part = next(begun.setdefault(path, _parts(of_this, wanted)))
        if piece == of_this[-1]:
            del begun[path]
        return part

    return read


def _parts(pieces: Sequence[Piece], wanted: Wanted) -> Iterator[tuple[FilePart, Mapping[str, int]]]:
    """Read pieces of a file, in its order; with the first, what of the file is left out."""
    file = pieces[0].file
    rows = pieces[0].rows or scan(file.path, file.tool, wanted.texts)
    reading = reading_of(rows, wanted)
    left_out = rows.left_out if pieces[0].first == 0 else {}
    for piece, table, numbers in _tables(rows, reading, pieces):
        yield part_of(rows, table, wanted, reading, numbers), left_out if piece is pieces[0] else {}


def _tables(
    rows: Rows, reading: Reading, pieces: Sequence[Piece]
) -> Iterator[tuple[Piece, pa.Table, NDArray[np.int64]]]:
    """Read the rows of pieces, and their numbers in the file."""
    if pieces[0].size is None:
        for piece in pieces:
            table = read_table(rows, reading.columns)
            numbers = rows_of_step(table, reading.steps, piece.step if piece.rows is not None and piece.step else None)
            yield piece, table if len(numbers) == len(table) else table.take(pa.array(numbers)), numbers
        return
    blocks = read_blocks(rows, ROWS_AT_ONCE, reading.columns)
    rest, at = next(blocks).table, 0
    for piece in pieces:
        taken: list[pa.Table] = []
        first, end = piece.first, piece.first + (piece.size or 0)
        while first < end:
            while at + len(rest) <= first:
                at, rest = next(blocks)
            taken.append(rest.slice(first - at, end - first))
            first += len(taken[-1])
        yield piece, pa.concat_tables(taken), np.arange(piece.first, end)


def _pieces(file: RunFile, wanted: Wanted, after: int | None) -> list[Piece]:
    """Return where the rows of each step are in a file, of steps after one."""
    if file.step is not None:
        return [Piece(str(file.step), file)] if after is None or file.step > after else []
    rows = replace(scan(file.path, file.tool, wanted.texts), held=None)
    names = steps_in(rows.schema.names, wanted.columns.values())
    if not names:
        return [Piece("", file, rows)]
    name = "step" if "step" in names else names[0]
    pieces: list[Piece] = []
    for block in read_blocks(rows, ROWS_AT_ONCE, [name]):
        of_rows = [step or "" for step in steps_of_rows(name, block.table.column(name))]
        first = block.first
        for step, same in groupby(of_rows):
            count = len(list(same))
            if pieces and pieces[-1].step == step:
                pieces[-1] = pieces[-1]._replace(size=(pieces[-1].size or 0) + count)
            else:
                pieces.append(Piece(step, file, rows, first, count))
            first += count
    steps = dict.fromkeys(piece.step for piece in pieces)
    if len(pieces) > 2 * len(steps):  # they alternate
        pieces = [Piece(step, file, rows) for step in steps]
    return [piece for piece in pieces if after is None or not piece.step or (_number(piece.step) or 0) > after]


def _number(step: str) -> int | None:
    if step and not step.lstrip("-").isdecimal():
        raise ValueError(f"{step!r} is a step by its column, but no number: steps are put in order by their numbers")
    return int(step) if step else None


def _out_of_order(told: Sequence[Piece]) -> tuple[ReportWarning, ...]:
    """Say if files hold steps in another order than that of their numbers, or a step in several places."""
    of_file: defaultdict[Path, list[Piece]] = defaultdict(list)
    for piece in told:
        of_file[piece.file.path].append(piece)
    wrong = [str(path) for path, pieces in of_file.items() if _is_scattered(pieces)]
    if not wrong:
        return ()
    shown = ", ".join(wrong[:2]) + ", ..." * (len(wrong) > 2)
    return (
        ReportWarning("steps-out-of-order", f"{shown}: steps do not follow one another there; they are read in order."),
    )


def _is_scattered(pieces: Sequence[Piece]) -> bool:
    if any(piece.size is None and piece.rows is not None and piece.step for piece in pieces):
        return True
    steps = [in_order(piece.step) for piece in pieces]
    return any(one >= other for one, other in pairwise(steps))
