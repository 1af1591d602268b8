"""Samples of the prior and of policies in, a comparison out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.compare.best import find_ways
from esscher.compare.comparison import Comparison, PolicyPoint
from esscher.compare.efficiency import estimate_efficiency, mean_as_prior
from esscher.compare.log_z import gap_of, summarise
from esscher.compare.matching import check_shared, completions_of, is_own, match, naming
from esscher.compare.ways import drawn_of
from esscher.divergence import KlEstimate, estimate_kls
from esscher.divergence.checked_columns import check_drawn
from esscher.estimate import with_interval
from esscher.evaluate.against_target import measure, why_not_measured
from esscher.evaluate.report_warnings import warn_of_kl
from esscher.frontier import A_PROMPT, prototype, solve_beta
from esscher.samples import check_samples
from esscher.target import Tilt
from esscher.warning import ReportWarning, merge_warnings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from esscher.compare.efficiency import Efficiency
    from esscher.compare.log_z import Gap, LogZ
    from esscher.compare.matching import Places
    from esscher.evaluate.against_target import AgainstTarget
    from esscher.frontier import Frontier
    from esscher.samples import Samples, TokenColumn


LOGPROBS: tuple[TokenColumn, ...] = ("policy_logprobs", "prior_logprobs")
# What warnings call the gap that the policy's own samples show, beside the best one.
OWN_GAP = "the gap by its own samples"
# What warnings call the gap that the policy's own samples show, beside the best one.
OWN_GAP = "the gap by its own samples"
OF_REWARDS = "a comparison is of rewards"
TOO_GOOD = ReportWarning(
    "above-the-frontier",
    "It got more than any policy of its KL can.",
    "Check that its rewards and the prior's are the same reward, and that both columns of log-probs are of the models "
    "that they are named after.",
)


def compare(prior: Samples, policies: Mapping[str, Samples], beta: float | None = None) -> Comparison:
    """Put trained policies beside the frontier of their prior.

    Only prompts that all samples have are compared. The standard error of the efficiency is the delta method's,
    clustered by prompt, of the policy's rewards and KL and of the prior's rewards; what a prompt gives to both cancels.
    For it, prompts count by the prior's numbers of samples.

    Parameters
    ----------
    prior
        Completions of the prior with `rewards`. Where they have `prior_logprobs`, these must be of the model that the
        policies' are of. Where they have `policy_logprobs` that differ from them and there is one policy, these must be
        its: then log Z is estimated from both sets of samples together.
    policies
        By name, completions of each policy with `rewards`, `policy_logprobs` and `prior_logprobs`.
    beta
        The beta of the target that gap and excess collapse are measured against; if not given, each policy's is the one
        whose target has the policy's KL.

    Raises
    ------
    ValueError
        If there are no policies, one lacks a column or holds a completion that it cannot have produced, there is no
        prompt that all have, rewards or log-probs of the same completions differ between the prior's samples and a
        policy's, `beta` is not positive and finite, and as `prototype`.

    Examples
    --------
    >>> import numpy as np
    >>> from dataclasses import replace
    >>> from esscher import Ragged, sequence_logprobs
    >>> from esscher.lm.tabular import TabularLM
    >>> rng = np.random.default_rng(0)
    >>> logits = rng.normal(size=(8, 4, 4))
    >>> prompts = Ragged.from_rows([[p] for p in range(8)])
    >>> prior, policy = TabularLM(logits), TabularLM(logits + [0.0, 1.0, 0.0, 0.0])
    >>> def rewarded(drawn):
    ...     return replace(drawn, rewards=np.array([np.mean(row == 1) for row in drawn.completions]))
    >>> drawn = rewarded(policy.sample(prompts, 200, 2, rng))
    >>> drawn = replace(drawn, prior_logprobs=prior.logprobs(drawn.prompts, drawn.completions, drawn.groups))
    >>> found = compare(rewarded(prior.sample(prompts, 200, 2, rng)), {"tuned": drawn}).policies[0]
    >>> bool(0.5 < found.efficiency.value < 1.05)
    True
    """
    if not policies:
        raise ValueError("policies is empty: give at least one to compare")
    for argument, samples in (("prior", prior), *((f"policies[{name!r}]", each) for name, each in policies.items())):
        check_samples(argument, samples)
    target = None if beta is None else Tilt(beta)
    with naming("prior"):
        prior.need("rewards", why="the frontier is that of a reward")
    if len(policies) > 1 or is_own(prior):
        prior = replace(prior, policy_logprobs=None)
    told: list[ReportWarning] = []
    of_prior = completions_of(prior)
    # What is wrong is named where it stands in the samples as they were given.
    for name, samples in policies.items():
        with naming(f"policy {name!r}"):
            told += [warning.at(name) for warning in _check(samples, prior, of_prior)]
    prior, policies, warnings = match(prior, policies)
    with naming("prior, of the shared prompts" if warnings else "prior"):
        found = prototype(prior)
    points = []
    for name, samples in policies.items():
        with naming(f"policy {name!r}"):
            point, warned = _point(name, samples, prior, target, found.frontier)
        points.append(point)
        told += [warning.at(name) for warning in warned]
    return Comparison(found, tuple(points), merge_warnings([*warnings, *found.warnings, *told]))


def _check(samples: Samples, prior: Samples, of_prior: Places) -> list[ReportWarning]:
    samples.need("rewards", why=OF_REWARDS)
    for column in LOGPROBS:
        samples.need(column, why="a comparison needs those of policy and prior, which `esscher score` adds")
    check_drawn("policy_logprobs", samples.policy_log_prob)
    return check_shared(samples, prior, of_prior)


class _Against(NamedTuple):
    """What samples of prior and policy say of a target: log Z, the gap, and what the policy's alone say."""

    log_z: LogZ
    gap: Gap
    own: AgainstTarget | None


def _measure(prior: Samples, samples: Samples, target: Tilt) -> _Against:
    drawn = drawn_of(prior, samples, target)
    ways = find_ways(*drawn)
    own = None if why_not_measured(samples) else measure(samples, target, gap=OWN_GAP)
    return _Against(summarise(ways), gap_of(drawn[1], ways), own)


def _point(
    name: str, samples: Samples, prior: Samples, target: Tilt | None, curve: Frontier
) -> tuple[PolicyPoint, list[ReportWarning]]:
    reward, reward_interval = with_interval(samples.need("rewards", why=OF_REWARDS), samples.groups)
    kls = estimate_kls(samples)
    kl = kls.get("exact", kls["k1"])
    beta, of_beta = _beta_of(samples, kl, prior, curve)
    got, of_got = (None, []) if beta is None else _efficiency(samples, kl, beta, prior)
    if got is not None and got.interval.low > 1 and not of_beta:
        of_got = [TOO_GOOD]
    against = Tilt(beta) if target is None and beta is not None else target
    found = None if against is None else _measure(prior, samples, against)
    own = None if found is None or found.own is None else found.own.report
    point = PolicyPoint(
        name=name,
        reward=reward,
        reward_interval=reward_interval,
        kl=kl,
        beta=beta,
        reachable=None if got is None else got.reachable,
        efficiency=None if got is None else got.share,
        efficiency_interval=None if got is None else got.interval,
        target=against,
        log_z=None if found is None else found.log_z,
        log_z_bounds=None if own is None or own.elbo is None or own.eubo is None else (own.elbo, own.eubo),
        inference_gap=None if found is None else found.gap.value,
        inference_gap_interval=None if found is None else found.gap.interval,
        own_inference_gap=None if own is None else own.inference_gap,
        excess_collapse=() if found is None or found.own is None else found.own.excess_collapse,
    )
    return point, [*of_beta, *of_got, *_of_target(against, found, prior, samples), *warn_of_kl(samples, kls)]


def _of_target(
    target: Tilt | None, found: _Against | None, prior: Samples, samples: Samples
) -> Iterator[ReportWarning]:
    """Say what to know of the numbers of the target, and which of them are missing."""
    if target is None or found is None:
        return
    yield from _of_log_z(target, found.log_z, prior, samples)
    why = why_not_measured(samples)
    missing = {"gap and excess": why} if why else {}
    if found.own is not None:
        yield from found.own.warnings
        missing = found.own.unavailable
    for what, reason in missing.items():
        yield ReportWarning("not-available", f"{what.capitalize()} not available: {reason}.")


def _beta_of(
    samples: Samples, kl: KlEstimate, prior: Samples, curve: Frontier
) -> tuple[float | None, list[ReportWarning]]:
    """Return the beta whose target has this KL, and what keeps it from being known or trusted."""
    if kl.value == np.inf:
        return None, []  # which the warnings of the KL explain
    if not kl.per_sequence.any():
        seen = "Its KL is exactly 0 in every completion: it has not moved, or one column of log-probs is a copy of the"
        return None, [ReportWarning("copied-log-probs", f"{seen} other.")]
    value = mean_as_prior(kl.per_sequence, samples, prior)
    if kl.value < -2 * kl.stderr:
        return None, []  # which the warnings of the KL explain
    if not value > 0:
        seen = f"The estimate of its KL is {value:.3g}, and no target has that."
        return None, [ReportWarning("reachable-unknown", seen, "Draw more completions of it.")]
    rewards = prior.need("rewards", why=OF_REWARDS)
    try:
        beta = solve_beta(rewards, kl=value, groups=prior.groups)
    except ValueError as error:
        reason, _, _ = str(error).partition(". ")  # what follows is advice to who asks for a KL
        act = "Draw more completions of the prior"
        if np.isneginf(rewards).any():
            act += ", or give failures a finite reward"
        return None, [ReportWarning("reachable-unknown", f"What its KL could buy is not known: {reason}.", f"{act}.")]
    trusted = curve.beta[curve.trusted]
    if len(trusted) == 0 or beta < trusted[-1]:
        seen = "It lies beyond what the prior's samples can be trusted for."
        return beta, [ReportWarning("beyond-the-samples", seen, "Draw more of them.")]
    return beta, []


def _efficiency(
    samples: Samples, kl: KlEstimate, beta: float, prior: Samples
) -> tuple[Efficiency | None, list[ReportWarning]]:
    """Return what it got of what it could reach, or why there is no such thing."""
    for whose, of_whom in (("its", samples), ("the prior's", prior)):
        rewards = of_whom.need("rewards", why=OF_REWARDS)
        excluded = int(np.isneginf(rewards).sum())
        if excluded:
            seen = f"{excluded} of {whose} {len(rewards)} completions {'has' if excluded == 1 else 'have'} a reward of"
            return None, [
                ReportWarning(
                    "infinite-rewards",
                    f"{seen} -inf, and so has their mean: there is no share of a gain to speak of.",
                    "Give failures a finite reward.",
                )
            ]
    return estimate_efficiency(samples, kl, beta, prior), []


def _of_log_z(target: Tilt, log_z: LogZ, prior: Samples, samples: Samples) -> list[ReportWarning]:
    """Say where the samples of prior and policy disagree about log Z, or cannot be compared."""
    if log_z.agree:
        return []
    if log_z.agree is None:
        return [
            ReportWarning(
                "few-completions",
                f"log Z of {target} by the prior's samples and by its own cannot be compared: of no prompt both give "
                "it with an error.",
                "Draw several completions of each prompt.",
            )
        ]
    prompts = len(prior.prompts)
    where = "" if log_z.compared == prompts else f", over the {log_z.compared} of {prompts} prompts where both know it"
    why = "One of them misses where the target is: raise beta, or draw more of both"
    if min(len(prior), len(samples)) < A_PROMPT * prompts:
        why = f"With few completions a prompt both are on average too low: draw {A_PROMPT} or more of each"
    seen = f"log Z of {target} by the prior's samples and by its own {_apart(log_z.difference)}{where}."
    return [ReportWarning("log-z-disagrees", seen, f"{why}.")]


def _apart(difference: float) -> str:
    return f"are {difference:.3g} standard errors apart" if np.isfinite(difference) else "differ, and neither varies"
