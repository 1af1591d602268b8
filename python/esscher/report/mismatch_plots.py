"""The plots of a comparison of two engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from esscher.report import bins, charts
from esscher.report.charts import HEIGHT, MUTED, SAMPLES, WIDTH, Figure

if TYPE_CHECKING:
    from esscher.mismatch import PerToken

# Cells with few tokens are seen as well.
FAINTEST = 0.15


def figures(tokens: PerToken) -> tuple[Figure, ...]:
    """Return the plots of both log-probs of every token, of their differences, and of these by place."""
    return _both(tokens), _differences(tokens), _places(tokens)


def _both(tokens: PerToken) -> Figure:
    """Draw how many tokens lie where, by the logarithm of their number."""
    plane = bins.plane(tokens.rollout, tokens.train)
    caption = (
        "Each token by its two log-probs, deeper where there are more. Where the engines agree, it is on the dashed "
        "line. A band beside the line is a kept mass, a tilt a temperature, a cloud on both sides of it tokens that "
        "are not the same."
    )
    if plane.left_out:
        caption += f" {plane.left_out:,} tokens lie outside."
    return Figure("One engine against the other", caption, _cells(plane))


def _cells(plane: bins.Plane) -> str:
    low, high = plane.edges[:-1].tolist(), plane.edges[1:].tolist()
    shade = np.log1p(plane.counts) / np.log1p(plane.counts.max(initial=1.0))
    rows = [
        {"left": low[x], "right": high[x], "bottom": low[y], "top": high[y], "shade": round(float(shade[y, x]), 3)}
        for y, x in np.argwhere(plane.counts > 0).tolist()
    ]
    scale = alt.Scale(domain=[plane.edges[0], plane.edges[-1]], nice=False, zero=False)
    x = alt.X("left:Q", title="log-prob of the engine that sampled, nats", scale=scale, axis=alt.Axis(tickCount=6))
    y = alt.Y("bottom:Q", title="of the engine that trains", scale=scale, axis=alt.Axis(tickCount=6))
    opacity = alt.Opacity("shade:Q", scale=alt.Scale(domain=[0, 1], range=[FAINTEST, 1]), legend=None)
    cells = charts.chart(rows).mark_rect(color=SAMPLES).encode(x=x, x2="right:Q", y=y, y2="top:Q", opacity=opacity)
    ends = [{"left": edge, "bottom": edge} for edge in (plane.edges[0], plane.edges[-1])]
    agree = charts.chart(ends).mark_line(color=MUTED, strokeDash=[4, 4], strokeWidth=1).encode(x="left:Q", y="bottom:Q")
    return charts.svg((cells + agree).properties(width=WIDTH, height=WIDTH))


def _differences(tokens: PerToken) -> Figure:
    title, difference = "Differences", tokens.train - tokens.rollout
    shape = bins.histogram(bins.central(difference))
    if shape is None:
        return Figure(title, "The differences are too far apart to be drawn.", None)
    caption = (
        "Log-prob of the engine that trains minus that of the engine that sampled, without the outermost 0.5 % at "
        "either end; the line is the mean of all. Rounding gives a narrow peak at 0, truncation lies to the left of it."
    )
    return Figure(title, caption, charts.histogram(shape, "nats", float(difference.mean()), "tokens"))


def _places(tokens: PerToken) -> Figure:
    title = "By place in the completion"
    size = np.abs(tokens.train - tokens.rollout)
    edges = np.unique(np.linspace(0, int(tokens.place.max()) + 1, bins.MOST_BINS + 1).astype(np.int64))
    at = np.searchsorted(edges, tokens.place, side="right") - 1
    means = np.bincount(at, size) / np.maximum(np.bincount(at), 1)
    if not means.any():
        return Figure(title, "The two engines agree to the last bit: there is nothing to draw.", None)
    rows: list[dict[str, Any]] = [
        {"left": left, "right": right, "size": size}
        for left, right, size in zip(edges[:-1].tolist(), edges[1:].tolist(), means.tolist(), strict=True)
    ]
    x = alt.X("left:Q", title="tokens before it", scale=alt.Scale(nice=False), axis=alt.Axis(tickCount=6))
    y = alt.Y("size:Q", title="mean |difference|, nats", axis=charts.axis(float(means.max())))
    bars = charts.chart(rows).mark_bar(color=SAMPLES, binSpacing=0)
    drawn = bars.encode(x=x, x2="right:Q", y=y, y2=alt.Y2Datum(0)).properties(width=WIDTH, height=HEIGHT)
    caption = (
        "How far the engines are apart at each place. What grows along the completion is an engine that falls out of "
        "step, or rounding that adds up; what is at one end only is a prompt or an end of another length."
    )
    return Figure(title, caption, charts.svg(drawn))
