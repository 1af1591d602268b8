"""A comparison of two engines shown: in words and figures, as text that a person reads from the top."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from esscher.estimate import Estimate
from esscher.report.digits import estimate, number, plural, share
from esscher.report.summary import Row, Section, pareto_k_meaning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from esscher.mismatch import Coverage, Metrics, MismatchReport

NAME_WIDTH = 27
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
        console.print()
        console.print(Text(f"{i}. {cause.name}", "bold yellow"))
        _indented(console, Group(Text(cause.evidence + "."), Text(f"→ {cause.advice}.", "green")))
    for section in sections(report):
        console.print(Text(f"\n{section.title}", "bold"))
        if section.rows:
            _indented(console, _table(section.rows))
    if report.metrics is not None:
        console.print(Text(f"\n{FOOTNOTE}", "dim"))


def verdict(report: MismatchReport) -> str:
    """Return what the comparison comes to, in a sentence without its full stop."""
    if report.clean:
        return "Clean: the two engines agree as far as float32 goes"
    if not report.causes:
        return "Nothing to compare: no completion has a token with two log-probs"
    what = "Nothing can be compared" if report.metrics is None else "The engines differ"
    return f"{what}: {', '.join(report.names)}"


def sections(report: MismatchReport) -> tuple[Section, ...]:
    """Return the numbers, those that matter first; without metrics, how much there was to compare."""
    title = _counts(report.counts)
    if report.metrics is None:
        return (Section(title, ()),)
    details = [field.name for field in fields(report.metrics) if field.name not in FIRST]
    return Section(title, _rows(report.metrics, FIRST)), Section("Details", _rows(report.metrics, details))


def _counts(counts: Coverage) -> str:
    left_out = counts.left_out_tokens
    tokens = f"{counts.compared_tokens:,} of {plural(counts.tokens, 'token')}"
    text = f"Compared: {tokens} in {counts.compared_completions:,} of {plural(counts.completions, 'completion')}"
    return text + (f"; {share(left_out, counts.tokens)} of tokens left out" if left_out else "")


def _rows(metrics: Metrics, names: Sequence[str]) -> tuple[Row, ...]:
    return tuple(_row(name, getattr(metrics, name)) for name in names)


def _row(name: str, value: Estimate | float) -> Row:
    if isinstance(value, Estimate):
        return Row(name, estimate(value), NOTES.get(name, ""))
    shown = share(value, 1.0) if name in SHARES else number(value)
    return Row(name, shown, pareto_k_meaning(value) if name == "pareto_k" else NOTES.get(name, ""))


def _table(rows: Sequence[Row]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=NAME_WIDTH)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, value, note in rows:
        table.add_row(Text(name), Text(value, "cyan"), Text(note, "dim"))
    return table


def _indented(console: Console, body: RenderableType) -> None:
    console.print(Padding(body, (0, 0, 0, 2), expand=False))
