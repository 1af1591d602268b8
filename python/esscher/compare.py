"""Trained policies beside the frontier: how much of what their KL could buy they got, and what they left undone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from esscher.divergence import KlEstimate, estimate_kl, sequence_logprobs
from esscher.estimate import NORMAL, Estimate, Interval, bias_of_log_mean, clustered_mean, with_interval
from esscher.evaluate import evaluate
from esscher.evidence import LogZ, compare_log_z
from esscher.inference.importance import exponential_weights
from esscher.prototype import Prototype, prototype
from esscher.solve import solve_beta
from esscher.target import Tilt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from esscher.diversity import DiversityEstimate
    from esscher.samples import Samples

# Log-probs of the same completion that differ by more, in nats per token, are not of the same model: bfloat16 and
# other kernels make up to half as much in completions of a few tokens.
DIFFERENT = 0.2
# If most differ by less than this, they are of the same model.
SAME = 0.02


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
    log_z
        log Z of the target, from the prior's samples and from the policy's; `None` with `target`.
    log_z_bounds
        Bounds of it from below and above by the policy's samples (see `TargetReport.elbo` and `eubo`); `None` where
        they cannot tell.
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
    log_z: LogZ | None
    log_z_bounds: tuple[Estimate, Estimate] | None
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
        If there are no policies, one lacks a column, log-probs of the same completions differ between the prior's
        samples and a policy's, `beta` is not positive and finite, and as `prototype`.

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
    if len(policies) > 1 or _is_own(prior):
        prior = replace(prior, policy_logprobs=None)
    for name, samples in policies.items():
        _check(name, samples)
        _check_same_models(name, samples, prior)
    found = prototype(prior)
    points, warnings = [], list(found.warnings)
    for name, samples in policies.items():
        point, of_point = _point(name, samples, prior, target, found)
        points.append(point)
        warnings += of_point
    return Comparison(found, tuple(points), tuple(warnings))


def _check(name: str, samples: Samples) -> None:
    missing = [column for column in ("rewards", "policy_logprobs", "prior_logprobs") if column not in samples.columns]
    if missing:
        raise ValueError(f"policy {name} lacks the column{'s' * (len(missing) > 1)} {' and '.join(missing)}")


def _is_own(prior: Samples) -> bool:
    """Whether there are no log-probs but the prior's own, be it as those of the policy that drew its samples."""
    if prior.policy_logprobs is None or prior.prior_logprobs is None:
        return True
    own, others = sequence_logprobs(prior.prior_logprobs), sequence_logprobs(prior.policy_logprobs)
    return float(np.median(_differences(own, others, prior.completions.lengths))) <= SAME


def _check_same_models(name: str, samples: Samples, prior: Samples) -> None:
    """Refuse log-probs that disagree on the completions that are in both samples."""
    for column in ("prior_logprobs", "policy_logprobs"):
        of_prior = getattr(prior, column)
        if of_prior is None:
            continue
        known = dict(zip(_rows(prior), sequence_logprobs(of_prior).tolist(), strict=True))
        rows, others = _shared(samples, known)
        mine = sequence_logprobs(getattr(samples, column))[rows]
        differences = _differences(mine, others, samples.completions.lengths[rows])
        if len(rows) and np.median(differences) > DIFFERENT:
            worst = int(differences.argmax())
            raise ValueError(
                f"policy {name}: the {column} of completion {rows[worst]} sum to {mine[worst]:.4g}, those of the same "
                f"completion among the prior's samples to {others[worst]:.4g}, and they differ in most of the "
                f"{len(rows)} that are in both: they are of different models, or of other sampling settings. Score "
                "both with the same model"
            )


def _rows(samples: Samples) -> Iterator[tuple[bytes, bytes]]:
    """Prompt and completion of each, to find the same again."""
    prompts = [row.tobytes() for row in samples.prompts]
    return ((prompts[p], row.tobytes()) for p, row in zip(samples.group_of.tolist(), samples.completions, strict=True))


def _shared(samples: Samples, known: dict[tuple[bytes, bytes], float]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which completions are known, and what of each is known."""
    shared = [(i, known[row]) for i, row in enumerate(_rows(samples)) if row in known]
    return np.array([i for i, _ in shared], np.int64), np.array([value for _, value in shared])


def _differences(
    some: NDArray[np.float64], others: NDArray[np.float64], lengths: NDArray[np.int64]
) -> NDArray[np.float64]:
    """How far log-probs of completions are apart, in nats per token; the same infinities are not."""
    with np.errstate(invalid="ignore"):
        differences: NDArray[np.float64] = np.where(some == others, 0.0, np.abs(some - others)) / lengths
    return differences


def _point(
    name: str, samples: Samples, prior: Samples, target: Tilt | None, found: Prototype
) -> tuple[PolicyPoint, list[str]]:
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
    bounds = None if gap is None or gap.elbo is None or gap.eubo is None else (gap.elbo, gap.eubo)
    log_z = None if against is None else compare_log_z(prior, samples, against)
    warnings = [text for text in (warning, _disagreement(name, against, log_z)) if text]
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
            log_z=log_z,
            log_z_bounds=bounds,
            inference_gap=None if gap is None else gap.inference_gap,
            inference_gap_interval=None if gap is None else gap.inference_gap_interval,
            excess_collapse=() if report is None else report.excess_collapse,
        ),
        warnings,
    )


def _disagreement(name: str, target: Tilt | None, log_z: LogZ | None) -> str | None:
    if log_z is None or log_z.agree:
        return None
    return (
        f"{name}: log Z of {target} is {log_z.prior.value:.3g} by the prior's samples and {log_z.policy.value:.3g} by "
        f"its own, {log_z.difference:.1f} standard errors apart. One of them misses where the target is: raise beta, "
        "or draw more of both."
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
    # It is beta (KL + log Z), and on average too low as log Z is.
    reward -= beta * float(sizes @ bias_of_log_mean(relative, prior.groups)) / len(prior)
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
    if len(samples.prompts) > 1 and samples.has_same_prompts(prior):
        residuals = _residuals(of_policy, samples) - _residuals(of_prior, prior)
        return with_interval(value + len(residuals) * residuals, np.arange(len(residuals) + 1))
    errors = clustered_mean(of_policy, samples.groups).stderr, clustered_mean(of_prior, prior.groups).stderr
    stderr = float(np.hypot(*errors))
    assumes = "both sets of samples are many and independent of each other (normal)"
    return Estimate(value, stderr), Interval(value - NORMAL * stderr, value + NORMAL * stderr, assumes)


def _residuals(values: NDArray[np.float64], samples: Samples) -> NDArray[np.float64]:
    """Return what each prompt adds to the mean beyond its share [P]."""
    residuals: NDArray[np.float64] = np.add.reduceat(values - values.mean(), samples.groups[:-1]) / len(values)
    return residuals
