"""What targets would give as one HTML file that loads nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher.atomic import replacing
from esscher.estimate import Estimate
from esscher.report import digits
from esscher.report.comparison import ERROR_OF_LOG_Z, log_z_rows, policy_rows
from esscher.report.page import Card, card, fill
from esscher.report.prototype import (
    best_rows,
    counts,
    diversity_names,
    diversity_rows,
    footnote,
    frontier_rows,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from esscher.compare import PolicyPoint
    from esscher.frontier import Curve
    from esscher.frontier.prototype import Prototype


def write_prototype_page(
    found: Prototype,
    path: str | os.PathLike[str],
    title: str = "What could a policy reach?",
    policies: Sequence[PolicyPoint] = (),
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
    policies
        Policies to show beside the frontier.

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
        policies=policy_rows(policies),
        log_z=log_z_rows(policies, found.prompts),
        error_of_log_z=ERROR_OF_LOG_Z,
        frontier=frontier_rows(found),
        prior=digits.estimate(found.frontier.prior_reward),
        best=best_rows(found),
        diversity=diversity_rows(found),
        metrics=diversity_names(found),
        footnote=footnote(found),
    )
    with replacing(path) as file:
        file.write(page.encode())


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
    return cards


def _at(curve: Curve, i: int) -> Estimate:
    return Estimate(float(curve.value[i]), float(curve.stderr[i]))
