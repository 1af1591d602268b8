"""The steps of a run, from the files that are there, or as training writes them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from esscher.files import Step

# Seconds between two looks at what training writes.
PAUSE = 2.0


def read_steps(paths: Sequence[Path], how: Mapping[str, Any], after: int | None = None) -> Iterator[Step]:
    """Read the steps that are there, as `files.read_run` does.

    Raises
    ------
    FileNotFoundError, ValueError
        As `files.read_run`, and if nothing tells which step rows are of.
    """
    from esscher import files

    for step in files.read_run(paths, **how, after=after):
        if step.number is None:
            raise ValueError(
                f"{', '.join(map(str, paths))}: nothing tells which step rows are of. Give them a column 'step'"
            )
        yield step


def follow_steps(paths: Sequence[Path], how: Mapping[str, Any]) -> Iterator[Step]:
    """Read the steps that are there and those that come, for ever; files once they are the same in two looks."""
    last: int | None = None
    before: dict[Path, tuple[int, int]] = {}
    done: dict[Path, tuple[int, int]] = {}
    while True:
        now = _stamps_of(paths, how["tool"])
        whole = [path for path, stamp in now.items() if before.get(path) == stamp and done.get(path) != stamp]
        for step in read_steps(whole, how, last) if whole else ():
            yield step
            last = step.number
        done |= {path: now[path] for path in whole}
        before = now
        time.sleep(PAUSE)


def _stamps_of(paths: Sequence[Path], tool: str | None) -> dict[Path, tuple[int, int]]:
    """Return the files of samples with size and time of change; none while a folder has none yet."""
    from esscher.files.finding import find

    found: dict[Path, tuple[int, int]] = {}
    for path in paths:
        if path.is_dir() and not any(path.iterdir()):
            continue
        for file in find([path], tool).files:
            stat = file.path.stat()
            found[file.path] = stat.st_size, stat.st_mtime_ns
    return found
