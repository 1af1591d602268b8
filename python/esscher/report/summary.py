"""What a report says, in words and figures: the rows that terminal and page both show."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from esscher.estimate import Estimate
from esscher.report.digits import error_note, estimate, number, plural, rounded, share, whose_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from esscher.divergence import KlEstimate
    from esscher.estimate import Interval
    from esscher.evaluate import Counts, Ngram, Report
    from esscher.evaluate.posterior import TargetReport

    Decode = Callable[[Sequence[int]], str]

# Those that are unbiased on policy, the best first.
KL_SHOWN = {
    "exact": ("exact", "full vocabulary"),
    "k1": ("k1", "unbiased"),
    "k1_cv": ("k1, control variate", "of less variance"),
    "k3": ("k3", "never below 0"),
}
AGGREGATIONS = {
    "seq-sum": "sum",
    "seq-mean": "mean of means",
    "token-mean": "token mean",
}
NGRAM_LENGTH = 40


class Row(NamedTuple):
    """A quantity, its value, and its unit or what it means."""

    name: str
    value: str
    note: str


class KlRow(NamedTuple):
    """An estimate of the KL: its name, its value, its 95 % interval, and how it is made."""

    name: str
    value: str
    interval: str
    note: str


class DiversityRow(NamedTuple):
    """A metric, its mean within prompts, the 95 % interval of that, its value across all, and within the target."""

    metric: str
    within: str
    interval: str
    across: str
    target: str


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
    return samples, Section(title, (*_target_rows(target, report.counts), *_excess_rows(report)))


def headline_kl(report: Report) -> str | None:
    """Return the estimator to read first: the exact one where it is known, else k1, which J is made of."""
    return next((name for name in ("exact", "k1") if name in report.kl), None)


def kl_rows(report: Report) -> tuple[KlRow, ...]:
    """Return the estimates of KL(policy‖prior) that are unbiased on policy, in nats per completion."""
    return tuple(_kl_row(name, note, report.kl[key]) for key, (name, note) in KL_SHOWN.items() if key in report.kl)


def trainer_rows(report: Report) -> tuple[KlRow, ...]:
    """Return what trainers log as their KL of the same samples, each as it makes it."""
    return tuple(_trainer_row(preset, estimate) for preset, estimate in report.trainer_kl.items())


def diversity_rows(report: Report) -> tuple[DiversityRow, ...]:
    """Return the diversity metrics; `target` is empty without a target, or where weights have no say."""
    target = {diversity.metric: estimate(diversity.within) for diversity in report.target_diversity}
    return tuple(
        DiversityRow(
            metric=diversity.metric,
            within=estimate(diversity.within),
            interval=interval_text(diversity.interval),
            across="" if diversity.across is None else number(diversity.across),
            target=target.get(diversity.metric, ""),
        )
        for diversity in report.diversity
    )


def interval_text(interval: Interval) -> str:
    """Return an interval in as many digits as its width bears.

    Examples
    --------
    >>> from esscher.estimate import Interval
    >>> interval_text(Interval(1.23456, 1.34567, "")), interval_text(Interval(0.0, 0.0, ""))
    ('1.235 to 1.346', '0 to 0')
    """
    low, high, _ = interval
    if not (math.isfinite(low) and math.isfinite(high)):
        return "not known"
    # A quarter of the width is about a standard error.
    return f"{rounded(low, (high - low) / 4)} to {rounded(high, (high - low) / 4)}"


def footnote(report: Report) -> str:
    """Say what ± means, and what the intervals assume."""
    text = error_note(report.counts.prompts)
    kl = headline_kl(report)
    return text if kl is None else f"{text} 95 % intervals: {report.kl[kl].interval.assumes}."


def counts(report: Report) -> str:
    """Return how much was evaluated, in one line."""
    c = report.counts
    ended = "" if c.terminated is None else f", {share(c.terminated, c.completions)} ended by themselves"
    return f"{plural(c.prompts, 'prompt')}, {plural(c.completions, 'completion')}, {plural(c.tokens, 'token')}{ended}"


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
        return "too few completions a prompt, or too many alike, to fit the tail of the weights"
    if k == -math.inf:
        return "the weights have no tail: they are all alike"
    if k < 0.5:
        return "light tail: the weights have a variance"
    if k <= 0.7:
        return "heavy tail: usable with many completions"
    return "very heavy tail: a few weights decide" if k < 1 else "so heavy a tail has no mean: do not use"


def _sample_rows(report: Report) -> list[Row]:
    rows = _estimates([("reward", report.reward, "mean per completion")])
    kl = headline_kl(report)
    if kl is not None:
        value, stderr, *_ = report.kl[kl]
        rows.append(Row("KL(policy‖prior)", estimate(Estimate(value, stderr)), f"nats per completion ({kl})"))
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
            ("log Z", target.log_z, f"nats, ± {whose_error(counts.prompts)}{_bounds(target)}"),
            ("inference gap", target.inference_gap, f"nats, KL(policy‖target){_range(target.inference_gap_interval)}"),
            ("the other way round", _forward(target), f"nats, KL(target‖policy){_forward_range(target)}"),
            ("reward under the target", target.reward, "what reaching the target gives"),
        ]
    )
    ess = f"{number(target.ess)} ({share(target.ess, counts.completions)})"
    return [
        *rows,
        Row("effective sample size", ess, f"of {plural(counts.completions, 'completion')}"),
        Row("Pareto k", number(target.pareto_k), pareto_k_meaning(target.pareto_k)),
    ]


def _excess_rows(report: Report) -> list[Row]:
    """Return what the policy lost of diversity beyond what the target asks for; what has no value has no row."""
    return [
        Row(
            f"excess of {excess.metric}",
            estimate(excess.within),
            f"the policy's minus the target's{_range(excess.interval)}",
        )
        for excess in report.excess_collapse
        if not math.isnan(excess.within.value)
    ]


def _bounds(target: TargetReport) -> str:
    if target.elbo is None or target.eubo is None:
        return ""
    return f"; between {number(target.elbo.value)} (ELBO) and {number(target.eubo.value)} (EUBO, by weights)"


def _forward(target: TargetReport) -> Estimate | None:
    return None if target.forward_kl is None else Estimate(*target.forward_kl[:2])


def _forward_range(target: TargetReport) -> str:
    return "" if target.forward_kl is None else _range(target.forward_kl.interval)


def _range(interval: Interval | None) -> str:
    if interval is None or not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return ""
    return f"; 95 %: {interval_text(interval)}"


def _estimates(rows: list[tuple[str, Estimate | None, str]]) -> list[Row]:
    return [Row(name, estimate(value), note) for name, value, note in rows if value is not None]


def _kl_row(name: str, note: str, kl: KlEstimate) -> KlRow:
    return KlRow(name, estimate(Estimate(kl.value, kl.stderr)), interval_text(kl.interval), note)


def _trainer_row(preset: str, kl: KlEstimate) -> KlRow:
    parts = dict(part.split(":", 1) for part in kl.signature.split("|"))
    note = f"{parts['kl']}, {AGGREGATIONS[parts['agg']]}"
    if kl.clamped > 0:
        note += f"; {share(kl.clamped, 1)} of tokens clamped, {number(kl.raw)} without"
    return _kl_row(preset, note, kl)
