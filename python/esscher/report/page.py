"""What pages are made of: HTML files that load nothing, with tables, plots as SVG, and no scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from esscher.atomic import replacing
from esscher.report import digits

if TYPE_CHECKING:
    import os

    from esscher.divergence import KlEstimate
    from esscher.estimate import Estimate


class Card(NamedTuple):
    """One of the few numbers to read first."""

    name: str
    value: str
    stderr: str
    note: str


def card(name: str, estimate: Estimate | KlEstimate, note: str) -> Card:
    """Return the card of an estimate."""
    value, _, stderr = digits.estimate(estimate).partition(" ± ")
    return Card(name, value, f"± {stderr}" if stderr else "", note)


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


def write(path: str | os.PathLike[str], page: str) -> None:
    """Write a page, replacing a file that is there; raises as `replacing` does."""
    with replacing(path) as file:
        file.write(page.encode())
