"""What a gold reward becomes under the targets of its proxy, in words, as a column and as a card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esscher.estimate import Estimate
from esscher.report import digits
from esscher.report.page import Card, card
from esscher.report.table import Heading, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esscher.frontier import Frontier, GoldCurve

# Behind the beta and the reward.
PLACE = 2


def gold_words(curve: Frontier, gold: GoldCurve) -> str:
    """Say at which KL the gold reward is highest, if it is so beyond error, in a sentence."""
    peak = gold.peak
    if peak is None:
        return "Gold reward: not known, as no target can be trusted."
    low, high = (digits.number(end, 2) for end in peak.kl_interval[:2])
    end = f"KL {digits.number(float(curve.kl.value[gold.trusted][-1]), 2)}, where the samples end"
    if peak.falls and peak.rises:
        where = f"KL {digits.number(peak.kl, 2)} (95 %: {low} to {high}), beta {digits.number(peak.beta, 2)}"
        return f"The gold reward is highest at {where}, and falls beyond: more of the reward is overoptimisation."
    if peak.falls:
        return (
            f"The gold reward rises nowhere beyond error, and falls from KL {high} on: the reward leads away from it."
        )
    if peak.rises:
        return f"The gold reward rises with the reward, and does not fall beyond error up to {end}."
    return f"The gold reward does not move beyond error up to {end}."


def with_gold(table: Table, curve: Frontier, gold: GoldCurve, points: Sequence[int]) -> Table:
    """Add the gold reward to the table of the frontier, of the prior and of some points, and say where it is best."""
    cells = [digits.estimate(gold.prior_reward)]
    for i in points:
        mark = "*" if curve.trusted[i] and not gold.trusted[i] else ""
        cells.append(digits.estimate(Estimate(float(gold.reward.value[i]), float(gold.reward.stderr[i]))) + mark)
    rows = tuple((*row[:PLACE], cell, *row[PLACE:]) for row, cell in zip(table.rows, cells, strict=True))
    headings = (*table.headings[:PLACE], Heading("gold reward"), *table.headings[PLACE:])
    notes = tuple(dict.fromkeys([*table.notes, *(["* not to be trusted"] if "*" in "".join(cells) else [])]))
    return table._replace(headings=headings, rows=rows, notes=(gold_words(curve, gold), *notes))


def gold_cards(gold: GoldCurve) -> list[Card]:
    """Return the card of the best gold reward, if it is known."""
    peak = gold.peak
    if peak is None:
        return []
    where = "the prior itself" if peak.kl == 0 else f"the target at beta {digits.number(peak.beta, 2)}"
    low, high = (digits.number(end, 2) for end in peak.kl_interval[:2])
    return [card("Best gold reward", peak.reward, f"of {where}; the best lies at a KL of {low} to {high}")]
