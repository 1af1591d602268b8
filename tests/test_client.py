"""The clients: the same results as in process, and errors that say what to do."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace

import grpc
import numpy as np
import pytest

from esscher import Ragged, Samples, Tilt
from esscher.client import AsyncClient, Client
from esscher.evaluate import evaluate
from esscher.server.models import Models
from esscher.server.serving import running, running_in_thread
from esscher.server.settings import ServerSettings
from esscher.wire.errors import ServerBusyError
from esscher.wire.status import Status, exception_of
from service_models import Gated, assert_equal, bad_samples, draw, expected_logprobs, models, oracle, tabular

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def address():
    with running_in_thread(Models(tabular())) as address:
        yield address


@pytest.fixture
def nobody():
    """An address that no server listens on, and none will while the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def test_info_says_what_the_server_holds(address):
    with Client(address) as client:
        info = client.info()
    assert (info.prior_name, info.policy_name, info.policy_revision, info.reward_name) == ("tabular", None, 0, None)
    assert info.columns == ("prior_logprobs",)
    assert (info.vocabulary_size, info.end_token_ids, info.max_tokens) == (5, (0,), 7)
    assert (info.max_message_bytes, info.max_batch_tokens) == (64 * 2**20, 2**14)


async def test_the_async_client_gets_what_the_client_gets():
    async with running(Models(tabular())) as address, AsyncClient(address) as client:
        info = await client.info()
        scored = await client.score(draw(0))
        report = await client.evaluate(draw(0), Tilt(0.5), proposal="prior")
        with pytest.raises(ValueError, match=r"completions\[0\]\[1\] is 5"):
            await client.score(bad_samples())
    assert info.prior_name == "tabular"
    np.testing.assert_array_equal(scored.prior_logprobs.values, expected_logprobs(draw(0)), strict=True)
    assert_equal(report, evaluate(draw(0), Tilt(0.5), proposal="prior"))


def test_scores_replace_the_prior_log_probs_alone_and_can_be_written_to(address):
    samples = draw(0)
    with Client(address) as client:
        scored = client.score(samples)
    assert scored.prior_logprobs.values.flags.writeable
    same = dataclasses.replace(scored, prior_logprobs=samples.prior_logprobs)
    assert_equal(same, samples)


@pytest.mark.parametrize("max_batch_tokens", [8, 2**14], ids=["in parts", "whole"])
async def test_every_column_is_that_of_the_servers_models(max_batch_tokens):
    samples, expected = draw(1), oracle(draw(1), models())
    async with running(models(), ServerSettings(port=0, max_batch_tokens=max_batch_tokens)) as address:
        with Client(address) as client:
            answer = await asyncio.to_thread(client.ask, samples, list(expected))
        async with AsyncClient(address) as client:
            assert_equal((await client.ask(samples, list(expected))).samples, answer.samples)
    assert (answer.unavailable, answer.policy_revisions) == ({}, (1, 1))
    for name, values in expected.items():
        column = getattr(answer.samples, name)
        got = column if name == "rewards" else column.values
        np.testing.assert_array_equal(got, values.astype(got.dtype))


def test_a_column_that_the_server_has_no_model_for_is_refused(address):
    with Client(address) as client, pytest.raises(ValueError, match="token_kl"):
        client.score(draw(0), ["token_kl"])


def test_samples_that_the_server_refuses_are_a_value_error(address):
    with Client(address) as client, pytest.raises(ValueError, match=r"completions\[0\]\[1\] is 5"):
        client.score(bad_samples())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 0.5}, "target is float"),
        ({"proposal": "posterior"}, "proposal is 'posterior'"),
    ],
)
def test_what_no_server_would_accept_is_not_sent(nobody, arguments, message):
    with Client(nobody) as client, pytest.raises((TypeError, ValueError), match=message):
        client.evaluate(draw(0), **arguments)


def test_samples_too_large_for_the_server_are_scored_in_parts_and_not_evaluated():
    model, samples = Gated(is_open=True), draw(0, n=200)
    settings = ServerSettings(port=0, max_message_bytes=1000)
    with running_in_thread(Models(model), settings) as address, Client(address) as client:
        with pytest.raises(ValueError, match=r"request takes \d+ bytes, and the server accepts 1000: .* fewer"):
            client.evaluate(samples)
        assert model.calls == []
        np.testing.assert_array_equal(client.score(samples).prior_logprobs.values, expected_logprobs(samples))
        assert len(model.calls) > 1


def test_responses_may_be_larger_than_grpcs_own_limit(address):
    rng = np.random.default_rng(0)
    n = 140_000
    samples = Samples(
        prompts=Ragged.from_rows([[1]]),
        completions=Ragged.from_lengths(rng.integers(1, 5, n), np.ones(n, np.int64)),
        groups=[0, n],
        policy_logprobs=Ragged.from_lengths(-rng.exponential(size=n).astype(np.float32), np.ones(n, np.int64)),
        prior_logprobs=Ragged.from_lengths(-rng.exponential(size=n).astype(np.float32), np.ones(n, np.int64)),
    )
    with Client(address) as client:
        report = client.evaluate(samples)
    assert 8 * sum(len(kl.per_sequence) for kl in report.kl.values()) > 4 * 2**20
    assert_equal(report, evaluate(samples))


def test_a_server_that_is_not_there_is_said_at_once(nobody):
    started = time.monotonic()
    with Client(nobody, timeout=60) as client:
        for call in (client.info, lambda: client.score(draw(0)), lambda: client.evaluate(draw(0))):
            with pytest.raises(ConnectionError, match=f"no server answers at {nobody} .*`esscher serve --prior ...`"):
                call()
    assert time.monotonic() - started < 5


async def test_a_server_that_is_not_there_is_said_at_once_to_the_async_client(nobody):
    async with AsyncClient(nobody, timeout=60) as client:
        with pytest.raises(ConnectionError, match=f"no server answers at {nobody}"):
            await asyncio.wait_for(client.score(draw(0)), timeout=5)


def test_a_server_that_comes_up_later_is_found():
    with running_in_thread(Models(tabular())) as address:
        pass
    with Client(address) as client:
        with pytest.raises(ConnectionError):
            client.info()
        with running_in_thread(Models(tabular()), ServerSettings(port=port_of(address))):
            time.sleep(1.5)
            assert client.info().prior_name == "tabular"


def test_a_slow_model_is_a_time_out_and_the_server_lives_on():
    model = Gated()
    with running_in_thread(Models(model)) as address:
        with (
            Client(address, timeout=0.5) as client,
            pytest.raises(TimeoutError, match=r"no answer within 0\.5 s: .*timeout="),
        ):
            client.score(draw(0))
        model.gate.set()
        with Client(address) as client:
            np.testing.assert_array_equal(client.score(draw(1)).prior_logprobs.values, expected_logprobs(draw(1)))


def test_a_failing_model_is_tried_once_more_and_then_a_runtime_error_with_the_servers_id():
    model = Gated(is_open=True, error=OSError("secret"))
    with running_in_thread(Models(model)) as address, Client(address) as client:
        with pytest.raises(RuntimeError, match=r"failed with INTERNAL: internal error [0-9a-f]{8}: .* log") as raised:
            client.score(draw(0))
        assert "secret" not in str(raised.value)
    assert len(model.calls) == 2


def port_of(address):
    return int(address.rpartition(":")[2])


def test_a_server_that_restarts_in_the_middle_changes_no_number():
    model, samples = Gated(), draw(0, prompts=40, n=20)
    settings = ServerSettings(port=0, max_batch_tokens=64)
    with ThreadPoolExecutor(1) as pool, ExitStack() as server:
        address = server.enter_context(running_in_thread(Models(model), replace(settings, grace=0)))
        with Client(address) as client:
            client.info()
            scoring = pool.submit(client.score, samples)
            model.wait_until_called()
            model.gate.set()
            server.close()
            with running_in_thread(Models(tabular()), replace(settings, port=port_of(address))):
                scored = scoring.result(timeout=30)
    np.testing.assert_array_equal(scored.prior_logprobs.values, expected_logprobs(samples), strict=True)


async def test_a_server_that_restarts_in_the_middle_changes_no_number_of_the_async_client():
    model, samples = Gated(), draw(0, prompts=40, n=20)
    settings = ServerSettings(port=0, max_batch_tokens=64)
    async with AsyncExitStack() as server:
        address = await server.enter_async_context(running(Models(model), replace(settings, grace=0)))
        async with AsyncClient(address) as client:
            scoring = asyncio.create_task(client.score(samples))
            await asyncio.to_thread(model.wait_until_called)
            model.gate.set()
            await server.aclose()
            async with running(Models(tabular()), replace(settings, port=port_of(address))):
                scored = await asyncio.wait_for(scoring, timeout=30)
    np.testing.assert_array_equal(scored.prior_logprobs.values, expected_logprobs(samples), strict=True)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, ValueError),
        (grpc.StatusCode.UNAVAILABLE, ConnectionError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, TimeoutError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ServerBusyError),
        (grpc.StatusCode.INTERNAL, RuntimeError),
        (grpc.StatusCode.UNIMPLEMENTED, RuntimeError),
    ],
)
def test_every_status_is_an_exception_that_keeps_its_text(code, kind):
    error = exception_of(Status(code, "the text"), "host:1", 60.0)
    assert type(error) is kind
    assert "the text" in str(error) or kind is TimeoutError


@pytest.mark.parametrize("address", ["", "localhost", ":50051", "localhost:", "localhost:http"])
def test_an_address_without_host_or_port_is_refused(address):
    with pytest.raises(ValueError, match="must be 'host:port'"):
        Client(address)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_is_no_time_is_refused(timeout):
    with pytest.raises(ValueError, match="timeout is"):
        Client("localhost:1", timeout=timeout)


def test_an_async_client_needs_an_event_loop():
    with pytest.raises(RuntimeError, match="no running event loop"):
        AsyncClient("localhost:1")


CLIENT = """
import sys
for name in ("torch", "transformers", "grpc_health", "pyarrow", "altair", "typer"):
    sys.modules[name] = None  # importing it raises
from esscher import Ragged, Samples
from esscher.client import Client
samples = Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[1, 2, 0]]), [0, 1])
with Client(sys.argv[1]) as client:
    print(client.score(samples))
    print(client.evaluate(samples, proposal="prior").counts.tokens)
"""


def test_a_client_needs_no_torch_and_no_server_packages(address):
    run = [sys.executable, "-W", "error", "-c", CLIENT, address]
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Samples(1 prompt, 1 completion, 3 tokens; prior_logprobs)\n3\n"
