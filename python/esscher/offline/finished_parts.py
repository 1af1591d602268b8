"""The finished blocks of a run, kept beside its output until that is whole."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from esscher import files
from esscher.atomic import replacing
from esscher.offline.fingerprints import file_fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Run = dict[str, Any]

RECORD, FINISHED = "run.json", "finished.json"


def parts_folder(output: Path) -> Path:
    """Where the finished blocks of a run that writes `output` are kept."""
    output = output.resolve()
    return output.with_name(f"{output.name}.parts")


def is_done(output: Path) -> bool:
    """Tell whether a run was stopped when its output was in its place, and only the folder was left to remove."""
    finished = parts_folder(output) / FINISHED
    return finished.exists() and output.exists() and _read(finished)["output"] == file_fingerprint(output)


@contextmanager
def open_parts(output: Path) -> Iterator[Parts]:
    """Make the folder, or take up the one that is there; what remains at the end is what a next run can use.

    Raises
    ------
    ValueError
        If another process is at work there, or the folder holds something else.
    OSError
        If it cannot be made.
    """
    parts = Parts(output)
    parts.folder.mkdir(exist_ok=True)
    with _locked(parts.folder):
        try:
            parts.tidy()
            yield parts
        finally:
            # A folder that holds no block is of no use to a next run; one that does is not empty, and stays.
            with suppress(OSError):
                parts.folder.rmdir()


class Parts:
    """The folder of one output.

    A record of the run says what the blocks belong to. When all are there, the output is made in the folder too, so
    that nothing is left elsewhere if the process dies; another record of the run and the output's fingerprint is
    written, and the output put in its place. Whether that has happened is known by the fingerprint.
    """

    def __init__(self, output: Path) -> None:
        self.folder, self._output = parts_folder(output), output.resolve()
        self.whole = self.folder / f"output{output.suffix}"
        self._record, self._finished = self.folder / RECORD, self.folder / FINISHED

    @property
    def is_begun(self) -> bool:
        """Whether there is a run to go on with."""
        return self._record.exists()

    def begin(self, run: Run) -> None:
        """Record what the blocks to come belong to."""
        _write(run, self._record)

    def check_same(self, run: Run) -> None:
        """Raise `ValueError` that says what differs, if the folder holds blocks of another run."""
        differences = list(_differences(_read(self._record), run)) if self.is_begun else []
        if differences:
            raise ValueError(
                f"{self.folder} keeps {self.count()} finished blocks of a run that differs from this one: "
                f"{'; '.join(differences)}. Give that run's command to go on with it, or --restart to discard them"
            )

    def settle(self, run: Run) -> bool:
        """Empty the folder if a run's output is in its place, and return whether it is this run's."""
        if not is_done(self._output):
            return False
        finished = _read(self._finished)
        self.discard()
        return bool(finished["run"] == run)

    def has(self, index: int) -> bool:
        """Whether a block is finished."""
        return self._block(index).exists()

    def count(self) -> int:
        """How many blocks are finished."""
        return len(list(self.folder.glob("block-*")))

    def add(self, index: int, columns: Any) -> None:
        """Keep the new columns of a block; it is there whole or not at all."""
        files.write(columns, self._block(index))

    def load(self, index: int) -> Any:
        """Return the new columns of a block; raises `ValueError` if they cannot be read."""
        try:
            return files.load(self._block(index))
        except ValueError as error:
            raise ValueError(f"{error}. A finished block is damaged: remove it, or give --restart") from error

    def finish(self, run: Run) -> None:
        """Put the output, which is `whole`, in its place; `run` is what the same command would be from then on."""
        _write({"run": run, "output": file_fingerprint(self.whole)}, self._finished)
        self.whole.replace(self._output)
        self.discard()

    def discard(self) -> None:
        """Remove the run; the records go last, so that what remains of an interrupted try is known for what it is."""
        for path in (*self.folder.glob("block-*"), *self.folder.glob("output*")):
            path.unlink()
        for path in (self._record, self._finished):
            path.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove what killed processes left half-written; raises `ValueError` if the folder is someone else's."""
        for path in self.folder.glob(".*.tmp"):
            path.unlink()
        there = list(self.folder.iterdir())
        if there and not (self._record.exists() or self._finished.exists()):
            raise ValueError(
                f"{self.folder} is where finished blocks are kept, but holds something else: move it, or name another "
                "output"
            )

    def _block(self, index: int) -> Path:
        return self.folder / f"block-{index:08}.parquet"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes out; the system drops this lock when its process dies, so a killed one blocks nobody."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ValueError(f"another process is scoring to the same output, in {folder}: wait for it") from error
    finally:
        os.close(lock)


def _differences(old: Any, new: Any, what: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _differences(old.get(key), new.get(key), f"{what} {key}".strip())
    elif old != new:
        yield f"{what} was {json.dumps(old)}, is {json.dumps(new)}"


def _write(record: Any, path: Path) -> None:
    with replacing(path) as file:
        file.write(json.dumps(record, indent=1).encode())
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> Any:
    return json.loads(path.read_bytes())
