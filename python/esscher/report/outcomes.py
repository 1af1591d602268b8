"""What came of training one prior by several objectives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from esscher.compare import Comparison
    from esscher.divergence import KlEstimate
    from esscher.estimate import Estimate
    from esscher.evaluate import Report


class ShownText(NamedTuple):
    """A prompt, and a completion of it with its reward."""

    prompt: str
    completion: str
    reward: float


class Exact(NamedTuple):
    """Means over prompts, by enumeration: reward, and in nats a completion the KLs and the entropy.

    `kl` is KL(policy‖prior), `inference_gap` KL(policy‖target), `forward_kl` KL(target‖policy).
    """

    reward: float
    kl: float
    inference_gap: float
    forward_kl: float
    entropy: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """A policy at the end of its training, or the prior.

    Attributes
    ----------
    name
        The objective's name, or "prior".
    report
        What `evaluate` says of its completions, with the exact KL over the vocabulary at each token.
    entropy
        Of the next token, over the whole vocabulary, in nats, mean over tokens.
    inference_gap
        KL(policy‖target) in nats: log Z by the prior's samples, minus ``reward / beta - KL``. The report's own rests on
        log Z by the policy's samples, which those of a collapsed policy cannot give.
    forward_kl
        KL(target‖policy) in nats, by the prior's samples weighted to stand for the target.
    excess_collapse
        Distinct 2-grams of two completions of a prompt, over 2-grams: its own minus the target's, which are those of
        the prior's samples weighted to stand for it. Below 0 is what it has lost that the target does not ask for.
    texts
        Some of its completions.
    seconds
        How long it was trained.
    exact
        The same by enumeration, where that can be done.
    """

    name: str
    report: Report
    entropy: Estimate
    inference_gap: Estimate
    forward_kl: KlEstimate
    excess_collapse: Estimate
    texts: tuple[ShownText, ...]
    seconds: float
    exact: Exact | None


@dataclass(frozen=True, eq=False)
class Dissociation:
    """What came of one prior and one reward under several objectives.

    Attributes
    ----------
    model
        What the prior is called.
    settings
        How each policy was trained, but for the objective: the fields of `esscher.train.Settings`.
    facts
        What else is needed to do it again: versions, precision, threads.
    comparison
        The policies beside the frontier.
    outcomes
        The prior, then the policies.
    """

    model: str
    settings: dict[str, Any]
    facts: dict[str, str]
    comparison: Comparison
    outcomes: tuple[Outcome, ...]
