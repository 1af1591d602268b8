"""The plots of a page, as SVG with nothing to load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from esscher.report import bins, charts, digits, summary
from esscher.report.charts import HEIGHT, INK, MUTED, SAMPLES, TARGET, WIDTH, Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esscher.evaluate import Ngram, Report
    from esscher.report.summary import Decode

NGRAM_WIDTH, NGRAM_STEP, NGRAMS_SHOWN = 270, 23, 10


def figures(report: Report) -> tuple[Figure, ...]:
    """Return the plots of rewards, KL, importance weights and lengths; those without data come last."""
    plots = (_rewards(report), _kl(report), _estimators(report), _weights(report), _lengths(report))
    return tuple(sorted(plots, key=lambda figure: figure.svg is None))


def ngram_figures(report: Report, decode: Decode | None) -> tuple[Figure, ...]:
    """Return one bar chart of the most frequent n-grams for each n."""
    return tuple(_ngrams(n, ngrams, decode) for n, ngrams in report.top_ngrams.items())


def _rewards(report: Report) -> Figure:
    title, rewards = "Rewards", report.per_completion.rewards
    if rewards is None:
        return Figure(title, _missing(report, "reward", "rewards"), None)
    shape = bins.histogram(rewards, report.per_completion.relative_weights)
    if shape is None:
        return Figure(title, "The rewards are infinite, or too far apart: there is nothing that can be drawn.", None)
    caption = "How the rewards of the completions are distributed"
    if shape.weighted is not None:
        caption += (
            ", and the same completions weighted to stand for the target (outlined). Where the outline rests on few "
            "completions it is rough"
        )
    return Figure(title, f"{caption}.{charts.left_out(shape)}", charts.histogram(shape, "reward"))


def _kl(report: Report) -> Figure:
    title, values = "KL per completion", report.per_completion.kl
    if values is None:
        return Figure(title, _missing(report, "kl", "KL"), None)
    shape = bins.histogram(values)
    if shape is None:
        return Figure(title, "No completion has a finite KL: there is nothing to draw.", None)
    caption = (
        "log policy - log prior of each completion (k1). Single completions may lie below 0; their mean (line) "
        "estimates the KL, which is not below 0. A far right tail is completions that the prior would hardly write."
    )
    mean = report.kl["k1"].value if "k1" in report.kl else float(values.mean())
    return Figure(title, caption + charts.left_out(shape), charts.histogram(shape, "nats", mean))


def _estimators(report: Report) -> Figure:
    title = "KL by estimator"
    rows = [
        {"name": name, "value": report.kl[key].value, "low": interval.low, "high": interval.high}
        for key, (name, _) in summary.KL_SHOWN.items()
        if key in report.kl and np.isfinite((interval := report.kl[key].interval)[:2]).all()
    ]
    if not rows:
        why = "no estimate has an interval." if report.kl else report.unavailable.get("kl", "the report has none") + "."
        return Figure(title, f"No KL to compare: {why}", None)
    caption = (
        "One number, estimated in several ways from the same samples, with 95 % intervals. On the policy's own samples "
        "all are unbiased: where they disagree, one of them cannot be trusted, and a warning says which."
    )
    return Figure(title, caption, _dots(rows))


def _weights(report: Report) -> Figure:
    title, weights = "Importance weights", report.per_completion.relative_weights
    if weights is None or report.target is None:
        return Figure(title, _missing(report, "target", "weights"), None)
    curve = bins.concentration(weights)
    if curve is None:
        return Figure(title, "No completion has weight under the target: there is nothing to draw.", None)
    caption = (
        f"The heaviest {digits.share(curve.half, 1)} of the completions carry half of the weight. On the dashed line "
        "all weigh alike. The nearer the curve comes to the upper left corner, the fewer completions decide the "
        "target's numbers: raise beta, or draw more completions a prompt."
    )
    return Figure(title, caption, _concentration(curve, report.target.ess, report.counts.completions))


def _lengths(report: Report) -> Figure:
    title, lengths = "Lengths", report.per_completion.lengths.astype(np.float64)
    shape = bins.histogram(lengths)
    if shape is None:
        return Figure(title, "There are no completions.", None)
    caption = (
        "Tokens of each completion, its end included; the line is the mean. A spike at the right end is completions "
        "that were cut off. The KL is a sum over tokens, so that longer completions tend to have more of it."
    )
    return Figure(title, caption, charts.histogram(shape, "tokens", float(lengths.mean())))


def _ngrams(n: int, ngrams: Sequence[Ngram], decode: Decode | None) -> Figure:
    title = f"{n} tokens"
    if not ngrams:
        return Figure(title, f"No completion has {n} tokens.", None)
    rows = [
        {"rank": i, "text": summary.ngram_text(ngram, decode), "count": ngram.count, "shown": f"{ngram.count:,}"}
        for i, ngram in enumerate(ngrams[:NGRAMS_SHOWN])
    ]
    base = charts.chart(rows).encode(y=alt.Y("rank:O", axis=None))
    # The end of the axis leaves room for the count behind the longest bar.
    scale = alt.Scale(domain=[0, 1.2 * ngrams[0].count])
    bars = base.mark_bar(color=SAMPLES, opacity=0.45).encode(x=alt.X("count:Q", axis=None, scale=scale))
    text = base.mark_text(align="left", dx=5, color=INK, limit=NGRAM_WIDTH - 60).encode(
        x=alt.XDatum(0, scale=scale), text="text:N"
    )
    counts = base.mark_text(align="right", color=MUTED).encode(x=alt.value(NGRAM_WIDTH), text="shown:N")
    svg = charts.svg((bars + text + counts).properties(width=NGRAM_WIDTH, height=alt.Step(NGRAM_STEP)))
    return Figure(title, "", svg)


def _concentration(curve: bins.Concentration, ess: float, n: int) -> str:
    points = zip(curve.completions.tolist(), curve.weight.tolist(), strict=True)
    rows = [{"completions": x, "weight": y} for x, y in points]
    axis = alt.Axis(format="%", tickCount=5)
    x = alt.X("completions:Q", title="share of completions, heaviest first", axis=axis)
    y = alt.Y("weight:Q", title="share of the weight", axis=axis)
    equal = charts.chart([{"completions": 0, "weight": 0}, {"completions": 1, "weight": 1}])
    layers = [
        equal.mark_line(color=MUTED, strokeDash=[4, 4], strokeWidth=1).encode(x=x, y=y),
        charts.chart(rows).mark_line(color=SAMPLES, strokeWidth=2.5).encode(x=x, y=y),
        charts.rule("completions", ess / n, TARGET),
        charts.label(f"ESS {digits.number(ess)} of {n:,} ({digits.share(ess, n)})", TARGET, "right"),
    ]
    return charts.svg(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT))


def _dots(rows: Sequence[dict[str, Any]]) -> str:
    base = charts.chart(rows).encode(
        y=alt.Y("name:N", title=None, sort=None, axis=alt.Axis(labelFontSize=12, labelLimit=130))
    )
    scale = alt.Scale(zero=False)
    intervals = base.mark_rule(color=SAMPLES, strokeWidth=3).encode(
        x=alt.X("low:Q", title="nats per completion", scale=scale, axis=alt.Axis(tickCount=5)), x2="high:Q"
    )
    values = base.mark_point(color=INK, fill=INK, size=45, opacity=1).encode(x=alt.X("value:Q", scale=scale))
    return charts.svg(
        (intervals + values).properties(
            width=WIDTH - 130, height=HEIGHT, padding={"left": 20, "right": 5, "top": 5, "bottom": 5}
        )
    )


def _missing(report: Report, key: str, what: str) -> str:
    return f"No {what}: {report.unavailable.get(key, 'the report has none')}."
