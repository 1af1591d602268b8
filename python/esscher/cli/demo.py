"""`esscher demo`: the whole job once, on a real language model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from esscher.atomic import check_place
from esscher.cli.options import Model  # noqa: TC001 - typer reads it
from esscher.cli.output import console, say_where, show_progress

if TYPE_CHECKING:
    from esscher.demo import Example


def demo(
    model: Model = "smollm2",
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write.")] = Path("out/demo.html"),
    beta: Annotated[float, typer.Option(help="Strength of the KL penalty, in reward per nat.")] = 0.25,
    completions: Annotated[int, typer.Option(help="Completions of each prompt.", min=2)] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
) -> None:
    """Do the whole job once: serve a real language model, sample, score, evaluate, show.

    A server holds the model as prior. The trainer's part is played by the same model under a hidden instruction, a
    policy with exact log-probs; its completions get a sentiment reward and are scored and evaluated over gRPC.
    """
    from esscher.demo import Demo, compare, examples, run_demo
    from esscher.report import print_report, write_page

    output.parent.mkdir(parents=True, exist_ok=True)
    check_place(output)
    with show_progress(counted=False) as progress:
        task = progress.add_task("starting", total=None)
        result = run_demo(
            Demo(model=model, beta=beta, completions=completions, seed=seed),
            progress=lambda text: progress.update(task, description=text),
        )
    _print_examples(examples(result))
    print_report(result.report, console=console, decode=result.decode, explain=True)
    console.print(compare(result), highlight=False)
    write_page(result.report, output, decode=result.decode, title=f"Esscher demo: {model}")
    say_where(output)


def _print_examples(examples: list[Example]) -> None:
    """Print completions, from the heaviest under the target to the lightest."""
    table = Table("completion", box=None, header_style="dim", pad_edge=False, leading=1)
    for name in ("reward", "log policy", "log prior", "weight"):
        table.add_column(name, justify="right", no_wrap=True)
    for example in examples:
        text = Text(" ".join(example.prompt.split()), style="dim")
        text.append(" " + " ".join(example.completion.split()), style="default")
        numbers = (example.reward, example.log_policy, example.log_prior, example.weight)
        table.add_row(text, *(f"{number:.2f}" for number in numbers))
    console.print("\n[bold]Some completions[/], from the heaviest under the target to the lightest\n")
    console.print(table)
    console.print()
