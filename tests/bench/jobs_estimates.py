"""Estimates with their errors and intervals: what they cost beyond the kernel's pass over the tokens."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from scipy import stats

import esscher
from bench import data
from bench.measure import Job, Peer, largest_error
from esscher.divergence import estimate_kls
from esscher.estimate import bootstrap_t

ROUNDS = 1000


def estimates() -> Job:
    policy, prior, mask = data.batch(4096, 1024)
    policy_logprobs = esscher.Ragged.from_padded(policy, mask=mask)
    prior_logprobs = esscher.Ragged.from_padded(prior, mask=mask)
    offsets = policy_logprobs.offsets
    samples = esscher.Samples(
        prompts=esscher.Ragged.from_rows([[0]] * 512),
        completions=esscher.Ragged(np.zeros(offsets[-1], np.uint32), offsets),
        groups=np.arange(513) * 8,
        policy_logprobs=policy_logprobs,
        prior_logprobs=prior_logprobs,
    )
    one_pass = partial(esscher.kl_estimators, policy_logprobs, prior_logprobs)
    return Job(
        "all KL estimates with errors and intervals: f32, 4096 completions of up to 1024 tokens, 512 prompts",
        partial(estimate_kls, samples),
        (Peer("one pass of the kernel", one_pass, (0.5, 0.5), 1e-13, _error_of_means),),
    )


def bootstrap() -> Job:
    rng = np.random.default_rng(0)
    values, groups = rng.exponential(size=80_000), np.arange(10_001) * 8
    sums = np.add.reduceat(values, groups[:-1])
    return Job(
        f"bootstrap: {ROUNDS} rounds over 10 000 prompts of 8 completions",
        partial(bootstrap_t, values, groups, rounds=ROUNDS, rng=rng),
        (Peer("SciPy, percentiles of the prompts' sums", partial(_scipy, sums), tolerance=0.01, error=_error_of_ends),),
    )


def _scipy(sums: Any) -> Any:
    return stats.bootstrap((sums,), np.mean, n_resamples=ROUNDS, method="percentile", rng=0).confidence_interval


def _error_of_means(ours: Any, theirs: Any) -> float:
    return largest_error([ours[name].per_sequence for name in theirs._fields], theirs)


def _error_of_ends(ours: Any, theirs: Any) -> float:
    """Relative to the mean of a completion, 1: both are random."""
    return max(abs(ours[0] - theirs.low / 8), abs(ours[1] - theirs.high / 8))


JOBS = {"estimates": estimates, "bootstrap": bootstrap}
