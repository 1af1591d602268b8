"""What came of the objectives as one HTML file that loads nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from esscher.atomic import replacing
from esscher.report.dissociation import facts_line, rows_of, title_of
from esscher.report.page import card, fill

if TYPE_CHECKING:
    import os

    from esscher.report.outcomes import Dissociation
    from esscher.report.page import Card


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

    comparison = found.comparison
    whole = replace(comparison.prototype, warnings=comparison.warnings)
    page = fill(
        "dissociation",
        title="What does the objective do to a language model?",
        counts=title_of(found),
        cards=_cards(found),
        picture=charts.svg(frontier_chart(whole, comparison.policies)),
        names=[outcome.name for outcome in found.outcomes],
        rows=rows_of(found),
        outcomes=found.outcomes,
        warnings=comparison.warnings,
        facts=facts_line(found),
    )
    with replacing(path) as file:
        file.write(page.encode())


def _cards(found: Dissociation) -> list[Card]:
    return [card(f"Entropy, {outcome.name}", outcome.entropy, "nats a token") for outcome in found.outcomes]
