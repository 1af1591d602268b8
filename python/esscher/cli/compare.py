"""`esscher compare`: policies beside the frontier of their prior."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated

import typer

import esscher
from esscher.cli.options import Explain, IgnoredMasks, Renames, renames_of
from esscher.cli.output import Html, Json, Picture, check_outputs, console, say_where, show_progress, title_of
from esscher.warning import merge_warnings

if TYPE_CHECKING:
    from collections.abc import Collection

    from esscher.files import Dump

# What is looked at beside tokens; what else a file has is not read.
COLUMNS = ("rewards", "prior_logprobs", "policy_logprobs", "token_kl")


def compare(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Samples of policies, a file each.")],
    prior: Annotated[Path, typer.Option(help="Samples of the prior with rewards, .parquet or .jsonl.")],
    beta: Annotated[
        float | None, typer.Option(help="The target of gap and excess.  [default: that of each policy's KL]")
    ] = None,
    json: Json = False,
    explain: Explain = False,
    html: Html = None,
    picture: Picture = None,
    columns: Renames = None,
    ignore_mask: IgnoredMasks = None,
) -> None:
    """Put trained policies beside the frontier: what they got of what their KL could buy, and what they left undone.

    Each file holds completions of one policy with rewards, policy_logprobs and prior_logprobs, and names it.
    """
    from esscher.report import to_json
    from esscher.report.comparison import print_comparison, write_comparison_page
    from esscher.report.prototype import write_picture

    check_outputs([prior, *paths], html, picture)
    _check_names(paths, prior)
    with show_progress(counted=False) as progress:
        task = progress.add_task("reading", total=None)
        dumps = _read(paths, prior, renames_of(columns), ignore_mask or ())
        progress.update(task, description="comparing")
        found = esscher.compare(dumps[prior].samples, {path.stem: dumps[path].samples for path in paths}, beta)
    mixed = (warning.at(path.stem) for path, dump in dumps.items() for warning in dump.warnings)
    found = replace(found, warnings=merge_warnings((*mixed, *found.warnings)))
    if html is not None:
        write_comparison_page(found, html, title=f"How good could they be? {title_of(paths)}")
    if picture is not None:
        write_picture(found.prototype, picture, found.policies)
    if json:
        print(to_json(found))
    else:
        print_comparison(found, console, explain=explain)
        say_where(html, picture)


def _check_names(paths: list[Path], prior: Path) -> None:
    if prior.resolve() in [path.resolve() for path in paths]:
        raise ValueError(f"{prior} is given as the prior and as a policy: a policy's completions are its own")
    names = [path.stem for path in paths]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"two files are called {twice[0]}: a file's name is its policy's, rename one")


def _read(paths: list[Path], prior: Path, renames: dict[str, str], ignored: Collection[str]) -> dict[Path, Dump]:
    """Read the policies' files and then the prior's, which may have been written by another program."""
    from esscher import files

    read = {
        path: files.read(path, columns=renames, optional=COLUMNS, ignore_masks=ignored, step="all") for path in paths
    }
    if renames:
        there = files.scan(prior).schema.names
        renames = {ours: theirs for ours, theirs in renames.items() if theirs in there}
    read[prior] = files.read(prior, columns=renames, optional=COLUMNS, ignore_masks=ignored, step="all")
    return read
