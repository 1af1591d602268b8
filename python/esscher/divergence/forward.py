"""KL(target‖policy), of what a policy is trained towards, by importance weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher.divergence.checked_columns import check_ratios, logprobs_of
from esscher.divergence.kl_estimate import KlEstimate, signature
from esscher.divergence.kl_warnings import warn_of_clusters
from esscher.estimate import above_zero, with_interval
from esscher.groups import Groups
from esscher.warning import ReportWarning
from esscher.weights import (
    NEARLY_EQUAL,
    TRUSTED_BY_NONE,
    Weights,
    bias_of_log_mean,
    bias_of_weighted_mean,
    count_heavy,
    left_bias_of,
    shown,
    shown_interval,
    weigh,
    weighted_means,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

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
    check_ratios(*logprobs_of(samples))
    log_policy = samples.policy_log_prob
    log_target = samples.prior_log_prob + _log_potential(log_potential, len(samples))
    weights = weigh(log_target - _log_proposal(log_policy, log_proposal), samples.groups)
    with np.errstate(invalid="ignore"):  # of what neither can produce, which has no weight
        values = log_target - log_policy
    return estimate_weighted(samples, weights, values, corrected=corrected, **parts)


def estimate_weighted(
    samples: Samples, weights: Weights, values: NDArray[np.float64], *, corrected: bool = True, **parts: str
) -> KlEstimate:
    """As `estimate_forward`, from weights that are there and the values ``log P - log policy`` [N]."""
    groups, relative = samples.groups, weights.relative
    products = _products(relative, values)
    alive = np.isfinite(weights.log_z)
    uncorrected = products - groups.spread(np.where(alive, weights.log_z, np.nan))
    per_sequence = uncorrected
    if corrected:
        bias = bias_of_weighted_mean(values, relative, groups) - bias_of_log_mean(relative, groups)
        per_sequence = uncorrected - groups.spread(bias)
    kept, kept_groups = groups.spread(alive), Groups.from_sizes(groups.sizes[alive])
    influences = _influences(per_sequence[kept], relative[kept], products[kept], kept_groups)
    estimate, interval = with_interval(influences, kept_groups)
    if corrected:
        left = left_bias_of(weights, values, _of_prompts)
        estimate, interval = shown(estimate, left), shown_interval(estimate, interval, left)
    return KlEstimate(
        value=estimate.value,
        stderr=estimate.stderr,
        per_sequence=per_sequence,
        signature=signature(samples, "forward", level="sequence", dir="target-policy", **parts),
        interval=above_zero(interval),
        raw=float(uncorrected[kept].mean()) if kept.any() else np.nan,
        ess=float(weights.ess.sum()),
        pareto_k=weights.largest_pareto_k,
        warnings=(
            *_left_out(alive),
            *_heavy(weights.deciding_pareto_k, groups.sizes),
            *_few(weights.ess, groups.sizes),
            *warn_of_clusters(kept_groups.sizes),
        ),
    )


def _of_prompts(weights: Weights, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the KL of each prompt [P]; NaN where nothing has weight."""
    with np.errstate(invalid="ignore"):
        return weighted_means(values, weights.relative, weights.groups) - weights.corrected_log_z


def _products(relative: NDArray[np.float64], log_ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply; where the target excludes a completion, 0 times -inf is 0."""
    products = np.zeros(len(relative))
    return np.multiply(relative, log_ratios, out=products, where=relative > 0)


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


def _influences(
    per_sequence: NDArray[np.float64], relative: NDArray[np.float64], products: NDArray[np.float64], groups: Groups
) -> NDArray[np.float64]:
    """Values with the means of `per_sequence` in each prompt that also vary with Z, which the completions share."""
    if not np.isfinite(per_sequence).all():
        return per_sequence
    return per_sequence + (1.0 - relative) * (1.0 + groups.spread(groups.means(products)))


def _left_out(alive: NDArray[np.bool_]) -> tuple[ReportWarning, ...]:
    dead = int((~alive).sum())
    if not dead:
        return ()
    return (
        ReportWarning(
            "prompts-without-weight",
            f"{dead} of {len(alive)} prompts {'has' if dead == 1 else 'have'} no completion that the target allows and "
            f"{'is' if dead == 1 else 'are'} left out.",
            "Draw more completions of them.",
        ),
    )


def _few(ess: NDArray[np.float64], sizes: NDArray[np.int64]) -> tuple[ReportWarning, ...]:
    """Warn of a bias that cannot be judged, that of the logarithm of a mean of a few, unless these are alike."""
    few = (ess > 0) & ((sizes == 1) | (sizes < FEW) & (ess < NEARLY_EQUAL * sizes))
    if not few.any():
        return ()
    return (
        ReportWarning(
            "few-completions",
            f"In {int(few.sum())} of {len(sizes)} prompts there are too few completions to fit the tail of their "
            "weights: log Z is on average too low there, and this KL off by what neither the error nor the interval "
            "shows and more prompts do not mend.",
            f"Draw {FEW} completions a prompt or more.",
        ),
    )


def _heavy(pareto_k: NDArray[np.float64], sizes: NDArray[np.int64]) -> tuple[ReportWarning, ...]:
    heavy, beyond = int(count_heavy(pareto_k, sizes)), int((pareto_k > TRUSTED_BY_NONE).sum())
    if beyond and not heavy:
        return (
            ReportWarning(
                "heavy-tail",
                f"In {beyond} of {len(sizes)} prompts Pareto k of target/proposal is above {TRUSTED_BY_NONE} (up to "
                f"{np.nanmax(pareto_k):.2f}). Of so many prompts it may be chance.",
                "Draw more completions a prompt to tell.",
            ),
        )
    if not heavy:
        return ()
    return (
        ReportWarning(
            "heavy-tail",
            f"In {heavy} of {len(sizes)} prompts Pareto k of target/proposal is above what can be trusted (the largest "
            f"is {np.nanmax(pareto_k):.2f}): a few completions decide the KL.",
            "Raise beta, or draw more completions a prompt.",
        ),
    )
