"""What other tools write, as samples: one module for each tool, in order of trial.

A module says whether a file is its tool's, by the file's name and columns, and makes samples of its rows, in our
columns. What it does not use is kept, under its own name; a column that is ours by its name and another thing by its
tool is called ``tool/name`` then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from esscher.files.readers import (
    areal,
    lm_eval,
    ms_swift,
    nemo_rl,
    open_instruct,
    prime_rl,
    skyrl,
    trl,
    verifiers,
    verl,
    vllm,
)
from esscher.files.readers.reading import step_in

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

    from esscher.files.conversion import Converted

OURS = "ours"


class Reader(Protocol):
    """A module that reads a tool's files."""

    @property
    def NAME(self) -> str:  # noqa: N802 - a module's constant
        """What the tool is called."""
        ...

    @property
    def STEP(self) -> str | None:  # noqa: N802 - a module's constant
        """The pattern by which a file's path tells its step, as its first group."""
        ...

    def is_mine(self, path: Path, names: Collection[str], /) -> bool:
        """Tell by its name and the names of its columns whether a file is the tool's."""
        ...

    def convert(self, path: Path, table: pa.Table, first: int, /) -> Converted:
        """Return the samples of a block of a file, whose first row is number `first`; raises `RowError`."""
        ...


READERS: tuple[Reader, ...] = (
    nemo_rl,
    prime_rl,
    verifiers,
    open_instruct,
    vllm,
    lm_eval,
    verl,
    skyrl,
    areal,
    trl,
    ms_swift,
)
TOOLS = (*(reader.NAME for reader in READERS), OURS)


def step_of(reader: Reader | None, path: Path) -> int | None:
    """Return the step that a file's path tells, by the tool that wrote it."""
    return None if reader is None else step_in(path, reader.STEP)


def choose(path: Path, names: Collection[str], tool: str | None = None) -> Reader | None:
    """Return the reader of a file, by its name and columns or by what the user says; `None` if its rows are ours.

    Raises
    ------
    ValueError
        If there is no such tool.
    """
    if tool is not None:
        if tool not in TOOLS:
            raise ValueError(f"{tool!r} is no tool whose files are read: {', '.join(TOOLS)}")
        return next((reader for reader in READERS if tool == reader.NAME), None)
    if {"prompt_token_ids", "completion_token_ids"} <= set(names):
        return None
    return next((reader for reader in READERS if reader.is_mine(path, names)), None)
