"""The samples of a step in, what they say of it out."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.divergence import kl_estimators
from esscher.divergence.checked_columns import exact_kl_of
from esscher.diversity import SUBSAMPLE, ngram_statistics, unique_share
from esscher.estimate import Estimate, clustered_mean, clustered_ratio
from esscher.evaluate.against_target import measure, why_not_measured
from esscher.groups import Groups
from esscher.ragged import check_rows
from esscher.samples import check_samples
from esscher.trend.path import ORDER, FrontierPlace, KnownFrontier, mean_of_known, place
from esscher.trend.trend_step import StepMismatch, TrendStep

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from esscher.ragged import Ragged
    from esscher.samples import Samples
    from esscher.target import Target

    Floats = NDArray[np.float64]


def summarise_step(
    number: int,
    samples: Samples,
    *,
    target: Target | None = None,
    rewards_by_name: Mapping[str, ArrayLike] | None = None,
    rollout_logprobs: Ragged | None = None,
    known: KnownFrontier | None = None,
) -> TrendStep:
    """Say in a few numbers what the completions of one step of training tell of its policy.

    Each number is what `evaluate` says of the same samples, without the metrics that take long; what the samples lack a
    column for is `None`.

    Parameters
    ----------
    number
        Which step.
    samples
        The completions of this step alone, with the columns that are known.
    target
        The distribution that the policy should become, such as ``Tilt(beta)``: with it come ESS, log Z, the inference
        gap, and the excess collapse.
    rewards_by_name
        The rewards [N] that the reward is made of, in the order of the completions; NaN where there is none.
    rollout_logprobs
        Log-probs by the engine that sampled, in nats, with the rows of the completions; `policy_logprobs` are taken for
        those of the engine that trains. Tokens for which either is not finite are left out.
    known
        The frontier by samples of the prior, as `known_frontier` makes it.

    Raises
    ------
    ValueError
        If rows differ, a token is impossible under both policy and prior, with a target a completion under the policy
        that drew it, or `known` is of another target than `target`.
    TypeError
        If `samples` are none, or `rollout_logprobs` are not `Ragged`.

    Examples
    --------
    >>> from esscher import Ragged, Samples
    >>> samples = Samples(
    ...     prompts=Ragged.from_rows([[1], [2]]),
    ...     completions=Ragged.from_rows([[5, 6], [5, 7], [8, 9], [8, 9]]),
    ...     groups=[0, 2, 4],
    ...     policy_logprobs=Ragged.from_rows([[-1.0, -0.5]] * 4),
    ...     prior_logprobs=Ragged.from_rows([[-1.5, -0.5], [-1.0, -1.0]] * 2),
    ...     rewards=[0.0, 1.0, 0.5, 0.5],
    ... )
    >>> step = summarise_step(0, samples)
    >>> step.reward.value, step.kl["k1"].value, step.entropy.value
    (0.5, 0.5, 0.75)
    >>> step.distinct_2.value, step.unique_share.value, step.alike.value
    (0.75, 0.75, 0.5)
    """
    check_samples("samples", samples)
    kl, per_sequence = _kl(samples)
    lengths, is_cut = samples.completions.lengths.astype(np.float64), _is_cut(samples)
    pairs = ngram_statistics(samples.completions, [ORDER], samples.groups, None, SUBSAMPLE).rarefied[0]
    against = _against(samples, target)
    return TrendStep(
        step=int(number),
        prompts=len(samples.prompts),
        completions=len(samples),
        tokens=len(samples.completions.values),
        reward=None if samples.rewards is None else clustered_mean(samples.rewards, samples.groups),
        rewards_by_name={name: _named(name, rewards, samples) for name, rewards in (rewards_by_name or {}).items()},
        kl=kl,
        entropy=None if samples.policy_logprobs is None else _of_tokens(-samples.policy_log_prob, samples),
        exact_entropy=_exact_entropy(samples),
        distinct_2=mean_of_known(pairs),
        unique_share=mean_of_known(unique_share(samples.completions, samples.groups)),
        length=clustered_mean(lengths, samples.groups),
        longest=int(lengths.max()),
        cut_off=clustered_mean(is_cut.astype(np.float64), samples.groups),
        terminated=None if samples.terminated is None else float(samples.terminated.mean()),
        alike=_alike(samples),
        ess=against.ess,
        log_z=against.log_z,
        inference_gap=against.inference_gap,
        excess_collapse=against.excess_collapse,
        mismatch=None if rollout_logprobs is None else _mismatch(samples, rollout_logprobs),
        frontier=_place(samples, per_sequence, known, target),
    )


def _kl(samples: Samples) -> tuple[dict[str, Estimate], Floats | None]:
    """Estimate the KL by each estimator, and say what the best of them is of each completion [N]."""
    found: dict[str, Floats] = {}
    if samples.policy_logprobs is not None and samples.prior_logprobs is not None:
        of_tokens = kl_estimators(samples.policy_logprobs, samples.prior_logprobs)
        found = {"k1": of_tokens.k1, "k3": of_tokens.k3}
    if samples.token_kl is not None:
        found["exact"] = exact_kl_of(samples.token_kl)
    best = found.get("exact", found.get("k1"))
    return {name: clustered_mean(values, samples.groups) for name, values in found.items()}, best


def _of_tokens(sums: Floats, samples: Samples) -> Estimate:
    """Average over tokens what each completion's add up to [N]."""
    return clustered_ratio(sums, samples.completions.lengths.astype(np.float64), samples.groups)


def _exact_entropy(samples: Samples) -> Estimate | None:
    if samples.policy_entropy is None:
        return None
    values = np.maximum(samples.policy_entropy.values.astype(np.float64), 0.0)
    return _of_tokens(samples.policy_entropy.rows.sums(values), samples)


def _is_cut(samples: Samples) -> NDArray[np.bool_]:
    """Say which completions are as long as the longest, and did not end by themselves where that is known [N]."""
    is_longest: NDArray[np.bool_] = samples.completions.lengths == samples.completions.lengths.max()
    return is_longest if samples.terminated is None else is_longest & ~samples.terminated


def _alike(samples: Samples) -> Estimate | None:
    if samples.rewards is None:
        return None
    several = samples.groups.sizes > 1
    is_alike = samples.groups.largest(samples.rewards) == samples.groups.smallest(samples.rewards)
    return mean_of_known(np.where(several, is_alike, np.nan)) if several.any() else None


def _named(name: str, rewards: ArrayLike, samples: Samples) -> Estimate:
    values = np.asarray(rewards, np.float64)
    if values.shape != (len(samples),):
        raise ValueError(
            f"rewards_by_name[{name!r}] has shape {values.shape}: give one for each of the {len(samples)} completions"
        )
    known = ~np.isnan(values)
    return clustered_mean(values[known], Groups.from_sizes(samples.groups.sums(known)))


class _OfTarget(NamedTuple):
    ess: float | None = None
    log_z: Estimate | None = None
    inference_gap: Estimate | None = None
    excess_collapse: Estimate | None = None


def _against(samples: Samples, target: Target | None) -> _OfTarget:
    needed = {"policy_logprobs", "prior_logprobs", "rewards"}
    if target is None or not needed <= set(samples.columns) or why_not_measured(samples) is not None:
        return _OfTarget()
    found = measure(samples, target)
    excess = found.excess_collapse[0].within
    return _OfTarget(
        found.report.ess / len(samples),
        found.report.log_z,
        found.report.inference_gap,
        None if np.isnan(excess.value) else excess,
    )


def _mismatch(samples: Samples, rollout_logprobs: Ragged) -> StepMismatch | None:
    check_rows("rollout_logprobs", rollout_logprobs)
    train = samples.need("policy_logprobs", why="they are compared with those of the engine that sampled")
    if not np.array_equal(rollout_logprobs.offsets, train.offsets):
        raise ValueError("rollout_logprobs have other rows than the completions: give one for each of their tokens")
    with np.errstate(invalid="ignore"):  # -inf - -inf
        differences = rollout_logprobs.values.astype(np.float64) - train.values.astype(np.float64)
    finite = np.isfinite(differences)
    if not finite.any():
        return None
    differences[~finite] = 0.0
    rows, sizes = train.rows, train.rows.sums(finite).astype(np.float64)
    size = np.abs(differences)
    return StepMismatch(
        kl=clustered_ratio(rows.sums(differences), sizes, samples.groups),
        mean_difference=clustered_ratio(rows.sums(size), sizes, samples.groups),
        largest_difference=float(size.max()),
    )


def _place(
    samples: Samples, kl: Floats | None, known: KnownFrontier | None, target: Target | None
) -> FrontierPlace | None:
    if known is None or kl is None or samples.rewards is None:
        return None
    if known.target != target:
        raise ValueError(f"known is of the target {known.target}, and target is {target}: make it of the same")
    return place(known, samples, kl)
