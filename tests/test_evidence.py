"""log Z from samples of prior and policy where some prompts say nothing of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from esscher import Condition, Ragged, Samples, Tilt, compare_log_z

HALF, TILTED = np.log([0.5, 0.5]), np.log([0.2, 0.8])


def drawn(*prompts):
    """Samples of one token each, of a prior that is indifferent and a policy that prefers the second."""
    tokens = np.concatenate(prompts)
    return Samples(
        prompts=Ragged.from_rows([[p] for p in range(len(prompts))]),
        completions=Ragged.from_rows([[token] for token in tokens]),
        groups=np.cumsum([0, *map(len, prompts)]),
        policy_logprobs=Ragged.from_rows([[TILTED[token]] for token in tokens]),
        prior_logprobs=Ragged.from_rows([[HALF[token]] for token in tokens]),
        rewards=tokens,
    )


MANY = [0, 1] * 10


def test_prompts_without_an_error_are_not_compared():
    prior, policy = drawn(MANY, [1], MANY), drawn(MANY, MANY, [0])
    found = compare_log_z(prior, policy, Tilt(1.0))
    first = compare_log_z(drawn(MANY), drawn(MANY), Tilt(1.0))
    assert found.compared == 1
    assert found.difference == pytest.approx(first.difference, rel=1e-12)
    assert np.isnan([found.prior.stderr, found.policy.stderr]).all()
    assert np.isfinite([found.prior.value, found.policy.value]).all()


def test_where_nothing_can_be_compared_nothing_agrees():
    found = compare_log_z(drawn([0], [1]), drawn([1], [1]), Tilt(1.0))
    assert (found.compared, found.agree) == (0, None)
    assert np.isnan(found.difference)
    dead = compare_log_z(drawn(MANY), drawn([0] * 9), Condition(0.5))
    assert (dead.compared, dead.agree, dead.policy.value) == (0, None, -np.inf)


def test_equal_weights_agree_though_rounding_parts_them():
    rewards = np.full(40, 0.1)
    prior = replace(drawn(MANY, MANY), rewards=rewards)
    policy = replace(prior, policy_logprobs=prior.prior_logprobs)
    found = compare_log_z(prior, policy, Tilt(0.3))
    assert found.agree
    assert found.difference < 1
    assert found.prior.value == pytest.approx(0.1 / 0.3, rel=1e-15)
    assert found.prior.stderr < 1e-15


@pytest.mark.parametrize(("whose", "column"), [("prior", "prior_logprobs"), ("policy", "policy_logprobs")])
def test_completions_that_cannot_have_been_drawn_are_refused(whose, column):
    both = {"prior": drawn(MANY), "policy": drawn(MANY)}
    values = getattr(both[whose], column).values.copy()
    values[3] = -np.inf
    spoilt = replace(both[whose], **{column: Ragged(values, both[whose].completions.offsets)})
    with pytest.raises(ValueError, match=rf"{column}\[3\] sums to -inf: the {whose} cannot have produced"):
        compare_log_z(**both | {whose: spoilt}, target=Tilt(1.0))


def test_completions_of_the_policy_that_the_prior_cannot_produce_have_no_weight():
    prior, policy = drawn(MANY), drawn(MANY)
    values = policy.prior_logprobs.values.copy()
    values[::4] = -np.inf
    found = compare_log_z(prior, replace(policy, prior_logprobs=Ragged(values, policy.completions.offsets)), Tilt(1.0))
    assert np.isfinite([*found.policy, *found.both]).all()


def test_samples_without_a_common_prompt_are_refused():
    other = replace(drawn(MANY), prompts=Ragged.from_rows([[7]]))
    with pytest.raises(ValueError, match="prior and policy have no prompt in common"):
        compare_log_z(drawn(MANY), other, Tilt(1.0))
