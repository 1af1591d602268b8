"""OpenRLHF's reward file and its remote reward: over HTTP, as OpenRLHF asks, and as nobody should."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from esscher.integrations.openrlhf import RewardServer, reward_func, serving
from esscher.integrations.texts import RewardBatcher
from esscher.lm.rewards import FunctionReward
from esscher.server.models import Models
from esscher.server.serving import running_in_thread
from models import alice

pytestmark = pytest.mark.timeout(60)

CALLS = []


def letters(prompts, completions):
    CALLS.append(len(completions))
    if "poison" in prompts:
        raise RuntimeError("a bitter bottle")
    return [text.count("e") + len(prompt) / 100 for prompt, text in zip(prompts, completions, strict=True)]


@pytest.fixture(scope="module")
def address():
    models = Models(prior=alice(), reward=FunctionReward("letters", letters, alice()))
    with running_in_thread(models) as address:
        yield address


@contextlib.contextmanager
def shim(address, **options):
    batcher = RewardBatcher(address, 20, parse_special_tokens=True)
    with RewardServer(batcher, **options) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            batcher.close()


@pytest.fixture(scope="module")
def url(address):
    with shim(address) as server:
        yield server.url


def post(url, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["error"]


def request(*pairs):
    return {"query": [a + b for a, b in pairs], "prompts": [a for a, _ in pairs], "labels": [None] * len(pairs)}


def test_rewards_over_http(url):
    status, answer = post(url, request(("Alice was", " never there<eos>"), ("The Queen", ""), ("The Queen", "<eos>")))
    assert status == 200
    # Special tokens that are spelled out are no text: <eos> has an e.
    assert answer["rewards"] == [pytest.approx(value) for value in (4.09, 0.09, 0.09)]
    assert answer["scores"] == answer["rewards"]
    assert answer["extra_logs"] == {}


def test_an_empty_batch_is_answered(url):
    assert post(url, request()) == (200, {"rewards": [], "scores": [], "extra_logs": {}})


def test_requests_of_one_completion_share_those_to_the_server(url):
    CALLS.clear()
    pairs = [("Alice was", " e" * i + " tired") for i in range(24)]
    together = threading.Barrier(len(pairs))

    def call(pair):
        together.wait()
        return post(url, request(pair))[1]["rewards"]

    with ThreadPoolExecutor(len(pairs)) as pool:
        answers = list(pool.map(call, pairs))
    assert answers == [[pytest.approx(i + 1.09)] for i in range(24)]
    assert sum(CALLS) == 24
    assert len(CALLS) <= 12


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"{", "the request is no JSON"),
        (b"\xff", "the request is no JSON"),
        (b"[]", "the request is list"),
        ({}, "query is missing"),
        ({"query": ["a"], "prompts": "a"}, "prompts is missing, or no list"),
        ({"query": [1], "prompts": ["a"]}, "query is missing, or no list of texts"),
        ({"query": ["ab", "ac"], "prompts": ["a"]}, "2 queries and 1 prompts"),
        ({"query": ["ab", "bc"], "prompts": ["a", "a"]}, "query 1 does not begin with its prompt"),
        ({"query": ["a" + " tired" * 200], "prompts": ["a"]}, "at most 128"),
    ],
)
def test_what_is_wrong_is_400_and_says_what(body, error, url):
    status, text = post(url, body)
    assert status == 400
    assert error in text


def test_a_reward_that_fails_is_503(url):
    status, text = post(url, request(("poison", " e")))
    assert (status, "rewards" in text) == (503, True)


def test_without_a_server_it_is_503_and_not_zero():
    with shim("127.0.0.1:1") as server:
        status, text = post(server.url, request(("a", "b")))
    assert status == 503
    assert "no server answers at 127.0.0.1:1" in text


def test_the_size_of_a_request_is_limited(address):
    with shim(address, max_body_bytes=100) as server:
        assert post(server.url, b" " * 101) == (413, "the request has 101 bytes, at most 100 are taken")
        assert post(server.url, request(("a", "b")))[0] == 200


def test_requests_that_are_no_requests(url):
    host = url.split("/")[2]
    assert post(url.replace("get_reward", "nothing"), {})[0] == 404
    with contextlib.closing(http.client.HTTPConnection(host, timeout=10)) as connection:
        connection.putrequest("POST", "/get_reward")
        connection.endheaders()
        assert connection.getresponse().status == 411
    with socket.create_connection(tuple(host.split(":")), timeout=10) as half:
        half.sendall(b"POST /get_reward HTTP/1.1\r\nContent-Length: 50\r\n\r\n{")
        half.shutdown(socket.SHUT_WR)
        assert half.recv(100).startswith(b"HTTP/1.1 400")
    # A connection that is kept serves several requests.
    with contextlib.closing(http.client.HTTPConnection(host, timeout=10)) as connection:
        for _ in range(2):
            connection.request("POST", "/get_reward", json.dumps(request(("a", "e"))))
            assert json.load(connection.getresponse())["rewards"] == [pytest.approx(1.01)]


def test_the_reward_file(address, monkeypatch):
    monkeypatch.setenv("ESSCHER_ADDRESS", address)
    answer = reward_func(["Alice sees<eos>"], ["Alice"], ["label"])
    assert answer == {"rewards": [pytest.approx(2.05)], "scores": [pytest.approx(2.05)], "extra_logs": {}}
    assert reward_func([], [], []) == {"rewards": [], "scores": [], "extra_logs": {}}
    with pytest.raises(ValueError, match="does not begin"):
        reward_func(["Alice"], ["Queen"], [None])
    monkeypatch.delenv("ESSCHER_ADDRESS")
    with pytest.raises(ValueError, match="ESSCHER_ADDRESS"):
        reward_func(["Alice"], ["A"], [None])


def test_the_context_closes_what_is_behind_it(address):
    before = threading.active_count()
    with serving(address, "127.0.0.1", 0, 10.0) as server:
        assert threading.active_count() == before + 1
        assert server.url.endswith("/get_reward")
    assert threading.active_count() == before


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_the_program_serves_until_it_is_stopped(signal_, address):
    command = [sys.executable, "-m", "esscher.integrations.openrlhf", "--server", address, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().split()[-1]
            assert post(url, request(("Alice", " sees")))[1]["rewards"] == [pytest.approx(2.05)]
            process.send_signal(signal_)
            assert process.wait(timeout=20) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_the_program_says_what_is_wrong():
    command = [sys.executable, "-m", "esscher.integrations.openrlhf", "--server", "nowhere", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "it must be 'host:port'" in done.stderr
