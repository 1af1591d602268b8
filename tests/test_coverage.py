"""How often 95 % intervals of reports hold the exact value, over repetitions in a world that can be enumerated.

`python tests/coverage_table.py` makes the tables of docs/coverage.md, from more repetitions than tests have time for.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pytest

from esscher import Ragged, Samples, Tilt, compare, evaluate, sequence_logprobs
from esscher.compare.efficiency import estimate_efficiency
from esscher.divergence import estimate_kls
from esscher.diversity import estimate_excess
from esscher.estimate import student_interval, with_interval
from esscher.evaluate.warnings import of_target
from esscher.frontier import frontier
from esscher.lm.tabular import TabularLM
from esscher.posterior import assess
from esscher.solve import solve_beta

KLS = ("k1", "exact", "k3", "k1_cv")
# What rests on weights that make the policy's completions stand for the target.
WEIGHTED = ("log_z", "eubo", "target_reward", "inference_gap", "forward_kl", "distinct-2 of 2", "repetition-3")
# What does not.
OF_POLICY = ("reward", *KLS, "elbo")
QUANTITIES = (*OF_POLICY, *WEIGHTED, "efficiency")
TARGET = Tilt(beta=0.5)
TABLES, VOCABULARY, DEPTH = 50, 4, 6
# Prompts and completions a prompt.
CASES = {"12 x 128": (12, 128), "40 x 64": (40, 64), "100 x 16": (100, 16), "200 x 8": (200, 8)}
# A report on fewer completions a prompt says that it cannot judge its weights.
JUDGED = ("12 x 128", "40 x 64")
# The promise.
LEAST, MOST = 0.91, 0.98
# How far along the way from prior to target, token by token, and the noise on top: KL(policy‖target) is 0.07, 0.28 and
# 1.9 nats.
POLICIES = {"near": (0.8, 0.2), "moderate": (0.5, 0.4), "far": (-2.0, 0.3)}


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
    """Every completion with the columns of a policy, its probabilities and the exact values by quantity."""

    every: Samples
    probability: np.ndarray
    exact: dict[str, float]


class Found(NamedTuple):
    """What repetitions gave: of each interval the value, its error and both ends [repetitions, quantities, 4].

    `warned` says whether there was a warning [repetitions, quantities], `pareto_k` is [repetitions, prompts].
    """

    intervals: np.ndarray
    warned: np.ndarray
    pareto_k: np.ndarray


@lru_cache
def world() -> World:
    rng = np.random.default_rng(11)
    nodes = sum((VOCABULARY - 1) ** k for k in range(DEPTH))
    of_table = rng.normal(0, 0.4, size=(TABLES, 1, VOCABULARY))
    logits = log_softmax(rng.normal([-0.8, 0.3, 0.0, -0.2], 0.8, size=(TABLES, nodes, VOCABULARY)) + of_table)
    every = TabularLM(logits).completions()
    twos = np.add.reduceat(every.completions.values == 2, every.completions.offsets[:-1]) / every.completions.lengths
    rewards = (twos + rng.normal(0, 0.3, size=len(every))).reshape(TABLES, -1)
    prior = probabilities(every)
    target = tilted(prior, rewards, TARGET.beta)
    at = nodes_of(every.completions, nodes)
    return World(every, logits, logits_of(target, every, at, logits.shape), at, prior, rewards, target)


def probabilities(every):
    return np.exp(sequence_logprobs(every.policy_logprobs)).reshape(TABLES, -1)


def logits_of(probability, every, nodes, shape):
    """What the tables of a model with these probabilities of completions are."""
    lengths, mass = every.completions.lengths, np.zeros(shape)
    places = np.repeat(every.group_of, lengths), nodes, every.completions.values
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
    share, noise = POLICIES[name]
    here = world()
    moved = here.logits + share * (here.target_logits - here.logits)
    logits = log_softmax(moved + noise * np.random.default_rng(3).normal(size=moved.shape))
    every, offsets = here.every, here.every.completions.offsets
    per_node = (np.exp(logits) * (logits - here.logits)).sum(axis=-1)
    tables = np.repeat(every.group_of, every.completions.lengths)
    full = replace(
        every,
        policy_logprobs=Ragged(logits[tables, here.nodes, every.completions.values], offsets),
        prior_logprobs=every.policy_logprobs,
        token_kl=Ragged(np.maximum(per_node[tables, here.nodes], 0.0), offsets),
        rewards=here.rewards.ravel(),
        terminated=None,
    )
    probability = probabilities(full)
    return Policy(full, probability, exact(probability))


def exact(probability) -> dict[str, float]:
    """Means over tables, by enumeration."""
    here = world()
    prior, target, rewards = here.prior, here.target, here.rewards
    log_z = np.log((prior * np.exp(rewards / TARGET.beta)).sum(axis=1)).mean()
    kl, gap = divergence(probability, prior), divergence(probability, target)
    excess = diversities(probability) - diversities(target)
    return dict.fromkeys(KLS, kl) | {
        "reward": mean(probability, rewards),
        "inference_gap": gap,
        "forward_kl": divergence(target, probability),
        "log_z": log_z,
        "elbo": log_z - gap,
        "eubo": log_z + divergence(target, probability),
        "target_reward": mean(target, rewards),
        "distinct-2 of 2": excess[0],
        "repetition-3": excess[1],
        "efficiency": efficiency(mean(probability, rewards), kl),
    }


def mean(probability, values):
    return float((probability * values).sum(axis=1).mean())


def divergence(of, to):
    return mean(of, np.log(of / to))


def diversities(probability):
    """distinct-2 of two completions, and the repetition of 3-grams, of the mean over tables.

    Two of them hold a 2-gram that one holds with probability p with probability 1 - (1 - p)^2.
    """
    rows = [row.tolist() for row in world().every.completions][: probability.shape[1]]
    pairs, triples = ([list(zip(*(row[i:] for i in range(n)), strict=False)) for row in rows] for n in (2, 3))
    holds = np.array([[pair in row for pair in np.ndindex(VOCABULARY, VOCABULARY)] for row in pairs])
    share = probability @ holds
    distinct = (1 - (1 - share) ** 2).sum(axis=1) / (2 * probability @ [len(row) for row in pairs])
    repeated = [1 - len(set(row)) / len(row) if row else 0.0 for row in triples]
    repetition = probability @ repeated / (probability @ [len(row) > 0 for row in triples])
    return np.array([distinct.mean(), repetition.mean()])


def efficiency(reward, kl):
    """The gain over the prior's reward, as a share of that of the target with this KL, found by bisection."""
    here = world()
    low, high = 1e-2, 1e2
    for _ in range(100):
        beta = np.sqrt(low * high)
        is_nearer = divergence(tilted(here.prior, here.rewards, beta), here.prior) < kl
        low, high = (low, beta) if is_nearer else (beta, high)
    least = mean(here.prior, here.rewards)
    return (reward - least) / (mean(tilted(here.prior, here.rewards, low), here.rewards) - least)


def draw(rng, tables, completions, full, probability) -> Samples:
    """Draw completions of the given tables from all there are."""
    cdf = probability.cumsum(axis=1)
    places = (np.arange(TABLES)[:, None] + cdf / cdf[:, -1:]).ravel()
    at = tables[:, None] + rng.random((len(tables), completions))
    rows = np.searchsorted(places, at.ravel(), side="right")
    columns = {name: getattr(full, name) for name in full.columns}
    return Samples(
        prompts=Ragged.from_lengths(tables, np.ones(len(tables), np.int64)),
        completions=full.completions.take(rows),
        groups=np.arange(len(tables) + 1) * completions,
        **{name: column.take(rows) if isinstance(column, Ragged) else column[rows] for name, column in columns.items()},
    )


def draw_both(seed, prompts, completions, name) -> tuple[Samples, Samples]:
    """Completions of a policy and of the prior for the same prompts, drawn from the tables with replacement."""
    rng = np.random.default_rng([seed, prompts, list(POLICIES).index(name)])
    tables = rng.integers(TABLES, size=prompts)
    chosen = policy(name)
    of_prior = replace(world().every, policy_logprobs=None, terminated=None, rewards=chosen.every.rewards)
    drawn = draw(rng, tables, completions, chosen.every, chosen.probability)
    return drawn, draw(rng, tables, completions, of_prior, world().prior)


def report(samples: Samples, prior: Samples):
    """What reports say, without what else they take time for: estimates with intervals, warnings and Pareto k.

    Where there is an error and no interval, Student's t makes one.
    """
    kls = estimate_kls(samples)
    posterior, weights = assess(samples, TARGET)
    excess = estimate_excess(samples.completions, samples.groups, np.exp(weights.log_weights))
    kl = kls["exact"]
    beta = solve_beta(prior.rewards, kl=kl.value, groups=prior.groups)
    is_beyond = not frontier(prior.rewards, [beta], prior.groups).trusted[0]
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
    }
    is_far = bool(of_target(samples, TARGET, None, posterior, weights))
    warned = {name: bool(kls[name].warnings) for name in KLS} | dict.fromkeys(WEIGHTED, is_far)
    warned["forward_kl"] |= bool(posterior.forward_kl.warnings)
    warned |= {"efficiency": is_beyond, "reward": False, "elbo": False}
    return said, warned, weights.pareto_k


def by_student(estimate, samples):
    return student_interval(*estimate, len(samples.prompts))


def repeat(case, name, repetitions) -> Found:
    found = []
    for seed in range(repetitions):
        said, warned, pareto_k = report(*draw_both(seed, *CASES[case], name))
        rows = [(said[q][0].value, said[q][0].stderr, *said[q][1][:2]) for q in QUANTITIES]
        found.append((rows, [warned[q] for q in QUANTITIES], pareto_k))
    return Found(*map(np.array, zip(*found, strict=True)))


def truth(name):
    return np.array([policy(name).exact[quantity] for quantity in QUANTITIES])


def covered(found: Found, name) -> np.ndarray:
    """Whether each interval holds the exact value [repetitions, quantities]."""
    return (found.intervals[:, :, 2] <= truth(name)) & (truth(name) <= found.intervals[:, :, 3])


def z_scores(found: Found, name) -> np.ndarray:
    """How many standard errors each value is off [repetitions, quantities]."""
    return (found.intervals[:, :, 0] - truth(name)) / found.intervals[:, :, 1]


def told(found: Found, name) -> np.ndarray:
    """In what share of the repetitions whose interval misses there was a warning [quantities]; 1 if none misses."""
    missed = ~covered(found, name)
    return (missed & found.warned).sum(axis=0) / np.maximum(missed.sum(axis=0), 1) + (missed.sum(axis=0) == 0)


def bounds(repetitions):
    """Within what share of repetitions stays with the promise kept: two binomial errors beyond it."""
    return tuple(p + sign * 2 * np.sqrt(p * (1 - p) / repetitions) for p, sign in ((LEAST, -1), (MOST, 1)))


@pytest.mark.parametrize("name", POLICIES)
def test_many_completions_give_the_exact_values(name):
    rng, chosen, tables = np.random.default_rng(0), policy(name), np.arange(TABLES)
    samples = draw(rng, tables, 2000, chosen.every, chosen.probability)
    prior = draw(rng, tables, 2000, replace(chosen.every, policy_logprobs=None), world().prior)
    said, _, _ = report(samples, prior)
    for quantity in QUANTITIES if name != "far" else OF_POLICY:
        assert said[quantity][0].value == pytest.approx(chosen.exact[quantity], abs=0.02), quantity


def test_repetitions_say_what_reports_do():
    samples, prior = draw_both(0, 12, 32, "moderate")
    said, warned, pareto_k = report(samples, prior)
    whole = evaluate(samples, TARGET)
    comparison = compare(prior, {"it": samples}, beta=TARGET.beta)
    (point,) = comparison.policies
    assert said["reward"] == (whole.reward, point.reward_interval)
    for name in KLS:
        assert said[name][0].value == whole.kl[name].value
        assert said[name][1] == whole.kl[name].interval
    assert said["elbo"][0] == whole.target.elbo
    assert said["log_z"][0] == whole.target.log_z
    assert said["eubo"][0] == whole.target.eubo
    assert said["target_reward"][0] == whole.target.reward
    assert said["inference_gap"] == (whole.target.inference_gap, whole.target.inference_gap_interval)
    assert said["forward_kl"][1] == whole.target.forward_kl.interval
    for metric in whole.excess_collapse:
        assert said[metric.metric] == (metric.within, metric.interval)
    assert said["efficiency"] == (point.efficiency, point.efficiency_interval)
    assert warned["log_z"] == any("Pareto k is" in warning for warning in whole.warnings)
    assert warned["efficiency"] == any("can be trusted for" in warning for warning in comparison.warnings)
    assert np.nanmax(pareto_k) == whole.target.pareto_k


@pytest.mark.parametrize("case", CASES)
def test_intervals_cover(case):
    """Where the report can judge its weights, all; elsewhere those of weights may miss if it says so."""
    found = repeat(case, "moderate", repetitions=200)
    least, most = bounds(200)
    shares, warned = covered(found, "moderate").mean(axis=0), told(found, "moderate")
    for quantity, share, said in zip(QUANTITIES, shares, warned, strict=True):
        is_held = least <= share <= most
        is_excused = case not in JUDGED and quantity not in OF_POLICY and said >= 0.95
        assert is_held or is_excused, (quantity, share, said)


@pytest.mark.parametrize("case", CASES)
def test_of_a_policy_far_from_the_target_reports_say_so(case):
    """What rests on weights misses, and hardly ever without a warning; what does not is as good as ever."""
    found = repeat(case, "far", repetitions=60)
    least, most = bounds(60)
    shares, warned = covered(found, "far").mean(axis=0), told(found, "far")
    for quantity, share, said in zip(QUANTITIES, shares, warned, strict=True):
        is_held = least <= share <= most
        is_excused = quantity not in OF_POLICY and said >= 0.95
        assert is_held or is_excused, (quantity, share, said)
    assert (shares[QUANTITIES.index("forward_kl")] < 0.8).all()
