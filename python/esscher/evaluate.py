"""Samples and a target in, a report out: a plain record that any layer can show, store or send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esscher import _core
from esscher.divergence import KlEstimate, PresetName, estimate_kl, estimate_kls, sequence_logprobs
from esscher.diversity import DiversityEstimate, estimate_diversity, top_ngrams
from esscher.estimate import Estimate, clustered_mean, trusted_pareto_k
from esscher.posterior import Proposal, TargetReport, assess
from esscher.target import Condition, Tilt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.inference.importance import Importance
    from esscher.ragged import Ragged
    from esscher.samples import Samples
    from esscher.target import Target

# Those of policy and prior: disco's needs a target.
TRAINERS: tuple[PresetName, ...] = ("trl-grpo", "trl-rloo", "trl-ppo", "openrlhf", "verl", "nemo-rl")
# Whose warnings the report repeats: those that are unbiased on policy, and made of tokens.
KL_WARNED = ("exact", "k1", "k1_cv", "k3")
# Metrics that do not move with the number of completions.
SIZE_FREE = ("distinct-2 of 2", "repetition-3")
# A Vendi score is cubic in the completions of a prompt: beyond so many it takes longer than all the rest.
MOST_VENDI = 256
TOP_ORDERS = (2, 3, 4)
TOP_COUNT = 10

# Below them, the report warns: clusters that a sandwich error needs, and the share of samples that carries weight.
FEW_CLUSTERS = 10
FEW_EFFECTIVE = 0.1
# A weighted mean of so many is biased by a few percent of what the weights change.
FEW_BY_WEIGHT = 30
# Above this share of samples that carries weight, weights are so equal that log Z needs no warning.
NEARLY_EQUAL = 0.95


@dataclass(frozen=True)
class Counts:
    """How much was evaluated; `terminated` is `None` where the samples do not say."""

    prompts: int
    completions: int
    tokens: int
    terminated: int | None


@dataclass(frozen=True)
class Ngram:
    """An n-gram of tokens and how often it occurs."""

    token_ids: tuple[int, ...]
    count: int


@dataclass(frozen=True, eq=False)
class PerCompletion:
    """What is known of each completion [N]: the data behind the report's plots.

    `prompts` is the index of its prompt, `log_weights` are normalised within each prompt.
    """

    prompts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    rewards: NDArray[np.float64] | None
    kl: NDArray[np.float64] | None
    log_weights: NDArray[np.float64] | None

    @property
    def relative_weights(self) -> NDArray[np.float64] | None:
        """Weights relative to equal ones: their mean over a prompt with weight is 1, so that each completion counts."""
        if self.log_weights is None:
            return None
        relative: NDArray[np.float64] = np.exp(self.log_weights) * np.bincount(self.prompts)[self.prompts]
        return relative


@dataclass(frozen=True, eq=False)
class Report:
    """What `evaluate` found. What the samples could not tell is `None`, and `unavailable` says why.

    Attributes
    ----------
    version
        The version of Esscher that made it.
    counts
        How much was evaluated.
    reward
        Mean reward, clustered by prompt.
    kl
        Estimates of KL(policy‖prior), by estimator (see `estimate_kls`).
    trainer_kl
        What trainers would log as their KL of these samples, by preset (see `estimate_kl`).
    prior_perplexity
        exp of the mean negative log-prob of a token under the prior.
    entropy
        Mean negative log-prob of a token under the policy, in nats: an estimate of its entropy per token.
    target
        What the target would give; `None` without a target.
    diversity
        Diversity metrics of the completions (see `estimate_diversity`).
    target_diversity
        Those of them that do not move with the number of completions but for what weights do, of the completions
        weighted to stand for the target: what it asks for. Empty without weights.
    top_ngrams
        The most frequent n-grams of each order, most frequent first.
    per_completion
        The columns behind the plots.
    warnings
        What the reader should know before trusting a number, and what to do about it.
    unavailable
        What is missing from the report, and why.
    """

    version: str
    counts: Counts
    reward: Estimate | None
    kl: dict[str, KlEstimate]
    trainer_kl: dict[str, KlEstimate]
    prior_perplexity: float | None
    entropy: float | None
    target: TargetReport | None
    diversity: tuple[DiversityEstimate, ...]
    target_diversity: tuple[DiversityEstimate, ...]
    top_ngrams: dict[int, tuple[Ngram, ...]]
    per_completion: PerCompletion
    warnings: tuple[str, ...]
    unavailable: dict[str, str]


def evaluate(samples: Samples, target: Target | None = None, *, proposal: Proposal = "policy") -> Report:
    """Report what samples say of a policy: reward, KL, diversity, and its distance from a target.

    Samples of a corpus may be cut into parts anywhere between prompts: the report on their `concatenate` is that on
    the whole, to the last bit.

    Parameters
    ----------
    samples
        Completions with the columns that are known; what needs an unknown one is reported as not available.
    target
        The distribution that the policy should become. With it come log Z, the weights, and the inference gap.
    proposal
        Where the completions came from: the policy that `policy_logprobs` are of, or the prior.

    Raises
    ------
    ValueError
        If `proposal` is neither "policy" nor "prior", a token is impossible under both policy and prior, or, with a
        target, a completion under the policy that produced it.
    TypeError
        If `target` is none.

    Examples
    --------
    >>> from esscher import Ragged, Samples, Tilt
    >>> samples = Samples(
    ...     prompts=Ragged.from_rows([[1], [2]]),
    ...     completions=Ragged.from_rows([[5, 6], [5, 7], [8, 9], [8, 6]]),
    ...     groups=[0, 2, 4],
    ...     policy_logprobs=Ragged.from_rows([[-1.0, -0.5]] * 4),
    ...     prior_logprobs=Ragged.from_rows([[-1.5, -0.5], [-1.0, -1.0]] * 2),
    ...     rewards=[0.0, 1.0, 0.5, 1.0],
    ... )
    >>> report = evaluate(samples, Tilt(beta=1.0))
    >>> report.reward.value, report.kl["k1"].value
    (0.625, 0.5)
    >>> round(report.target.log_z.value, 4), round(report.target.inference_gap.value, 4)
    (0.2005, 0.0755)
    """
    if target is not None and not isinstance(target, Tilt | Condition):
        raise TypeError(f"target is {type(target).__name__}: it must be a Tilt or a Condition, such as Tilt(beta=0.1)")
    if proposal not in ("policy", "prior"):
        raise ValueError(f"proposal is {proposal!r}: it must be 'policy' or 'prior', where the completions came from")
    unavailable = _unavailable(samples, target, proposal)
    kl: dict[str, KlEstimate] = {} if "kl" in unavailable else estimate_kls(samples)
    posterior, weights = (
        (None, None) if target is None or "target" in unavailable else assess(samples, target, proposal)
    )
    return Report(
        version=_core.__version__,
        counts=_counts(samples),
        reward=None if samples.rewards is None else clustered_mean(samples.rewards, samples.groups),
        kl=kl,
        trainer_kl={preset: estimate_kl(samples, preset=preset) for preset in TRAINERS} if kl else {},
        prior_perplexity=None if samples.prior_logprobs is None else _perplexity(samples.prior_logprobs),
        entropy=_surprise(samples.policy_logprobs) if kl and samples.policy_logprobs is not None else None,
        target=posterior,
        diversity=estimate_diversity(samples.completions, samples.groups, vendi=_is_small(samples)),
        target_diversity=() if weights is None else _target_diversity(samples, weights),
        top_ngrams={n: _top_ngrams(samples.completions, n) for n in TOP_ORDERS},
        per_completion=PerCompletion(
            prompts=samples.group_of,
            lengths=samples.completions.lengths,
            rewards=samples.rewards,
            kl=kl["k1"].per_sequence if kl else None,
            log_weights=None if weights is None else weights.log_weights,
        ),
        warnings=tuple(_kl_warnings(samples, kl) + _target_warnings(samples, target, posterior, weights)),
        unavailable=unavailable,
    )


def _unavailable(samples: Samples, target: Target | None, proposal: Proposal) -> dict[str, str]:
    logprobs = ("policy_logprobs", "prior_logprobs")
    needs = {
        "reward": ("rewards",),
        "kl": logprobs,
        "prior_perplexity": logprobs[1:],
        "entropy": logprobs[:1],
        "target": ("rewards", *logprobs) if proposal == "policy" else ("rewards",),
        "terminated": ("terminated",),
    }
    missing = {what: [name for name in names if name not in samples.columns] for what, names in needs.items()}
    reasons = {
        what: f"the samples lack the column{'s' * (len(names) > 1)} {' and '.join(names)}"
        for what, names in missing.items()
        if names
    }
    if proposal == "prior":
        reasons |= dict.fromkeys(("kl", "entropy"), "the completions came from the prior, not from the policy")
    if target is None:
        return reasons | {"target": "no target was given"}
    if "target" not in reasons and len(samples) == len(samples.prompts):
        reasons["target"] = "a prompt's only completion says nothing of log Z and the gap: draw several a prompt"
    return reasons


def _counts(samples: Samples) -> Counts:
    terminated = None if samples.terminated is None else int(samples.terminated.sum())
    return Counts(len(samples.prompts), len(samples), len(samples.completions.values), terminated)


def _surprise(logprobs: Ragged) -> float:
    """Mean negative log-prob of a token, in nats."""
    return -float(sequence_logprobs(logprobs).sum()) / len(logprobs.values)


def _perplexity(logprobs: Ragged) -> float:
    with np.errstate(over="ignore"):  # what is beyond any number is infinite
        return float(np.exp(_surprise(logprobs)))


def _is_small(samples: Samples) -> bool:
    return int(np.diff(samples.groups).max()) <= MOST_VENDI


def _target_diversity(samples: Samples, weights: Importance) -> tuple[DiversityEstimate, ...]:
    """Weighted completions are worth fewer than there are: what moves with their number would not compare."""
    relative = np.exp(weights.log_weights)
    every = estimate_diversity(samples.completions, samples.groups, relative, vendi=False)
    return tuple(diversity for diversity in every if diversity.metric in SIZE_FREE)


def _top_ngrams(completions: Ragged, n: int) -> tuple[Ngram, ...]:
    top = top_ngrams(completions, n, TOP_COUNT)
    return tuple(Ngram(tuple(ids.tolist()), int(count)) for ids, count in zip(top.token_ids, top.counts, strict=True))


def _kl_warnings(samples: Samples, kl: dict[str, KlEstimate]) -> list[str]:
    warnings = []
    if len(samples.prompts) == 1 < len(samples):
        warnings.append(
            "There is one prompt: standard errors are over its completions, and say nothing of other prompts. Evaluate "
            f"on {FEW_CLUSTERS} prompts or more."
        )
    elif len(samples.prompts) < FEW_CLUSTERS:
        warnings.append(
            f"Standard errors are clustered by prompt, and there are only {len(samples.prompts)} prompts: they are "
            f"rough. Evaluate on {FEW_CLUSTERS} prompts or more."
        )
    # Several estimators may say the same, and that with the control variate says of k1's value what k1 has said.
    told = KL_WARNED if "k1" not in kl or not kl["k1"].warnings else tuple(n for n in KL_WARNED if n != "k1_cv")
    shown = [estimate for name, estimate in kl.items() if name in told]
    return [*warnings, *dict.fromkeys(warning for estimate in shown for warning in estimate.warnings)]


def _target_warnings(
    samples: Samples, target: Target | None, posterior: TargetReport | None, weights: Importance | None
) -> list[str]:
    if target is None or posterior is None or weights is None:
        return []
    sizes, weightless = np.diff(samples.groups), int((weights.ess == 0).sum())
    if weightless == len(sizes):
        return [_no_weight(samples, target)]
    warnings = []
    if weightless:
        warnings.append(
            f"In {weightless} of {len(sizes)} prompts no completion has weight under the target: log Z is -inf there, "
            f"and the target's reward leaves them out. {_nearer(target)}, or draw more completions of these prompts."
        )
    singles = int((sizes == 1).sum())
    if singles:
        warnings.append(
            f"{singles} of {len(sizes)} prompts have a single completion: log Z is its own weight there, and the "
            "inference gap 0 whatever the policy. Draw more of these prompts, or leave them out."
        )
    gap_known = posterior.inference_gap is not None
    if posterior.inference_gap is not None and posterior.inference_gap.value == np.inf:
        gap_known = False
        warnings.append(
            "The inference gap is infinite: the policy produced completions that the target excludes, and "
            "KL(policy‖target) is infinite while it does."
        )
    return warnings + _weight_warnings(
        samples, target, posterior, "log Z and the inference gap are" if gap_known else "log Z is"
    )


def _weight_warnings(samples: Samples, target: Target, posterior: TargetReport, what: str) -> list[str]:
    """Say if weights are too few or too unequal for `what` is made of them."""
    warnings = []
    n, sizes = len(samples), np.diff(samples.groups)
    if posterior.ess < FEW_EFFECTIVE * n:
        warnings.append(
            f"The effective sample size is {posterior.ess:.1f} of {n} completions: {what} likely too low. "
            f"{_nearer(target)}, draw more completions a prompt, or sample nearer to the target."
        )
    if np.isnan(posterior.pareto_k) and posterior.ess < NEARLY_EQUAL * n:
        warnings.append(
            f"With {int(sizes.max())} completions a prompt, {what} on average too low and the target's diversity too "
            "near that of the samples, and there are too few to tell by how much. Draw 25 a prompt or more to see "
            "Pareto k."
        )
    elif posterior.ess < min(NEARLY_EQUAL * n, FEW_BY_WEIGHT * len(sizes)):
        warnings.append(
            f"By their weights there are {posterior.ess / len(sizes):.1f} completions a prompt: the target's diversity "
            "is nearer to that of the samples than it would be with more. Draw more completions a prompt."
        )
    threshold = trusted_pareto_k(int(sizes.min()))
    if posterior.pareto_k > threshold:
        warnings.append(
            f"Pareto k is {posterior.pareto_k:.2f}, above {threshold:.2f}: a few weights decide the result, and its "
            f"standard error cannot be trusted. {_nearer(target)}, or draw more completions a prompt."
        )
    return warnings


def _no_weight(samples: Samples, target: Target) -> str:
    highest = -np.inf if samples.rewards is None else float(samples.rewards.max())
    if highest == -np.inf:
        return "All rewards are -inf: the target excludes every completion, and nothing can be said of it."
    assert isinstance(target, Condition)  # a tilt gives weight to every finite reward
    return (
        f"No completion reaches the threshold, {target.threshold:g}: the highest reward is {highest:g}. Lower the "
        "threshold, or draw more completions."
    )


def _nearer(target: Target) -> str:
    """Say what brings a target nearer to where the samples are."""
    return "Lower the threshold" if isinstance(target, Condition) else "Raise beta"
