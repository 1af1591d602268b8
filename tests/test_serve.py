"""`esscher serve` as a process: everything that it holds, and how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

from esscher import Client, Samples
from models import alice, alice_folder

pytestmark = pytest.mark.timeout(120)

REWARDS = """
import time
def length(prompts, completions):
    return [len(completion) for completion in completions]
def stuck(prompts, completions):
    time.sleep(1000)
"""


@contextlib.contextmanager
def serving(folder, *arguments):
    """A server process, and its address."""
    (folder / "our_rewards.py").write_text(REWARDS)
    command = [sys.executable, "-m", "esscher", "serve", "--prior", alice_folder(), "--port", "0", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as server,
    ):
        try:
            line = server.stdout.readline()
            assert line, (folder / "log").read_text()
            yield server, line.split()[-1]
        finally:
            server.kill()


@pytest.fixture(scope="module")
def samples():
    return alice().sample(alice().encode(["Alice was", "The Queen said"]), 4, 8, np.random.default_rng(0))


def test_a_server_fills_every_column_that_it_has_models_for(samples, tmp_path):
    options = ("--policy", alice_folder(), "--reward", "our_rewards:length", "--metrics-port", "0")
    with serving(tmp_path, *options) as (server, address), Client(address, timeout=60) as client:
        columns = client.info().columns
        assert columns == ("prior_logprobs", "policy_logprobs", "token_kl", "policy_entropy", "rewards")
        scored = client.score(Samples(samples.prompts, samples.completions, samples.groups), columns)
        log = (tmp_path / "log").read_text()
        place = log.partition("serving metrics at ")[2].split()[0]
        with urllib.request.urlopen(place, timeout=10) as response:
            metrics = response.read().decode()
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0
    np.testing.assert_allclose(scored.prior_logprobs.values, samples.policy_logprobs.values, rtol=0, atol=1e-4)
    np.testing.assert_allclose(scored.token_kl.values, 0, atol=1e-5)
    assert scored.rewards.tolist() == [len(text) for text in alice().decode(samples.completions)]
    assert 'esscher_calls_total{method="/esscher.v1.ScoringService/ScoreSamples",status="OK"} 1.0' in metrics
    assert "esscher_policy_revision 1.0" in metrics


def test_a_reward_that_never_returns_costs_no_other_column_and_does_not_keep_the_server(samples, tmp_path):
    options = ("--reward", "our_rewards:stuck")
    with serving(tmp_path, *options) as (server, address), Client(address, timeout=2) as client:
        answer = client.ask(
            Samples(samples.prompts, samples.completions, samples.groups), ("prior_logprobs", "rewards")
        )
        assert answer.samples.prior_logprobs is not None
        assert "the reward had no answer within 1.8 s" in answer.unavailable["rewards"]
        started = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=40) == 0
        assert time.monotonic() - started < 30
