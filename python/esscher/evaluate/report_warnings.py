"""What the reader of a report should know before trusting a number: what was seen, what it means, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher import faults
from esscher.divergence.forward import FEW
from esscher.divergence.kl_warnings import warn_of_clusters
from esscher.target import Condition, Tilt
from esscher.warning import ReportWarning
from esscher.weights import NEARLY_EQUAL, TRUSTED_BY_NONE, count_heavy, trusted_pareto_k

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike

    from esscher.divergence import KlEstimate
    from esscher.diversity import DiversityEstimate
    from esscher.evaluate.posterior import TargetReport
    from esscher.samples import Samples
    from esscher.target import Target
    from esscher.weights import Weights

# Whose warnings the report repeats: those that are unbiased on policy, and made of tokens.
KL_WARNED = ("exact", "k1", "k1_cv", "k3")
# Below it, the report warns: the share of samples that carries weight.
FEW_EFFECTIVE = 0.1
# k3 is far from the exact KL if it is off by this share of it, and by so many nats.
FAR_OFF, FAR_NATS = 0.1, 1.0
# A weighted mean of so many is biased by a few percent of what the weights change.
FEW_BY_WEIGHT = 30


def warn_of_kl(samples: Samples, kl: dict[str, KlEstimate]) -> list[ReportWarning]:
    """Say what makes estimates of the KL unfit to be trusted."""
    known = faults.warn_of_samples(samples)
    # Without a KL, too: the mean reward rests on the same prompts.
    clusters = warn_of_clusters(samples.groups.sizes)
    own = {name: [said for said in kl[name].warnings if said not in (*known, *clusters)] for name in kl}
    # Several estimators may say the same, and that with the control variate says of k1's value what k1 has said.
    told = KL_WARNED if not own.get("k1") else tuple(n for n in KL_WARNED if n != "k1_cv")
    shown = dict.fromkeys(said for name in told for said in own.get(name, ()))
    return [*known, *clusters, *shown, *([] if own.get("k3") else _of_k3(kl))]


def _of_k3(kl: dict[str, KlEstimate]) -> list[ReportWarning]:
    """Say if k3, which trainers log, is far from the exact KL."""
    if "exact" not in kl or "k3" not in kl:
        return []
    found, exact = kl["k3"].value, kl["exact"].value
    if not (np.isfinite([found, exact]).all() and abs(found - exact) > max(FAR_OFF * exact, FAR_NATS)):
        return []
    return [
        ReportWarning(
            "k3-too-low",
            f"k3 at token level reads {found:.3g} nats, and the exact KL is {exact:.3g}: the difference sits in tokens "
            "that the prior likes and the policy hardly ever samples, so that few of them decide k3.",
            "Trust the exact KL.",
        )
    ]


def warn_of_target(
    samples: Samples,
    target: Target,
    features: ArrayLike | None,
    posterior: TargetReport,
    weights: Weights,
    gap: str,
) -> Iterator[ReportWarning]:
    """Say what makes numbers of the target unfit to be trusted; the inference gap is called `gap`."""
    sizes, weightless = samples.groups.sizes, int((weights.ess == 0).sum())
    if weightless == len(sizes):
        yield _no_weight(samples, target, features)
        return
    if weightless:
        yield ReportWarning(
            "prompts-without-weight",
            f"In {weightless} of {len(sizes)} prompts no completion has weight under the target: log Z is -inf there, "
            f"{gap} is not known, and the target's reward leaves them out.",
            f"{_nearer(target)}, or draw more completions of these prompts.",
        )
    singles = int((sizes == 1).sum())
    if singles:
        yield ReportWarning(
            "single-completions",
            f"{singles} of {len(sizes)} prompts {'has' if singles == 1 else 'have'} a single completion: log Z is its "
            f"own weight there, and {gap} 0 whatever the policy.",
            "Draw more of these prompts, or leave them out.",
        )
    found = np.nan if posterior.inference_gap is None else posterior.inference_gap.value
    if found == np.inf:
        yield ReportWarning(
            "infinite-gap",
            f"{_capitalised(gap)} is infinite: the policy produced completions that the target excludes, and "
            "KL(policy‖target) is infinite while it does.",
        )
    yield from _of_ess(samples, target, posterior, f"log Z and {gap} are" if np.isfinite(found) else "log Z is")
    yield from _of_tail(target, weights)


def warn_of_excess(excess: tuple[DiversityEstimate, ...], prompts: int) -> list[ReportWarning]:
    """Say of which metrics the excess is known in some prompts only."""
    return [
        ReportWarning(
            "partial-excess",
            f"The excess of {metric.metric} is that of {prompts - metric.left_out} of {prompts} prompts: in the others "
            "the completions are worth fewer than two under the target, or have no n-grams.",
            "Draw more completions a prompt.",
        )
        for metric in excess
        if 0 < metric.left_out < prompts
    ]


def _of_ess(samples: Samples, target: Target, posterior: TargetReport, what: str) -> Iterator[ReportWarning]:
    """Say if weights are worth too few completions for what is made of them."""
    n, sizes = len(samples), samples.groups.sizes
    if posterior.ess < FEW_EFFECTIVE * n:
        yield ReportWarning(
            "few-effective",
            f"The effective sample size is {posterior.ess:.1f} of {n} completions: {what} likely too low.",
            f"{_nearer(target)}, draw more completions a prompt, or sample nearer to the target.",
        )
    if np.isnan(posterior.pareto_k) and sizes.max() < FEW and posterior.ess < NEARLY_EQUAL * n:
        yield ReportWarning(
            "few-completions",
            f"With {int(sizes.max())} completions a prompt, {what} on average too low and the target's diversity too "
            "near that of the samples, and there are too few to tell by how much.",
            f"Draw {FEW} a prompt or more to see Pareto k.",
        )
    elif posterior.ess < min(NEARLY_EQUAL * n, FEW_BY_WEIGHT * len(sizes)):
        yield ReportWarning(
            "few-effective",
            f"By their weights there are {posterior.ess / len(sizes):.1f} completions a prompt: the target's diversity "
            "is nearer to that of the samples than it would be with more.",
            "Draw more completions a prompt.",
        )
    if len(sizes) == 1 and posterior.ess < NEARLY_EQUAL * n:
        yield ReportWarning(
            "one-prompt",
            "Of one prompt, the errors of what rests on weights are made of these very weights, and rough.",
            "Evaluate on several prompts, or draw more completions of it.",
        )


def _of_tail(target: Target, weights: Weights) -> Iterator[ReportWarning]:
    """Say if a few weights decide."""
    pareto_k, sizes = weights.deciding_pareto_k, weights.groups.sizes
    heavy, beyond = int(count_heavy(pareto_k, sizes)), int((pareto_k > TRUSTED_BY_NONE).sum())
    if heavy:
        worst = int(np.nan_to_num(pareto_k, nan=-np.inf).argmax())
        k, good = f"{weights.pareto_k[worst]:.2f}", f"{trusted_pareto_k(int(sizes[worst])):.2f}"
        said = f"In {heavy} of {len(sizes)} prompts Pareto k is too large (up to {k}, where {good} can be trusted)"
        if len(sizes) == 1:
            said = f"Pareto k is {k}, above {good}"
        yield ReportWarning(
            "heavy-tail",
            f"{said}: a few weights decide the result, and its standard error cannot be trusted.",
            f"{_nearer(target)}, or draw more completions a prompt.",
        )
    elif beyond:
        yield ReportWarning(
            "heavy-tail",
            f"In {beyond} of {len(sizes)} prompts Pareto k is above {TRUSTED_BY_NONE} (up to "
            f"{np.nanmax(pareto_k):.2f}), which no estimate can be trusted with. Of so many prompts it may be chance; "
            "if it is not, a few completions decide what these prompts say.",
            "Draw more completions a prompt to tell.",
        )


def warn_of_left_bias(
    posterior: TargetReport, excess: tuple[DiversityEstimate, ...], target: Target, gap: str
) -> list[ReportWarning]:
    """Say which numbers have no error as a bias is left in them that is not small beside it."""
    named = {
        "log Z": posterior.log_z,
        "EUBO": posterior.eubo,
        "the target's reward": posterior.reward,
        gap: posterior.inference_gap,
        "KL(target‖policy)": posterior.forward_kl,
        **{f"the excess of {metric.metric}": metric.within for metric in excess},
    }
    void = [name for name, one in named.items() if one is not None and np.isfinite(one[0]) and np.isnan(one[1])]
    if not void or (posterior.elbo is not None and np.isnan(posterior.elbo.stderr)):
        return []  # where nothing has an error, it is not for a bias
    listed = f"{', '.join(void[:-1])} and {void[-1]}" if len(void) > 1 else void[0]
    return [
        ReportWarning(
            "bias-left",
            f"{_capitalised(listed)} {'have' if len(void) > 1 else 'has'} no error bar: halves of each "
            "prompt's completions say something else than all of them, so that a bias is left that is not small beside "
            "the error.",
            f"More prompts do not mend it: draw more completions a prompt, or {_nearer(target).lower()}.",
        )
    ]


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]


def _no_weight(samples: Samples, target: Target, features: ArrayLike | None) -> ReportWarning:
    rewards = samples.need("rewards", why="the weights are made of them")
    highest = float(rewards.max())
    if highest == -np.inf:
        return ReportWarning(
            "no-weight", "All rewards are -inf: the target excludes every completion, and nothing can be said of it."
        )
    if (target.log_potential(rewards, features) > -np.inf).any():
        return ReportWarning(
            "no-weight",
            "The prior cannot produce any of the completions that the target allows (their log-prob is -inf).",
            "Check that its log-probs are those of the model before fine-tuning.",
        )
    if not isinstance(target, Condition):
        return ReportWarning(
            "no-weight", f"The target, {target}, excludes every completion.", "Ask for less, or draw more completions."
        )
    return ReportWarning(
        "no-weight",
        f"No completion reaches the threshold, {target.threshold:g}: the highest reward is {highest:g}.",
        "Lower the threshold, or draw more completions.",
    )


def _nearer(target: Target) -> str:
    """Say what brings a target nearer to where the samples are."""
    match target:
        case Condition():
            return "Lower the threshold"
        case Tilt():
            return "Raise beta"
        case _:
            return "Ask for a target nearer to the prior"
