"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import fcntl
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from os import PathLike


@contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[IO[bytes]]:
    """Write a file beside `path` that takes its place, and its mode, when the block ends well, and else is removed.

    Raises
    ------
    ValueError, FileNotFoundError
        As `check_place`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "numbers"
    ...     with replacing(path) as file:
    ...         _ = file.write(b"1 2 3")
    ...     path.read_text()
    '1 2 3'
    """
    check_place(path)
    path = Path(path).resolve()
    # In the same folder, since only there replacing is one step.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
        if path.exists():
            temporary.chmod(path.stat().st_mode & 0o7777)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_place(path: str | PathLike[str]) -> None:
    """Raise what would keep `replacing` from writing `path`, to know it before long work begins.

    Raises
    ------
    ValueError
        If the path is a folder.
    FileNotFoundError
        If its folder is not there.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file")
    if not path.resolve().parent.is_dir():
        raise FileNotFoundError(f"{path.resolve().parent} is not there: make the folder first")


def build_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make `folder` by filling a hidden sibling and renaming it; a folder that is there already is left as it is.

    Of several processes that want the same folder one fills it and the others wait. If `fill` raises, or its process
    is killed, there is no `folder`, and the next call starts afresh.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     folder = Path(parent) / "model"
    ...     build_folder(folder, lambda partial: (partial / "config.json").touch())
    ...     [path.name for path in folder.iterdir()]
    ['config.json']
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        # The system drops this lock when its process dies, so a killed one blocks nobody.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            fill(partial)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
