"""The picture of the frontier: reward against KL from the prior, with what can be reached and at which beta."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import altair as alt
import numpy as np

from esscher.report import charts
from esscher.report.charts import INK, MUTED, SAMPLES, TARGET
from esscher.report.gold_chart import with_gold_curve
from esscher.report.gold_table import gold_words
from esscher.report.prototype import counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from esscher.compare import PolicyPoint
    from esscher.frontier import Frontier
    from esscher.frontier.prototype import Prototype

WIDTH, HEIGHT = 720, 400
# Beyond what is trusted, so much more of the KL is drawn.
BEYOND = 1.5
# Right of a policy there is so much more of the KL, for its name.
AROUND = 1.35
# Points up to this share of the largest KL have room for their names at their right; policies, up to this share of the
# width.
ROOM, INSIDE = 0.85, 0.75
# What is named along the curve lies at least so far apart, as a share of the width: betas, and best-of-n.
APART, APART_OF_BEST = 0.09, 0.12
NAME_HEIGHT = 15
# Steps of a run that are named lie so far apart, as a share of the width; the first are so faint.
NAMES_APART, FAINTEST = 0.13, 0.2
# Right of the last step of a run there is so much more of the KL.
BESIDE = 1.2


class PathStep(NamedTuple):
    """A step of a run on the axes of the frontier."""

    step: int
    kl: float
    reward: float


class _Frame(NamedTuple):
    """What is drawn: the part of the curve, and the scales of all layers."""

    shown: NDArray[np.intp]
    scale: alt.Scale
    x: alt.X
    y: alt.Scale
    most_kl: float
    bottom: float
    top: float


def frontier_chart(found: Prototype, policies: Sequence[PolicyPoint] = (), path: Sequence[PathStep] = ()) -> Any:
    """Draw rewards that targets reach against their KL from the prior, those of best-of-n, of policies, and of a run.

    The curve is solid as far as it is trusted, with its 95 % interval; above it no policy can be. KL is on a
    square-root scale, on which a curve begins straight.
    """
    path = [one for one, drawn in zip(path, is_drawn(found, path), strict=True) if drawn]
    frame = _frame(found, policies, path)
    layers = [_out_of_reach(found.frontier, frame), _band(found.frontier, frame), *_curve(found.frontier, frame)]
    layers += [*_best_of_n(found, frame), *_betas(found.frontier, frame), *_prior(found.frontier, frame, policies)]
    layers += [*_limit(found.frontier, frame), *_policies(policies, frame), *_path(path, frame)]
    drawn = alt.layer(*layers)
    if found.gold is not None:
        drawn = with_gold_curve(drawn, found.frontier, found.gold, frame.shown, frame.x)
    return drawn.properties(width=WIDTH, height=HEIGHT, title=_title(found))


def _title(found: Prototype) -> alt.Title:
    return alt.Title(
        "The most reward that a policy can have at its KL from the prior",
        subtitle=[
            f"From {counts(found)}. β: the KL penalty whose optimum lies there. Band: 95 % interval.",
            *([] if found.gold is None else [gold_words(found.frontier, found.gold)]),
        ],
        anchor="start",
        color=INK,
        subtitleColor=MUTED,
        fontSize=15,
        subtitleFontSize=12,
        offset=14,
    )


def is_drawn(found: Prototype, path: Sequence[PathStep]) -> list[bool]:
    """Say which steps of a run lie where the frontier is drawn: as far as the prior's samples show one at all.

    A run may end at many times the KL of every target that they show.
    """
    return [one.kl <= found.frontier.kl.value.max() for one in path]


def _frame(found: Prototype, policies: Sequence[PolicyPoint], path: Sequence[PathStep]) -> _Frame:
    curve = found.frontier
    kl, reward = curve.kl.value, curve.reward.value
    trusted = kl[curve.trusted]
    most = BEYOND * float(trusted.max()) if len(trusted) else float(kl.max())
    most = max([most, *(AROUND * policy.kl.value for policy in policies if np.isfinite(policy.kl.value))])
    most = max([most, *(BESIDE * one.kl for one in path)])
    shown = np.flatnonzero((kl <= most) & (kl > 0) & np.isfinite(reward))
    best = found.best_of_n.reward.value[found.best_of_n.kl.value <= most]
    own = [*(p.reward.value for p in policies), *(one.reward for one in path)]
    values = np.array([*reward[shown], *best, curve.prior_reward.value, *own])
    values = values[np.isfinite(values)]
    bottom, top = float(values.min()), float(values.max())
    room = 0.12 * (top - bottom) or 1.0
    scale = alt.Scale(type="sqrt", domain=[0, most], nice=False)
    x = alt.X(
        "kl:Q",
        title="KL from the prior, nats per completion (square-root scale)",
        scale=scale,
        axis=alt.Axis(tickCount=8),
    )
    bottom, top = bottom - room, top + 1.6 * room
    return _Frame(shown, scale, x, alt.Scale(domain=[bottom, top], nice=False), most, bottom, top)


def _y(frame: _Frame, field: str = "reward") -> alt.Y:
    return alt.Y(f"{field}:Q", title="mean reward", scale=frame.y, axis=alt.Axis(tickCount=6))


def _rows(curve: Frontier, which: NDArray[np.intp]) -> list[dict[str, float]]:
    columns = (curve.kl.value, curve.reward.value, curve.reward.low, curve.reward.high, curve.beta)
    names = ("kl", "reward", "low", "high", "beta")
    return [dict(zip(names, map(float, row), strict=True)) for row in zip(*(c[which] for c in columns), strict=True)]


def _start(curve: Frontier) -> dict[str, float]:
    return {"kl": 0.0, "reward": curve.prior_reward.value}


def _with_start(curve: Frontier, rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [_start(curve), *rows] if np.isfinite(curve.prior_reward).all() else rows


def _trusted(curve: Frontier, frame: _Frame) -> NDArray[np.intp]:
    return frame.shown[curve.trusted[frame.shown]]


def _out_of_reach(curve: Frontier, frame: _Frame) -> Any:
    rows = _with_start(curve, _rows(curve, _trusted(curve, frame)))
    area = charts.chart([row | {"top": frame.top} for row in rows]).mark_area(color=MUTED, opacity=0.09)
    return area.encode(x=frame.x, y=_y(frame), y2="top:Q")


def _band(curve: Frontier, frame: _Frame) -> Any:
    # Cut to the frame here: clipping in SVG refers to a path elsewhere in the page.
    rows = [
        row | {"low": max(row["low"], frame.bottom), "high": min(row["high"], frame.top)}
        for row in _rows(curve, _trusted(curve, frame))
    ]
    band = charts.chart(rows).mark_area(color=TARGET, opacity=0.16)
    return band.encode(x=frame.x, y=_y(frame, "low"), y2="high:Q")


def _curve(curve: Frontier, frame: _Frame) -> list[Any]:
    trusted = _trusted(curve, frame)
    solid = charts.chart(_with_start(curve, _rows(curve, trusted))).mark_line(color=TARGET, strokeWidth=2.75)
    beyond = frame.shown[len(trusted) - 1 if len(trusted) else 0 :]
    dashed = charts.chart(_rows(curve, beyond)).mark_line(color=TARGET, strokeWidth=1.5, strokeDash=[3, 4], opacity=0.7)
    order = alt.Order("kl:Q")
    return [line.encode(x=frame.x, y=_y(frame), order=order) for line in (dashed, solid)]


def _betas(curve: Frontier, frame: _Frame) -> list[Any]:
    """Name betas along the curve, where there is room between them."""
    room = APART**2 * frame.most_kl
    trusted = _trusted(curve, frame)
    named = _apart(curve.kl.value, trusted[curve.kl.value[trusted] > room], frame, APART)
    rows = [row | {"text": f"β {row['beta']:.2g}"} for row in _rows(curve, np.array(named, dtype=np.intp))]
    base = charts.chart(rows).encode(x=frame.x, y=_y(frame))
    dots = base.mark_point(color=TARGET, fill=TARGET, size=34, opacity=1)
    texts = base.mark_text(color=TARGET, align="right", dx=-7, dy=-9, fontSize=11, fontWeight=600)
    return [dots, texts.encode(text="text:N")]


def _apart(kl: NDArray[np.float64], which: NDArray[np.intp], frame: _Frame, least: float) -> list[int]:
    """Return those of some points, from left to right, that lie so far from the one before."""
    named: list[int] = []
    last = -np.inf
    for i in which.tolist():
        at = np.sqrt(kl[i] / frame.most_kl)
        if at - last >= least:
            named.append(i)
            last = at
    return named


def _best_of_n(found: Prototype, frame: _Frame) -> list[Any]:
    best = found.best_of_n
    shown = np.flatnonzero((best.n > 1) & (best.kl.value <= ROOM * frame.most_kl) & np.isfinite(best.reward.value))
    named = _apart(best.kl.value, shown, frame, APART_OF_BEST)
    rows = [
        {
            "text": f"best of {best.n[i]}" if i in named else "",
            "kl": float(best.kl.value[i]),
            "reward": float(best.reward.value[i]),
        }
        for i in shown.tolist()
    ]
    base = charts.chart(rows).encode(x=frame.x, y=_y(frame))
    dots = base.mark_point(color=SAMPLES, fill=SAMPLES, shape="diamond", size=46, opacity=1)
    texts = base.mark_text(color=SAMPLES, align="left", dx=7, dy=10, fontSize=11, fontWeight=600)
    return [dots, texts.encode(text="text:N")]


def _policies(policies: Sequence[PolicyPoint], frame: _Frame) -> list[Any]:
    """Draw each policy with the intervals of its KL and its reward; a KL below 0 is drawn at 0."""
    rows = [
        {
            "text": policy.name,
            "kl": max(policy.kl.value, 0.0),
            "reward": policy.reward.value,
            "low": max(policy.reward_interval.low, frame.bottom),
            "high": min(policy.reward_interval.high, frame.top),
            "left": max(policy.kl.interval.low, 0.0),
            "right": min(policy.kl.interval.high, frame.most_kl),
        }
        for policy in policies
        if np.isfinite([policy.kl.value, policy.reward.value]).all()
    ]
    # NaN, of what has no interval, is not equal to itself.
    errors = charts.chart([row for row in rows if all(value == value for value in row.values())])
    up = errors.mark_rule(color=INK, strokeWidth=1.25).encode(x=frame.x, y=_y(frame, "low"), y2="high:Q")
    across = errors.mark_rule(color=INK, strokeWidth=1.25).encode(
        x=alt.X("left:Q", scale=frame.scale), x2="right:Q", y=_y(frame)
    )
    base = charts.chart(rows).encode(x=frame.x, y=_y(frame))
    dots = base.mark_point(color=INK, fill=INK, shape="square", size=60, opacity=1)
    return [up, across, dots, *_names(rows, frame)] if rows else []


def _path(path: Sequence[PathStep], frame: _Frame) -> list[Any]:
    """Draw a run as a line with a dot for each step, fainter the earlier; some are named by their step."""
    rows = [
        {"kl": max(one.kl, 0.0), "reward": one.reward, "step": one.step, "shade": (i + 1) / len(path)}
        for i, one in enumerate(path)
    ]
    base = charts.chart(rows).encode(x=frame.x, y=_y(frame))
    line = base.mark_line(color=INK, strokeWidth=1, opacity=0.35).encode(order=alt.Order("step:Q"))
    shade = alt.Opacity("shade:Q", scale=alt.Scale(domain=[0, 1], range=[FAINTEST, 1]), legend=None)
    dots = base.mark_point(color=INK, fill=INK, size=26).encode(opacity=shade)
    named = _named_steps(rows, frame)
    texts = charts.chart(named).mark_text(color=INK, align="left", dx=7, dy=11, fontSize=11, fontWeight=600)
    return [line, dots, texts.encode(x=frame.x, y=_y(frame), text="text:N")] if rows else []


def _named_steps(rows: list[dict[str, Any]], frame: _Frame) -> list[dict[str, Any]]:
    """Return the last step, and those before it that lie apart from the prior and from all that are named."""
    named: list[dict[str, Any]] = [{"kl": 0.0, "reward": rows[0]["reward"], "text": ""}] if rows else []
    for row in reversed(rows):
        if all(_distance(row, other, frame) > NAMES_APART for other in named):
            named.append(row | {"text": f"step {row['step']}"})
    return named


def _distance(one: dict[str, Any], other: dict[str, Any], frame: _Frame) -> float:
    """How far apart two points are, as a share of the width."""
    across = (one["kl"] ** 0.5 - other["kl"] ** 0.5) / frame.most_kl**0.5
    up = (one["reward"] - other["reward"]) / (frame.top - frame.bottom) * HEIGHT / WIDTH
    return float(np.hypot(across, up))


def _names(rows: list[dict[str, Any]], frame: _Frame) -> list[Any]:
    """Write the names of policies at their right, of those at the right border at their left.

    Where policies lie as good as on each other, their names stand under each other.
    """
    most = INSIDE**2 * frame.most_kl
    layers = []
    for i, row in enumerate(rows):
        align, dx = ("left", 8) if row["kl"] <= most else ("right", -8)
        dy = 12 + NAME_HEIGHT * sum(_is_near(row, other, frame) for other in rows[:i])
        text = charts.chart([row]).mark_text(color=INK, align=align, dx=dx, dy=dy, fontWeight=600)
        layers.append(text.encode(x=frame.x, y=_y(frame), text="text:N"))
    return layers


def _is_near(one: dict[str, Any], other: dict[str, Any], frame: _Frame) -> bool:
    across = abs(one["kl"] ** 0.5 - other["kl"] ** 0.5) / frame.most_kl**0.5
    up = abs(one["reward"] - other["reward"]) / (frame.top - frame.bottom)
    return bool(across < APART and up < NAME_HEIGHT / HEIGHT)


def _prior(curve: Frontier, frame: _Frame, policies: Sequence[PolicyPoint]) -> list[Any]:
    """Draw where all policies start; its name makes room for that of a policy that has hardly moved."""
    if not np.isfinite(curve.prior_reward.value):
        return []
    base = charts.chart([_start(curve)]).encode(x=frame.x, y=_y(frame))
    dot = base.mark_point(color=INK, fill=INK, size=60, opacity=1)
    is_crowded = any(policy.kl.value < APART**2 * frame.most_kl for policy in policies)
    dy = 30 if is_crowded else 9
    return [dot, base.mark_text(text="prior", color=INK, align="left", dx=9, dy=dy, fontWeight=600)]


def _limit(curve: Frontier, frame: _Frame) -> list[Any]:
    """Name the regions: what no policy reaches, and where the samples no longer say."""
    trusted = _trusted(curve, frame)
    layers = []
    if len(trusted):
        (first, *_) = _with_start(curve, _rows(curve, trusted))
        above = charts.chart([first]).mark_text(
            text="no policy can be here", color=MUTED, align="left", dx=10, fontStyle="italic"
        )
        layers.append(above.encode(x=frame.x, y=alt.value(16)))
    if len(trusted) == len(frame.shown):
        return layers
    kl = float(curve.kl.value[trusted].max()) if len(trusted) else 0.0
    base = charts.chart([{"kl": kl}]).encode(x=frame.x)
    rule = base.mark_rule(color=MUTED, strokeDash=[2, 3])
    text = base.mark_text(text="too few samples →", color=MUTED, align="left", dx=6, fontStyle="italic")
    return [*layers, rule, text.encode(y=alt.value(HEIGHT - 10))]
