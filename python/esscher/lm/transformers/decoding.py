"""Completions token by token: prompts are read once, and texts that have ended are dropped."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from esscher.lm.memory import is_out_of_memory, run_divided
from esscher.lm.packing import micro_batches
from esscher.ragged import Ragged

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import Cache

    from esscher.lm.transformers.network import Network

# Tokens of the longer text that `reads_in_batches` tries: more than layers that compress or convolve take together.
PROBED = 160


_log = logging.getLogger(__name__)


class Texts(NamedTuple):
    """Texts being written: the last token's hidden state [n, d], what was read so far, and which of it is padding."""

    hidden: torch.Tensor
    cache: Cache
    mask: torch.Tensor


def draw_completions(
    network: Network,
    name: str,
    prompts: Ragged,
    uniforms: NDArray[np.float64],
    sampling_temperature: float,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Draw as many completions of each prompt, by uniform random numbers [P n, t]; gives what `write` does.

    As many are written at a time as memory allows.

    Raises
    ------
    ValueError
        If the model can score, not sample, or as `check_positions`.
    MemoryError
        If there is not memory enough for one completion.
    """
    if not network.can_sample:
        raise ValueError(
            f"{name} can score, not sample: a {type(network.model).__name__} does not read a text with padding and a "
            "cache as it does without"
        )
    check_positions(network, name, prompts.lengths, uniforms.shape[1])
    which = np.repeat(np.arange(len(prompts)), len(uniforms) // len(prompts))
    tokens, values = np.zeros(uniforms.shape, np.int64), np.zeros(uniforms.shape, np.float32)
    lengths = np.zeros(len(uniforms), np.int64)

    def draw(rows: NDArray[np.int64]) -> None:
        texts = read(network, prompts, which[rows])
        tokens[rows], values[rows], lengths[rows] = write(network, texts, uniforms[rows], sampling_temperature)

    def halve(rows: NDArray[np.int64], error: BaseException) -> list[NDArray[np.int64]]:
        if len(rows) == 1:
            prompt = which[rows[0]]
            raise MemoryError(
                f"a completion of the {prompts.lengths[prompt]} tokens of prompts[{prompt}] is more than memory holds: "
                "cut the prompt, or ask for fewer new tokens"
            ) from error
        _log.warning("out of memory: %s writes %d completions at a time, not %d", name, len(rows) // 2, len(rows))
        return np.array_split(rows, 2)

    for _ in run_divided(batches(network, prompts.lengths[which], uniforms.shape[1]), draw, halve):
        pass
    return tokens, values, lengths


def read(network: Network, prompts: Ragged, which: NDArray[np.int64]) -> Texts:
    """Read the prompts, each once, padded on the left; then copy what was read for each text `which` begins so."""
    distinct, copies = np.unique(which, return_inverse=True)
    lengths = prompts.lengths[distinct]
    width = int(lengths.max())
    present = np.arange(width) >= width - lengths[:, None]
    padded = np.zeros(present.shape, np.int64)
    padded[present] = prompts.take(distinct).values
    mask = network.tensor(present.astype(np.int64))
    hidden, cache = network.run_on(network.tensor(padded), mask, _positions(mask))
    index = network.tensor(copies)
    cache.reorder_cache(index)
    return Texts(hidden[index], cache, mask[index])


def batches(network: Network, lengths: NDArray[np.int64], new: int) -> list[NDArray[np.int64]]:
    """Divide texts into those that are written at a time, `new` tokens after prompts of these lengths [n].

    Texts that begin beyond where positions change their meaning are not read beside others.
    """
    parts = (np.flatnonzero(lengths + new <= network.longest_alike), np.flatnonzero(lengths > network.longest_alike))
    return [rows[batch] for rows in parts for batch in micro_batches(lengths[rows] + new, network.pace.batch)]


def check_positions(network: Network, name: str, lengths: NDArray[np.int64], new: int) -> None:
    """Raise `ValueError` if the positions of a text's tokens would change while `new` tokens are written after it.

    Scored whole, its first tokens would be read as they were not when it was written.
    """
    limit = network.longest_alike
    begins_beyond = (lengths > limit) & network.long_are_alike
    crossing = np.flatnonzero((lengths + new > limit) & ~begins_beyond)
    if len(crossing):
        i = int(crossing[0])
        fewer = f"ask for at most {limit - lengths[i]} new tokens" if lengths[i] < limit else "cut the prompt"
        longer = f", or give a prompt of more than {limit}" if network.long_are_alike else ""
        raise ValueError(
            f"prompts[{i}] has {lengths[i]} tokens and max_new_tokens is {new}: beyond {limit} together the positions "
            f"of all tokens mean something else to {name}, so that what was written before would be scored "
            f"differently; {fewer}{longer}"
        )


def reads_in_batches(network: Network) -> bool:
    """Whether a padded batch with a cache, whose rows are copied and dropped, gives the hidden states of texts alone.

    Architectures without a cache do not, nor do those that take padding for text.
    """
    longest = min(PROBED, network.max_tokens, network.longest_alike) - 2
    short, long = np.array([1]), np.arange(1, max(longest, 2)) % network.vocabulary_size
    prompts = Ragged.from_rows([short, long])
    token = network.tensor(np.array([3, 2, 1]) % network.vocabulary_size)
    try:
        texts = _advance(network, read(network, prompts, np.array([1, 0, 1])), token, np.arange(3))
        # In another order than the prompts, so that a cache that is not rearranged gives other states.
        texts = _advance(network, texts, token, np.array([0, 1]))
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        return False  # no cache, or layers of it that cannot be rearranged
    alone = torch.stack([_last_hidden(network, np.append(prompt, [t, t])) for prompt, t in ((long, 3), (short, 2))])
    if alone.isnan().any():
        return True  # weights that are no numbers are for whoever samples to name
    tolerance = (1e-4 if alone.dtype == torch.float32 else 3e-2) * float(alone.abs().max())
    return torch.allclose(texts.hidden, alone, rtol=0, atol=tolerance)


def _last_hidden(network: Network, ids: NDArray[np.int64]) -> torch.Tensor:
    row = network.tensor(ids[None])
    hidden: torch.Tensor = network.run(row, network.tensor(np.arange(len(ids))[None])).last_hidden_state[0, -1]
    return hidden


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
        # Typed as a LongTensor, which torch's own functions do not return.
        cache.reorder_cache(index)  # type: ignore[arg-type]
        token, mask = token[index], mask[index]
    mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    hidden, cache = network.run_on(token[:, None], mask, _positions(mask)[:, -1:], cache)
    return Texts(hidden, cache, mask)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """0, 1, ... from the first token that is not padding; padding, which nobody sees, has 0."""
    return (mask.cumsum(1) - 1).clamp_(min=0)
