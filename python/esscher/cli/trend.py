"""`esscher trend`: the story of a training run, step by step."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated

import typer

from esscher.cli.options import Explain, IgnoredMasks, Renames, renames_of
from esscher.cli.output import Html, Json, check_outputs, console, say_where, show_progress, title_of
from esscher.cli.run_steps import RunIndex, RunStep, following, read_step, stamps_of
from esscher.cli.train import INTERRUPTED
from esscher.target import Tilt
from esscher.trend import TrendRecorder, known_frontier, summarise_ahead, summarise_step
from esscher.warning import ReportWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from esscher.trend import KnownFrontier, Trend, TrendEvent, TrendStep

    Show = Callable[[TrendStep, list[TrendEvent]], object]

# What is looked at of the prior's samples beside tokens.
PRIOR_COLUMNS = ("rewards", "prior_logprobs")
# So many files that were left out are named.
NAMED = 3


def trend(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER|FILE...", help="The run: files of a step each, or with a column *step*."),
    ],
    beta: Annotated[float | None, typer.Option(help="Target prior·exp(reward/beta)/Z.")] = None,
    prior: Annotated[
        Path | None, typer.Option(help="Samples of the prior with rewards: what was possible, beside the run.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with the steps that training writes.")] = False,
    until: Annotated[int | None, typer.Option(help="End after this step.")] = None,
    json: Json = False,
    explain: Explain = False,
    html: Html = None,
    columns: Renames = None,
    ignore_mask: IgnoredMasks = None,
) -> None:
    """Tell the story of a training run: a line a step, what happened when, and by what evidence.

    Files hold one step each, numbered by their names, or have a column that says which step a row is of. With --beta
    each step is held against that target, with --prior against what its KL could have bought. Ctrl-C ends --follow.
    """
    from esscher.report.trend import TrendLines

    check_outputs([*paths, *([] if prior is None else [prior])], html)
    target, renames, ignored = None if beta is None else Tilt(beta), renames_of(columns), tuple(ignore_mask or ())
    known, warnings = (None, ()) if prior is None else _known(prior, target, renames, ignored)
    recorder, index = TrendRecorder(None if target is None else str(target), known), RunIndex()
    read = partial(_read, renames=renames, ignored=ignored)
    summarise = partial(_summarise, target=target, known=known)
    show = _print_lines if json else TrendLines(console).show if follow else _print_nothing
    is_stopped = False
    try:
        found = following(paths, index) if follow else _found(paths, index)
        parts = map(read, _until(found, until))
        for step in map(summarise, parts) if follow else summarise_ahead(parts, summarise):
            show(step, recorder.take(step))
    except KeyboardInterrupt:
        is_stopped = True
    story = recorder.story((*warnings, *_of_unread(index)))
    _tell(story, title_of(paths), html, json=json, explain=explain, has_rows=follow)
    if is_stopped:
        sys.exit(INTERRUPTED)


def _tell(story: Trend, name: str, html: Path | None, *, json: bool, explain: bool, has_rows: bool) -> None:
    """Write the page, and print what is left to say; `has_rows` says whether the steps have been printed."""
    from esscher.report.as_json import to_json_line
    from esscher.report.trend import print_end, print_trend, write_trend_page

    html = html if story.steps else None
    # The page first, so that whoever reads only the beginning of the output has it.
    if html is not None:
        write_trend_page(story, html, title=f"The story of a run: {name}")
    if json:
        print(to_json_line(story.end))
        return
    (print_end if has_rows else print_trend)(story, console, explain=explain)
    say_where(html)


def _found(paths: Sequence[Path], index: RunIndex) -> Iterator[tuple[int, list[Path]]]:
    """Yield the steps that are there with their files.

    Raises
    ------
    ValueError
        If there are none.
    """
    found = index.steps(stamps_of(paths))
    if not found:
        named = ", ".join(map(str, paths))
        raise next(iter(index.unread.values()), ValueError(f"{named}: no Parquet or JSON lines are there"))
    with show_progress() as progress:
        task = progress.add_task("reading and summarising steps", total=len(found))
        for step in found.items():
            yield step
            progress.advance(task)


def _until(steps: Iterable[tuple[int, list[Path]]], last: int | None) -> Iterator[tuple[int, list[Path]]]:
    """Yield steps up to the last one that is asked for, without waiting for one that comes after it."""
    for number, paths in steps:
        if last is None or number <= last:
            yield number, paths
        if last is not None and number >= last:
            return


def _read(step: tuple[int, list[Path]], renames: Mapping[str, str], ignored: Collection[str]) -> RunStep:
    return read_step(*step, renames, ignored)


def _summarise(part: RunStep, target: Tilt | None, known: KnownFrontier | None) -> TrendStep:
    try:
        return summarise_step(
            part.number, part.samples, target=target, rollout_logprobs=part.rollout_logprobs, known=known
        )
    except ValueError as error:
        raise ValueError(f"step {part.number}: {error}") from error


def _print_lines(step: TrendStep, events: list[TrendEvent]) -> None:
    from esscher.report.as_json import to_json_line

    for record in (step, *events):
        print(to_json_line(record), flush=True)


def _print_nothing(step: TrendStep, events: list[TrendEvent]) -> None:
    """Leave it all to the end."""


def _known(
    path: Path, target: Tilt | None, renames: Mapping[str, str], ignored: Collection[str]
) -> tuple[KnownFrontier, tuple[ReportWarning, ...]]:
    """Read the prior's samples, which may have been written by another program than the run's."""
    from esscher import files

    there = files.scan(path).schema.names
    own = {ours: theirs for ours, theirs in renames.items() if theirs in there}
    dump = files.read(path, columns=own, optional=PRIOR_COLUMNS, ignore_masks=ignored)
    return files.naming(path, known_frontier, dump.samples, target), tuple(
        warning.at("the prior's samples") for warning in dump.warnings
    )


def _of_unread(index: RunIndex) -> list[ReportWarning]:
    if not index.unread:
        return []
    named = "; ".join(str(error) for error in list(index.unread.values())[:NAMED])
    more = f"; and {len(index.unread) - NAMED} more" if len(index.unread) > NAMED else ""
    return [ReportWarning("unread-files", f"{named}{more}.", "--follow takes them up once they are whole.")]
