"""Draw the pictures of `paper.md` from the names that its examples make: `python docs/paper_figures.py`."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np
from figures import BIASED, GRID, INK, MUTED, UNBIASED, chart_of, svg, titled

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

PAGE = Path(__file__).parent / "paper.md"
FOLDER = Path(__file__).parent / "figures/paper"
BLUE, ORANGE, GREEN, VIOLET, OCHRE, ROSE = UNBIASED, BIASED, "#1f8a5f", "#7a4fb0", "#a87900", "#b8437a"
WIDTH, HEIGHT, PANEL = 430, 260, 150
NATS = "nats per completion"
TO_PRIOR = "KL(policy‖prior), nats per completion"
STEP = alt.X(
    "step:Q",
    title="training step",
    scale=alt.Scale(type="symlog", constant=2, nice=False),
    axis=alt.Axis(values=[0, 1, 3, 10, 30, 100, 300, 1000], grid=False),
)


def run_page() -> SimpleNamespace:
    """Run the page's examples, and return the names that they made."""
    # The end of a block would count as output.
    text = re.sub(r"^```.*$", "", PAGE.read_text(), flags=re.MULTILINE)
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for example in doctest.DocTestParser().get_examples(text):
            exec(compile(example.source, str(PAGE), "single"), names)
    return SimpleNamespace(**names)


def objective(page: SimpleNamespace) -> Any:
    """Draw estimates of the mean reward, plain and weighted, with more and more samples."""
    names = ("prior", "target, by weights")
    rows = [
        {
            "n": n,
            "value": estimate.value,
            "low": estimate.value - 2 * estimate.stderr,
            "high": estimate.value + 2 * estimate.stderr,
            "name": name,
        }
        for n, estimates in page.estimated_reward.items()
        for name, estimate in zip(names, estimates, strict=True)
    ]
    exact = [{"exact": value, "name": name} for name, value in zip(names, page.exact_reward, strict=True)]
    x = alt.X("n:Q", title="completions", scale=alt.Scale(type="log", domain=[11, 1500]), axis=ticks(16, 64, 256, 1024))
    y = alt.Y("value:Q", title="mean reward", scale=alt.Scale(zero=False))
    color = colors(names, (MUTED, BLUE))
    base = chart_of(rows).encode(x=x, color=color)
    lines = chart_of(exact).mark_rule(strokeDash=[4, 3]).encode(y="exact:Q", color=color)
    labels = chart_of(exact).mark_text(align="left", baseline="bottom", dy=-4, fontWeight=600)
    labels = labels.encode(x=alt.value(52), y="exact:Q", text="name:N", color=color)
    bars = base.mark_rule(strokeWidth=4, opacity=0.45).encode(y=alt.Y("low:Q", title="mean reward"), y2="high:Q")
    layers = alt.layer(lines, bars, base.mark_circle(size=70, opacity=1).encode(y=y), labels)
    return titled(
        layers.properties(width=WIDTH, height=HEIGHT),
        "One set of samples tells the reward of two distributions",
        "Estimates ± two standard errors for one prompt. Dashed: exact, by enumeration.",
    )


def collapse(page: SimpleNamespace) -> Any:
    """Draw what is watched while reward alone is maximised."""
    steps = spaced(page.collapsed)
    watched = np.array([page.watch(page.collapsed[step]) for step in steps])
    names = ("reward", "entropy, nats", "perplexity under prior", "repeated words, share")
    panels = [
        panel(steps, {name: column}, name, (color,))
        for name, column, color in zip(names, watched.T, (BLUE, ORANGE, ORANGE, ORANGE), strict=True)
    ]
    return titled(
        alt.vconcat(alt.hconcat(*panels[:2], spacing=30), alt.hconcat(*panels[2:], spacing=30), spacing=20),
        "Reward alone: it rises, and the distribution collapses",
        "By exact gradients of the right reward: this is what the objective asks for.",
    )


def penalty(page: SimpleNamespace) -> Any:
    """Draw J and its two terms along the run of plain RL."""
    steps = [step for step in spaced(page.collapsed) if step <= 100]
    reward, kl = np.array([page.objective(page.collapsed[step]) for step in steps]).T
    columns = {"reward": reward, "beta KL": page.beta * kl, "J = reward - beta KL": reward - page.beta * kl}
    at = {
        "reward": (40, 0, 16, "right"),
        "beta KL": (40, 0, -12, "right"),
        "J = reward - beta KL": (30, 0, -40, "right"),
    }
    lines = curves(steps, columns, (MUTED, ORANGE, BLUE), at)
    zero = chart_of([{"zero": 0}]).mark_rule(color=GRID).encode(y="zero:Q")
    return titled(
        alt.layer(zero, lines).encode(y=alt.Y(title="units of reward")).properties(width=WIDTH, height=HEIGHT),
        "With a price on KL, collapsing does not pay",
        f"The run that maximises reward alone, judged by J, beta {page.beta}.",
    )


def posterior(page: SimpleNamespace) -> Any:
    """Draw the probability of each completion of the first prompt under prior and target."""
    rows = [
        {"prior": before, "target": after, "reward": reward, "text": text}
        for before, after, reward, text in zip(
            np.exp(page.log_prior[page.first]),
            np.exp(page.log_target[page.first]),
            page.reward[page.first],
            page.text,
            strict=False,
        )
    ]
    ends = [min(row["prior"] for row in rows) / 2, 0.5]
    axis = alt.Axis(values=[1e-4, 1e-3, 1e-2, 1e-1], format="~g")
    scale = alt.Scale(type="log", domain=ends, nice=False)
    x, y = (alt.X("prior:Q", title="prior probability"), alt.Y("target:Q", title="target probability"))
    x, y = x.scale(scale).axis(axis), y.scale(scale).axis(axis)
    middle = page.beta * float(page.log_z[0])
    gradient = alt.Scale(scheme="redblue", domainMid=middle)
    color = alt.Color("reward:Q", scale=gradient, legend=alt.Legend(title="reward", gradientLength=140, offset=40))
    diagonal = chart_of([{"prior": end, "target": end} for end in ends]).mark_line(strokeDash=[4, 3], color=MUTED)
    dots = chart_of(rows).mark_circle(size=60, opacity=0.9, stroke=MUTED, strokeWidth=0.4).encode(x=x, y=y, color=color)
    named = [row for row in rows if row["text"] in ("great great great great", "(empty)", "great film great great")]
    labels = [
        chart_of([row]).mark_text(align=align, dx=dx, color=INK).encode(x=x, y=y, text="text:N")
        for row in named
        for align, dx in [("left", 8) if row["text"] == "(empty)" else ("right", -8)]
    ]
    return titled(
        alt.layer(diagonal.encode(x=x, y=y), dots, *labels).properties(width=380, height=330),
        "The target reweighs the prior, completion by completion",
        f"All completions of one prompt, beta = {page.beta}. On the dashed line nothing changes.",
    )


def gap(page: SimpleNamespace) -> Any:
    """Draw the evidence lower bound and what it lacks of log Z."""
    steps = spaced(page.tuned)
    log_z = float(page.log_z.mean())
    terms = np.array([page.objective(page.tuned[step]) for step in steps])
    rows = [
        {"step": step, "bound": reward / page.beta - kl, "log_z": log_z}
        for step, (reward, kl) in zip(steps, terms.tolist(), strict=True)
    ]
    y = alt.Y("bound:Q", title="nats", scale=alt.Scale(domain=[-0.4, 0.65], nice=False))
    shade = chart_of(rows).mark_area(color=ORANGE, opacity=0.18).encode(x=STEP, y=y, y2="log_z:Q")
    line = chart_of(rows).mark_line(color=BLUE, strokeWidth=2.5).encode(x=STEP, y=y)
    top = chart_of(rows[:1]).mark_rule(color=INK, strokeDash=[4, 3]).encode(y="log_z:Q")
    labels = [
        (0, log_z + 0.05, "log Z: the evidence", INK),
        (0.15, 0.38, "inference gap", ORANGE),
        (14, 0.27, "J / beta: the evidence lower bound", BLUE),
    ]
    return titled(
        alt.layer(shade, top, line, *(note(STEP, "bound", *label) for label in labels)).properties(
            width=WIDTH, height=HEIGHT
        ),
        "Training raises a bound on the evidence, and the gap has a zero",
        f"KL-regularised RL, beta = {page.beta}, exact values.",
    )


def gradient(page: SimpleNamespace) -> Any:
    """Draw the error of the sampled gradient."""
    names = ("without a baseline", "with the mean of the others as baseline")
    rows = [
        {"n": n, "error": error, "name": name}
        for n, errors in page.errors.items()
        for name, error in zip(names, errors, strict=True)
    ]
    x = alt.X("n:Q", title="completions a prompt", axis=ticks(4, 16, 64, 256))
    x = x.scale(type="log", domain=[3.3, 320], nice=False)
    y = alt.Y("error:Q", title="error / length of the gradient", axis=ticks(0.25, 0.5, 1, 2, 4, 8))
    y = y.scale(type="log", domain=[0.2, 8], nice=False)
    color = colors(names, (MUTED, BLUE))
    base = chart_of(rows).encode(x=x, y=y, color=color)
    labels = [note(x, "error", 18, 3.1, names[0], MUTED), note(x, "error", 56, 0.5, names[1], BLUE, "right")]
    return titled(
        alt.layer(base.mark_line(strokeWidth=2.5), base.mark_circle(size=70, opacity=1), *labels).properties(
            width=WIDTH, height=HEIGHT
        ),
        "Four times the completions, half the error: there is no bias",
        "Root mean square over 30 draws, against the exact gradient of J. Both axes are logarithmic.",
    )


def evidence(page: SimpleNamespace) -> Any:
    """Draw completions before and after conditioning on success, soft and hard."""
    laws = {
        "prior": page.log_prior,
        "given success (tilt)": page.log_target,
        "given a pass (reward of 0.5 or more)": page.conditioned.log_weights,
    }
    of_first = {name: np.exp(law[page.first]) for name, law in laws.items()}
    order = np.argsort(-sum(of_first.values()))[:12]
    rows = [
        {"text": f"{page.text[i]}  ({page.reward[i]:+.1f})", "probability": law[i], "name": name}
        for name, law in of_first.items()
        for i in order
    ]
    y = alt.Y("text:N", sort=[row["text"] for row in rows[:12]], title=None, axis=words())
    x = alt.X("probability:Q", title="probability", axis=alt.Axis(format="%", tickCount=6))
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1, labelLimit=300)
    base = chart_of(rows).encode(x=x, y=y, color=colors(laws, (MUTED, BLUE, ORANGE), legend))
    return titled(
        alt.layer(base.mark_line(color=GRID).encode(color=alt.value(GRID), detail="text:N"), point(base)).properties(
            width=WIDTH, height=alt.Step(24)
        ),
        "To condition on success is to reweigh the prior",
        "The likeliest completions of one prompt, with their rewards.",
    )


def bounds(page: SimpleNamespace) -> Any:
    """Draw both bounds on log Z by the number of samples in a block."""
    names = ("upper bound, with samples of the target", "lower bound, J / beta at k = 1")
    rows = [
        {
            "k": k,
            "value": bound.value[0],
            "low": bound.value[0] - 2 * bound.stderr[0],
            "high": bound.value[0] + 2 * bound.stderr[0],
            "name": name,
        }
        for k, interval in page.bounds.items()
        for name, bound in zip(names, (interval.upper, interval.lower), strict=True)
    ]
    x = alt.X("k:Q", title="samples to a block, k", axis=ticks(1, 4, 16, 64))
    x = x.scale(type="log", domain=[0.85, 90], nice=False)
    scale = alt.Scale(domain=[0.3, 0.75], nice=False)
    color = colors(names, (ORANGE, BLUE))
    base = chart_of(rows).encode(x=x, color=color)
    band = base.mark_area(opacity=0.2).encode(y=alt.Y("low:Q", title="nats", scale=scale), y2="high:Q")
    lines = base.mark_line(strokeWidth=2.5, point=True).encode(y=alt.Y("value:Q", scale=scale))
    log_z = float(page.log_z[0])
    rule = chart_of([{"value": log_z}]).mark_rule(color=INK, strokeDash=[4, 3]).encode(y="value:Q")
    labels = [
        (1.35, 0.68, names[0], ORANGE),
        (1.35, 0.35, names[1], BLUE),
        (1, log_z + 0.02, "log Z, exact", INK),
    ]
    return titled(
        alt.layer(band, lines, rule, *(note(x, "value", *label) for label in labels)).properties(
            width=WIDTH, height=HEIGHT
        ),
        "Two bounds enclose the evidence",
        "From a policy that is not there yet, for one prompt; shaded: ± two standard errors.",
    )


def modelling(page: SimpleNamespace) -> Any:
    """Draw the likeliest completions under each target."""
    laws = {name: np.exp(law[page.first]) for name, law in page.targets.items()}
    order = np.argsort(-sum(laws.values()))[:12]
    rows = [
        {"text": page.text[i], "target": name, "probability": law[i], "label": f"{law[i]:.0%}" if law[i] > 0 else "·"}
        for name, law in laws.items()
        for i in order
    ]
    x = alt.X("target:N", sort=list(laws), title=None, axis=alt.Axis(orient="top", labelAngle=-30, ticks=False))
    y = alt.Y("text:N", sort=[page.text[i] for i in order], title=None, axis=words())
    shade = alt.Scale(scheme="blues", domain=[0, 0.35], clamp=True)
    color = alt.Color("probability:Q", scale=shade, legend=None)
    ink = alt.condition("datum.probability > 0.2", alt.value("white"), alt.value(INK))
    base = chart_of(rows).encode(x=x, y=y)
    return titled(
        alt.layer(base.mark_rect().encode(color=color), base.mark_text().encode(text="label:N", color=ink)).properties(
            width=alt.Step(58), height=alt.Step(24)
        ),
        "One prior, seven targets",
        "Probability of twelve completions of one prompt under each; a dot: excluded.",
    )


def inference(page: SimpleNamespace) -> Any:
    """Draw what each method drew beside the exact target."""
    target, prior = np.exp(page.log_target[page.first]), np.exp(page.log_prior[page.first])
    order = np.argsort(-target)[:8]
    labels = [page.text[i] for i in order]
    exact = [{"text": page.text[i], "target": target[i], "prior": prior[i]} for i in order]
    drawn = [
        {"text": page.text[i], "share": float(np.mean(np.asarray(index) == i)), "name": name}
        for name, index in page.found.items()
        for i in order
    ]
    y = alt.Y("text:N", sort=labels, title=None, axis=words())
    x = alt.X("target:Q", title="probability: bar the target, line the prior, dots what was drawn")
    x = x.axis(format="%", tickCount=6)
    bars = chart_of(exact).mark_bar(color=GRID, height=30).encode(x=x, y=y)
    lines = chart_of(exact).mark_tick(color=INK, thickness=2, size=30).encode(x="prior:Q", y=y)
    legend = alt.Legend(title=None, orient="top", columns=3, labelLimit=240, symbolOpacity=1)
    color = colors(page.found, (BLUE, ORANGE, GREEN, VIOLET, OCHRE, ROSE), legend)
    dots = chart_of(drawn).mark_circle(size=45, opacity=1)
    dots = dots.encode(x="share:Q", y=y, yOffset=alt.YOffset("name:N", sort=list(page.found)), color=color)
    return titled(
        alt.layer(bars, lines, dots).properties(width=WIDTH, height={"step": 46, "for": "position"}),
        "Six ways to the same posterior",
        "The likeliest completions of one prompt under the target.",
    )


def failures(page: SimpleNamespace) -> Any:
    """Draw how far each policy is from its target, and what the target asks for."""
    rows = [{"gap": gap, "entropy": entropy, "name": name} for name, (entropy, _, gap) in page.failures.items()]
    x = alt.X("gap:Q", title="inference gap KL(policy‖target), nats: has training arrived?")
    x = x.scale(domain=[-0.005, 0.26], nice=False).axis(values=[0, 0.05, 0.1, 0.15, 0.2])
    y = alt.Y("entropy:Q", title="entropy of the target, nats: is it wanted?")
    y = y.scale(domain=[0, 4.2], nice=False)
    base = chart_of(rows).encode(x=x, y=y)
    entropy = -page.mean(page.log_prior, page.log_prior)
    rule = chart_of([{"entropy": entropy}]).mark_rule(color=MUTED, strokeDash=[4, 3]).encode(y=y)
    label = note(x, "entropy", 0.26, entropy + 0.17, "the prior's", MUTED, "right")
    names = base.mark_text(align="left", dx=9, dy=12, color=INK, fontWeight=600).encode(text="name:N")
    return titled(
        alt.layer(rule, label, base.mark_circle(size=110, color=BLUE, opacity=1), names).properties(
            width=WIDTH, height=HEIGHT
        ),
        "Two ways to fail, on two axes",
        "To the right: not there yet. Further down: there, but at a target that says little.",
    )


def prototype(page: SimpleNamespace) -> Any:
    """Draw the frontier as predicted, as it is, and what was trained."""
    curve = page.curve
    estimated = [
        {"kl": kl, "reward": reward, "low": reward - 2 * error, "high": reward + 2 * error, "trusted": bool(trusted)}
        for kl, reward, error, trusted in zip(
            curve.kl.value, curve.reward.value, curve.reward.stderr, curve.trusted, strict=True
        )
    ]
    solid = [row for row in estimated if row["trusted"]]
    dashed = estimated[max(len(solid) - 1, 0) :]
    exact = [{"kl": kl, "reward": reward} for reward, kl in page.exact_curve.tolist()]
    trained = [{"kl": kl, "reward": reward, "name": f"beta {b}, trained"} for b, (reward, kl) in page.trained.items()]
    x, y = (
        alt.X("kl:Q", title=TO_PRIOR, scale=alt.Scale(domainMin=0), axis=alt.Axis(tickCount=7)),
        alt.Y("reward:Q", title="mean reward"),
    )
    band = chart_of(estimated).mark_area(color=BLUE, opacity=0.15).encode(x=x, y=alt.Y("low:Q"), y2="high:Q")
    lines = [
        chart_of(exact).mark_line(color=INK, strokeWidth=1.25).encode(x=x, y=y),
        chart_of(solid).mark_line(color=BLUE, strokeWidth=3).encode(x=x, y=y),
        chart_of(dashed).mark_line(color=BLUE, strokeWidth=3, strokeDash=[5, 4]).encode(x=x, y=y),
    ]
    dots = chart_of(trained).encode(x=x, y=y)
    labels = dots.mark_text(align="left", dx=9, dy=13, color=ORANGE, fontWeight=600).encode(text="name:N")
    notes = [(1.6, 1.42, "exact", INK), (2.7, 1.05, "predicted", BLUE)]
    return titled(
        alt.layer(
            band,
            *lines,
            dots.mark_circle(size=90, color=ORANGE, opacity=1),
            labels,
            *(note(x, "reward", *label) for label in notes),
        ).properties(width=WIDTH, height=HEIGHT),
        "What training would give, before training",
        "Predicted from 1000 completions of the prior ± two standard errors; dashed: not trusted.",
    )


def moments(page: SimpleNamespace) -> Any:
    """Draw both moments and the KL during DPG."""
    steps = spaced(page.matched_moments)
    traces = [page.matched_moments[step] for step in steps]
    left = [page.mean(page.controlled, page.controlled - trace) for trace in traces]
    panels = [
        panel(steps, {name: [page.mean(trace, column) for trace in traces]}, name, (BLUE,), goal, zero=False)
        for name, column, goal in zip(("share that says great", "tokens"), page.features.T, page.wanted, strict=True)
    ]
    return titled(
        alt.hconcat(*panels, panel(steps, {"kl": left}, "KL(target‖policy), nats", (ORANGE,), log=True), spacing=25),
        "A policy is trained to have given moments",
        "By DPG, towards the nearest distribution to the prior that has them. Dashed: what was asked.",
    )


def sft(page: SimpleNamespace) -> Any:
    """Draw the distance of the demonstrations, and of their source, from the policy."""
    steps = spaced(page.clone_trace)
    traces = [page.clone_trace[step] for step in steps]
    columns = {
        "KL(target‖policy): their source": [page.mean(page.log_target, page.log_target - trace) for trace in traces],
        "KL(data‖policy): the demonstrations": [-page.share @ trace / 2 - page.floor for trace in traces],
    }
    at = dict(zip(columns, [(300, 0, -14, "right"), (1, 10, -6, "left")], strict=True))
    lines = curves(steps, columns, (ORANGE, BLUE), at)
    return titled(
        lines.encode(y=alt.Y(title=NATS)).properties(width=WIDTH, height=HEIGHT),
        "Fine-tuning goes to the data, and past where they came from",
        "100 demonstrations a prompt, exact gradients of their likelihood.",
    )


def trials(page: SimpleNamespace) -> Any:
    """Draw entropy and distance from the target in the three runs."""
    steps = spaced(page.collapsed)
    entropy, left = {}, {}
    for name, trace in page.trials.items():
        entropy[name] = [-page.mean(trace[step], trace[step]) for step in steps]
        left[name] = [page.mean(trace[step], trace[step] - page.log_target) for step in steps]
    goal = -page.mean(page.log_target, page.log_target)
    legend = alt.Legend(title=None, orient="bottom", symbolOpacity=1, symbolType="stroke", symbolStrokeWidth=3)
    shades = (ORANGE, BLUE, GREEN)
    panels = [
        panel(steps, entropy, "entropy, nats", shades, goal, legend=legend, width=240, height=200),
        panel(steps, left, "KL(policy‖target), nats", shades, log=True, width=240, height=200),
    ]
    return titled(
        alt.hconcat(*panels, spacing=30),
        "Matching a distribution is what prevents collapse, not RL",
        "Three runs from the same prior by exact gradients. Dashed: the target's entropy.",
    )


def methods(page: SimpleNamespace) -> Any:
    """Draw every method on the plane of reward and KL."""
    frontier = sorted((kl, reward) for reward, kl in map(page.objective, page.every_beta))
    steps = [step for step in spaced(page.collapsed) if step > 0]
    path = [page.objective(page.collapsed[step]) for step in steps]
    ends = [{"reward": path[-1][0], "kl": path[-1][1], "name": "RL alone"}]
    reward, kl = page.objective(page.tuned[-1])
    ends += [{"reward": reward, "kl": kl, "name": "KL-RL, DPG, f-DPG"}]
    x = alt.X("kl:Q", title=TO_PRIOR, scale=alt.Scale(domainMin=0), axis=alt.Axis(tickCount=7))
    y = alt.Y("reward:Q", title="mean reward")
    names = ("RL alone", "KL-RL, DPG, f-DPG", "best of n", "quasi-rejection")
    color = colors(names, (MUTED, BLUE, ORANGE, GREEN), alt.Legend(title=None, orient="bottom-right", symbolOpacity=1))
    best = [{"reward": r, "kl": k, "name": "best of n", "n": f"n = {n}"} for n, (r, k) in page.best_of_n.items()]
    quasi = [{"reward": r, "kl": k, "name": "quasi-rejection"} for r, k in page.quasi.values()]
    line = chart_of([{"kl": k, "reward": r} for k, r in frontier]).mark_line(color=INK, strokeWidth=1.5)
    way = chart_of([{"kl": k, "reward": r, "step": s} for s, (r, k) in zip(steps, path, strict=True)])
    way = way.mark_line(color="#aeb7c0", strokeDash=[2, 3], strokeWidth=1.5).encode(order="step:Q")
    dots = point(chart_of([*ends, *best, *quasi]).encode(color=color))
    labels = chart_of(best).mark_text(align="left", dx=6, dy=14, color=ORANGE).encode(text="n:N")
    return titled(
        alt.layer(way, line, dots, labels).encode(x=x, y=y).properties(width=WIDTH, height=300),
        "Every method aims somewhere; the frontier bounds them all",
        "Line: the tilts of all beta. Dotted: the way of RL alone. Exact values, mean of two prompts.",
    )


def spaced(trace: NDArray[np.float64]) -> list[int]:
    """Return the first step and some of the others, evenly by their logarithm."""
    return [0, *np.unique(np.geomspace(1, len(trace) - 1, 40).astype(int)).tolist()]


def ticks(*values: float) -> Any:
    """Put ticks at these values."""
    return alt.Axis(values=list(values), format="~g", grid=False)


def words() -> Any:
    """Axis of completions."""
    return alt.Axis(labelFontSize=12, labelColor=INK, ticks=False, labelLimit=260, labelPadding=10)


def colors(names: Iterable[str], shades: Iterable[str], legend: Any = None) -> Any:
    """Give each name its colour."""
    return alt.Color("name:N", scale=alt.Scale(domain=list(names), range=list(shades)), legend=legend)


def point(base: Any) -> Any:
    """Draw dots that hide what is behind them."""
    return base.mark_circle(size=80, opacity=1)


def note(x: Any, field: str, at: float, height: float, text: str, color: str, align: str = "left") -> Any:
    """Write a text at a place in the plane."""
    name = x.to_dict()["field"]
    mark = chart_of([{name: at, field: height}]).mark_text(text=text, color=color, align=align, fontWeight=600)
    return mark.encode(x=x, y=f"{field}:Q")


def long_form(steps: list[int], columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each step of each column."""
    return [
        {"step": step, "value": float(value), "name": name}
        for name, column in columns.items()
        for step, value in zip(steps, column, strict=True)
    ]


def curves(
    steps: list[int], columns: dict[str, Any], shades: Iterable[str], at: Mapping[str, tuple[float, int, int, str]]
) -> Any:
    """Draw a line for each column, with its name beside it where `at` says: step, shift, alignment."""
    rows = long_form(steps, columns)
    color = colors(columns, shades)
    lines = chart_of(rows).mark_line(strokeWidth=2.5).encode(x=STEP, y="value:Q", color=color)
    labels = []
    for name in columns:
        step, dx, dy, align = at[name]
        nearest = min((row for row in rows if row["name"] == name), key=lambda row: abs(row["step"] - step))
        mark = chart_of([nearest]).mark_text(align=align, dx=dx, dy=dy, fontWeight=600)
        labels.append(mark.encode(x=STEP, y="value:Q", color=color, text="name:N"))
    return alt.layer(lines, *labels)


def panel(
    steps: list[int],
    columns: dict[str, Any],
    title: str,
    shades: Iterable[str],
    goal: float | None = None,
    *,
    log: bool = False,
    zero: bool = True,
    legend: Any = None,
    width: int = PANEL,
    height: int = 120,
) -> Any:
    """Draw a small chart of one quantity by training step, with what it should become."""
    axis = alt.Axis(format=".0e", tickCount=4) if log else alt.Axis(tickCount=4)
    y = alt.Y(
        "value:Q", title=title, axis=axis, scale=alt.Scale(type="log" if log else "linear", zero=zero and not log)
    )
    x = STEP.copy().axis(values=[0, 10, 100, 1000], grid=False)
    lines = chart_of(long_form(steps, columns)).mark_line(strokeWidth=2.5)
    layers = [lines.encode(x=x, y=y, color=colors(columns, shades, legend))]
    if goal is not None:
        layers.append(chart_of([{"value": goal}]).mark_rule(color=INK, strokeDash=[4, 3]).encode(y=y))
    return alt.layer(*layers).properties(width=width, height=height).resolve_scale(color="independent")


PICTURES = (
    objective,
    collapse,
    penalty,
    posterior,
    gap,
    gradient,
    evidence,
    bounds,
    modelling,
    inference,
    failures,
    prototype,
    moments,
    sft,
    trials,
    methods,
)


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    page = run_page()
    for draw in PICTURES:
        (FOLDER / f"{draw.__name__}.svg").write_text(svg(draw(page)))
        print(FOLDER / f"{draw.__name__}.svg")
