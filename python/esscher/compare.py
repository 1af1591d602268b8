"""Trained policies beside the frontier: how much of what their KL could buy they got, and what they left undone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esscher.divergence import KlEstimate, estimate_kl
from esscher.estimate import NORMAL, Estimate, Interval, clustered_mean, with_interval
from esscher.evaluate import evaluate
from esscher.inference.importance import exponential_weights
from esscher.prototype import Prototype, prototype
from esscher.solve import solve_beta
from esscher.target import Tilt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from esscher.diversity import DiversityEstimate
    from esscher.ragged import Ragged
    from esscher.samples import Samples


@dataclass(frozen=True, eq=False)
class PolicyPoint:
    """A policy beside the frontier.

    Attributes
    ----------
    name
        What it is called.
    reward, reward_interval
        Its mean reward, and the 95 % interval of it.
    kl
        KL(policy‖prior) in nats: exact where `token_kl` is known, else k1.
    beta
        The beta whose target has that KL; `None` where the prior's samples show none.
    reachable
        The reward of that target: the most that any policy of the same KL can have; `None` with `beta`.
    efficiency, efficiency_interval
        ``(reward - prior's) / (reachable - prior's)``: the share that the policy got of the reward that its KL could
        buy, and the 95 % interval of it; `None` with `beta`.
    target
        The target that it is measured against.
    inference_gap, inference_gap_interval
        KL(policy‖target) in nats, and the 95 % interval of it; `None` where the samples cannot tell.
    excess_collapse
        Its diversity minus the target's: what it lost beyond what the target asks for.
    """

    name: str
    reward: Estimate
    reward_interval: Interval
    kl: KlEstimate
    beta: float | None
    reachable: Estimate | None
    efficiency: Estimate | None
    efficiency_interval: Interval | None
    target: Tilt | None
    inference_gap: Estimate | None
    inference_gap_interval: Interval | None
    excess_collapse: tuple[DiversityEstimate, ...]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Policies beside the frontier of the prior, and what the reader should know before trusting them."""

    prototype: Prototype
    policies: tuple[PolicyPoint, ...]
    warnings: tuple[str, ...]


def compare(prior: Samples, policies: Mapping[str, Samples], beta: float | None = None) -> Comparison:
    """Put trained policies beside the frontier of their prior.

    The standard error of the efficiency is the delta method's, clustered by prompt, of the policy's rewards and KL and
    of the prior's rewards. Where both have the same prompts, in the same order, what these have in common cancels;
    otherwise the two sets of samples are taken as independent.

    Parameters
    ----------
    prior
        Completions of the prior with `rewards`.
    policies
        By name, completions of each policy with `rewards`, `policy_logprobs` and `prior_logprobs`.
    beta
        The beta of the target that gap and excess collapse are measured against; if not given, each policy's is the one
        whose target has the policy's KL.

    Raises
    ------
    ValueError
        If there are no policies, one lacks a column, `beta` is not positive and finite, and as `prototype`.

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
    target = None if beta is None else Tilt(beta)
    for name, samples in policies.items():
        _check(name, samples)
    found = prototype(prior)
    points, warnings = [], list(found.warnings)
    for name, samples in policies.items():
        point, warning = _point(name, samples, prior, target, found)
        points.append(point)
        warnings += [warning] if warning else []
    return Comparison(found, tuple(points), tuple(warnings))


def _check(name: str, samples: Samples) -> None:
    missing = [column for column in ("rewards", "policy_logprobs", "prior_logprobs") if column not in samples.columns]
    if missing:
        raise ValueError(f"policy {name} lacks the column{'s' * (len(missing) > 1)} {' and '.join(missing)}")


def _point(
    name: str, samples: Samples, prior: Samples, target: Tilt | None, found: Prototype
) -> tuple[PolicyPoint, str | None]:
    assert samples.rewards is not None  # `_check` has seen them
    assert prior.rewards is not None
    reward, reward_interval = with_interval(samples.rewards, samples.groups)
    kl = estimate_kl(samples, "k1" if samples.token_kl is None else "exact")
    beta, warning = _beta_of(name, kl.value, prior, found)
    reachable = efficiency = interval = None
    if beta is not None:
        reachable, efficiency, interval = _efficiency(samples, samples.rewards, kl, beta, prior, prior.rewards)
    against = target if target is not None else None if beta is None else Tilt(beta)
    report = None if against is None else evaluate(samples, against)
    gap = None if report is None else report.target
    return (
        PolicyPoint(
            name=name,
            reward=reward,
            reward_interval=reward_interval,
            kl=kl,
            beta=beta,
            reachable=reachable,
            efficiency=efficiency,
            efficiency_interval=interval,
            target=against,
            inference_gap=None if gap is None else gap.inference_gap,
            inference_gap_interval=None if gap is None else gap.inference_gap_interval,
            excess_collapse=() if report is None else report.excess_collapse,
        ),
        warning,
    )


def _beta_of(name: str, kl: float, prior: Samples, found: Prototype) -> tuple[float | None, str | None]:
    """Return the beta whose target has this KL, and what keeps it from being known or trusted."""
    if not kl > 0:
        return None, f"{name}: the estimate of its KL is {kl:.3g}, and no target has that. Draw more completions of it."
    assert prior.rewards is not None
    try:
        beta = solve_beta(prior.rewards, kl=kl, groups=prior.groups)
    except ValueError as error:
        return None, f"{name}: what its KL could buy is not known ({error})."
    trusted = found.frontier.beta[found.frontier.trusted]
    if len(trusted) == 0 or beta < trusted[-1]:
        return beta, f"{name} lies beyond what the prior's samples can be trusted for: draw more of them."
    return beta, None


def _efficiency(
    samples: Samples,
    rewards: NDArray[np.float64],
    kl: KlEstimate,
    beta: float,
    prior: Samples,
    prior_rewards: NDArray[np.float64],
) -> tuple[Estimate, Estimate, Interval]:
    """Return the reachable reward, and the share of it that was got with its interval."""
    weights, log_z, _ = exponential_weights(prior_rewards, beta, prior.groups)
    sizes = np.diff(prior.groups)
    relative = weights * sizes[prior.group_of]
    reward = float((relative * np.where(relative > 0, prior_rewards, 0.0)).sum()) / len(prior)
    # At a given KL the target's reward varies as beta log Z does (the envelope theorem), by these influence values.
    of_target = beta * (log_z[prior.group_of] + relative - 1.0)
    reachable = Estimate(reward, clustered_mean(of_target, prior.groups).stderr)
    least = float(prior_rewards.mean())
    gained, possible = float(rewards.mean()) - least, reachable.value - least
    share = gained / possible
    # d reachable / d KL = beta along the frontier.
    of_policy = (rewards - share * beta * kl.per_sequence) / possible
    of_prior = (share * of_target + (1.0 - share) * prior_rewards) / possible
    return reachable, *_difference(share, of_policy, samples, of_prior, prior)


def _difference(
    value: float, of_policy: NDArray[np.float64], samples: Samples, of_prior: NDArray[np.float64], prior: Samples
) -> tuple[Estimate, Interval]:
    """Return a value with the error and the interval of the difference of two means of influence values."""
    if len(samples.prompts) > 1 and _are_equal(samples.prompts, prior.prompts):
        residuals = _residuals(of_policy, samples) - _residuals(of_prior, prior)
        return with_interval(value + len(residuals) * residuals, np.arange(len(residuals) + 1))
    errors = clustered_mean(of_policy, samples.groups).stderr, clustered_mean(of_prior, prior.groups).stderr
    stderr = float(np.hypot(*errors))
    assumes = "both sets of samples are many and independent of each other (normal)"
    return Estimate(value, stderr), Interval(value - NORMAL * stderr, value + NORMAL * stderr, assumes)


def _are_equal(some: Ragged, others: Ragged) -> bool:
    return np.array_equal(some.offsets, others.offsets) and np.array_equal(some.values, others.values)


def _residuals(values: NDArray[np.float64], samples: Samples) -> NDArray[np.float64]:
    """Return what each prompt adds to the mean beyond its share [P]."""
    residuals: NDArray[np.float64] = np.add.reduceat(values - values.mean(), samples.groups[:-1]) / len(values)
    return residuals
