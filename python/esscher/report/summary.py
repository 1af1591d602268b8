"""What a report says, in words and figures: the tables that terminal and page both show."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from esscher.estimate import Estimate
from esscher.report.digits import error_note, estimate, number, plural, rounded, share, whose_error
from esscher.report.table import Heading, Table, headings, without

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from esscher.divergence import KlEstimate
    from esscher.estimate import Interval
    from esscher.evaluate import Counts, Ngram, Report
    from esscher.evaluate.posterior import TargetReport

    Decode = Callable[[Sequence[int]], str]
    # A quantity, its value, and its unit or what it means.
    Row = tuple[str, str, str]

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
NGRAM_LENGTH, NGRAMS_SHOWN = 40, 5
# In a terminal, numbers of different tables stand below each other.
NAME, NUMBER, NOTE = Heading("", "name", 25), Heading(width=18), Heading("", "note")
INTERVAL = "95 % interval"


def numbers(report: Report) -> tuple[Table, ...]:
    """Return the report's numbers, most important first; what is not available has no row."""
    tables = [Table("Samples", (NAME, NUMBER, NOTE), tuple(_sample_rows(report)))]
    if (target := report.target) is not None:
        title = f"Target {target.target}, seen from samples of the {target.proposal}"
        rows = (*_target_rows(target, report.counts), *_excess_rows(report))
        tables.append(Table(title, (NAME, NUMBER, NOTE), rows))
    return tuple(table for table in tables if table.rows)


def details(report: Report) -> tuple[Table, ...]:
    """Return each estimate of the KL, also as trainers log it, each metric of diversity, and why others are missing."""
    kls = tuple(_kl_row(name, note, report.kl[key]) for key, (name, note) in KL_SHOWN.items() if key in report.kl)
    logged = tuple(_trainer_row(preset, kl) for preset, kl in report.trainer_kl.items())
    columns = (NAME._replace(width=21), NUMBER, NUMBER._replace(text=INTERVAL), NOTE)
    tables = (
        Table("KL(policy‖prior), nats per completion", columns, kls),
        Table("What trainers log as KL of the same samples", columns, logged),
        _diversity(report),
        Table("Not available", (NAME, Heading("", "note")), tuple(report.unavailable.items())),
    )
    return tuple(table for table in tables if table.rows)


def ngrams(report: Report, decode: Decode | None) -> Table:
    """Return the first of the most frequent n-grams of each n."""
    rows = tuple(
        ("" if i else str(n), f"{ngram.count:>9,}", ngram_text(ngram, decode))
        for n, ngrams in report.top_ngrams.items()
        for i, ngram in enumerate(ngrams[:NGRAMS_SHOWN])
    )
    columns = (Heading("n", "note"), Heading("    count"), Heading("token ids" if decode is None else "text", "text"))
    return Table("Most frequent n-grams", columns, rows)


def headline_kl(report: Report) -> str | None:
    """Return the estimator to read first: the exact one where it is known, else k1, which J is made of."""
    return next((name for name in ("exact", "k1") if name in report.kl), None)


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
    tokens = plural(c.tokens, "word" if report.tokens == "words" else "token")
    again = ", of texts that were tokenised again" if report.tokens == "retokenised" else ""
    return f"{plural(c.prompts, 'prompt')}, {plural(c.completions, 'completion')}, {tokens}{again}{ended}"


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


def _sample_rows(report: Report) -> Iterator[Row]:
    if report.reward is not None:
        yield "reward", estimate(report.reward), "mean per completion"
    if len(report.rewards) > 1 or report.reward not in report.rewards.values():
        yield from ((name, estimate(reward), "mean per completion") for name, reward in report.rewards.items())
    if (kl := headline_kl(report)) is not None:
        yield "KL(policy‖prior)", estimate(report.kl[kl]), f"nats per completion ({kl})"
    if report.entropy is not None:
        yield "entropy of the policy", number(report.entropy), "nats per token"
    if (information := report.mutual_information) is not None:
        note = f"nats, of prompt and completion; {number(information.bound, 3)} at most{_range(information.interval)}"
        yield "mutual information", estimate(Estimate(information.value, information.stderr)), note
    if report.prior_perplexity is not None:
        yield "prior perplexity", number(report.prior_perplexity), "per token, of the completions"


def _target_rows(target: TargetReport, counts: Counts) -> Iterator[Row]:
    forward = target.forward_kl
    rows = (
        ("objective J", target.objective, "E[reward] - beta KL(policy‖prior)"),
        ("its bound, beta log Z", target.objective_bound, "the J of the best policy there is"),
        ("log Z", target.log_z, f"nats, ± {whose_error(counts.prompts)}{_bounds(target)}"),
        ("inference gap", target.inference_gap, f"nats, KL(policy‖target){_range(target.inference_gap_interval)}"),
        ("the other way round", forward, f"nats, KL(target‖policy){_range(forward and forward.interval)}"),
        ("reward under the target", target.reward, "what reaching the target gives"),
    )
    yield from ((name, estimate(value), note) for name, value, note in rows if value is not None)
    ess = f"{number(target.ess)} ({share(target.ess, counts.completions)})"
    yield "effective sample size", ess, f"of {plural(counts.completions, 'completion')}"
    yield "Pareto k", number(target.pareto_k), pareto_k_meaning(target.pareto_k)


def _excess_rows(report: Report) -> Iterator[Row]:
    """Return what the policy lost of diversity beyond what the target asks for; what has no value has no row."""
    for excess in report.excess_collapse:
        if not math.isnan(excess.within.value):
            note = f"the policy's minus the target's{_range(excess.interval)}"
            yield f"excess of {excess.metric}", estimate(excess.within), note


def _diversity(report: Report) -> Table:
    """Return the metrics; those under the target are empty where weights have no say."""
    weighted = {diversity.metric: estimate(diversity.within) for diversity in report.target_diversity}
    columns = headings("", "within prompts", INTERVAL, "under the target", "across all")
    rows = tuple(
        (
            one.metric,
            estimate(one.within),
            interval_text(one.interval),
            weighted.get(one.metric, ""),
            "" if one.across is None else number(one.across),
        )
        for one in report.diversity
    )
    table = Table("Diversity", columns, rows)
    return table if weighted else without(table, "under the target")


def _bounds(target: TargetReport) -> str:
    if target.elbo is None or target.eubo is None:
        return ""
    return f"; between {number(target.elbo.value)} (ELBO) and {number(target.eubo.value)} (EUBO, by weights)"


def _range(interval: Interval | None) -> str:
    if interval is None or not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return ""
    return f"; 95 %: {interval_text(interval)}"


def _kl_row(name: str, note: str, kl: KlEstimate) -> tuple[str, ...]:
    return name, estimate(kl), interval_text(kl.interval), note


def _trainer_row(preset: str, kl: KlEstimate) -> tuple[str, ...]:
    parts = dict(part.split(":", 1) for part in kl.signature.split("|"))
    note = f"{parts['kl']}, {AGGREGATIONS[parts['agg']]}"
    if kl.clamped > 0:
        note += f"; {share(kl.clamped, 1)} of tokens clamped, {number(kl.raw)} without"
    return _kl_row(preset, note, kl)
