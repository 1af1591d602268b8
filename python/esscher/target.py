"""Modelling: which distribution do we want? A target is ``prior(x) exp(log_potential(x)) / Z``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Tilt:
    """The posterior of KL-regularised fine-tuning: ``prior(x) exp(r(x) / beta) / Z``.

    It maximises ``E_pi[r] - beta KL(pi‖prior)`` over all policies pi.

    Parameters
    ----------
    beta
        Strength of the KL penalty, in units of reward per nat; positive and finite.

    Raises
    ------
    ValueError
        If `beta` is not a positive finite number.

    References
    ----------
    Korbak, Perez, Buckley, "RL with KL penalties is better viewed as Bayesian inference", Findings of EMNLP
    2022.

    Examples
    --------
    >>> Tilt(beta=0.5).log_potential([1.0, -2.0])
    array([ 2., -4.])
    """

    beta: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.beta) and self.beta > 0):
            raise ValueError(f"beta is {self.beta}: it must be a positive number (units of reward per nat)")

    def log_potential(self, rewards: ArrayLike) -> NDArray[np.float64]:
        """``r / beta`` in nats [N]; raises `ValueError` if a reward is NaN or +inf, or the quotient overflows."""
        array = _check_rewards(rewards)
        with np.errstate(over="ignore"):  # the next line reports it
            potential = array / self.beta
        too_large = np.flatnonzero(np.isinf(potential) & np.isfinite(array))
        if len(too_large):
            reward = array[too_large[0]]
            raise ValueError(f"rewards[{too_large[0]}] is {reward:g}: divided by beta = {self.beta:g}, it overflows")
        return potential

    def __str__(self) -> str:
        return f"tilt|beta:{self.beta:g}"


@dataclass(frozen=True)
class Condition:
    """The prior given success: ``prior(x) [r(x) >= threshold] / Z``, with Z the prior's pass rate.

    Parameters
    ----------
    threshold
        The lowest reward that passes; not NaN.

    Raises
    ------
    ValueError
        If `threshold` is NaN.

    References
    ----------
    Korbak, Perez, Buckley, Findings of EMNLP 2022.

    Examples
    --------
    >>> Condition(threshold=0.0).log_potential([1.0, -2.0])
    array([  0., -inf])
    """

    threshold: float

    def __post_init__(self) -> None:
        if np.isnan(self.threshold):
            raise ValueError("threshold is nan: it must be a number")

    def log_potential(self, rewards: ArrayLike) -> NDArray[np.float64]:
        """0 where the reward reaches the threshold, else -inf [N]; raises `ValueError` if a reward is NaN or +inf."""
        return np.where(_check_rewards(rewards) >= self.threshold, 0.0, -np.inf)

    def __str__(self) -> str:
        return f"condition|threshold:{self.threshold:g}"


Target = Tilt | Condition


def _check_rewards(rewards: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(rewards, dtype=np.float64)
    bad = np.flatnonzero(np.isnan(array) | (array == np.inf))
    if len(bad):
        raise ValueError(f"rewards[{bad[0]}] is {array[bad[0]]}: a reward is finite or -inf")
    return array
