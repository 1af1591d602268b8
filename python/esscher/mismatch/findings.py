"""What a comparison of two engines says: numbers, and named causes with their evidence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from esscher.mismatch.verl_metrics import Metrics

CauseName = Literal[
    "negated",
    "probabilities",
    "running-sums",
    "sentinel",
    "exchanged-rows",
    "length",
    "shift",
    "missing",
    "log-base",
    "divided-by-temperature",
    "bf16-rounding",
    "other-policy",
    "last-token",
    "sampling-temperature",
    "kept-mass",
    "noise",
]
Column = Literal["train", "rollout", "both"]


@dataclass(frozen=True)
class Cause:
    """One reason why two engines differ.

    Attributes
    ----------
    name
        Which cause.
    column
        Whose column shows it; "both" where it cannot be told, or is in both.
    evidence
        What was seen, with its numbers.
    advice
        What to do.
    tokens
        How many tokens it touches.
    share
        The same as a share of the tokens that the cause was looked for in.
    size
        Median of |l_rollout - l_train| over the tokens that it touches, in nats; NaN where there is no difference to
        take, as beside a sentinel.
    estimate
        What the cause has one number for, else `None`: the mean kept mass, the sampling temperature, the most
        frequent sentinel (NaN included), how many tokens a row is shifted by, the base of a logarithm, the number that
        log-probs were divided by, the bits of a rounded value's significand, the standard deviation of noise and the
        mean difference of rows of another policy in nats.
    rows
        Which completions it touches, where whole completions are concerned, from 0.
    """

    name: CauseName
    column: Column
    evidence: str
    advice: str
    tokens: int
    share: float
    size: float
    estimate: float | None = None
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Coverage:
    """How much there was, and how much of it could be compared.

    Attributes
    ----------
    completions, tokens
        What was given; of a completion whose two rows differ in length, the longer.
    compared_completions, compared_tokens
        What the metrics rest on.
    left_out_tokens
        How many tokens have no two log-probs to compare.
    """

    completions: int
    tokens: int
    compared_completions: int
    compared_tokens: int
    left_out_tokens: int


class PerToken(NamedTuple):
    """The tokens that were compared [T]: both log-probs in nats, and the place in the completion, from 0."""

    train: NDArray[np.float64]
    rollout: NDArray[np.float64]
    place: NDArray[np.int64]


@dataclass(frozen=True)
class MismatchReport:
    """How the engine that sampled differs from the engine that trains, and why.

    Attributes
    ----------
    version
        The version of Esscher that made it.
    clean
        Whether the columns agree as far as float32 goes.
    causes
        What was found, in the order in which to see to it; none if the columns agree.
    metrics
        Numbers over the tokens that could be compared; `None` if there were none.
    counts
        How many completions and tokens there were, and how many were compared.
    per_token
        The columns behind the plots.
    """

    version: str
    clean: bool
    causes: tuple[Cause, ...]
    metrics: Metrics | None
    counts: Coverage
    per_token: PerToken = field(repr=False, compare=False)

    @property
    def names(self) -> tuple[CauseName, ...]:
        """Names of the causes, each once."""
        return tuple(dict.fromkeys(cause.name for cause in self.causes))
