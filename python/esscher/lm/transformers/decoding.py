"""Completions token by token: prompts are read once, and texts that have ended are dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import Cache

    from esscher.lm.transformers.network import Network
    from esscher.ragged import Ragged


class Texts(NamedTuple):
    """Texts being written: the last token's hidden state [n, d], what was read so far, and which of it is padding."""

    hidden: torch.Tensor
    cache: Cache
    mask: torch.Tensor


def read(network: Network, prompts: Ragged, which: NDArray[np.int64]) -> Texts:
    """Read the prompts, each once, padded on the left; then copy what was read for each text `which` begins so."""
    distinct, copies = np.unique(which, return_inverse=True)
    lengths = prompts.lengths[distinct]
    width = int(lengths.max())
    present = np.arange(width) >= width - lengths[:, None]
    padded = np.zeros(present.shape, np.int64)
    padded[present] = prompts.take(distinct).values
    mask = network.tensor(present.astype(np.int64))
    out = network.run(network.tensor(padded), _positions(mask), attention_mask=mask, use_cache=True)
    cache = getattr(out, "past_key_values", None)
    if cache is None:
        raise ValueError(f"a {type(network.model).__name__} keeps no key-value cache: it can score, not sample")
    index = network.tensor(copies)
    cache.batch_select_indices(index)
    return Texts(out.last_hidden_state[:, -1][index], cache, mask[index])


def write(
    network: Network, texts: Texts, uniforms: NDArray[np.float64], sampling_temperature: float
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Continue texts by at most [n, t] tokens: the tokens, their log-probs, and how many of them each has."""
    tokens, values = np.zeros(uniforms.shape, np.int64), np.zeros(uniforms.shape, np.float32)
    lengths = np.zeros(len(tokens), np.int64)
    unfinished = np.arange(len(tokens))
    for t in range(uniforms.shape[1]):
        token, logprobs = network.draw(texts.hidden, network.tensor(uniforms[unfinished, t]), sampling_temperature)
        tokens[unfinished, t] = token.cpu().numpy()
        values[unfinished, t] = logprobs.cpu().numpy()
        lengths[unfinished] += 1
        goes_on = ~np.isin(tokens[unfinished, t], network.end_token_ids)
        unfinished = unfinished[goes_on]
        if len(unfinished) == 0 or t + 1 == uniforms.shape[1]:
            break
        texts = _advance(network, texts, token, np.flatnonzero(goes_on))
    return tokens, values, lengths


def _advance(network: Network, texts: Texts, token: torch.Tensor, rows: NDArray[np.int64]) -> Texts:
    """Read one more token of the given rows; the others are finished and dropped."""
    _, cache, mask = texts
    if len(rows) < len(token):
        index = network.tensor(rows)
        cache.batch_select_indices(index)
        token, mask = token[index], mask[index]
    mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    position = _positions(mask)[:, -1:]
    out = network.run(token[:, None], position, attention_mask=mask, past_key_values=cache, use_cache=True)
    return Texts(out.last_hidden_state[:, -1], out.past_key_values, mask)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """0, 1, ... from the first token that is not padding; padding, which nobody sees, has 0."""
    return (mask.cumsum(1) - 1).clamp_(min=0)
