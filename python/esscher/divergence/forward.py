"""KL(target‖policy), of what a policy is trained towards, by importance weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher import _core
from esscher.divergence.columns import check_ratios, logprobs_of
from esscher.divergence.estimators import aggregate_logprobs
from esscher.divergence.record import KlEstimate, signature
from esscher.divergence.warnings import of_clusters
from esscher.estimate import (
    NEARLY_EQUAL,
    TRUSTED_BY_NONE,
    above_zero,
    bias_of_log_mean,
    bias_of_weighted_mean,
    count_heavy,
    tails_that_decide,
    with_interval,
)
from esscher.weights import (
    LeftBias,
    cut_in_halves,
    left_bias,
    log_means,
    shown,
    shown_interval,
    weighted_means,
    worth_of,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.ragged import Offsets
    from esscher.samples import Samples

# Of fewer completions no tail of weights is fitted.
FEW = 25


def estimate_forward(
    samples: Samples,
    log_potential: ArrayLike,
    log_proposal: ArrayLike | None = None,
    *,
    corrected: bool = True,
    **parts: str,
) -> KlEstimate:
    """Estimate KL(target‖policy) by importance weights, prompt by prompt, with what `log_z` adds to its error.

    ``-log Z + mean(w (log P - log policy)) / Z`` with ``P = prior exp(log_potential)``, ``w = P / proposal`` and
    ``Z = mean(w)``, averaged over completions, less its bias of order 1/n. Prompts in which nothing has weight are left
    out.

    Parameters
    ----------
    samples
        Completions with the log-probs of policy and prior.
    log_potential
        log P - log prior of each completion, in nats [N]; -inf for one that the target excludes.
    log_proposal
        Log-prob of each completion under what it was drawn from, in nats [N]; the policy's if not given.
    corrected
        Whether to take the bias off; `raw` always has it.
    parts
        What the signature says of it besides.

    Raises
    ------
    ValueError
        If `samples` lack the log-probs of policy or prior, a token is impossible under both, a completion under what
        it was drawn from, or `log_potential` is NaN or +inf.

    Examples
    --------
    >>> from esscher import Ragged, Samples
    >>> samples = Samples(
    ...     prompts=Ragged.from_rows([[1]]),
    ...     completions=Ragged.from_rows([[2], [3]]),
    ...     groups=[0, 2],
    ...     policy_logprobs=Ragged.from_rows([[-0.5], [-1.0]]),
    ...     prior_logprobs=Ragged.from_rows([[-0.7], [-0.7]]),
    ... )
    >>> round(estimate_forward(samples, log_potential=[0.0, 0.0]).value, 4)
    0.0786
    """
    policy, prior = logprobs_of(samples)
    check_ratios(policy, prior)
    log_policy = aggregate_logprobs(policy).log_prob
    log_target = aggregate_logprobs(prior).log_prob + _log_potential(log_potential, len(samples))
    log_ratios = log_target - _log_proposal(log_policy, log_proposal)
    log_weights, log_z, ess = _core.normalise(log_ratios, samples.groups)
    relative = np.exp(log_weights) * np.diff(samples.groups)[samples.group_of]
    with np.errstate(invalid="ignore"):  # of what neither can produce, which has no weight
        values = log_target - log_policy
        products = _products(relative, values)
    alive = np.isfinite(log_z)
    uncorrected = products - np.where(alive, log_z, np.nan)[samples.group_of]
    per_sequence = uncorrected
    if corrected:
        bias = bias_of_weighted_mean(relative, values, samples.groups) - bias_of_log_mean(relative, samples.groups)
        per_sequence = uncorrected - bias[samples.group_of]
    kept, groups = alive[samples.group_of], _offsets(np.diff(samples.groups)[alive])
    influences = _influences(per_sequence[kept], relative[kept], products[kept], groups)
    estimate, interval = with_interval(influences, groups)
    if corrected:
        left = _left_bias(log_ratios, values, samples.groups)
        estimate, interval = shown(estimate, left), shown_interval(estimate, interval, left)
    interval = above_zero(interval)
    weighted = np.add.reduceat(relative > 0, samples.groups[:-1], dtype=np.int64)
    pareto_k = _core.pareto_smooth(log_ratios, samples.groups, "arviz-stats")[1]
    return KlEstimate(
        value=estimate.value,
        stderr=estimate.stderr,
        per_sequence=per_sequence,
        signature=signature(samples, "forward", level="sequence", dir="target-policy", **parts),
        interval=interval,
        raw=float(uncorrected[kept].mean()) if kept.any() else np.nan,
        ess=float(ess.sum()),
        pareto_k=_largest(pareto_k),
        warnings=(
            *_left_out(alive),
            *_heavy(tails_that_decide(pareto_k, ess, weighted), np.diff(samples.groups)),
            *_few(ess, np.diff(samples.groups)),
            *of_clusters(np.diff(groups)),
        ),
    )


def _left_bias(log_ratios: NDArray[np.float64], values: NDArray[np.float64], groups: Offsets) -> LeftBias:
    def of_prompts(order: NDArray[np.int64], borders: Offsets) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the KL of each prompt [P] and its effective sample size [P]; NaN where nothing has weight."""
        log_z, ess, relative = log_means(log_ratios[order], borders)
        with np.errstate(invalid="ignore"):
            return weighted_means(values[order], relative, borders) - log_z, ess

    whole, ess = of_prompts(np.arange(len(log_ratios)), groups)
    halves = [of_prompts(*cut) for cut in cut_in_halves(log_ratios, groups)]
    worth = worth_of(ess, [ess_of_half for _, ess_of_half in halves])
    return left_bias(whole, [kl for kl, _ in halves], np.diff(groups), worth)


def _products(relative: NDArray[np.float64], log_ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply; where the target excludes a completion, 0 times -inf is 0."""
    products = np.zeros(len(relative))
    return np.multiply(relative, log_ratios, out=products, where=relative > 0)


def _largest(pareto_k: NDArray[np.float64]) -> float:
    known = pareto_k[~np.isnan(pareto_k)]
    return float(known.max()) if len(known) else np.nan


def _log_potential(log_potential: ArrayLike, n: int) -> NDArray[np.float64]:
    array = _column("log_potential", log_potential, n)
    wrong = np.flatnonzero(np.isnan(array) | (array == np.inf))
    if len(wrong):
        raise ValueError(f"log_potential[{wrong[0]}] is {array[wrong[0]]}: it is finite, or -inf to exclude")
    return array


def _log_proposal(log_policy: NDArray[np.float64], log_proposal: ArrayLike | None) -> NDArray[np.float64]:
    """Give the log-prob of each completion under what it was drawn from."""
    array = log_policy if log_proposal is None else _column("log_proposal", log_proposal, len(log_policy))
    wrong = np.flatnonzero(~np.isfinite(array))
    if len(wrong):
        name = "the policy's log-prob of completion " if log_proposal is None else "log_proposal["
        where = f"{name}{wrong[0]}{'' if log_proposal is None else ']'}"
        raise ValueError(f"{where} is {array[wrong[0]]}: a completion is possible under what it was drawn from")
    return array


def _column(name: str, values: ArrayLike, n: int) -> NDArray[np.float64]:
    array = np.asarray(values)
    if array.dtype.kind not in "uif":
        raise TypeError(f"{name} has dtype {array.dtype}: it must be numbers")
    if array.shape != (n,):
        raise ValueError(f"{name} has shape {array.shape}, but there are {n} completions: it has one entry for each")
    return array.astype(np.float64)


def _offsets(sizes: NDArray[np.int64]) -> Offsets:
    offsets: Offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    return offsets


def _influences(
    per_sequence: NDArray[np.float64], relative: NDArray[np.float64], products: NDArray[np.float64], groups: Offsets
) -> NDArray[np.float64]:
    """Values with the means of `per_sequence` in each prompt that also vary with Z, which the completions share."""
    if not np.isfinite(per_sequence).all():
        return per_sequence
    sizes = np.diff(groups)
    ratio = np.repeat(np.add.reduceat(products, groups[:-1]) / sizes, sizes) if len(sizes) else products
    return per_sequence + (1.0 - relative) * (1.0 + ratio)


def _left_out(alive: NDArray[np.bool_]) -> tuple[str, ...]:
    dead = int((~alive).sum())
    if not dead:
        return ()
    return (
        f"{dead} of {len(alive)} prompts {'has' if dead == 1 else 'have'} no completion that the target allows and "
        f"{'is' if dead == 1 else 'are'} left out: draw more completions of them.",
    )


def _few(ess: NDArray[np.float64], sizes: NDArray[np.int64]) -> tuple[str, ...]:
    """Warn of a bias that cannot be judged, that of the logarithm of a mean of a few, unless these are alike."""
    few = (ess > 0) & ((sizes == 1) | (sizes < FEW) & (ess < NEARLY_EQUAL * sizes))
    if not few.any():
        return ()
    return (
        f"In {int(few.sum())} of {len(sizes)} prompts there are too few completions to fit the tail of their weights: "
        "log Z is on average too low there, and this KL off by what neither the error nor the interval shows and more "
        f"prompts do not mend. Draw {FEW} completions a prompt or more.",
    )


def _heavy(pareto_k: NDArray[np.float64], sizes: NDArray[np.int64]) -> tuple[str, ...]:
    heavy, beyond = int(count_heavy(pareto_k, sizes)), int((pareto_k > TRUSTED_BY_NONE).sum())
    if beyond and not heavy:
        return (
            f"In {beyond} of {len(sizes)} prompts Pareto k of target/proposal is above {TRUSTED_BY_NONE} (up to "
            f"{_largest(pareto_k):.2f}). Of so many prompts it may be chance: draw more completions a prompt to "
            "tell.",
        )
    if not heavy:
        return ()
    return (
        f"In {heavy} of {len(sizes)} prompts Pareto k of target/proposal is above what can be trusted (the largest is "
        f"{_largest(pareto_k):.2f}): a few completions decide the KL. Raise beta, or draw more completions a prompt.",
    )
