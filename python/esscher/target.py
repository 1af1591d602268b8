"""Modelling: which distribution do we want? A target is ``prior(x) exp(log_potential(x)) / Z``."""

from __future__ import annotations

import itertools
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
    Korbak, Perez, Buckley, "RL with KL penalties is better viewed as Bayesian inference", Findings of EMNLP 2022,
    arXiv:2205.11275.

    Examples
    --------
    >>> Tilt(beta=0.5).log_potential([1.0, -2.0])
    array([ 2., -4.])
    """

    beta: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.beta) and self.beta > 0):
            raise ValueError(f"beta is {self.beta}: it must be a positive number (units of reward per nat)")

    def log_potential(
        self,
        rewards: ArrayLike | None = None,
        features: ArrayLike | None = None,  # noqa: ARG002 (as other targets have it)
    ) -> NDArray[np.float64]:
        """``r / beta`` in nats [N]; raises `ValueError` if a reward is NaN or +inf, or the quotient overflows."""
        array = as_rewards(_given("rewards", rewards, self))
        with np.errstate(over="ignore"):  # the next line reports it
            potential = array / self.beta
        too_large = np.flatnonzero(np.isinf(potential) & np.isfinite(array))
        if len(too_large):
            reward = array[too_large[0]]
            raise ValueError(f"rewards[{too_large[0]}] is {reward:g}: divided by beta = {self.beta:g}, it overflows")
        return potential

    def __mul__(self, other: Target) -> Product:
        return Product((self, other))

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
    Korbak, Perez, Buckley, Findings of EMNLP 2022, arXiv:2205.11275.

    Examples
    --------
    >>> Condition(threshold=0.0).log_potential([1.0, -2.0])
    array([  0., -inf])
    """

    threshold: float

    def __post_init__(self) -> None:
        if np.isnan(self.threshold):
            raise ValueError("threshold is nan: it must be a number")

    def log_potential(
        self,
        rewards: ArrayLike | None = None,
        features: ArrayLike | None = None,  # noqa: ARG002 (as other targets have it)
    ) -> NDArray[np.float64]:
        """0 where the reward reaches the threshold, else -inf [N]; raises `ValueError` if a reward is NaN or +inf."""
        return np.where(as_rewards(_given("rewards", rewards, self)) >= self.threshold, 0.0, -np.inf)

    def __mul__(self, other: Target) -> Product:
        return Product((self, other))

    def __str__(self) -> str:
        return f"condition|threshold:{self.threshold:g}"


@dataclass(frozen=True, init=False)
class Moments:
    """An exponential family over the prior: ``prior(x) exp(features(x) @ coefficients) / Z``.

    Of all distributions with the same mean features it is the nearest to the prior, in KL(target‖prior);
    `esscher.solve_moments` finds the coefficients that give the means one asks for.

    Parameters
    ----------
    coefficients
        Weight of each feature [K], in nats per unit of the feature; finite.

    Raises
    ------
    ValueError
        If `coefficients` are empty, not finite, or have more than one dimension.

    References
    ----------
    Khalifa, Elsahar, Dymetman, "A distributional approach to controlled text generation", ICLR 2021, arXiv:2012.11635.

    Examples
    --------
    >>> Moments([1.0, -0.5]).log_potential(features=[[1.0, 0.0], [2.0, 6.0]])
    array([ 1., -1.])
    """

    coefficients: tuple[float, ...]

    def __init__(self, coefficients: ArrayLike) -> None:
        array = np.asarray(coefficients, dtype=np.float64)
        if array.ndim != 1 or len(array) == 0:
            raise ValueError(f"coefficients has shape {array.shape}: it has one dimension, with an entry a feature")
        bad = np.flatnonzero(~np.isfinite(array))
        if len(bad):
            raise ValueError(f"coefficients[{bad[0]}] is {array[bad[0]]}: it must be finite")
        object.__setattr__(self, "coefficients", tuple(array.tolist()))

    def log_potential(
        self,
        rewards: ArrayLike | None = None,  # noqa: ARG002 (as other targets have it)
        features: ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """``features @ coefficients`` in nats [N], from features [N, K], or [N] if K = 1.

        Raises `ValueError` if a feature is not finite, there are not K of them, or the product overflows.
        """
        array = as_features(_given("features", features, self))
        if array.shape[1] != len(self.coefficients):
            raise ValueError(
                f"features has {array.shape[1]} columns, the target {len(self.coefficients)} coefficients: "
                "give a column for each"
            )
        with np.errstate(over="ignore", invalid="ignore"):  # the next lines report it
            # Row by row, which matrix products are not: what a row gives must not depend on its neighbours.
            potential: NDArray[np.float64] = (array * self.coefficients).sum(axis=1)
        too_large = np.flatnonzero(~np.isfinite(potential))
        if len(too_large):
            raise ValueError(f"features[{too_large[0]}] times the coefficients of {self} overflows")
        return potential

    def __mul__(self, other: Target) -> Product:
        return Product((self, other))

    def __str__(self) -> str:
        return f"moments|coefficients:{','.join(f'{c:g}' for c in self.coefficients)}"


@dataclass(frozen=True)
class Product:
    """Several targets at once: ``prior(x) exp(sum of their log-potentials) / Z``. Written ``a * b``.

    Parameters
    ----------
    targets
        Its factors, in order; those that are products themselves are taken apart.

    Raises
    ------
    ValueError
        If there are no factors.
    TypeError
        If one of them is no target.

    Examples
    --------
    >>> target = Tilt(0.5) * Condition(0.0) * Moments([1.0])
    >>> target.log_potential(rewards=[1.0, -2.0], features=[3.0, 4.0])
    array([  5., -inf])
    >>> print(target)
    tilt|beta:0.5 * condition|threshold:0 * moments|coefficients:1
    """

    targets: tuple[Target, ...]

    def __post_init__(self) -> None:
        if len(self.targets) == 0:
            raise ValueError("targets is empty: a product has at least one factor")
        for i, target in enumerate(self.targets):
            if not isinstance(target, Target):
                raise TypeError(
                    f"targets[{i}] is {type(target).__name__}: a factor is a Tilt, Condition, Moments or Product"
                )
        parts = [target.targets if isinstance(target, Product) else (target,) for target in self.targets]
        object.__setattr__(self, "targets", tuple(itertools.chain.from_iterable(parts)))

    def log_potential(self, rewards: ArrayLike | None = None, features: ArrayLike | None = None) -> NDArray[np.float64]:
        """Sum of the factors' log-potentials in nats [N]: -inf where any of them is.

        Raises `ValueError` where a factor does, if rewards and features differ in number, or if the sum overflows.
        """
        factors = [target.log_potential(rewards, features) for target in self.targets]
        if len({len(factor) for factor in factors}) > 1:
            found = ", ".join(
                f"{len(factor)} for {target}" for target, factor in zip(self.targets, factors, strict=True)
            )
            raise ValueError(f"rewards and features differ in length ({found}): a completion has one of each")
        potentials = np.stack(factors)
        excluded = np.isneginf(potentials).any(axis=0)
        with np.errstate(over="ignore"):  # the next lines report it
            total = np.where(excluded, 0.0, potentials).sum(axis=0)
        too_large = np.flatnonzero(~np.isfinite(total))
        if len(too_large):
            raise ValueError(f"the log-potentials of completion {too_large[0]} overflow when added: {self}")
        return np.where(excluded, -np.inf, total)

    def __mul__(self, other: Target) -> Product:
        return Product((self, other))

    def __str__(self) -> str:
        return " * ".join(str(target) for target in self.targets)


Target = Tilt | Condition | Moments | Product


def as_rewards(rewards: ArrayLike) -> NDArray[np.float64]:
    """Return `rewards` as float64 [N]; raises `ValueError` on other shapes, NaN and +inf."""
    array = np.asarray(rewards, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"rewards has {array.ndim} dimensions: it has one, with an entry for each completion")
    bad = np.flatnonzero(np.isnan(array) | (array == np.inf))
    if len(bad):
        raise ValueError(f"rewards[{bad[0]}] is {array[bad[0]]}: a reward is finite or -inf")
    return array


def as_features(features: ArrayLike) -> NDArray[np.float64]:
    """Return `features` as float64 [N, K], from [N] where K = 1; raises `ValueError` if one is not finite."""
    array = np.asarray(features, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"features has shape {array.shape}: it is [completions, features], or [completions] for one")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        i, k = bad[0]
        raise ValueError(f"features[{i}, {k}] is {array[i, k]}: a feature is finite")
    return np.ascontiguousarray(array)


def _given(name: str, values: ArrayLike | None, target: Target) -> ArrayLike:
    if values is None:
        raise ValueError(f"{name} is missing: {target} is made of it")
    return values
