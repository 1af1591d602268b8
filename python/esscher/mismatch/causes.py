"""Each cause in words: what was seen, and what to do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from esscher.mismatch.record import Cause
from esscher.mismatch.structure import LOUD
from esscher.mismatch.units import BASES
from esscher.mismatch.values import rounding_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.mismatch.alignment import Lengths, Pairs, Shift
    from esscher.mismatch.record import Column
    from esscher.mismatch.rows import Exchanged, OtherRows
    from esscher.mismatch.structure import KeptMass, LastTokens, Noise, Temperature
    from esscher.mismatch.units import Scale, Shape
    from esscher.mismatch.values import Grid, Sentinel

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]
    Mask = NDArray[np.bool_]

KINDS_SHOWN, ROWS_SHOWN = 3, 8
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
HARMLESS = 0.01
# With so few tokens differing, it is those that are strange, not the engines.
FEW = 0.2
# Where this share of the rows that differ goes on shifted from somewhere within, text was tokenised anew.
WITHIN = 0.2
# What float32 log-probs bear.
SMALLEST_STDERR = 1e-6
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
    if found.within >= WITHIN * found.differing:
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
    filled = np.bincount(pairs.row, weights=(pairs.train if column == "train" else pairs.rollout) == 0)
    rows = np.unique(pairs.row[where])
    whole = int((filled == np.bincount(pairs.row))[rows].sum())
    evidence = (
        f"{times(n, 'token')} ({percent(n, of)}) are exactly 0 in the {engine(column)}'s column, {whole} whole rows "
        f"among them, where the other's are {number(float(np.median(other)))} in the median: a probability of 1 they "
        "did not have"
    )
    advice = "zeros were filled in for log-probs that are missing: mask these tokens, or have the engine return theirs"
    if not (pairs.train if column == "train" else pairs.rollout).any():
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
    if per_completion < HARMLESS:
        advice = "harmless at this size; float32 would be exact"
    return Cause(
        "bf16-rounding", column, evidence, advice, len(values), len(values) / of, float(np.median(steps)), grid.bits
    )


def last_tokens(found: LastTokens, pairs: Pairs) -> Cause:
    """Say that only the ends of rows differ."""
    n = int(found.hit.sum())
    size = float(np.median(np.abs(pairs.difference[found.hit])))
    evidence = (
        f"the last token of {n} of {times(found.of, 'completion')} differs by {number(size)} nats in the median, where "
        f"of all other tokens 99% differ by less than {number(found.ordinary)}"
    )
    advice = (
        "the end of a completion is handled in two ways: count the end-of-sequence token if it was sampled, give it "
        "its own log-prob and not padding's, and mask it in neither engine or in both"
    )
    return Cause("last-token", "both", evidence, advice, n, n / len(found.hit), size)


def temperature(found: Temperature, pairs: Pairs) -> Cause:
    """Say that one engine's logits are divided by another number than the other's."""
    tau, stderr = found.tau, found.stderr
    if found.column == "train":
        tau, stderr = 1.0 / tau, stderr / tau**2
    size = np.abs(pairs.difference)
    if found.bound:
        how = (
            f"{number(tau)} or {'below' if tau < 1 else 'above'}, as unlikely tokens are "
            f"{'less' if tau < 1 else 'more'} likely in it and likely ones the other way. Given groups, tokens of one "
            "context tell it exactly"
        )
    else:
        error = f" ± {number(stderr, 2)}" if stderr > SMALLEST_STDERR else ""
        how = (
            f"{number(tau, 4)}{error}, from {times(found.pairs, 'pair')} of tokens of one context, which lie on a line"
        )
    evidence = (
        f"the {engine(found.column)}'s logits were divided by a sampling temperature, and the "
        f"{engine('train' if found.column == 'rollout' else 'rollout')}'s were not: it is {how}"
    )
    advice = (
        "divide the trainer's logits by the sampling temperature before log_softmax, or sample at temperature 1; know "
        "which log-probs the rollout engine returns (vLLM: --logprobs-mode raw_logprobs or processed_logprobs)"
    )
    return Cause("sampling-temperature", found.column, evidence, advice, len(size), 1.0, float(np.median(size)), tau)


def kept_mass(found: KeptMass, pairs: Pairs) -> Cause:
    """Say that one column was renormalised after truncation."""
    mean, stderr = found.mean
    size = np.abs(pairs.difference)
    higher = int((pairs.difference > 0).sum() if found.column == "rollout" else (pairs.difference < 0).sum())
    evidence = (
        f"the {engine(found.column)}'s log-probs are renormalised over part of the vocabulary, which holds "
        f"{number(mean)} ± {number(stderr, 2)} of the other's probability: {percent(higher, len(size))} of tokens are "
        f"higher, by {number(float(np.median(size)))} nats in the median"
    )
    above = int(((pairs.rollout if found.column == "rollout" else pairs.train) > 0).sum())
    if above:
        evidence += f", and {above} of them end above 0, where no log-prob is: a constant was added"
    elif found.one_way:
        evidence += f", and 99% by no more than {number(-math.log(found.least))} = -log {number(found.least)}"
    advice = (
        "sample without top-p, top-k and min-p, or apply the same truncation in the trainer; weights made with these "
        "log-probs miss what the truncation cut off"
    )
    return Cause("kept-mass", found.column, evidence, advice, len(size), 1.0, float(np.median(size)), mean)


def noise(found: Noise, pairs: Pairs) -> Cause:
    """Say that engines differ without a pattern."""
    difference, size = pairs.difference, np.abs(pairs.difference)
    advice = (
        "other kernels, 16-bit forward passes or an older policy do this: see whether the effective sample size bears "
        "it; if not, correct with truncated importance weights, or run both engines in one precision on one policy"
    )
    if found.within_contexts:
        evidence = (
            f"what remains between tokens of one context has a standard deviation of about {number(found.sd)} nats a "
            "token"
        )
    elif found.tokens <= FEW * len(size) and np.median(size) < LOUD:
        rows = times(len(np.unique(pairs.row[found.where])), "completion")
        evidence = (
            f"{times(found.tokens, 'token')} ({percent(found.tokens, len(size))}) of {rows} "
            f"differ{'s' * (found.tokens == 1)}, by "
            f"{number(float(np.median(size[found.where])))} nats in the median and {number(float(size.max()))} at "
            "most, where the others agree"
        )
        advice = "look at these completions: their text may have been edited, or tokenised anew into other tokens"
    else:
        evidence = (
            f"{times(found.tokens, 'token')} ({percent(found.tokens, len(size))}) "
            f"differ{'s' * (found.tokens == 1)} without a pattern: standard deviation about {number(found.sd)} nats, "
            f"mean {number(float(difference.mean()))}, largest {number(float(size.max()))}"
        )
    # Seen in most pairs of one context, it is in all tokens.
    n = len(size) if found.within_contexts else found.tokens
    return Cause("noise", "both", evidence, advice, n, n / len(size), float(np.median(size)), found.sd)


def listed(rows: Integers) -> str:
    """Return the first of some rows' numbers."""
    return f"{', '.join(map(str, rows[:ROWS_SHOWN].tolist()))}{', …' * (len(rows) > ROWS_SHOWN)} (counted from 0)"


def engine(column: Column) -> str:
    """Return who made a column."""
    return {"train": "trainer", "rollout": "rollout", "both": "two engines"}[column]


def times(n: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def percent(part: int, whole: int) -> str:
    """Return a share as a percentage: with two digits where it is small, and 100% only if it is all."""
    value = 100 * part / whole
    return f"{value:.2g}%" if value < 10 else f"{min(value, 99.9):.3g}%" if part < whole else "100%"


def number(value: float, digits: int = 3) -> str:
    """Return a number with so many significant digits."""
    return f"{value:.{digits}g}"
