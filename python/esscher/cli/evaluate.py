"""`esscher evaluate`: what files of samples say of a policy."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import esscher
from esscher.cli.options import (
    Explain,
    IgnoredMasks,
    Renames,
    Rewards,
    Step,
    Tool,
    renames_of,
    weights_of,
)
from esscher.cli.output import Html, Json, check_outputs, console, say_where, show_progress, title_of
from esscher.cli.text_reading import Tokenizer, check_known, compare_again, load_retokeniser
from esscher.cli.trend import tell_story
from esscher.target import Condition, Tilt
from esscher.warning import merge_warnings

if TYPE_CHECKING:
    from esscher.target import Target
    from esscher.warning import ReportWarning


def evaluate(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Samples: files, folders or patterns.")],
    beta: Annotated[float | None, typer.Option(help="Target prior·exp(reward/beta)/Z.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Target: the prior given reward ≥ threshold.")] = None,
    proposal: Annotated[Literal["policy", "prior"], typer.Option(help="Where the completions came from.")] = "policy",
    json: Json = False,
    explain: Explain = False,
    html: Html = None,
    tokenizer: Tokenizer = None,
    reward: Rewards = None,
    step: Step = None,
    tool: Tool = None,
    columns: Renames = None,
    ignore_mask: IgnoredMasks = None,
) -> None:
    """Report what files of samples say of a policy: reward, KL, diversity, and its distance from a target.

    Completions of several steps are of several policies: a line is told of each, as `esscher trend` does.
    """
    from esscher import files
    from esscher.evaluate.single_rewards import estimate_rewards
    from esscher.report import print_report, to_json, write_page

    target = _target_of(beta, threshold)
    check_outputs(paths, html)
    texts = load_retokeniser(tokenizer) if tokenizer else files.WordNumbers()
    how: dict[str, Any] = {
        "columns": renames_of(columns),
        "ignore_masks": tuple(ignore_mask or ()),
        "tool": tool,
        "rewards": weights_of(reward),
        "texts": texts,
    }
    try:
        with show_progress() as progress:
            task = progress.add_task("reading", total=None)
            told = partial(progress.update, task, total=None)
            dump = files.read(paths, step=step, progress=lambda path: told(description=f"reading {path}"), **how)
            again: tuple[ReportWarning, ...] = ()
            if not isinstance(texts, files.WordNumbers):
                check_known(dump.samples, texts)
                again = compare_again(paths, tool, texts)
            told(description=f"evaluating {dump.samples}")
            report = files.naming(paths, partial(esscher.evaluate, dump.samples, target, proposal=proposal))
    except files.SeveralStepsError:
        if threshold is not None or proposal == "prior":
            raise
        tell_story(paths, how, beta=beta, json=json, explain=explain, html=html)
        return
    decode = texts.decode if tokenizer or dump.samples.tokens == "words" else None
    report = replace(
        report,
        warnings=merge_warnings((*dump.warnings, *again, *report.warnings)),
        rewards=estimate_rewards(dump.rewards_by_name, dump.samples.groups),
    )
    # The page first, so that whoever reads only the beginning of the output has it.
    if html is not None:
        write_page(report, html, decode=decode, title=title_of(paths))
    if json:
        print(to_json(report))
    else:
        print_report(report, console=console, decode=decode, explain=explain)
        say_where(html)


def _target_of(beta: float | None, threshold: float | None) -> Target | None:
    if beta is not None and threshold is not None:
        raise ValueError("--beta and --threshold are two different targets: give one of them")
    if beta is not None:
        return Tilt(beta)
    return None if threshold is None else Condition(threshold)
