"""What targets would give, as tables for the terminal, as a page, and as a picture in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.text import Text

from esscher.atomic import replacing
from esscher.estimate import Estimate
from esscher.report import digits
from esscher.report.gold_table import gold_cards, with_gold
from esscher.report.page import Card, card, fill, write
from esscher.report.table import Table, headings, print_table, print_warnings, without

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from esscher.compare import PolicyPoint
    from esscher.frontier import Curve
    from esscher.frontier.prototype import Prototype

# Rows of the table: the prior's end, the limit of what is trusted, and what lies evenly between them.
ROWS = 8
# So many betas or fewer are all shown.
FEW_BETAS = 16
PICTURES = (".svg", ".png")
VARIATION = "total variation"


def tables(found: Prototype) -> tuple[Table, Table, Table]:
    """Return the frontier, best-of-n, and the diversity of the targets."""
    return _frontier(found), _best_of_n(found), _diversity(found)


def shown_points(found: Prototype) -> list[int]:
    """Return points of the frontier, evenly spaced in the square root of KL, and the first that is not trusted.

    Of a few betas, as one gives them, all are shown.
    """
    curve = found.frontier
    if len(curve.beta) <= FEW_BETAS:
        return list(range(len(curve.beta)))
    trusted = np.flatnonzero(curve.trusted)
    roots = np.sqrt(np.maximum(curve.kl.value, 0.0))[trusted]
    wanted = np.linspace(roots.min(), roots.max(), ROWS) if len(trusted) else np.empty(0)
    chosen = sorted({int(trusted[np.abs(roots - root).argmin()]) for root in wanted})
    return [*chosen, *np.flatnonzero(~curve.trusted)[:1].tolist()]


def counts(found: Prototype) -> str:
    """Return how much there was, in one line."""
    return f"{digits.plural(found.prompts, 'prompt')}, {digits.plural(found.completions, 'completion')} of the prior"


def print_prototype(found: Prototype, console: Console | None = None, *, explain: bool = False) -> None:
    """Print what targets would give: the frontier, best-of-n, diversity, and warnings."""
    console = console or Console()
    console.print(Text(counts(found), "bold"))
    print_warnings(console, found.warnings, explain=explain)
    for table in tables(found):
        print_table(console, without(table, VARIATION))
    console.print(Text(f"\n{_footnote(found)}", "dim"))


def write_prototype_page(
    found: Prototype,
    path: str | os.PathLike[str],
    title: str = "What could a policy reach?",
    policies: Sequence[PolicyPoint] = (),
    of_policies: Sequence[Table] = (),
) -> None:
    """Write what targets would give as one self-contained HTML file, replacing a file that is there.

    Parameters
    ----------
    found
        What `prototype` found.
    path
        Where to; the file appears whole or not at all.
    title
        The page's title.
    policies, of_policies
        Policies to draw beside the frontier, and the tables of them.

    Raises
    ------
    ValueError
        If the path is a folder.
    FileNotFoundError
        If the path's folder is not there.
    """
    # Importing altair takes most of a second, which only those who want a page should wait.
    from esscher.report import charts
    from esscher.report.frontier_chart import frontier_chart

    page = fill(
        "prototype",
        title=title,
        found=found,
        counts=counts(found),
        cards=_cards(found),
        picture=charts.svg(frontier_chart(found, policies)),
        of_policies=of_policies,
        tables=tables(found),
        footnote=_footnote(found),
    )
    write(path, page)


def write_picture(found: Prototype, path: str | os.PathLike[str], policies: Sequence[PolicyPoint] = ()) -> None:
    """Write the picture of the frontier as SVG or PNG, by the path's suffix; the file appears whole or not at all.

    Raises
    ------
    ValueError
        If the suffix is another, or the path is a folder.
    """
    check_picture(path)
    # Importing altair takes most of a second, which only those who want a picture should wait.
    from esscher.report import charts
    from esscher.report.frontier_chart import frontier_chart

    drawn = frontier_chart(found, policies)
    picture = charts.png(drawn) if Path(path).suffix == ".png" else charts.svg(drawn, "white").encode()
    with replacing(path) as file:
        file.write(picture)


def check_picture(path: str | os.PathLike[str]) -> None:
    """Raise `ValueError` if a picture cannot be written under such a name."""
    if Path(path).suffix not in PICTURES:
        raise ValueError(f"{path}: a picture is .svg or .png, name it so")


def _footnote(found: Prototype) -> str:
    return f"{digits.error_note(found.prompts)} Intervals are of 95 %, if {found.frontier.assumes}."


def _frontier(found: Prototype) -> Table:
    """Return a row for the prior and for each of the points; those that are not trusted stand in the background."""
    curve = found.frontier
    rows: list[tuple[str, ...]] = [("prior", digits.estimate(curve.prior_reward), "0", "0", "0", "", "")]
    for i in shown_points(found):
        beta = digits.number(float(curve.beta[i]), 3)
        curves = (_at(one, i) for one in (curve.reward, curve.kl, curve.log_z, curve.total_variation))
        ess, k = digits.share(float(curve.ess[i]), found.completions), digits.number(float(curve.pareto_k[i]), 2)
        rows.append((beta if curve.trusted[i] else f"{beta}*", *map(digits.estimate, curves), ess, k))
    muted = tuple(i for i, (beta, *_) in enumerate(rows) if beta.endswith("*"))
    title = "Targets prior·exp(reward/beta)/Z: the most reward at each KL(target‖prior)"
    columns = headings("beta", "reward", "KL, nats", "log Z", VARIATION, "ESS", "Pareto k")
    table = Table(title, columns, tuple(rows), ("* not to be trusted",) if muted else (), muted)
    return table if found.gold is None else with_gold(table, found.frontier, found.gold, shown_points(found))


def _best_of_n(found: Prototype) -> Table:
    """Return a row for each n but 1, which is the prior; of the KL, which hardly varies, the value only."""
    best = found.best_of_n
    rows = tuple(
        (str(n), digits.estimate(_at(best.reward, i)), digits.number(float(best.kl.value[i])))
        for i, n in enumerate(best.n.tolist())
        if n > 1
    )
    columns = headings("n", "reward", "KL at most, nats" if best.kl_is_bound else "KL, nats")
    notes = () if rows else ("not known: it takes four samples a prompt or more",)
    return Table("Best of n samples of the prior", columns, rows, notes)


def _diversity(found: Prototype) -> Table:
    names = [metric.metric for metric in found.diversity[0].metrics]
    rows = tuple(
        (
            "prior" if np.isinf(at.beta) else digits.number(at.beta, 3),
            digits.number(at.kl, 3),
            *(digits.estimate(metric.within) for metric in at.metrics),
        )
        for at in found.diversity
    )
    note = "What the target asks for: a policy that is less diverse at the same KL has lost the rest to the optimiser."
    return Table("Diversity of the target, within prompts", headings("beta", "KL, nats", *names), rows, (note,))


def _cards(found: Prototype) -> list[Card]:
    curve = found.frontier
    cards = [card("Reward of the prior", curve.prior_reward, "where every policy starts")]
    trusted = np.flatnonzero(curve.trusted)
    if len(trusted):
        last = int(trusted[-1])
        beta = digits.number(float(curve.beta[last]), 2)
        cards.append(card("Reward within sight", _at(curve.reward, last), f"of the target at beta {beta}"))
        cards.append(card("Its KL", _at(curve.kl, last), "nats per completion from the prior"))
        share = digits.share(float(curve.ess[last]), found.completions)
        cards.append(Card("Its effective samples", digits.number(float(curve.ess[last]), 3), share, "of the samples"))
    return cards if found.gold is None else [*cards, *gold_cards(found.gold)]


def _at(curve: Curve, i: int) -> Estimate:
    return Estimate(float(curve.value[i]), float(curve.stderr[i]))
