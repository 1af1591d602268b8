"""What came of the objectives, as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text as Styled

from esscher.estimate import Estimate
from esscher.report import digits
from esscher.report.prototype import print_section

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esscher.compare import PolicyPoint
    from esscher.divergence import KlEstimate
    from esscher.report.outcomes import Dissociation, Outcome

# Widths in characters: of what a number is called, and of the numbers of one outcome.
NAMES, NUMBERS = 32, 22
DIVERSITY = ("distinct-2", "self-bleu-4 (method1)", "unique share")


class Row(NamedTuple):
    """A number of every outcome, and whether it is exact."""

    name: str
    cells: tuple[str, ...]
    is_exact: bool = False


def rows_of(found: Dissociation) -> tuple[Row, ...]:
    """Return the table: a row for each number, a cell for each outcome."""
    points = {point.name: point for point in found.comparison.policies}

    def row(name: str, cell: Callable[[Outcome], str]) -> Row:
        return Row(name, tuple(cell(outcome) for outcome in found.outcomes))

    def exact(name: str, field: str) -> list[Row]:
        cells = [outcome.exact for outcome in found.outcomes]
        if any(cell is None for cell in cells):
            return []
        return [Row(name, tuple(digits.number(getattr(cell, field)) for cell in cells), is_exact=True)]

    return (
        row("reward", lambda one: _estimate(one.report.reward)),
        *exact("by enumeration", "reward"),
        row("most that its KL could buy", lambda one: _reachable(points.get(one.name))),
        row("KL(policy‖prior), nats", lambda one: _kl(one, "exact")),
        *exact("by enumeration", "kl"),
        row("as trainers log it, token k3", lambda one: _kl(one, "k3")),
        row("entropy, nats a token", lambda one: digits.estimate(one.entropy)),
        *exact("by enumeration, a completion", "entropy"),
        row("KL(policy‖target), the gap", lambda one: digits.estimate(one.inference_gap)),
        *exact("by enumeration", "inference_gap"),
        row("KL(target‖policy)", lambda one: _of_kl(one.forward_kl)),
        *exact("by enumeration", "forward_kl"),
        *(row(name, lambda one, name=name: _diversity(one, name)) for name in DIVERSITY),  # type: ignore[misc]
        row("excess of distinct-2 of two", lambda one: digits.estimate(one.excess_collapse)),
        row("seconds of training", lambda one: f"{one.seconds:.0f}" if one.seconds else ""),
    )


def print_dissociation(found: Dissociation, console: Console | None = None) -> None:
    """Print the table, some completions, and what the reader should know."""
    console = console or Console()
    console.print(Styled(title_of(found), "bold"))
    beside = max((console.width - NAMES) // NUMBERS, 1)
    for start in range(0, len(found.outcomes), beside):
        part = _table(found, slice(start, start + beside))
        print_section(console, "One prior, one reward, and what each objective made of them", part)
    print_section(console, "Some completions, with their rewards", _texts(found.outcomes))
    warnings = Styled("\n".join(found.comparison.warnings))
    if found.comparison.warnings:
        print_section(console, "Before trusting these numbers", warnings, "bold yellow")
    console.print(Styled(f"\n± is one standard error, clustered by prompt. {facts_line(found)}", "dim"))


def title_of(found: Dissociation) -> str:
    """Say what was trained, and how long."""
    settings = found.settings
    drawn = settings["prompts"] * settings["completions"]
    return (
        f"{found.model}: {len(found.outcomes) - 1} objectives, {settings['steps']} steps of {drawn} completions each, "
        f"beta {settings['beta']:g}, seed {settings['seed']}"
    )


def facts_line(found: Dissociation) -> str:
    """Say what else is needed to do it again."""
    return "; ".join(f"{name} {value}" for name, value in found.facts.items()) + "."


def _table(found: Dissociation, shown: slice) -> Table:
    """Return the numbers of some outcomes, so many as fit beside each other."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=NAMES - 2)
    for _ in found.outcomes[shown]:
        table.add_column(no_wrap=True, min_width=NUMBERS - 2)
    table.add_row("", *(Styled(outcome.name, "bold") for outcome in found.outcomes[shown]))
    for name, cells, is_exact in rows_of(found):
        style = "dim" if is_exact else "cyan"
        table.add_row(Styled(f"  {name}" if is_exact else name), *(Styled(cell, style) for cell in cells[shown]))
    return table


def _texts(outcomes: Sequence[Outcome]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for outcome in outcomes:
        for i, text in enumerate(outcome.texts):
            words = Styled(" ".join(text.prompt.split()), "dim").append(f" {' '.join(text.completion.split())}", "none")
            table.add_row(Styled(outcome.name if i == 0 else "", "bold"), f"{text.reward:.2f}", words)
    return table


def _estimate(estimate: Estimate | None) -> str:
    return "" if estimate is None else digits.estimate(estimate)


def _kl(outcome: Outcome, estimator: str) -> str:
    return "" if estimator not in outcome.report.kl else _of_kl(outcome.report.kl[estimator])


def _of_kl(kl: KlEstimate) -> str:
    return digits.estimate(Estimate(kl.value, kl.stderr))


def _diversity(outcome: Outcome, name: str) -> str:
    return next(digits.estimate(one.within) for one in outcome.report.diversity if one.metric == name)


def _reachable(point: PolicyPoint | None) -> str:
    return "" if point is None else "not known" if point.reachable is None else digits.estimate(point.reachable)
