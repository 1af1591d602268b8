"""What a report says, in words and figures: the rows that terminal and page both show."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from esscher.estimate import Estimate
from esscher.report.digits import estimate, number, share

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esscher.evaluate import Counts, Ngram, Report
    from esscher.posterior import TargetReport

    Decode = Callable[[Sequence[int]], str]

KL_SHOWN = ("k1", "k3")
NGRAM_LENGTH = 40


class Row(NamedTuple):
    """A quantity, its value, and its unit or what it means."""

    name: str
    value: str
    note: str


class Section(NamedTuple):
    """Rows that belong together."""

    title: str
    rows: tuple[Row, ...]


def sections(report: Report) -> tuple[Section, ...]:
    """Return the report's numbers, most important first; what is not available has no row."""
    samples = Section("Samples", tuple(_sample_rows(report)))
    if report.target is None:
        return (samples,)
    target = report.target
    title = f"Target {target.target}, seen from samples of the {target.proposal}"
    return samples, Section(title, tuple(_target_rows(target, report.counts)))


def counts(report: Report) -> str:
    """Return how much was evaluated, in one line."""
    c = report.counts
    ended = "" if c.terminated is None else f", {share(c.terminated, c.completions)} ended by themselves"
    return (
        f"{_plural(c.prompts, 'prompt')}, {_plural(c.completions, 'completion')}, {_plural(c.tokens, 'token')}{ended}"
    )


def ngram_text(ngram: Ngram, decode: Decode | None) -> str:
    """Return an n-gram in one printable line: quoted text, or token ids where there is nothing to decode them with."""
    if decode is None:
        return " ".join(map(str, ngram.token_ids))
    # As Python quotes it, so that line ends and control characters are seen and do nothing.
    text = repr(decode(list(ngram.token_ids)))
    return text if len(text) <= NGRAM_LENGTH else text[: NGRAM_LENGTH - 1] + "…"


def pareto_k_meaning(k: float) -> str:
    """Say what a tail of importance weights with this shape means (Vehtari et al. 2024)."""
    if math.isnan(k):
        return "too few completions a prompt to fit the tail of the weights"
    if k == -math.inf:
        return "the weights have no tail: they are all alike"
    if k < 0.5:
        return "light tail: the weights have a variance"
    if k <= 0.7:
        return "heavy tail: usable with many completions"
    return "very heavy tail: a few weights decide" if k < 1 else "so heavy a tail has no mean: do not use"


def _sample_rows(report: Report) -> list[Row]:
    rows = _estimates([("reward", report.reward, "mean per completion")])
    for name in KL_SHOWN:
        if name in report.kl:
            value, stderr, *_ = report.kl[name]
            rows.append(Row(f"KL(policy‖prior), {name}", estimate(Estimate(value, stderr)), "nats per completion"))
    if report.entropy is not None:
        rows.append(Row("entropy of the policy", number(report.entropy), "nats per token"))
    if report.prior_perplexity is not None:
        rows.append(Row("prior perplexity", number(report.prior_perplexity), "per token, of the completions"))
    return rows


def _target_rows(target: TargetReport, counts: Counts) -> list[Row]:
    rows = _estimates(
        [
            ("objective J", target.objective, "E[reward] - beta KL(policy‖prior)"),
            ("its bound, beta log Z", target.objective_bound, "the J of the best policy there is"),
            ("lower bound of log Z", None if target.objective else target.elbo, "nats (ELBO)"),
            ("log Z", target.log_z, "nats"),
            ("inference gap", target.inference_gap, "nats, KL(policy‖target)"),
            ("reward under the target", target.reward, "what reaching the target gives"),
        ]
    )
    ess = f"{number(target.ess)} ({share(target.ess, counts.completions)})"
    return [
        *rows,
        Row("effective sample size", ess, f"of {_plural(counts.completions, 'completion')}"),
        Row("Pareto k", number(target.pareto_k), pareto_k_meaning(target.pareto_k)),
    ]


def _estimates(rows: list[tuple[str, Estimate | None, str]]) -> list[Row]:
    return [Row(name, estimate(value), note) for name, value, note in rows if value is not None]


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' * (n != 1)}"
