"""`esscher trend`: the story of a training run, step by step."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esscher.cli.allocator import keep_freed_memory
from esscher.cli.options import Explain, Gold, IgnoredMasks, Renames, Rewards, Tool, renames_of, weights_of
from esscher.cli.output import Html, Json, check_outputs, console, say_where, show_progress, title_of
from esscher.cli.run_steps import RunReader
from esscher.cli.text_reading import Tokenizer, load_retokeniser
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
        typer.Argument(metavar="FOLDER|FILE...", help="The run: what a trainer left, a file a step or with a column."),
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
    tokenizer: Tokenizer = None,
    reward: Rewards = None,
    gold: Gold = None,
    tool: Tool = None,
    columns: Renames = None,
    ignore_mask: IgnoredMasks = None,
) -> None:
    """Tell the story of a training run: a line a step, what happened when, and by what evidence.

    Rows say which step they are of in a column, or their files' paths do, as trainers write them. With --beta each step
    is held against that target, with --prior against what its KL could have bought. Ctrl-C ends --follow.
    """
    from esscher import files

    how: dict[str, Any] = {
        "columns": renames_of(columns),
        "ignore_masks": tuple(ignore_mask or ()),
        "tool": tool,
        "rewards": weights_of(reward),
        "beside": () if gold is None else (gold,),
        "texts": load_retokeniser(tokenizer) if tokenizer else files.WordNumbers(),
    }
    tell_story(paths, how, beta=beta, prior=prior, follow=follow, until=until, json=json, explain=explain, html=html)


def tell_story(
    paths: list[Path],
    how: Mapping[str, Any],
    *,
    beta: float | None,
    json: bool,
    explain: bool,
    html: Path | None,
    prior: Path | None = None,
    follow: bool = False,
    until: int | None = None,
) -> None:
    """Read a run step by step as `files.read_run` is told, say what each tells, and what happened; see `trend`."""
    from esscher import files
    from esscher.report.trend import TrendLines

    keep_freed_memory()
    check_outputs([*paths, *([] if prior is None else [prior])], html)
    target = None if beta is None else Tilt(beta)
    known, warnings = (None, ()) if prior is None else _known(prior, target, how)
    recorder, reader = (
        TrendRecorder(None if target is None else str(target), known),
        RunReader(paths, partial(files.read_run, **how)),
    )
    summarise = partial(_summarise, target=target, known=known)
    show = _print_lines if json else TrendLines(console).show if follow else _print_nothing
    is_stopped = False
    try:
        parts = _until(reader.follow() if follow else _watched(reader.steps()), until)
        for step in map(summarise, parts) if follow else summarise_ahead(parts, summarise):
            show(step, recorder.take(step))
    except KeyboardInterrupt:
        is_stopped = True
    story = recorder.story((*warnings, *reader.warnings))
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


def _watched(parts: Iterable[Step]) -> Iterator[Step]:
    """Show which step is being read."""
    with show_progress(counted=False) as progress:
        task = progress.add_task("looking at what is there", total=None)
        for part in parts:
            progress.update(task, description=f"summarising step {part.number}")
            yield part


def _until(parts: Iterable[Step], last: int | None) -> Iterator[Step]:
    """Yield steps up to the last one that is asked for, without waiting for one that comes after it."""
    for part in parts:
        if last is None or (part.number or 0) <= last:
            yield part
        if last is not None and (part.number or 0) >= last:
            return


def _summarise(part: Step, target: Tilt | None, known: KnownFrontier | None) -> TrendStep:
    dump, number = part.dump, part.number or 0
    try:
        return summarise_step(
            number,
            dump.samples,
            target=target,
            rewards_by_name=dump.rewards_by_name,
            rollout_logprobs=dump.rollout_logprobs,
            known=known,
        )
    except ValueError as error:
        raise ValueError(f"step {number}: {error}") from error


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
    same = {name: how[name] for name in ("ignore_masks", "rewards", "texts")}
    dump = files.read(path, columns=own, optional=PRIOR_COLUMNS, step="all", **same)
    known: KnownFrontier = files.naming(path, known_frontier, dump.samples, target)
    return known, tuple(warning.at("the prior's samples") for warning in dump.warnings)
