"""The story of a run, as a table that grows in a terminal, and as a page."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.console import Console, Group
from rich.padding import Padding
from rich.text import Text

from esscher.report import digits
from esscher.report.page import Card, card, fill, write
from esscher.report.table import Heading, Table, print_section, print_warnings

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence

    from esscher.estimate import Estimate
    from esscher.trend import Trend, TrendEvent, TrendStep

# So many steps are shown in a terminal, at equal distances; those of events besides.
ROWS = 24
MOST_PLACES = 3
ANY_WIDTH = 10**6
NO_EVENTS = "Nothing that is looked for has been seen."


class StepColumn(NamedTuple):
    """A column of the table of steps: its heading, how wide it is, and its cell; `None` where nothing tells it."""

    name: str
    width: int
    cell: Callable[[TrendStep], str | None]


def _estimated(of: Callable[[TrendStep], Estimate | None]) -> Callable[[TrendStep], str | None]:
    def cell(step: TrendStep) -> str | None:
        found = of(step)
        return None if found is None else _short(found)

    return cell


def _value(of: Callable[[TrendStep], Estimate | float | None]) -> Callable[[TrendStep], str | None]:
    def cell(step: TrendStep) -> str | None:
        found = of(step)
        value = found if found is None or isinstance(found, float) else found.value
        return None if value is None else "" if np.isnan(value) else digits.number(value, 3)

    return cell


def _regret(step: TrendStep) -> str | None:
    if step.frontier is None:
        return None
    return "" if step.frontier.regret is None else _short(step.frontier.regret)


def _short(estimate: Estimate) -> str:
    """As `digits.estimate`, with three decimals at most, so that steps stand below each other."""
    value, stderr = estimate
    if not np.isfinite([value, stderr]).all() or max(abs(value), stderr) >= digits.LARGEST:
        return digits.estimate(estimate)
    places = min(max(1 - int(np.floor(np.log10(stderr))), 0), MOST_PLACES) if stderr > 0 else MOST_PLACES
    return f"{value:.{places}f} ± {stderr:.{places}f}".removeprefix("-" if round(value, places) == 0 else "")


# In the order in which they are given up where a terminal is narrow, from the last.
COLUMNS = (
    StepColumn("step", 6, lambda step: str(step.step)),
    StepColumn("reward", 14, _estimated(lambda step: step.reward)),
    StepColumn("KL, nats", 13, _estimated(lambda step: step.best_kl)),
    StepColumn("entropy", 7, _value(lambda step: step.best_entropy)),
    StepColumn("distinct", 8, _value(lambda step: step.distinct_2)),
    StepColumn("length", 6, _value(lambda step: step.length)),
    StepColumn("gap, nats", 12, _estimated(lambda step: step.best_gap)),
    StepColumn("regret", 13, _regret),
    StepColumn("mismatch", 8, _value(lambda step: None if step.mismatch is None else step.mismatch.mean_difference)),
    StepColumn("MI, nats", 8, _value(lambda step: step.mutual_information)),
    StepColumn("cut off", 7, _value(lambda step: step.cut_off)),
    StepColumn("alike", 6, _value(lambda step: step.alike)),
    StepColumn("unique", 6, _value(lambda step: step.unique_share)),
    StepColumn("ESS", 6, _value(lambda step: step.ess)),
    StepColumn("excess", 8, _value(lambda step: step.excess_collapse)),
)
MEANINGS = {
    "distinct": "distinct 2-grams of two completions of a prompt",
    "gap, nats": "KL(policy‖target), by the prior's samples if given, else by the step's own",
    "regret": "how much more reward the step's KL could have bought",
    "mismatch": "mean |difference| of the two engines' log-probs, nats a token",
    "MI, nats": "mutual information of prompt and completion",
    "cut off": "share of completions that end at the longest length",
    "alike": "share of prompts whose completions all have one reward",
    "unique": "share of different completions of a prompt",
    "ESS": "share of completions that carry the target's weights",
    "excess": "distinct minus the target's, by the step's own samples",
}


def columns_of(steps: Sequence[TrendStep], width: int) -> tuple[StepColumn, ...]:
    """Return the columns that some of the steps have something for, the first ones that fit into the width."""
    columns = (*COLUMNS[:2], *_rewards_by_name(steps), *COLUMNS[2:])
    filled = [column for column in columns if any(column.cell(step) is not None for step in steps)]
    ends = np.cumsum([column.width + 2 for column in filled])
    return tuple(column for column, end in zip(filled, ends, strict=True) if end <= width)


def _rewards_by_name(steps: Sequence[TrendStep]) -> list[StepColumn]:
    """Return a column for each of several rewards; a single one is the reward."""
    names = list(dict.fromkeys(name for step in steps for name in step.rewards_by_name))
    width = COLUMNS[1].width
    return [
        StepColumn(name, max(width, len(name)), _estimated(partial(_reward, name=name)))
        for name in (names if len(names) > 1 else ())
    ]


def _reward(step: TrendStep, name: str) -> Estimate | None:
    return step.rewards_by_name.get(name)


class TrendLines:
    """Prints steps line by line under a heading, with the columns that the first one fills and there is room for."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._columns: tuple[StepColumn, ...] = ()

    def show(self, step: TrendStep, events: Iterable[TrendEvent]) -> None:
        """Print a step, and the events that are named at it."""
        if not self._columns:
            self._columns = columns_of([step], self._console.width)
            self._print(Text("  ".join(column.name.rjust(column.width) for column in self._columns), "dim"))
        self._print(Text("  ".join((column.cell(step) or "").rjust(column.width) for column in self._columns)))
        for event in events:
            since = "" if event.began == event.named else f", since step {event.began}"
            self._print(Text(f"     ▲ {event.what}{since}", "yellow"))

    def _print(self, line: Text) -> None:
        self._console.print(line, soft_wrap=True, highlight=False)


def shown_steps(trend: Trend, most: int = ROWS) -> list[TrendStep]:
    """Return steps at equal distances, the first and the last, and those at which an event began or was named."""
    steps = trend.steps
    of_events = {step for event in trend.events for step in (event.began, event.named)}
    even = {int(i) for i in np.linspace(0, len(steps) - 1, min(most, len(steps))).round()} if steps else set()
    return [step for i, step in enumerate(steps) if i in even or step.step in of_events]


def counts(trend: Trend) -> str:
    """Return how much there was, in one line."""
    steps = trend.steps
    if not steps:
        return "No steps"
    completions, sizes = sum(step.completions for step in steps), {step.completions for step in steps}
    each = f", {sizes.pop():,} a step" if len(sizes) == 1 else ""
    where = f"{steps[0].step} to {steps[-1].step}" if len(steps) > 1 else str(steps[0].step)
    target = f"; target {trend.end.target}" if trend.end.target else ""
    return f"{digits.plural(len(steps), 'step')}, {where}, of {digits.plural(completions, 'completion')}{each}{target}"


def print_trend(trend: Trend, console: Console | None = None, *, explain: bool = False) -> None:
    """Print what happened, and a line for each step, or for as many as are easily read."""
    console = console or Console()
    lines, shown = TrendLines(console), shown_steps(trend)
    console.print(Text(counts(trend), "bold"))
    console.print()
    for step in shown:
        lines.show(step, [event for event in trend.events if event.named == step.step])
    if len(shown) < len(trend.steps):
        left = len(trend.steps) - len(shown)
        console.print(Text(f"{left:,} steps between these are not shown: --json has all", "dim"))
    print_end(trend, console, explain=explain)


def print_end(trend: Trend, console: Console, *, explain: bool = False) -> None:
    """Print what happened, with the evidence, what the reader should know, and what the columns mean."""
    parts = [(Text(_dated(event), "yellow"), Padding(event.evidence, (0, 0, 0, 2))) for event in trend.events]
    print_section(console, "What happened", Group(*(one for part in parts for one in part)) if parts else NO_EVENTS)
    print_warnings(console, trend.end.warnings, explain=explain)
    if trend.steps:
        console.print(Text(f"\n{footnote(trend.steps, console.width)}", "dim"))


def footnote(steps: Sequence[TrendStep], width: int) -> str:
    """Say what the columns mean, and which there was no room for."""
    columns, every = columns_of(steps[:1], width), columns_of(steps[:1], ANY_WIDTH)
    told = "; ".join(f"{one.name}: {MEANINGS[one.name]}" for one in columns if one.name in MEANINGS)
    absent = [one.name for one in every if one not in columns]
    more = f" A wider terminal also has {', '.join(absent)}; --json has all." if absent else ""
    return f"± is one standard error, clustered by prompt. {told[:1].upper()}{told[1:]}.{more}"


def write_trend_page(trend: Trend, path: str | os.PathLike[str], title: str = "The story of a run") -> None:
    """Write the story of a run as one self-contained HTML file, replacing a file that is there.

    Raises
    ------
    ValueError
        If the path is a folder, or there are no steps.
    FileNotFoundError
        If the path's folder is not there.
    """
    # Importing altair takes most of a second, which only those who want a page should wait.
    from esscher.report.trend_plots import figures, path_figure

    if not trend.steps:
        raise ValueError("there are no steps: a page shows at least one")
    page = fill(
        "trend",
        title=title,
        counts=counts(trend),
        cards=_cards(trend.steps[-1]),
        warnings=trend.end.warnings,
        events=_events_table(trend.events),
        no_events=NO_EVENTS,
        path=path_figure(trend),
        figures=figures(trend),
        steps=_steps_table(trend),
        version=trend.end.version,
    )
    write(path, page)


def _dated(event: TrendEvent) -> str:
    return f"{event.what} from step {event.began} on (named at step {event.named})"


def _events_table(events: Sequence[TrendEvent]) -> Table:
    headings = (Heading("", "name"), Heading("from step"), Heading("named at step"), Heading("", "text"))
    rows = tuple(
        (f"{i} {event.what}", str(event.began), str(event.named), event.evidence)
        for i, event in enumerate(events, start=1)
    )
    return Table("", headings, rows)


def _steps_table(trend: Trend) -> Table:
    shown = shown_steps(trend)
    columns = columns_of(shown, ANY_WIDTH)
    headings = (Heading("step", "name"), *(Heading(column.name) for column in columns[1:]))
    rows = tuple(tuple(column.cell(step) or "" for column in columns) for step in shown)
    left = len(trend.steps) - len(shown)
    notes = (f"{left:,} steps between these are not shown.",) if left else ()
    return Table("", headings, rows, (*notes, footnote(trend.steps, ANY_WIDTH)))


def _cards(last: TrendStep) -> list[Card]:
    """Return the few numbers of the last step that are read first."""
    note = f"at step {last.step}"
    cards = [] if last.reward is None else [card("Reward", last.reward, note)]
    if last.best_kl is not None:
        cards.append(card("KL(policy‖prior)", last.best_kl, f"nats per completion, {note}"))
    if last.best_entropy is not None:
        cards.append(card("Entropy", last.best_entropy, f"nats per token, {note}"))
    cards.append(card("Distinct-2 of two", last.distinct_2, note))
    if last.best_gap is not None:
        cards.append(card("Gap to the target", last.best_gap, f"nats per completion, {note}"))
    return cards
