"""A report as one HTML file that loads nothing: tables, plots as SVG, no scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from esscher.atomic import replacing
from esscher.estimate import Estimate
from esscher.report import digits, summary

if TYPE_CHECKING:
    import os

    from esscher.evaluate import Report
    from esscher.report.summary import Decode


class Card(NamedTuple):
    """One of the few numbers to read first."""

    name: str
    value: str
    stderr: str
    note: str


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
    with replacing(path) as file:
        file.write(render(report, decode, title).encode())


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
        sections=summary.sections(report),
        kl=summary.kl_rows(report),
        trainer_kl=summary.trainer_rows(report),
        diversity=summary.diversity_rows(report),
        footnote=summary.footnote(report),
        figures=plots.figures(report),
        ngrams=plots.ngram_figures(report, decode),
        decoded=decode is not None,
    )


def fill(template: str, **context: Any) -> str:
    """Fill in one of the templates."""
    from esscher.report.charts import COLOURS

    environment = Environment(
        loader=PackageLoader("esscher.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # vl-convert has escaped the text in its SVG.
    environment.filters["drawing"] = Markup
    return environment.get_template(f"{template}.html.jinja").render(colours=COLOURS, **context)


def _cards(report: Report) -> list[Card]:
    """Return reward, KL, and how the policy stands to the target."""
    cards = []
    if report.reward is not None:
        cards.append(card("Reward", report.reward, "mean per completion"))
    kl = summary.headline_kl(report)
    if kl is not None:
        cards.append(card("KL(policy‖prior)", Estimate(*report.kl[kl][:2]), f"nats per completion ({kl})"))
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


def card(name: str, estimate: Estimate, note: str) -> Card:
    """Return the card of an estimate."""
    value, _, stderr = digits.estimate(estimate).partition(" ± ")
    return Card(name, value, f"± {stderr}" if stderr else "", note)
