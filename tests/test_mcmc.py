"""Independent Metropolis-Hastings against the exact powers of its transition matrix."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esscher.inference.mcmc import independent_metropolis
from esscher.lm.tabular import TabularLM
from strategies import log_weight


def world():
    """Log-probs of every completion of one prompt under a proposal and under an unnormalised target."""
    rng = np.random.default_rng(11)
    rows = TabularLM.random(rng, 1, 3, 2).completions().policy_logprobs
    log_q = np.add.reduceat(rows.values, rows.offsets[:-1])
    log_target = log_q + rng.normal(0.4, 1.0, size=len(log_q))
    log_target[3] = -np.inf
    return log_q, log_target


LOG_Q, LOG_TARGET = world()
Q, SIZE = np.exp(LOG_Q), len(LOG_Q)
W = np.exp(LOG_TARGET - LOG_Q)
TARGET = np.exp(LOG_TARGET) / np.exp(LOG_TARGET).sum()


def transitions():
    """Transition matrix [from, to] over the completions with weight, and their numbers."""
    some = np.flatnonzero(W > 0)
    matrix = Q[some] * np.minimum(1, W[some][None, :] / W[some][:, None])
    np.fill_diagonal(matrix, 0)
    np.fill_diagonal(matrix, 1 - matrix.sum(axis=1))
    return matrix, some


def test_the_oracle_leaves_the_target_invariant():
    matrix, some = transitions()
    assert len(some) == SIZE - 1
    assert TARGET[some] @ matrix == pytest.approx(TARGET[some], abs=1e-15)


def test_the_law_after_every_step_is_a_power_of_the_matrix():
    """Many chains, each a group: the law of their t-th state, started from a sample with weight of the proposal."""
    chains, steps = 60_000, 5
    rng = np.random.default_rng(12)
    matrix, some = transitions()
    drawn = rng.choice(SIZE, size=(chains, steps + 1), p=Q)
    # The first proposal has weight, so that all chains have made t steps at place t.
    drawn[:, 0] = rng.choice(some, size=chains, p=Q[some] / Q[some].sum())
    chain = independent_metropolis(
        LOG_TARGET[drawn.ravel()], LOG_Q[drawn.ravel()], rng, np.arange(chains + 1) * (steps + 1)
    )
    states = drawn.ravel()[chain.indices].reshape(chains, steps + 1)
    law = Q[some] / Q[some].sum()
    for t in range(steps + 1):
        shares = np.bincount(states[:, t], minlength=SIZE)[some] / chains
        assert (np.abs(shares - law) < 5 * np.sqrt(law * (1 - law) / chains)).all(), t
        law = law @ matrix
    # The law has moved by more than the test can miss.
    assert np.abs(law - Q[some] / Q[some].sum()).max() > 0.05


def test_transitions_have_the_rates_of_the_matrix():
    """One long chain: what follows each state is a multinomial draw of its row."""
    n = 200_000
    rng = np.random.default_rng(13)
    matrix, some = transitions()
    drawn = rng.choice(SIZE, size=n, p=Q)
    chain = independent_metropolis(LOG_TARGET[drawn], LOG_Q[drawn], rng)
    start = np.flatnonzero(W[drawn] > 0)[0]
    states = np.searchsorted(some, drawn[chain.indices])[start:]
    counts = np.zeros_like(matrix)
    np.add.at(counts, (states[:-1], states[1:]), 1)
    visits = counts.sum(axis=1, keepdims=True)
    assert (visits > 500).all()
    assert (np.abs(counts - visits * matrix) <= 5 * np.sqrt(visits * matrix * (1 - matrix)) + 5).all()
    # Its average is the target's: the error by the autocorrelation that the matrix says.
    centred = (np.eye(len(some)) - TARGET[some]).T
    fundamental = np.linalg.inv(np.eye(len(some)) - matrix + TARGET[some])
    variances = [2 * (TARGET[some] * f) @ fundamental @ f - TARGET[some] @ f**2 for f in centred]
    shares = np.bincount(states, minlength=len(some)) / len(states)
    assert (np.abs(shares - TARGET[some]) < 5 * np.sqrt(np.array(variances) / n)).all()
    exact_rate = sum(
        TARGET[i] * Q[j] * min(1, W[j] / W[i]) for i in some for j in range(SIZE)
    )  # A proposal of the present completion counts as accepted.
    # A rate of 0 to 1 with an autocorrelation time below 20.
    assert chain.acceptance_rate[0] == pytest.approx(exact_rate, abs=5 * 0.5 * np.sqrt(20 / n))


def stepwise(log_weights, slack):
    """States of one chain, one at a time; `slack` is minus the log of each uniform."""
    state, states = None, []
    for t, proposed in enumerate(log_weights):
        if proposed > -np.inf and (state is None or -slack[t] <= proposed - log_weights[state]):
            state = t
        states.append(state)
    start = next(t for t in states if t is not None)
    return [start if t is None else t for t in states]


@given(st.data())
def test_chains_of_groups_equal_the_loop(data):
    rows = data.draw(
        st.lists(st.lists(log_weight, min_size=1, max_size=7).filter(lambda w: max(w) > -np.inf), max_size=4)
    )
    log_weights = np.array([w for row in rows for w in row])
    groups = np.cumsum([0, *map(len, rows)])
    chain = independent_metropolis(log_weights, np.zeros(len(log_weights)), np.random.default_rng(5), groups)
    slack = np.random.default_rng(5).standard_exponential(len(log_weights))
    for p, (row, start) in enumerate(zip(rows, groups, strict=False)):
        states = stepwise(row, slack[start:])
        assert chain.indices[start : start + len(row)].tolist() == [start + t for t in states]
        first = states[0]
        rates = [np.exp(min(0.0, row[t] - row[states[t - 1]])) for t in range(first + 1, len(row))]
        assert chain.acceptance_rate[p] == pytest.approx(np.mean(rates) if rates else np.nan, nan_ok=True)


def test_equal_weights_are_always_moved_to_and_no_weight_never():
    chain = independent_metropolis([-np.inf, 2.0, 2.0, -np.inf, 2.0], np.zeros(5), np.random.default_rng(0))
    assert chain.indices.tolist() == [1, 1, 2, 2, 4]
    assert chain.acceptance_rate[0] == 2 / 3


def test_a_long_chain_is_quick():
    log_weights = np.random.default_rng(0).normal(size=100_000)
    started = time.perf_counter()
    independent_metropolis(log_weights, np.zeros(100_000), np.random.default_rng(1))
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize(
    ("log_target", "log_proposal", "groups", "message"),
    [
        ([0.0, -np.inf], [0.0, 0.0], [0, 1, 2], "group 1 has no weight, so no chain can start in it"),
        ([0.0], [0.0], [0, 0, 1], "group 0 has no weight"),
        ([np.nan], [0.0], None, r"log_target\[0\] is NaN"),
        ([0.0], [np.inf], None, r"log_proposal\[0\] is inf"),
        ([0.0, 0.0], [0.0], None, "log_proposal has 1 entries"),
        ([0.0], [0.0], [0, 2], "groups ends at 2"),
    ],
)
def test_bad_arguments(log_target, log_proposal, groups, message):
    with pytest.raises(ValueError, match=message):
        independent_metropolis(log_target, log_proposal, np.random.default_rng(0), groups)
