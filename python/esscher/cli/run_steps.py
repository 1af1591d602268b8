"""The steps of a run, from files with a column of steps or files that are numbered by step."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from esscher.samples import Samples

    Stamp = tuple[int, int]

ROLLOUT = "rollout_logprobs"
SUFFIXES = (".parquet", ".jsonl")
# Seconds between two looks at what training writes.
PAUSE = 2.0


class RunStep(NamedTuple):
    """The completions of a step, and log-probs of their tokens by the engine that sampled, if there are any."""

    number: int
    samples: Samples
    rollout_logprobs: Ragged | None


class RunIndex:
    """Which files hold which steps; files that are not whole are left out, and looked at again once they have changed.

    A file's steps are those of its column of steps, else the last number in its name.
    """

    def __init__(self) -> None:
        self.unread: dict[Path, ValueError] = {}
        self._known: dict[Path, tuple[Stamp, list[int]]] = {}

    def steps(self, files: Mapping[Path, Stamp]) -> dict[int, list[Path]]:
        """Return the files of each step, in the order of steps, of files as they stand now."""
        found: dict[int, list[Path]] = {}
        self.unread = {}
        for path, stamp in files.items():
            if self._known.get(path, (None,))[0] != stamp:
                try:
                    self._known[path] = stamp, np.unique(_steps(path)).tolist()
                except ValueError as error:
                    self.unread[path] = error
                    continue
            for step in self._known[path][1]:
                found.setdefault(step, []).append(path)
        return dict(sorted(found.items()))


def stamps_of(paths: Sequence[Path]) -> dict[Path, Stamp]:
    """Return the files that are given, and those of the folders that are given, with size and time of change.

    Raises
    ------
    FileNotFoundError
        If one is not there.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there")
        files += (one for one in sorted(path.iterdir()) if one.suffix in SUFFIXES) if path.is_dir() else [path]
    return {file: (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


def following(paths: Sequence[Path], index: RunIndex) -> Iterator[tuple[int, list[Path]]]:
    """Yield steps with their files as they come, for ever: once the files are the same in two looks at them."""
    last = -1
    before: dict[Path, Stamp] = {}
    while True:
        now = stamps_of(paths)
        for step, files in index.steps(
            {path: stamp for path, stamp in now.items() if before.get(path) == stamp}
        ).items():
            if step > last:
                yield step, files
                last = step
        before = now
        time.sleep(PAUSE)


def read_step(number: int, paths: Sequence[Path], renames: Mapping[str, str], ignored: Collection[str]) -> RunStep:
    """Read the completions of one step; those of other steps in its files are left out.

    Raises
    ------
    FileNotFoundError, ValueError
        As `files.read`.
    """
    from esscher import files
    from esscher.files.columns import raw_numbers

    dump = files.read(paths, columns=renames, ignore_masks=ignored)
    samples, rollout = dump.samples, None
    if all(ROLLOUT in files.scan(path).schema.names for path in paths):
        columns = [files.load(path, [ROLLOUT]).column(ROLLOUT) for path in paths]
        rollout = Ragged.concatenate([raw_numbers(ROLLOUT, column) for column in columns]).take(dump.order)
    mine = np.flatnonzero(np.concatenate([_steps(path) for path in paths])[dump.order] == number)
    if len(mine) < len(samples):
        samples, rollout = samples.take_completions(mine), None if rollout is None else rollout.take(mine)
    return RunStep(number, samples, rollout)


def _steps(path: Path) -> NDArray[np.int64]:
    """Return the step of each row of a file."""
    from esscher import files
    from esscher.files.columns import numbers
    from esscher.files.steps import steps_in

    rows = files.scan(path)
    name = next(iter(steps_in(rows.schema.names, ())), None)
    if name is not None:
        steps: NDArray[np.float64] = files.naming(path, numbers, name, files.load(path, [name]).column(name))
        if not (np.isfinite(steps) & (steps == np.floor(steps))).all():
            raise ValueError(f"{path}: column {name!r} holds what is no integer: it says which step a row is of")
        return steps.astype(np.int64)
    written = re.findall(r"\d+", path.stem)
    if not written:
        raise ValueError(f"{path} has no column 'step', and no number in its name: name it by its step, as step-12")
    return np.full(rows.count, int(written[-1]))
