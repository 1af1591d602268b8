"""How far samples are from a target, and what to know before trusting that."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.diversity import SIZE_FREE, SUBSAMPLE, DiversityEstimate, estimate_excess
from esscher.evaluate import report_warnings
from esscher.evaluate.posterior import Proposal, TargetReport, assess

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from esscher.samples import Samples
    from esscher.target import Target
    from esscher.warning import ReportWarning
    from esscher.weights import Weights

GAP = "the inference gap"


class AgainstTarget(NamedTuple):
    """What samples say of a target.

    Attributes
    ----------
    report
        log Z, gap and the rest.
    weights
        The completions' weights under the target.
    excess_collapse
        The diversity of the policy minus that of the target; empty for samples of the prior.
    warnings
        What to know before trusting these numbers.
    unavailable
        Of which metrics there is no excess, and why.
    """

    report: TargetReport
    weights: Weights
    excess_collapse: tuple[DiversityEstimate, ...]
    warnings: tuple[ReportWarning, ...]
    unavailable: dict[str, str]


def measure(
    samples: Samples,
    target: Target,
    *,
    proposal: Proposal = "policy",
    features: ArrayLike | None = None,
    gap: str = GAP,
) -> AgainstTarget:
    """Weigh samples for a target once, and say all that rests on the weights; warnings call the gap `gap`.

    Raises
    ------
    ValueError
        As `assess`.
    """
    report, weights = assess(samples, target, proposal, features)
    excess: tuple[DiversityEstimate, ...] = ()
    if proposal == "policy":
        excess = estimate_excess(samples.actions, samples.groups, np.exp(weights.log_weights))
    return AgainstTarget(
        report,
        weights,
        excess,
        warnings=(
            *report_warnings.warn_of_target(samples, target, features, report, weights, gap),
            *report_warnings.warn_of_left_bias(report, excess, target, gap),
            *report_warnings.warn_of_excess(excess, len(samples.prompts)),
        ),
        unavailable=_without_excess(samples, excess),
    )


def why_not_measured(samples: Samples) -> str | None:
    """Say why nothing can be said of a target, if that is so."""
    if len(samples) == len(samples.prompts):
        return "a prompt's only completion says nothing of log Z and the gap: draw several a prompt"
    return None


def _without_excess(samples: Samples, excess: tuple[DiversityEstimate, ...]) -> dict[str, str]:
    """Say why a metric has no excess."""
    no_pairs = "in no prompt three completions or more have n-grams and are worth two or more under the target"
    if samples.groups.sizes.max() <= SUBSAMPLE:
        no_pairs = "of two completions there is one pair, the same under policy and target: draw three a prompt or more"
    no_repeats = "no completion that is long enough to repeat itself has weight under the target"
    reasons = dict(zip(SIZE_FREE, (no_pairs, no_repeats), strict=True))
    return {f"excess of {metric.metric}": reasons[metric.metric] for metric in excess if np.isnan(metric.within.value)}
