"""Faults put into real log-probs, and which causes `mismatch` then names: the tables of docs/mismatch.md.

``python tests/mismatch_table.py`` writes them anew.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from esscher import Ragged
from esscher.mismatch import mismatch
from esscher.mismatch.findings import CauseName
from rollouts import COLLAPSED, SEEDS, SMOLLM2, golden

PAGE = Path(__file__).parent.parent / "docs" / "mismatch.md"
NAMES = get_args(CauseName)
TEMPERATURE = "sampling-temperature"
FAULT_SEEDS = range(3)
RUNS = len(SEEDS) * len(FAULT_SEEDS)


class Columns(NamedTuple):
    train: Ragged
    rollout: Ragged
    wrong_end: np.ndarray
    of_prompt: int = SMOLLM2.completions


def with_values(column, values):
    return Ragged(values, column.offsets)


def some_rows(rng, column, share):
    """True for the tokens of a random share of the rows."""
    return np.repeat(rng.permutation(len(column)) < share * len(column), column.lengths)


def filled(value, share=0.03, rows=False):
    """Put a value in place of some of the rollout's log-probs."""

    def fault(columns, rng):
        rollout = columns.rollout
        tokens = len(rollout.values)
        where = some_rows(rng, rollout, share) if rows else rng.permutation(tokens) < share * tokens
        return columns._replace(rollout=with_values(rollout, np.where(where, np.float32(value), rollout.values)))

    return fault


def without_token(place, share=0.25):
    """Take one token out of a share of the rollout's rows; `place` gives its place in a row of a length."""

    def fault(columns, rng):
        chosen = rng.permutation(len(columns.rollout)) < share * len(columns.rollout)
        rows = [
            np.delete(row, place(rng, len(row))) if hit and len(row) > 1 else row
            for row, hit in zip(columns.rollout, chosen, strict=True)
        ]
        return columns._replace(rollout=Ragged.from_rows(rows, np.float32))

    return fault


def some_wrong_ends(share):
    """The trainer scored padding in place of the last token of a share of the rows."""

    def fault(columns, rng):
        chosen = rng.permutation(len(columns.train)) < share * len(columns.train)
        values = columns.train.values.copy()
        values[columns.train.offsets[1:][chosen] - 1] = columns.wrong_end[chosen]
        return columns._replace(train=with_values(columns.train, values))

    return fault


def some_shifted(share):
    """The rollout's log-probs stand one place late in a share of the rows, behind a 0."""

    def fault(columns, rng):
        chosen = rng.permutation(len(columns.rollout)) < share * len(columns.rollout)
        rows = [
            np.concatenate([[0], row[:-1]]) if hit else row for row, hit in zip(columns.rollout, chosen, strict=True)
        ]
        return columns._replace(rollout=Ragged.from_rows(rows, np.float32))

    return fault


def offset(kept):
    """All log-probs are higher by -log of the mass kept; some end above 0."""

    def fault(columns, rng):  # noqa: ARG001
        rollout = columns.rollout
        return columns._replace(rollout=with_values(rollout, rollout.values - np.log(np.float32(kept))))

    return fault


def noisy(sd):
    def fault(columns, rng):
        noise = rng.normal(0, sd, len(columns.rollout.values)).astype(np.float32)
        values = np.minimum(columns.rollout.values + noise, columns.rollout.values / 2)
        return columns._replace(rollout=with_values(columns.rollout, values))

    return fault


def in_rows(share, change):
    """Change the rollout's log-probs in a share of the rows; `change` is given a row and a generator."""

    def fault(columns, rng):
        chosen = rng.permutation(len(columns.rollout)) < share * len(columns.rollout)
        rows = [
            change(row.astype(float), rng) if hit else row for row, hit in zip(columns.rollout, chosen, strict=True)
        ]
        return columns._replace(rollout=Ragged.from_rows(rows, np.float32))

    return fault


def each(change):
    """Change each of the rollout's log-probs alike."""

    def fault(columns, rng):  # noqa: ARG001
        changed = change(columns.rollout.values.astype(float)).astype(np.float32)
        return columns._replace(rollout=with_values(columns.rollout, changed))

    return fault


def exchanged(share):
    """A share of the rows of each prompt stand in each other's places."""

    def fault(columns, rng):
        order = np.arange(len(columns.rollout))
        for rows in order.reshape(-1, columns.of_prompt).copy():
            moved = rng.permutation(rows)[: round(share * columns.of_prompt)]
            order[moved] = np.roll(moved, 1)
        return columns._replace(rollout=columns.rollout.take(order))

    return fault


wrong_end, shifted, constant = some_wrong_ends(1), some_shifted(1), offset(0.9)


def bf16(columns, rng):  # noqa: ARG001
    """Round the rollout's log-probs to the nearest bfloat16."""
    bits = columns.rollout.values.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return columns._replace(rollout=with_values(columns.rollout, rounded.view(np.float32)))


def float16(columns, rng):  # noqa: ARG001
    values = columns.rollout.values.astype(np.float16).astype(np.float32)
    return columns._replace(rollout=with_values(columns.rollout, values))


class Fault(NamedTuple):
    """What is put in, which sampler's completions it needs, and the causes that it is to be named by."""

    expected: frozenset
    sampler: str = "plain"
    change: object = None


def fault(*expected, sampler="plain", change=None):
    return Fault(frozenset(expected), sampler, change)


# In the order in which they happen: the sampler, the trainer's end, some rows, the unit, rounding, what is lost or
# moved, what is filled in.
SAMPLED = {
    "nothing (float32, both engines)": fault(),
    "top-p 0.9": fault("kept-mass", sampler="top-p 0.9"),
    "top-k 20": fault("kept-mass", sampler="top-k 20"),
    "temperature 0.7": fault("sampling-temperature", sampler="temperature 0.7"),
    "temperature 1.3": fault("sampling-temperature", sampler="temperature 1.3"),
    "a bf16 forward pass": fault("noise", sampler="bf16 engine"),
}
CHANGED = {
    "constant offset, -log 0.9": fault("kept-mass", change=constant),
    "padding scored as last token": fault("last-token", change=wrong_end),
    "one nat less, 25% of rows": fault("other-policy", change=in_rows(0.25, lambda row, _: row - 1)),
    "noise of a nat, 25% of rows": fault(
        "other-policy", change=in_rows(0.25, lambda row, rng: -np.abs(row + rng.normal(0, 1, len(row))))
    ),
    "to base 2": fault("log-base", change=each(lambda values: values / np.log(2))),
    "to base 10": fault("log-base", change=each(lambda values: values / np.log(10))),
    "divided by 0.7": fault("divided-by-temperature", change=each(lambda values: values / 0.7)),
    "negated": fault("negated", change=each(np.negative)),
    "probabilities": fault("probabilities", change=each(np.exp)),
    "rounded to bfloat16": fault("bf16-rounding", change=bf16),
    "rounded to float16": fault("bf16-rounding", change=float16),
    "last token lost, 25% of rows": fault("length", change=without_token(lambda _, n: n - 1)),
    "first token lost, 25% of rows": fault("length", change=without_token(lambda *_: 0)),
    "a token lost within, 25% of rows": fault("length", change=without_token(lambda rng, n: int(rng.integers(n)))),
    "shifted by one": fault("shift", change=shifted),
    "half of the rows exchanged": fault("exchanged-rows", change=exchanged(0.5)),
    "running sums": fault("running-sums", change=in_rows(1, lambda row, _: np.cumsum(row))),
    "zeros, 10% of rows": fault("missing", change=filled(0, 0.1, rows=True)),
    "zeros, 3% of tokens": fault("missing", change=filled(0)),
    "+1, 3% of tokens": fault("sentinel", change=filled(1)),
    "NaN, 3% of tokens": fault("sentinel", change=filled(np.nan)),
    "-inf, 3% of tokens": fault("sentinel", change=filled(-np.inf)),
    "-100, 3% of tokens": fault("sentinel", change=filled(-100)),
    "-1, 10% of tokens": fault("sentinel", change=filled(-1, 0.1)),
    "-20, 3% of tokens": fault("sentinel", change=filled(-20)),
}
SINGLE = SAMPLED | CHANGED
# Of a collapsed policy the twenty likeliest hold all but 0.002 % of the mass.
OF_COLLAPSED = {name: part for name, part in SINGLE.items() if name != "top-k 20"}
# A constant puts most of its log-probs above 0, and top-p makes most of them 0 by right.
PAIRED_OF_COLLAPSED = {name: part for name, part in OF_COLLAPSED.items() if name != "constant offset, -log 0.9"}
ONE_TOKEN, ONE_ROW = 1e-6, 1e-6
WEAK = {
    "constant offset, -log 0.999": fault("kept-mass", change=offset(0.999)),
    "constant offset, -log 0.9997": fault("kept-mass", change=offset(0.9997)),
    "padding scored as last token, 30% of rows": fault("last-token", change=some_wrong_ends(0.3)),
    "padding scored as last token, 10% of rows": fault("last-token", change=some_wrong_ends(0.1)),
    "last token lost, one row": fault("length", change=without_token(lambda _, n: n - 1, ONE_ROW)),
    "shifted by one, 10% of rows": fault("shift", change=some_shifted(0.1)),
    "shifted by one, one row": fault("shift", change=some_shifted(ONE_ROW)),
    "zeros, one row": fault("missing", change=filled(0, ONE_ROW, rows=True)),
    "zero, one token": fault("missing", change=filled(0, ONE_TOKEN)),
    "+1, one token": fault("sentinel", change=filled(1, ONE_TOKEN)),
    "-100, one token": fault("sentinel", change=filled(-100, ONE_TOKEN)),
    "-50, one token": fault("sentinel", change=filled(-50, ONE_TOKEN)),
    "-1, 3% of tokens": fault("sentinel", change=filled(-1, 0.03)),
    "-1, 1% of tokens": fault("sentinel", change=filled(-1, 0.01)),
    "noise of 0.001 nats": fault("noise", change=noisy(1e-3)),
    "noise of 0.0001 nats": fault("noise", change=noisy(1e-4)),
}
SHAPES = ("negated", "probabilities", "running-sums")
SCALES = ("log-base", "divided-by-temperature")
# The end that is lost cannot be wrong, a shift moves it out, and rows of other lengths or one place on belong to no
# other row; a multiple of what was renormalised, rounded probabilities and sums of rounded steps have lost what tells
# the other cause; and other pairs of one kind of change are not two causes.
APART = {
    frozenset(pair)
    for pair in (
        *[("last-token", "length"), ("last-token", "shift"), ("length", "shift"), SCALES],
        *[("exchanged-rows", name) for name in ("length", "shift", "other-policy")],
        *[(one, two) for one in SCALES for two in ("sampling-temperature", "kept-mass")],
        *[(one, two) for one in SHAPES for two in SHAPES if one != two],
        *[("bf16-rounding", "probabilities"), ("bf16-rounding", "running-sums"), ("probabilities", "missing")],
        *[("probabilities", name) for name in (*SCALES, "shift")],
        *[("running-sums", "missing"), ("other-policy", "sampling-temperature")],
    )
}
# A probability of 1; and what a sum could be, so that the step behind it is lost too.
UNTELLABLE = {
    ("probabilities", "+1, 3% of tokens"),
    *[("running-sums", f"-{n} of tokens") for n in ("1, 10%", "20, 3%")],
}


def pairs(single=SINGLE):
    """All pairs that make sense, in the order in which their parts happen."""
    both = {
        "temperature 0.7, top-p 0.9": fault(TEMPERATURE, "kept-mass", sampler="temperature 0.7, top-p 0.9"),
        "bf16 engine, temperature 0.7": fault(TEMPERATURE, "noise", sampler="bf16 engine, temperature 0.7"),
        "bf16 engine, top-p 0.9": fault("kept-mass", "noise", sampler="bf16 engine, top-p 0.9"),
    }
    names = list(single)[1:]
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            if _fit(single[first], single[second]) and (*single[first].expected, second) not in UNTELLABLE:
                both[f"{first}; {second}"] = (single[first], single[second])
    return both


def _fit(first, second):
    if second.change is None or first.expected == second.expected:
        return False
    # Samplers make a temperature with truncation in earnest.
    if second.change is constant and first.sampler.startswith("temperature"):
        return False
    return first.expected | second.expected not in APART


def named(faults, seed, fault_seed, **how):
    """The causes that are named when these faults are put in."""
    return report_of(faults, seed, fault_seed, **how).names


def report_of(faults, seed, fault_seed, with_groups=True, few=False, world=SMOLLM2):
    """`few`: of two prompts, four completions each."""
    rng = np.random.default_rng([seed, fault_seed])
    rollout = golden(faults[0].sampler, seed, world)
    columns, groups = Columns(rollout.train, rollout.rollout, rollout.wrong_end, world.completions), rollout.groups
    rows = np.arange(len(columns.train))
    if few:
        rows, groups = np.array([*range(4), *range(world.completions, world.completions + 4)]), [0, 4, 8]
        columns = Columns(columns.train.take(rows), columns.rollout.take(rows), columns.wrong_end[rows], 4)
    for part in faults:
        if part.change is not None:
            columns = part.change(columns, rng)
    return mismatch(columns.train, columns.rollout, groups if with_groups else None, rollout.terminated[rows])


def counts(faults, **how):
    """How often each name, or "clean", was called."""
    calls = Counter()
    for seed in SEEDS:
        for fault_seed in FAULT_SEEDS:
            calls.update(named(faults, seed, fault_seed, **how) or ("clean",))
    return calls


def single_table(faults=SINGLE, **how):
    columns = ["clean", *NAMES]
    lines = [f"| injected | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, part in faults.items():
        calls = counts([part], **how)
        expected = part.expected or {"clean"}
        cells = [f"**{calls[c]}**" if c in expected else str(calls[c] or "") for c in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def judged(parts, **how):
    """How often pairs were named: runs, both, exactly, and what was missed or too much."""
    faults = [parts] if isinstance(parts, Fault) else list(parts)
    expected = frozenset().union(*(part.expected for part in faults))
    row = Counter()
    for seed in SEEDS:
        got = set(named(faults, seed, 0, **how))
        row["runs"] += 1
        row["both"] += expected <= got
        row["exactly"] += expected == got
        row.update(f"not {name}" for name in expected - got)
        row.update(f"also {name}" for name in got - expected)
    return tuple(name for name in NAMES if name in expected), row


def all_judged(faults, step=1, **how):
    """Every pair, or each `step`-th; where top-p makes most log-probs 0, zeros that were filled in are not told."""
    judgements = (judged(parts, **how) for parts in list(pairs(faults).values())[::step])
    return (found for found in judgements if not (how and found[0] == ("missing", "kept-mass")))


def pair_table(faults=SINGLE, **how):
    """Pairs by what both parts are to be named: how many runs, and in how many exactly these were, or what else was."""
    rows, every = {}, Counter()
    for names, row in all_judged(faults, **how):
        rows.setdefault(names, Counter()).update(row)
        every.update(row)
    lines = ["| injected | runs | both named | nothing else named | what went wrong |", "|---|---|---|---|---|"]
    for names, row in [*rows.items(), (["all"], every)]:
        wrong = [] if row is every else [f"{key}: {n}" for key, n in sorted(row.items()) if key[:4] in ("not ", "also")]
        cells = [" + ".join(names), row["runs"], row["both"], row["exactly"], ", ".join(wrong)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def single_tables():
    return {
        "single": single_table(),
        "single of a collapsed policy": single_table(OF_COLLAPSED, world=COLLAPSED),
        "single without groups": single_table(with_groups=False),
        "single with few": single_table(few=True),
        "weak": single_table(WEAK),
    }


def tables():
    return single_tables() | {
        "pairs": pair_table(),
        "pairs of a collapsed policy": pair_table(PAIRED_OF_COLLAPSED, world=COLLAPSED),
    }


def write_page():
    text = PAGE.read_text()
    for name, table in tables().items():
        text = re.sub(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", rf"\g<1>{table}\n\g<2>", text, flags=re.DOTALL)
    PAGE.write_text(text)


if __name__ == "__main__":
    write_page()
