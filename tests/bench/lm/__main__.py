"""`python -m bench.lm [--write] [JOB...]`: all jobs, or those whose names begin with one of the words given."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

from bench.environment import describe
from bench.lm import engine, service, training, trl_overhead
from bench.table import _markdown, _plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.lm.measure import Figure, Row

COMPARISONS = {**engine.COMPARISONS, **service.COMPARISONS}
FIGURES = {**engine.FIGURES, **service.FIGURES, **training.FIGURES, **trl_overhead.FIGURES}
PACKAGES = ("esscher", "numpy", "torch", "transformers", "lm_eval", "trl", "grpcio", "protobuf")
HEADINGS = ("job", "peer", "ours, ms", "peer, ms", "ratio", "mark", "met", "differs by")
TEXT = """# A real language model, in process and over gRPC

{facts}

SmolLM2-135M on two threads; medians, ours and the peers' calls in turns, on requests that both were found to give the
same numbers for; where a call takes more than 20 s, each is timed once. Ratio is the peer's time over ours, mark the
least that it has to be.

"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.lm", description=__doc__)
    parser.add_argument("--write", action="store_true", help="also write RESULTS_LM.md")
    parser.add_argument("jobs", nargs="*", metavar="JOB")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    console = Console(width=None if Console().is_terminal else 200)
    rows = [row for job in _chosen(COMPARISONS, arguments.jobs) for row in _shown(console, job())]
    figures = [figure for job in _chosen(FIGURES, arguments.jobs) for figure in _shown(console, job())]
    table = Table(*HEADINGS)
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    if arguments.write:
        Path(__file__).parent.with_name("RESULTS_LM.md").write_text(_page(rows, figures))


def _chosen(known: dict[str, Callable[[], Any]], words: list[str]) -> list[Callable[[], Any]]:
    return [job for name, job in known.items() if not words or any(map(name.startswith, words))]


def _shown(console: Console, results: Sequence[Any]) -> Sequence[Any]:
    for result in results:
        console.print(result)
    return results


def _cells(row: Row) -> tuple[str, ...]:
    met = "-" if row.mark is None else "yes" if row.ratio >= row.mark else "no"
    mark = "-" if row.mark is None else _plain(row.mark)
    difference = "-" if row.difference is None else f"{row.difference:.0e}"
    times = (_plain(1e3 * row.ours), _plain(1e3 * row.theirs))
    return (row.job, row.peer, *times, _plain(row.ratio), mark, met, difference)


def _page(rows: list[Row], figures: list[Figure]) -> str:
    facts = {**describe(PACKAGES), "Command": "`make bench-lm WRITE=1`"}
    lines = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    table = _markdown(HEADINGS, map(_cells, rows))
    return f"{TEXT.format(facts=lines)}{table}\n{_markdown(('figure', 'value'), ((f.name, f.value) for f in figures))}"


if __name__ == "__main__":
    main()
