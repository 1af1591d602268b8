"""A comparison of two engines, as text that a person reads from the top and as a page."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.text import Text

from esscher.estimate import Estimate
from esscher.report.digits import estimate, number, plural, share
from esscher.report.page import Card, card, fill, write
from esscher.report.summary import pareto_k_meaning
from esscher.report.table import Heading, Table, print_section, print_table

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from esscher.mismatch import Coverage, Metrics, MismatchReport

HEADINGS = (Heading("", "name", 27), Heading(), Heading("", "note"))
# Of the metrics, those that a person needs first; the rest are details.
FIRST = ("kl", "ess", "pareto_k", "rollout_is_eff_sample_size")
SHARES = ("ess", "rollout_is_eff_sample_size")
FOOTNOTE = "± is one standard error, clustered by prompt."
# What a metric is, where its name does not say it.
NOTES = {
    "kl": "nats/token, KL(rollout‖train)",
    "ess": "of completions, unclamped",
    "rollout_is_eff_sample_size": "of tokens: never below 64%",
    "k3_kl": "nats per token",
    "log_ppl_diff": "nats per token, mean over completions",
    "chi2_token": "log-ratio clamped to ±20",
    "chi2_seq": "its sum clamped to ±20",
}


def print_mismatch(report: MismatchReport, console: Console | None = None) -> None:
    """Print a comparison: the verdict and what to do, then the numbers that matter, then the others.

    Parameters
    ----------
    report
        The comparison.
    console
        Where to print; standard output if not given.
    """
    console = console or Console()
    console.print(Text(f"{verdict(report)}.", f"bold {'green' if report.clean else 'yellow'}"))
    for i, cause in enumerate(report.causes, start=1):
        words = Group(Text(cause.evidence + "."), Text(f"→ {cause.advice}.", "green"))
        print_section(console, f"{i}. {cause.name}", words, "bold yellow")
    for table in tables(report):
        print_table(console, table)
    if report.metrics is not None:
        console.print(Text(f"\n{FOOTNOTE}", "dim"))


def write_mismatch_page(
    report: MismatchReport, path: str | os.PathLike[str], title: str = "Do the engines agree?"
) -> None:
    """Write a comparison as one self-contained HTML file, replacing a file that is there.

    Parameters
    ----------
    report
        The comparison.
    path
        Where to; the file appears whole or not at all.
    title
        The page's title.

    Raises
    ------
    ValueError
        If the path is a folder.
    FileNotFoundError
        If the path's folder is not there.
    """
    # Importing altair takes most of a second, which only those who want a page should wait.
    from esscher.report.mismatch_plots import figures

    page = fill(
        "mismatch",
        title=title,
        report=report,
        verdict=verdict(report),
        cards=[] if report.metrics is None else _cards(report.metrics),
        figures=() if report.metrics is None else figures(report.per_token),
        tables=tables(report),
        footnote=FOOTNOTE,
    )
    write(path, page)


def verdict(report: MismatchReport) -> str:
    """Return what the comparison comes to, in a sentence without its full stop."""
    if report.clean:
        return "Clean: the two engines agree as far as float32 goes"
    if not report.causes:
        return "Nothing to compare: no completion has a token with two log-probs"
    what = "Nothing can be compared" if report.metrics is None else "The engines differ"
    return f"{what}: {', '.join(report.names)}"


def tables(report: MismatchReport) -> tuple[Table, ...]:
    """Return the numbers, those that matter first; without metrics, how much there was to compare."""
    title, metrics = _counts(report.counts), report.metrics
    if metrics is None:
        return (Table(title, HEADINGS, ()),)
    rest = [field.name for field in fields(metrics) if field.name not in FIRST]
    return Table(title, HEADINGS, _rows(metrics, FIRST)), Table("Details", HEADINGS, _rows(metrics, rest))


def _counts(counts: Coverage) -> str:
    left_out = counts.left_out_tokens
    tokens = f"{counts.compared_tokens:,} of {plural(counts.tokens, 'token')}"
    text = f"Compared: {tokens} in {counts.compared_completions:,} of {plural(counts.completions, 'completion')}"
    return text + (f"; {share(left_out, counts.tokens)} of tokens left out" if left_out else "")


def _rows(metrics: Metrics, names: Sequence[str]) -> tuple[tuple[str, str, str], ...]:
    notes = NOTES | {"pareto_k": pareto_k_meaning(metrics.pareto_k)}
    return tuple((name, _value(name, getattr(metrics, name)), notes.get(name, "")) for name in names)


def _value(name: str, value: Estimate | float) -> str:
    if isinstance(value, Estimate):
        return estimate(value)
    return share(value, 1.0) if name in SHARES else number(value)


def _cards(metrics: Metrics) -> list[Card]:
    return [
        card("KL(rollout‖train)", metrics.kl, "nats per token"),
        Card("Effective sample size", share(metrics.ess, 1.0), "", "of completions, by their unclamped weights"),
        Card("Pareto k", number(metrics.pareto_k, 3), "", "of these weights: below 0.5 is a light tail"),
    ]
