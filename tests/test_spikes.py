"""One token that makes an estimate is named."""

from dataclasses import replace

import numpy as np
import pytest

from esscher import Ragged, Samples, evaluate
from esscher.divergence import PRESETS, estimate_kl, estimate_kls

TOOLS = [preset for preset in PRESETS if preset != "disco"]
ESTIMATORS = [("k1", "token"), *((name, level) for name in ("k2", "k3", "abs") for level in ("token", "sequence"))]
ROWS, TOKENS = 16, 40


def samples(log_ratio=None, rows=ROWS, seed=0):
    """Completions of a policy near its prior; `log_ratio` is that of one token, the eighth of the third completion."""
    rng = np.random.default_rng(seed)
    prior = -rng.exponential(size=rows * TOKENS) - 0.5
    policy = np.minimum(prior + 0.2 * rng.normal(size=rows * TOKENS), 0.0)
    if log_ratio is not None:
        at = min(2, rows - 1) * TOKENS + 7
        policy[at], prior[at] = min(log_ratio, 0.0) - 0.5, -max(log_ratio, 0.0) - 0.5
    offsets = np.arange(rows + 1) * TOKENS
    return Samples(
        prompts=Ragged.from_rows([[1], [2]][: min(rows, 2)]),
        completions=Ragged(rng.integers(1000, size=rows * TOKENS), offsets),
        groups=[0, rows] if rows == 1 else [0, rows // 2, rows],
        policy_logprobs=Ragged(policy, offsets),
        prior_logprobs=Ragged(prior, offsets),
        rewards=rng.normal(size=rows),
        token_kl=Ragged(0.02 + 0.01 * rng.uniform(size=rows * TOKENS), offsets),
    )


def said(estimate):
    return [warning for warning in estimate.warnings if "is made by one token" in warning]


@pytest.mark.parametrize(("estimator", "level"), ESTIMATORS)
@pytest.mark.parametrize("log_ratio", [-100.0, -800.0])
def test_every_estimator_names_the_token_that_makes_it(estimator, level, log_ratio):
    found = said(estimate_kl(samples(log_ratio), estimator, level=level))
    assert len(found) == 1
    assert "token 7 of completion 2 (counted from 0)" in found[0]
    assert f"log-prob is {log_ratio - 0.5:.4g} under the policy and -0.5 under the prior" in found[0]


@pytest.mark.parametrize("preset", TOOLS)
@pytest.mark.parametrize("log_ratio", [-100.0, 300.0])
def test_every_trainer_s_number_is_explained(preset, log_ratio):
    estimates = [estimate_kl(samples(log_ratio), preset=preset, estimator=name) for name in PRESETS[preset].recipes]
    for estimate in estimates:
        assert len(said(estimate)) == 1
        assert "token 7 of completion 2" in said(estimate)[0]
        assert said(estimate)[0].startswith(f"KL ({preset}) ")


def test_the_value_stays_what_it_is():
    got = estimate_kl(samples(-100.0, rows=1), preset="trl-grpo")
    assert got.value == pytest.approx(np.exp(100.0) / TOKENS, rel=1e-12)
    assert said(got)[0].startswith("KL (trl-grpo) is made by one token: 1 of it is token 7 of completion 0")


def test_a_clamp_that_hides_the_token_is_seen_through():
    found = said(estimate_kl(samples(-100.0), preset="openrlhf"))
    assert found[0].startswith("KL (openrlhf) without clamps is made by one token")


def test_the_exact_kl_too():
    drawn = samples()
    assert drawn.token_kl is not None
    drawn.token_kl.values[5] = 400.0
    found = said(estimate_kls(drawn)["exact"])
    assert "token 5 of completion 0" in found[0]


def test_weights_count():
    spiked = samples(-100.0)
    proposal = Ragged(spiked.policy_logprobs.values.copy(), spiked.completions.offsets)
    assert said(estimate_kl(spiked, "k3", proposal_logprobs=proposal))
    proposal.values[2 * TOKENS + 7] = -0.5  # now its completion has no weight
    assert not said(estimate_kl(spiked, "k1", proposal_logprobs=proposal))


def test_a_report_says_so():
    assert any("is made by one token" in warning for warning in evaluate(samples(-100.0)).warnings)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rows", [1, 2, ROWS])
def test_nothing_is_said_of_completions_without_one(rows, seed):
    drawn = samples(rows=rows, seed=seed)
    assert not any(said(estimate) for estimate in estimate_kls(drawn).values())
    assert not any(said(estimate_kl(drawn, preset=preset)) for preset in TOOLS)


def test_nothing_is_said_where_policy_and_prior_are_one_but_for_rounding():
    drawn = samples()
    rounded = Ragged(drawn.prior_logprobs.values.copy(), drawn.completions.offsets)
    rounded.values[9] -= 1e-6
    same = replace(drawn, policy_logprobs=rounded)
    assert not any(said(estimate) for estimate in estimate_kls(same).values())
