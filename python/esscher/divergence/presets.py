"""What other tools log as their KL, made as they make it, so that a number in a log can be read and compared."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

from esscher import faults
from esscher.divergence.checked_columns import check_ratios, log_ratios_of, logprobs_of
from esscher.divergence.estimators import k3_of, of_log_ratios
from esscher.divergence.forward import estimate_forward
from esscher.divergence.kl_estimate import KlEstimate, signature
from esscher.divergence.kl_warnings import warn_of_clusters, warn_of_spike
from esscher.estimate import above_zero, clustered_ratio, with_interval
from esscher.ragged import Ragged
from esscher.warning import ReportWarning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from esscher.groups import Offsets
    from esscher.samples import Samples

PresetName = Literal["trl-grpo", "trl-rloo", "trl-ppo", "openrlhf", "verl", "nemo-rl", "disco"]
Aggregation = Literal["token-mean", "seq-mean", "seq-sum"]


class Recipe(NamedTuple):
    """How a tool makes one number of its log.

    Attributes
    ----------
    logged_as
        What the tool calls it.
    aggregation
        "token-mean": the sum over all tokens over their number. "seq-mean": the mean over completions of the means over
        their tokens. "seq-sum": the mean over completions of the sums over their tokens.
    ratio_clamp
        What log policy - log prior of a token is clamped to, plus or minus, in nats; infinite for no clamp.
    value_clamp
        What the estimate of a token is clamped to, plus or minus, in nats; infinite for no clamp.
    skips_forbidden
        Whether a token that the policy forbids counts as 0.
    """

    logged_as: str
    aggregation: Aggregation
    ratio_clamp: float = np.inf
    value_clamp: float = np.inf
    skips_forbidden: bool = False

    @property
    def clamp(self) -> str:
        """The clamps as a signature names them."""
        clamps = {"ratio": self.ratio_clamp, "value": self.value_clamp}
        return ",".join(f"{name}{value:g}" for name, value in clamps.items() if value < np.inf) or "none"


@dataclass(frozen=True)
class Preset:
    """What a tool logs as KL.

    Parameters
    ----------
    tool
        Its name, and the version that was read.
    source
        The functions that make the number.
    estimator
        Which estimator the tool takes if it is not told.
    recipes
        For each estimator that the tool offers, what becomes of it in the log that it is in by default.
    """

    tool: str
    source: str
    estimator: str
    recipes: Mapping[str, Recipe]


PRESETS: Final[Mapping[PresetName, Preset]] = MappingProxyType(
    {
        "trl-grpo": Preset(
            tool="TRL 1.16.0",
            source="trl/trainer/grpo_trainer.py: GRPOTrainer._compute_loss",
            estimator="k3",
            recipes={"k3": Recipe("kl", "token-mean")},
        ),
        "trl-rloo": Preset(
            tool="TRL 1.16.0",
            source="trl/trainer/rloo_trainer.py: RLOOTrainer._generate_and_score_completions",
            estimator="k1",
            recipes={"k1": Recipe("kl", "token-mean")},
        ),
        "trl-ppo": Preset(
            tool="TRL 0.24.0",
            source="trl/trainer/ppo_trainer.py: PPOTrainer.train",
            estimator="k1",
            recipes={name: Recipe("objective/kl", "seq-sum") for name in ("k1", "k3")},
        ),
        "openrlhf": Preset(
            tool="OpenRLHF 0.11.0",
            source="openrlhf/models/utils.py: compute_approx_kl, masked_mean; trainer/ppo_utils/experience_maker.py",
            estimator="k1",
            recipes={name: Recipe("kl", "seq-mean", value_clamp=10.0) for name in ("k1", "k2", "k3")},
        ),
        "verl": Preset(
            tool="verl 0.9.0",
            source="verl/trainer/ppo/core_algos.py: kl_penalty_forward, agg_loss; ray_trainer.py: apply_kl_penalty",
            estimator="k3",
            recipes={
                "k1": Recipe("actor/reward_kl_penalty", "seq-mean"),
                "k2": Recipe("actor/kl_loss", "token-mean"),
                "k3": Recipe("actor/kl_loss", "token-mean", ratio_clamp=20.0, value_clamp=10.0),
                "abs": Recipe("actor/kl_loss", "token-mean"),
            },
        ),
        "nemo-rl": Preset(
            tool="NeMo-RL 0.7.0",
            source="nemo_rl/algorithms/utils.py: calculate_kl, masked_mean; loss/loss_functions.py",
            estimator="k3",
            recipes={
                name: Recipe("kl_penalty", "token-mean", ratio_clamp=20.0, value_clamp=10.0, skips_forbidden=True)
                for name in ("k1", "k2", "k3")
            },
        ),
        "disco": Preset(
            tool="disco 1.1.2",
            source="disco/metrics/kl.py: KL.pointwise_estimates",
            estimator="forward",
            recipes={"forward": Recipe("kl_target_policy", "seq-sum")},
        ),
    }
)


def estimate_preset(
    samples: Samples,
    preset: PresetName,
    estimator: str | None = None,
    *,
    log_potential: ArrayLike | None = None,
    log_proposal: ArrayLike | None = None,
) -> KlEstimate:
    """Return the number that a tool logs as its KL, with the error bar that it does not log.

    With ``d = log policy - log prior`` of each token: d is clamped, then made into k1, k2, k3 or abs, which is clamped,
    then averaged, each as `PRESETS` says for the tool. "disco" alone is a forward KL, of target and policy:
    ``KL(target‖policy) = -log Z + mean(w (log P - log policy)) / Z`` with ``P = prior exp(log_potential)``,
    ``w = P / proposal`` and ``Z = mean(w)``, prompt by prompt, averaged over completions.

    Parameters
    ----------
    samples
        Completions with the log-probs of policy and prior.
    preset
        One of `PRESETS`.
    estimator
        One that the tool offers; the tool's own default if not given.
    log_potential
        For "disco" alone: log P - log prior of each completion, in nats [N]; -inf for one that the target excludes.
    log_proposal
        For "disco" alone: log-prob of each completion under what it was drawn from, in nats [N]; the policy's if not
        given.

    Returns
    -------
    The number as `value`, what it would be without clamps as `raw`, and the share of tokens whose estimate a clamp
    changed as `clamped`. `per_sequence` has each completion's estimate before averaging: the sum over its tokens, or
    their mean for "seq-mean".

    Raises
    ------
    ValueError
        If `preset` is not known, the tool does not offer `estimator`, `samples` lack the log-probs of policy or prior,
        a token is impossible under both, or a completion under what it was drawn from; or if `log_potential` is not
        given for "disco", given for another, or is NaN or +inf.

    Notes
    -----
    The tools compute in float32, this in float64: the numbers agree to the rounding of float32, in which k3 below about
    1e-6 a token is noise. Where policy or prior forbids a token, d is infinite. With a clamp of d the tools' estimate
    is finite and so is this one; of a token that the *policy* forbids, NeMo-RL counts 0, as it is weighted by a ratio
    that is not defined there. Without a clamp of d, tools log NaN for its k3 (inf - inf); here it is the limit, which
    is infinite or the clamp of the value. A warning tells of either. disco exponentiates weights as they are, which
    overflows; here they are exponentiated relative to their sum. What a tool does with several batches before it logs
    (disco takes Z over all past steps, and the mean over the last 256 completions), samples do not know.

    Examples
    --------
    >>> from esscher import Ragged, Samples
    >>> samples = Samples(
    ...     prompts=Ragged.from_rows([[1]]),
    ...     completions=Ragged.from_rows([[2, 3], [4]]),
    ...     groups=[0, 2],
    ...     policy_logprobs=Ragged.from_rows([[-1.0, -0.5], [-0.5]]),
    ...     prior_logprobs=Ragged.from_rows([[-1.5, -0.5], [-20.5]]),
    ... )
    >>> estimate = estimate_preset(samples, "openrlhf")
    >>> estimate.value, estimate.raw, round(estimate.clamped, 4)
    (5.125, 10.125, 0.3333)
    >>> estimate.signature
    'kl:k1|level:token|agg:seq-mean|dir:policy-prior|clamp:value10|eos:incl|dtype:f64|n:2|clusters:1|preset:openrlhf|v:0.1.0'
    """
    if preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}: it must be one of {', '.join(PRESETS)}")
    if estimator is None:
        estimator = PRESETS[preset].estimator
    recipe = _recipe(preset, estimator)
    if preset == "disco":
        if log_potential is None:
            raise ValueError(
                "preset 'disco' is KL(target‖policy): give log_potential, log P - log prior of each completion [N], "
                "such as Tilt(beta).log_potential(samples.rewards)"
            )
        parts = {"agg": recipe.aggregation, "preset": preset}
        estimate = estimate_forward(samples, log_potential, log_proposal, corrected=False, **parts)
        return estimate._replace(warnings=(*faults.warn_of_columns(samples), *estimate.warnings))
    if log_potential is not None or log_proposal is not None:
        raise ValueError(f"preset {preset!r} knows no target: log_potential and log_proposal are for 'disco' alone")
    return _reverse(samples, preset, estimator, recipe)


def _recipe(preset: PresetName, estimator: str) -> Recipe:
    known = PRESETS[preset]
    if estimator not in known.recipes:
        raise ValueError(
            f"estimator is {estimator!r}: {known.tool} ({preset}) logs {', '.join(known.recipes)}; "
            "without preset, all estimators are offered"
        )
    return known.recipes[estimator]


def _reverse(samples: Samples, preset: PresetName, estimator: str, recipe: Recipe) -> KlEstimate:
    policy, prior = logprobs_of(samples)
    check_ratios(policy, prior)
    ratios = log_ratios_of(policy, prior)
    unclamped = _estimates(ratios, estimator)
    tokens = unclamped if recipe.clamp == "none" else _clamped(ratios, estimator, recipe)
    per_sequence, denominators = _aggregate(tokens, policy, recipe.aggregation)
    raw, _ = _aggregate(unclamped, policy, recipe.aggregation)
    name, spike = f"KL ({preset})", partial(_spike, samples, policy.offsets)
    (value, stderr), interval = with_interval(per_sequence, samples.groups, denominators)
    return KlEstimate(
        value=value,
        stderr=stderr,
        per_sequence=per_sequence,
        signature=signature(samples, estimator, agg=recipe.aggregation, clamp=recipe.clamp, preset=preset),
        interval=above_zero(interval),
        raw=clustered_ratio(raw, denominators, samples.groups).value,
        clamped=float((tokens != unclamped).mean()),
        warnings=(
            *faults.warn_of_columns(samples),
            *(spike(name, per_sequence, tokens) or spike(f"{name} without clamps", raw, unclamped)),
            *_forbidden_by_policy(ratios, PRESETS[preset].tool, estimator, recipe),
            *warn_of_clusters(samples.groups.sums(denominators)),
        ),
    )


def _spike(
    samples: Samples, offsets: Offsets, name: str, per_sequence: NDArray[np.float64], tokens: NDArray[np.float64]
) -> tuple[ReportWarning, ...]:
    return warn_of_spike(name, samples, per_sequence, Ragged(tokens, offsets).__getitem__)


def _estimates(ratios: NDArray[np.float64], estimator: str) -> NDArray[np.float64]:
    """Estimate single tokens, by one estimator: there are many, and k3 costs more than the others together."""
    if estimator == "k1":
        return ratios
    return k3_of(ratios) if estimator == "k3" else getattr(of_log_ratios(ratios), estimator)


def _clamped(ratios: NDArray[np.float64], estimator: str, recipe: Recipe) -> NDArray[np.float64]:
    estimates = _estimates(ratios.clip(-recipe.ratio_clamp, recipe.ratio_clamp), estimator)
    clamped: NDArray[np.float64] = estimates.clip(-recipe.value_clamp, recipe.value_clamp)
    return np.where(np.isneginf(ratios), 0.0, clamped) if recipe.skips_forbidden else clamped


def _aggregate(
    tokens: NDArray[np.float64], rows: Ragged, aggregation: Aggregation
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give what each completion adds to the number's numerator and denominator [N]."""
    # Infinities of both signs have no sum: NaN, as in the tools.
    with np.errstate(invalid="ignore", over="ignore"):
        sums, lengths = rows.rows.sums(tokens), rows.lengths.astype(np.float64)
    if aggregation == "token-mean":
        return sums, lengths
    return sums / lengths if aggregation == "seq-mean" else sums, np.ones(len(sums))


def _forbidden_by_policy(
    ratios: NDArray[np.float64], tool: str, estimator: str, recipe: Recipe
) -> tuple[ReportWarning, ...]:
    """Warn of tokens that the policy forbids, and say what the tool logs where their log-ratio does not lead there."""
    forbidden = int(np.isneginf(ratios).sum())
    if not forbidden:
        return ()
    does = ""
    if recipe.skips_forbidden:
        does = f" {tool} itself counts 0 for each."
    elif estimator == "k3" and recipe.ratio_clamp == np.inf:
        does = f" {tool} itself logs NaN."
    return (
        ReportWarning(
            "other-policy",
            f"{forbidden} token{'s have' if forbidden > 1 else ' has'} a log-prob of -inf under the policy, which "
            f"cannot have produced them.",
            f"Check that the log-probs are those of the model that sampled.{does}",
        ),
    )
