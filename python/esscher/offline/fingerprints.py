"""What tells whether a file or a model is still the same, without reading all of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

# Pieces of a file that are read, evenly spread from its first byte to its last.
PIECES, PIECE_BYTES = 16, 2**16
WEIGHTS = (".safetensors", ".gguf")
CONFIGS = ("config.json", "adapter_config.json")


def file_fingerprint(path: Path) -> dict[str, Any]:
    """Return a file's size, time of change in nanoseconds, and a digest of pieces of it."""
    stat = path.stat()
    digest = hashlib.sha256()
    last = max(0, stat.st_size - PIECE_BYTES)
    with path.open("rb") as file:
        for start in sorted({last * i // (PIECES - 1) for i in range(PIECES)}):
            file.seek(start)
            digest.update(file.read(PIECE_BYTES))
    return {"size": stat.st_size, "modified": stat.st_mtime_ns, "content": digest.hexdigest()[:16]}


def model_fingerprint(name: str, source: str | Path) -> dict[str, Any]:
    """Return what a model is called and what tells its files from others: a folder's, a GGUF file or a hub's copy here.

    Parameters
    ----------
    name
        What the user calls it.
    source
        Where it is: a path, or a hub name whose files have been fetched.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return {"name": name, **file_fingerprint(path)}
    folder = path if path.is_dir() else _hub_folder(str(source))
    if folder is None:
        return {"name": name}
    stats = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.suffix in WEIGHTS]
    weights = [(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats]
    # Of an adapter its own; it names its model.
    configs = [(folder / config).read_bytes() for config in CONFIGS if (folder / config).is_file()]
    return {"name": name, "config": _digest(b"".join(configs)), "weights": _digest(repr(weights).encode())}


def _hub_folder(name: str) -> Path | None:
    """Where the copy of a hub's model is, in a folder of its revision."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
