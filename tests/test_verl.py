"""verl's reward function: one completion at a time, few requests, and never a reward that is none."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from esscher.client import Client, ColumnError
from esscher.integrations.texts import RewardBatcher, rewards_of
from esscher.integrations.verl import compute_score, compute_score_async, make_compute_score
from esscher.lm.conversations import text_of
from esscher.lm.rewards import FunctionReward
from esscher.server.models import Models
from esscher.server.serving import running_in_thread
from esscher.server.settings import ServerSettings
from models import alice

pytestmark = pytest.mark.timeout(60)


class Letters:
    """A reward that can be told from the texts, and remembers what it was called with."""

    def __init__(self):
        self.calls, self.seconds = [], 0.0

    def __call__(self, prompts, completions):
        self.calls.append(list(zip(prompts, completions, strict=True)))
        time.sleep(self.seconds)
        if "poison" in prompts:
            raise RuntimeError("a bitter bottle")
        return [letters(*pair) for pair in self.calls[-1]]


def letters(prompt, completion):
    return completion.count("e") + len(prompt) / 100


@pytest.fixture(scope="module")
def reward():
    return Letters()


@pytest.fixture(scope="module")
def address(reward):
    models = Models(prior=alice(), reward=FunctionReward("letters", reward, alice()))
    with running_in_thread(models, ServerSettings(port=0, grace=0.1)) as address:
        yield address


PAIRS = [(f"Alice was {i % 3}", " tired, ever so tired" + " e" * i) for i in range(32)]


def arguments(prompt, completion):
    return {"data_source": "x", "solution_str": completion, "ground_truth": None, "extra_info": {"prompt": prompt}}


def test_calls_of_many_threads_share_requests(address, reward):
    reward.calls.clear()
    score = make_compute_score(address, timeout=20)
    together = threading.Barrier(len(PAIRS))

    def call(pair):
        together.wait()
        return score(**arguments(*pair))

    with ThreadPoolExecutor(len(PAIRS)) as pool:
        scores = list(pool.map(call, PAIRS))
    assert scores == [pytest.approx(letters(*pair)) for pair in PAIRS]
    assert all(type(score) is float for score in scores)
    assert len(reward.calls) <= 10
    assert sum(map(len, reward.calls)) == len(PAIRS)


async def test_coroutines_share_requests(address, reward):
    assert inspect.iscoroutinefunction(compute_score_async)
    reward.calls.clear()
    scores = await asyncio.gather(
        *(compute_score_async(**arguments(*pair), address=address, reward_router_address=None) for pair in PAIRS)
    )
    assert scores == [pytest.approx(letters(*pair)) for pair in PAIRS]
    assert len(reward.calls) <= 10


def test_the_address_of_the_environment(address, monkeypatch):
    monkeypatch.setenv("ESSCHER_ADDRESS", address)
    assert compute_score("x", " see", None, {"prompt": "To"}) == pytest.approx(2.02)
    monkeypatch.delenv("ESSCHER_ADDRESS")
    with pytest.raises(ValueError, match=r"no address: .* ESSCHER_ADDRESS"):
        compute_score("x", " see", None)


def test_prompts_are_texts_or_messages_or_none(address):
    score = make_compute_score(address, timeout=20)
    messages = np.array([{"role": "system", "content": "Ab"}, {"role": "user", "content": [{"text": "cd"}]}], object)
    assert score("x", "e", None, {"prompt": messages}) == pytest.approx(1.05)  # "Ab\ncd"
    assert score("x", "e", None, {"index": 3}) == score("x", "e", None) == pytest.approx(1.0)
    # One that shows no text is an end token.
    assert score("x", "", None, {"prompt": "Ab"}) == pytest.approx(0.02)
    # What is spelled out is text.
    assert score("x", "<eos>", None) == pytest.approx(1.0)


def test_a_text_that_is_refused_fails_alone(address):
    batcher = RewardBatcher(address, 20, parse_special_tokens=False, wait=0.2)
    futures = [batcher.submit(*pair) for pair in (*PAIRS[:5], ("Alice was", " tired" * 200), *PAIRS[5:9])]
    with pytest.raises(ValueError, match="at most 128"):
        futures.pop(5).result()
    assert [future.result() for future in futures] == [pytest.approx(letters(*pair)) for pair in PAIRS[:9]]
    futures = [batcher.submit(*pair) for pair in (*PAIRS[:5], ("poison", " tired"), *PAIRS[5:9])]
    with pytest.raises(ColumnError, match="rewards"):
        futures.pop(5).result()
    assert [future.result() for future in futures] == [pytest.approx(letters(*pair)) for pair in PAIRS[:9]]
    cancelled = batcher.submit("a", "b")
    assert cancelled.cancel()
    batcher.close()


def test_those_that_wait_go_together_and_a_prompt_of_several_once(address, reward, monkeypatch):
    sent = []
    tokenize = Client.tokenize
    monkeypatch.setattr(Client, "tokenize", lambda *args, **options: sent.append(args[1]) or tokenize(*args, **options))
    reward.calls.clear()
    batcher = RewardBatcher(address, 20, parse_special_tokens=False, wait=2.0, most=6)
    futures = []
    for i in range(6):
        futures.append(batcher.submit("ab"[i % 2], "e" * i))
        time.sleep(0.02)
    assert [future.result() for future in futures] == [pytest.approx(i + 0.01) for i in range(6)]
    assert sent == [["a", "b"]]
    assert list(map(len, reward.calls)) == [6]
    batcher.close()


def test_closing_finishes_what_was_submitted(address, reward):
    batcher = RewardBatcher(address, 20, parse_special_tokens=False, wait=5)
    futures = [batcher.submit(*pair) for pair in PAIRS[:3]]
    started = time.monotonic()
    batcher.close()
    assert [future.result(0) for future in futures] == [pytest.approx(letters(*pair)) for pair in PAIRS[:3]]
    assert time.monotonic() - started < 4
    reward.seconds = 3.0
    batcher = RewardBatcher(address, 20, parse_special_tokens=False)
    future = batcher.submit("a", "b")
    time.sleep(0.2)
    batcher.close(seconds=0.1)
    with pytest.raises((ConnectionError, RuntimeError, ValueError)):
        future.result(5)
    reward.seconds = 0.0


def test_failures_are_errors_and_not_zero(address, reward):
    with pytest.raises(ConnectionError, match=r"no server answers at 127\.0\.0\.1:1 "):
        make_compute_score("127.0.0.1:1")("x", "e", None)
    with running_in_thread(Models(prior=alice())) as bare, pytest.raises(ValueError, match="the server has no reward"):
        make_compute_score(bare)("x", "e", None)
    with pytest.raises(ColumnError, match="rewards"):
        make_compute_score(address, timeout=19)("x", "e", None, {"prompt": "poison"})
    reward.seconds = 1.0
    with pytest.raises((ColumnError, TimeoutError)):
        make_compute_score(address, timeout=0.5)("x", "e", None)
    reward.seconds = 0.0
    time.sleep(1.0)
    with pytest.raises(ValueError, match="only texts are read"):
        make_compute_score(address)("x", "e", None, {"prompt": [{"role": "user", "content": [{"type": "image"}]}]})


def test_a_prompt_that_follows_itself_is_sent_once(address, monkeypatch):
    sent = []
    tokenize = Client.tokenize
    monkeypatch.setattr(Client, "tokenize", lambda *args, **options: sent.append(args[1]) or tokenize(*args, **options))
    with Client(address, 20) as client:
        rewards = rewards_of(client, ["a", "a", "b", "a"], ["e", "ee", "e", ""], parse_special_tokens=False)
    assert sent == [["a", "b", "a"]]
    assert rewards.tolist() == [pytest.approx(value) for value in (1.01, 2.01, 1.01, 0.01)]
    assert text_of("as it is") == "as it is"


@pytest.mark.parametrize("module", ["verl", "openrlhf"])
def test_importing_it_imports_neither_torch_nor_trl(module):
    heavy = ("torch", "trl", "transformers")
    code = f"import sys, esscher.integrations.{module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
