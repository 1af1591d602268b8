"""Tables of text, as records and in a terminal; templates/parts.html.jinja puts the same on pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from rich.console import Group
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, RenderableType

    from esscher.warning import ReportWarning

BEFORE = "Before trusting these numbers"
STYLES = {"name": "", "value": "cyan", "note": "dim", "text": ""}
# Widths in characters of a table of several policies: of what a number is called, and of the numbers of one policy.
NAMES, NUMBERS = 32, 20


class Heading(NamedTuple):
    """What a column is of, what its cells are, and how many characters wide it is in a terminal, if not as its text."""

    text: str = ""
    kind: Literal["name", "value", "note", "text"] = "value"
    width: int | None = None


class Table(NamedTuple):
    """Rows of a cell for each column, the notes below them, and which rows (from 0) stand in the background."""

    title: str
    headings: tuple[Heading, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    muted: tuple[int, ...] = ()


def headings(name: str, *values: str) -> tuple[Heading, ...]:
    """Return headings of which the first is that of the rows' names, and the others are those of values."""
    return Heading(name, "name"), *map(Heading, values)


def without(table: Table, *texts: str) -> Table:
    """Leave out columns.

    Examples
    --------
    >>> without(Table("", (Heading("a"), Heading("b")), (("1", "2"),)), "a").rows
    (('2',),)
    """
    kept = [i for i, heading in enumerate(table.headings) if heading.text not in texts]
    rows = tuple(tuple(row[i] for i in kept) for row in table.rows)
    return table._replace(headings=tuple(table.headings[i] for i in kept), rows=rows)


def turned(table: Table) -> Table:
    """Exchange rows and columns.

    Examples
    --------
    >>> turned(Table("", headings("policy", "reward", "KL"), (("a", "1", "2"), ("b", "3", "4")))).rows
    (('reward', '1', '3'), ('KL', '2', '4'))
    """
    (_, *names), *rows = zip(*([heading.text for heading in table.headings], *table.rows), strict=True)
    return table._replace(headings=headings("", *names), rows=tuple(rows), muted=())


def print_table(console: Console, table: Table) -> None:
    """Print a table below its title."""
    grid = Grid.grid(padding=(0, 2, 0, 0))
    for heading in table.headings:
        grid.add_column(width=heading.width, overflow="fold")
    if any(heading.text for heading in table.headings):
        grid.add_row(*(Text(heading.text, "dim") for heading in table.headings))
    for i, row in enumerate(table.rows):
        styles = ("dim" if i in table.muted else STYLES[heading.kind] for heading in table.headings)
        grid.add_row(*map(Text, row, styles))
    parts = [grid] if table.rows else []
    print_section(console, table.title, Group(*parts, *(Text(note, "dim") for note in table.notes)))


def print_beside(console: Console, table: Table) -> None:
    """Print a table in parts: below each other, each with as many of the columns as have room beside the first."""
    first, *others = table.headings
    room = max((console.width - NAMES) // NUMBERS, 1)
    for start in range(0, len(others), room):
        shown = slice(1 + start, 1 + start + room)
        part = table._replace(
            headings=(first._replace(width=NAMES - 2), *table.headings[shown]),
            rows=tuple((row[0], *row[shown]) for row in table.rows),
            notes=table.notes if start + room >= len(others) else (),
        )
        print_table(console, part)


def print_warnings(console: Console, warnings: Sequence[ReportWarning], *, explain: bool = False) -> None:
    """Print what the reader should know first: a line for each kind of warning, or all that they say."""
    if not warnings:
        return
    grid = Grid.grid(padding=(0, 2, 0, 0))
    for code in dict.fromkeys(warning.code for warning in warnings):
        of_kind = [warning for warning in warnings if warning.code == code]
        where = ", ".join(dict.fromkeys(name for warning in of_kind for name in warning.where))
        grid.add_row("!", Text(f"{of_kind[0].what}{f' ({where})' if where else ''}"))
        for warning in of_kind if explain else ():
            grid.add_row("", Text(warning, "not bold"))
    if not explain:
        grid.add_row("", Text("--explain (in Python, explain=True) says what was seen, and what to do", "dim"))
    print_section(console, BEFORE, grid, "bold yellow")


def print_section(console: Console, title: str, body: RenderableType, style: str = "bold") -> None:
    """Print a title, and under it what it is of."""
    console.print()
    console.print(Text(title, style))
    console.print(Padding(body, (0, 0, 0, 2), expand=False))
