"""Adapters of peft: a model's folder, and another's that says what is added to it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from esscher.lm.checkpoints import ADAPTER, ADAPTER_WEIGHTS
from esscher.lm.packaged import resolve

MERGE = "or merge it (merge_and_unload of peft), save the merged model with save_pretrained, and give that"


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds what is added to a model, not a model."""
    return Path(folder, ADAPTER).is_file()


def trained_on(folder: Path) -> str | Path:
    """Return the model that an adapter was trained on, as its configuration names it.

    Raises
    ------
    ValueError
        If it names none.
    """
    try:
        named = json.loads((folder / ADAPTER).read_bytes()).get("base_model_name_or_path")
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{folder / ADAPTER} is no configuration of an adapter: {error}") from error
    if not named:
        raise ValueError(
            f"{folder} is an adapter, and does not say of which model: set base_model_name_or_path in {ADAPTER}, "
            f"{MERGE}"
        )
    # The path may be relative to the adapter's folder.
    beside = folder / named
    return resolve(named) if Path(named).exists() or not beside.is_dir() else beside


def attach(model: Any, folder: Path) -> Any:
    """Add an adapter to the model that it was trained on; no pickle is read.

    Raises
    ------
    ModuleNotFoundError
        If peft is not installed.
    ValueError
        If the adapter cannot be read, or is not of this model.
    """
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ValueError(f"{folder} has no {ADAPTER_WEIGHTS}: save the adapter as safetensors, pickles are not read")
    peft = _peft(folder)
    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        _check_kind(config, folder)
        config.inference_mode = True
        with warnings.catch_warnings():
            # peft warns of what goes wrong in training and merging, which is not done here.
            warnings.simplefilter("ignore")
            adapted = peft.inject_adapter_in_model(config, model)
        weights = load_file(folder / ADAPTER_WEIGHTS)
        # The weights are named as in peft's wrapper, which is not used here.
        read = peft.set_peft_model_state_dict(
            adapted, {name.removeprefix("base_model.model."): weight for name, weight in weights.items()}
        )
    except (LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder}: the adapter could not be added to {type(model).__name__}: name the model that it was trained "
            f"on, {MERGE} ({error})"
        ) from error
    absent = [key for key in read.missing_keys if ".default" in key]
    if absent or read.unexpected_keys:
        what = f"lacks {absent[0]}" if absent else f"has {read.unexpected_keys[0]}, which the model has no place for"
        raise ValueError(f"{folder} is no adapter of its model: it {what}; was it trained on another?")
    return adapted.eval()


def _peft(folder: Path) -> Any:
    try:
        import peft
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        raise ModuleNotFoundError(
            f"{folder} is an adapter, for which peft is needed, which is not installed: pip install peft, {MERGE}",
            name="peft",
        ) from error
    return peft


def _check_kind(config: Any, folder: Path) -> None:
    if config.is_prompt_learning:
        raise ValueError(f"{folder} holds prompts, not weights: they are not read")
    # peft would import the module that it names.
    if getattr(config, "megatron_config", None) is not None:
        raise ValueError(f"{folder} is for Megatron's layers: merge it")
