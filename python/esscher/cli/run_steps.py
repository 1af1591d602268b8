"""The steps of a run: those that are there, and those that training writes meanwhile."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from esscher.warning import ReportWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from esscher.files import Step

# Seconds between two looks at what training writes.
PAUSE = 2.0
PASSED_OVER = "passed-over"


class RunReader:
    """Reads a run step by step, in the order of steps, holding one of them.

    Parameters
    ----------
    paths
        Files, folders and patterns.
    read
        As `files.read_run`, with all that is told of how to read.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[..., Iterator[Step]]) -> None:
        self._paths, self._read = paths, read
        self._warnings: dict[str, ReportWarning] = {}
        self._steps_with: dict[str, list[int]] = {}

    @property
    def warnings(self) -> list[ReportWarning]:
        """What was said of steps, once each, with how many it was said of."""
        return [self._of_steps(code, warning) for code, warning in self._warnings.items()]

    def steps(self) -> Iterator[Step]:
        """Read the steps that are there.

        Raises
        ------
        FileNotFoundError, ValueError
            As `files.read_run`, and if files do not tell which step they are of.
        """
        yield from map(self._noted, self._read(self._paths))

    def follow(self) -> Iterator[Step]:
        """Read the steps that are there and those that come, for ever: once their files are the same in two looks."""
        from esscher import files

        last: int | None = None
        before: dict[Path, tuple[int, int]] = {}
        while True:
            now = files.stamps(self._paths)
            settled = {path for path, stamp in now.items() if before.get(path) == stamp}
            # What was passed over may be whole by now.
            self._warnings.pop(PASSED_OVER, None)
            try:
                for step in map(self._noted, self._read(self._paths, after=last, settled=settled)):
                    last = step.number
                    yield step
            except files.NoSamplesError:
                pass  # not yet
            before = now
            time.sleep(PAUSE)

    def _noted(self, step: Step) -> Step:
        if step.number is None:
            named = ", ".join(map(str, self._paths))
            raise ValueError(f"{named}: nothing tells which step rows are of. Give them a column 'step'")
        for warning in step.dump.warnings:
            self._warnings.setdefault(warning.code, warning)
            self._steps_with.setdefault(warning.code, []).append(step.number)
        return step

    def _of_steps(self, code: str, warning: ReportWarning) -> ReportWarning:
        steps = self._steps_with[code]
        if len(steps) == 1:
            return warning
        also = f" So it is at step {steps[0]}, and the like at {len(steps) - 1:,} more."
        return ReportWarning(code, warning.evidence + also, warning.remedy)
