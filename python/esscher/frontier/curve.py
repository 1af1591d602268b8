"""The optimal reward-KL frontier: what targets would give, from samples of the prior alone, before any training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.estimate import HUGE, TINY, Estimate, clustered_mean
from esscher.frontier.averages import Curve, average_curve, cut_at_ends, joined, widen, without_void
from esscher.frontier.tilting import tilt
from esscher.frontier.trust import are_small, diagnose, doubts, left_biases, needed
from esscher.groups import Groups, as_groups
from esscher.inference.validation import as_column

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.warning import ReportWarning

# The grid that is taken where none is given: so many betas, between these multiples of the rewards' standard deviation
# within prompts, from where the target hardly differs from the prior to where few samples carry it.
BETAS, HIGHEST, LOWEST = 64, 30.0, 0.03
# So many prompts times betas are worked on at a time.
CELLS = 1 << 18


@dataclass(frozen=True, eq=False)
class Frontier:
    """What the targets ``prior(x) exp(r(x) / beta) / Z`` would give, for B values of beta, as means over prompts.

    Errors and intervals, log Z's too, are *over prompts*: other prompts would differ by as much. Those of a single one
    are *of this prompt*.

    No policy has a higher reward at the same KL from the prior than the target has.

    Attributes
    ----------
    beta
        Strengths of the KL penalty [B], falling: from the prior's end to the greedy end.
    log_z
        Log normaliser, nats.
    reward
        E_target[r], in units of reward.
    kl
        KL(target‖prior), nats.
    prior_kl
        KL(prior‖target), nats; infinite where a reward is -inf.
    total_variation
        Half the L1 distance between target and prior, 0 to 1.
    ess
        Effective sample size, summed over prompts [B].
    pareto_k
        Tail shape of the weights [B], the median over prompts; NaN where no prompt has samples enough to tell.
    trusted
        Whether the samples carry the estimate [B]: once they no longer do, no smaller beta is trusted.
    prior_reward
        E_prior[r]: where the frontier begins.
    highest_reward
        Mean over prompts of the highest reward seen: where these samples' frontier would end.
    assumes
        What must hold for the intervals to be 95 % ones.
    warnings
        What the reader should know before trusting it, and what to do.
    """

    beta: NDArray[np.float64]
    log_z: Curve
    reward: Curve
    kl: Curve
    prior_kl: Curve
    total_variation: Curve
    ess: NDArray[np.float64]
    pareto_k: NDArray[np.float64]
    trusted: NDArray[np.bool_]
    prior_reward: Estimate
    highest_reward: float
    assumes: str
    warnings: tuple[ReportWarning, ...]


def frontier(
    rewards: ArrayLike, betas: ArrayLike | None = None, groups: ArrayLike | None = None, *, threads: int | None = None
) -> Frontier:
    """Estimate the optimal reward-KL frontier from samples of the prior and their rewards.

    In each prompt, with ``w_i = exp(r_i / beta)`` and ``Z = mean(w)``: ``log Z``, ``E[w r] / Z``,
    ``KL(target‖prior) = E_target[r] / beta - log Z``, ``KL(prior‖target) = log Z - E_prior[r] / beta`` and
    ``mean|w / Z - 1| / 2``. The first four are corrected for their bias of order 1/n by the delta method, log Z by
    ``+ mean((w / Z - 1)^2) / 2n``, so that many prompts of few samples give what few prompts of many do; they keep the
    identities between them. The total variation is not corrected, and a little too small with few samples a prompt.
    Values are means over samples; intervals are clustered by prompt (see `confidence_interval`), and with a single
    prompt those of its independent samples.

    Parameters
    ----------
    rewards
        Rewards of samples of the prior [N]; -inf gives weight exactly 0.
    betas
        Strengths of the KL penalty, reward per nat, positive; if not given, 64 of them from 30 to 0.03 times the
        standard deviation of a prompt's rewards.
    groups
        Groups of the samples that share a prompt [P + 1], and a normaliser; all share one if not given.
    threads
        How many threads to use; all cores if not given. The result does not depend on it; which betas are computed
        together may move it by what rounding does.

    Raises
    ------
    ValueError
        If a reward is NaN, +inf, or finite beyond 1e140, a beta is not positive and finite, `groups` are no offsets, a
        prompt has a single sample (its log Z is not known) or only rewards of -inf, or betas are left to be chosen and
        the finite rewards are all equal or less than 1e-140 apart.

    References
    ----------
    Korbak, Perez, Buckley, "RL with KL penalties is better viewed as Bayesian inference", Findings of EMNLP 2022,
    arXiv:2205.11275.
    Paes, Mackraz, Theobald, Danieli, "Theoretical Limits of Language Model Alignment", 2026, arXiv:2605.07105, which
    estimates the same from samples of the prior.

    Examples
    --------
    >>> import numpy as np
    >>> rewards = np.random.default_rng(0).normal(size=4000)
    >>> curve = frontier(rewards, betas=[2.0, 1.0])
    >>> curve.kl.value.round(2), curve.reward.value.round(2)  # of normal rewards: 1 / 2 beta^2 and 1 / beta
    (array([0.12, 0.49]), array([0.48, 0.97]))
    >>> curve.trusted
    array([ True,  True])
    """
    column = as_column("rewards", rewards)
    offsets = as_groups(groups, len(column))
    _check_groups(column, offsets)
    beta = _falling(_grid(column, offsets) if betas is None else as_column("betas", betas))
    _check_small(column, beta[-1])
    parts = [_part(column, some, offsets, threads) for some in _blocks(beta, len(offsets.sizes))]
    log_z, reward, kl, prior_kl, total_variation = (joined([part.curves[i] for part in parts]) for i in range(5))
    of_parts = zip(*((part.ess, part.is_light, part.is_unbiased) for part in parts), strict=True)
    ess, is_light, is_unbiased = (np.concatenate(columns) for columns in of_parts)
    trusted = np.logical_and.accumulate(is_light & is_unbiased & (ess >= needed(len(offsets.sizes))))
    return Frontier(
        beta=beta,
        log_z=log_z,
        reward=reward,
        kl=kl,
        prior_kl=prior_kl,
        total_variation=total_variation,
        ess=ess,
        pareto_k=np.concatenate([part.pareto_k for part in parts]),
        trusted=trusted,
        prior_reward=clustered_mean(column, offsets),
        highest_reward=float(np.average(offsets.largest(column), weights=offsets.sizes)),
        # Most betas have the same: that of the middle is neither flat nor decided by one sample.
        assumes=parts[len(parts) // 2].assumes,
        warnings=doubts(beta, trusted, ess, is_light, column, offsets),
    )


class _Betas(NamedTuple):
    """Some betas: log Z, reward, both KL and total variation; ESS, Pareto k, whether tails are light [B].

    `is_unbiased` says whether what is left of the bias of log Z, reward and KL is small beside their errors [B].
    """

    curves: list[Curve]
    assumes: str
    ess: NDArray[np.float64]
    pareto_k: NDArray[np.float64]
    is_light: NDArray[np.bool_]
    is_unbiased: NDArray[np.bool_]


def _check_groups(rewards: NDArray[np.float64], groups: Groups) -> None:
    sizes = groups.sizes
    if len(sizes) == 0:
        raise ValueError("rewards is empty: the frontier is made of the prior's samples")
    few = np.flatnonzero(sizes < 2)
    if len(few):
        n = int(sizes[few[0]])
        raise ValueError(
            f"prompt {few[0]} has {n} sample{'s' * (n != 1)}: log Z of a prompt needs several. Draw more of it, or "
            "leave it out (`frontier` without groups takes all samples together, for one target over all prompts)"
        )
    far = np.flatnonzero(np.isfinite(rewards) & (np.abs(rewards) > HUGE))
    if len(far):
        raise ValueError(f"rewards[{far[0]}] is {rewards[far[0]]:g}: scale rewards, of which squares are taken, down")
    barred = np.flatnonzero(groups.largest(rewards) == -np.inf)
    if len(barred):
        raise ValueError(
            f"prompt {barred[0]} has only rewards of -inf: its target excludes everything. Leave the prompt out, or "
            "draw more of it"
        )


def _falling(betas: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(betas) == 0:
        raise ValueError("betas is empty: give at least one, or none at all for a grid of them")
    return np.sort(betas)[::-1].copy()


def _check_small(rewards: NDArray[np.float64], beta: float) -> None:
    if not beta > 0:
        return  # which the kernel refuses
    with np.errstate(over="ignore"):  # the next line reports it
        overflows = np.flatnonzero(np.isinf(rewards / beta) & np.isfinite(rewards))
    if len(overflows):
        reward = rewards[overflows[0]]
        raise ValueError(f"rewards[{overflows[0]}] is {reward:g}: divided by beta = {beta:g}, it overflows")


def _grid(rewards: NDArray[np.float64], groups: Groups) -> NDArray[np.float64]:
    """Betas of the order of the rewards' spread within prompts."""
    finite = np.isfinite(rewards)
    beside = (rewards - groups.spread(groups.largest(rewards)))[finite]
    furthest = float(beside.min())
    if furthest == 0:
        raise ValueError(
            "finite rewards are all equal within each prompt: the frontier is a point, and no beta changes anything. "
            "Check the rewards"
        )
    if -furthest < TINY:
        raise ValueError(f"rewards are at most {-furthest:.3g} apart: scale them up")
    kept = Groups.from_sizes(groups.sums(finite))
    return float(np.sqrt(np.mean((beside - kept.spread(kept.means(beside))) ** 2))) * np.geomspace(
        HIGHEST, LOWEST, BETAS
    )


def _blocks(beta: NDArray[np.float64], prompts: int) -> list[NDArray[np.float64]]:
    """Cut betas so that what is known of each prompt stays small."""
    return np.array_split(beta, min(-(-len(beta) * prompts // CELLS), len(beta)))


def _part(rewards: NDArray[np.float64], beta: NDArray[np.float64], groups: Groups, threads: int | None) -> _Betas:
    of_prompts = tilt(rewards, beta, groups, threads)
    stderrs = np.sqrt(of_prompts.variances / (groups.sizes - 1)[:, None])
    averaged = [average_curve(*each, groups.sizes) for each in zip(of_prompts.values, stderrs, strict=True)]
    curves = [curve for curve, _ in averaged]
    left = left_biases(rewards, beta, groups, of_prompts, threads)
    is_unbiased = are_small(left, curves)
    log_z, reward, kl, prior_kl, total_variation = map(widen, curves, left)
    total_variation = cut_at_ends(without_void(total_variation, is_unbiased[-1]), most=1.0)
    curves = [log_z, reward, cut_at_ends(kl), cut_at_ends(prior_kl), total_variation]
    ess, pareto_k, is_light = diagnose(rewards, beta, groups, of_prompts.ess, threads)
    return _Betas(curves, averaged[0][1], ess, pareto_k, is_light, np.logical_and.reduce(is_unbiased[:3]))
