"""Scores of completions under one model or two: hidden states of a pack, then logits of a few rows at a time."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from esscher.lm.memory import run_divided
from esscher.lm.packing import divide, divide_unshared, halve, pack, text_lengths
from esscher.token_scores import TokenScores
from esscher.token_scores import token_scores as scores_of_logits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from esscher.lm.packing import Tree
    from esscher.lm.transformers.network import Network
    from esscher.ragged import Ragged
    from esscher.samples import Samples

    Columns = tuple[torch.Tensor, ...]


@torch.inference_mode()
def token_scores(networks: Sequence[Network], samples: Samples) -> TokenScores:
    """Score completions with a policy, or with a policy and a prior; every prompt has at least one token.

    A token of which a model gives no number has NaN for a log-prob.

    Raises
    ------
    MemoryError
        If a completion does not fit into memory by itself.
    """
    parts = run_divided(
        _batches(networks, samples),
        lambda batch: _score(networks, samples, batch),
        lambda batch, error: _halved(samples, batch, error),
    )
    return _assembled(list(parts))


def check_numbers(name: str, logprobs: Ragged) -> Ragged:
    """Return a model's log-probs, or raise `FloatingPointError` if one of them is NaN."""
    broken = np.flatnonzero(np.isnan(logprobs.values))
    if len(broken):
        row, token = logprobs.locate(broken[0])
        raise FloatingPointError(
            f"{name} gives NaN at completions[{row}][{token}]: its weights or dtype cannot be used"
        )
    return logprobs


class _TreeBatch(NamedTuple):
    """Completions with their prompts that are read at a time, as a pack or padded."""

    trees: Sequence[Tree]
    is_packed: bool


def _batches(networks: Sequence[Network], samples: Samples) -> Iterator[_TreeBatch]:
    """Divide samples into batches; completions that cannot share their prompt are padded, apart from the others."""
    lengths = text_lengths(samples)
    fits = lengths <= min(network.longest_in_pack for network in networks)
    is_shared = np.logical_and.reduceat(fits, samples.groups[:-1])
    is_apart = ~is_shared[samples.groups.of]
    is_alike = lengths <= min(network.longest_alike for network in networks)
    budget = min(network.pace.tokens for network in networks)
    yield from (_TreeBatch(trees, is_packed=True) for trees in divide(samples, budget, np.flatnonzero(is_shared)))
    # With room for one token, each text is read alone.
    for which, room in ((is_apart & is_alike, budget), (is_apart & ~is_alike, 1)):
        yield from (
            _TreeBatch(trees, is_packed=False) for trees in divide_unshared(samples, room, np.flatnonzero(which))
        )


def _score(networks: Sequence[Network], samples: Samples, batch: _TreeBatch) -> tuple[NDArray[np.int64], Columns]:
    """Which actions a batch holds, and their columns in the order of `TokenScores`."""
    laid, device = pack(samples, batch.trees), networks[0].device
    predictors = torch.from_numpy(laid.predictors).to(device)
    # Copies of the rows that count, without gaps: projecting a slice of hidden states is many times slower.
    rows = [(network.read_pack if batch.is_packed else network.read_padded)(laid)[predictors] for network in networks]
    token_ids = torch.from_numpy(samples.actions.kept.values[laid.counted].astype(np.int64)).to(device)
    return laid.counted, _over_the_vocabulary(networks, rows, token_ids)


def _over_the_vocabulary(
    networks: Sequence[Network], hidden: Sequence[torch.Tensor], token_ids: torch.Tensor
) -> Columns:
    """Reduce the logits of the tokens [c] that follow hidden states [c, d], a few rows at a time."""
    reduce = _reduce_on_cpu if token_ids.device.type == "cpu" else _compiled()
    step = min(network.pace.rows for network in networks)
    parts = []
    for start in range(0, len(token_ids), step):
        logits = [
            network.project(states[start : start + step]) for network, states in zip(networks, hidden, strict=True)
        ]
        parts.append(reduce(token_ids[start : start + step], *logits))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _reduce_on_cpu(token_ids: torch.Tensor, *logits: torch.Tensor) -> Columns:
    """Reduce by Esscher's own kernel, which reads torch's memory as it is."""
    try:
        scores = scores_of_logits(logits[0], token_ids, *logits[1:])
    except ValueError:
        broken = [_is_broken(one) for one in logits]
        if not any(rows.any() for rows in broken):
            raise
        return _with_nan_where(broken, token_ids, *logits)
    return tuple(torch.from_numpy(column) for column in scores if column is not None)


def _is_broken(logits: torch.Tensor) -> torch.Tensor:
    """Whether rows hold what the kernel does not take: NaN, +inf, or -inf for every token."""
    return (logits.isnan() | (logits == torch.inf)).any(dim=1) | (logits == -torch.inf).all(dim=1)


def _with_nan_where(broken: Sequence[torch.Tensor], token_ids: torch.Tensor, *logits: torch.Tensor) -> Columns:
    """Score what can be scored, with NaN for the rows of each model that are broken."""
    mended = [one.masked_fill(rows[:, None], 0) for one, rows in zip(logits, broken, strict=True)]
    columns = _reduce_on_cpu(token_ids, *mended)
    unknown = (broken[0], broken[0], broken[-1], broken[0] | broken[-1])[: len(columns)]
    return tuple(column.masked_fill(rows, torch.nan) for column, rows in zip(columns, unknown, strict=True))


def _reduce(token_ids: torch.Tensor, *logits: torch.Tensor) -> Columns:
    """Reduce in torch: what is compiled into one pass over the logits for a GPU."""
    logprobs = [torch.log_softmax(one.float(), dim=1) for one in logits]
    policy, probs = logprobs[0], logprobs[0].exp()
    taken = [one.gather(1, token_ids[:, None])[:, 0] for one in logprobs]
    entropy = -torch.where(probs > 0, probs * policy, 0.0).sum(dim=1)
    if len(logprobs) == 1:
        return taken[0], entropy
    kl = torch.where(probs > 0, probs * (policy - logprobs[1]), 0.0).sum(dim=1)
    return taken[0], entropy, taken[1], kl.clamp(min=0)


@cache
def _compiled() -> Callable[..., Columns]:
    # Rows differ from call to call; the vocabulary does not.
    return torch.compile(_reduce, dynamic=True)


def _assembled(parts: Sequence[tuple[NDArray[np.int64], Columns]]) -> TokenScores:
    order = np.concatenate([counted for counted, _ in parts])
    columns: list[NDArray[np.float32]] = []
    for column in zip(*(columns for _, columns in parts), strict=True):
        values = np.empty(len(order), np.float32)
        values[order] = torch.cat(column).cpu().numpy()
        columns.append(values)
    prior_logprobs, kl = columns[2:] or (None, None)
    return TokenScores(columns[0], columns[1], prior_logprobs, kl)


def _halved(samples: Samples, batch: _TreeBatch, error: BaseException) -> list[_TreeBatch]:
    """Halve a batch that did not fit into memory; raise `MemoryError` if it is one completion."""
    halves = halve(batch.trees)
    if halves is None:
        (prompt, completion, _) = batch.trees[0]
        raise MemoryError(
            f"completions[{completion}] has {samples.completions.lengths[completion]} tokens after the "
            f"{samples.prompts.lengths[prompt]} of prompts[{prompt}]: that is more than memory holds, cut them"
        ) from error
    return [batch._replace(trees=trees) for trees in halves]
