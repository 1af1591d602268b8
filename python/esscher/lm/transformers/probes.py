"""Short texts that tell whether a model can be read, and its prompts shared, before its log-probs are trusted."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from esscher.lm.memory import is_out_of_memory
from esscher.lm.packing import Tree, pack, unshared_trees
from esscher.lm.transformers import attention
from esscher.ragged import Ragged
from esscher.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.nn import Module

    from esscher.lm.packing import Pack
    from esscher.lm.transformers.network import Network

WAY_ROUND = (
    "have another program make log-probs of its samples, and give them to `esscher evaluate` as the columns "
    "policy_logprobs and prior_logprobs"
)
READS_AGAIN = "%s reads each prompt once for each of its completions, where once for all would do: %s"

_log = logging.getLogger(__name__)


def check_finite_weights(model: Module, name: str) -> None:
    """Raise `ValueError` if a weight of a model is NaN or infinite; the message says which, and where."""
    for key, weight in model.named_parameters():
        # Minimum and maximum are NaN if any value is, and take no memory.
        values = weight.detach()
        if values.is_floating_point() and values.numel() and not all(map(torch.isfinite, values.aminmax())):
            place = tuple(torch.nonzero(~torch.isfinite(values))[0].tolist())
            raise ValueError(
                f"{name} cannot be used: its weight {key}[{', '.join(map(str, place))}] is {float(values[place])}; did "
                "its training diverge, or does its dtype not hold its weights?"
            )


@torch.inference_mode()
def check_logits(network: Network, name: str) -> None:
    """Run four tokens to see that the model is causal and that its logits can be made from its hidden states.

    Raises
    ------
    ValueError
        If they cannot, or are not finite; the message says what else there is to do.
    """
    ids = torch.arange(1, 5, device=network.device).repeat(2, 1) % network.vocabulary_size
    ids[1, 3] = 0
    what = f"{name}: a {type(network.model).__name__}"
    with _refusing(f"{what} does not read a text of token ids"):
        expected = network.model(input_ids=ids, use_cache=False).logits.float()
    _check_finite(network.model, expected, name)
    tolerance = (1e-4 if network.model.dtype == torch.float32 else 3e-2) * float(expected.abs().max())
    if not torch.allclose(expected[0, :3], expected[1, :3], rtol=0, atol=tolerance):
        raise ValueError(f"{name} is not causal: its logits depend on later tokens")
    with _refusing(f"{what} does not give its hidden states apart from its logits"):
        found = _own_logits(network, ids)
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=0, atol=tolerance):
        raise ValueError(
            f"{what} makes its logits in a way that is not known here; log-probs of it would be wrong: {WAY_ROUND}"
        )


def _own_logits(network: Network, ids: torch.Tensor) -> torch.Tensor:
    """Logits of texts [n, t] by the two halves."""
    positions = torch.arange(ids.shape[1], device=network.device).expand_as(ids)
    hidden = network.run(ids, positions).last_hidden_state
    return network.logits(hidden.flatten(0, 1)).view(*ids.shape, -1)


@contextmanager
def _refusing(reason: str) -> Iterator[None]:
    """Turn what a model raises in the block into a `ValueError` that gives a reason and a way round."""
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"{reason}: {WAY_ROUND} ({error})") from error


def _check_finite(model: Any, logits: torch.Tensor, name: str) -> None:
    """Raise `ValueError` if logits are no numbers; -inf says that a token is impossible."""
    if (logits.isnan() | (logits == torch.inf)).any():
        check_finite_weights(model, name)
        raise ValueError(
            f"{name} gives NaN, although its weights are finite: {model.dtype} does not hold its numbers, try float32, "
            "or its config.json is another model's"
        )


@torch.inference_mode()
def reads_packs(network: Network, name: str) -> bool:
    """Whether trees read as packs give the hidden states of each completion on its own.

    Architectures whose attention is not transformers' own, or that have state of another kind, do not.
    """
    if not network.takes_positions or not network.model._supports_sdpa:
        return False
    # From all over the vocabulary: of special tokens alone some models make states that 16 bits hardly hold.
    ids = np.linspace(0, network.vocabulary_size, 15, dtype=np.int64)[1:-1]
    samples = Samples(
        prompts=Ragged.from_lengths(ids[:6], [3, 1, 2]),
        completions=Ragged.from_lengths(np.roll(ids, 5), [3, 1, 4, 2, 3]),
        groups=np.array([0, 3, 4, 5]),
    )
    whole = [Tree(0, 0, 3), Tree(1, 3, 4), Tree(2, 4, 5)]
    laid, expected = pack(samples, whole), pack(samples, unshared_trees(samples, np.arange(len(samples))))
    obstacle = _obstacle(network, laid)
    if obstacle is not None:
        _log.warning(READS_AGAIN, name, obstacle)
        return False
    rows = network.read_padded(expected)[network.tensor(expected.predictors)]
    try:
        found = network.read_pack(laid)[network.tensor(laid.predictors)]
    # Whatever a model raises that cannot be read so, it can still be read otherwise.
    except Exception as error:
        _log.info("%s reads a prompt once for each completion: %s", name, error)
        return False
    found = found[network.tensor(np.argsort(laid.counted))]
    # Rounding in 16 bits was seen to make up to 0.02 of this, attention to the wrong tokens 0.6 and more.
    tolerance = 1e-3 if network.model.dtype == torch.float32 else 0.1
    return bool((found.float() - rows.float()).norm() <= tolerance * rows.float().norm())


def _obstacle(network: Network, laid: Pack) -> str | None:
    """Return why a model cannot be read in packs although its architecture may allow it; `None` if it can."""
    config = network.config
    if config._attn_implementation != "sdpa":
        return f"its attention is {config._attn_implementation!r}, set it to 'sdpa'"
    heads = getattr(config, "num_attention_heads", None) or 1
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    return attention.obstacle(laid, (heads, key_heads), network.device, network.model.dtype)
