"""Pareto smoothing of importance weights."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from arviz_stats.base import array_stats

from bench import data
from bench.measure import Job, Peer
from esscher.inference import importance

if TYPE_CHECKING:
    from numpy.typing import NDArray


def smooth(n: int, mark: float) -> Job:
    log_ratios = data.rewards(n)
    return Job(
        f"Pareto smoothing: f64, N = 10^{len(str(n)) - 1}",
        lambda: importance.pareto_smooth(log_ratios, threads=1),
        (Peer("arviz-stats", partial(_arviz, log_ratios), (mark, mark), 1e-12, _error),),
    )


def _arviz(log_ratios: NDArray[np.float64]) -> tuple[Any, ...]:
    """Its argument is a log-likelihood, the negative of the log-ratio."""
    return array_stats.psislw(-log_ratios)


def _error(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> float:
    (log_weights, (pareto_k,)), (their_log_weights, their_k) = ours, theirs
    shift = np.subtract(log_weights, their_log_weights)  # theirs are normalised: one shift for all
    return max(float(np.ptp(shift)), abs(float(pareto_k - their_k)))


JOBS = {
    "pareto-1e3": partial(smooth, 10**3, 12),
    "pareto-1e4": partial(smooth, 10**4, 7),
    "pareto-1e5": partial(smooth, 10**5, 20),
    "pareto-1e6": partial(smooth, 10**6, 24),
}
