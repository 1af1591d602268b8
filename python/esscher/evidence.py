"""Estimates of log Z from the prior's samples, from the policy's, and from both, and whether they agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.divergence import sequence_logprobs
from esscher.divergence.columns import drawn_logprobs
from esscher.estimate import Estimate, bias_of_log_mean
from esscher.inference.bounds import agreement
from esscher.inference.bridge import mixture_log_z
from esscher.inference.importance import importance
from esscher.samples import match_prompts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.ragged import Offsets
    from esscher.samples import Samples
    from esscher.target import Target


@dataclass(frozen=True)
class LogZ:
    """log Z of one target by every way that samples of prior and policy allow: means over prompts, in nats.

    Errors are those of drawing completions of these very prompts; NaN where one has none, since it has a single
    completion or no weight.

    Attributes
    ----------
    prior
        From the prior's samples, by ``w = exp(log_potential)``.
    policy
        From the policy's samples, by ``w = prior exp(log_potential) / policy``.
    both
        From both, as draws of their mixture (see `mixture_log_z`); `None` unless the prior's samples have
        `policy_logprobs` beside `prior_logprobs`.
    compared
        The number of prompts of which both are known with their error.
    difference
        What lies between `prior` and `policy` over these prompts, in standard errors of the difference; NaN if there
        are none.
    agree
        Whether that is no more than 3: more means that one of them misses where the weight is, or that a prompt has so
        few completions that both are on average too low. `None` if there are no prompts to compare.
    """

    prior: Estimate
    policy: Estimate
    both: Estimate | None
    compared: int
    difference: float
    agree: bool | None


class _OfPrompts(NamedTuple):
    """log Z of each prompt and its standard error [P], infinite where there is none."""

    log_z: NDArray[np.float64]
    stderr: NDArray[np.float64]

    def take(self, which: NDArray[np.bool_]) -> _OfPrompts:
        """Return some prompts."""
        return _OfPrompts(self.log_z[which], self.stderr[which])


def compare_log_z(prior: Samples, policy: Samples, target: Target) -> LogZ:
    """Estimate log Z of a target from samples of the prior and of a policy, and say whether they agree.

    It is that of the prompts that both have.

    Parameters
    ----------
    prior
        Completions of the prior with `rewards`; with `prior_logprobs` and `policy_logprobs` they can be taken together
        with the policy's.
    policy
        Completions of the policy with `rewards`, `policy_logprobs` and `prior_logprobs`.
    target
        The target, of rewards alone.

    Raises
    ------
    ValueError
        If samples lack a column, have no prompt in common, or a completion is impossible under what drew it.

    Examples
    --------
    >>> import numpy as np
    >>> from esscher import Ragged, Samples, Tilt
    >>> def drawn(tokens):
    ...     rows = Ragged.from_rows([[token] for token in tokens])
    ...     policy, prior = (Ragged.from_rows([[x] for x in np.log(p)[tokens]]) for p in ([0.2, 0.8], [0.5, 0.5]))
    ...     return Samples(Ragged.from_rows([[0]]), rows, [0, len(tokens)], policy, prior, rewards=tokens)
    >>> found = compare_log_z(drawn([0] * 5 + [1] * 5), drawn([0] * 2 + [1] * 8), Tilt(1.0))  # log((1 + e) / 2) = 0.62
    >>> [round(estimate.value, 3) for estimate in (found.prior, found.policy, found.both)], found.agree
    ([0.632, 0.622, 0.621], True)
    """
    matched = match_prompts([prior, policy])
    if matched is None:
        raise ValueError("prior and policy have no prompt in common: log Z is that of a prompt")
    prior, policy = matched
    of_prior = _of_prompts(target.log_potential(_rewards("prior", prior)), prior.groups)
    log_ratios = _log_prob("policy", policy, "prior_logprobs") - _log_prob("policy", policy, "policy_logprobs")
    of_policy = _of_prompts(target.log_potential(_rewards("policy", policy)) + log_ratios, policy.groups)
    sizes = np.diff(policy.groups)
    both = None
    if prior.policy_logprobs is not None and prior.prior_logprobs is not None:
        both = _mean(_of_both(prior, policy, target), sizes)
    known = np.isfinite(of_prior.stderr) & np.isfinite(of_policy.stderr)
    difference, agree = _agreement(of_prior.take(known), of_policy.take(known), sizes[known])
    return LogZ(_mean(of_prior, sizes), _mean(of_policy, sizes), both, int(known.sum()), difference, agree)


def _agreement(of_prior: _OfPrompts, of_policy: _OfPrompts, sizes: NDArray[np.int64]) -> tuple[float, bool | None]:
    """How many standard errors lie between the two means over prompts, and whether that may be chance."""
    if len(sizes) == 0:
        return np.nan, None
    values, errors = zip(_mean(of_prior, sizes), _mean(of_policy, sizes), strict=True)
    largest, agrees = agreement(values, errors)
    return float(largest), bool(agrees)


def _rewards(name: str, samples: Samples) -> NDArray[np.float64]:
    if samples.rewards is None:
        raise ValueError(f"{name} has no rewards: a target is made of them")
    return samples.rewards


def _log_prob(name: str, samples: Samples, column: str) -> NDArray[np.float64]:
    logprobs = getattr(samples, column)
    if logprobs is None:
        raise ValueError(f"{name} has no {column}: without, the weights of its samples are not known")
    return drawn_logprobs(column, logprobs) if column == f"{name}_logprobs" else sequence_logprobs(logprobs)


def _of_prompts(log_ratios: NDArray[np.float64], groups: Offsets) -> _OfPrompts:
    """Estimate from ``log(target / proposal)`` of the samples [N], less the bias of order 1/n."""
    sizes = np.diff(groups)
    weights = importance(log_ratios, np.zeros(len(log_ratios)), groups)
    relative = np.exp(weights.log_weights) * np.repeat(sizes, sizes)
    bias = bias_of_log_mean(relative, groups)
    known = (sizes > 1) & np.isfinite(weights.log_z)
    spread = np.add.reduceat((relative - 1.0) ** 2, groups[:-1]) / sizes
    stderr = np.where(known, np.sqrt(spread / np.maximum(sizes - 1, 1)), np.inf)
    return _OfPrompts(weights.log_z - bias, stderr)


def _of_both(prior: Samples, policy: Samples, target: Target) -> _OfPrompts:
    parts = (prior, policy)
    order = np.argsort(np.concatenate([part.group_of for part in parts]), kind="stable")
    log_prior, log_policy = (
        np.concatenate([_log_prob(name, part, column) for name, part in zip(("prior", "policy"), parts, strict=True)])
        for column in ("prior_logprobs", "policy_logprobs")
    )
    log_prior, log_policy = log_prior[order], log_policy[order]
    log_potential = target.log_potential(np.concatenate([_rewards("prior", part) for part in parts]))[order]
    from_policy = (np.arange(len(order)) >= len(prior))[order]
    found = mixture_log_z(log_prior + log_potential, log_prior, log_policy, from_policy, prior.groups + policy.groups)
    # The log of a noisy mean is on average too low by half its variance.
    variance = np.where(np.isfinite(found.stderr), found.stderr, 0.0) ** 2
    return _OfPrompts(found.log_z + variance / 2, found.stderr)


def _mean(of_prompts: _OfPrompts, sizes: NDArray[np.int64]) -> Estimate:
    """Average over the very prompts that there are, by their numbers of completions."""
    shares = sizes / sizes.sum()
    stderr = float(np.sqrt(shares**2 @ of_prompts.stderr**2))
    return Estimate(float(shares @ of_prompts.log_z), stderr if np.isfinite(stderr) else np.nan)
