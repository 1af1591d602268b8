"""`evaluate`: everything that samples say of a policy, and what they cannot say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher import _core
from esscher.divergence import (
    KlEstimate,
    PresetName,
    estimate_kl,
    estimate_kls,
    estimate_mutual_information,
    warn_of_collapse,
)
from esscher.diversity import (
    DiversityEstimate,
    estimate_diversity,
    estimate_size_free,
    top_ngrams,
)
from esscher.estimate import clustered_mean
from esscher.evaluate.against_target import measure, why_not_measured
from esscher.evaluate.report import Counts, Ngram, PerCompletion, Report
from esscher.evaluate.report_warnings import warn_of_kl
from esscher.samples import check_samples
from esscher.target import Target
from esscher.warning import merge_warnings

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.evaluate.posterior import Proposal
    from esscher.ragged import Masked, Ragged
    from esscher.samples import Samples
    from esscher.weights import Weights

# Those of policy and prior: disco's needs a target.
TRAINERS: tuple[PresetName, ...] = ("trl-grpo", "trl-rloo", "trl-ppo", "openrlhf", "verl", "nemo-rl")
# A Vendi score is cubic in the completions of a prompt: beyond so many it takes longer than all the rest.
MOST_VENDI = 256
TOP_ORDERS = (2, 3, 4)
# What is said of log-probs where there are no token ids that they could be of.
TEXTS = "texts, not ids: give --tokenizer, and the log-probs of what it makes of them"
TOP_COUNT = 10


def evaluate(
    samples: Samples,
    target: Target | None = None,
    *,
    proposal: Proposal = "policy",
    features: ArrayLike | None = None,
) -> Report:
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
    features
        Features of each completion [N, K], for a target with `Moments`.

    Raises
    ------
    ValueError
        If `features` are missing or not one row a completion, `proposal` is neither "policy" nor "prior", a token is
        impossible under both policy and prior, or, with a target, a completion under the policy that produced it.
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
    (0.2275, 0.1025)
    """
    check_samples("samples", samples)
    if target is not None and not isinstance(target, Target):
        raise TypeError(
            f"target is {type(target).__name__}: it must be a Tilt, a Condition, Moments or a product of them, such as "
            "Tilt(beta=0.1)"
        )
    if proposal not in ("policy", "prior"):
        raise ValueError(f"proposal is {proposal!r}: it must be 'policy' or 'prior', where the completions came from")
    groups, unavailable = samples.groups, _unavailable(samples, target, proposal)
    kl: dict[str, KlEstimate] = {} if "kl" in unavailable else estimate_kls(samples)
    of_policy = proposal == "policy" and {"policy_logprobs", "cross_log_probs"} <= set(samples.columns)
    information = estimate_mutual_information(samples) if of_policy else None
    collapse = [] if information is None else warn_of_collapse(information, len(samples.prompts))
    against = None
    if target is not None and "target" not in unavailable:
        against = measure(samples, target, proposal=proposal, features=features)
        unavailable |= against.unavailable
    return Report(
        version=_core.__version__,
        counts=_counts(samples),
        reward=None if samples.rewards is None else clustered_mean(samples.rewards, groups),
        kl=kl,
        trainer_kl={preset: estimate_kl(samples, preset=preset) for preset in TRAINERS} if kl else {},
        prior_perplexity=None if samples.prior_logprobs is None else _perplexity(samples),
        entropy=_surprise(samples, samples.policy_log_prob) if kl else None,
        target=None if against is None else against.report,
        diversity=estimate_diversity(samples.actions, groups, vendi=bool(groups.sizes.max() <= MOST_VENDI)),
        target_diversity=() if against is None else _target_diversity(samples, against.weights),
        excess_collapse=() if against is None else against.excess_collapse,
        top_ngrams={n: _top_ngrams(samples.actions, n) for n in TOP_ORDERS},
        per_completion=PerCompletion(
            prompts=groups.of,
            lengths=samples.actions.lengths,
            rewards=samples.rewards,
            kl=kl["k1"].per_sequence if kl else None,
            log_weights=None if against is None else against.weights.log_weights,
        ),
        warnings=merge_warnings([*warn_of_kl(samples, kl), *collapse, *(() if against is None else against.warnings)]),
        unavailable=unavailable,
        mutual_information=information,
        tokens=samples.tokens,
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
    if samples.tokens == "words":
        reasons |= {what: TEXTS for what in reasons if "logprobs" in reasons[what]}
    if proposal == "prior":
        reasons |= dict.fromkeys(("kl", "entropy"), "the completions came from the prior, not from the policy")
    if target is None:
        return reasons | {"target": "no target was given"}
    why = why_not_measured(samples)
    return reasons if why is None or "target" in reasons else reasons | {"target": why}


def _counts(samples: Samples) -> Counts:
    terminated = None if samples.terminated is None else int(samples.terminated.sum())
    return Counts(len(samples.prompts), len(samples), int(samples.actions.lengths.sum()), terminated)


def _surprise(samples: Samples, log_prob: NDArray[np.float64]) -> float:
    """Mean negative log-prob of a token, in nats."""
    return -float(log_prob.sum()) / int(samples.actions.lengths.sum())


def _perplexity(samples: Samples) -> float:
    with np.errstate(over="ignore"):  # what is beyond any number is infinite
        return float(np.exp(_surprise(samples, samples.prior_log_prob)))


def _target_diversity(samples: Samples, weights: Weights) -> tuple[DiversityEstimate, ...]:
    return estimate_size_free(samples.actions, samples.groups, np.exp(weights.log_weights))


def _top_ngrams(completions: Ragged | Masked, n: int) -> tuple[Ngram, ...]:
    top = top_ngrams(completions, n, TOP_COUNT)
    return tuple(Ngram(tuple(ids.tolist()), int(count)) for ids, count in zip(top.token_ids, top.counts, strict=True))
