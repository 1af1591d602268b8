"""How far the prior's samples carry the frontier, and what to say where they no longer do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher import _core
from esscher.frontier.tilting import PerPrompt, tilt
from esscher.warning import ReportWarning
from esscher.weights import LeftBias, count_heavy, cut_in_halves, is_small, left_bias, tails_that_decide, worth_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.frontier.averages import Curve
    from esscher.groups import Groups

# What the frontier must rest on to be trusted: so many effective samples a prompt, as the correction leaves a bias of
# higher order; so many in all, as intervals know little of skewness; and tails of the weights that are light.
A_PROMPT, IN_ALL = 8, 50


def left_biases(
    rewards: NDArray[np.float64],
    beta: NDArray[np.float64],
    groups: Groups,
    whole: PerPrompt,
    threads: int | None,
) -> list[LeftBias]:
    """Find what is left of the bias of each of the five quantities, by halves of the prompts' samples."""
    halves = [tilt(rewards[cut.order], beta, cut.groups, threads) for cut in cut_in_halves(rewards, groups)]
    worth, sizes = worth_of(whole.ess, [half.ess for half in halves]), groups.sizes
    left = [left_bias(whole.values[i], [half.values[i] for half in halves], sizes, worth) for i in range(5)]
    # Of the total variation's bias no order is taken off, so that three times as much of it is left.
    return [*left[:4], left[4].scaled(3.0)]


def are_small(left: list[LeftBias], curves: list[Curve]) -> NDArray[np.bool_]:
    """Whether that is small beside the errors [5, B]."""
    return np.stack([is_small(one, curve.value, curve.stderr) for one, curve in zip(left, curves, strict=True)])


def diagnose(
    rewards: NDArray[np.float64],
    beta: NDArray[np.float64],
    groups: Groups,
    ess: NDArray[np.float64],
    threads: int | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return the effective sample size, Pareto k, and whether that allows to trust what rests on it [B]."""
    k = _core.tilt_shapes(rewards, beta, groups.offsets, "arviz-stats", threads).reshape(len(groups.sizes), -1)
    alive = groups.sums(rewards > -np.inf)
    heavy = count_heavy(tails_that_decide(k, ess, alive[:, None]), groups.sizes)
    return ess.sum(axis=0), _middle(k), heavy == 0


def needed(prompts: int) -> int:
    """How many effective samples it takes."""
    return max(A_PROMPT * prompts, IN_ALL)


def _middle(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median of each column's numbers [B], NaN where there are none."""
    known = ~np.isnan(values)
    ranked = np.sort(values, axis=0)  # NaN last
    middle: NDArray[np.float64] = ranked[np.maximum(known.sum(axis=0), 1) // 2, np.arange(values.shape[1])]
    return middle


def doubts(
    beta: NDArray[np.float64],
    trusted: NDArray[np.bool_],
    ess: NDArray[np.float64],
    is_light: NDArray[np.bool_],
    rewards: NDArray[np.float64],
    groups: Groups,
) -> tuple[ReportWarning, ...]:
    """Say what the reader of a frontier should know before trusting it."""
    if (groups.smallest(rewards) == groups.largest(rewards)).all():
        seen = "All rewards of a prompt are equal: the frontier is a point, and no beta changes anything."
        return (ReportWarning("flat-frontier", seen),)
    excluded = int(np.isneginf(rewards).sum())
    told = (
        ReportWarning(
            "infinite-rewards",
            f"{excluded} of {len(rewards)} rewards {'is' if excluded == 1 else 'are'} -inf, and so is the mean reward "
            "of the prior and of the best of any n; targets exclude these samples, whatever beta.",
        ),
    )
    return (*(told if excluded else ()), *_of_trust(beta, trusted, ess, is_light, len(rewards), len(groups.sizes)))


def _of_trust(
    beta: NDArray[np.float64],
    trusted: NDArray[np.bool_],
    ess: NDArray[np.float64],
    is_light: NDArray[np.bool_],
    n: int,
    prompts: int,
) -> tuple[ReportWarning, ...]:
    """Say from where on the samples are too few, and by what."""
    if trusted.all():
        return ()
    least = needed(prompts)
    if n < least:
        each = f"{n / prompts:.3g} a prompt, " if prompts > 1 else ""
        return (
            ReportWarning(
                "beyond-the-samples",
                f"With {n} samples, {each}no target can be trusted, whatever beta.",
                f"Draw {-(-least // prompts)} a prompt or more.",
            ),
        )
    first = int(np.flatnonzero(~trusted)[0])
    where = f"Below beta = {beta[first - 1]:.3g}" if first else "At any of these betas"
    if ess[first] < least:
        reason = f"the samples are worth {ess[first]:.3g} or fewer of the target's, and {least} are needed"
    elif not is_light[first]:
        reason = "a few samples have much of the weight (Pareto k)"
    else:
        each = "of each prompt's samples" if prompts > 1 else "of the samples"
        reason = f"halves {each} say otherwise than all, so that a bias is left that is not small beside the error"
    act = "Draw more samples a prompt to see further" if first else "Raise beta, or draw more samples"
    return (
        ReportWarning("beyond-the-samples", f"{where} what the samples say is not to be trusted: {reason}.", f"{act}."),
    )
