"""What samples of prior and policy say of log Z together, and of the gap that the policy leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.compare.best import Ways, difference_of, find_ways
from esscher.compare.ways import Drawn, OfPrompts, drawn_of
from esscher.estimate import Estimate, Interval, above_zero, clustered_mean, student_interval, with_interval
from esscher.groups import as_groups
from esscher.weights import shown, shown_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.samples import Samples
    from esscher.target import Target


@dataclass(frozen=True)
class LogZ:
    """log Z of one target by every way that samples of prior and policy allow: means over prompts, in nats.

    Errors are *of these prompts*: other completions of them would differ by as much. They are not *over prompts*, as
    those of a report (`TargetReport.log_z`) and of `best_gap` are, which hold that other prompts differ, too. NaN where
    one has none, since it has a single completion or no weight, and where a bias of few completions a prompt is left
    that is not small beside the error.

    Attributes
    ----------
    prior
        From the prior's samples, by ``w = exp(log_potential)``.
    policy
        From the policy's samples, by ``w = prior exp(log_potential) / policy``.
    both
        From both, as draws of their mixture (see `mixture_log_z`); `None` unless the prior's samples have
        `policy_logprobs` beside `prior_logprobs`.
    best
        By the best of these ways, prompt by prompt: by both where that is known. Else by the prior's or the policy's
        samples, whichever has the smaller error over all prompts; but by those that give more where they disagree, over
        all prompts or in one, since samples can only miss weight that there is.
    best_by
        In how many prompts that is "prior", "policy" or "both".
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
    best: Estimate
    best_by: dict[str, int]
    compared: int
    difference: float
    agree: bool | None


class Gap(NamedTuple):
    """KL(policy‖target) in nats, by the best log Z that there is, and its 95 % interval; both *over prompts*."""

    value: Estimate
    interval: Interval


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
    return summarise(find_ways(*drawn_of(prior, policy, target)))


def summarise(ways: Ways) -> LogZ:
    """Return log Z by every way, as `compare_log_z` does."""
    estimates = {name: shown(way.mean(ways.sizes), ways.left[name]) for name, way in ways.found.items()}
    compared, difference, agree = _agreement(ways)
    counts = np.bincount(ways.chosen, minlength=len(estimates)).tolist()
    return LogZ(
        prior=estimates["prior"],
        policy=estimates["policy"],
        both=estimates.get("both"),
        best=shown(ways.best.mean(ways.sizes), ways.left_of_best),
        best_by={name: count for name, count in zip(estimates, counts, strict=True) if count},
        compared=compared,
        difference=difference,
        agree=agree,
    )


def best_gap(prior: Samples, policy: Samples, target: Target) -> Gap:
    """Estimate KL(policy‖target) = log Z - ELBO of a policy, by the best log Z that samples of prior and policy allow.

    The ELBO is the mean of ``log_potential - log(policy / prior)`` over the policy's completions; log Z is
    `LogZ.best`. The policy's own samples cannot show what the policy misses, so that by them alone a collapsed policy
    looks near to its target. Errors are over prompts; those of a single one are of this prompt.

    Parameters
    ----------
    prior, policy, target
        As in `compare_log_z`.

    Raises
    ------
    ValueError
        As `compare_log_z`.

    Examples
    --------
    >>> import numpy as np
    >>> from esscher import Ragged, Samples, Tilt
    >>> def drawn(tokens):
    ...     rows = Ragged.from_rows([[token] for token in tokens])
    ...     policy, prior = (Ragged.from_rows([[x] for x in np.log(p)[tokens]]) for p in ([0.2, 0.8], [0.5, 0.5]))
    ...     return Samples(Ragged.from_rows([[0]]), rows, [0, len(tokens)], policy, prior, rewards=tokens)
    >>> gap = best_gap(drawn([0] * 50 + [1] * 50), drawn([0] * 20 + [1] * 80), Tilt(1.0))
    >>> round(gap.value.value, 3)  # 0.2 log(0.2 / 0.269) + 0.8 log(0.8 / 0.731)
    0.013
    """
    of_prior, of_policy = drawn_of(prior, policy, target)
    return gap_of(of_policy, find_ways(of_prior, of_policy))


def gap_of(policy: Drawn, ways: Ways) -> Gap:
    """Return the gap that `best_gap` does, by log Z that is found."""
    elbo = policy.log_ratios
    means = policy.groups.means(elbo)
    with np.errstate(invalid="ignore"):  # -inf - -inf: a prompt without weight has no gap, and NaN says so
        gaps = ways.best.log_z - means
    if len(gaps) > 1:
        sizes = ways.sizes.astype(np.float64)
        gap, interval = with_interval(gaps * sizes, np.arange(len(gaps) + 1), sizes)
    else:
        gap, interval = _of_one_prompt(float(gaps[0]), list(ways.found.values())[ways.chosen[0]], elbo)
    left = ways.left_of_best
    return Gap(shown(gap, left), above_zero(shown_interval(gap, interval, left)))


def _of_one_prompt(gap: float, way: OfPrompts, elbo: NDArray[np.float64]) -> tuple[Estimate, Interval]:
    """Return the gap of a single prompt, whose completions are the independent draws: the prior's and the policy's."""
    drawn = [-elbo if way.of_policy is None else way.of_policy - elbo]
    if way.of_prior is not None:
        drawn.append(way.of_prior)
    stderr = float(np.hypot.reduce([clustered_mean(values, as_groups(None, len(values))).stderr for values in drawn]))
    low, high, assumes = student_interval(np.array([gap]), np.array([stderr]), n=min(map(len, drawn)))
    return Estimate(gap, stderr), Interval(float(low[0]), float(high[0]), assumes)


def _agreement(ways: Ways) -> tuple[int, float, bool | None]:
    """Say of how many prompts both are known, how many errors lie between the means, and whether that may be chance."""
    prior, policy = ways.found["prior"], ways.found["policy"]
    known = prior.known & policy.known
    if not known.any():
        return 0, np.nan, None
    return int(known.sum()), *difference_of(prior.mean(ways.sizes * known), policy.mean(ways.sizes * known))
