"""Causal models and tokenizers from a folder, a GGUF file or a hub, with errors that say what to do."""

from __future__ import annotations

import contextlib
import logging
import struct
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError

from esscher.atomic import build_folder
from esscher.lm.base import NoTokenizerError
from esscher.lm.transformers.adapters import MERGE, attach, trained_on
from esscher.lm.transformers.configuration import end_token_ids, max_tokens
from esscher.lm.transformers.probes import check_finite_weights
from esscher.lm.transformers.sources import ModelSource, locate

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger(__name__)

# What damaged files have been seen to raise in the libraries that read them.
UNREADABLE = (OSError, ValueError, LookupError, TypeError, RuntimeError, struct.error, SafetensorError)


def place_of(device: str | torch.device | None) -> torch.device:
    """Return the device called so, or the default; raises `ValueError` if there is none of that name."""
    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}: it is 'cpu', 'cuda' or 'cuda:0'") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch finds no CUDA here: use 'cpu'")
    return place


def dtype_of(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | str:
    """Return the dtype called so, or the default of a device; raises `ValueError` if it is none that models have."""
    if dtype is None:
        return torch.float32 if device.type == "cpu" else "auto"
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype is {dtype!r}: it is float32, bfloat16 or float16")
    return found


def load_model(source: ModelSource, dtype: torch.dtype | str, device: torch.device) -> transformers.PreTrainedModel:
    """Load a causal model, with its adapter if it is one, every weight from the checkpoint.

    No code of the checkpoint's and no pickle is run.

    Raises
    ------
    FileNotFoundError
        If a hub name is not to be had.
    ValueError
        If the configuration or the weights cannot be read, a weight is not finite, or the model is not causal.
    """
    if source.is_adapter:
        base = _model_of(source)
        if base is source.base:
            _log.warning("%s: the model that it names is not to be had, and it is added to %s", source, base)
        adapted: transformers.PreTrainedModel = attach(load_model(base, dtype, device), Path(source.location))
        check_finite_weights(adapted, str(source))
        return adapted
    config = load_config(source)
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"{source} is a {config.model_type} model, which is not a causal language model{_part(config)}"
        )
    _check_sizes(config.get_text_config(), source)
    model = load_whole(transformers.AutoModelForCausalLM, source, config, dtype, "a causal language model")
    _forget_quantisation(model)
    check_finite_weights(model, str(source))
    _check_end_tokens(model, source)
    placed: transformers.PreTrainedModel = model.to(device)
    return placed


def _model_of(source: ModelSource) -> ModelSource:
    """Return where the model is that an adapter was trained on: the one that it names, or else its base."""
    try:
        found = _named_by(source)
    except (FileNotFoundError, ValueError):
        if source.base is None:
            raise
        found = source.base
    if found.is_adapter:
        raise ValueError(
            f"{source} is an adapter of {found}, which is an adapter itself: merge that with its model first"
        )
    return found


def _named_by(source: ModelSource) -> ModelSource:
    named = trained_on(Path(source.location))
    try:
        found = locate(named)
        if not found.options:
            load_config(found)
    except (FileNotFoundError, ValueError) as error:
        raise FileNotFoundError(
            f"{source} is an adapter of {named}, which is not to be had: put that model there, or change "
            f"base_model_name_or_path in adapter_config.json to where it is, {MERGE} ({error})"
        ) from error
    return found


def load_whole(kind: Any, source: ModelSource, config: Any, dtype: torch.dtype | str, what: str) -> Any:
    """Load a model of a class of transformers, every weight from the checkpoint; raises `ValueError` if that fails."""
    options = dict(source.options)
    if source.is_gguf:
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        with no_progress_bars():
            model, info = kind.from_pretrained(
                source.location,
                config=config,
                dtype=dtype,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                # They are named below.
                ignore_mismatched_sizes=True,
                **options,
            )
    except UNREADABLE as error:
        raise ValueError(f"{source}: its weights could not be loaded (safetensors or GGUF): {error}") from error
    if info["mismatched_keys"]:
        key, stored, expected = min(info["mismatched_keys"])
        raise ValueError(
            f"{source}: {key} is {list(stored)} in its weights and {list(expected)} by its config.json; are vocab_size "
            "and the other sizes there those of the weights?"
        )
    absent = sorted(info["missing_keys"])
    if absent:
        raise ValueError(
            f"{source} lacks weights of a {type(model).__name__}, {', '.join(absent[:3])}"
            f"{' and more' * (len(absent) > 3)}: is it {what}?"
        )
    _copy_out_of_the_file(model)
    return model


def _check_sizes(config: Any, source: ModelSource) -> None:
    """Raise `ValueError` for sizes that no model has, of which its library would raise something else, or nothing."""
    max_tokens(config, str(source))
    size = getattr(config, "vocab_size", 1)
    if not size >= 1:
        raise ValueError(
            f"{source} has vocab_size {size} in its config.json: it is how many tokens there are, 1 or more"
        )


def _check_end_tokens(model: Any, source: ModelSource) -> None:
    known = len(model.get_input_embeddings().weight)
    unknown = [one for one in end_token_ids(model) if not 0 <= one < known]
    if unknown:
        raise ValueError(
            f"{source} has the end token {unknown[0]} in its generation_config.json or config.json, but its tokens are "
            f"0 to {known - 1}: set eos_token_id to those that end a text"
        )


def _part(config: Any) -> str:
    """Say which part of a model that reads more than text is a causal language model, if one is."""
    text = config.get_text_config()
    if type(text) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return ""
    return f": its part for text, a {text.model_type} model, is one; save that by itself"


def _copy_out_of_the_file(model: Any) -> None:
    """Copy weights that are still the file's own pages: who writes to it would change the model, or end the process."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def load_tokenizer(source: ModelSource) -> transformers.PreTrainedTokenizerBase:
    """Load the tokenizer that comes with a model, or with an adapter or else its model.

    Raises
    ------
    NoTokenizerError
        If there is none.
    ValueError
        If there is one, and it cannot be read.
    """
    if source.is_adapter and not Path(source.location, "tokenizer_config.json").is_file():
        return load_tokenizer(_model_of(source))
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            source.location, trust_remote_code=False, **source.options
        )
    # A tokenizer's file that is damaged makes its library raise a bare Exception.
    except Exception as error:
        if Path(source.location, "tokenizer.json").is_file():
            raise ValueError(f"{source} has a tokenizer that cannot be read; is it damaged? {error}") from error
        raise NoTokenizerError(f"{source} has no tokenizer that can be loaded, give token ids: {error}") from error
    return tokenizer


def convert_gguf(path: str | Path, folder: str | Path) -> None:
    """Unpack a GGUF file into a folder of float32 safetensors with its tokenizer, which loads in seconds.

    float32 holds every unpacked value exactly; bfloat16 would round most of them. A folder that is there already is
    left as it is; one that cannot be finished is not left behind.

    Raises
    ------
    FileNotFoundError, ValueError
        If `path` is not a GGUF file that holds a causal language model and a tokenizer.
    """
    source = locate(path)
    if not source.is_gguf:
        raise ValueError(f"{path} is not a GGUF file: only those need converting")
    build_folder(Path(folder), partial(_unpack, source))


def _unpack(source: ModelSource, folder: Path) -> None:
    with no_progress_bars():
        load_model(source, torch.float32, torch.device("cpu")).save_pretrained(folder)
        load_tokenizer(source).save_pretrained(folder)


def load_config(source: ModelSource) -> transformers.PreTrainedConfig:
    """Load a model's configuration.

    Raises
    ------
    FileNotFoundError
        If a hub name is not to be had.
    ValueError
        If it cannot be read, or is an adapter's.
    """
    if source.is_adapter:
        raise ValueError(f"{source} is an adapter, which is read only of a causal language model: {MERGE[3:]}")
    try:
        config: transformers.PreTrainedConfig = transformers.AutoConfig.from_pretrained(
            source.location, trust_remote_code=False, **source.options
        )
    except UNREADABLE as error:
        if source.options:
            raise ValueError(f"{source}: its configuration could not be read: {error}") from error
        raise FileNotFoundError(
            f"{source} is neither a folder or file here, nor could the hub provide it: {error}"
        ) from error
    return config


def _forget_quantisation(model: transformers.PreTrainedModel) -> None:
    """Remove the marks a GGUF file leaves on a model that was unpacked: they forbid saving and casting it."""
    for owner in (model, model.config):
        for mark in ("hf_quantizer", "quantization_method", "is_quantized", "quantization_config", "_is_quantized"):
            if mark in vars(owner):
                delattr(owner, mark)


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing bars of its own."""
    logging: Any = transformers.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
