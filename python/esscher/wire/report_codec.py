"""Reports to and from the wire, complete: what a report does not know stays unknown, NaN and infinities stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from esscher.divergence import KlEstimate, MutualInformation
from esscher.diversity import DiversityEstimate
from esscher.estimate import Estimate, Interval
from esscher.evaluate import Counts, Ngram, PerCompletion, Report
from esscher.evaluate.posterior import TargetReport
from esscher.v1 import report_pb2
from esscher.warning import ReportWarning
from esscher.wire.codec import TOKENS, decode_proposal, decode_tokens, encode_proposal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def encode_report(report: Report) -> report_pb2.Report:
    """Encode a report with everything it says."""
    return report_pb2.Report(
        version=report.version,
        counts=report_pb2.Counts(**vars(report.counts)),
        reward=_encode_estimate(report.reward),
        kl=[_encode_kl(estimator, estimate) for estimator, estimate in report.kl.items()],
        prior_perplexity=report.prior_perplexity,
        entropy=report.entropy,
        target=None if report.target is None else _encode_target_report(report.target),
        diversity=[_encode_diversity(diversity) for diversity in report.diversity],
        target_diversity=[_encode_diversity(diversity) for diversity in report.target_diversity],
        excess_collapse=[_encode_diversity(diversity) for diversity in report.excess_collapse],
        top_ngrams=[_encode_ngrams(order, ngrams) for order, ngrams in report.top_ngrams.items()],
        per_completion=report_pb2.PerCompletion(
            **{name: column.tolist() for name, column in vars(report.per_completion).items() if column is not None}
        ),
        warnings=[_encode_warning(warning) for warning in report.warnings],
        unavailable=[report_pb2.Unavailable(name=n, reason=reason) for n, reason in report.unavailable.items()],
        trainer_kl=[_encode_kl(preset, estimate) for preset, estimate in report.trainer_kl.items()],
        mutual_information=_encode_information(report.mutual_information),
        tokens=TOKENS[report.tokens],
    )


def decode_report(message: report_pb2.Report) -> Report:
    """Decode a report; raises `ValueError` if a part that every report has is missing."""
    for name in ("counts", "per_completion"):
        if not message.HasField(name):
            raise ValueError(f"the report has no {name}")
    return Report(
        version=message.version,
        counts=_decode_counts(message.counts),
        reward=_decode_optional_estimate(message, "reward"),
        kl={kl.estimator: _decode_kl(kl) for kl in message.kl},
        prior_perplexity=message.prior_perplexity if message.HasField("prior_perplexity") else None,
        entropy=message.entropy if message.HasField("entropy") else None,
        target=_decode_target_report(message.target) if message.HasField("target") else None,
        diversity=tuple(_decode_diversity(diversity) for diversity in message.diversity),
        target_diversity=tuple(_decode_diversity(diversity) for diversity in message.target_diversity),
        excess_collapse=tuple(_decode_diversity(diversity) for diversity in message.excess_collapse),
        top_ngrams={table.order: _decode_ngrams(table) for table in message.top_ngrams},
        per_completion=_decode_per_completion(message.per_completion),
        warnings=_decode_warnings(message),
        unavailable={entry.name: entry.reason for entry in message.unavailable},
        trainer_kl={kl.estimator: _decode_kl(kl) for kl in message.trainer_kl},
        mutual_information=(
            _decode_information(message.mutual_information) if message.HasField("mutual_information") else None
        ),
        tokens=decode_tokens(message.tokens),
    )


def _encode_information(found: MutualInformation | None) -> report_pb2.MutualInformation | None:
    if found is None:
        return None
    return report_pb2.MutualInformation(
        value=found.value, stderr=found.stderr, interval=_encode_interval(found.interval), bound=found.bound
    )


def _decode_information(found: report_pb2.MutualInformation) -> MutualInformation:
    return MutualInformation(found.value, found.stderr, _decode_interval(found.interval), found.bound)


def _decode_counts(counts: report_pb2.Counts) -> Counts:
    terminated = counts.terminated if counts.HasField("terminated") else None
    return Counts(counts.prompts, counts.completions, counts.tokens, terminated)


def _encode_estimate(estimate: Estimate | None) -> report_pb2.Estimate | None:
    return None if estimate is None else report_pb2.Estimate(value=estimate.value, stderr=estimate.stderr)


def _decode_estimate(estimate: report_pb2.Estimate) -> Estimate:
    return Estimate(estimate.value, estimate.stderr)


def _decode_optional_estimate(message: report_pb2.Report | report_pb2.TargetReport, name: Any) -> Estimate | None:
    return _decode_estimate(getattr(message, name)) if message.HasField(name) else None


def _encode_kl(estimator: str, kl: KlEstimate) -> report_pb2.KlEstimate:
    return report_pb2.KlEstimate(
        estimator=estimator,
        value=kl.value,
        stderr=kl.stderr,
        per_sequence=kl.per_sequence.tolist(),
        signature=kl.signature,
        interval=_encode_interval(kl.interval),
        raw=kl.raw,
        clamped=kl.clamped,
        ess=kl.ess,
        pareto_k=kl.pareto_k,
        warnings=[_encode_warning(warning) for warning in kl.warnings],
    )


def _decode_kl(kl: report_pb2.KlEstimate) -> KlEstimate:
    return KlEstimate(
        value=kl.value,
        stderr=kl.stderr,
        per_sequence=_numbers(kl.per_sequence),
        signature=kl.signature,
        interval=_decode_interval(kl.interval),
        raw=kl.raw,
        clamped=kl.clamped,
        ess=kl.ess if kl.HasField("ess") else None,
        pareto_k=kl.pareto_k if kl.HasField("pareto_k") else None,
        warnings=_decode_warnings(kl),
    )


def _encode_warning(warning: ReportWarning) -> report_pb2.Warning:
    return report_pb2.Warning(
        code=warning.code,
        what=warning.what,
        where=warning.where,
        evidence=warning.evidence,
        remedy=warning.remedy,
    )


# The generated stub takes the message Warning for Python's own.
def _decode_warnings(message: Any) -> tuple[ReportWarning, ...]:
    return tuple(ReportWarning(w.code, w.evidence, w.remedy, tuple(w.where)) for w in message.warnings)


def _encode_interval(interval: Interval) -> report_pb2.Interval:
    return report_pb2.Interval(**interval._asdict())


def _decode_interval(interval: report_pb2.Interval) -> Interval:
    return Interval(interval.low, interval.high, interval.assumes)


def _encode_diversity(diversity: DiversityEstimate) -> report_pb2.Diversity:
    return report_pb2.Diversity(
        metric=diversity.metric,
        within=_encode_estimate(diversity.within),
        interval=_encode_interval(diversity.interval),
        left_out=diversity.left_out,
        across=diversity.across,
    )


def _decode_diversity(diversity: report_pb2.Diversity) -> DiversityEstimate:
    return DiversityEstimate(
        metric=diversity.metric,
        within=_decode_estimate(diversity.within),
        interval=_decode_interval(diversity.interval),
        left_out=diversity.left_out,
        across=diversity.across if diversity.HasField("across") else None,
    )


def _encode_ngrams(order: int, ngrams: tuple[Ngram, ...]) -> report_pb2.NgramTable:
    return report_pb2.NgramTable(order=order, ngrams=[report_pb2.Ngram(**vars(ngram)) for ngram in ngrams])


def _decode_ngrams(table: report_pb2.NgramTable) -> tuple[Ngram, ...]:
    return tuple(Ngram(tuple(ngram.token_ids), ngram.count) for ngram in table.ngrams)


def _encode_target_report(target: TargetReport) -> report_pb2.TargetReport:
    return report_pb2.TargetReport(
        target=target.target,
        proposal=encode_proposal(target.proposal),
        log_z=_encode_estimate(target.log_z),
        reward=_encode_estimate(target.reward),
        ess=target.ess,
        pareto_k=target.pareto_k,
        elbo=_encode_estimate(target.elbo),
        eubo=_encode_estimate(target.eubo),
        inference_gap=_encode_estimate(target.inference_gap),
        inference_gap_interval=(
            None if target.inference_gap_interval is None else _encode_interval(target.inference_gap_interval)
        ),
        forward_kl=None if target.forward_kl is None else _encode_kl("forward", target.forward_kl),
        objective=_encode_estimate(target.objective),
        objective_bound=_encode_estimate(target.objective_bound),
    )


def _decode_target_report(target: report_pb2.TargetReport) -> TargetReport:
    return TargetReport(
        target=target.target,
        proposal=decode_proposal(target.proposal),
        log_z=_decode_estimate(target.log_z),
        reward=_decode_estimate(target.reward),
        ess=target.ess,
        pareto_k=target.pareto_k,
        elbo=_decode_optional_estimate(target, "elbo"),
        eubo=_decode_optional_estimate(target, "eubo"),
        inference_gap=_decode_optional_estimate(target, "inference_gap"),
        inference_gap_interval=(
            _decode_interval(target.inference_gap_interval) if target.HasField("inference_gap_interval") else None
        ),
        forward_kl=_decode_kl(target.forward_kl) if target.HasField("forward_kl") else None,
        objective=_decode_optional_estimate(target, "objective"),
        objective_bound=_decode_optional_estimate(target, "objective_bound"),
    )


def _decode_per_completion(columns: report_pb2.PerCompletion) -> PerCompletion:
    return PerCompletion(
        prompts=np.fromiter(columns.prompts, np.int64, len(columns.prompts)),
        lengths=np.fromiter(columns.lengths, np.int64, len(columns.lengths)),
        rewards=_numbers(columns.rewards) if columns.rewards else None,
        kl=_numbers(columns.kl) if columns.kl else None,
        log_weights=_numbers(columns.log_weights) if columns.log_weights else None,
    )


def _numbers(column: Sequence[float]) -> NDArray[np.float64]:
    return np.fromiter(column, np.float64, len(column))
