"""Known faults of samples, in words: what was seen, where, what it does to the numbers, and what to do.

Nothing is cut and nothing is left out: what stands in the samples counts, and the reader is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.warning import ReportWarning

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.ragged import Ragged
    from esscher.samples import Samples

    Indices = NDArray[np.int64]

LOGPROBS = ("policy_logprobs", "prior_logprobs")
# What is not below 0 by more than rounding.
NONNEGATIVE = ("token_kl", "policy_entropy")
# What trainers fill in where a log-prob is missing, and below which every whole number is such a value: no softmax over
# logits as models have them makes a token so unlikely.
FILLERS, UNHEARD_OF = (-100.0, -999.0, -1000.0), -500.0
# A whole number is no log-prob either if it alone comes back so often, among so many values that hardly ever are
# numbers of 16 bits, where whole numbers are no accident.
REPEATS, FEWEST_OTHERS, LOOKED_AT, ON_GRID = 5, 20, 10_000, 0.5
KINDS_SHOWN = 3
# Log-probs so far apart are not those of models that agree.
APART = 1e-3
# An id that ends rows is told from a word by so many rows and repetitions.
FEWEST_ROWS, FEWEST_BEHIND, ENDS_TRIED = 2, 4, 3
# With fewer prompts, that all begin alike says little.
FEWEST_PROMPTS = 3


class Filler(NamedTuple):
    """A value that stands for a log-prob that is missing, and the tokens that have it."""

    value: float
    tokens: Indices


def warn_of_samples(samples: Samples) -> tuple[ReportWarning, ...]:
    """Say all that is known to be wrong with samples, whatever is made of them.

    Examples
    --------
    >>> from esscher import Ragged, Samples
    >>> rows = Ragged.from_rows([[-1.0, -9999.0]])
    >>> samples = Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[2, 3]]), [0, 1], prior_logprobs=rows)
    >>> warn_of_samples(samples)[0].split(":")[0]
    'prior_logprobs holds -9999 at 1 token, in 1 of 1 completions (the first at [0][1], counted from 0)'
    """
    return (*warn_of_columns(samples), *warn_of_rows(samples), *warn_of_rewards(samples))


def warn_of_columns(samples: Samples) -> tuple[ReportWarning, ...]:
    """Say what is wrong with the token columns: fillers, zeros that were filled in, and what rounding left beyond 0."""
    found = []
    for name in LOGPROBS:
        column: Ragged | None = getattr(samples, name)
        if column is not None:
            found += [_fillers(name, column), _zero_rows(name.removesuffix("_logprobs"), column)]
    found += [_zero_kl(samples), _zero_entropy(samples), *(_rounded(samples, name) for name in LOGPROBS + NONNEGATIVE)]
    return tuple(filter(None, found))


def warn_of_rows(samples: Samples) -> tuple[ReportWarning, ...]:
    """Say if completions go on after their end, or prompts begin with a start token too many."""
    return tuple(filter(None, [_past_end(samples), _doubled_start(samples.prompts)]))


def warn_of_rewards(samples: Samples) -> tuple[ReportWarning, ...]:
    """Say if rewards do not tell completions apart."""
    rewards = samples.rewards
    if rewards is None or len(rewards) == 1 or np.isneginf(rewards).any():
        return ()
    groups = samples.groups
    seen = "Within every prompt all completions have the same reward"
    if rewards.min() == rewards.max():
        seen = f"All {len(rewards):,} rewards are {rewards[0]:g}"
    elif len(rewards) == len(groups.sizes) or (groups.largest(rewards) > groups.smallest(rewards)).any():
        return ()
    return (
        ReportWarning(
            "equal-rewards",
            f"{seen}: the reward prefers no completion to another, so that the target is no different from the prior, "
            "and what is said of it says nothing of the reward.",
            "Check that the rewards are those of these completions, and are not filled in.",
        ),
    )


def _rounded(samples: Samples, name: str) -> ReportWarning | None:
    column: Ragged | None = getattr(samples, name)
    if column is None:
        return None
    beyond = column.values if name in LOGPROBS else -column.values
    most = float(beyond.max())
    if not most > 0:
        return None
    side = "above" if name in LOGPROBS else "below"
    return ReportWarning(
        "rounded",
        f"{int((beyond > 0).sum()):,} of {len(beyond):,} values of {name} are {side} 0 by up to {most:.2g}, which "
        "rounding leaves: they are read as 0.",
    )


def _fillers(name: str, column: Ragged) -> ReportWarning | None:
    fillers = _find_fillers(column.values)
    if not fillers:
        return None
    shown = " and ".join(
        f"{filler.value:g} at {_times(len(filler.tokens), 'token')}" for filler in fillers[:KINDS_SHOWN]
    )
    more = f" and {len(fillers) - KINDS_SHOWN} more such values" * (len(fillers) > KINDS_SHOWN)
    tokens = np.concatenate([filler.tokens for filler in fillers])
    rows = np.unique(np.searchsorted(column.offsets, tokens, side="right"))
    row, token = column.locate(tokens.min())
    return ReportWarning(
        "filler-values",
        f"{name} holds {shown}{more}, in {len(rows):,} of {len(column):,} completions (the first at [{row}][{token}], "
        "counted from 0): such a value stands for a log-prob that is missing, and is counted as if it were one.",
        "Recompute these log-probs, or leave the completions out.",
    )


def _find_fillers(values: NDArray[np.floating]) -> list[Filler]:
    """Return whole numbers that are no log-probs, the most frequent first."""
    whole = np.flatnonzero(values == np.rint(values))
    whole = whole[(values[whole] < 0) & (values[whole] > -np.inf)]
    distinct, counts = np.unique(values[whole], return_counts=True)
    chosen = (distinct < UNHEARD_OF) | np.isin(distinct, FILLERS)
    repeated = (counts >= REPEATS) & ~chosen
    if repeated.sum() == 1 and _are_exact(values):
        chosen |= repeated
    found = [Filler(float(value), whole[values[whole] == value]) for value in distinct[chosen]]
    return sorted(found, key=lambda filler: -len(filler.tokens))


def _are_exact(values: NDArray[np.floating]) -> bool:
    """Tell whether values have more digits than 16 bits hold, judged by the first of them."""
    others = np.unique(values[:LOOKED_AT]).astype(np.float32)
    others = others[(others != np.rint(others)) & np.isfinite(others)]
    return len(others) >= FEWEST_OTHERS and bool((others.view(np.uint32) & 0xFFFF == 0).mean() < ON_GRID)


def _zero_rows(name: str, logprobs: Ragged) -> ReportWarning | None:
    """Rows of zeros are told by up to three of their tokens first, so that not every token is read."""
    starts, lengths = logprobs.offsets[:-1], logprobs.lengths
    suspects = np.flatnonzero(lengths > 1) if logprobs.values[-1] or logprobs.values.any() else np.arange(len(lengths))
    for place in (starts, starts + lengths - 1, starts + lengths // 2):
        suspects = suspects[logprobs.values[place[suspects]] == 0]
    rows = sum(not logprobs[row].any() for row in suspects.tolist())
    if not rows:
        return None
    return ReportWarning(
        "zero-values",
        f"{rows:,} of {len(logprobs):,} completions have {name} log-probs of exactly 0 at every token, which says "
        "that each was certain: such zeros mostly stand for missing log-probs.",
        "Recompute them, or leave these out.",
    )


def _zero_kl(samples: Samples) -> ReportWarning | None:
    column, policy, prior = samples.token_kl, samples.policy_logprobs, samples.prior_logprobs
    if column is None or policy is None or prior is None or column.values.any():
        return None
    with np.errstate(invalid="ignore"):  # both impossible: no difference
        differ = int((np.abs(policy.values - prior.values) > APART).sum())
    return _zero_column("token_kl", f"policy and prior differ at {_times(differ, 'token')}") if differ else None


def _zero_entropy(samples: Samples) -> ReportWarning | None:
    column, policy = samples.policy_entropy, samples.policy_logprobs
    if column is None or policy is None or column.values.any():
        return None
    uncertain = int((policy.values < -APART).sum())
    seen = f"the policy was not certain of {_times(uncertain, 'token')}"
    return _zero_column("policy_entropy", seen) if uncertain else None


def _zero_column(name: str, why: str) -> ReportWarning:
    return ReportWarning(
        "zero-values",
        f"{name} is exactly 0 at every token, but by the log-probs {why}: the zeros stand for values that are missing.",
        f"Recompute {name}, or leave the column out.",
    )


def _past_end(samples: Samples) -> ReportWarning | None:
    """Tell an end or padding token by this: it fills the ends of rows from different places on, and nothing follows it.

    Where samples say that all such rows were cut off, they are of a model that repeats itself.
    """
    kept = samples.actions.kept
    values, offsets, lengths = kept.values, kept.offsets, kept.lengths
    longer = np.flatnonzero(lengths > 1)
    last = offsets[1:][longer] - 1
    filled = last[values[last] == values[last - 1]]
    ids, counts = np.unique(values[filled], return_counts=True)
    for end in ids[np.argsort(-counts, kind="stable")][:ENDS_TRIED]:
        rows, behind = _rows_that_go_on(samples, int(end))
        if behind:
            return ReportWarning(
                "past-the-end",
                f"{len(rows):,} of {len(lengths):,} completions go on after their end (the first is completion "
                f"{rows[0]}, counted from 0): the token {end} is repeated to their last place, and nothing else ever "
                f"follows it, as padding does. If it is padding or the end-of-sequence token, {behind:,} of "
                f"{len(values):,} tokens should not count, and are in the log-probs, the KL, the lengths and the "
                "n-grams.",
                "End each completion with its first end-of-sequence token.",
            )
    return None


def _rows_that_go_on(samples: Samples, end: int) -> tuple[Indices, int]:
    """Return the completions that repeat a token up to their end, and how many tokens are too many; 0 if by right."""
    values, offsets = samples.actions.kept.values, samples.actions.kept.offsets
    places = np.flatnonzero(values == end)
    within = places[~np.isin(places + 1, offsets)]
    if (values[within + 1] != end).any():
        return within[:0], 0
    rows, firsts = np.unique(np.searchsorted(offsets, within, side="right") - 1, return_index=True)
    begins = within[firsts] - offsets[rows]
    cut_off = samples.terminated is not None and not samples.terminated[rows].any()
    few = len(rows) < FEWEST_ROWS or len(within) < FEWEST_BEHIND or len(np.unique(begins)) == 1
    return rows, 0 if few or cut_off else len(within)


def _doubled_start(prompts: Ragged) -> ReportWarning | None:
    longer = np.flatnonzero(prompts.lengths > 1)
    if len(longer) < FEWEST_PROMPTS:
        return None
    first, second = (prompts.values[prompts.offsets[longer] + place] for place in (0, 1))
    doubled = longer[second == first]
    if (first != first[0]).any() or len(doubled) in (0, len(longer)):
        return None
    return ReportWarning(
        "doubled-start",
        f"{len(doubled):,} of {len(prompts):,} prompts begin with the token {first[0]} twice, the others with it once "
        f"(the first of them is prompt {doubled[0]}, counted from 0): a start token was put before text that had one, "
        "and models see these prompts differently from the others.",
        "Tokenise them again, without a second start token.",
    )


def _times(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
