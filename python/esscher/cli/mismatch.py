"""`esscher mismatch`: log-probs of the engine that trains against those of the engine that sampled."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads it
from typing import Annotated

import typer

import esscher
from esscher.cli.options import Step, Tool  # noqa: TC001 - typer reads them
from esscher.cli.output import Html, Json, check_outputs, console, errors, say_where, show_progress, title_of


def mismatch(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Completions: files, folders or patterns.")],
    train: Annotated[str | None, typer.Option(help="Column of the trainer's log-probs.  [policy_logprobs]")] = None,
    rollout: Annotated[str | None, typer.Option(help="Column of the sampler's.  [rollout_logprobs]")] = None,
    mask: Annotated[
        str | None, typer.Option(help="Column of 0 and 1: which tokens count; '' if all do.  [any mask]")
    ] = None,
    step: Step = None,
    tool: Tool = None,
    json: Json = False,
    html: Html = None,
) -> None:
    """Compare the log-probs of the engine that trains with those of the engine that sampled, and say why they differ.

    Without options the columns are those of the tool that wrote the files, such as NeMo-RL (prev_logprobs,
    generation_logprobs) and prime-rl (trainer_logprobs, inference_logprobs), and masks go by the names of any trainer.
    """
    from esscher import files
    from esscher.report import to_json
    from esscher.report.mismatch import print_mismatch, write_mismatch_page

    check_outputs(paths, html)
    with show_progress(counted=False) as progress:
        task = progress.add_task("reading", total=None)
        columns = files.read_logprobs(paths, train, rollout, mask, tool, step)
        progress.update(task, description=f"comparing {len(columns.train):,} completions")
        report = esscher.mismatch(columns.train, columns.rollout, columns.groups, columns.terminated, columns.numbers)
    if columns.masks:
        errors.print(f"Only what {' and '.join(columns.masks)} keep counts: --mask '' counts all.", highlight=False)
    if html is not None:
        write_mismatch_page(report, html, title=title_of(paths))
    if json:
        print(to_json(report))
    else:
        print_mismatch(report, console)
        say_where(html)
