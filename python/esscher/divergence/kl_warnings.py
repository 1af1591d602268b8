"""What makes an estimate of a KL unfit to be trusted, in words: what was seen, what it means, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher import faults
from esscher.divergence.checked_columns import logprobs_of
from esscher.divergence.estimators import of_log_ratios
from esscher.estimate import Estimate, clustered_ratio, effective_clusters
from esscher.warning import ReportWarning
from esscher.weights import trusted_pareto_k

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from esscher.divergence.estimators import KlEstimators, Level
    from esscher.divergence.weighting import PolicyWeights
    from esscher.samples import Samples

# A mean that should be 1 is not if it is off by so many standard errors, and moves k3 by this share of k1.
FAR, MATTERS = 3.0, 0.05
# Chance seldom takes a mean so many standard errors below 0.
NEGATIVE = 2.0
# One of so many tokens is not more than this share of what all of them add up to, unless it is far from the others.
FEWEST_TOKENS, MOST_OF_ONE = 20, 0.5
# Below it, in nats per completion, a difference may be what the rounding of two forward passes leaves.
NOISE = 1e-3
# With fewer prompts the spread of their means is itself hardly known, and skewness not at all.
FEW_CLUSTERS = 10
# The least share of completions that should carry the weight.
FEW_EFFECTIVE = 0.1


def warn_of_columns(samples: Samples, weights: PolicyWeights) -> tuple[ReportWarning, ...]:
    """Say what is wrong with the samples, whatever the estimator."""
    return (*faults.warn_of_columns(samples), *_weights(len(samples), weights))


def warn_of_clusters(sizes: NDArray[np.int64] | NDArray[np.float64]) -> tuple[ReportWarning, ...]:
    """Say if prompts of these sizes are too few for the errors and intervals that are clustered by them.

    Examples
    --------
    >>> import numpy as np
    >>> warn_of_clusters(np.full(12, 8))
    ()
    >>> warn_of_clusters(np.array([80] + 11 * [2]))[0][:106]
    'Standard errors are clustered by prompt, and the 12 prompts differ so much in size that they are worth 1.6'
    """
    enough = f"Evaluate on {FEW_CLUSTERS} prompts or more"
    if len(sizes) == 1:
        return (
            ReportWarning(
                "one-prompt",
                "There is one prompt: what its completions show, standard errors included, says nothing of others.",
                f"{enough}.",
            ),
        )
    worth = effective_clusters(sizes)
    if len(sizes) == 0 or worth >= FEW_CLUSTERS:
        return ()
    few = f"there are only {len(sizes)} prompts"
    if len(sizes) >= FEW_CLUSTERS:
        few = f"the {len(sizes)} prompts differ so much in size that they are worth {worth:.1f}"
        enough = "Draw as many completions of each"
    return (
        ReportWarning(
            "few-prompts",
            f"Standard errors are clustered by prompt, and {few}: they are rough, and intervals too narrow where "
            "prompts are skewed.",
            f"{enough}.",
        ),
    )


def warn_of_impossible(k1: NDArray[np.float64], weights: PolicyWeights) -> tuple[ReportWarning, ...]:
    """Say if completions are impossible under one of the two models, by their log-ratios [N]; weight 0 excuses it."""
    counted = k1[weights.relative > 0]
    by_prior, by_policy = int((counted == np.inf).sum()), int((counted == -np.inf).sum())
    found = []
    if by_prior:
        seen = f"the prior cannot produce {by_prior:,} of {len(counted):,} completions (a log-prob is -inf)"
        found.append(ReportWarning("infinite-kl", f"KL is infinite: {seen}."))
    if by_policy:
        found.append(
            ReportWarning(
                "other-policy",
                f"The policy cannot have produced {by_policy:,} of {len(counted):,} completions (a log-prob is -inf): "
                "no estimate of the KL that holds them means anything.",
                "Check that the log-probs are those of the model that sampled.",
            )
        )
    return tuple(found)


def warn_of_exact(exact: NDArray[np.float64]) -> tuple[ReportWarning, ...]:
    """Say if the exact KL of completions [N] is infinite, be it that none of them holds what makes it so."""
    infinite = int(np.isposinf(exact).sum())
    if not infinite:
        return ()
    return (
        ReportWarning(
            "infinite-kl",
            f"KL is infinite: somewhere in {infinite:,} of {len(exact):,} completions the policy gives probability to "
            "tokens that the prior excludes.",
            "Look for a filter of the prior's logits (top-k, banned tokens, another vocabulary).",
        ),
    )


def warn_of_mean_ratio(
    samples: Samples, columns: KlEstimators, level: Level, weights: PolicyWeights
) -> tuple[ReportWarning, ...]:
    """Say if k3 and what is made with it cannot be trusted: if prior / policy is not 1 on average over the samples.

    Its mean is ``1 + mean(k3 - k1)``, and 1 on the policy's own samples: it falls short where these miss what the prior
    likes.
    """
    counts = samples.actions.lengths.astype(np.float64) if level == "token" else np.ones(len(samples))
    if not np.isfinite(columns.k3).all():
        return ()
    off = clustered_ratio(weights.times(columns.k3 - columns.k1), weights.times(counts), samples.groups)
    completions = weights.relative.sum()
    k1 = float(weights.times(columns.k1).sum() / completions)
    missed = off.value * float(weights.times(counts).sum() / completions)
    if not (abs(off.value) > FAR * off.stderr and abs(missed) > max(MATTERS * abs(k1), NOISE)):
        return ()
    mean = f"{1 + off.value:.3g}"
    mean = f"1 {'+' if off.value > 0 else '-'} {abs(off.value):.2g}" if mean == "1" else mean
    seen = f"The mean of prior/policy over the sampled {level}s is {mean}, not 1"
    if off.value < 0:
        return (
            ReportWarning(
                "k3-too-low",
                f"{seen}: the samples hardly show what the prior likes and the policy does not, and k3 at {level} "
                f"level is about {-missed:.3g} nats too low, whatever its error bar.",
                "Trust k1, or the exact KL from full-vocabulary logits.",
            ),
        )
    return (
        ReportWarning(
            "other-policy",
            f"{seen}, which it is on the policy's own samples: they come from another policy, an older one or one "
            "sampled at a temperature, or from an engine that does not agree.",
            "Give proposal_logprobs, or compare the engines (esscher mismatch).",
        ),
    )


def warn_of_value(name: str, estimate: Estimate) -> tuple[ReportWarning, ...]:
    """Say if an unbiased estimate is where no KL can be."""
    # Without a standard error nothing is clear.
    if not estimate.value < -max(NEGATIVE * estimate.stderr, NOISE) or np.isnan(estimate.stderr):
        return ()
    return (
        ReportWarning(
            "other-policy",
            f"KL ({name}) is {estimate.value:.3g}, more than two standard errors below 0, which no KL is: the "
            "completions were not drawn from the policy whose log-probs they carry.",
            "Check the engine, the sampling temperature, and that policy and prior are not exchanged.",
        ),
    )


def warn_of_spike(
    name: str,
    samples: Samples,
    per_sequence: NDArray[np.float64],
    tokens_of: Callable[[int], NDArray[np.float64]],
) -> tuple[ReportWarning, ...]:
    """Say if a single token makes most of an estimate, which is the mean of what completions give to it [N].

    Of the completion that gives most, `tokens_of` returns what each of its tokens has in that.
    """
    sizes = np.abs(per_sequence)
    row = int(sizes.argmax())
    share = 1.0 if np.isinf(sizes[row]) else float(sizes[row] / max(sizes.sum(), NOISE * len(sizes)))
    if not share > MOST_OF_ONE or samples.actions.lengths.sum() < FEWEST_TOKENS:
        return ()
    tokens = np.abs(tokens_of(row))
    token = int(tokens.argmax())
    share *= 1.0 if np.isinf(tokens[token]) else float(tokens[token] / tokens.sum())
    if not share > MOST_OF_ONE or not np.isfinite(_log_ratios(samples, row)).all():
        return ()
    policy, prior = (float(column[row][token]) for column in logprobs_of(samples))
    return (
        ReportWarning(
            "one-token",
            f"{name} is made by one token: {share:.3g} of it is token {token} of completion {row} (counted from 0), "
            f"whose log-prob is {policy:.4g} under the policy and {prior:.4g} under the prior.",
            "Check that both are right; if they are, the number says little of the other completions: draw more, or "
            "trust the exact KL from full-vocabulary logits.",
        ),
    )


def tokens_of(samples: Samples, column: str, level: str, row: int) -> NDArray[np.float64]:
    """Return how a completion's tokens share in what it gives to an estimate."""
    if column == "exact":
        return samples.need("token_kl", why="the exact KL is made of it")[row].astype(np.float64)
    tokens = of_log_ratios(_log_ratios(samples, row))
    if level == "sequence":
        return tokens.abs
    shares: NDArray[np.float64] = tokens.k3 + tokens.abs if column == "k1_cv" else getattr(tokens, column)
    return shares


def _log_ratios(samples: Samples, row: int) -> NDArray[np.float64]:
    policy, prior = (np.minimum(column[row].astype(np.float64), 0.0) for column in logprobs_of(samples))
    ratios: NDArray[np.float64] = policy - prior
    return ratios


def _weights(n: int, weights: PolicyWeights) -> tuple[ReportWarning, ...]:
    if weights.ess is None or weights.pareto_k is None:
        return ()
    if weights.pareto_k > trusted_pareto_k(n):
        return (
            ReportWarning(
                "heavy-tail",
                f"Pareto k of policy/proposal is {weights.pareto_k:.2f}, above {trusted_pareto_k(n):.2f}: a few "
                "completions decide the KL, and its standard error cannot be trusted.",
                "Sample from the policy itself.",
            ),
        )
    if weights.ess < FEW_EFFECTIVE * n:
        return (
            ReportWarning(
                "few-effective",
                f"The effective sample size of policy/proposal is {weights.ess:.1f} of {n} completions: the proposal "
                "is far from the policy.",
                "Sample from the policy itself, or draw more.",
            ),
        )
    return ()
