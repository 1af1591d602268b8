"""Which files of folders and patterns hold samples: whose they are, of which step, and what is passed over, and why."""

from __future__ import annotations

import glob
import json
import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files.formats import ARROW, PARQUET, PICKLES, SUFFIXES, check_readable, suffix_of
from esscher.files.readers import OURS, choose, step_of
from esscher.files.readers.no_samples import why_no_rows, why_no_samples
from esscher.files.steps import ALL
from esscher.files.streams import first_line, is_packed
from esscher.warning import ReportWarning

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from esscher.files.readers import Reader

# What is read of a file's end, to see whether its last line is whole; longer lines are read from where they begin.
TAIL = 2**16
# How parts of paths are called that hold what was sampled for validation.
_VALIDATION = re.compile(r"(?:^|[_\-.])(?:eval|evals|val|valid|validation)(?:$|[_\-.])")
FOR_VALIDATION = "sampled for validation, beside what training sampled: give it by itself"
GROWING = "still being written"
UNFINISHED = "its last line is not whole yet"
OTHER_KIND = "no file of rows"
TWICE = "a part of what is in the folder all beside it"
UNSTABLE = "its step is not finished: STABLE is not there yet"
SHOWN = 2
# Whose files are one a step: two of the same step are of two runs.
ONE_A_STEP = ("nemo-rl", "trl", "verl")


class RunFile(NamedTuple):
    """A file of samples.

    Attributes
    ----------
    path
        The file.
    tool
        Which tool wrote it, or "ours"; `None` if it was named, and is recognised when it is read.
    step
        Which step its path tells; `None` if only its rows do, or nothing.
    """

    path: Path
    tool: str | None
    step: int | None


@dataclass(frozen=True, eq=False)
class RunFiles:
    """What folders, patterns and files hold.

    Parameters
    ----------
    files
        The files of samples, in order of their steps.
    passed_over
        Other files in the folders, and why each is passed over.
    """

    files: tuple[RunFile, ...]
    passed_over: tuple[tuple[Path, str], ...]

    @property
    def warnings(self) -> tuple[ReportWarning, ...]:
        """What is passed over, and which steps several files hold that should be of one."""
        return (*_said(self.passed_over), *_twice(self.files))


class NoSamplesError(ValueError):
    """There are no samples where they were looked for."""


def stamps(paths: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """Return the files that `find` would look at, each with its size and time of change.

    Raises
    ------
    FileNotFoundError
        If a path is not there.
    """
    found: dict[Path, tuple[int, int]] = {}
    for path in paths:
        within = [path] if path.is_file() else [file for _, file in _matching(path)]
        for file in within:
            try:
                status = file.stat()
            except FileNotFoundError:  # it was there a moment ago
                continue
            found[file] = status.st_size, status.st_mtime_ns
    return found


def find(paths: Sequence[Path], tool: str | None = None, settled: Collection[Path] | None = None) -> RunFiles:
    r"""Find the files of samples among files, in folders and all that is in them, and by patterns.

    A file that is named is taken; of a folder only what is known to hold samples, whole. The ranks of a step are files
    of it; a step of prime-rl's counts once its STABLE marker is there.

    Parameters
    ----------
    paths
        Files, folders, and patterns such as ``rollouts/*.jsonl``.
    tool
        Which tool wrote them, where that is not to be recognised.
    settled
        The files that are not being written any more; all by default.

    Raises
    ------
    FileNotFoundError
        If a path is not there, or nothing is found by a pattern.
    NoSamplesError
        If there are no samples.
    ValueError
        If folders hold those of two tools.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for step in (10, 9):
    ...         _ = Path(folder, f"{step}.jsonl").write_text('{"input": "a", "output": "b", "score": 1}\n')
    ...     [(file.tool, file.step) for file in find([Path(folder)]).files]
    [('verl', 9), ('verl', 10)]
    """
    named: list[RunFile] = []
    found: list[RunFile] = []
    passed: list[tuple[Path, str]] = []
    for path in paths:
        if path.is_file() or not (path.is_dir() or glob.has_magic(str(path))):
            if settled is None or path in settled:
                named.append(_named(path, tool))
        else:
            within, others = _sorted_out(path, tool, settled)
            found, passed = found + within, passed + others
    if not named and not found:
        raise NoSamplesError(_nothing(paths, passed))
    if tool is None:
        _check_one_tool(found)
    files = sorted([*named, *found], key=lambda file: (file.step is None, file.step or 0))
    return RunFiles(tuple(files), tuple(passed))


def of_step(files: Sequence[RunFile], step: int | str | None) -> list[RunFile]:
    """Return the files that may hold a step, by their paths."""
    return [file for file in files if step in (None, ALL) or file.step is None or str(file.step) == str(step)]


def _named(path: Path, tool: str | None) -> RunFile:
    """Return a file that is named, whatever it is: what is wrong with it is said when it is read."""
    try:
        names, _ = _columns(path)
    except (ValueError, OSError):
        return RunFile(path, tool, None)
    return RunFile(path, tool, step_of(choose(path, names, tool), path))


def _sorted_out(
    place: Path, tool: str | None, settled: Collection[Path] | None
) -> tuple[list[RunFile], list[tuple[Path, str]]]:
    """Return which files of a folder or pattern hold samples, and which are passed over, and why."""
    found, passed = [], []
    for root, path in _matching(place):
        if settled is not None and path not in settled:
            passed.append((path, GROWING))
            continue
        file, reason = _looked_at(path, root, tool)
        if reason is None:
            found.append((root, file))
        else:
            passed.append((path, reason))
    for_validation = [any(map(_VALIDATION.search, file.path.relative_to(root).parts)) for root, file in found]
    if all(for_validation):
        return [file for _, file in found], passed
    pairs = list(zip(found, for_validation, strict=True))
    passed += [(file.path, FOR_VALIDATION) for (_, file), other in pairs if other]
    return [file for (_, file), other in pairs if not other], passed


def _matching(place: Path) -> Iterator[tuple[Path, Path]]:
    """Return the files of a folder or pattern, each with the folder that it was looked for in."""
    if place.is_dir():
        yield from ((place, file) for file in _within(place))
        return
    found = [Path(one) for one in sorted(glob.glob(str(place), recursive=True))]  # noqa: PTH207 - it may be absolute
    if not found:
        raise FileNotFoundError(f"{place} matches no file")
    for one in found:
        yield from ((one, file) for file in _within(one)) if one.is_dir() else ((one.parent, one),)


def _within(folder: Path) -> Iterator[Path]:
    """Return the files of a folder, and of those in it, by name; of a dataset's the parts that it lists."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        parts = _parts(Path(place), names)
        for name in parts if parts is not None else sorted(names):
            if not name.startswith("."):
                yield Path(place, name)


def _parts(folder: Path, names: Sequence[str]) -> list[str] | None:
    if "state.json" not in names or "dataset_info.json" not in names:
        return None
    try:
        return [file["filename"] for file in json.loads((folder / "state.json").read_bytes())["_data_files"]]
    except (ValueError, KeyError, TypeError):
        return sorted(name for name in names if name.endswith(ARROW))


def _looked_at(path: Path, root: Path, tool: str | None) -> tuple[RunFile, str | None]:
    """Return a file of a folder, and why it is passed over if it is."""
    reader = None
    try:
        names, reason = _columns(path)
    except (ValueError, OSError) as error:
        names, reason = [], str(error).removeprefix(f"{path} ")
    if reason is None:
        reader = choose(path, names, tool)
        reason = _why_not(path, names, reader)
    return RunFile(
        path, OURS if reader is None else reader.NAME, step_of(reader, root.name / path.relative_to(root))
    ), reason


def _columns(path: Path) -> tuple[list[str], str | None]:
    """Return what the columns of a file are called, or why none can be read."""
    if path.suffix in PICKLES:
        return [], "a pickle, which runs code when it is opened: convert it"
    kind = SUFFIXES.get(suffix_of(path))
    if kind is None:
        return [], OTHER_KIND
    if path.stat().st_size == 0:
        return [], "empty"
    check_readable(path)
    if kind == PARQUET:
        try:
            return pq.read_schema(path).names, None
        except (pa.ArrowException, OSError):
            return [], "not a whole Parquet file"
    return (_arrow_columns(path), None) if kind == ARROW else _keys(path)


def _arrow_columns(path: Path) -> list[str]:
    with pa.memory_map(str(path)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        with (pa.ipc.open_file if is_file else pa.ipc.open_stream)(source) as reader:
            names: list[str] = reader.schema.names
            return names


def _keys(path: Path) -> tuple[list[str], str | None]:
    """Return the keys of the first line of JSON lines, or why they are none."""
    line = first_line(path)
    try:
        first = json.loads(line.decode("utf-8", "surrogateescape").removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return [], UNFINISHED if not line.endswith((b"\n", b"\r")) else "no JSON lines: one whole {...} a line"
    if not isinstance(first, dict):
        return [], "no JSON lines: one whole {...} a line"
    return list(first), None if _ends_whole(path) else UNFINISHED


def _ends_whole(path: Path) -> bool:
    """Whether the last line of JSON lines is whole: it has its line feed, or is valid JSON without."""
    with path.open("rb") as file:
        if is_packed(file.read(4)):
            return True
        size, tail = file.seek(0, os.SEEK_END), b""
        while len(tail) < size and b"\n" not in tail:
            start = max(0, size - max(TAIL, 4 * len(tail)))
            file.seek(start)
            tail = file.read(size - start)
            if tail.endswith((b"\n", b"\r")):
                return True
    try:
        json.loads(tail[tail.rfind(b"\n") + 1 :].decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return False
    return True


def _why_not(path: Path, names: list[str], reader: Reader | None) -> str | None:
    if reader is not None and not reader.is_mine(path, names):
        return f"not {reader.NAME}'s, by its columns"
    if reader is not None and reader.NAME == "prime-rl" and not (path.parent / "STABLE").exists():
        return UNSTABLE
    if path.parent.name == "effective" and path.parent.with_name("all").joinpath(path.name).exists():
        return TWICE
    return (why_no_samples(path, names) or why_no_rows(names)) if reader is None else None


def _check_one_tool(found: Sequence[RunFile]) -> None:
    firsts: dict[str, Path] = {}
    for file in found:
        firsts.setdefault(str(file.tool), file.path)
    if len(firsts) > 1:
        (one, path), (other, second) = list(firsts.items())[:2]
        raise ValueError(
            f"two formats in one folder: {path} is {one}'s, {second} is {other}'s. Say which to read, --from {one} or "
            f"--from {other} (tool)"
        )


def _nothing(paths: Sequence[Path], passed: Sequence[tuple[Path, str]]) -> str:
    shown = ", ".join(map(str, paths[:3])) + ", ..." * (len(paths) > 3)
    if not passed:
        return f"{shown} is a folder, and no files are in it"
    pickle = next((path for path, _ in passed if path.suffix in PICKLES), None)
    if pickle is not None:
        check_readable(pickle)  # raises what to do with it
    return f"{shown}: no samples are there. " + " ".join(_summary(passed))


def _summary(passed: Sequence[tuple[Path, str]]) -> Iterator[str]:
    by_reason: defaultdict[str, list[Path]] = defaultdict(list)
    for path, reason in passed:
        by_reason[reason].append(path)
    for reason, files in by_reason.items():
        names = ", ".join(file.name for file in files[:SHOWN]) + ", ..." * (len(files) > SHOWN)
        yield f"{len(files):,} passed over ({names}): {reason}."


def _said(passed: Sequence[tuple[Path, str]]) -> tuple[ReportWarning, ...]:
    told = [(path, reason) for path, reason in passed if reason != OTHER_KIND]
    return (ReportWarning("passed-over", " ".join(_summary(told))),) if told else ()


def _twice(files: Sequence[RunFile]) -> tuple[ReportWarning, ...]:
    counts = Counter(file.step for file in files if file.tool in ONE_A_STEP and file.step is not None)
    twice = [step for step, count in counts.items() if count > 1]
    if not twice:
        return ()
    shown = ", ".join(map(str, twice[:3])) + ", ..." * (len(twice) > 3)
    return (
        ReportWarning(
            "steps-twice",
            f"Several files hold step {shown}: they are read together, and may be of several runs.",
            "Give the folder of one run.",
        ),
    )
