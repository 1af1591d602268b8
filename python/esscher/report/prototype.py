"""What targets would give, as a table for the terminal, and as a picture in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from esscher.atomic import replacing
from esscher.estimate import Estimate
from esscher.report import digits

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from esscher.compare import PolicyPoint
    from esscher.frontier.prototype import Prototype

# Rows of the table: the prior's end, the limit of what is trusted, and what lies evenly between them.
ROWS = 8
# So many betas or fewer are all shown.
FEW_BETAS = 16
PICTURES = (".svg", ".png")
CURVES = ("log_z", "reward", "kl", "prior_kl", "total_variation")


class FrontierRow(NamedTuple):
    """What the target at one beta would give, in words and figures."""

    beta: str
    reward: str
    kl: str
    log_z: str
    total_variation: str
    ess: str
    pareto_k: str
    trusted: bool


class BestRow(NamedTuple):
    """What the best of n samples gives."""

    n: str
    reward: str
    kl: str


class DiversityRow(NamedTuple):
    """Diversity of the target at one beta."""

    beta: str
    kl: str
    values: tuple[str, ...]


def frontier_rows(found: Prototype) -> tuple[FrontierRow, ...]:
    """Return points of the frontier, evenly spaced in the square root of KL, and the first that is not trusted.

    Of a few betas, as one gives them, all are shown.
    """
    curve = found.frontier
    if len(curve.beta) <= FEW_BETAS:
        return tuple(_frontier_row(found, i) for i in range(len(curve.beta)))
    trusted = np.flatnonzero(curve.trusted)
    roots = np.sqrt(np.maximum(curve.kl.value, 0.0))[trusted]
    wanted = np.linspace(roots.min(), roots.max(), ROWS) if len(trusted) else np.empty(0)
    chosen = sorted({int(trusted[np.abs(roots - root).argmin()]) for root in wanted})
    beyond = np.flatnonzero(~curve.trusted)[:1].tolist()
    return tuple(_frontier_row(found, i) for i in [*chosen, *beyond])


def best_rows(found: Prototype) -> tuple[BestRow, ...]:
    """Return best-of-n for each n but 1, which is the prior; of the KL, which hardly varies, the value only."""
    best = found.best_of_n
    columns = (best.n.tolist(), best.reward.value.tolist(), best.reward.stderr.tolist(), best.kl.value.tolist())
    return tuple(
        BestRow(str(n), digits.estimate(Estimate(reward, stderr)), digits.number(kl))
        for n, reward, stderr, kl in zip(*columns, strict=True)
        if n > 1
    )


def diversity_rows(found: Prototype) -> tuple[DiversityRow, ...]:
    """Return the diversity of the target, from the prior on."""
    return tuple(
        DiversityRow(
            "prior" if np.isinf(at.beta) else digits.number(at.beta, 3),
            digits.number(at.kl, 3),
            tuple(digits.estimate(metric.within) for metric in at.metrics),
        )
        for at in found.diversity
    )


def diversity_names(found: Prototype) -> tuple[str, ...]:
    """Return what the columns of `diversity_rows` are."""
    return tuple(metric.metric for metric in found.diversity[0].metrics)


def counts(found: Prototype) -> str:
    """Return how much there was, in one line."""
    return f"{digits.plural(found.prompts, 'prompt')}, {digits.plural(found.completions, 'completion')} of the prior"


def footnote(found: Prototype) -> str:
    """Say what ± means, and what it assumes."""
    return f"{digits.error_note(found.prompts)} Intervals are of 95 %, if {found.frontier.assumes}."


def print_prototype(found: Prototype, console: Console | None = None) -> None:
    """Print what targets would give: the frontier, best-of-n, diversity, and warnings."""
    console = console or Console()
    console.print(Text(counts(found), "bold"))
    if found.warnings:
        print_section(console, "Before trusting these numbers", Text("\n".join(found.warnings)), "bold yellow")
    print_section(console, "Targets prior·exp(reward/beta)/Z: the most reward at each KL", _frontier(found))
    if not all(row.trusted for row in frontier_rows(found)):
        console.print(Text("  * not to be trusted", "dim"))
    print_section(console, "Best of n samples of the prior", _best(found))
    print_section(console, "Diversity of the target, within prompts", _diversity(found))
    console.print(Text(f"\n{footnote(found)}", "dim"))


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


def _frontier_row(found: Prototype, i: int) -> FrontierRow:
    curve = found.frontier
    at = {name: digits.estimate(Estimate(*(float(x[i]) for x in getattr(curve, name)[:2]))) for name in CURVES}
    return FrontierRow(
        beta=digits.number(float(curve.beta[i]), 3),
        reward=at["reward"],
        kl=at["kl"],
        log_z=at["log_z"],
        total_variation=at["total_variation"],
        ess=digits.share(float(curve.ess[i]), found.completions),
        pareto_k=digits.number(float(curve.pareto_k[i]), 2),
        trusted=bool(curve.trusted[i]),
    )


def print_section(console: Console, title: str, body: Table | Text, style: str = "bold") -> None:
    """Print a title, and under it what it is of."""
    console.print()
    console.print(Text(title, style))
    console.print(Padding(body, (0, 0, 0, 2), expand=False))


def _grid(*headings: str) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in headings:
        table.add_column(overflow="fold")
    table.add_row(*(Text(heading, "dim") for heading in headings))
    return table


def _frontier(found: Prototype) -> Table:
    table = _grid("beta", "reward", "KL, nats", "log Z", "ESS", "Pareto k")
    prior = digits.estimate(found.frontier.prior_reward)
    table.add_row(Text("prior"), Text(prior, "cyan"), Text("0", "cyan"), Text("0", "cyan"), "", "")
    for row in frontier_rows(found):
        style = "cyan" if row.trusted else "dim"
        cells = (row.reward, row.kl, row.log_z, row.ess, row.pareto_k)
        beta = row.beta if row.trusted else f"{row.beta}*"
        table.add_row(Text(beta, "" if row.trusted else "dim"), *(Text(cell, style) for cell in cells))
    return table


def _best(found: Prototype) -> Table | Text:
    if len(found.best_of_n.n) == 1:
        return Text("not known: it takes four samples a prompt or more", "dim")
    table = _grid("n", "reward", "KL at most, nats" if found.best_of_n.kl_is_bound else "KL, nats")
    for row in best_rows(found):
        table.add_row(Text(row.n), Text(row.reward, "cyan"), Text(row.kl, "cyan"))
    return table


def _diversity(found: Prototype) -> Table:
    table = _grid("beta", "KL, nats", *diversity_names(found))
    for row in diversity_rows(found):
        table.add_row(Text(row.beta), Text(row.kl), *(Text(value, "cyan") for value in row.values))
    return table
