"""What commands share: options, and where they print."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

console = Console()
errors = Console(stderr=True)

MODEL_HELP = (
    "A folder, of a model or of an adapter, a GGUF file, a hub name, or one of **smollm2** and **alice**, which come "
    "as Python packages."
)


class Dtype(StrEnum):
    """Precision of the model's weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Model = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...  [default: cuda if there is one]")]
Precision = Annotated[Dtype, typer.Option(help="Precision of the model's weights.")]


def show_progress(*, counted: bool = True) -> Progress:
    """Progress on standard error, so that standard output holds results only."""
    count = (BarColumn(), MofNCompleteColumn()) if counted else ()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), *count, TimeElapsedColumn())
    return Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal)
