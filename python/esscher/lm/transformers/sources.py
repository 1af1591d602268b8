"""Where a model is: in a folder, a GGUF file or a hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from esscher.lm.transformers.adapters import is_adapter

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class ModelSource(NamedTuple):
    """What transformers' ``from_pretrained`` needs to find a model: a folder or hub name, and options.

    An adapter is added to `base` if there is one, and the model that it names is not to be had.
    """

    name: str
    location: str
    options: dict[str, Any]
    base: ModelSource | None = None

    @property
    def is_gguf(self) -> bool:
        """Whether the weights come from a GGUF file."""
        return "gguf_file" in self.options

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds what is added to a model that is elsewhere."""
        return is_adapter(self.location)

    def __str__(self) -> str:
        return str(Path(self.location, self.options.get("gguf_file", "")))


def locate(source: str | Path) -> ModelSource:
    """Tell a folder, a GGUF file and a hub name apart. Only the last ever reaches for the network.

    Raises
    ------
    FileNotFoundError
        If `source` is a path where there is no model.
    ValueError
        If `source` is a file, but not GGUF.
    """
    path = Path(source).expanduser()
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ValueError(f"{path} is not a GGUF file: give a model's folder, a GGUF file or a hub name")
        options = {"local_files_only": True, "gguf_file": path.name}
        return ModelSource(path.stem, str(path.parent), options)
    if path.is_dir():
        if not (path / "config.json").is_file() and not is_adapter(path):
            ggufs = ", ".join(sorted(file.name for file in path.glob("*.gguf")))
            hint = f"give one of its GGUF files: {ggufs}" if ggufs else "save a model there with save_pretrained"
            raise FileNotFoundError(f"{path} has no config.json, so it is not a model's folder; {hint}")
        return ModelSource(path.resolve().name, str(path), {"local_files_only": True})
    if not HUB_NAME.fullmatch(str(source)) or path.suffix == ".gguf":
        raise FileNotFoundError(f"{source} does not exist: give a model's folder, a GGUF file or a hub name")
    return ModelSource(str(source), str(source), {})
