"""The results as a table in the terminal, and as Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.figures import Figure
    from bench.measure import Row

HEADINGS = (
    "job", "peer", "ours, ms", "peer, ms", "ratio", "mark", "met", "share of bandwidth", "differs by", "rounds",
)  # fmt: skip


@dataclass(frozen=True)
class Results:
    """Rows in pairs, with default and with tuned malloc; the read bandwidth under each; and figures without a peer."""

    pairs: list[tuple[Row, Row]]
    bandwidths: tuple[float, float]
    figures: list[Figure]
    failures: list[str]
    environment: dict[str, str]


def show(results: Results) -> None:
    console = Console(width=None if Console().is_terminal else 200)
    table = Table(*HEADINGS, title="default / tuned malloc, one thread", caption=_bandwidth(results))
    for _, pairs in groupby(results.pairs, key=lambda pair: pair[0].job):
        for pair in pairs:
            table.add_row(*_cells(pair))
        table.add_section()
    console.print(table)
    for figure in results.figures:
        console.print(f"{figure.name}: [bold]{figure.value}[/bold]")
    for failure in results.failures:
        console.print(f"FAILED {failure}", style="bold red", markup=False)


def as_markdown(results: Results, command: str) -> str:
    facts = "\n".join(f"- {key}: {value}" for key, value in {**results.environment, "Command": f"`{command}`"}.items())
    table = _markdown(HEADINGS, map(_cells, results.pairs))
    figures = _markdown(("figure", "value"), ((figure.name, figure.value) for figure in results.figures))
    return f"{TEXT.format(facts=facts, bandwidth=_bandwidth(results))}\n{table}\n{figures}"


TEXT = """# Speed beside the peers'

{facts}

Medians on one thread, each pair with default / with tuned malloc; peers in turns with ours, each on data that both were
found to give the same numbers for (differs by: largest difference relative to the largest entry). Ratio is the peer's
time over ours, mark the least that it has to be. A share of bandwidth counts what a call has to read and write, once:
of padded arrays the mask and what it keeps. {bandwidth}.
"""


def _bandwidth(results: Results) -> str:
    default, tuned = (f"{value / 1e9:.1f}" for value in results.bandwidths)
    return f"Read bandwidth of one core in the same run: {default} / {tuned} GB/s"


def _cells(pair: tuple[Row, Row]) -> tuple[str, ...]:
    first = pair[0]
    met = [_met(row, mark) for row, mark in zip(pair, first.marks, strict=True)]
    return (
        first.job,
        first.peer,
        _both(f"{row.ours * 1e3:.3g}" for row in pair),
        _both(f"{_plain(row.theirs * 1e3)}" for row in pair),
        _both(_plain(row.theirs / row.ours) for row in pair),
        _both("-" if mark is None else _plain(mark) for mark in first.marks),
        _both(met),
        _share(pair),
        f"{max(row.error for row in pair):.0e}",
        _both(str(row.rounds) for row in pair),
    )


def _met(row: Row, mark: float | None) -> str:
    return "-" if mark is None else "yes" if row.theirs / row.ours >= mark else "no"


def _share(pair: tuple[Row, Row]) -> str:
    if pair[0].share is None:
        return "-"
    shares = _both(f"{row.share:.0%}" for row in pair)
    mark = pair[0].share_mark
    return shares if mark is None else f"{shares} (mark {mark:.0%})"


def _plain(value: float) -> str:
    """Three digits, and no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _both(texts: Iterable[str]) -> str:
    """One text where both modes have the same."""
    first, second = texts
    return first if first == second else f"{first} / {second}"


def _markdown(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
