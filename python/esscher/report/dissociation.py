"""What came of the objectives, as a table for the terminal and as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from esscher.report import digits
from esscher.report.page import card, fill, write
from esscher.report.table import Heading, Table, headings, print_beside, print_table, print_warnings

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from esscher.compare import PolicyPoint
    from esscher.report.outcomes import Dissociation, Outcome

DIVERSITY = ("distinct-2", "self-bleu-4 (method1)", "unique share")
EXACT = "- by enumeration"


def numbers(found: Dissociation) -> Table:
    """Return a row for each number, a column for each outcome; what is exact stands in the background."""
    points = {point.name: point for point in found.comparison.policies}

    def row(name: str, cell: Callable[[Outcome], str]) -> tuple[str, ...]:
        return name, *map(cell, found.outcomes)

    def exact(field: str, of: str = "") -> list[tuple[str, ...]]:
        if any(outcome.exact is None for outcome in found.outcomes):
            return []
        return [row(f"{EXACT}{of}", lambda one: digits.number(getattr(one.exact, field)))]

    rows = (
        row("reward", lambda one: digits.estimate(one.report.reward)),
        *exact("reward"),
        row("most that its KL could buy", lambda one: _reachable(points.get(one.name))),
        row("KL(policy‖prior), nats", lambda one: digits.estimate(one.report.kl.get("exact"))),
        *exact("kl"),
        row("as trainers log it, token k3", lambda one: digits.estimate(one.report.kl.get("k3"))),
        row("entropy, nats a token", lambda one: digits.estimate(one.entropy)),
        *exact("entropy", ", a completion"),
        row("KL(policy‖target), the gap", lambda one: digits.estimate(one.inference_gap)),
        *exact("inference_gap"),
        row("KL(target‖policy)", lambda one: digits.estimate(one.forward_kl)),
        *exact("forward_kl"),
        *(_diversity(found, metric) for metric in DIVERSITY),
        row("excess of distinct-2 of two", lambda one: digits.estimate(one.excess_collapse)),
        row("seconds of training", lambda one: f"{one.seconds:.0f}" if one.seconds else ""),
    )
    columns = headings("", *(outcome.name for outcome in found.outcomes))
    muted = tuple(i for i, (name, *_) in enumerate(rows) if name.startswith(EXACT))
    return Table("One prior, one reward, and what each objective made of them", columns, rows, muted=muted)


def completions(found: Dissociation) -> Table:
    """Return some completions of each outcome, in one line each."""
    rows = tuple(
        ("" if i else outcome.name, f"{text.reward:.2f}", *(" ".join(one.split()) for one in text[:2]))
        for outcome in found.outcomes
        for i, text in enumerate(outcome.texts)
    )
    columns = (Heading("policy", "name"), Heading("reward"), Heading("prompt", "note"), Heading("completion", "text"))
    return Table("Some completions, with their rewards", columns, rows)


def print_dissociation(found: Dissociation, console: Console | None = None, *, explain: bool = False) -> None:
    """Print the table, some completions, and what the reader should know."""
    console = console or Console()
    console.print(Text(_title(found), "bold"))
    print_beside(console, numbers(found))
    print_table(console, completions(found))
    print_warnings(console, found.comparison.warnings, explain=explain)
    console.print(Text(f"\n± is one standard error, clustered by prompt. {_facts(found)}", "dim"))


def write_dissociation_page(found: Dissociation, path: str | os.PathLike[str]) -> None:
    """Write the table, the picture of the frontier with all policies, and completions, replacing a file that is there.

    Raises
    ------
    ValueError, FileNotFoundError
        If the path is a folder, or its folder is not there.
    """
    # Importing altair takes most of a second, which only those who want a page should wait.
    from esscher.report import charts
    from esscher.report.frontier_chart import frontier_chart

    page = fill(
        "dissociation",
        title="What does the objective do to a language model?",
        counts=_title(found),
        cards=[card(f"Entropy, {one.name}", one.entropy, "nats a token") for one in found.outcomes],
        picture=charts.svg(frontier_chart(found.comparison.prototype, found.comparison.policies)),
        numbers=numbers(found),
        completions=completions(found),
        warnings=found.comparison.warnings,
        facts=_facts(found),
    )
    write(path, page)


def _title(found: Dissociation) -> str:
    """Say what was trained, and how long."""
    settings = found.settings
    drawn = settings["prompts"] * settings["completions"]
    return (
        f"{found.model}: {len(found.outcomes) - 1} objectives, {settings['steps']} steps of {drawn} completions each, "
        f"beta {settings['beta']:g}, seed {settings['seed']}"
    )


def _facts(found: Dissociation) -> str:
    """Say what else is needed to do it again."""
    return "; ".join(f"{name} {value}" for name, value in found.facts.items()) + "."


def _diversity(found: Dissociation, metric: str) -> tuple[str, ...]:
    of = ({one.metric: one.within for one in outcome.report.diversity} for outcome in found.outcomes)
    return metric, *(digits.estimate(metrics[metric]) for metrics in of)


def _reachable(point: PolicyPoint | None) -> str:
    return "" if point is None else digits.estimate(point.reachable)
