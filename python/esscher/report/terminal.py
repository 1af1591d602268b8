"""A report as text that a person reads from the top."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from esscher.report import summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

    from esscher.evaluate import Report
    from esscher.report.summary import Decode

NGRAMS_SHOWN = 5
NAME_WIDTH, VALUE_WIDTH = 25, 18
# So many columns hold the intervals of diversity beside the target's.
WIDE = 96


def print_report(report: Report, console: Console | None = None, decode: Decode | None = None) -> None:
    """Print a report: what matters first, then warnings with what to do, then each number in detail.

    Parameters
    ----------
    report
        The report.
    console
        Where to print; standard output if not given.
    decode
        Turns token ids into text, for the n-grams; without it they are shown as ids.
    """
    console = console or Console()
    console.print(Text(summary.counts(report), "bold"))
    for section in summary.sections(report):
        if section.rows:
            _print_section(console, section.title, _rows(section.rows))
    if report.warnings:
        _print_section(console, "Warnings", _points(("!", warning) for warning in report.warnings), "bold yellow")
    if report.kl:
        _print_section(console, "KL(policy‖prior), nats per completion", _kl(summary.kl_rows(report)))
        _print_section(console, "What trainers log as KL of the same samples", _kl(summary.trainer_rows(report)))
    if report.diversity:
        _print_section(console, "Diversity", _diversity(summary.diversity_rows(report), console.width >= WIDE))
    if any(report.top_ngrams.values()):
        _print_section(console, "Most frequent n-grams", _ngrams(report, decode))
    if report.unavailable:
        _print_section(console, "Not available", _points(report.unavailable.items(), NAME_WIDTH))
    console.print(Text(f"\n{summary.footnote(report)}", "dim"))


def _print_section(console: Console, title: str, body: RenderableType, style: str = "bold") -> None:
    console.print()
    console.print(Text(title, style))
    console.print(Padding(body, (0, 0, 0, 2), expand=False))


def _grid(*widths: int | None) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for width in widths:
        table.add_column(width=width, overflow="fold")
    return table


def _rows(rows: Sequence[summary.Row]) -> Table:
    table = _grid(NAME_WIDTH, VALUE_WIDTH, None)
    for name, value, note in rows:
        table.add_row(Text(name), Text(value, "cyan"), Text(note, "dim"))
    return table


def _kl(rows: Sequence[summary.KlRow]) -> Table:
    table = _grid(NAME_WIDTH - 4, VALUE_WIDTH, VALUE_WIDTH, None)
    table.add_row("", "", Text("95 % interval", "dim"), "")
    for name, value, interval, note in rows:
        table.add_row(Text(name), Text(value, "cyan"), Text(interval, "cyan"), Text(note, "dim"))
    return table


def _diversity(rows: Sequence[summary.DiversityRow], wide: bool) -> Table:
    """Lay out the metrics; in a narrow place the target's column takes that of the interval."""
    columns = {
        "within prompts": "within",
        "95 % interval": "interval",
        "under the target": "target",
        "across all": "across",
    }
    weighted = any(row.target for row in rows)
    if not weighted:
        del columns["under the target"]
    elif not wide:
        del columns["95 % interval"]
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(len(columns) + 1):
        table.add_column(overflow="fold")
    table.add_row("", *(Text(heading, "dim") for heading in columns))
    for row in rows:
        table.add_row(Text(row.metric), *(Text(getattr(row, name), "cyan") for name in columns.values()))
    return table


def _ngrams(report: Report, decode: Decode | None) -> Table:
    table = _grid(1, 9, None)
    table.columns[1].justify = "right"
    table.add_row(*(Text(heading, "dim") for heading in ("n", "count", "token ids" if decode is None else "text")))
    for n, ngrams in report.top_ngrams.items():
        for i, ngram in enumerate(ngrams[:NGRAMS_SHOWN]):
            order = Text("" if i else str(n), "dim")
            table.add_row(order, Text(f"{ngram.count:,}", "cyan"), Text(summary.ngram_text(ngram, decode)))
    return table


def _points(items: Iterable[tuple[str, str]], width: int | None = None) -> Table:
    table = _grid(width, None)
    for name, text in items:
        table.add_row(Text(name), Text(text))
    return table
