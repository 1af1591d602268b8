"""Causes that values and rows tell, in words: what was seen, and what to do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from esscher.mismatch.findings import Cause
from esscher.mismatch.units import BASES
from esscher.mismatch.values import rounding_of
from esscher.mismatch.wording import SMALLEST_STDERR, engine, listed, number, percent, times

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.mismatch.alignment import Lengths, Pairs, Shift
    from esscher.mismatch.findings import Column
    from esscher.mismatch.units import Scale, Shape
    from esscher.mismatch.values import Grid, Sentinel
    from esscher.mismatch.wrong_rows import Exchanged, OtherRows

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]
    Mask = NDArray[np.bool_]

KINDS_SHOWN = 3
SHAPES: dict[Shape, tuple[str, str]] = {
    "negated": (
        "negated log-probs: what is above 0 fits the other column once its sign is changed",
        "change the sign: a log-prob is at most 0, its negative is a loss",
    ),
    "probabilities": (
        "probabilities instead of their logarithms: its values lie between 0 and 1, and their logarithms fit the other "
        "column",
        "take the logarithm, better in the engine, where small probabilities are not rounded to 0",
    ),
    "running-sums": (
        "running sums: along each row its values only fall, and the steps between them fit the other column",
        "record each token's own log-prob, not the sum up to it",
    ),
}
# Rounding that moves a completion's log-prob by less than this moves its importance weight by less than 1 %.
HARMLESS_ROUNDING = 0.01
# Where this share of the rows that differ goes on shifted from somewhere within, text was tokenised anew.
TOKENISED_ANEW = 0.2
NAN_ADVICE = "NaN and null are log-probs that were not recorded: have the engine return one for every sampled token"
SENTINEL_ADVICE = "it stands for 'no log-prob here': mask these tokens, or have the engine return theirs"
INFINITE_ADVICE = (
    "-inf says that the engine could not have produced the token: look for a filter of logits (top-k, top-p, banned "
    "tokens, a grammar) that only one engine applies"
)


def sentinels(column: Column, found: tuple[Sentinel, ...], tokens: int) -> Cause:
    """Say which values are no log-probs."""
    shown = ", ".join(f"{_shown(value)} ({times(n, 'token')})" for value, n in found[:KINDS_SHOWN])
    more = f" and {len(found) - KINDS_SHOWN} more values" * (len(found) > KINDS_SHOWN)
    bad = sum(n for _, n in found)
    advice = SENTINEL_ADVICE
    if math.isnan(found[0].value):
        advice = NAN_ADVICE
    elif found[0].value == -math.inf:
        advice = INFINITE_ADVICE
    evidence = f"{shown}{more} in the {engine(column)}'s column: {percent(bad, tokens)} of its tokens hold no log-prob"
    return Cause("sentinel", column, evidence, advice, bad, bad / tokens, math.nan, found[0].value)


def _shown(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:+g}"


def shape(column: Column, found: Shape, tokens: int) -> Cause:
    """Say that a column holds something else than log-probs."""
    what, advice = SHAPES[found]
    evidence = f"the {engine(column)}'s column holds {what}; read as such, it is compared"
    return Cause(found, column, evidence, advice, tokens, 1.0, math.nan)


def exchanged(found: Exchanged, numbers: Integers, tokens: int, of: int) -> Cause:
    """Say that rows stand beside other completions than theirs."""
    fits = ", ".join(
        f"{numbers[a]} fits {numbers[b]}" for a, b in zip(found.rows[:KINDS_SHOWN], found.source, strict=False)
    )
    evidence = (
        f"{len(found.rows)} of {times(len(numbers), 'completion')}, rows {listed(numbers[found.rows])}: the rollout's "
        f"log-probs belong to another row: of the trainer's, {fits}{', …' * (len(found.rows) > KINDS_SHOWN)}; put "
        f"there, the mean difference falls from {number(found.before)} to {number(found.after)} nats"
    )
    advice = "rows were put into another order in one engine: join the columns on an id of the completion, not by place"
    rows = tuple(numbers[found.rows].tolist())
    return Cause("exchanged-rows", "both", evidence, advice, tokens, tokens / of, found.before, rows=rows)


def scale(found: Scale, pairs: Pairs) -> Cause:
    """Say that all log-probs of a column were multiplied by one number."""
    n, size = len(pairs.row), float(np.median(np.abs(pairs.difference)))
    error = f" ± {number(found.stderr, 2)}" if found.stderr > SMALLEST_STDERR else ""
    if found.base is None:
        tau, stderr = 1.0 / found.ratio, found.stderr / found.ratio**2
        error = f" ± {number(stderr, 2)}" if stderr > SMALLEST_STDERR else ""
        evidence = (
            f"the rollout's log-probs are the trainer's divided by {number(tau, 5)}{error}, of likely and unlikely "
            "tokens alike: by a temperature, as it seems, and not renormalised after it"
        )
        advice = "divide logits by the sampling temperature before log_softmax, never the log-probs after it"
        return Cause("divided-by-temperature", "rollout", evidence, advice, n, 1.0, size, tau)
    column: Column = "train" if found.in_train else "rollout"
    ratio = max(found.ratio, 1.0 / found.ratio)
    error = f" ± {number(found.stderr / found.ratio * ratio, 2)}" if error else ""
    evidence = (
        f"the base of the logarithm: every ratio is {number(ratio, 5)}{error}, and ln {found.base} or its inverse is "
        f"{number(max(BASES[found.base], 1 / BASES[found.base]), 5)}; the {engine(column)}'s logarithms are to base "
        f"{found.base}, the other's in nats"
    )
    advice = f"multiply the {engine(column)}'s log-probs by ln {found.base} = {number(BASES[found.base], 5)}"
    return Cause("log-base", column, evidence, advice, n, 1.0, size, float(found.base))


def other_rows(found: OtherRows, pairs: Pairs, numbers: Integers) -> Cause:
    """Say that some rows are of another policy."""
    n = int(np.isin(pairs.row, found.rows).sum())
    evidence = (
        f"{len(found.rows)} of {times(len(np.unique(pairs.row)), 'completion')}, rows {listed(numbers[found.rows])}, "
        f"differ by {number(found.size)} nats a token on average (mean {found.mean:+.3g}), the others by "
        f"{number(found.ordinary)}: the log-probs of these rows are of another policy"
    )
    advice = (
        "one worker had other weights, as of an earlier step, or another sampler: see which one made these rows, and "
        "leave them out or have it fetch the weights"
    )
    rows = tuple(numbers[found.rows].tolist())
    return Cause("other-policy", "both", evidence, advice, n, n / len(pairs.row), found.size, found.mean, rows)


def lengths(found: Lengths, tokens: int, lacking: int, completions: int) -> Cause:
    """Say how rows differ in length."""
    kinds = {
        "its last token in": found.last,
        "its first token in": found.first,
        "one within, after which it goes on shifted by one, in": found.within,
        "more than one token in": found.more,
    }
    what = ", ".join(f"{kind} {n}" for kind, n in kinds.items() if n)
    column: Column = "both"
    if not found.shorter_train:
        column = "rollout"
    elif not found.shorter_rollout:
        column = "train"
    whose = "now one's, now the other's" if column == "both" else f"the {engine(column)}'s"
    of = times(completions, "completion")
    evidence = f"{found.differing} of {of} differ in length; the shorter row, {whose}, lacks {what}"
    if found.within >= TOKENISED_ANEW * found.differing:
        advice = "text was tokenised anew, into other tokens: hand the sampled token ids to the trainer, never the text"
    elif found.last >= max(found.first, found.more):
        advice = "one engine drops the end-of-sequence token: count it in both, it is a token that was sampled"
    else:
        advice = "check where completions begin and end in each engine: hand over token ids with their lengths"
    return Cause("length", column, evidence, advice, lacking, lacking / tokens, math.nan)


def shift(found: Shift, of: int) -> Cause:
    """Say that rows lie beside each other one token off."""
    where = "later" if found.by > 0 else "earlier"
    evidence = (
        f"{times(found.rows, 'completion')}: the rollout's log-probs come one token {where} than the trainer's; moved "
        f"back, the mean difference falls from {number(found.before)} to {number(found.after)} nats"
    )
    advice = (
        "a log-prob at position t belongs to the token at t, which the logits at t - 1 predict: shift once, not twice"
    )
    return Cause("shift", "both", evidence, advice, found.tokens, found.tokens / of, found.before, float(found.by))


def absent(column: Column, rows: int, tokens: int, of: int, completions: int) -> Cause:
    """Say that whole rows are empty."""
    have = "has" if rows == 1 else "have"
    evidence = (
        f"{rows} of {times(completions, 'completion')} {have} no log-probs at all in the {engine(column)}'s column"
    )
    advice = "leave these completions out, or have the engine return their log-probs"
    return Cause("missing", column, evidence, advice, tokens, tokens / of, math.nan, 0.0)


def missing(column: Column, where: Mask, pairs: Pairs) -> Cause:
    """Say that zeros were filled in."""
    n, of = int(where.sum()), len(where)
    other = (pairs.rollout if column == "train" else pairs.train)[where]
    zero = (pairs.train if column == "train" else pairs.rollout) == 0
    _, of_row = pairs.by_row()
    whole = int(((of_row.sums(zero) == of_row.sizes) & (of_row.sums(where) > 0)).sum())
    evidence = (
        f"{times(n, 'token')} ({percent(n, of)}) are exactly 0 in the {engine(column)}'s column, {whole} whole rows "
        f"among them, where the other's are {number(float(np.median(other)))} in the median: a probability of 1 they "
        "did not have"
    )
    advice = "zeros were filled in for log-probs that are missing: mask these tokens, or have the engine return theirs"
    if zero.all():
        evidence = f"all {times(of, 'token')} that can be compared are exactly 0 in the {engine(column)}'s column"
        advice += "; sampling with top_k=1 gives this too: then the log-probs before truncation are the ones to record"
    return Cause("missing", column, evidence, advice, n, n / of, float(np.median(np.abs(other))), 0.0)


def padding(where: Mask, pairs: Pairs) -> Cause:
    """Say that rows are 0 in both columns."""
    n, rows = int(where.sum()), len(np.unique(pairs.row[where]))
    are = "is" if rows == 1 else "are"
    evidence = f"{times(rows, 'completion')} ({times(n, 'token')}) {are} 0 throughout in both columns"
    advice = "these rows are padding, or were never filled in: leave them out"
    return Cause("missing", "both", evidence, advice, n, n / len(where), 0.0, 0.0)


def rounding(column: Column, grid: Grid, values: Floats, mean_length: float, of: int) -> Cause:
    """Say that a column was rounded to 16 bits, and whether that matters."""
    steps = rounding_of(values, grid)
    # Rounding errors are uniform on ± half a unit in the last place.
    per_completion = math.sqrt(float(np.square(steps).mean()) / 3 * mean_length)
    evidence = (
        f"all {times(len(values), 'value')} of the {engine(column)}'s column are {grid.name} numbers: rounding moved "
        f"each by up to {number(float(steps.max()))} nats, a completion's log-prob by about {number(per_completion)}"
    )
    advice = "hand log-probs over in float32: they are differences of large logits, whose digits 16 bits do not hold"
    if per_completion < HARMLESS_ROUNDING:
        advice = "harmless at this size; float32 would be exact"
    return Cause(
        "bf16-rounding", column, evidence, advice, len(values), len(values) / of, float(np.median(steps)), grid.bits
    )
