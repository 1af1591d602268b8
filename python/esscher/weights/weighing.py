"""Importance weights within prompts, and what they alone say: log Z, effective sample size, tail."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from esscher import _core
from esscher.groups import Groups, as_groups
from esscher.weights.bias import bias_of_log_mean
from esscher.weights.halves import LeftBias, cut_in_halves, left_bias, worth_of
from esscher.weights.tails import tails_that_decide

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Weights:
    """Self-normalised importance weights of N completions in P prompts. Made once by `weigh`, and handed on.

    Attributes
    ----------
    log_ratios
        log(target / proposal) of each completion [N], unnormalised, in nats; -inf gives weight 0.
    groups
        The completions of each prompt.
    log_weights
        Log of the weights [N]: in each prompt their exponentials sum to 1.
    log_z
        Log of each prompt's mean unnormalised weight [P], in nats; -inf where nothing has weight.
    ess
        Effective sample size [P], ``(sum w)^2 / sum w^2``; 0 where nothing has weight.
    """

    log_ratios: NDArray[np.float64]
    groups: Groups
    log_weights: NDArray[np.float64]
    log_z: NDArray[np.float64]
    ess: NDArray[np.float64]

    @cached_property
    def relative(self) -> NDArray[np.float64]:
        """The weights relative to equal ones [N]: their mean over a prompt with weight is 1."""
        relative: NDArray[np.float64] = np.exp(self.log_weights) * self.groups.spread(self.groups.sizes)
        return relative

    @cached_property
    def corrected_log_z(self) -> NDArray[np.float64]:
        """Log Z of each prompt [P] less its bias of order 1/n (see `bias_of_log_mean`)."""
        return self.log_z - bias_of_log_mean(self.relative, self.groups)

    @cached_property
    def pareto_k(self) -> NDArray[np.float64]:
        """Tail shape of each prompt's weights [P]; -inf where the tail is flat, NaN where there are too few to tell."""
        return _core.pareto_smooth(self.log_ratios, self.groups.offsets, "arviz-stats")[1]

    @cached_property
    def deciding_pareto_k(self) -> NDArray[np.float64]:
        """`pareto_k`, but -inf where weights hardly differ (see `tails_that_decide`)."""
        return tails_that_decide(self.pareto_k, self.ess, self.groups.sums(self.log_weights > -np.inf))

    @cached_property
    def halves(self) -> tuple[tuple[NDArray[np.int64], Weights], ...]:
        """The completions cut in halves at random, several times: their order [N], and their weights in halves."""
        cuts = cut_in_halves(self.log_ratios, self.groups)
        return tuple((cut.order, weigh(self.log_ratios[cut.order], cut.groups)) for cut in cuts)

    @property
    def largest_pareto_k(self) -> float:
        """The largest of `pareto_k`; NaN where no prompt has one."""
        known = self.pareto_k[~np.isnan(self.pareto_k)]
        return float(known.max()) if len(known) else np.nan


def weigh(log_ratios: NDArray[np.float64], groups: ArrayLike) -> Weights:
    """Weigh completions by the log of ``target / proposal`` [N], prompt by prompt.

    ``w_i = exp(l_i) / sum_j exp(l_j)`` and ``log Z = log mean_j exp(l_j)``, by log-sum-exp.

    Raises
    ------
    ValueError
        If a log-ratio is NaN or +inf, or `groups` are no offsets.

    Examples
    --------
    >>> import numpy as np
    >>> weights = weigh(np.log([0.5, 1.0, 1.5]), [0, 3])
    >>> weights.relative.round(4), weights.ess.round(4)
    (array([0.5, 1. , 1.5]), array([2.5714]))
    >>> weights.log_z.round(4) + 0.0, weights.corrected_log_z.round(4)
    (array([0.]), array([0.043]))
    """
    found = as_groups(groups, len(log_ratios))
    return Weights(log_ratios, found, *_core.normalise(log_ratios, found.offsets))


def left_bias_of(
    weights: Weights, values: NDArray[np.float64], say: Callable[[Weights, NDArray[np.float64]], NDArray[np.float64]]
) -> LeftBias:
    """Compare what `say` returns of weights and values [N], for each prompt [P], with what it returns of their halves.

    Examples
    --------
    >>> import numpy as np
    >>> weights = weigh(np.log([0.5, 1.0, 1.5, 1.0]), [0, 4])
    >>> left = left_bias_of(weights, weights.log_ratios, lambda weights, _: weights.corrected_log_z)
    >>> bool(abs(left.shift) < 0.1)
    True
    """
    halves = [half for _, half in weights.halves]
    worth = worth_of(weights.ess, [half.ess for half in halves])
    of_halves = [say(half, values[order]) for order, half in weights.halves]
    return left_bias(say(weights, values), of_halves, weights.groups.sizes, worth)
