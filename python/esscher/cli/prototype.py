"""`esscher prototype`: what fine-tuning could reach, from samples of the prior."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

import esscher
from esscher.cli.options import Explain, Gold, IgnoredMasks, Renames, Rewards, Step, Tool, renames_of, weights_of
from esscher.cli.output import Html, Json, Picture, check_outputs, console, say_where, show_progress, title_of
from esscher.cli.text_reading import Tokenizer, load_retokeniser
from esscher.target import Tilt
from esscher.warning import ReportWarning, merge_warnings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher import files

# What is looked at beside tokens; what else a file has is not read.
COLUMNS = ("rewards", "prior_logprobs")


def prototype(
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Samples of the prior: files, folders or patterns.")
    ],
    beta: Annotated[
        list[float] | None, typer.Option(help="A beta to look at; may be given several times.  [default: 64 of them]")
    ] = None,
    gold: Gold = None,
    json: Json = False,
    explain: Explain = False,
    html: Html = None,
    picture: Picture = None,
    reward: Rewards = None,
    step: Step = None,
    tool: Tool = None,
    tokenizer: Tokenizer = None,
    columns: Renames = None,
    ignore_mask: IgnoredMasks = None,
) -> None:
    """See what fine-tuning could reach, before any training: the best reward at each KL, from the prior's samples.

    The files hold completions of the prior with their rewards, several a prompt; with prior_logprobs the KL of
    best-of-n is known more closely than by its bound. With a gold reward beside them one sees at which KL it falls
    while the reward rises: overoptimisation.
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
            beside=() if gold is None else (gold,),
            texts=load_retokeniser(tokenizer) if tokenizer else files.WordNumbers(),
        )
        samples, column, left_out = (dump.samples, None, ()) if gold is None else _with_gold(gold, dump)
        progress.update(task, description=f"weighing {samples}")
        found = files.naming(paths, partial(esscher.prototype, gold=column), samples, beta)
    found = replace(found, warnings=merge_warnings((*dump.warnings, *left_out, *found.warnings)))
    if html is not None:
        write_prototype_page(found, html, title=f"What could a policy reach? {title_of(paths)}")
    if picture is not None:
        write_picture(found, picture)
    if json:
        print(to_json(found))
    else:
        print_prototype(found, console, explain=explain)
        say_where(html, picture)


def _with_gold(name: str, dump: files.Dump) -> tuple[esscher.Samples, NDArray[np.float64], tuple[ReportWarning, ...]]:
    """Return the completions that have a gold reward, several a prompt, with it; those that have none are counted."""
    column = dump.rewards_by_name[name]
    known, groups = ~np.isnan(column), dump.samples.groups
    if not known.any():
        raise ValueError(f"column {name!r} holds no number")
    kept = known & ~groups.spread((groups.sums(known) == 1) & (groups.sizes > 1))
    if not kept.any():  # of single completions, `frontier` says what it needs
        kept = known
    if kept.all():
        return dump.samples, column, ()
    without, alone = int((~known).sum()), int((known & ~kept).sum())
    beside = f", and with them {alone} that would be alone in their prompts" if alone else ""
    warning = ReportWarning(
        "without-gold",
        f"{without} of {len(known)} completions have no {name!r} and are left out{beside}. What is shown is of the "
        "others, which may be others in kind.",
        "Give all a gold reward, or a random choice of them.",
    )
    return dump.samples.take_completions(np.flatnonzero(kept)), column[kept], (warning,)
