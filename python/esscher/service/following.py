"""New policies of a server, from the folder that a trainer saves its checkpoints to."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from esscher.lm.checkpoints import incompleteness, newest_checkpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from esscher.lm.base import LanguageModel
    from esscher.lm.checkpoints import Checkpoint

_log = logging.getLogger(__name__)


async def follow_checkpoints(
    folder: Path,
    load: Callable[[Path], LanguageModel],
    *,
    loaded: Checkpoint | None = None,
    seconds: float = 1.0,
) -> AsyncIterator[LanguageModel]:
    """Load each checkpoint that appears in a folder once it is whole, for ever; one that cannot be used is skipped.

    A checkpoint is taken when it has not changed between two looks and all of its bytes are there. If several appear
    between two looks, the newest is taken.

    Parameters
    ----------
    folder
        Where checkpoints appear: in it, or as it.
    load
        Loads a model from a folder, in a thread; it raises if the model cannot be used here.
    loaded
        The checkpoint that is in use already.
    seconds
        How long to wait between two looks.
    """
    done, seen, complaint = loaded, None, None
    while True:
        await asyncio.sleep(seconds)
        found = await asyncio.to_thread(_look, folder)
        if found is None or found == done:
            continue
        if found != seen:
            seen = found
            continue
        missing = await asyncio.to_thread(incompleteness, found)
        if missing is not None:
            if complaint != (found, missing):
                _log.info("checkpoint %s is not whole yet: %s", found.folder, missing)
            complaint = (found, missing)
            continue
        done = found
        try:
            policy = await asyncio.to_thread(load, found.folder)
        # Whatever a damaged file makes a library raise, the policy that there is can still be used.
        except Exception as error:
            _log.warning("checkpoint %s is refused, the policy stays as it is: %s", found.folder, error)
            continue
        yield policy


def _look(folder: Path) -> Checkpoint | None:
    try:
        return newest_checkpoint(folder)
    except OSError as error:
        _log.warning("%s cannot be looked through: %s", folder, error)
        return None
