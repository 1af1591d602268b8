"""What plots are made of: colours, sizes, and SVG with nothing to load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import altair as alt
import numpy as np
import vl_convert

from esscher.report import digits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from esscher.report.bins import Histogram

# A page maps these to its own colours, one set for light and one for dark.
INK, MUTED, GRID, SAMPLES, TARGET, GOLD = "#1f2933", "#6b7785", "#e3e7eb", "#6f9fd0", "#c2571a", "#9a7408"
COLOURS = {"ink": INK, "muted": MUTED, "grid": GRID, "samples": SAMPLES, "target": TARGET, "gold": GOLD}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
WIDTH, HEIGHT = 400, 220
SMALL = 1e-3


class Figure(NamedTuple):
    """A plot and what it says; `svg` is `None` where there is nothing to plot, and the caption says why."""

    title: str
    caption: str
    svg: str | None


def histogram(shape: Histogram, unit: str, mean: float = np.nan, of: str = "completions") -> str:
    """Draw bins, the outline of the weighted ones if there are any, and a line at the mean."""
    rows = _bars(shape.edges, shape.shares)
    x = alt.X(
        "left:Q", title=unit, scale=alt.Scale(zero=False, nice=False), axis=axis(float(np.abs(shape.edges).max()))
    )
    y = alt.Y("share:Q", title=f"share of {of}", axis=alt.Axis(format="%", tickCount=4))
    bars = chart(rows).mark_bar(color=SAMPLES, binSpacing=0)
    layers: list[Any] = [bars.encode(x=x, x2="right:Q", y=y, y2=alt.Y2Datum(0))]
    if shape.weighted is not None:
        layers.append(_outline(shape.edges, shape.weighted))
        layers += [label("samples", SAMPLES, "left"), label("weighted to the target", TARGET, "right")]
    if np.isfinite(mean):
        layers += [rule("left", mean, INK), label(f"mean {digits.number(mean)}", INK, "right")]
    return svg(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT))


def chart(rows: Sequence[dict[str, Any]]) -> Any:
    """Begin a chart of these rows, which go along with it."""
    return alt.Chart(alt.InlineData(list(rows)))


def axis(largest: float) -> alt.Axis:
    """Return an axis whose labels have room: numbers as small as rounding need a power of ten."""
    return alt.Axis(tickCount=4, format="~e") if 0 < largest < SMALL else alt.Axis(tickCount=6)


def rule(field: str, value: float, color: str) -> Any:
    """Draw a line upright at a value."""
    return chart([{field: value}]).mark_rule(color=color, strokeWidth=1.5).encode(x=f"{field}:Q")


def label(text: str, color: str, side: Literal["left", "right"]) -> Any:
    """Write above the plot, where text covers nothing."""
    where = {"x": alt.value(0 if side == "left" else WIDTH), "y": alt.value(-12)}
    return chart([{}]).mark_text(text=text, color=color, align=side, fontWeight=600).encode(**where)


def svg(drawn: Any, background: str = "transparent") -> str:
    """Render a chart as SVG, text as text."""
    rendered: str = vl_convert.vegalite_to_svg(drawn.to_dict(), **_how(background))
    return rendered


def png(drawn: Any) -> bytes:
    """Render a chart as PNG, on white, at twice its size."""
    rendered: bytes = vl_convert.vegalite_to_png(drawn.to_dict(), scale=2, **_how("white"))
    return rendered


def _how(background: str) -> dict[str, Any]:
    axis = {"gridColor": GRID, "domain": False, "tickColor": GRID, "labelColor": MUTED, "titleColor": MUTED}
    config = {
        "font": FONT,
        "background": background,
        "view": {"stroke": None},
        "axis": axis | {"titleFontWeight": "normal", "labelFontSize": 11, "titleFontSize": 11},
        "axisX": {"grid": False},
        # Labels are as wide as the reader's font makes them, which may be wider than here: the title keeps away.
        "axisY": {"minExtent": 44},
        "text": {"fontSize": 12},
    }
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return {"vl_version": version, "config": config, "allowed_base_urls": []}


def left_out(shape: Histogram) -> str:
    """Say how many values a histogram does not show."""
    if not shape.left_out:
        return ""
    return f" {digits.plural(shape.left_out, 'infinite value')} {'is' if shape.left_out == 1 else 'are'} not drawn."


def _bars(edges: NDArray[np.float64], shares: NDArray[np.float64]) -> list[dict[str, float]]:
    columns = zip(edges[:-1].tolist(), edges[1:].tolist(), shares.tolist(), strict=True)
    return [{"left": left, "right": right, "share": share} for left, right, share in columns]


def _outline(edges: NDArray[np.float64], shares: NDArray[np.float64]) -> Any:
    # A step up at the left end, down to the axis at the right one.
    heights = [0.0, *shares.tolist(), 0.0]
    rows = [{"left": x, "share": y} for x, y in zip([edges[0], *edges.tolist()], heights, strict=True)]
    line = chart(rows).mark_line(color=TARGET, strokeWidth=1.75, interpolate="step-after")
    return line.encode(x="left:Q", y="share:Q", order=alt.OrderValue(0))
