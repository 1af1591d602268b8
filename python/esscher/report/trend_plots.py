"""The plots of a run, step by step, with what happened marked, and its path over the frontier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import altair as alt
import numpy as np

from esscher.estimate import NORMAL, Estimate
from esscher.report import charts, digits
from esscher.report.charts import HEIGHT, INK, MUTED, SAMPLES, TARGET, WIDTH, Figure
from esscher.report.frontier_chart import PathStep, frontier_chart, is_drawn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esscher.frontier import Prototype
    from esscher.trend import Trend, TrendStep

# So many steps of a run are drawn, at equal distances, so that a page stays small.
MOST_DRAWN = 100
# Marks of events that are nearer to each other, as a share of the width, stand below each other.
MARKS_APART, MARK_HEIGHT = 0.05, 13


class _Line(NamedTuple):
    """A series to draw: its name and colour, and its value at a step, with a band where that has an error."""

    name: str
    color: str
    of: Callable[[TrendStep], Estimate | float | None]


class _Plot(NamedTuple):
    """Some series on one axis, what they say, between which ends they can be, and whether the axis is a root's."""

    title: str
    unit: str
    caption: str
    lines: tuple[_Line, ...]
    ends: tuple[float, float] = (-np.inf, np.inf)
    is_root: bool = False


def figures(trend: Trend) -> tuple[Figure, ...]:
    """Return a plot of each number that some step tells."""
    plots = ((plot, _chart(plot, trend)) for plot in (*_PLOTS, *_named_rewards(trend)))
    return tuple(Figure(plot.title, plot.caption, charts.svg(chart)) for plot, chart in plots if chart is not None)


def overview_chart(trend: Trend) -> Any:
    """Draw reward, KL, entropy and diversity, those that some step tells, in two rows."""
    drawn = [
        chart.properties(title=alt.Title(plot.title, color=INK, anchor="start", offset=16))
        for plot in _PLOTS[:4]
        if (chart := _chart(plot, trend)) is not None
    ]
    return alt.vconcat(*(alt.hconcat(*drawn[i : i + 2], spacing=36) for i in range(0, len(drawn), 2)), spacing=24)


def path_figure(trend: Trend) -> Figure | None:
    """Return the path of the run over the frontier; `None` without samples of the prior."""
    if trend.known is None:
        return None
    found, path = trend.known.prototype, _path(trend)
    inside = is_drawn(found, path)
    caption = (
        "The curve is the most reward that any policy can have at its KL. Each dot is a step, the later the darker. "
        "How far it lies under the curve is what its KL could have bought besides; how far to the right, what it paid."
    )
    if not all(inside):
        caption += (
            f" {inside.count(False)} of the {digits.plural(len(path), 'step')} that are looked at, the first of them "
            f"step {path[inside.index(False)].step}, lie to the right of what the prior's samples show; the last one "
            f"has a KL of {digits.number(path[-1].kl, 3)} nats and a reward of {digits.number(path[-1].reward, 3)}."
        )
    return Figure("The path over the frontier", caption, charts.svg(path_chart(trend, found)))


def path_chart(trend: Trend, found: Prototype) -> Any:
    """Draw the path of the run over a frontier."""
    return frontier_chart(found, path=_path(trend))


def _path(trend: Trend) -> list[PathStep]:
    return [
        PathStep(step.step, step.best_kl.value, step.reward.value)
        for step in _thinned(trend.steps)
        if step.best_kl is not None and step.reward is not None
        if np.isfinite([step.best_kl.value, step.reward.value]).all()
    ]


def _chart(plot: _Plot, trend: Trend) -> Any:
    """Draw the series of a plot, with what happened; `None` if no step tells any."""
    steps = _thinned(trend.steps)
    lines = [(line, rows) for line in plot.lines if (rows := _rows(line, steps, plot.ends))]
    if not lines:
        return None
    x = alt.X("step:Q", title="step", scale=alt.Scale(nice=False, zero=False), axis=alt.Axis(tickCount=8, format="d"))
    scale = alt.Scale(type="sqrt" if plot.is_root else "linear", zero=plot.is_root)
    largest = max(abs(row["value"]) for _, rows in lines for row in rows)
    y = alt.Y("value:Q", title=plot.unit, scale=scale, axis=charts.axis(largest))
    layers: list[Any] = []
    for line, rows in lines:
        band = [row for row in rows if row["low"] < row["high"]]
        if band:
            area = charts.chart(band).mark_area(color=line.color, opacity=0.22)
            layers.append(area.encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q"))
        drawn = charts.chart(rows)
        layers.append(drawn.mark_line(color=line.color, strokeWidth=1.75, point=len(rows) == 1).encode(x=x, y=y))
    named = [line for line, _ in lines]
    if len(named) > 1:
        layers += [_label(line, place) for line, place in zip(named, (0.0, 0.5, 1.0), strict=False)]
    layers += _marks(trend)
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)


def _label(line: _Line, place: float) -> Any:
    """Write a series' name above the plot."""
    align = "left" if place == 0 else "right" if place == 1 else "center"
    where = {"x": alt.value(place * WIDTH), "y": alt.value(-12)}
    return charts.chart([{}]).mark_text(text=line.name, color=line.color, align=align, fontWeight=600).encode(**where)


def _rows(line: _Line, steps: Sequence[TrendStep], ends: tuple[float, float]) -> list[dict[str, float]]:
    rows = []
    for step in steps:
        found = line.of(step)
        value, stderr = (found, 0.0) if isinstance(found, float) else found or (np.nan, np.nan)
        if np.isfinite(value):
            reach = NORMAL * stderr if np.isfinite(stderr) else 0.0
            value, low, high = np.clip([value, value - reach, value + reach], *ends).tolist()
            rows.append({"step": step.step, "value": value, "low": low, "high": high})
    return rows


def _marks(trend: Trend) -> list[Any]:
    """Draw a line where each event began, with its number in the list of events."""
    length = max(trend.steps[-1].step - trend.steps[0].step, 1)
    layers, last, below = [], -np.inf, 0
    for i, event in sorted(enumerate(trend.events, start=1), key=lambda one: one[1].began):
        below = below + 1 if (event.began - last) / length < MARKS_APART else 0
        last = event.began
        base = charts.chart([{"step": event.began}]).encode(x="step:Q")
        layers.append(base.mark_rule(color=MUTED, strokeDash=[3, 3]))
        text = base.mark_text(text=str(i), color=INK, align="left", dx=3, fontWeight=600)
        layers.append(text.encode(y=alt.value(6 + MARK_HEIGHT * below)))
    return layers


def _thinned(steps: Sequence[TrendStep]) -> list[TrendStep]:
    which = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MOST_DRAWN)).round().astype(int))
    return [steps[i] for i in which]


def _named_rewards(trend: Trend) -> list[_Plot]:
    """Return a plot of each reward by name, if there are several."""
    names = dict.fromkeys(name for step in trend.steps for name in step.rewards_by_name)
    return [_named_reward(name) for name in names] if len(names) > 1 else []


def _named_reward(name: str) -> _Plot:
    line = _Line(name, SAMPLES, lambda step: step.rewards_by_name.get(name))
    return _Plot(f"Reward: {name}", "mean reward", "One of the rewards that the reward is made of.", (line,))


_PLOTS = (
    _Plot(
        "Reward",
        "mean reward",
        "Mean reward of the step's completions. What its KL could have bought is known where samples of the prior are "
        "given, as far as these show it.",
        (
            _Line("reward", SAMPLES, lambda step: step.reward),
            _Line(
                "what its KL could buy", TARGET, lambda step: None if step.frontier is None else step.frontier.reachable
            ),
        ),
    ),
    _Plot(
        "KL(policy‖prior)",
        "nats per completion (square-root scale)",
        "What the reward is paid with. On a square-root scale a run at an even pace is a straight line.",
        (_Line("KL", SAMPLES, lambda step: step.best_kl),),
        ends=(0.0, np.inf),
        is_root=True,
    ),
    _Plot(
        "Entropy",
        "nats per token",
        "How undecided the policy is about the next token. It falls towards 0 where a policy collapses.",
        (_Line("entropy", SAMPLES, lambda step: step.best_entropy),),
        ends=(0.0, np.inf),
    ),
    _Plot(
        "Diversity",
        "share",
        "Distinct 2-grams of two completions of a prompt, and how many of its completions are different. The target's "
        "is what the reward asks for, by samples of the prior.",
        (
            _Line("distinct 2-grams", SAMPLES, lambda step: step.distinct_2),
            _Line(
                "the target's", TARGET, lambda step: None if step.frontier is None else step.frontier.target_distinct_2
            ),
            _Line("different", MUTED, lambda step: step.unique_share.value),
        ),
        ends=(0.0, 1.0),
    ),
    _Plot(
        "Distance from the target",
        "nats per completion",
        "KL(policy‖target): what training has left undone. It rises where the policy moves away from the target.",
        (_Line("gap", SAMPLES, lambda step: step.best_gap),),
    ),
    _Plot(
        "Effective sample size",
        "share of completions",
        "How many of the completions carry the weights that make them stand for the target.",
        (_Line("ESS", SAMPLES, lambda step: step.ess),),
    ),
    _Plot(
        "Lengths",
        "tokens",
        "Mean tokens of a completion. The KL is a sum over them.",
        (_Line("length", SAMPLES, lambda step: step.length),),
    ),
    _Plot(
        "Shares",
        "share",
        "Completions that end at the longest length, and prompts whose completions all have one reward, which teach "
        "nothing.",
        (
            _Line("cut off", SAMPLES, lambda step: step.cut_off),
            _Line("prompts of one reward", TARGET, lambda step: step.alike),
        ),
        ends=(0.0, 1.0),
    ),
    _Plot(
        "Mismatch",
        "mean |difference|, nats per token",
        "How far apart the log-probs of the engine that sampled and of the one that trains are.",
        (_Line("mismatch", SAMPLES, lambda step: None if step.mismatch is None else step.mismatch.mean_difference),),
    ),
)
