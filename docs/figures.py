"""Draw the figures of these pages: `python docs/figures.py`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import altair as alt
import numpy as np
import vl_convert

from esscher import kl_estimators
from esscher.lm.tabular import TabularLM

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "figures"
PROMPTS, VOCABULARY, DEPTH, COMPLETIONS = 16, 4, 4, 64
INK, MUTED, GRID, UNBIASED, BIASED, BACKGROUND = "#1f2933", "#56616d", "#e3e7eb", "#2c6fb3", "#c2571a", "#ffffff"
COLORS = {"exact": "#2c6fb3", "k1_cv": "#1f8a5f", "k1": "#56616d", "k3": "#c2571a", "k3 of sequences": "#a87900"}
# At which KL the name of a line stands, and where beside it.
LABELLED_AT = {
    "exact": (0.03, 0, 12, "center"),
    "k1_cv": (0.12, 0, 13, "center"),
    "k1": (0.03, 6, -8, "left"),
    "k3": (0.7, 10, 4, "left"),
    "k3 of sequences": (0.36, -10, 0, "right"),
}
KL_AXIS = "KL(policy‖prior), nats per completion"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"

# What each estimator's gradient is if it is made a loss; tests/test_kl_facts.py shows it.
GRADIENTS = {
    "exact": "reverse KL of next tokens, blind to what comes after",
    "k1_cv": "c times that of k3",
    "k1": "**none**: 0 on average",
    "k3": "*forward* KL of next tokens, blind to what comes after",
    "k3 of sequences": "*forward* KL(prior‖policy), exactly",
    "k2": "reverse KL of next tokens, blind to what comes after",
    "k2 of sequences": "reverse KL(policy‖prior), exactly",
    "abs": "neither",
    "abs of sequences": "neither",
}


class Spread(NamedTuple):
    """Mean and standard deviation of one completion's estimate, averaged over prompts, in nats."""

    mean: float
    deviation: float


def world(distance: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logits of a policy that is sharper than its prior, and otherwise a little off [prompts, nodes, vocabulary]."""
    rng = np.random.default_rng(4)
    nodes = sum((VOCABULARY - 1) ** k for k in range(DEPTH))
    prior, noise = rng.normal(size=(2, PROMPTS, nodes, VOCABULARY))
    return prior + distance * (prior + 0.5 * noise), prior


def spreads(policy_logits: NDArray[np.float64], prior_logits: NDArray[np.float64]) -> tuple[float, dict[str, Spread]]:
    """Return the exact KL, and what each estimator makes of it, by enumerating every completion."""
    policy, prior = TabularLM(policy_logits), TabularLM(prior_logits)
    every = policy.completions()
    prior_logprobs = prior.logprobs(every.prompts, every.completions, every.groups)
    probability = np.exp(np.add.reduceat(every.policy_logprobs.values, every.completions.offsets[:-1])) / PROMPTS
    tokens = kl_estimators(every.policy_logprobs, prior_logprobs)
    sequences = kl_estimators(every.policy_logprobs, prior_logprobs, level="sequence")
    columns = {
        "exact": _exact(policy_logits, prior_logits, every.completions, every.groups.of),
        "k1_cv": _with_control(tokens.k1, tokens.k3 - tokens.k1, probability),
        "k1": tokens.k1,
        "k3": tokens.k3,
        "k3 of sequences": sequences.k3,
        "k2": tokens.k2,
        "k2 of sequences": sequences.k2,
        "abs": tokens.abs,
        "abs of sequences": sequences.abs,
    }
    return float(probability @ tokens.k1), {
        name: _spread(values, probability, every.groups) for name, values in columns.items()
    }


def _spread(values: NDArray[np.float64], probability: NDArray[np.float64], groups: NDArray[np.int64]) -> Spread:
    means = np.add.reduceat(probability * values, groups[:-1]) * PROMPTS
    squares = np.add.reduceat(probability * values**2, groups[:-1]) * PROMPTS
    return Spread(float(means.mean()), float(np.sqrt((squares - means**2).mean())))


def _with_control(
    k1: NDArray[np.float64], control: NDArray[np.float64], probability: NDArray[np.float64]
) -> NDArray[np.float64]:
    centred = k1 - probability @ k1
    return k1 - (probability @ (centred * control)) / (probability @ control**2) * control


def _exact(policy: NDArray[np.float64], prior: NDArray[np.float64], completions: Any, group_of: Any) -> Any:
    """Sum the KL over the whole vocabulary at each prefix along each completion."""
    policy, prior = (logits - np.log(np.exp(logits).sum(-1, keepdims=True)) for logits in (policy, prior))
    at_node = (np.exp(policy) * (policy - prior)).sum(-1)
    sums = np.zeros(len(completions))
    for i, (row, prompt) in enumerate(zip(completions, group_of, strict=True)):
        node = 0
        for token in row.tolist():
            sums[i] += at_node[prompt, node]
            node = node * (VOCABULARY - 1) + token
    return sums


def table() -> str:
    """Return the table of the page: bias and standard deviation of one completion's estimate, and the gradient."""
    kl, found = spreads(*world())
    lines = ["| estimator | bias | standard deviation | as a loss, its gradient is that of |", "|---|---|---|---|"]
    for name, spread in found.items():
        bias = spread.mean - kl
        shown = "0" if abs(bias) < 1e-9 else f"{bias:+.2f}"
        lines.append(f"| `{name}` | {shown} | {spread.deviation:.2f} | {GRADIENTS[name]} |")
    return "\n".join(lines)


def estimators_chart() -> Any:
    """Draw what 64 completions make of the KL: mean, and a standard error either way."""
    kl, found = spreads(*world())
    order = list(found)
    rows = [
        {
            "name": name,
            "mean": spread.mean,
            "low": spread.mean - spread.deviation / COMPLETIONS**0.5,
            "high": spread.mean + spread.deviation / COMPLETIONS**0.5,
            "kind": "unbiased" if abs(spread.mean - kl) < 1e-9 else "biased",
        }
        for name, spread in found.items()
    ]
    color = alt.Color("kind:N", scale=alt.Scale(domain=["unbiased", "biased"], range=[UNBIASED, BIASED]), legend=None)
    y = alt.Y("name:N", sort=order, title=None, axis=alt.Axis(labelFontSize=13, labelColor=INK, ticks=False))
    x = alt.X("low:Q", title=KL_AXIS, scale=alt.Scale(domainMin=0), axis=alt.Axis(tickCount=6))
    base = chart_of(rows).encode(y=y, color=color)
    rule = chart_of([{"kl": kl}])
    line = rule.mark_rule(color=INK, strokeDash=[4, 3], strokeWidth=1.25).encode(x="kl:Q")
    label = rule.mark_text(text="the KL", color=INK, dy=-8, baseline="bottom").encode(x="kl:Q", y=alt.value(0))
    bars = base.mark_rule(strokeWidth=4, opacity=0.45).encode(x=x, x2="high:Q")
    dots = base.mark_circle(size=75, opacity=1).encode(x="mean:Q")
    return titled(
        alt.layer(line, bars, dots, label).properties(width=430, height=alt.Step(28)),
        "What 64 completions make of the same KL",
        "Mean ± one standard error, computed exactly. Blue: right on average. Orange: not.",
    )


def distance_chart() -> Any:
    """Draw how much the unbiased estimators vary, by how far the policy is from the prior."""
    rows = []
    for distance in np.geomspace(0.12, 4.0, 60):
        kl, found = spreads(*world(float(distance)))
        rows += [{"kl": kl, "error": found[name].deviation / kl, "name": name} for name in LABELLED_AT]
    ticks = alt.Axis(values=[0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30], format="~g")
    x = alt.X("kl:Q", title=KL_AXIS, scale=alt.Scale(type="log", nice=False), axis=ticks)
    heights = alt.Scale(type="log", domain=[0.2, 30], nice=False)
    y = alt.Y("error:Q", title="standard deviation / KL, of one completion", scale=heights, axis=ticks)
    palette = alt.Scale(domain=list(COLORS), range=list(COLORS.values()))
    color = alt.Color("name:N", scale=palette, legend=None)
    lines = chart_of(rows).mark_line(strokeWidth=2.5, clip=True).encode(x=x, y=y, color=color)
    layers = [lines, *(_label_on(rows, name, at).encode(x=x, y=y, color=color) for name, at in LABELLED_AT.items())]
    return titled(
        alt.layer(*layers).properties(width=430, height=280),
        "k3 is steadier than k1 near the prior, and wilder far from it",
        "Computed exactly, for a policy that becomes ever sharper than its prior.",
    )


def _label_on(rows: list[dict[str, Any]], name: str, at: tuple[float, int, int, str]) -> Any:
    """Write a line's name beside its point nearest to a KL, so that no name covers another."""
    kl, dx, dy, align = at
    nearest = min((row for row in rows if row["name"] == name), key=lambda row: abs(np.log(row["kl"] / kl)))
    return chart_of([nearest]).mark_text(text=name, align=align, dx=dx, dy=dy, fontWeight=600)


def chart_of(rows: list[dict[str, Any]]) -> Any:
    """Make a chart of these rows."""
    return alt.Chart(alt.InlineData(rows))


def titled(chart: Any, title: str, subtitle: str) -> Any:
    """Put a title above the whole chart: the message, and under it what is shown."""
    # In lines that are within the picture in wide fonts too.
    lines = textwrap.wrap(title, 44), textwrap.wrap(subtitle, 64)
    return chart.properties(
        title=alt.TitleParams(lines[0], subtitle=lines[1], anchor="start", frame="group", offset=16)
    )


def svg(chart: Any) -> str:
    """Draw on white, so that a dark page does not swallow the ink."""
    axis = {"gridColor": GRID, "domain": False, "tickColor": GRID, "labelColor": MUTED, "titleColor": MUTED}
    config = {
        "font": FONT,
        "background": BACKGROUND,
        "padding": 16,
        "view": {"stroke": None},
        "axis": axis | {"titleFontWeight": "normal", "labelFontSize": 12, "titleFontSize": 12, "titlePadding": 8},
        "axisY": {"grid": False},
        "text": {"fontSize": 12},
        "title": {"fontSize": 15, "color": INK, "subtitleColor": MUTED, "subtitleFontSize": 12, "subtitlePadding": 5},
    }
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return vl_convert.vegalite_to_svg(chart.to_dict(), vl_version=version, config=config, allowed_base_urls=[])


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, chart in {"kl-estimators": estimators_chart(), "kl-distance": distance_chart()}.items():
        (FOLDER / f"{name}.svg").write_text(svg(chart))
        print(FOLDER / f"{name}.svg")
    print(table())
