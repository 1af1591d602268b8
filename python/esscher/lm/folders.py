"""A folder that is there whole or not at all."""

from __future__ import annotations

import fcntl
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def build_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make `folder` by filling a hidden sibling and renaming it; a folder that is there already is left as it is.

    Of several processes that want the same folder one fills it and the others wait. If `fill` raises, or its process
    is killed, there is no `folder`, and the next call starts afresh.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
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
