"""New policies of a server, from the folder that a trainer saves its checkpoints to."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from esscher.lm.checkpoints import checkpoints_in, incompleteness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from esscher.lm.base import LanguageModel
    from esscher.lm.checkpoints import Checkpoint

_log = logging.getLogger(__name__)

# How long a checkpoint that could not be loaded is left alone: memory may be there again, or a file have come late.
RETRY_SECONDS = 30.0


async def follow_checkpoints(
    folder: Path,
    load: Callable[[Path], LanguageModel],
    *,
    loaded: Checkpoint | None = None,
    seconds: float = 1.0,
) -> AsyncIterator[LanguageModel]:
    """Load each checkpoint that appears in a folder once it is whole, for ever; one that cannot be used is skipped.

    A checkpoint is taken when all of its bytes are there, and it has not changed between two looks, nor while it was
    loaded. Of several the newest is taken that can be; none is that is older than the last.

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
    written = -1 if loaded is None else loaded.written
    seen: set[Checkpoint] = set()
    refused: dict[Checkpoint, float] = {}
    while True:
        await asyncio.sleep(seconds)
        found = [one for one in await asyncio.to_thread(_look, folder) if one.written > written]
        refused = {one: until for one, until in refused.items() if one in found}
        for one in found:
            if one not in seen or refused.get(one, 0.0) > time.monotonic():
                continue
            policy = await asyncio.to_thread(_load_if_whole, one, load, is_again=one in refused)
            if policy is not None and one in await asyncio.to_thread(_look, folder):
                written = one.written
                yield policy
                break
            refused[one] = time.monotonic() + (
                RETRY_SECONDS if policy is None and incompleteness(one) is None else seconds
            )
        seen = set(found)


def _load_if_whole(
    checkpoint: Checkpoint, load: Callable[[Path], LanguageModel], *, is_again: bool
) -> LanguageModel | None:
    """Load a checkpoint; `None` if it is not whole or cannot be used, and unless it `is_again`, the log says why."""
    missing = incompleteness(checkpoint)
    if missing is not None:
        if not is_again:
            _log.info("checkpoint %s is not whole yet: %s", checkpoint.folder, missing)
        return None
    try:
        return load(checkpoint.folder)
    # Whatever a damaged file makes a library raise, the policy that there is can still be used.
    except Exception as error:
        if not is_again:
            _log.warning("checkpoint %s is refused, the policy stays as it is: %s", checkpoint.folder, error)
        return None


def _look(folder: Path) -> list[Checkpoint]:
    try:
        return checkpoints_in(folder)
    except OSError as error:
        _log.warning("%s cannot be looked through: %s", folder, error)
        return []
