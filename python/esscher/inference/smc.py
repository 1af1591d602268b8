"""Tempered sequential Monte Carlo: whole completions, led from the prior to a target in small steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.groups import as_groups
from esscher.inference.resampling import check_scheme, resample
from esscher.inference.validation import as_column, below_infinity, refuse
from esscher.weights.weighing import weigh

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from esscher.inference.resampling import Scheme

    Draw = Callable[[int, np.random.Generator], ArrayLike]

# How well an exponent is found, relative to the step that leads to it.
EXPONENT_PRECISION = 1e-6


class TemperedSmc(NamedTuple):
    """Particles that stand for a target with equal weights, and how they came there in S steps.

    Attributes
    ----------
    indices
        Which draw each particle is [n], among all draws of the prior in the order in which they were made. One draw may
        be several particles.
    log_potential
        Log-potential of each particle [n] in nats.
    log_z
        Estimate of log Z in nats, the sum over steps of the log of the mean incremental weight; -inf if all first draws
        have weight 0.
    exponents
        Share of the log-potential that the target of each step has [S], rising to 1.
    ess
        Effective sample size of the incremental weights of each step [S].
    acceptance_rate
        Share of the proposals of each step that are accepted in expectation [S], ``mean min(1, w' / w)``; NaN if none
        were made.
    draws
        How many draws of the prior were made in all.
    """

    indices: NDArray[np.int64]
    log_potential: NDArray[np.float64]
    log_z: float
    exponents: NDArray[np.float64]
    ess: NDArray[np.float64]
    acceptance_rate: NDArray[np.float64]
    draws: int


class TemperedParticles(NamedTuple):
    """Which draw each particle is [n], and its log-potential [n] in nats."""

    indices: NDArray[np.int64]
    log_potential: NDArray[np.float64]


def tempered_smc(
    draw: Draw,
    n: int,
    rng: np.random.Generator,
    *,
    ess_share: float = 0.5,
    moves: int = 1,
    exponents: ArrayLike | None = None,
    scheme: Scheme = "systematic",
) -> TemperedSmc:
    """Lead `n` draws of the prior through the targets ``prior * exp(lambda * log_potential)``, lambda from 0 to 1.

    Each step weights the particles by ``exp((lambda' - lambda) log_potential)``, resamples them by these weights, and
    then renews them: each is offered `moves` fresh draws of the prior, one after the other, and becomes the draw with
    probability ``min(1, exp(lambda' (log_potential' - log_potential)))``, which leaves the step's target invariant.
    ``Z`` is estimated by the product of the steps' mean weights. If `exponents` are given, that is unbiased; if they
    are chosen on the way, it is so in the limit of many particles.

    If all first draws have weight 0, the result is those draws after one step, with ``log_z = -inf``, ``ess = 0`` and
    no proposals: no particle stands for the target.

    Parameters
    ----------
    draw
        Called as ``draw(k, rng)``: draws `k` fresh completions of one prompt from the prior, and returns their
        log-potentials [k] in nats; -inf gives weight 0. Whoever needs the completions keeps them, in order.
    n
        How many particles, at least 1.
    rng
        Source of all chance, handed on to `draw`.
    ess_share
        Each lambda is the largest for which the effective sample size of the incremental weights (the conditional one,
        as particles are equally weighted) is at least this share of the particles that have weight; above 0 and
        below 1. Closer to 1 means more and smaller steps.
    moves
        How many draws each particle is offered in each step; 0 for none, which lets copies pile up.
    exponents
        The lambdas [S], rising from above 0 to 1, in place of chosen ones.
    scheme
        How to resample, as in `resample`.

    Raises
    ------
    ValueError
        If `draw` returns another number of log-potentials, or a NaN or +inf; `n` is below 1 or `moves` below 0;
        `ess_share` is not between 0 and 1; `exponents` do not rise from above 0 to 1; or `scheme` is none.

    References
    ----------
    Del Moral, Doucet, Jasra, "Sequential Monte Carlo samplers", Journal of the Royal Statistical Society B 2006,
    doi:10.1111/j.1467-9868.2006.00553.x (the particles and the estimate of Z); Zhou, Johansen, Aston, "Toward automatic
    model comparison: an adaptive sequential Monte Carlo approach", JCGS 2016, arXiv:1303.3123 (the conditional
    effective sample size).

    Examples
    --------
    A prior of three completions, of which the target forbids one; log Z = log(0.3 e^4 + 0.1 e^6) = 4.04, and
    the target is 0.29 and 0.71 on the other two.

    >>> import numpy as np
    >>> drawn = []
    >>> def draw(k, rng):
    ...     drawn.extend(rng.choice(3, size=k, p=[0.6, 0.3, 0.1]))
    ...     return np.array([-np.inf, 4.0, 6.0])[drawn[-k:]]
    >>> smc = tempered_smc(draw, 1000, np.random.default_rng(0))
    >>> round(smc.log_z, 1), len(smc.exponents), smc.draws == len(drawn)
    (4.0, 2, True)
    >>> np.bincount(np.array(drawn)[smc.indices], minlength=3) / 1000
    array([0.   , 0.321, 0.679])
    """
    _check(n, ess_share, moves)
    check_scheme(scheme)
    schedule = None if exponents is None else _as_schedule(exponents)
    particles, draws = TemperedParticles(np.arange(n), _log_potentials(draw, n, rng)), n
    exponent, log_z = 0.0, 0.0
    steps: list[tuple[float, float, float]] = []
    while exponent < 1:
        previous = exponent
        exponent = _next(previous, particles, ess_share) if schedule is None else float(schedule[len(steps)])
        log_weights = (exponent - previous) * particles.log_potential
        log_mean, ess = _mean_and_ess(log_weights)
        log_z += log_mean
        if ess == 0:
            steps.append((exponent, ess, np.nan))
            break
        survivors = resample(log_weights, n, rng, scheme=scheme)
        particles = TemperedParticles(particles.indices[survivors], particles.log_potential[survivors])
        particles, acceptance_rate = _renew(particles, draws, exponent, moves, draw, rng)
        draws += n * moves
        steps.append((exponent, ess, acceptance_rate))
    lambdas, sizes, rates = np.array(steps).T.copy()
    return TemperedSmc(*particles, log_z, lambdas, sizes, rates, draws)


def _check(n: int, ess_share: float, moves: int) -> None:
    if n < 1:
        raise ValueError(f"n is {n}: there must be at least 1 particle")
    if not 0 < ess_share < 1:
        raise ValueError(
            f"ess_share is {ess_share}: it lies between 0 and 1, as only steps of no length keep all of it"
        )
    if moves < 0:
        raise ValueError(f"moves is {moves}: it is at least 0")


def _as_schedule(exponents: ArrayLike) -> NDArray[np.float64]:
    column = as_column("exponents", exponents)
    if len(column) == 0:
        raise ValueError("exponents is empty: give at least the last, 1")
    # A NaN is not above the one before it either.
    refuse("exponents", column, ~(np.diff(column, prepend=0.0) > 0), "each is above the one before it, the first 0")
    if column[-1] != 1:
        raise ValueError(f"exponents ends at {column[-1]}: the last is 1, which is the target")
    return column


def _log_potentials(draw: Draw, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    column = below_infinity("log_potential", draw(n, rng))
    if len(column) != n:
        raise ValueError(f"draw returned {len(column)} log-potentials where {n} were asked for: it returns one a draw")
    return column


def _next(exponent: float, particles: TemperedParticles, ess_share: float) -> float:
    """Return the exponent up to which the particles keep the given share of their effective sample size."""
    log_potential = particles.log_potential
    # However small the first step is, particles of weight 0 die in it, so they do not count.
    enough = ess_share * np.count_nonzero(log_potential > -np.inf)

    def reaches(other: float) -> bool:
        return bool(_mean_and_ess((other - exponent) * log_potential)[1] >= enough)

    if reaches(1.0):
        return 1.0
    low, high = exponent, 1.0
    # The second condition ends a search among neighbouring floats, for potentials too far apart for any step.
    while high - low > EXPONENT_PRECISION * (high - exponent) and low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if reaches(middle) else (low, middle)
    return low if low > exponent else high


def _renew(
    particles: TemperedParticles, draws: int, exponent: float, moves: int, draw: Draw, rng: np.random.Generator
) -> tuple[TemperedParticles, float]:
    """Offer each particle fresh draws, of which the first is number `draws`: the particles, and the acceptance rate."""
    indices, log_potential = particles
    n, rates = len(indices), []
    for move in range(moves):
        proposed = _log_potentials(draw, n, rng)
        log_ratios = exponent * (proposed - log_potential)
        accepted = -rng.standard_exponential(n) <= log_ratios
        indices = np.where(accepted, draws + move * n + np.arange(n), indices)
        log_potential = np.where(accepted, proposed, log_potential)
        rates.append(np.exp(np.minimum(log_ratios, 0.0)).mean())
    return TemperedParticles(indices, log_potential), float(np.mean(rates)) if rates else np.nan


def _mean_and_ess(log_weights: NDArray[np.float64]) -> tuple[float, float]:
    """Log of the mean weight, and the effective sample size; -inf and 0 if nothing has weight."""
    weights = weigh(log_weights, as_groups(None, len(log_weights)))
    return float(weights.log_z[0]), float(weights.ess[0])
