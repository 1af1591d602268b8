"""What a target would give, seen before any training: the frontier, best-of-n beside it, and their diversity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esscher import _core, faults
from esscher.divergence.checked_columns import check_drawn
from esscher.diversity import estimate_size_free
from esscher.frontier.averages import Curve, average_curve
from esscher.frontier.curve import Frontier, frontier
from esscher.frontier.gold import GoldCurve, as_gold, gold_curve
from esscher.inference.best_of_n import best_of_n_weights
from esscher.inference.best_of_n_kl import best_of_n_kl, best_of_n_kl_bound
from esscher.inference.best_of_n_rewards import best_of_n_interval, best_of_n_rewards
from esscher.inference.importance import exponential_weights
from esscher.samples import check_samples
from esscher.warning import ReportWarning, merge_warnings

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.diversity import DiversityEstimate
    from esscher.samples import Samples

# Points of the frontier at which diversity is computed, besides the prior.
DIVERSITIES = 8


@dataclass(frozen=True, eq=False)
class BestOfNCurve:
    """What the best of n samples of the prior gives, as means over prompts, for K values of n.

    Attributes
    ----------
    n
        Of how many samples the best is taken [K]; at most half of the smallest prompt's.
    reward
        Expected reward of the best; -inf for every n where a reward is -inf, as all n samples may have that. Of a
        single prompt without an error where few of its samples decide (see `best_of_n_rewards`).
    kl
        KL(best-of-n‖prior) in nats, by Beirami's estimate: at least the KL, and nearer to it than the bound.
    kl_is_bound
        Whether `kl` is the bound ``log n - (n - 1) / n``, as the samples have no `prior_logprobs`.
    """

    n: NDArray[np.int64]
    reward: Curve
    kl: Curve
    kl_is_bound: bool


@dataclass(frozen=True)
class TargetDiversity:
    """The diversity of the target at one beta: infinite for the prior itself."""

    beta: float
    kl: float
    metrics: tuple[DiversityEstimate, ...]


@dataclass(frozen=True, eq=False)
class Prototype:
    """What samples of the prior say of the targets that a reward makes of it.

    Attributes
    ----------
    version
        The version of Esscher that made it.
    prompts, completions
        How many samples there were.
    frontier
        The optimal reward-KL frontier.
    best_of_n
        Best-of-n on the same axes.
    diversity
        Diversity metrics under the target, from the prior along the part of the frontier that is trusted.
    gold
        A gold reward under the same targets; `None` if none was given.
    warnings
        What the reader should know before trusting it, and what to do.
    """

    version: str
    prompts: int
    completions: int
    frontier: Frontier
    best_of_n: BestOfNCurve
    diversity: tuple[TargetDiversity, ...]
    gold: GoldCurve | None
    warnings: tuple[ReportWarning, ...]


def prototype(
    samples: Samples, betas: ArrayLike | None = None, *, gold: ArrayLike | None = None, threads: int | None = None
) -> Prototype:
    """Say what every target ``prior exp(r / beta) / Z`` would give, from samples of the prior and their rewards.

    Parameters
    ----------
    samples
        Completions of the prior with `rewards`; `prior_logprobs` make the KL of best-of-n tight.
    betas
        Strengths of the KL penalty, reward per nat; a grid by the rewards' spread if not given.
    gold
        Another reward of each completion [N], finite, that `rewards` are the proxy of: what it becomes under the same
        targets shows overoptimisation before any training (see `gold_curve`).
    threads
        How many threads to use; all cores if not given. The result does not depend on it.

    Raises
    ------
    ValueError
        If the samples have no rewards, one is impossible by their `prior_logprobs`, a gold reward is not finite, there
        is not one for each completion, and as `frontier`.

    References
    ----------
    Gao, Schulman, Hilton, "Scaling Laws for Reward Model Overoptimization", 2022, arXiv:2210.10760.
    Beirami et al., "Theoretical guarantees on the best-of-n alignment policy", 2024, arXiv:2401.01879.

    Examples
    --------
    >>> import numpy as np
    >>> from esscher import Ragged, Samples
    >>> rng = np.random.default_rng(0)
    >>> samples = Samples(
    ...     prompts=Ragged.from_rows([[1]]),
    ...     completions=Ragged.from_rows(rng.integers(9, size=(200, 4)).tolist()),
    ...     groups=[0, 200],
    ...     rewards=rng.normal(size=200),
    ... )
    >>> found = prototype(samples)
    >>> found.best_of_n.n
    array([ 1,  2,  4,  8, 16, 32, 64])
    """
    check_samples("samples", samples)
    rewards = samples.need("rewards", why="the frontier is that of a reward")
    column = None if gold is None else as_gold(gold, len(samples))
    curve = frontier(rewards, betas, samples.groups, threads=threads)
    of_gold = None if column is None else gold_curve(curve, rewards, column, samples.groups)
    best = _best_of_n(samples, rewards)
    doubts = (*curve.warnings, *(of_gold.warnings if of_gold else ()), *_of_best(best, len(samples)))
    return Prototype(
        version=_core.__version__,
        prompts=len(samples.prompts),
        completions=len(samples),
        frontier=curve,
        best_of_n=best,
        diversity=_diversity(samples, rewards, curve),
        gold=of_gold,
        warnings=merge_warnings((*faults.warn_of_samples(samples), *doubts)),
    )


def _best_of_n(samples: Samples, rewards: NDArray[np.float64]) -> BestOfNCurve:
    sizes = samples.groups.sizes
    # Of more than half of the samples there is no second opinion.
    n = 2 ** np.arange(int(np.log2(max(int(sizes.min()) // 2, 1))) + 1)
    best = best_of_n_rewards(rewards, samples.groups, n)
    # Of these samples only subsets of few can be all of -inf, of the prior's every one.
    if np.isneginf(rewards).any():
        best.reward[:] = -np.inf
    reward, _ = average_curve(best.reward, best.stderr, sizes)
    if len(sizes) == 1 and np.isfinite(reward.value).all():
        low, high = np.array([best_of_n_interval(rewards, one)[:2] for one in n.tolist()]).T
        reward = reward._replace(low=low, high=high)
    if samples.prior_logprobs is None:
        bound, none = best_of_n_kl_bound(n), np.zeros(len(n))
        return BestOfNCurve(n, reward, Curve(bound, none, bound, bound), kl_is_bound=True)
    log_prior = check_drawn("prior_logprobs", samples.prior_log_prob)
    kl = np.stack([_kl(log_prior, rewards, int(one), samples) for one in n], axis=1)
    return BestOfNCurve(n, reward, average_curve(kl, np.full(kl.shape, np.nan), sizes)[0], kl_is_bound=False)


def _of_best(best: BestOfNCurve, n: int) -> tuple[ReportWarning, ...]:
    """Say of which n the reward has no error."""
    unknown = best.n[(best.n > 1) & np.isfinite(best.reward.value) & np.isnan(best.reward.stderr)].tolist()
    if not unknown:
        return ()
    numbers = ", ".join(map(str, unknown))
    return (
        ReportWarning(
            "best-of-n-without-error",
            f"The reward of the best of {numbers} has no error: of the {n:,} samples of the one prompt a few decide "
            "it.",
            "Draw more samples, or samples of more prompts.",
        ),
    )


def _kl(log_prior: NDArray[np.float64], rewards: NDArray[np.float64], n: int, samples: Samples) -> NDArray[np.float64]:
    """KL(best-of-n‖prior) of each prompt [P]: the mean over winners of Beirami's terms."""
    winning = best_of_n_weights(rewards, n, samples.groups)
    return samples.groups.sums(winning * best_of_n_kl(log_prior, n))


def _diversity(samples: Samples, rewards: NDArray[np.float64], curve: Frontier) -> tuple[TargetDiversity, ...]:
    found = [TargetDiversity(np.inf, 0.0, estimate_size_free(samples.actions, samples.groups))]
    trusted = np.flatnonzero(curve.trusted)
    for i in (
        trusted[np.unique(np.linspace(0, len(trusted) - 1, DIVERSITIES).round().astype(int))] if len(trusted) else ()
    ):
        weights = exponential_weights(rewards, float(curve.beta[i]), samples.groups).weights
        metrics = estimate_size_free(samples.actions, samples.groups, weights)
        found.append(TargetDiversity(float(curve.beta[i]), float(curve.kl.value[i]), metrics))
    return tuple(found)
