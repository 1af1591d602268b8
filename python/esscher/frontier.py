"""The optimal reward-KL frontier: what targets would give, from samples of the prior alone, before any training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher import _core
from esscher.estimate import (
    HUGE,
    TINY,
    Estimate,
    clustered_mean,
    count_heavy,
    student_interval,
    tails_that_decide,
    with_interval,
)
from esscher.inference.columns import as_column
from esscher.ragged import as_groups
from esscher.weights import LeftBias, cut_in_halves, is_small, left_bias, widened, worth_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.ragged import Offsets

# The grid that is taken where none is given: so many betas, between these multiples of the rewards' standard deviation
# within prompts, from where the target hardly differs from the prior to where few samples carry it.
BETAS, HIGHEST, LOWEST = 64, 30.0, 0.03
# What the frontier must rest on to be trusted: so many effective samples a prompt, as the correction leaves a bias of
# higher order; so many in all, as intervals know little of skewness; and tails of the weights that are light.
A_PROMPT, IN_ALL = 8, 50
# So many prompts times betas are worked on at a time.
CELLS = 1 << 18


class Curve(NamedTuple):
    """An estimate at each beta: value, standard error, and the ends of the 95 % interval, each [B]."""

    value: NDArray[np.float64]
    stderr: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


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
    warnings: tuple[str, ...]


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
        Offsets of the samples that share a prompt [P + 1], and a normaliser; all share one if not given.
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
    Korbak, Perez, Buckley, "RL with KL penalties is better viewed as Bayesian inference", Findings of EMNLP 2022.

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
    parts = [_part(column, some, offsets, threads) for some in _blocks(beta, len(offsets) - 1)]
    log_z, reward, kl, prior_kl, total_variation = (_joined([part.curves[i] for part in parts]) for i in range(5))
    of_parts = zip(*((part.ess, part.is_light, part.is_unbiased) for part in parts), strict=True)
    ess, is_light, is_unbiased = (np.concatenate(columns) for columns in of_parts)
    trusted = np.logical_and.accumulate(is_light & is_unbiased & (ess >= _needed(len(offsets) - 1)))
    highest = np.maximum.reduceat(column, offsets[:-1])
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
        highest_reward=float(np.average(highest, weights=np.diff(offsets))),
        # Most betas have the same: that of the middle is neither flat nor decided by one sample.
        assumes=parts[len(parts) // 2].assumes,
        warnings=_warnings(beta, trusted, ess, is_light, column, offsets),
    )


class _Part(NamedTuple):
    """Some betas: log Z, reward, both KL and total variation; ESS, Pareto k, whether tails are light [B].

    `is_unbiased` says whether what is left of the bias of log Z, reward and KL is small beside their errors [B].
    """

    curves: list[Curve]
    assumes: str
    ess: NDArray[np.float64]
    pareto_k: NDArray[np.float64]
    is_light: NDArray[np.bool_]
    is_unbiased: NDArray[np.bool_]


class _PerPrompt(NamedTuple):
    """Five quantities of each prompt and beta, and the variances of their influence values [5, P, B]; ess [P, B]."""

    values: NDArray[np.float64]
    variances: NDArray[np.float64]
    ess: NDArray[np.float64]


def _check_groups(rewards: NDArray[np.float64], groups: Offsets) -> None:
    sizes = np.diff(groups)
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
    barred = np.flatnonzero(np.maximum.reduceat(rewards, groups[:-1]) == -np.inf)
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


def _grid(rewards: NDArray[np.float64], groups: Offsets) -> NDArray[np.float64]:
    """Betas of the order of the rewards' spread within prompts."""
    finite = np.isfinite(rewards)
    sizes = np.diff(groups)
    beside = (rewards - np.repeat(np.maximum.reduceat(rewards, groups[:-1]), sizes))[finite]
    furthest = float(beside.min())
    if furthest == 0:
        raise ValueError(
            "finite rewards are all equal within each prompt: the frontier is a point, and no beta changes anything. "
            "Check the rewards"
        )
    if -furthest < TINY:
        raise ValueError(f"rewards are at most {-furthest:.3g} apart: scale them up")
    group_of = np.repeat(np.arange(len(sizes)), sizes)[finite]
    means = np.bincount(group_of, beside) / np.bincount(group_of)
    return float(np.sqrt(np.mean((beside - means[group_of]) ** 2))) * np.geomspace(HIGHEST, LOWEST, BETAS)


def _blocks(beta: NDArray[np.float64], prompts: int) -> list[NDArray[np.float64]]:
    """Cut betas so that what is known of each prompt stays small."""
    return np.array_split(beta, min(-(-len(beta) * prompts // CELLS), len(beta)))


def _joined(curves: list[Curve]) -> Curve:
    return Curve(*(np.concatenate(columns) for columns in zip(*curves, strict=True)))


def _part(rewards: NDArray[np.float64], beta: NDArray[np.float64], groups: Offsets, threads: int | None) -> _Part:
    of_prompts = _of_prompts(rewards, beta, groups, threads)
    curves, assumes = _average(of_prompts, np.diff(groups))
    left = _left_bias(rewards, beta, groups, of_prompts, threads)
    is_unbiased = _are_small(left, curves)
    log_z, reward, kl, prior_kl, total_variation = map(_widen, curves, left)
    curves = [log_z, reward, _cut(kl), _cut(prior_kl), _cut(_without_void(total_variation, is_unbiased[-1]), most=1.0)]
    ess, pareto_k, is_light = _diagnose(rewards, beta, groups, of_prompts.ess, threads)
    return _Part(curves, assumes, ess, pareto_k, is_light, np.logical_and.reduce(is_unbiased[:3]))


def _left_bias(
    rewards: NDArray[np.float64],
    beta: NDArray[np.float64],
    groups: Offsets,
    whole: _PerPrompt,
    threads: int | None,
) -> list[LeftBias]:
    """Find what is left of the bias of each of the five quantities, by halves of the prompts' samples."""
    halves = [_of_prompts(rewards[cut.order], beta, cut.groups, threads) for cut in cut_in_halves(rewards, groups)]
    worth, sizes = worth_of(whole.ess, [half.ess for half in halves]), np.diff(groups)
    left = [left_bias(whole.values[i], [half.values[i] for half in halves], sizes, worth) for i in range(5)]
    # Of the total variation's bias no order is taken off, so that three times as much of it is left.
    return [*left[:4], left[4].scaled(3.0)]


def _are_small(left: list[LeftBias], curves: list[Curve]) -> NDArray[np.bool_]:
    """Whether that is small beside the errors [5, B]."""
    return np.stack([is_small(one, curve.value, curve.stderr) for one, curve in zip(left, curves, strict=True)])


def _widen(curve: Curve, left: LeftBias) -> Curve:
    low, high = widened(curve.low, curve.high, left)
    return curve._replace(low=low, high=high)


def _without_void(curve: Curve, is_unbiased: NDArray[np.bool_]) -> Curve:
    """Leave out errors and intervals of what is biased."""
    return Curve(curve.value, *(np.where(is_unbiased, column, np.nan) for column in curve[1:]))


def _of_prompts(
    rewards: NDArray[np.float64], beta: NDArray[np.float64], groups: Offsets, threads: int | None
) -> _PerPrompt:
    shape, n = (len(groups) - 1, len(beta), -1), np.diff(groups)[:, None].astype(np.float64)
    highest, flat = _core.tilt_sums(rewards, beta, groups, threads)
    beyond = _core.tilt_excess(rewards, beta, groups, highest, flat, threads).reshape(shape)
    e, ed, ee, eed, eded = np.moveaxis(flat.reshape(shape), -1, 0)
    above, above_squared, weight_above = np.moveaxis(beyond, -1, 0) / [e, e * e / n, e]
    # Differences from the highest reward are what all is made of; u = w / Z, and v_d = d - E_target[d].
    mean_d, log_mean = ed / e, np.log(e / n)
    uu, uuv = n * ee / e**2, n * (eed - mean_d * ee) / e**2
    uuvv = np.maximum(n * (eded - 2 * mean_d * eed + mean_d**2 * ee) / e**2, 0.0)
    spread = np.maximum(uu - 1.0, 0.0)  # the variance of u
    log_z = highest[:, None] / beta + log_mean + spread / (2 * n)
    kl = mean_d / beta - log_mean + uuv / n / beta - spread / (2 * n)
    prior_d, prior_spread = _moments(rewards, highest, groups)
    # inf - inf: where a reward is -inf, KL(prior‖target) has no error. A variance beyond any number is infinite.
    with np.errstate(invalid="ignore", over="ignore"):
        prior_kl = log_mean + spread / (2 * n) - prior_d / beta
        prior_kl_variance = spread + prior_spread / beta / beta - 2 * (mean_d - prior_d) / beta
    values = np.stack([log_z, highest[:, None] + mean_d + uuv / n, kl, prior_kl, above])
    variances = [
        spread,
        uuvv,
        uuvv / beta / beta - 2 * uuv / beta + spread,
        prior_kl_variance,
        above_squared - above**2 - 2 * weight_above * above_squared + weight_above**2 * spread,
    ]
    return _PerPrompt(values, np.maximum(np.stack(variances), 0.0), e**2 / ee)


def _moments(
    rewards: NDArray[np.float64], highest: NDArray[np.float64], groups: Offsets
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of each prompt's differences from its highest reward, under the prior [P, 1]."""
    sizes = np.diff(groups)
    d = rewards - np.repeat(highest, sizes)
    mean = np.add.reduceat(d, groups[:-1]) / sizes
    with np.errstate(invalid="ignore"):  # -inf - -inf
        variance = np.add.reduceat((d - np.repeat(mean, sizes)) ** 2, groups[:-1]) / sizes
    return mean[:, None], variance[:, None]


def _average(of_prompts: _PerPrompt, sizes: NDArray[np.int64]) -> tuple[list[Curve], str]:
    """Means over samples of what each prompt gives, and what their intervals assume."""
    stderrs = np.sqrt(of_prompts.variances / (sizes - 1)[:, None])
    averaged = list(map(average_curve, of_prompts.values, stderrs, [sizes] * len(stderrs)))
    return [curve for curve, _ in averaged], averaged[0][1]


def average_curve(
    values: NDArray[np.float64], stderrs: NDArray[np.float64], sizes: NDArray[np.int64]
) -> tuple[Curve, str]:
    """Return the mean over prompts of B estimates, by their numbers of samples, and what its intervals assume.

    With several prompts their spread is the error; of one, that of its own estimates, over its samples.

    Parameters
    ----------
    values, stderrs
        Each prompt's estimates and their standard errors [P, B].
    sizes
        Each prompt's number of samples [P].

    Examples
    --------
    >>> import numpy as np
    >>> curve, assumes = average_curve(np.array([[1.0], [2.0]]), np.full((2, 1), 0.1), np.array([10, 30]))
    >>> curve.value
    array([1.75])
    """
    if len(sizes) == 1:
        low, high, assumes = student_interval(values[0], stderrs[0], int(sizes[0]))
        return Curve(values[0], stderrs[0], low, high), assumes
    prompts, weights = np.arange(len(sizes) + 1), sizes.astype(np.float64)
    found = [with_interval(column, prompts, weights) for column in np.ascontiguousarray(values.T) * weights]
    value, stderr = np.array([estimate for estimate, _ in found]).T
    low, high = np.array([interval[:2] for _, interval in found]).T
    return Curve(value, stderr, low, high), found[len(found) // 2][1].assumes


def _cut(curve: Curve, most: float = np.inf) -> Curve:
    return curve._replace(low=np.maximum(curve.low, 0.0), high=np.minimum(curve.high, most))


def _diagnose(
    rewards: NDArray[np.float64],
    beta: NDArray[np.float64],
    groups: Offsets,
    ess: NDArray[np.float64],
    threads: int | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return the effective sample size, Pareto k, and whether that allows to trust what rests on it [B]."""
    sizes = np.diff(groups)
    k = _core.tilt_shapes(rewards, beta, groups, "arviz-stats", threads).reshape(len(sizes), -1)
    alive = np.add.reduceat(rewards > -np.inf, groups[:-1], dtype=np.int64)
    heavy = count_heavy(tails_that_decide(k, ess, alive[:, None]), sizes)
    return ess.sum(axis=0), _middle(k), heavy == 0


def _needed(prompts: int) -> int:
    """How many effective samples it takes."""
    return max(A_PROMPT * prompts, IN_ALL)


def _middle(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median of each column's numbers [B], NaN where there are none."""
    known = ~np.isnan(values)
    ranked = np.sort(values, axis=0)  # NaN last
    middle: NDArray[np.float64] = ranked[np.maximum(known.sum(axis=0), 1) // 2, np.arange(values.shape[1])]
    return middle


def _warnings(
    beta: NDArray[np.float64],
    trusted: NDArray[np.bool_],
    ess: NDArray[np.float64],
    is_light: NDArray[np.bool_],
    rewards: NDArray[np.float64],
    groups: Offsets,
) -> tuple[str, ...]:
    lowest, highest = (extreme.reduceat(rewards, groups[:-1]) for extreme in (np.minimum, np.maximum))
    if (lowest == highest).all():
        return ("All rewards of a prompt are equal: the frontier is a point, and no beta changes anything.",)
    excluded = int(np.isneginf(rewards).sum())
    told = (
        f"{excluded} of {len(rewards)} rewards {'is' if excluded == 1 else 'are'} -inf, and so is the mean reward of "
        "the prior and of the best of any n; targets exclude these samples, whatever beta.",
    )
    return (*(told if excluded else ()), *_of_trust(beta, trusted, ess, is_light, len(rewards), len(groups) - 1))


def _of_trust(
    beta: NDArray[np.float64],
    trusted: NDArray[np.bool_],
    ess: NDArray[np.float64],
    is_light: NDArray[np.bool_],
    n: int,
    prompts: int,
) -> tuple[str, ...]:
    """Say from where on the samples are too few, and by what."""
    if trusted.all():
        return ()
    needed = _needed(prompts)
    if n < needed:
        each = f"{n / prompts:.3g} a prompt, " if prompts > 1 else ""
        return (
            f"With {n} samples, {each}no target can be trusted, whatever beta: draw {-(-needed // prompts)} a prompt "
            "or more.",
        )
    first = int(np.flatnonzero(~trusted)[0])
    where = f"Below beta = {beta[first - 1]:.3g}" if first else "At any of these betas"
    if ess[first] < needed:
        reason = f"the samples are worth {ess[first]:.3g} or fewer of the target's, and {needed} are needed"
    elif not is_light[first]:
        reason = "a few samples have much of the weight (Pareto k)"
    else:
        each = "of each prompt's samples" if prompts > 1 else "of the samples"
        reason = f"halves {each} say otherwise than all, so that a bias is left that is not small beside the error"
    act = "Draw more samples a prompt to see further" if first else "Raise beta, or draw more samples"
    return (f"{where} what the samples say is not to be trusted: {reason}. {act}.",)
