"""How often 95 % intervals of reports hold the exact value, over repetitions in a world that can be enumerated.

`python tests/coverage_table.py` makes the tables of docs/coverage.md, from more repetitions than tests have time for.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

from esscher import Ragged, Samples, Tilt, compare, evaluate, sequence_logprobs
from esscher.compare.efficiency import estimate_efficiency
from esscher.compare.log_z import best_gap
from esscher.divergence import estimate_kls
from esscher.diversity import estimate_excess
from esscher.estimate import effective_clusters, with_interval
from esscher.evaluate.posterior import assess
from esscher.evaluate.report_warnings import warn_of_kl, warn_of_target
from esscher.frontier import frontier, solve_beta
from esscher.lm.tabular import TabularLM

KLS = ("k1", "exact", "k3", "k1_cv")
# What rests on weights that make the policy's completions stand for the target.
WEIGHTED = ("log_z", "eubo", "target_reward", "inference_gap", "forward_kl", "distinct-2 of 2", "repetition-3")
# What does not.
OF_POLICY = ("reward", *KLS, "elbo")
QUANTITIES = (*OF_POLICY, *WEIGHTED, "efficiency", "best_gap")
TARGET = Tilt(beta=0.5)
TABLES, VOCABULARY, DEPTH = 50, 4, 6
# The promise.
LEAST, MOST = 0.91, 0.98
# Of fewer intervals nothing is said of how often they hold.
FEWEST = 20
# How the rewards of a world are made, how far along the way from prior to target a policy went, token by token, and the
# noise on top.
POLICIES = {
    "near": ("plain", 0.8, 0.2),
    "moderate": ("plain", 0.5, 0.4),
    "far": ("plain", -2.0, 0.3),
    "skewed": ("skewed", 0.5, 0.3),
}
# Policy, prompts, and the least and the most completions of a prompt.
CASES = {
    "near, 20 x 8": ("near", 20, 8, 8),
    "near, 200 x 8": ("near", 200, 8, 8),
    "near, 40 x 64": ("near", 40, 64, 64),
    "moderate, 1 x 128": ("moderate", 1, 128, 128),
    "moderate, 3 x 64": ("moderate", 3, 64, 64),
    "moderate, 12 x 128": ("moderate", 12, 128, 128),
    "moderate, 20 x 2 to 80": ("moderate", 20, 2, 80),
    "moderate, 100 x 16": ("moderate", 100, 16, 16),
    "moderate, 500 x 32": ("moderate", 500, 32, 32),
    "skewed, 20 x 128": ("skewed", 20, 128, 128),
    "skewed, 20 x 2 to 80": ("skewed", 20, 2, 80),
    "skewed, 50 x 32": ("skewed", 50, 32, 32),
    "skewed, 100 x 16": ("skewed", 100, 16, 16),
    "far, 12 x 128": ("far", 12, 128, 128),
    "far, 200 x 8": ("far", 200, 8, 8),
}


class World(NamedTuple):
    """Every completion of every table, the prior's logits [tables, nodes, vocabulary], and where tokens stand there.

    `prior` and `target` are probabilities, `rewards` are too, [tables, completions].
    """

    every: Samples
    logits: np.ndarray
    target_logits: np.ndarray
    nodes: np.ndarray
    prior: np.ndarray
    rewards: np.ndarray
    target: np.ndarray


class Policy(NamedTuple):
    """Every completion with the columns of a policy, its probabilities, and the world that it is in."""

    every: Samples
    probability: np.ndarray
    world: World


class Found(NamedTuple):
    """What repetitions gave: of each quantity the value, its error and both ends [repetitions, quantities, 4].

    Both ends are NaN where the report has no interval; `warned` says if it has a warning [repetitions, quantities].
    """

    intervals: np.ndarray
    warned: np.ndarray


@lru_cache
def world(kind) -> World:
    rng = np.random.default_rng(11)
    nodes = sum((VOCABULARY - 1) ** k for k in range(DEPTH))
    of_table = rng.normal(0, 0.4, size=(TABLES, 1, VOCABULARY))
    logits = log_softmax(rng.normal([-0.8, 0.3, 0.0, -0.2], 0.8, size=(TABLES, nodes, VOCABULARY)) + of_table)
    every = TabularLM(logits).completions()
    twos = np.add.reduceat(every.completions.values == 2, every.completions.offsets[:-1]) / every.completions.lengths
    noise = rng.normal(0, 0.3, size=len(every)) if kind == "plain" else rng.exponential(0.35, size=len(every))
    rewards = (twos + noise).reshape(TABLES, -1)
    prior = probabilities(every)
    target = tilted(prior, rewards, TARGET.beta)
    at = nodes_of(every.completions, nodes)
    return World(every, logits, logits_of(target, every, at, logits.shape), at, prior, rewards, target)


def probabilities(every):
    return np.exp(sequence_logprobs(every.policy_logprobs)).reshape(TABLES, -1)


def logits_of(probability, every, nodes, shape):
    """What the tables of a model with these probabilities of completions are."""
    lengths, mass = every.completions.lengths, np.zeros(shape)
    places = np.repeat(every.groups.of, lengths), nodes, every.completions.values
    np.add.at(mass, places, np.repeat(probability.ravel(), lengths))
    return np.log(mass / mass.sum(axis=-1, keepdims=True))


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def tilted(prior, rewards, beta):
    weights = prior * np.exp(rewards / beta)
    return weights / weights.sum(axis=1, keepdims=True)


def nodes_of(completions, nodes):
    """The node of the table at which each token is drawn, as `TabularLM` numbers them."""
    tokens = completions.to_padded(fill=0).astype(np.int64)
    node, found = np.zeros(len(tokens), np.int64), []
    for token in tokens.T:
        found.append(node)
        node = np.minimum(node * (VOCABULARY - 1) + token, nodes - 1)
    return Ragged.from_padded(np.stack(found, axis=1), lengths=completions.lengths).values


@lru_cache
def policy(name) -> Policy:
    kind, share, noise = POLICIES[name]
    here = world(kind)
    moved = here.logits + share * (here.target_logits - here.logits)
    logits = log_softmax(moved + noise * np.random.default_rng(3).normal(size=moved.shape))
    every, offsets = here.every, here.every.completions.offsets
    per_node = (np.exp(logits) * (logits - here.logits)).sum(axis=-1)
    tables = np.repeat(every.groups.of, every.completions.lengths)
    full = replace(
        every,
        policy_logprobs=Ragged(logits[tables, here.nodes, every.completions.values], offsets),
        prior_logprobs=every.policy_logprobs,
        token_kl=Ragged(np.maximum(per_node[tables, here.nodes], 0.0), offsets),
        rewards=here.rewards.ravel(),
        terminated=None,
    )
    return Policy(full, probabilities(full), here)


@lru_cache
def exact(name, tables=TABLES) -> dict[str, float]:
    """Means over the first tables, by enumeration."""
    chosen = policy(name)
    here = chosen.world
    of_tables = (here.prior, here.target, here.rewards, chosen.probability)
    prior, target, rewards, probability = (column[:tables] for column in of_tables)
    log_z = np.log((prior * np.exp(rewards / TARGET.beta)).sum(axis=1)).mean()
    kl, gap = divergence(probability, prior), divergence(probability, target)
    excess = diversities(probability) - diversities(target)
    return dict.fromkeys(KLS, kl) | {
        "reward": mean(probability, rewards),
        "inference_gap": gap,
        "best_gap": gap,
        "forward_kl": divergence(target, probability),
        "log_z": log_z,
        "elbo": log_z - gap,
        "eubo": log_z + divergence(target, probability),
        "target_reward": mean(target, rewards),
        "distinct-2 of 2": excess[0],
        "repetition-3": excess[1],
        "efficiency": efficiency(mean(probability, rewards), kl, prior, rewards),
    }


def mean(probability, values):
    return float((probability * values).sum(axis=1).mean())


def divergence(of, to):
    return mean(of, np.log(of / to))


def diversities(probability):
    """distinct-2 of two completions, and the repetition of 3-grams, of the mean over tables.

    Two of them hold a 2-gram that one holds with probability p with probability 1 - (1 - p)^2.
    """
    rows = [row.tolist() for row in world("plain").every.completions.take(np.arange(probability.shape[1]))]
    pairs, triples = ([list(zip(*(row[i:] for i in range(n)), strict=False)) for row in rows] for n in (2, 3))
    holds = np.array([[pair in row for pair in np.ndindex(VOCABULARY, VOCABULARY)] for row in pairs])
    share = probability @ holds
    distinct = (1 - (1 - share) ** 2).sum(axis=1) / (2 * probability @ [len(row) for row in pairs])
    repeated = [1 - len(set(row)) / len(row) if row else 0.0 for row in triples]
    repetition = probability @ repeated / (probability @ [len(row) > 0 for row in triples])
    return np.array([distinct.mean(), repetition.mean()])


def efficiency(reward, kl, prior, rewards):
    """The gain over the prior's reward, as a share of that of the target with this KL, found by bisection."""
    low, high = 1e-2, 1e2
    for _ in range(100):
        beta = np.sqrt(low * high)
        is_nearer = divergence(tilted(prior, rewards, beta), prior) < kl
        low, high = (low, beta) if is_nearer else (beta, high)
    least = mean(prior, rewards)
    return (reward - least) / (mean(tilted(prior, rewards, low), rewards) - least)


def draw(rng, tables, sizes, full, probability) -> Samples:
    """Draw so many completions of each of the given tables from all there are."""
    cdf = probability.cumsum(axis=1)
    places = (np.arange(TABLES)[:, None] + cdf / cdf[:, -1:]).ravel()
    at = np.repeat(tables, sizes) + rng.random(sizes.sum())
    rows = np.searchsorted(places, at, side="right")
    columns = {name: getattr(full, name) for name in full.columns}
    return Samples(
        # Prompts may be the same table; they are told apart, as different ones would be.
        prompts=Ragged.from_lengths(np.arange(len(tables)), np.ones(len(tables), np.int64)),
        completions=full.completions.take(rows),
        groups=np.concatenate([[0], np.cumsum(sizes)]),
        **{name: column.take(rows) if isinstance(column, Ragged) else column[rows] for name, column in columns.items()},
    )


def draw_both(seed, case) -> tuple[Samples, Samples]:
    """Completions of a policy and of the prior for the same prompts, drawn from the tables with replacement.

    A single prompt is always the first table, as its interval is of that prompt.
    """
    name, prompts, fewest, most = CASES[case]
    rng = np.random.default_rng([seed, list(CASES).index(case)])
    tables = rng.integers(TABLES, size=prompts) if prompts > 1 else np.zeros(1, np.int64)
    sizes, chosen = rng.integers(fewest, most + 1, size=prompts), policy(name)
    here = chosen.world
    of_prior = replace(here.every, policy_logprobs=None, terminated=None, rewards=chosen.every.rewards)
    drawn = draw(rng, tables, sizes, chosen.every, chosen.probability)
    return drawn, draw(rng, tables, sizes, of_prior, here.prior)


def report(samples: Samples, prior: Samples):
    """What reports say, without what else they take time for: estimates with intervals, and which have a warning.

    Where there is an error and no interval, Student's t makes one.
    """
    kls = estimate_kls(samples)
    posterior, weights = assess(samples, TARGET)
    excess = estimate_excess(samples.completions, samples.groups, np.exp(weights.log_weights))
    kl = kls["exact"]
    beta = solve_beta(prior.rewards, kl=kl.value, groups=prior.groups)
    is_beyond = not frontier(prior.rewards, [beta], prior.groups).trusted[0]
    gap = best_gap(prior, samples, TARGET)
    said = {
        "reward": with_interval(samples.rewards, samples.groups),
        **{name: (kls[name], kls[name].interval) for name in KLS},
        "elbo": (posterior.elbo, by_student(posterior.elbo, samples)),
        "log_z": (posterior.log_z, by_student(posterior.log_z, samples)),
        "eubo": (posterior.eubo, by_student(posterior.eubo, samples)),
        "target_reward": (posterior.reward, by_student(posterior.reward, samples)),
        "inference_gap": (posterior.inference_gap, posterior.inference_gap_interval),
        "forward_kl": (posterior.forward_kl, posterior.forward_kl.interval),
        **{metric.metric: (metric.within, metric.interval) for metric in excess},
        "efficiency": estimate_efficiency(samples, kl, beta, prior)[1:],
        "best_gap": (gap.value, gap.interval),
    }
    few = [text for text in warn_of_kl(samples, {}) if "there are only" in text]
    is_far = any(map(is_grave, warn_of_target(samples, TARGET, None, posterior, weights, "the gap")))
    warned = {name: bool(kls[name].warnings) for name in KLS} | dict.fromkeys(WEIGHTED, is_far)
    warned["forward_kl"] |= any(map(is_grave, posterior.forward_kl.warnings))
    warned |= {"efficiency": is_beyond, "reward": False, "elbo": False, "best_gap": is_far}
    return said, {name: warned[name] or bool(few) for name in QUANTITIES}


def is_grave(warning):
    """Whether a warning says that an error may not hold: not that a large Pareto k may be chance."""
    return "may be chance" not in warning and "the target's diversity is nearer" not in warning


def by_student(estimate, samples):
    """Student's t, by the prompts that those of unequal size are worth; of a single prompt, by its completions."""
    sizes = np.diff(samples.groups)
    n = effective_clusters(sizes) if len(sizes) > 1 else sizes[0]
    reach = stats.t.ppf(0.975, n - 1) * estimate.stderr
    return estimate.value - reach, estimate.value + reach


def repeat(case, repetitions) -> Found:
    found = []
    for seed in range(repetitions):
        said, warned = report(*draw_both(seed, case))
        rows = [(said[q][0][0], said[q][0][1], *said[q][1][:2]) for q in QUANTITIES]
        found.append((rows, [warned[q] for q in QUANTITIES]))
    return Found(*map(np.array, zip(*found, strict=True)))


def truth(case):
    name, prompts, *_ = CASES[case]
    values = exact(name, TABLES if prompts > 1 else 1)
    return np.array([values[quantity] for quantity in QUANTITIES])


def printed(found: Found) -> np.ndarray:
    """Whether there is an interval [repetitions, quantities]."""
    return np.isfinite(found.intervals[:, :, 2:]).all(axis=2)


def covered(found: Found, case) -> np.ndarray:
    """Whether each interval holds the exact value [repetitions, quantities]."""
    return (found.intervals[:, :, 2] <= truth(case)) & (truth(case) <= found.intervals[:, :, 3])


def is_kept(covered, times, errors=2.0):
    """Whether a share of so many intervals is within the promise, or so many errors of counting beyond it."""
    low, high = (
        p + sign * errors * np.sqrt(p * (1 - p) / np.maximum(times, 1)) for p, sign in ((LEAST, -1), (MOST, 1))
    )
    return (low <= covered) & (covered <= high)


@pytest.mark.parametrize("name", POLICIES)
def test_many_completions_give_the_exact_values(name):
    rng, chosen, tables = np.random.default_rng(0), policy(name), np.arange(TABLES)
    sizes = np.full(TABLES, 2000)
    samples = draw(rng, tables, sizes, chosen.every, chosen.probability)
    prior = draw(rng, tables, sizes, replace(chosen.every, policy_logprobs=None), chosen.world.prior)
    said, _ = report(samples, prior)
    for quantity in QUANTITIES if name != "far" else (*OF_POLICY, "best_gap"):
        assert said[quantity][0][0] == pytest.approx(exact(name)[quantity], abs=0.02), quantity


def test_repetitions_say_what_reports_do():
    samples, prior = draw_both(0, "skewed, 50 x 32")
    said, warned = report(samples, prior)
    whole = evaluate(samples, TARGET)
    comparison = compare(prior, {"it": samples}, beta=TARGET.beta)
    (point,) = comparison.policies
    assert said["reward"] == (whole.reward, point.reward_interval)
    for name in KLS:
        assert said[name][0].value == whole.kl[name].value
        assert said[name][1] == whole.kl[name].interval
    found = whole.target
    for name, estimate in {"elbo": found.elbo, "log_z": found.log_z, "eubo": found.eubo}.items():
        assert_same(said[name][0], estimate)
    assert_same(said["target_reward"][0], found.reward)
    assert_same(said["inference_gap"][0], found.inference_gap)
    assert_same(said["inference_gap"][1][:2], found.inference_gap_interval[:2])
    assert_same(said["forward_kl"][1][:2], found.forward_kl.interval[:2])
    for metric in whole.excess_collapse:
        assert_same(said[metric.metric][0], metric.within)
        assert_same(said[metric.metric][1][:2], metric.interval[:2])
    assert_same(said["efficiency"][0], point.efficiency)
    assert_same(said["best_gap"][0], point.inference_gap)
    assert_same(said["best_gap"][1][:2], point.inference_gap_interval[:2])
    assert warned["efficiency"] == any("can be trusted for" in warning for warning in comparison.warnings)


def assert_same(one, other):
    np.testing.assert_allclose(np.array(one), np.array(other), rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_intervals_cover_or_the_report_says_that_they_may_not(case):
    """What has an interval and no warning; what does not rest on weights always has one.

    Of 225 shares some are two errors of counting off.
    """
    repetitions = 30 if CASES[case][1] > 100 else 80
    found = repeat(case, repetitions)
    is_plain = printed(found) & ~found.warned
    times = is_plain.sum(axis=0)
    shares = (covered(found, case) & is_plain).sum(axis=0) / np.maximum(times, 1)
    for quantity, share, plain, shown in zip(QUANTITIES, shares, times, printed(found).mean(axis=0), strict=True):
        assert is_kept(share, plain, errors=3.0) or plain < FEWEST, (quantity, share, plain)
        assert quantity not in OF_POLICY or shown == 1.0, quantity


def test_far_from_the_target_little_is_shown():
    """Of few completions each, and many prompts, all that rests on weights is bias: no interval pretends otherwise."""
    found = repeat("far, 200 x 8", 20)
    shown = dict(zip(QUANTITIES, printed(found).mean(axis=0), strict=True))
    for name in ("log_z", "eubo", "target_reward", "inference_gap", "forward_kl"):
        assert shown[name] == 0.0, name
    values = dict(zip(QUANTITIES, found.intervals[:, :, 0].mean(axis=0), strict=True))
    assert values["inference_gap"] < exact("far")["inference_gap"] - 0.5
    assert abs(values["best_gap"] - exact("far")["best_gap"]) < 0.2
