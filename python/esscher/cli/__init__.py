"""The command line: a module for each command, and what they share."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer
from rich.markup import escape

from esscher.cli.compare import compare
from esscher.cli.demo import demo
from esscher.cli.evaluate import evaluate
from esscher.cli.mismatch import mismatch
from esscher.cli.output import errors
from esscher.cli.prototype import prototype
from esscher.cli.score import score
from esscher.cli.serve import serve
from esscher.cli.train import INTERRUPTED, train
from esscher.cli.trend import trend

app = typer.Typer(
    help="Score and evaluate KL-regularised fine-tuning of language models, seen as Bayesian inference.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for command in (demo, serve, score, evaluate, trend, prototype, compare, mismatch, train):
    app.command()(command)

BAD_INPUT, NO_SERVER = 2, 3
# Packages that commands import when they begin.
REPORT_PACKAGES = ("pyarrow", "altair", "jinja2")


def run() -> None:
    """Run the command line and exit: 0 done, 1 a bug, 2 bad input, 3 a server that fails or is absent, 130 stopped."""
    try:
        app()
    except (ConnectionError, TimeoutError) as error:
        _fail(str(error), NO_SERVER)
    except ModuleNotFoundError as error:
        needs = f"the command needs {error.name}, which is not installed: pip install 'esscher[report]'"
        _fail(needs if error.name in REPORT_PACKAGES else str(error), BAD_INPUT)
    except (ValueError, FloatingPointError, OSError, MemoryError) as error:
        _fail(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _fail(text: str, code: int) -> NoReturn:
    errors.print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True, highlight=False)
    sys.exit(code)
