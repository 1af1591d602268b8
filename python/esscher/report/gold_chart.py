"""The gold reward in the picture of the frontier: a second curve over the same KL, with a scale of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from esscher.report import charts
from esscher.report.charts import GOLD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.frontier import Frontier, GoldCurve


def with_gold_curve(drawn: Any, curve: Frontier, gold: GoldCurve, shown: NDArray[np.intp], x: alt.X) -> Any:
    """Draw the gold reward of the points that are shown over what is drawn, and where it is highest.

    It is solid as far as it is trusted, with its 95 % interval.
    """
    trusted = shown[gold.trusted[shown]]
    beyond = shown[len(trusted) - 1 if len(trusted) else 0 :]
    start = {"kl": 0.0, "gold": gold.prior_reward.value}
    known = [start, *_rows(curve, gold, trusted)]
    y = alt.Y("gold:Q", title="gold reward", scale=_scale(gold, shown), axis=_axis())
    low = alt.Y("low:Q", title="gold reward", scale=_scale(gold, shown), axis=_axis())
    band = charts.chart([row for row in known if np.isfinite(row.get("low", np.nan))]).mark_area(
        color=GOLD, opacity=0.14
    )
    solid = charts.chart(known).mark_line(color=GOLD, strokeWidth=2.25)
    dashed = charts.chart(_rows(curve, gold, beyond)).mark_line(
        color=GOLD, strokeWidth=1.5, strokeDash=[3, 4], opacity=0.7
    )
    order = alt.Order("kl:Q")
    layers = [band.encode(x=x, y=low, y2="high:Q"), *(line.encode(x=x, y=y, order=order) for line in (dashed, solid))]
    return alt.layer(drawn, alt.layer(*layers, *_peak(gold, x, y))).resolve_scale(y="independent")


def _rows(curve: Frontier, gold: GoldCurve, which: NDArray[np.intp]) -> list[dict[str, float]]:
    columns = (curve.kl.value, gold.reward.value, gold.reward.low, gold.reward.high)
    rows = zip(*(column[which].tolist() for column in columns), strict=True)
    return [dict(zip(("kl", "gold", "low", "high"), row, strict=True)) for row in rows]


def _scale(gold: GoldCurve, shown: NDArray[np.intp]) -> alt.Scale:
    trusted = shown[gold.trusted[shown]]
    ends = (gold.reward.value[shown], gold.reward.low[trusted], gold.reward.high[trusted], [gold.prior_reward.value])
    values = np.concatenate(ends)
    values = values[np.isfinite(values)]
    room = 0.12 * float(np.ptp(values)) or 1.0
    return alt.Scale(domain=[float(values.min()) - room, float(values.max()) + room], nice=False)


def _axis() -> alt.Axis:
    return alt.Axis(orient="right", tickCount=6, grid=False, titleColor=GOLD, labelColor=GOLD)


def _peak(gold: GoldCurve, x: alt.X, y: alt.Y) -> list[Any]:
    """Mark where it is highest, if that is known, and from where to where the best may be."""
    if gold.peak is None:
        return []
    kl, value = gold.peak.kl, gold.peak.reward.value
    low, high = gold.peak.kl_interval[:2]
    base = charts.chart([{"kl": kl, "gold": value, "left": low, "right": high}])
    dot = base.mark_point(color=GOLD, fill=GOLD, size=60, opacity=1).encode(x=x, y=y)
    rule = base.mark_rule(color=GOLD, strokeWidth=3, opacity=0.6).encode(
        x=alt.X("left:Q", scale=x["scale"]), x2="right:Q", y=y
    )
    text = base.mark_text(text="best by gold", color=GOLD, align="left", dx=7, dy=-10, fontWeight=600)
    return [rule, dot, text.encode(x=x, y=y)]
