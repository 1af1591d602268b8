"""A report of `evaluate`, as text that a person reads from the top and as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from esscher.report import digits, summary
from esscher.report.page import Card, card, fill, write
from esscher.report.table import print_table, print_warnings, without

if TYPE_CHECKING:
    import os

    from esscher.evaluate import Report
    from esscher.report.summary import Decode

# So many columns hold the intervals of diversity beside the target's.
WIDE = 96


def print_report(
    report: Report, console: Console | None = None, decode: Decode | None = None, *, explain: bool = False
) -> None:
    """Print a report: what matters first, then warnings with what to do, then each number in detail.

    Parameters
    ----------
    report
        The report.
    console
        Where to print; standard output if not given.
    decode
        Turns token ids into text, for the n-grams; without it they are shown as ids.
    explain
        Whether to print all that warnings say, and not a line for each kind of them.
    """
    console = console or Console()
    console.print(Text(summary.counts(report), "bold"))
    for table in summary.numbers(report):
        print_table(console, table)
    print_warnings(console, report.warnings, explain=explain)
    for table in summary.details(report):
        narrow = table.title == "Diversity" and len(table.headings) > 4 and console.width < WIDE
        print_table(console, without(table, summary.INTERVAL) if narrow else table)
    if any(report.top_ngrams.values()):
        print_table(console, summary.ngrams(report, decode))
    console.print(Text(f"\n{summary.footnote(report)}", "dim"))


def write_page(
    report: Report, path: str | os.PathLike[str], decode: Decode | None = None, title: str = "Esscher report"
) -> None:
    """Write a report as one self-contained HTML file, replacing a file that is there.

    Parameters
    ----------
    report
        The report.
    path
        Where to; the file appears whole or not at all.
    decode
        Turns token ids into text, for the n-grams; without it they are shown as ids.
    title
        The page's title.

    Raises
    ------
    ValueError
        If the path is a folder.
    FileNotFoundError
        If the path's folder is not there.
    """
    write(path, render(report, decode, title))


def render(report: Report, decode: Decode | None = None, title: str = "Esscher report") -> str:
    """Return the page that `write_page` writes."""
    # Importing altair takes most of a second, which only those who want a page should wait.
    from esscher.report import plots

    return fill(
        "report",
        title=title,
        report=report,
        counts=summary.counts(report),
        cards=_cards(report),
        tables=(*summary.numbers(report), *summary.details(report)),
        footnote=summary.footnote(report),
        figures=plots.figures(report),
        ngrams=plots.ngram_figures(report, decode),
        decoded=decode is not None,
    )


def _cards(report: Report) -> list[Card]:
    """Return reward, KL, and how the policy stands to the target."""
    cards = []
    if report.reward is not None:
        cards.append(card("Reward", report.reward, "mean per completion"))
    kl = summary.headline_kl(report)
    if kl is not None:
        cards.append(card("KL(policy‖prior)", report.kl[kl], f"nats per completion ({kl})"))
    target = report.target
    if target is None:
        return cards
    if target.objective is not None and target.objective_bound is not None:
        bound = digits.number(target.objective_bound.value, 3)
        cards.append(card("Objective J", target.objective, f"of at most {bound}, beta log Z"))
    if target.inference_gap is not None:
        cards.append(card("Inference gap", target.inference_gap, "nats, KL(policy‖target)"))
    share = digits.share(target.ess, report.counts.completions)
    note = f"of {digits.plural(report.counts.completions, 'completion')}"
    return [*cards, Card("Effective sample size", digits.number(target.ess, 3), share, note)]
