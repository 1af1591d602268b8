"""Steps of training: completions of several steps are of several policies, which nothing else in a file tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from esscher.files import columns as arrow
from esscher.warning import ReportWarning

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations
    from numpy.typing import NDArray

# What trainers call the step that sampled, or the weights that it sampled with.
STEPS = (
    "step",
    "global_step",
    "global_steps",
    "training_step",
    "train_step",
    "trainer_step",
    "optimizer_step",
    "update_step",
    "iteration",
    "policy_version",
    "model_version",
    "weight_version",
    "weights_version",
)
SHOWN = 3
ALL = "all"
# How many steps are listed in a question.
MOST = 12


def steps_in(names: Collection[str], used: Collection[str]) -> list[str]:
    """Return which of a file's columns are steps, by their names, that are not used for something else.

    Examples
    --------
    >>> steps_in(["rewards", "global_step"], used=["rewards"])
    ['global_step']
    """
    return [name for name in names if name in STEPS and name not in used]


def read_steps(table: pa.Table, names: Collection[str]) -> dict[str, list[str]]:
    """Return the steps of each of these columns as text, in order of first appearance; none of one that holds none."""
    return {name: _distinct(name, table.column(name)) for name in names}


def steps_of_rows(name: str, column: pa.ChunkedArray) -> list[str | None]:
    """Return each row's step as text; `None` where there is none.

    Examples
    --------
    >>> import pyarrow as pa
    >>> steps_of_rows("step", pa.chunked_array([[1, None, 2]]))
    ['1', None, '2']
    """
    known = iter(arrow.keys(name, column.drop_null()).to_pylist() if arrow.is_known(column) else [])
    return [next(known) if valid else None for valid in column.is_valid().to_pylist()]


def rows_of_step(table: pa.Table, names: Sequence[str], step: int | str | None) -> NDArray[np.int64]:
    """Return the numbers of the rows that are of a step by a column of steps; all, if none is asked for or told."""
    if step in (None, ALL) or not names:
        return np.arange(len(table))
    name = "step" if "step" in names else names[0]
    of_rows = np.array(steps_of_rows(name, table.column(name)), object)
    return np.flatnonzero(of_rows == str(step))


class SeveralStepsError(ValueError):
    """The question which step's completions are meant, where there are several.

    Attributes
    ----------
    steps
        The steps that there are, in order.
    """

    def __init__(self, where: str, steps: Sequence[str]) -> None:
        self.steps = sorted(steps, key=in_order)
        shown = ", ".join(self.steps[:MOST]) + f", ... {self.steps[-1]}" * (len(steps) > MOST)
        super().__init__(
            f"{where}: these are completions of {len(steps):,} steps ({shown}), each of another policy: say which, "
            "--step N (step), or --step all to take them as one policy's"
        )


def in_order(step: str) -> tuple[bool, int, str]:
    """Return what steps are put in order by: numbers by size, then other names.

    Examples
    --------
    >>> sorted(["10", "last", "9"], key=in_order)
    ['9', '10', 'last']
    """
    is_number = step.isdecimal()
    return not is_number, int(step) if is_number else 0, step


def several_steps(files: Sequence[Mapping[str, list[str]]]) -> tuple[ReportWarning, ...]:
    """Say if files that are read together hold several steps.

    Examples
    --------
    >>> several_steps([{"step": ["10"]}, {"step": ["10", "20"]}])[0].split(":")[0]
    "The column 'step' holds 2 values (10, 20)"
    """
    found = []
    for name in dict.fromkeys(name for steps in files for name in steps):
        steps = list(dict.fromkeys(step for of_file in files for step in of_file.get(name, ())))
        if len(steps) > 1:
            shown = ", ".join(steps[:SHOWN]) + ", ..." * (len(steps) > SHOWN)
            found.append(
                ReportWarning(
                    "several-steps",
                    f"The column {name!r} holds {len(steps):,} values ({shown}): completions of several steps are of "
                    "several policies, and what is said here is of all of them mixed.",
                    "Read each step by itself.",
                )
            )
    return tuple(found)


def _distinct(name: str, column: pa.ChunkedArray) -> list[str]:
    try:
        texts: list[str] = arrow.keys(name, column.drop_null()).unique().to_pylist() if arrow.is_known(column) else []
    except ValueError:  # something else goes by that name
        return []
    return texts
