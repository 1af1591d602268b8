"""What a model's configuration says of how it is to be read."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

UNLIMITED = 2**31 - 1

_log = logging.getLogger(__name__)


def window(config: Any) -> int:
    """How far back every layer of a model sees."""
    windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((window for window in windows if window), default=UNLIMITED)


def longest_alike(config: Any) -> tuple[int, bool]:
    """Up to how many tokens positions do not depend on a text's length, and whether all longer texts agree on theirs.

    Beyond, the longest text of a batch changes the positions of all: "longrope" and its kin change over to other
    frequencies or another scale, once; "dynamic" ones go on changing with each token.

    References
    ----------
    Ding et al., "LongRoPE: Extending LLM Context Window Beyond 2 Million Tokens", 2024, arXiv:2402.13753; Peng,
    Quesnelle, Fan, Shippole, "YaRN: Efficient Context Window Extension of Large Language Models", 2023,
    arXiv:2309.00071, which describes "dynamic" too.
    """
    each, most = _ropes(config), getattr(config, "max_position_embeddings", None) or UNLIMITED
    once = [
        one.get("original_max_position_embeddings") or most
        for one in each
        if one.get("rope_type") == "longrope" or "long_mscale" in one
    ]
    always = [most for one in each if "dynamic" in (one.get("rope_type") or "")]
    limits = {*once, *always}
    return min(limits, default=UNLIMITED), len(limits) < 2 and not always


def _ropes(config: Any) -> list[dict[str, Any]]:
    """How positions are rotated: in all layers, or in each kind of them."""
    found = getattr(config, "rope_parameters", None) or {}
    return [found] if "rope_type" in found else [value for value in found.values() if isinstance(value, dict)]


def start_token_id(config: PreTrainedConfig, vocabulary_size: int) -> int | None:
    """Return the token that an empty prompt begins with, if the model knows it."""
    found = getattr(config, "bos_token_id", None)
    return int(found) if found is not None and 0 <= found < vocabulary_size else None


def logit_scale(config: PreTrainedConfig) -> float:
    """By how much an architecture multiplies its logits; `logits_scaling` divides them, but for HyperCLOVA X."""
    multipliers = (getattr(config, name, None) or 1.0 for name in ("logit_scale", "lm_head_multiplier"))
    scaling = getattr(config, "logits_scaling", None) or 1.0
    return math.prod(multipliers) * (scaling if config.model_type == "hyperclovax" else 1 / scaling)


def softcap(config: PreTrainedConfig) -> float | None:
    """Where an architecture caps its logits: Gemma, RecurrentGemma and xLSTM each have a name for it."""
    names = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    return next((cap for name in names if (cap := getattr(config, name, None)) is not None), None)


def max_tokens(config: PreTrainedConfig, name: str) -> int:
    """How many tokens a configuration lets a model read; raises `ValueError` if that is no such number."""
    found = getattr(config, "max_position_embeddings", None)
    if found is None:
        return UNLIMITED
    if not isinstance(found, int) or not 1 <= found <= UNLIMITED:
        raise ValueError(
            f"{name} has max_position_embeddings {found} in its config.json: it is how many tokens the model can read, "
            f"1 to {UNLIMITED}, or null if any number"
        )
    return found


def warn_of_dynamic_ntk(config: PreTrainedConfig, name: str) -> None:
    """Log that longer texts are scored differently, if the model's positions depend on a text's length."""
    if any(parameters.get("rope_type") == "dynamic" for parameters in _ropes(config)):
        _log.warning(
            "%s is read up to %d tokens: beyond them its dynamic NTK gives a token another log-prob with every length "
            "of its text; for longer texts set rope_type in its config.json to one that is fixed, yarn or linear",
            name,
            max_tokens(config, name),
        )


def end_token_ids(model: Any) -> tuple[int, ...]:
    """Return the tokens that end a text, as a model's generation configuration says, or else its configuration."""
    ids = getattr(model.generation_config, "eos_token_id", None)
    if ids is None:
        ids = getattr(model.config.get_text_config(), "eos_token_id", None)
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, (list, tuple)) else (int(ids),)
