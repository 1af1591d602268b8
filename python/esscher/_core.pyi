from collections.abc import Sequence
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]
_I64 = NDArray[np.int64]
_U32 = NDArray[np.uint32]
# Offsets, and a mask where rows have gaps; or, of padded rows, lengths or a mask.
_Layout = NDArray[Any] | tuple[_I64, NDArray[np.uint8]]

__all__ = [
    "ROUNDING",
    "JsonLines",
    "__version__",
    "aggregate_logprobs",
    "distinct",
    "distinct_without_each",
    "exponential_weights",
    "kl",
    "log_normaliser",
    "log_ratios",
    "ngram_statistics",
    "normalise",
    "panic",
    "pareto_smooth",
    "read_json_lines",
    "resample",
    "self_bleu",
    "tilt_excess",
    "tilt_shapes",
    "tilt_sums",
    "token_scores",
    "top_ngrams",
    "top_weighted_ngrams",
]
__version__: Final[str]
ROUNDING: Final[float]

def aggregate_logprobs(
    logprobs: NDArray[Any], layout: _Layout, threads: int | None = None
) -> tuple[_F64, _F64, _I64]: ...
def kl(
    policy_logprobs: NDArray[Any],
    policy_layout: _Layout,
    prior_logprobs: NDArray[Any],
    prior_layout: _Layout,
    level: str,
    precision: str,
    threads: int | None = None,
) -> tuple[_F64, _F64, _F64, _F64]: ...
def token_scores(
    logits: NDArray[Any], token_ids: _I64, prior_logits: NDArray[Any] | None = None, threads: int | None = None
) -> tuple[_F32, _F32, _F32 | None, _F32 | None]: ...
def log_ratios(log_target: _F64, log_proposal: _F64) -> _F64: ...
def exponential_weights(
    rewards: _F64, beta: float, groups: _I64, threads: int | None = None
) -> tuple[_F64, _F64, _F64]: ...
def log_normaliser(rewards: _F64, beta: float, groups: _I64, threads: int | None = None) -> tuple[_F64, _F64]: ...
def normalise(log_ratios: _F64, groups: _I64, threads: int | None = None) -> tuple[_F64, _F64, _F64]: ...
def pareto_smooth(log_ratios: _F64, groups: _I64, tail_rule: str, threads: int | None = None) -> tuple[_F64, _F64]: ...
def tilt_sums(rewards: _F64, betas: _F64, groups: _I64, threads: int | None = None) -> tuple[_F64, _F64]: ...
def tilt_excess(
    rewards: _F64, betas: _F64, groups: _I64, maxima: _F64, sums: _F64, threads: int | None = None
) -> _F64: ...
def tilt_shapes(rewards: _F64, betas: _F64, groups: _I64, tail_rule: str, threads: int | None = None) -> _F64: ...
def resample(log_weights: _F64, groups: _I64, uniforms: _F64, threads: int | None = None) -> _I64: ...
def distinct(
    token_ids: _U32, layout: _Layout, groups: _I64, orders: Sequence[int], threads: int | None = None
) -> _F64: ...
def distinct_without_each(
    token_ids: _U32, layout: _Layout, groups: _I64, orders: Sequence[int], threads: int | None = None
) -> _F64: ...
def ngram_statistics(
    token_ids: _U32,
    layout: _Layout,
    groups: _I64,
    orders: Sequence[int],
    weights: _F64 | None = None,
    subsample: int | None = None,
    threads: int | None = None,
) -> tuple[_F64, _F64, _F64 | None]: ...
def self_bleu(
    token_ids: _U32, layout: _Layout, groups: _I64, n: int, smoothing: str, threads: int | None = None
) -> _F64: ...
def top_ngrams(token_ids: _U32, layout: _Layout, n: int, k: int, threads: int | None = None) -> tuple[_I64, _I64]: ...
def top_weighted_ngrams(
    token_ids: _U32, layout: _Layout, weights: _F64, n: int, k: int, threads: int | None = None
) -> tuple[_I64, _I64, _F64]: ...
def panic() -> None: ...

@final
class JsonLines:
    def __new__(cls) -> JsonLines: ...
    def see(self, text: bytes, threads: int | None = None) -> None: ...
    @property
    def rows(self) -> int: ...
    @property
    def kinds(self) -> dict[str, Any]: ...

def read_json_lines(
    text: bytes, kinds: dict[str, Any], before: int, threads: int | None = None
) -> tuple[list[tuple[int, list[NDArray[Any] | None], list[Any]]], int]: ...
