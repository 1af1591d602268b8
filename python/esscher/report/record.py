"""A report as JSON, for machines."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from esscher.divergence import KlEstimate
    from esscher.diversity import DiversityEstimate
    from esscher.estimate import Estimate, Interval
    from esscher.evaluate import PerCompletion, Report
    from esscher.posterior import TargetReport

Json = dict[str, Any]
TARGET_ESTIMATES = ("log_z", "reward", "elbo", "eubo", "inference_gap", "objective", "objective_bound")


def to_dict(report: Report, *, per_completion: bool = False) -> Json:
    """Return a report as what JSON can say; the keys are those of `Report` and its parts.

    ====================  ================================================================
    key                   value
    ====================  ================================================================
    ``version``           the version of Esscher
    ``counts``            ``{prompts, completions, tokens, terminated}``
    ``reward``            ``{value, stderr}`` or null
    ``kl``                by estimator: ``{value, stderr, interval, raw, clamped, ess, pareto_k,
                          signature, warnings}``, nats a completion; an interval is
                          ``{low, high, assumes}``
    ``trainer_kl``        by preset: the same, in the trainer's unit
    ``prior_perplexity``  number or null
    ``entropy``           number or null, nats a token
    ``target``            null or ``{target, proposal, ess, pareto_k}`` with ``log_z``,
                          ``reward``, ``elbo``, ``eubo``, ``inference_gap``, ``objective``
                          and ``objective_bound``, each ``{value, stderr}`` or null
    ``diversity``         by metric: ``{within: {value, stderr}, interval, left_out, across}``
    ``target_diversity``  the same under the target
    ``excess_collapse``   diversity minus target_diversity, less the bias of few completions
    ``top_ngrams``        by order, as a string: list of ``{token_ids, count}``
    ``warnings``          list of sentences
    ``unavailable``       by what is missing: why
    ====================  ================================================================

    The JSON schema of all this is ``schema.json`` beside this module.

    A number that is NaN becomes null, and an infinite one "inf" or "-inf", since JSON has neither.

    Parameters
    ----------
    report
        The report.
    per_completion
        Whether to add ``per_completion``: ``{prompts, lengths, rewards, kl, log_weights}``, each a list [N] or null.
    """
    record = {
        "version": report.version,
        "counts": vars(report.counts).copy(),
        "reward": _estimate(report.reward),
        "kl": {name: _kl(estimate) for name, estimate in report.kl.items()},
        "trainer_kl": {preset: _kl(estimate) for preset, estimate in report.trainer_kl.items()},
        "prior_perplexity": _number(report.prior_perplexity),
        "entropy": _number(report.entropy),
        "target": _target(report.target),
        "diversity": {diversity.metric: _diversity(diversity) for diversity in report.diversity},
        "target_diversity": {diversity.metric: _diversity(diversity) for diversity in report.target_diversity},
        "excess_collapse": {diversity.metric: _diversity(diversity) for diversity in report.excess_collapse},
        "top_ngrams": {
            str(n): [{"token_ids": list(ngram.token_ids), "count": ngram.count} for ngram in ngrams]
            for n, ngrams in report.top_ngrams.items()
        },
        "warnings": list(report.warnings),
        "unavailable": dict(report.unavailable),
    }
    return record | ({"per_completion": _columns(report.per_completion)} if per_completion else {})


def to_json(report: Report, *, per_completion: bool = False) -> str:
    """Return a report as indented JSON, with the keys and rules of `to_dict`."""
    return json.dumps(to_dict(report, per_completion=per_completion), indent=2, allow_nan=False, ensure_ascii=False)


def _number(value: float | None) -> float | str | None:
    if value is None or math.isnan(value):
        return None
    return float(value) if math.isfinite(value) else str(float(value))


def _estimate(estimate: Estimate | None) -> Json | None:
    return None if estimate is None else {"value": _number(estimate.value), "stderr": _number(estimate.stderr)}


def _kl(estimate: KlEstimate) -> Json:
    numbers = ("value", "stderr", "raw", "clamped", "ess", "pareto_k")
    return {name: _number(getattr(estimate, name)) for name in numbers} | {
        "interval": _interval(estimate.interval),
        "signature": estimate.signature,
        "warnings": list(estimate.warnings),
    }


def _interval(interval: Interval) -> Json:
    return {"low": _number(interval.low), "high": _number(interval.high), "assumes": interval.assumes}


def _target(target: TargetReport | None) -> Json | None:
    if target is None:
        return None
    record: Json = {"target": target.target, "proposal": target.proposal}
    record |= {name: _estimate(getattr(target, name)) for name in TARGET_ESTIMATES}
    interval, forward = target.inference_gap_interval, target.forward_kl
    return record | {
        "inference_gap_interval": None if interval is None else _interval(interval),
        "forward_kl": None if forward is None else _kl(forward),
        "ess": _number(target.ess),
        "pareto_k": _number(target.pareto_k),
    }


def _diversity(diversity: DiversityEstimate) -> Json:
    return {
        "within": _estimate(diversity.within),
        "interval": _interval(diversity.interval),
        "left_out": diversity.left_out,
        "across": _number(diversity.across),
    }


def _columns(columns: PerCompletion) -> Json:
    return {
        name: None if column is None else [_number(x) if column.dtype.kind == "f" else x for x in column.tolist()]
        for name, column in vars(columns).items()
    }
