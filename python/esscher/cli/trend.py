"""`esscher trend`: the story of a training run, step by step."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esscher.cli.allocator import keep_freed_memory
from esscher.cli.options import Explain, IgnoredMasks, Renames, Rewards, Tool, renames_of, weights_of
from esscher.cli.output import Html, Json, check_outputs, console, say_where, show_progress, title_of
from esscher.cli.run_steps import follow_steps, read_steps
from esscher.cli.train import INTERRUPTED
from esscher.target import Tilt
from esscher.trend import TrendRecorder, known_frontier, summarise_ahead, summarise_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from esscher.files import Step
    from esscher.trend import KnownFrontier, Trend, TrendEvent, TrendStep
    from esscher.warning import ReportWarning

    Show = Callable[[TrendStep, list[TrendEvent]], object]

# What is looked at of the prior's samples beside tokens.
PRIOR_COLUMNS = ("rewards", "prior_logprobs")


def trend(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER|FILE...", help="The run: folders, files or patterns, ours or a trainer's."),
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
    reward: Rewards = None,
    tool: Tool = None,
    columns: Renames = None,
    ignore_mask: IgnoredMasks = None,
) -> None:
    """Tell the story of a training run: a line a step, what happened when, and by what evidence.

    Rows say which step they are of in a column, or their files' paths do, as trainers write them. With --beta each step
    is held against that target, with --prior against what its KL could have bought. Ctrl-C ends --follow.
    """
    keep_freed_memory()
    check_outputs([*paths, *([] if prior is None else [prior])], html)
    target, renames, ignored = None if beta is None else Tilt(beta), renames_of(columns), tuple(ignore_mask or ())
    how = {"columns": renames, "ignore_masks": ignored, "tool": tool, "rewards": weights_of(reward)}
    known, warnings = (None, ()) if prior is None else _known(prior, target, how)
    recorder = TrendRecorder(None if target is None else str(target), known)
    told: dict[str, ReportWarning] = {}
    summarise = partial(_summarise, target=target, known=known)
    show = _shown(json=json, follow=follow)
    is_stopped = False
    try:
        read = follow_steps(paths, how) if follow else _watched(read_steps(paths, how))
        parts = _remembering(_until(read, until), told)
        for step in map(summarise, parts) if follow else summarise_ahead(parts, summarise):
            show(step, recorder.take(step))
    except KeyboardInterrupt:
        is_stopped = True
    story = recorder.story((*warnings, *told.values()))
    _tell(story, title_of(paths), html, json=json, explain=explain, has_rows=follow)
    if is_stopped:
        sys.exit(INTERRUPTED)


def _shown(*, json: bool, follow: bool) -> Show:
    """Return what shows a step as it comes."""
    from esscher.report.trend import TrendLines

    return _print_lines if json else TrendLines(console).show if follow else _print_nothing


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


def _watched(parts: Iterable[Step]) -> Iterator[Step]:
    """Show which step is being read."""
    with show_progress(counted=False) as progress:
        task = progress.add_task("looking at what is there", total=None)
        for part in parts:
            progress.update(task, description=f"summarising step {part.number}")
            yield part


def _remembering(parts: Iterable[Step], told: dict[str, ReportWarning]) -> Iterator[Step]:
    """Keep what is told of steps, the first of each kind with the step that it is told of."""
    for part in parts:
        for warning in part.dump.warnings:
            told.setdefault(warning.code, warning.at(*warning.where, f"step {part.number}"))
        yield part


def _until(parts: Iterable[Step], last: int | None) -> Iterator[Step]:
    """Yield steps up to the last one that is asked for, without waiting for one that comes after it."""
    for part in parts:
        number = part.number or 0
        if last is None or number <= last:
            yield part
        if last is not None and number >= last:
            return


def _summarise(part: Step, target: Tilt | None, known: KnownFrontier | None) -> TrendStep:
    try:
        return summarise_step(
            part.number or 0,
            part.dump.samples,
            target=target,
            rewards_by_name=part.dump.rewards_by_name,
            rollout_logprobs=part.dump.rollout_logprobs,
            known=known,
        )
    except ValueError as error:
        raise ValueError(f"step {part.number}: {error}") from error


def _print_lines(step: TrendStep, events: list[TrendEvent]) -> None:
    from esscher.report.as_json import to_json_line

    for record in (step, *events):
        print(to_json_line(record), flush=True)


def _print_nothing(step: TrendStep, events: list[TrendEvent]) -> None:
    """Leave it all to the end."""


def _known(path: Path, target: Tilt | None, how: Mapping[str, Any]) -> tuple[KnownFrontier, tuple[ReportWarning, ...]]:
    """Read the prior's samples, which may have been written by another program than the run's."""
    from esscher import files

    there = files.scan(path).schema.names
    own = {ours: theirs for ours, theirs in how["columns"].items() if theirs in there}
    dump = files.read(
        path, columns=own, optional=PRIOR_COLUMNS, ignore_masks=how["ignore_masks"], rewards=how["rewards"]
    )
    found: KnownFrontier = files.naming(path, known_frontier, dump.samples, target)
    return found, tuple(warning.at("the prior's samples") for warning in dump.warnings)
