"""Checkpoints that a trainer writes into a folder while a server runs: which are whole, and which is the newest."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
# Of peft: what is added to a model that is elsewhere.
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Checkpoint(NamedTuple):
    """A folder with a model or an adapter, and the name, size and time of change of its files, which tell its state."""

    folder: Path
    files: tuple[tuple[str, int, int], ...]

    @property
    def written(self) -> int:
        """When the last of its files was written, in nanoseconds."""
        return max(modified for _, _, modified in self.files)


def checkpoints_in(folder: Path) -> list[Checkpoint]:
    """Return the checkpoints in a folder, itself or folders in it, those that were written last first.

    They need not be whole yet: see `incompleteness`. Folders whose names begin with a dot are left out: somebody is
    still writing them.
    """
    if not folder.is_dir():
        return []
    places = [folder, *(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))]
    found = [checkpoint for checkpoint in map(_checkpoint, places) if checkpoint is not None]
    return sorted(found, key=lambda checkpoint: -checkpoint.written)


def newest_whole_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the checkpoint that was written last, of those that are whole; `None` if there is none."""
    return next((one for one in checkpoints_in(folder) if incompleteness(one) is None), None)


def incompleteness(checkpoint: Checkpoint) -> str | None:
    """Say what a checkpoint lacks; `None` if its configuration and all of its weights are there to the last byte.

    A safetensors file says at its beginning how long it is, and an index which files there are.
    """
    folder = checkpoint.folder
    try:
        config = _config(folder)
        if not isinstance(json.loads((folder / config).read_bytes()), dict):
            return f"{config} is no configuration"
        for name in _weights(folder):
            expected, size = _expected_size(folder / name), (folder / name).stat().st_size
            if size != expected:
                return f"{name} has {size} bytes of {expected}"
    except (OSError, ValueError, LookupError, TypeError, struct.error) as error:
        return f"it cannot be read: {error}"
    return None


def _checkpoint(folder: Path) -> Checkpoint | None:
    """Return the checkpoint in a folder, if its files have begun to appear."""
    names = [CONFIG, ADAPTER, INDEX, *sorted(path.name for path in folder.glob("*.safetensors"))]
    try:
        stats = [(name, (folder / name).stat()) for name in names if (folder / name).is_file()]
    except FileNotFoundError:  # it is being removed
        return None
    files = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    return Checkpoint(folder, files) if any(name in (CONFIG, ADAPTER) for name, _, _ in files) else None


def _config(folder: Path) -> str:
    return ADAPTER if (folder / ADAPTER).is_file() else CONFIG


def _weights(folder: Path) -> list[str]:
    if _config(folder) == ADAPTER:
        return [ADAPTER_WEIGHTS]
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_bytes())
        return sorted(set(index["weight_map"].values()))
    return [WEIGHTS]


def _expected_size(path: Path) -> int:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > path.stat().st_size:
            return int(length)
        header = json.loads(file.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return 8 + int(length) + max(ends, default=0)
