"""The server: what callers get, whatever they send and whatever fails."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from esscher import Condition, Tilt, _core
from esscher.evaluate import evaluate
from esscher.service.batcher import Batcher
from esscher.service.client import AsyncClient, Client
from esscher.service.codec import encode_samples, encode_tokens
from esscher.service.server import SERVICE, check_host, running, running_in_thread
from esscher.service.servicer import Limits
from esscher.v1 import scoring_service_pb2 as pb
from esscher.v1 import target_pb2
from esscher.v1.scoring_service_pb2_grpc import ScoringServiceStub
from service_models import HOSTILE, Gated, assert_equal, bad_samples, draw, expected_logprobs, hostile, tabular

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def address():
    with running_in_thread(tabular()) as address:
        yield address


@pytest.fixture(scope="module")
def stub(address):
    with grpc.insecure_channel(address) as channel:
        yield ScoringServiceStub(channel)


@pytest.fixture(scope="module")
def client(address):
    with Client(address) as client:
        yield client


@pytest.fixture
def queue_up(monkeypatch):
    """Start calls, and return their tasks once all wait for the model."""
    waiting = []
    admit = Batcher._admit
    monkeypatch.setattr(Batcher, "_admit", lambda batcher, call: (admit(batcher, call), waiting.append(call)))

    async def start(*calls):
        expected = len(waiting) + len(calls)
        tasks = [asyncio.create_task(call) for call in calls]
        while len(waiting) < expected:
            await asyncio.sleep(0.01)
        return tasks

    return start


def refusal(method, request):
    """The status that a call ends with."""
    with pytest.raises(grpc.RpcError) as raised:
        method(request, timeout=10)
    return raised.value.code(), raised.value.details()


def score_request(samples):
    return pb.ScoreSamplesRequest(samples=encode_tokens(samples))


def test_scores_over_grpc_are_the_models(client):
    for seed in range(5):
        samples = draw(seed)
        scored = client.score(samples)
        np.testing.assert_array_equal(scored.prior_logprobs.values, expected_logprobs(samples), strict=True)
        np.testing.assert_array_equal(scored.prior_logprobs.offsets, samples.completions.offsets)
        assert scored.columns == samples.columns


@pytest.mark.parametrize("proposal", ["policy", "prior"])
@pytest.mark.parametrize("target", [None, Tilt(0.5), Condition(0.1)], ids=str)
def test_evaluation_over_grpc_is_that_in_process_bit_for_bit(client, target, proposal):
    samples = draw(11, prompts=12, n=30)
    assert_equal(client.evaluate(samples, target, proposal=proposal), evaluate(samples, target, proposal=proposal))


def test_a_response_says_who_answered_and_how_long_it_took(stub):
    response = stub.ScoreSamples(score_request(draw(0)))
    assert response.model_name == "tabular"
    assert 0 <= response.queue_seconds < 10
    assert 0 < response.model_seconds < 10


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_messages_are_the_callers_fault(stub, kind):
    for method, request in (
        (stub.ScoreSamples, pb.ScoreSamplesRequest(samples=hostile(kind))),
        (stub.EvaluateSamples, pb.EvaluateSamplesRequest(samples=hostile(kind), proposal=target_pb2.PROPOSAL_POLICY)),
    ):
        started = time.monotonic()
        code, text = refusal(method, request)
        assert time.monotonic() - started < 1
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(ValueError, match=HOSTILE[kind][1]):
            raise ValueError(text)


def test_bytes_that_are_no_message_are_the_callers_fault(address):
    whole = score_request(draw(0)).SerializeToString()
    with grpc.insecure_channel(address) as channel:
        score = channel.unary_unary(f"/{SERVICE}/ScoreSamples", _registered_method=True)
        for raw in (whole[:-1], whole[: len(whole) // 2], b"\xff" * 50):
            code, text = refusal(score, raw)
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert "ScoreSamplesRequest" in text


def test_samples_that_break_a_rule_of_the_model_are_the_callers_fault(stub):
    code, text = refusal(stub.ScoreSamples, score_request(bad_samples()))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith("completions[0][1] is 5")


def test_an_evaluation_says_where_the_samples_came_from(stub):
    code, text = refusal(stub.EvaluateSamples, pb.EvaluateSamplesRequest(samples=encode_samples(draw(0))))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith("proposal is 0")


def test_health_tells_liveness_and_readiness(address):
    with grpc.insecure_channel(address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        for service in ("", SERVICE):
            request = health_pb2.HealthCheckRequest(service=service)
            assert check(request, timeout=5).status == health_pb2.HealthCheckResponse.SERVING
        code, _ = refusal(check, health_pb2.HealthCheckRequest(service="nothing"))
        assert code is grpc.StatusCode.NOT_FOUND


async def test_health_is_answered_while_the_model_works():
    model = Gated()
    async with running(model) as address, AsyncClient(address) as client, grpc.aio.insecure_channel(address) as channel:
        scoring = asyncio.create_task(client.score(draw(0)))
        await asyncio.to_thread(model.wait_until_called)
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        model.gate.set()
        await scoring


async def test_concurrent_callers_are_merged_and_get_the_numbers_they_get_alone(queue_up):
    model, parts = Gated(), [draw(seed) for seed in range(6)]
    async with running(model) as address, AsyncClient(address) as client:
        first = await queue_up(client.score(draw(100)))
        await asyncio.to_thread(model.wait_until_called)
        tasks = await queue_up(*(client.score(part) for part in parts))
        model.gate.set()
        scored = await asyncio.gather(*first, *tasks)
    assert len(model.calls) == 2
    for samples, part in zip(scored, [draw(100), *parts], strict=True):
        np.testing.assert_array_equal(samples.prior_logprobs.values, expected_logprobs(part), strict=True)


async def test_calls_whose_caller_left_are_not_computed(queue_up):
    model = Gated()
    async with (
        running(model) as address,
        AsyncClient(address) as client,
        AsyncClient(address, timeout=0.5) as hasty,
    ):
        (first,) = await queue_up(client.score(draw(100)))
        await asyncio.to_thread(model.wait_until_called)
        leaving, late = await queue_up(client.score(draw(1)), hasty.score(draw(2)))
        leaving.cancel()
        with pytest.raises(TimeoutError):
            await late
        model.gate.set()
        await first
        await client.score(draw(3))
    assert [len(call.values) for call in model.calls] == [len(draw(seed).completions.values) for seed in (100, 3)]


async def test_too_much_waiting_is_refused_at_once_with_advice(queue_up):
    model = Gated()
    async with (
        running(model, limits=Limits(max_waiting_tokens=1)) as address,
        AsyncClient(address) as client,
        grpc.aio.insecure_channel(address) as channel,
    ):
        (first,) = await queue_up(client.score(draw(0)))
        await asyncio.to_thread(model.wait_until_called)
        (second,) = await queue_up(client.score(draw(1)))
        with pytest.raises(grpc.aio.AioRpcError, match="retry in some seconds") as raised:
            await ScoringServiceStub(channel).ScoreSamples(score_request(draw(2)), timeout=5)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        model.gate.set()
        await asyncio.gather(first, second)


@pytest.mark.parametrize("error", [RuntimeError("secret"), SystemExit("secret"), MemoryError("secret")])
def test_a_failing_model_tells_the_caller_an_id_and_the_log_the_rest(error, caplog):
    model = Gated(is_open=True, error=error)
    with running_in_thread(model) as address, grpc.insecure_channel(address) as channel:
        stub = ScoringServiceStub(channel)
        code, text = refusal(stub.ScoreSamples, score_request(draw(0)))
        assert code is grpc.StatusCode.INTERNAL
        assert "secret" not in text
        incident = text.split()[2].rstrip(":")
        (record,) = (record for record in caplog.records if incident in record.getMessage())
        assert "secret" in str(record.exc_info[1])
        model.error = None
        assert len(stub.ScoreSamples(score_request(draw(0)), timeout=10).prior_logprobs) > 0


class Panic(BaseException):
    """What is no `Exception`, as a panic that crosses from Rust."""


def throw(*_, **__):
    raise Panic("secret")


@pytest.mark.parametrize("failure", [lambda *_, **__: _core.panic(), throw], ids=["in Rust", "across the binding"])
def test_a_panic_ends_the_call_at_once_and_nothing_else(stub, monkeypatch, failure):
    request = pb.EvaluateSamplesRequest(samples=encode_samples(draw(0)), proposal=target_pb2.PROPOSAL_POLICY)
    with monkeypatch.context() as patch:
        patch.setattr("esscher.service.servicer.evaluate", failure)
        started = time.monotonic()
        code, text = refusal(stub.EvaluateSamples, request)
        assert time.monotonic() - started < 1
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in text
    assert "panic" not in text
    assert stub.EvaluateSamples(request, timeout=10).report.counts.completions == len(draw(0))


def test_a_call_leaves_one_line_in_the_log_and_nothing_of_its_content(client, caplog):
    caplog.set_level("INFO", logger="esscher")
    client.info()
    client.score(draw(0))
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(" seconds=")[0] for line in lines] == [
        f"method=/{SERVICE}/GetServerInfo status=OK",
        f"method=/{SERVICE}/ScoreSamples status=OK",
    ]


def test_a_message_above_the_limit_is_refused_before_it_is_read():
    with (
        running_in_thread(tabular(), limits=Limits(max_message_bytes=1000)) as address,
        grpc.insecure_channel(address) as channel,
    ):
        code, text = refusal(ScoringServiceStub(channel).ScoreSamples, score_request(draw(0, n=200)))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "1000" in text


async def test_a_port_in_use_is_an_error_that_says_so():
    async with running(tabular()) as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: the port is in use.* another port"):
            await running(tabular(), port=port).__aenter__()


def test_a_port_in_use_ends_a_server_in_a_thread_too(address):
    port = int(address.rpartition(":")[2])
    with pytest.raises(OSError, match="port is in use"), running_in_thread(tabular(), port):
        pass


async def test_a_port_out_of_range_is_refused():
    with pytest.raises(ValueError, match="port is 65536"):
        await running(tabular(), port=65536).__aenter__()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_addresses_that_other_machines_reach_need_a_word(host):
    with pytest.raises(ValueError, match=r"other machines may reach.*--insecure"):
        check_host(host, insecure=False)
    check_host(host, insecure=True)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_loopback_addresses_need_none(host):
    check_host(host, insecure=False)


async def test_all_addresses_can_be_served_on_request():
    async with running(tabular(), "0.0.0.0", insecure=True) as address:
        port = address.rpartition(":")[2]
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            assert (await client.info()).model_name == "tabular"


SERVER = """
import asyncio, time
from esscher.service.server import serve
from service_models import tabular

class Slow(type(tabular())):
    def logprobs(self, *arguments):
        print("computing", flush=True)
        time.sleep(1)
        return super().logprobs(*arguments)

model = tabular()
model.__class__ = Slow
asyncio.run(serve(model, port=0, on_ready=lambda address: print(address, flush=True)))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_calls_in_flight_finish(number, request):
    run, tests = [sys.executable, "-c", SERVER], request.path.parent
    with (
        subprocess.Popen(run, stdout=subprocess.PIPE, text=True, cwd=tests) as server,
        Client(server.stdout.readline().strip(), timeout=20) as client,
    ):

        def stop_once_computing():
            assert server.stdout.readline() == "computing\n"
            server.send_signal(number)

        scored = _while_scoring(client, stop_once_computing)
        np.testing.assert_array_equal(scored.prior_logprobs.values, expected_logprobs(draw(0)))
        assert server.wait(timeout=20) == 0
        with pytest.raises(ConnectionError):
            client.info()


def _while_scoring(client, act):
    async def both():
        scored, _ = await asyncio.gather(asyncio.to_thread(client.score, draw(0)), asyncio.to_thread(act))
        return scored

    return asyncio.run(both())


def test_the_port_is_free_again_after_the_server_has_gone():
    with running_in_thread(tabular()) as address:
        port = int(address.rpartition(":")[2])
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def test_an_error_in_the_callers_code_stops_the_server_too():
    with pytest.raises(ZeroDivisionError), running_in_thread(tabular()) as address:
        _ = 1 / 0
    with Client(address) as client, pytest.raises(ConnectionError):
        client.info()
