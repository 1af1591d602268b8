"""Training objectives as one coefficient per completion, for any trainer that can differentiate a log-prob.

The convention of every function here: the gradient to **ascend** is ``mean_i(coefficients_i * grad log_policy(x_i))``
over the N completions, drawn from the policy (or from `log_proposal` where that is given). The coefficients are
constants: nothing is differentiated through them. `Objective.value` is an estimate of what is maximised, a mean over
the same completions; its gradient in expectation is the one above.

Where a baseline is the mean of the *other* completions of the prompt (leave one out), it is independent of the
completion, so that it changes the variance and not the expectation. The variance falls where rewards are far from 0 or
completions many; of two completions with rewards around 0 it rises. A prompt with a single completion has no baseline:
its gradient is unbiased too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.groups import as_groups
from esscher.inference.f_divergences import (
    FDivergence,
    check_divergence,
    divergence_rewards,
    divergence_terms,
    exp,
    product,
)
from esscher.inference.validation import below_infinity, finite_column
from esscher.weights.weighing import weigh

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.groups import Groups

DRAWN = "the policy drew this completion, so its log-prob is finite"


class Objective(NamedTuple):
    """An objective to maximise, from N completions.

    Attributes
    ----------
    value
        Estimate of the objective, in the units of the coefficients.
    coefficients
        What multiplies the gradient of each completion's log-prob [N]: ascend their mean product.
    """

    value: float
    coefficients: NDArray[np.float64]


def plain_rl(rewards: ArrayLike, groups: ArrayLike | None = None) -> Objective:
    """Maximise the expected reward alone, ``E_policy[r]``: its optimum puts all mass on the best completions.

    The coefficient is the reward less the mean reward of the other completions of the prompt.

    Parameters
    ----------
    rewards
        Reward of each completion of the policy [N]; finite.
    groups
        Offsets of the completions that share a prompt [P + 1]; all share one if not given.

    Raises
    ------
    ValueError
        If there are no completions, a reward is not finite, or `groups` are no offsets.

    References
    ----------
    Kool, van Hoof, Welling, "Buy 4 REINFORCE samples, get a baseline for free!", ICLR workshop 2019,
    openreview.net/forum?id=r1lgTGL5DE.

    Examples
    --------
    >>> plain_rl([0.0, 1.0, 5.0, 2.0], groups=[0, 3, 4])
    Objective(value=2.0, coefficients=array([-3. , -1.5,  4.5,  2. ]))
    """
    column = _rewards(rewards)
    return Objective(float(column.mean()), _less_the_others(column, as_groups(groups, len(column))))


def kl_rl(
    rewards: ArrayLike, log_policy: ArrayLike, log_prior: ArrayLike, beta: float, groups: ArrayLike | None = None
) -> Objective:
    """Maximise ``J = E_policy[r] - beta KL(policy‖prior)``, whose optimum is the target ``prior exp(r / beta) / Z``.

    The pseudo-reward ``r - beta (log_policy - log_prior)`` stands in for the reward of `plain_rl`. At the optimum it is
    the same for every completion, ``beta log Z``, and every coefficient with a baseline is 0.

    Parameters
    ----------
    rewards
        Reward of each completion of the policy [N]; finite.
    log_policy, log_prior
        Log-prob of each completion under both [N] in nats; finite.
    beta
        Strength of the KL penalty, reward per nat; positive.
    groups
        Offsets of the completions that share a prompt [P + 1]; all share one if not given.

    Raises
    ------
    ValueError
        If there are no completions, lengths disagree, an entry is not finite, `beta` is not positive and finite, or
        `groups` are no offsets.

    References
    ----------
    Korbak, Perez, Buckley, "RL with KL penalties is better viewed as Bayesian inference", Findings of EMNLP 2022,
    arXiv:2205.11275.

    Examples
    --------
    >>> kl_rl([1.0, 3.0], log_policy=[-1.0, -2.0], log_prior=[-3.0, -2.5], beta=0.5)
    Objective(value=1.375, coefficients=array([-2.75,  2.75]))
    """
    if not 0 < beta < np.inf:
        raise ValueError(f"beta is {beta}: it must be positive and finite")
    column = _rewards(rewards)
    policy = finite_column("log_policy", log_policy, DRAWN, len(column))
    rule = "the policy draws what the prior cannot, and KL(policy‖prior) is infinite: dpg can bear that"
    prior = finite_column("log_prior", log_prior, rule, len(column))
    pseudo_rewards = column - beta * (policy - prior)
    coefficients = _less_the_others(pseudo_rewards, as_groups(groups, len(column)))
    return Objective(float(pseudo_rewards.mean()), coefficients)


def dpg(
    log_target: ArrayLike,
    log_policy: ArrayLike,
    log_proposal: ArrayLike | None = None,
    log_z: ArrayLike | None = None,
    groups: ArrayLike | None = None,
) -> Objective:
    """Maximise ``-KL(target‖policy)``, the distributional policy gradient: it learns what the target has weight on.

    The coefficient is ``P / (Z q) - policy / q``, for P the unnormalised target and q the proposal: the first term is
    the gradient, the second has none in expectation and is a baseline (1 on policy). The value is the mean of
    ``-(P / (Z q)) log(P / (Z policy)) + P / (Z q) - policy / q``, no term of which is above 0.

    Without `log_z`, each prompt's Z is estimated from the same completions. The gradient then is biased, by an order of
    one over their number; a prompt none of whose completions has weight says nothing of Z, and is left out: its
    coefficients are 0, and the value is that of the others, -inf if there are none.

    Parameters
    ----------
    log_target
        Unnormalised log-prob of each completion under the target [N] in nats; -inf gives weight 0.
    log_policy
        Log-prob of each completion under the policy [N] in nats; finite.
    log_proposal
        Log-prob of each completion under the distribution it was drawn from [N] in nats, finite; the policy if not
        given.
    log_z
        Log Z of each prompt [P] in nats, or one for all; finite. From the same completions if not given.
    groups
        Offsets of the completions that share a prompt [P + 1]; all share one if not given.

    Raises
    ------
    ValueError
        If there are no completions, lengths disagree, `log_target` is NaN or +inf, any other entry is not finite,
        `groups` are no offsets, or a coefficient overflows.

    References
    ----------
    Parshakova, Andreoli, Dymetman, "Distributional reinforcement learning for energy-based sequential models", 2019,
    arXiv:1912.08517; Khalifa, Elsahar, Dymetman, "A distributional approach to controlled text generation", ICLR 2021,
    arXiv:2012.11635; Korbak, Elsahar, Kruszewski, Dymetman, "On reinforcement learning and distribution matching for
    fine-tuning language models with no catastrophic forgetting", NeurIPS 2022, arXiv:2206.00761 (the baseline).

    Examples
    --------
    >>> import numpy as np
    >>> got = dpg(np.log([1.0, 3.0, 2.0]), np.log([0.5, 0.5, 0.5]), groups=[0, 2, 3])
    >>> got.coefficients.round(4), round(got.value, 4)
    (array([-0.5,  0.5,  0. ]), -0.0872)
    """
    target, policy = _target_and_policy(log_target, log_policy)
    proposal = policy if log_proposal is None else finite_column("log_proposal", log_proposal, DRAWN, len(target))
    found = as_groups(groups, len(target))
    log_zs = weigh(target - proposal, found).log_z if log_z is None else _log_z_of_each(log_z, found)
    known, log_zs = found.spread(log_zs > -np.inf), found.spread(np.where(log_zs > -np.inf, log_zs, 0.0))
    weights = exp(target - log_zs - proposal)
    coefficients = np.where(known, weights - exp(policy - proposal), 0.0)
    _check_coefficients(coefficients)
    terms = coefficients - product(weights, target - log_zs - policy)
    return Objective(float(terms[known].mean()) if known.any() else -np.inf, coefficients)


def f_dpg(
    log_target: ArrayLike,
    log_policy: ArrayLike,
    log_z: ArrayLike,
    divergence: FDivergence = "js",
    groups: ArrayLike | None = None,
) -> Objective:
    """Maximise minus an f-divergence of policy and target, ``-E_target[f(t)]``, ``t = policy / target``.

    The pseudo-reward ``-f'(t)`` stands in for the reward of `plain_rl`; at the optimum it is the same for every
    completion. "Forward" is the divergence of the target from the policy, ``D(target‖policy)``, "reverse" that of the
    policy from the target:

    - "forward-kl": ``KL(target‖policy)``, ``f'(t) = -1 / t``; what `dpg` minimises, with another baseline.
    - "reverse-kl": ``KL(policy‖target)``, ``f'(t) = log t + 1``; what `kl_rl` minimises, over beta.
    - "tv": the total variation, ``f'(t) = sign(log t) / 2``.
    - "js": ``KL(policy‖m) + KL(target‖m)`` with m halfway between them, twice the Jensen-Shannon divergence,
      ``f'(t) = log 2 - log(1 + 1 / t)``.
    - "forward-chi2": ``chi2(target‖policy)``, ``f'(t) = 1 - 1 / t^2``.
    - "reverse-chi2": ``chi2(policy‖target)``, ``f'(t) = 2 (t - 1)``.

    The value is the mean of ``-f(t) / t``, for f less its tangent at 1: that leaves the divergence as it is, and no
    term above 0. It takes the policy to give some probability to all that the target does, as a softmax does.

    Parameters
    ----------
    log_target
        Unnormalised log-prob of each completion of the policy under the target [N] in nats. A completion that the
        target excludes, -inf, makes "reverse-kl" and "reverse-chi2" infinite, which is an error; the others bear it.
    log_policy
        Log-prob of each completion under the policy [N] in nats; finite.
    log_z
        Log Z of each prompt [P] in nats, or one for all; finite. From `importance`, say, on other samples.
    divergence
        Which divergence, by its name above.
    groups
        Offsets of the completions that share a prompt [P + 1]; all share one if not given.

    Raises
    ------
    ValueError
        If there are no completions, lengths disagree, `log_target` is NaN, +inf or -inf where it may not be, any other
        entry is not finite, `divergence` is none of the above, `groups` are no offsets, or a coefficient overflows.

    References
    ----------
    Go, Korbak, Kruszewski, Rozen, Ryu, Dymetman, "Aligning language models with preferences through f-divergence
    minimization", ICML 2023, arXiv:2302.08215.

    Examples
    --------
    >>> import numpy as np
    >>> got = f_dpg(np.log([0.25, 0.75]), np.log([0.5, 0.5]), log_z=0.0, divergence="tv")
    >>> got
    Objective(value=-0.25, coefficients=array([-1.,  1.]))
    """
    target, policy = _target_and_policy(log_target, log_policy)
    found = as_groups(groups, len(target))
    log_weights = target - policy - found.spread(_log_z_of_each(log_z, found))
    check_divergence(divergence, target)
    pseudo_rewards = divergence_rewards(log_weights, divergence)
    _check_coefficients(pseudo_rewards)
    value = -float(divergence_terms(log_weights, divergence).mean())
    return Objective(value, _less_the_others(pseudo_rewards, found))


def _less_the_others(values: NDArray[np.float64], groups: Groups) -> NDArray[np.float64]:
    """Take from each value the mean of the others in its group, and nothing where there are none."""
    # v - (n mean - v) / (n - 1), without the cancellation.
    factors = groups.sizes / np.maximum(groups.sizes - 1, 1)
    centred = (values - groups.spread(groups.means(values))) * groups.spread(factors)
    return np.where(groups.spread(groups.sizes > 1), centred, values)


def _rewards(rewards: ArrayLike) -> NDArray[np.float64]:
    rule = "a reward is finite here, or the gradient would not be; to dpg, -inf is weight 0"
    return _some("rewards", finite_column("rewards", rewards, rule))


def _target_and_policy(log_target: ArrayLike, log_policy: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    target = _some("log_target", below_infinity("log_target", log_target))
    return target, finite_column("log_policy", log_policy, "its gradient is taken, so it must be finite", len(target))


def _log_z_of_each(log_z: ArrayLike, groups: Groups) -> NDArray[np.float64]:
    array, n = np.asarray(log_z, dtype=np.float64), len(groups.sizes)
    column = finite_column("log_z", np.full(n, array) if array.ndim == 0 else array, "it must be finite")
    if len(column) != n:
        raise ValueError(f"log_z has {len(column)} entries: it is one number, or one for each of {n} groups")
    return column


def _some(name: str, column: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(column) == 0:
        raise ValueError(f"{name} is empty: an objective takes at least one completion")
    return column


def _check_coefficients(coefficients: NDArray[np.float64]) -> None:
    wrong = np.flatnonzero(~np.isfinite(coefficients))
    if len(wrong):
        raise ValueError(
            f"coefficient {wrong[0]} overflows: target and policy are too far apart, or log_z is not that of the target"
        )
