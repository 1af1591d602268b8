"""log Z of each prompt, by every way that samples of prior and policy allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.compare.matching import naming
from esscher.divergence.checked_columns import check_drawn
from esscher.estimate import Estimate
from esscher.groups import Groups
from esscher.inference.mixture import mixture_log_z
from esscher.samples import match_prompts
from esscher.weights import cut_in_halves, weigh

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.samples import Samples
    from esscher.target import Target


class LogProbs(NamedTuple):
    """Log-probs of completions under prior and policy [N]."""

    prior: NDArray[np.float64]
    policy: NDArray[np.float64]

    @property
    def ratios(self) -> NDArray[np.float64]:
        """log(prior / policy) of each completion."""
        return self.prior - self.policy


class Drawn(NamedTuple):
    """Completions that one of the two drew: their log potential [N], their log-probs, and those of each prompt."""

    log_potential: NDArray[np.float64]
    log_probs: LogProbs | None
    groups: Groups

    @property
    def log_ratios(self) -> NDArray[np.float64]:
        """log(target / proposal) of each completion [N]: of the prior's without log-probs, `log_potential`."""
        return self.log_potential if self.log_probs is None else self.log_potential + self.log_probs.ratios

    def in_halves(self) -> list[Drawn]:
        """Cut them in two at random within each prompt, several times over."""
        cuts = cut_in_halves(self.log_potential, self.groups)
        return [Drawn(self.log_potential[cut.order], self._log_probs_of(cut.order), cut.groups) for cut in cuts]

    def _log_probs_of(self, order: NDArray[np.int64]) -> LogProbs | None:
        return None if self.log_probs is None else LogProbs(*(column[order] for column in self.log_probs))


class OfPrompts(NamedTuple):
    """log Z of each prompt less its bias of order 1/n, its standard error, infinite where there is none, and ESS [P].

    `of_prior` and `of_policy` are what each completion of the prior and of the policy adds to it: log Z moves as their
    means do [N]; `None` where it does not rest on them.
    """

    log_z: NDArray[np.float64]
    stderr: NDArray[np.float64]
    ess: NDArray[np.float64]
    of_prior: NDArray[np.float64] | None
    of_policy: NDArray[np.float64] | None

    @property
    def known(self) -> NDArray[np.bool_]:
        """Of which prompts log Z is known with its error [P]."""
        return np.isfinite(self.log_z) & np.isfinite(self.stderr)

    def mean(self, sizes: NDArray[np.int64]) -> Estimate:
        """Average over the very prompts that there are, by their numbers of completions; those of none do not count."""
        used = sizes > 0
        shares = sizes[used] / sizes.sum()
        stderr = float(np.sqrt(shares**2 @ self.stderr[used] ** 2))
        return Estimate(float(shares @ self.log_z[used]), stderr if np.isfinite(stderr) else np.nan)


def drawn_of(prior: Samples, policy: Samples, target: Target) -> tuple[Drawn, Drawn]:
    """Return what the prior drew and what the policy drew, of the prompts that both have.

    Raises
    ------
    ValueError
        As `compare_log_z`.
    """
    matched = match_prompts([prior, policy])
    if matched is None:
        raise ValueError("prior and policy have no prompt in common: log Z is that of a prompt")
    prior, policy = matched
    are_both_known = prior.policy_logprobs is not None and prior.prior_logprobs is not None
    with naming("prior"):
        of_prior = Drawn(
            _potential(prior, target), _log_probs(prior, "prior") if are_both_known else None, prior.groups
        )
    with naming("policy"):
        of_policy = Drawn(_potential(policy, target), _log_probs(policy, "policy"), policy.groups)
    return of_prior, of_policy


def by_every_way(prior: Drawn, policy: Drawn) -> dict[str, OfPrompts]:
    """Estimate log Z of each prompt by what the "prior" drew, by what the "policy" drew, and by "both" where it can."""
    ways = {
        "prior": _by_one(prior.log_potential, prior.groups)._replace(of_policy=None),
        "policy": _by_one(policy.log_ratios, policy.groups)._replace(of_prior=None),
    }
    if prior.log_probs is None or policy.log_probs is None:
        return ways
    return ways | {"both": _by_both(prior, prior.log_probs, policy, policy.log_probs)}


def _by_one(log_ratios: NDArray[np.float64], groups: Groups) -> OfPrompts:
    """Estimate from ``log(target / proposal)`` of the samples of one proposal [N]."""
    weights, sizes = weigh(log_ratios, groups), groups.sizes
    squares = groups.sums((weights.relative - 1.0) ** 2)
    known = (sizes > 1) & np.isfinite(weights.corrected_log_z)
    stderr = np.where(known, np.sqrt(squares / np.maximum(sizes, 1) / np.maximum(sizes - 1, 1)), np.inf)
    return OfPrompts(weights.corrected_log_z, stderr, weights.ess, weights.relative, weights.relative)


def _by_both(prior: Drawn, of_prior: LogProbs, policy: Drawn, of_policy: LogProbs) -> OfPrompts:
    """Estimate from both together, as draws of their mixture."""
    groups = Groups.from_sizes(prior.groups.sizes + policy.groups.sizes)
    order = np.argsort(np.concatenate([prior.groups.of, policy.groups.of]), kind="stable")
    log_potential = np.concatenate([prior.log_potential, policy.log_potential])[order]
    log_prior, log_policy = (np.concatenate(columns)[order] for columns in zip(of_prior, of_policy, strict=True))
    from_policy = (np.arange(len(order)) >= len(prior.log_potential))[order]
    log_target = log_prior + log_potential
    filled = groups.sizes > 0  # of a prompt's only completions one half is empty
    found = mixture_log_z(log_target, log_prior, log_policy, from_policy, Groups.from_sizes(groups.sizes[filled]))
    # The log of a noisy mean is on average too low by half its variance.
    variance = np.where(np.isfinite(found.stderr), found.stderr, 0.0) ** 2
    log_z, stderr = np.full(len(filled), np.nan), np.full(len(filled), np.inf)
    log_z[filled], stderr[filled] = found.log_z + variance / 2, found.stderr
    share = groups.spread(policy.groups.sizes / np.maximum(groups.sizes, 1))
    with np.errstate(divide="ignore"):  # where one of them drew nothing
        log_mixture = np.logaddexp(np.log1p(-share) + log_prior, np.log(share) + log_policy)
    weights = weigh(log_target - log_mixture, groups)
    influence = weights.relative * np.where(from_policy, share, 1.0 - share)
    return OfPrompts(log_z, stderr, weights.ess, influence[~from_policy], influence[from_policy])


def _potential(samples: Samples, target: Target) -> NDArray[np.float64]:
    return target.log_potential(samples.need("rewards", why="a target is made of them"))


def _log_probs(samples: Samples, drawn_by: str) -> LogProbs:
    whose = {"prior": samples.prior_log_prob, "policy": samples.policy_log_prob}
    check_drawn(f"{drawn_by}_logprobs", whose[drawn_by])
    return LogProbs(**whose)
