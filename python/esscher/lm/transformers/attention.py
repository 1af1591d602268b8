"""Attention within packs: a token attends to its own segment up to itself, and a branch to its trunk besides.

The two are computed apart and merged by their log-sum-exps into one softmax over both. So all branches of a trunk read
its keys at once, and they are never copied.

References
----------
Juravsky, Brown, Ehrlich, Fu, Ré, Mirhoseini, "Hydragen: High-Throughput LLM Inference with Shared Prefixes", 2024,
arXiv:2402.05099, section 3.1.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from transformers import AttentionInterface

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from esscher.lm.packing import Crossing, Pack

NAME = "esscher_packs"
# Options of attention that change nothing here: nothing is dropped, positions are in queries and keys already,
# windows are longer than the texts (see `Network.longest_in_pack`), and there is no cache.
WITHOUT_EFFECT = {"dropout", "position_ids", "sliding_window", "use_cache", "is_causal", "output_attentions"}
# Segments shorter than this share of another are not padded to its length, unless that is `SHORT` or less.
LEAST_FILL, SHORT = 0.75, 16


def make_plan(pack: Pack, device: torch.device) -> CpuPlan | CudaPlan:
    """Return the index tensors that attention within a pack needs; they are made once and used in every layer."""
    return _cpu_plan(pack) if device.type == "cpu" else _cuda_plan(pack, device)


def obstacle(pack: Pack, heads: tuple[int, int], device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why torch cannot attend within a pack here, for so many heads of queries and of keys; `None` if it can."""
    states = [
        torch.ones(len(pack.token_ids), n, 64, device=device, dtype=dtype) for n in (heads[0], heads[1], heads[1])
    ]
    try:
        make_plan(pack, device).attend(states[0], states[1], states[2], None)
    # Whatever a version of torch raises that has no such kernel, or for other devices or dtypes.
    except Exception as error:
        remedy = "; load it in bfloat16" if dtype == torch.float32 and device.type != "cpu" else ""
        return f"torch {torch.__version__} cannot attend so in {str(dtype).removeprefix('torch.')} ({error}){remedy}"
    return None


def attend(
    module: Any,  # noqa: ARG001 - transformers calls it so
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,  # noqa: ARG001
    *,
    plan: CpuPlan | CudaPlan,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers asks for it: queries [1, h, t, d], keys and values [1, g, t, d]; gives [1, t, h, d].

    Raises
    ------
    TypeError
        If the architecture asks for what is not done here, such as a selection of keys or sinks.
    """
    unknown = [name for name, value in options.items() if value is not None and name not in WITHOUT_EFFECT]
    if unknown:
        raise TypeError(f"attention is asked for with {', '.join(unknown)}")
    queries, keys, values = (states[0].transpose(0, 1).contiguous() for states in (query, key, value))
    return plan.attend(queries, keys, values, scaling)[None], None


AttentionInterface.register(NAME, attend)


class PaddedSegments(NamedTuple):
    """Segments of like length: `place` says which tokens they are, padded to `shape`, [segments, length]."""

    place: slice | torch.Tensor
    shape: tuple[int, int]


class CpuPlan(NamedTuple):
    """Blocks that hold all segments, where in their rows each token is, and the crossings."""

    blocks: tuple[PaddedSegments, ...]
    rows: torch.Tensor | None
    crossings: tuple[Crossing, ...]

    def attend(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """Attend from [t, h, d] to [t, g, d], by torch's fused kernel, which gives log-sum-exps too."""
        states = (queries, keys, values)
        parts = [_flash([_block(one, block) for one in states], scaling, is_causal=True) for block in self.blocks]
        out, lse = (torch.cat(part) if len(part) > 1 else part[0] for part in zip(*parts, strict=True))
        if self.rows is not None:
            out, lse = out.index_select(0, self.rows), lse.index_select(0, self.rows)
        for start, stop, trunk_start, trunk_stop in self.crossings:
            trunk = [queries[None, start:stop], *(one[None, trunk_start:trunk_stop] for one in (keys, values))]
            other, other_lse = _flash(trunk, scaling, is_causal=False)
            _join(out[start:stop], lse[start:stop], other, other_lse)
        return out


def _block(states: torch.Tensor, block: PaddedSegments) -> torch.Tensor:
    taken = states[block.place] if isinstance(block.place, slice) else states.index_select(0, block.place)
    return taken.view(*block.shape, *states.shape[1:])


def _flash(states: list[torch.Tensor], scaling: float | None, *, is_causal: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend from queries [n, t, h, d] to keys and values [n, u, g, d]; gives rows [n t, h, d] and [n t, h]."""
    query, key, value = (one.transpose(1, 2) for one in states)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal, scale=scaling
    )
    return out.transpose(1, 2).flatten(0, 1), lse.transpose(1, 2).flatten(0, 1)


def _join(out: torch.Tensor, lse: torch.Tensor, other: torch.Tensor, other_lse: torch.Tensor) -> None:
    """Merge another attention output into `out` [t, h, d] in place: each weighs as the mass exp(lse) of its keys."""
    out.lerp_(other, torch.sigmoid(other_lse - lse)[..., None].to(out.dtype))


def _cpu_plan(pack: Pack) -> CpuPlan:
    blocks, order = [], []
    for segments in _like_lengths(np.diff(pack.segments)):
        starts, lengths = pack.segments[segments], pack.segments[segments + 1] - pack.segments[segments]
        length = int(lengths.max())
        within = np.arange(length)
        # What is read in place of padding is not kept.
        places = np.minimum(starts[:, None] + within, len(pack.token_ids) - 1).ravel()
        is_slice = bool((lengths == length).all() and (np.diff(starts) == length).all())
        place = slice(int(starts[0]), int(starts[0]) + len(places)) if is_slice else torch.from_numpy(places)
        blocks.append(PaddedSegments(place, (len(segments), length)))
        order.append(np.where(within < lengths[:, None], starts[:, None] + within, -1).ravel())
    held = np.concatenate(order)
    rows = np.empty(len(pack.token_ids), np.int64)
    rows[held[held >= 0]] = np.flatnonzero(held >= 0)
    in_place = np.array_equal(rows, np.arange(len(held)))
    crossings = tuple(crossing for crossing in pack.crossings if crossing.stop > crossing.start)
    return CpuPlan(tuple(blocks), None if in_place else torch.from_numpy(rows), crossings)


def _like_lengths(lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield segments, in their order, that little is lost by padding to the longest of them."""
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        longest = lengths[order[0]]
        fitting = int((lengths[order] >= LEAST_FILL * longest).sum()) if longest > SHORT else len(order)
        yield np.sort(order[:fitting])
        order = order[fitting:]


class Spans(NamedTuple):
    """Offsets of sequences of queries and of the keys that each attends to, and the longest of both."""

    queries: torch.Tensor
    keys: torch.Tensor
    longest_queries: int
    longest_keys: int


class CudaPlan(NamedTuple):
    """The segments, and of the branches that attend to trunks besides: which tokens both are, and their spans."""

    segments: Spans
    branches: slice
    trunks: slice
    crossings: Spans | None

    def attend(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
    ) -> torch.Tensor:
        """Attend from [t, h, d] to [t, g, d], by torch's kernel for sequences of any length; not in float32."""
        out, lse = _varlen(queries, keys, values, *self.segments, scaling, is_causal=True)
        if self.crossings is not None:
            queries, keys, values = queries[self.branches], keys[self.trunks], values[self.trunks]
            other, other_lse = _varlen(queries, keys, values, *self.crossings, scaling, is_causal=False)
            _join(out[self.branches], lse[self.branches], other, other_lse)
        return out


def _varlen(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    query_offsets: torch.Tensor,
    key_offsets: torch.Tensor,
    longest_query: int,
    longest_key: int,
    scaling: float | None,
    *,
    is_causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    # Of torch 2.11 and later; without it, prompts are not shared.
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    # torch 2.12 has to be told that several heads share keys; 2.11 has no such argument.
    is_asked = "enable_gqa" in inspect.signature(varlen_attn).parameters
    sharing: dict[str, Any] = {"enable_gqa": queries.shape[1] != keys.shape[1]} if is_asked else {}
    out, lse = varlen_attn(
        queries,
        keys,
        values,
        query_offsets,
        key_offsets,
        longest_query,
        longest_key,
        return_aux=AuxRequest(lse=True),
        scale=scaling,
        window_size=(-1, 0) if is_causal else (-1, -1),
        **sharing,
    )
    return out, lse.transpose(0, 1)


def _cuda_plan(pack: Pack, device: torch.device) -> CudaPlan:
    segments, longest = _placed(pack.segments, device)
    within = Spans(segments, segments, longest, longest)
    # Branches follow each other in a pack, and so do trunks.
    crossings = np.array(pack.crossings, np.int64).reshape(-1, 4)
    branches, trunks = (np.append(crossings[:, i], crossings[-1:, i + 1]) for i in (0, 2))
    if len(crossings) == 0 or branches[0] == branches[-1]:
        return CudaPlan(within, slice(0), slice(0), None)
    (queries, longest_queries), (keys, longest_keys) = _placed(branches, device), _placed(trunks, device)
    return CudaPlan(
        segments=within,
        branches=slice(int(branches[0]), int(branches[-1])),
        trunks=slice(int(trunks[0]), int(trunks[-1])),
        crossings=Spans(queries, keys, longest_queries, longest_keys),
    )


def _placed(offsets: NDArray[np.int64], device: torch.device) -> tuple[torch.Tensor, int]:
    """Return offsets from 0 on a device, and the longest span between two."""
    return torch.tensor(offsets - offsets[0], dtype=torch.int32, device=device), int(np.diff(offsets).max())
