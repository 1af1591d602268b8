"""Where a step of training lies beside the optimal frontier, by samples of the prior."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from esscher.compare.efficiency import estimate_regret, mean_as_prior
from esscher.diversity import SUBSAMPLE, ngram_statistics
from esscher.estimate import Estimate, clustered_mean
from esscher.frontier import prototype, solve_beta
from esscher.ragged import Ragged
from esscher.samples import Samples, prompt_keys
from esscher.weights import weigh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.frontier import Prototype
    from esscher.groups import Groups
    from esscher.target import Target

    Floats = NDArray[np.float64]

# The length of the n-grams of diversity.
ORDER = 2
WHY = "the frontier is that of a reward"


@dataclass(frozen=True)
class FrontierPlace:
    """A step beside the optimal frontier, over the prompts that the prior's samples have, too.

    Attributes
    ----------
    prompts
        How many prompts of the step the prior's samples have. If none, the step is held against all of theirs.
    beta
        The beta whose target has the step's KL; `None` where the prior's samples show none.
    reachable
        The reward of that target: the most that a policy of the same KL can have; `None` with `beta`.
    regret
        `reachable` minus the step's reward; `None` with `beta`.
    regret_nats
        The same over beta: KL(policy‖that target), in nats a completion; `None` with `beta`.
    trusted
        Whether the prior's samples can be trusted at that beta.
    inference_gap
        KL(policy‖target) in nats, for the target that was given, by log Z from the prior's samples, which show what the
        policy misses. The error is that of the step's completions. `None` without a target.
    target_distinct_2
        Distinct 2-grams of two completions under that target, by the prior's samples: what it asks for; `None` without.
    """

    prompts: int
    beta: float | None
    reachable: Estimate | None
    regret: Estimate | None
    regret_nats: Estimate | None
    trusted: bool
    inference_gap: Estimate | None
    target_distinct_2: Estimate | None


@dataclass(frozen=True, eq=False)
class KnownFrontier:
    """The frontier by samples of the prior, made once by `known_frontier` for all steps.

    Attributes
    ----------
    target
        The target that steps are held against, if any.
    prototype
        What every target would give.
    samples
        Prompts and rewards of the prior's completions; tokens are not looked at again, and left out.
    rows
        Where a prompt is among them, by its token ids.
    log_z, distinct_2
        Of each prompt [P] under the target: log Z in nats, and distinct 2-grams of two completions; `None` without one.
    """

    target: Target | None
    prototype: Prototype
    samples: Samples
    rows: dict[tuple[bytes, int], int]
    log_z: Floats | None
    distinct_2: Floats | None


def known_frontier(prior: Samples, target: Target | None = None) -> KnownFrontier:
    """Make of samples of the prior, with rewards, what steps are held against.

    Raises
    ------
    ValueError
        As `prototype`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> prior = Samples(
    ...     prompts=Ragged.from_rows([[1]]),
    ...     completions=Ragged.from_rows(rng.integers(9, size=(200, 4)).tolist()),
    ...     groups=[0, 200],
    ...     rewards=rng.normal(size=200),
    ... )
    >>> from esscher import Tilt
    >>> round(float(known_frontier(prior, Tilt(1.0)).log_z[0]), 2)
    0.48
    """
    rewards = prior.need("rewards", why=WHY)
    log_z, distinct = None, None
    if target is not None:
        weights = weigh(target.log_potential(rewards), prior.groups)
        log_z, relative = weights.corrected_log_z, np.exp(weights.log_weights)
        distinct = ngram_statistics(prior.completions, [ORDER], prior.groups, relative, SUBSAMPLE).rarefied[0]
    rows = {key: row for row, key in enumerate(prompt_keys(prior))}
    return KnownFrontier(
        target, prototype(prior), _without_tokens(prior.prompts, rewards, prior.groups), rows, log_z, distinct
    )


def place(known: KnownFrontier, samples: Samples, kl: Floats) -> FrontierPlace:
    """Hold a step's completions, with rewards, against the frontier; `kl` is KL(policy‖prior) of each in nats [N]."""
    pairs = [(known.rows[key], row) for row, key in enumerate(prompt_keys(samples)) if key in known.rows]
    if pairs:
        of_prior, of_step = np.array(pairs, np.int64).T
    else:
        of_prior, of_step = np.arange(len(known.samples.prompts)), np.arange(len(samples.prompts))
    taken, groups = samples.groups.take(of_step)
    own = _without_tokens(samples.prompts.take(of_step), samples.need("rewards", why=WHY)[taken], groups)
    prior = known.samples.take_prompts(of_prior)
    found = FrontierPlace(
        prompts=len(pairs),
        beta=None,
        reachable=None,
        regret=None,
        regret_nats=None,
        trusted=False,
        inference_gap=_gap(known, of_prior, own, kl[taken]) if pairs else None,
        target_distinct_2=None if known.distinct_2 is None else mean_of_known(known.distinct_2[of_prior]),
    )
    return _beside(found, known, own, kl[taken], prior)


def _beside(found: FrontierPlace, known: KnownFrontier, own: Samples, kl: Floats, prior: Samples) -> FrontierPlace:
    """Add what the step's KL could have bought, where that is known."""
    rewards = np.concatenate([each.need("rewards", why=WHY) for each in (own, prior)])
    is_shared = found.prompts > 0
    if not (np.isfinite(kl).all() and np.isfinite(rewards).all()):
        return found
    beta = _beta(prior, mean_as_prior(kl, own, prior) if is_shared else float(kl.mean()))
    if beta is None:
        return found
    reachable, regret = estimate_regret(own, kl, beta, prior, paired=is_shared)
    curve = known.prototype.frontier
    return replace(
        found,
        beta=beta,
        reachable=reachable,
        regret=regret,
        regret_nats=Estimate(regret.value / beta, regret.stderr / beta),
        trusted=bool(curve.trusted.any() and beta >= curve.beta[curve.trusted].min()),
    )


def _gap(known: KnownFrontier, of_prior: NDArray[np.int64], own: Samples, kl: Floats) -> Estimate | None:
    if known.target is None or known.log_z is None:
        return None
    potential = known.target.log_potential(own.need("rewards", why=WHY))
    with np.errstate(invalid="ignore"):  # -inf - -inf, where neither a completion nor its prompt has weight
        return clustered_mean(own.groups.spread(known.log_z[of_prior]) - (potential - kl), own.groups)


def _beta(prior: Samples, kl: float) -> float | None:
    """Return the beta whose target has that KL; `None` where the samples show none."""
    try:
        return solve_beta(prior.need("rewards", why=WHY), kl=kl, groups=prior.groups)
    except ValueError:  # a KL that is not above 0, or beyond what these samples show
        return None


def mean_of_known(values: Floats) -> Estimate:
    """Average what is known of prompts [P], each counting as one."""
    known = values[~np.isnan(values)]
    return clustered_mean(known, np.arange(len(known) + 1)) if len(known) else Estimate(np.nan, np.nan)


def _without_tokens(prompts: Ragged, rewards: Floats, groups: Groups) -> Samples:
    n = len(rewards)
    return Samples(prompts, Ragged(np.zeros(n, np.uint32), np.arange(n + 1)), groups, rewards=rewards)
