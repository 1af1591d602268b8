"""The demonstration itself, on the small model: a real server in a process of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from esscher import Estimate, demo
from esscher.demo import Demo, compare, examples, run_demo
from esscher.lm.prompts import NEUTRAL_PROMPTS
from models import alice_folder


@pytest.fixture(scope="module")
def result():
    return run_demo(Demo(model=str(alice_folder()), beta=0.25, completions=8, seed=0), progress=lambda _: None)


def test_nothing_is_missing_from_the_report(result):
    assert result.report.unavailable == {}
    assert result.report.counts.prompts == 12
    assert result.report.counts.completions == 96
    assert np.isfinite(result.report.target.log_z.value)


def test_the_policy_is_not_the_prior(result):
    kl = result.report.kl["k1"]
    assert kl.value > 5 * kl.stderr > 0


def test_j_is_below_beta_log_z_within_standard_errors(result):
    j, bound = result.report.target.objective, result.prior_report.target.objective_bound
    assert j.value <= bound.value + 2 * np.hypot(j.stderr, np.nan_to_num(bound.stderr))
    assert "J is below it" in compare(result)


def test_two_estimates_of_log_z_agree(result):
    """From 8 completions a prompt both are biased low, so they agree in size, not to their standard errors."""
    policy, prior = result.report.target.log_z, result.prior_report.target.log_z
    assert policy.value == pytest.approx(prior.value, abs=1.0)


def test_text_comes_back(result):
    texts = [result.decode(ngram.token_ids) for ngram in result.report.top_ngrams[3]]
    assert any(text.strip() for text in texts)


def test_examples_go_from_the_heaviest_to_the_lightest(result):
    shown = examples(result, n=4)
    weights = [example.weight for example in shown]
    assert weights == sorted(weights, reverse=True)
    assert {example.prompt for example in shown} <= set(NEUTRAL_PROMPTS)


def test_a_model_that_is_not_there_is_told():
    with pytest.raises(FileNotFoundError, match="nowhere/at/all/x"):
        run_demo(Demo(model="nowhere/at/all/x", beta=0.25, completions=2, seed=0), progress=lambda _: None)


def test_a_server_that_does_not_start_is_told_with_what_it_said():
    with (
        pytest.raises(ConnectionError, match=r"did not start; the server said: error: nowhere/at/all/x does not exist"),
        demo._server("nowhere/at/all/x") as server,
    ):
        demo._address(server)


def test_a_j_above_its_bound_is_told(result):
    high = replace(result.report.target, objective=Estimate(9.0, 0.1))
    impossible = replace(result, report=replace(result.report, target=high))
    assert "standard errors above" in compare(impossible)
