"""Steps of training: completions of several steps are of several policies, which nothing else in a file tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esscher.files import columns as arrow
from esscher.warning import ReportWarning

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

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
