"""`esscher prototype`: what fine-tuning could reach, from samples of the prior."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import Annotated

import typer

import esscher
from esscher.cli.options import Explain, IgnoredMasks, Renames, Rewards, Step, Tool, renames_of, weights_of
from esscher.cli.output import Html, Json, Picture, check_outputs, console, say_where, show_progress, title_of
from esscher.target import Tilt
from esscher.warning import merge_warnings

# What is looked at beside tokens; what else a file has is not read.
COLUMNS = ("rewards", "prior_logprobs")


def prototype(
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Samples of the prior: files, folders or patterns.")
    ],
    beta: Annotated[
        list[float] | None, typer.Option(help="A beta to look at; may be given several times.  [default: 64 of them]")
    ] = None,
    json: Json = False,
    explain: Explain = False,
    html: Html = None,
    picture: Picture = None,
    reward: Rewards = None,
    step: Step = None,
    tool: Tool = None,
    columns: Renames = None,
    ignore_mask: IgnoredMasks = None,
) -> None:
    """See what fine-tuning could reach, before any training: the best reward at each KL, from the prior's samples.

    The files hold completions of the prior with their rewards, several a prompt; with prior_logprobs the KL of
    best-of-n is known more closely than by its bound.
    """
    from esscher import files
    from esscher.report import to_json
    from esscher.report.prototype import print_prototype, write_picture, write_prototype_page

    check_outputs(paths, html, picture)
    for one in beta or ():
        Tilt(one)  # raises what is wrong with it
    with show_progress(counted=False) as progress:
        task = progress.add_task("reading", total=None)
        dump = files.read(
            paths,
            columns=renames_of(columns),
            optional=COLUMNS,
            ignore_masks=ignore_mask or (),
            tool=tool,
            step=step,
            rewards=weights_of(reward),
        )
        progress.update(task, description=f"weighing {dump.samples}")
        found = files.naming(paths, esscher.prototype, dump.samples, beta)
    found = replace(found, warnings=merge_warnings((*dump.warnings, *found.warnings)))
    if html is not None:
        write_prototype_page(found, html, title=f"What could a policy reach? {title_of(paths)}")
    if picture is not None:
        write_picture(found, picture)
    if json:
        print(to_json(found))
    else:
        print_prototype(found, console, explain=explain)
        say_where(html, picture)
