"""Where commands print, and the pages and pictures that they write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from esscher.atomic import check_place

console = Console()
errors = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print the numbers as JSON and nothing else.")]
Html = Annotated[Path | None, typer.Option(help="Also write them as a page.")]
Picture = Annotated[Path | None, typer.Option(help="Also draw the frontier, .svg or .png.")]


def show_progress(*, counted: bool = True) -> Progress:
    """Progress on standard error, so that standard output holds results only."""
    count = (BarColumn(), MofNCompleteColumn()) if counted else ()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), *count, TimeElapsedColumn())
    return Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal)


def check_outputs(paths: list[Path], page: Path | None, picture: Path | None = None) -> None:
    """Raise what would keep a page and a picture from being written, or what either would overwrite."""
    for output in (page, picture):
        if output is not None:
            check_place(output)
            if output.resolve() in [path.resolve() for path in paths]:
                raise ValueError(f"{output} is one of the files that are read: name another to write to")
    if picture is None:
        return
    from esscher.report.prototype import check_picture

    check_picture(picture)
    if page is not None and page.resolve() == picture.resolve():
        raise ValueError(f"{page} is given for the page and for the picture: name two files")


def say_where(page: Path | None, picture: Path | None = None) -> None:
    """Print where a page and a picture have been written."""
    written = {"Page": page, "Picture": picture}
    places = [f"{what}: {path.resolve()}" for what, path in written.items() if path is not None]
    if places:
        console.print("\n" + "\n".join(places), soft_wrap=True, markup=False)


def title_of(paths: list[Path]) -> str:
    """Return the names of the files that a page is about."""
    return ", ".join(path.name for path in paths)
