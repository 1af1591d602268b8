"""The server: what callers get, whatever they send and whatever fails."""

from __future__ import annotations

import asyncio
import gc
import itertools
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import weakref
from contextlib import AsyncExitStack
from dataclasses import replace

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from esscher import Condition, Ragged, Tilt, _core, concatenate, kl_estimators
from esscher.client import AsyncClient, Client
from esscher.evaluate import evaluate
from esscher.lm.base import NoTokenizerError
from esscher.lm.tabular import TabularLM
from esscher.server.models import Models
from esscher.server.queue import Queue
from esscher.server.serving import check_host, running, running_in_thread
from esscher.server.settings import ServerSettings
from esscher.v1 import scoring_service_pb2 as pb
from esscher.v1 import target_pb2
from esscher.v1.scoring_service_pb2_grpc import ScoringServiceStub
from esscher.wire.codec import TOKEN_COLUMNS, encode_samples, encode_tokens
from esscher.wire.transport import SERVICE
from models import alice
from service_models import (
    HOSTILE,
    Gated,
    assert_equal,
    bad_samples,
    cost,
    draw,
    expected_logprobs,
    hostile,
    models,
    oracle,
    tabular,
)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def address():
    with running_in_thread(models()) as address:
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
    added = asyncio.Queue()
    add = Queue.add
    monkeypatch.setattr(Queue, "add", lambda queue, call: (add(queue, call), added.put_nowait(call)))

    async def start(*calls):
        tasks = [asyncio.create_task(call) for call in calls]
        for _ in tasks:
            await added.get()
        return tasks

    return start


def refusal(method, request):
    """The status that a call ends with."""
    with pytest.raises(grpc.RpcError) as raised:
        method(request, timeout=10)
    return raised.value.code(), raised.value.details()


def score_request(samples, columns=("prior_logprobs",)):
    message = encode_tokens(samples)
    if samples.terminated is not None:
        message.terminated.extend(samples.terminated.tolist())
    return pb.ScoreSamplesRequest(samples=message, columns=[f"COLUMN_{name.upper()}" for name in columns])


def columns_of(response):
    """The columns in a response, as arrays of the wire."""
    columns = {name: np.frombuffer(getattr(response, name), "<f4") for name in TOKEN_COLUMNS}
    columns["rewards"] = np.array(response.rewards)
    return {name: column for name, column in columns.items() if len(column)}


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


def with_a_mask(samples, seed=0):
    """The same completions, of which only some tokens are the policy's."""
    mask = np.random.default_rng(seed).random(len(samples.completions.values)) < 0.6
    mask[samples.completions.offsets[:-1]] = True
    return replace(samples, action_mask=Ragged(mask, samples.completions.offsets))


def test_of_trajectories_actions_alone_are_scored_whatever_the_parts(client):
    samples = concatenate([with_a_mask(draw(5)), draw(6), with_a_mask(draw(7), 1)])
    scored = client.score(samples)
    expected = tabular().logprobs(samples.prompts, samples.actions, samples.groups)
    np.testing.assert_array_equal(scored.prior_logprobs.values, expected.values.astype(np.float32))
    assert scored.prior_logprobs.offsets.tolist() == samples.actions.rows.offsets.tolist()
    assert_equal(client.evaluate(samples), evaluate(samples))


def test_a_response_says_who_answered_and_how_long_it_took(stub):
    response = stub.ScoreSamples(score_request(draw(0)))
    assert (response.prior_name, response.policy_name, response.policy_revision) == ("tabular", "", 0)
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
    async with (
        running(Models(model)) as address,
        AsyncClient(address) as client,
        grpc.aio.insecure_channel(address) as channel,
    ):
        scoring = asyncio.create_task(client.score(draw(0)))
        await asyncio.to_thread(model.wait_until_called)
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        model.gate.set()
        await scoring


async def test_concurrent_callers_are_merged_and_get_the_numbers_they_get_alone(queue_up):
    model, parts = Gated(), [draw(seed) for seed in range(6)]
    async with running(Models(model)) as address, AsyncClient(address) as client:
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
        running(Models(model)) as address,
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
        running(Models(model), ServerSettings(port=0, max_waiting_tokens=1)) as address,
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


async def test_requests_under_way_have_bounded_memory():
    model, request = Gated(), score_request(draw(0, prompts=100))
    size = request.ByteSize()
    settings = ServerSettings(port=0, max_message_bytes=size)
    async with running(Models(model), settings) as address, grpc.aio.insecure_channel(address) as channel:
        stub = ScoringServiceStub(channel)
        held = [stub.ScoreSamples(request, timeout=30) for _ in range(9)]
        await asyncio.wait([asyncio.ensure_future(call.code()) for call in held], return_when="FIRST_COMPLETED")
        refused = [call for call in held if call.done()]
        assert [await call.code() for call in refused] == [grpc.StatusCode.RESOURCE_EXHAUSTED]
        assert await refused[0].details() == (
            f"requests of {8 * size} bytes are under way, {size} more would exceed the limit of {8 * size}: "
            "retry in some seconds, or send less at a time"
        )
        check = health_pb2.HealthCheckRequest(service=SERVICE)
        well = await health_pb2_grpc.HealthStub(channel).Check(check, timeout=10)
        assert well.status == health_pb2.HealthCheckResponse.SERVING
        model.gate.set()
        answers = await asyncio.gather(*(call for call in held if call not in refused))
        assert len(answers) == 8
        # What was refused, and what is answered, takes no room any more.
        assert (await stub.ScoreSamples(request, timeout=30)).prior_logprobs == answers[0].prior_logprobs


@pytest.mark.parametrize("error", [RuntimeError("secret"), SystemExit("secret"), TimeoutError("secret")])
def test_a_failing_model_tells_the_caller_an_id_and_the_log_the_rest(error, caplog):
    model = Gated(is_open=True, error=error)
    with running_in_thread(Models(model)) as address, grpc.insecure_channel(address) as channel:
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
        patch.setattr("esscher.server.servicer.evaluate", failure)
        started = time.monotonic()
        code, text = refusal(stub.EvaluateSamples, request)
        assert time.monotonic() - started < 1
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in text
    assert "panic" not in text
    assert stub.EvaluateSamples(request, timeout=10).report.counts.completions == len(draw(0))


def test_a_call_leaves_one_line_in_the_log_and_nothing_of_its_content(caplog):
    caplog.set_level("INFO", logger="esscher.server.guard")
    # A line may come after the answer: this server ends when all of its own are written, another may still write some.
    others = {thread.ident for thread in threading.enumerate()}
    with running_in_thread(models()) as address, Client(address) as client:
        client.info()
        client.score(draw(0))
    lines = [record.getMessage() for record in caplog.records if record.thread not in others]
    assert [line.split(" seconds=")[0] for line in lines] == [
        f"method=/{SERVICE}/GetServerInfo status=OK",
        f"method=/{SERVICE}/ScoreSamples status=OK",
    ]


def test_a_message_above_the_limit_is_refused_before_it_is_read():
    with (
        running_in_thread(Models(tabular()), ServerSettings(port=0, max_message_bytes=1000)) as address,
        grpc.insecure_channel(address) as channel,
    ):
        code, text = refusal(ScoringServiceStub(channel).ScoreSamples, score_request(draw(0, n=200)))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "1000" in text


SUBSETS = [names for n in range(1, 6) for names in itertools.combinations(models().columns, n)]


@pytest.mark.parametrize("columns", SUBSETS, ids=", ".join)
def test_columns_over_grpc_are_the_models(stub, columns):
    samples, held = draw(4), models()
    response = stub.ScoreSamples(score_request(samples, columns), timeout=10)
    answered, expected = columns_of(response), oracle(samples, held)
    assert set(answered) == set(columns)
    for name in columns:
        dtype = np.float64 if name == "rewards" else np.float32
        np.testing.assert_allclose(answered[name], expected[name].astype(dtype), rtol=1e-6, atol=1e-9)
    asked_policy = not {"policy_logprobs", "token_kl", "policy_entropy"}.isdisjoint(columns)
    assert (response.policy_name, response.policy_revision) == (("tabular", 1) if asked_policy else ("", 0))
    assert response.prior_name == "tabular"
    assert len(response.unavailable) == 0


def test_the_info_says_what_the_server_holds(stub):
    info = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=10)
    assert (info.prior_name, info.policy_name, info.policy_revision, info.reward_name) == (
        *("tabular", "tabular"),
        *(1, "lengths"),
    )
    assert set(info.columns) == set(pb.Column.values()) - {pb.COLUMN_UNSPECIFIED}
    assert not info.HasField("start_token_id")
    with running_in_thread(Models(tabular())) as address, grpc.insecure_channel(address) as channel:
        info = ScoringServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest(), timeout=10)
    assert (info.policy_name, info.policy_revision, info.reward_name) == ("", 0, "")
    assert list(info.columns) == [pb.COLUMN_PRIOR_LOGPROBS]


def test_the_info_says_with_what_an_empty_prompt_begins():
    model = tabular()
    model.start_token_id = 0
    with running_in_thread(Models(model)) as address, grpc.insecure_channel(address) as channel:
        info = ScoringServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest(), timeout=10)
    assert info.HasField("start_token_id")
    assert info.start_token_id == 0


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([], "columns is empty"),
        ([0], "columns has 0, which is no column"),
        ([1, 0], "columns has 0, which is no column"),
        ([6], "columns has 6"),
        ([1, -1], "columns has -1"),
        ([2**31 - 1] * 1_000_000, f"columns has {2**31 - 1}"),
        (list(range(100_000)), "columns has 0"),
    ],
    ids=["none", "unspecified", "one unspecified", "unknown", "negative", "a million", "all numbers"],
)
def test_columns_that_are_none_are_the_callers_fault(stub, columns, words):
    request = score_request(draw(0), ())
    request.columns.extend(columns)
    started = time.monotonic()
    code, text = refusal(stub.ScoreSamples, request)
    assert time.monotonic() - started < 2
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert words in text


def test_columns_that_the_server_has_no_model_for_are_refused_by_name():
    with running_in_thread(Models(tabular())) as address, grpc.insecure_channel(address) as channel:
        code, text = refusal(ScoringServiceStub(channel).ScoreSamples, score_request(draw(0), ["rewards"]))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text == "rewards is asked for, but the server has no reward, only prior_logprobs: start it with --reward"


def test_a_million_repeated_columns_are_one(stub):
    request = score_request(draw(0), ())
    request.columns.extend([pb.COLUMN_PRIOR_LOGPROBS] * 1_000_000)
    assert set(columns_of(stub.ScoreSamples(request, timeout=10))) == {"prior_logprobs"}


def test_a_failing_reward_is_told_by_an_id_and_costs_no_other_column():
    def fail(_):
        raise RuntimeError("secret")

    fail.name = "failing"
    held = Models(tabular(), reward=fail)
    with running_in_thread(held) as address, grpc.insecure_channel(address) as channel:
        response = ScoringServiceStub(channel).ScoreSamples(
            score_request(draw(0), ["prior_logprobs", "rewards"]), timeout=10
        )
    (missing,) = response.unavailable
    assert missing.name == "rewards"
    assert missing.reason.startswith("the reward failing raised RuntimeError; the server's log explains it under ")
    assert "secret" not in missing.reason
    np.testing.assert_array_equal(columns_of(response)["prior_logprobs"], expected_logprobs(draw(0)))


def test_samples_that_memory_does_not_hold_are_the_callers_fault():
    model = Gated(is_open=True, error=MemoryError("completions[0] is too long, cut it"))
    with running_in_thread(Models(model)) as address, grpc.insecure_channel(address) as channel:
        code, text = refusal(ScoringServiceStub(channel).ScoreSamples, score_request(draw(0)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith("completions 0 to 3 need more memory than the server has")
    assert text.endswith("completions[0] is too long, cut it")


async def test_every_connection_is_a_caller_of_its_own(monkeypatch):
    callers = []
    add = Queue.add
    monkeypatch.setattr(Queue, "add", lambda queue, call: (add(queue, call), callers.append(call.caller)))
    # Channels of one process share a connection otherwise.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with running(models()) as address:
        for calls in (2, 1):
            async with grpc.aio.insecure_channel(address, options=options) as channel:
                for _ in range(calls):
                    await ScoringServiceStub(channel).ScoreSamples(score_request(draw(0)), timeout=10)
    assert callers[0] == callers[1] != callers[2]


SWAPS = 20


async def test_policies_are_replaced_under_load_and_no_call_notices(caplog):
    caplog.set_level("ERROR")
    answered, alive, progress = [], [], asyncio.Event()

    async def new_policies():
        for seed in range(1, SWAPS + 1):
            while len(answered) < 10 * seed:
                progress.clear()
                await progress.wait()
            policy = tabular(100 + seed)
            alive.append(weakref.ref(policy))
            yield policy
            del policy

    async def calls(stub, seed):
        revisions = []
        while len(alive) < SWAPS or revisions[-1:] != [SWAPS + 1]:
            part = draw(seed + len(revisions) % 3, prompts=1 + seed % 5)
            request = score_request(part, ["token_kl", "policy_logprobs", "prior_logprobs"])
            response = await stub.ScoreSamples(request, timeout=30)
            revisions.append(response.policy_revision)
            answered.append((part, response))
            progress.set()
        assert revisions == sorted(revisions)

    first = tabular(100)
    settings = ServerSettings(port=0, max_batch_tokens=40)
    server = running(Models(tabular(), first), settings, new_policies=new_policies())
    first = weakref.ref(first)
    async with server as address:
        async with AsyncExitStack() as stack:
            options = [("grpc.use_local_subchannel_pool", 1)]
            channels = [
                await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options)) for _ in range(8)
            ]
            await asyncio.gather(*(calls(ScoringServiceStub(channel), i) for i, channel in enumerate(channels)))
        gc.collect()
        assert first() is None
        assert [policy() is None for policy in alive] == [True] * (SWAPS - 1) + [False]
    assert {response.policy_revision for _, response in answered} >= {1, SWAPS + 1}
    for part, response in answered:
        expected = oracle(part, Models(tabular(), tabular(99 + response.policy_revision)))
        for name, column in columns_of(response).items():
            np.testing.assert_allclose(column, expected[name].astype(np.float32), rtol=1e-6, atol=1e-9)
    assert caplog.records == []


@pytest.mark.parametrize("failure", ["an error", "another vocabulary"])
async def test_a_failure_of_new_policies_ends_them_and_not_the_server(caplog, failure):
    async def new_policies():
        yield tabular(9)
        if failure == "an error":
            raise OSError("the disk is gone")
        yield TabularLM.random(np.random.default_rng(0), 1, 9, 2)

    async with running(models(), new_policies=new_policies()) as address, AsyncClient(address) as client:
        while not any("no new policies" in record.getMessage() for record in caplog.records):
            await asyncio.sleep(0.001)
        assert (await client.info()).policy_revision == 2
        await client.score(draw(0))


async def test_new_policies_end_with_the_server():
    ended = []

    async def new_policies():
        try:
            await asyncio.Event().wait()
            yield
        finally:
            ended.append(True)

    async with running(models(), new_policies=new_policies()) as address, AsyncClient(address) as client:
        await client.info()
    assert ended == [True]


def read_metrics(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return dict(line.rsplit(" ", 1) for line in response.read().decode().splitlines() if not line.startswith("#"))


def free_port():
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        return there.getsockname()[1]


def test_metrics_say_what_happened():
    port, samples = free_port(), draw(0)
    with (
        running_in_thread(models(), ServerSettings(port=0, metrics_port=port)) as address,
        grpc.insecure_channel(address) as channel,
    ):
        stub = ScoringServiceStub(channel)
        for _ in range(3):
            stub.ScoreSamples(score_request(samples, ["token_kl", "rewards"]), timeout=10)
        refusal(stub.ScoreSamples, score_request(bad_samples()))
        metrics = read_metrics(port)
    calls = f'esscher_calls_total{{method="/{SERVICE}/ScoreSamples",status='
    assert metrics[f'{calls}"OK"}}'] == "3.0"
    assert metrics[f'{calls}"INVALID_ARGUMENT"}}'] == "1.0"
    assert metrics['esscher_refusals_total{cause="ValueError"}'] == "1.0"
    for what in ("models", "reward"):
        assert float(metrics[f'esscher_tokens_total{{what="{what}"}}']) == 3 * cost(samples)
        assert metrics[f'esscher_queue_seconds_count{{what="{what}"}}'] == "3.0"
        assert metrics[f'esscher_batch_seconds_count{{what="{what}"}}'] == "3.0"
        assert metrics[f'esscher_batch_fill_bucket{{le="0.1",what="{what}"}}'] == "3.0"
        assert metrics[f'esscher_waiting_tokens{{what="{what}"}}'] == "0.0"
    assert metrics["esscher_policy_revision"] == "1.0"
    with pytest.raises(OSError, match="refused"):
        read_metrics(port)


async def test_a_metrics_port_in_use_is_an_error_that_says_so():
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        there.listen()
        port = there.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot serve metrics on 127.0.0.1:{port}.*choose another port"):
            await running(models(), ServerSettings(port=0, metrics_port=port)).__aenter__()
    with pytest.raises(ValueError, match="metrics_port is -1"):
        await running(models(), ServerSettings(port=0, metrics_port=-1)).__aenter__()


async def test_a_port_in_use_is_an_error_that_says_so():
    async with running(Models(tabular())) as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: the port is in use.* another port"):
            await running(Models(tabular()), ServerSettings(port=port)).__aenter__()


def test_a_port_in_use_ends_a_server_in_a_thread_too(address):
    port = int(address.rpartition(":")[2])
    with (
        pytest.raises(OSError, match="port is in use"),
        running_in_thread(Models(tabular()), ServerSettings(port=port)),
    ):
        pass


async def test_a_port_out_of_range_is_refused():
    with pytest.raises(ValueError, match="port is 65536"):
        await running(Models(tabular()), ServerSettings(port=65536)).__aenter__()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_addresses_that_other_machines_reach_need_a_word(host):
    with pytest.raises(ValueError, match=r"other machines may reach.*--insecure"):
        check_host(host, insecure=False)
    check_host(host, insecure=True)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_loopback_addresses_need_none(host):
    check_host(host, insecure=False)


async def test_all_addresses_can_be_served_on_request():
    async with running(Models(tabular()), ServerSettings("0.0.0.0", 0, insecure=True)) as address:
        port = address.rpartition(":")[2]
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            assert (await client.info()).prior_name == "tabular"


SERVER = """
import asyncio, time
from esscher.server.serving import serve
from esscher.server.settings import ServerSettings
from esscher.server.models import Models
from service_models import tabular

class Slow(type(tabular())):
    def logprobs(self, *arguments):
        print("computing", flush=True)
        time.sleep(1)
        return super().logprobs(*arguments)

model = tabular()
model.__class__ = Slow
asyncio.run(serve(Models(model), ServerSettings(port=0), on_ready=lambda address: print(address, flush=True)))
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
        # A client that was answered before would try again for as long as it may.
        with Client(client.address) as late, pytest.raises(ConnectionError):
            late.info()


def _while_scoring(client, act):
    async def both():
        scored, _ = await asyncio.gather(asyncio.to_thread(client.score, draw(0)), asyncio.to_thread(act))
        return scored

    return asyncio.run(both())


def test_the_port_is_free_again_after_the_server_has_gone():
    with running_in_thread(Models(tabular())) as address:
        port = int(address.rpartition(":")[2])
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def test_an_error_in_the_callers_code_stops_the_server_too():
    with pytest.raises(ZeroDivisionError), running_in_thread(Models(tabular())) as address:
        _ = 1 / 0
    with Client(address) as client, pytest.raises(ConnectionError):
        client.info()


# Texts.


@pytest.fixture(scope="module")
def reader():
    """A client of a server whose prior has a tokenizer."""
    with running_in_thread(Models(prior=alice())) as address, Client(address) as client:
        yield client


TEXTS = (["Alice said", "It was <eos>"], [" no", " yes, yes", " odd"], [0, 2, 3])


def test_texts_become_the_samples_that_the_model_makes_of_them(reader):
    for options in itertools.product([False, True], [False, True], [None, [True, False, True]]):
        kinds = dict(zip(("add_special_tokens", "parse_special_tokens", "terminated"), options, strict=True))
        assert_equal(reader.tokenize(*TEXTS, **kinds), alice().tokenize(*TEXTS, **kinds))


def test_special_tokens_are_what_the_caller_says(reader):
    end, start = alice().end_token_ids[0], alice().start_token_id
    plain = reader.tokenize(*TEXTS, add_special_tokens=False, parse_special_tokens=False)
    assert end not in plain.prompts.values
    parsed = reader.tokenize(*TEXTS, add_special_tokens=False, parse_special_tokens=True)
    assert parsed.prompts[1][-1] == end
    assert start not in parsed.prompts.values
    ended = reader.tokenize(
        *TEXTS, add_special_tokens=False, parse_special_tokens=False, terminated=[True, False, True]
    )
    assert [row[-1] == end for row in ended.completions] == [True, False, True]
    assert ended.terminated.tolist() == [True, False, True]
    assert reader.score(ended).columns == ("prior_logprobs", "terminated")


def test_one_text_in_place_of_several_is_not_sent(client):
    with pytest.raises(TypeError, match="completions is one text: give a list of them"):
        client.tokenize(["a"], "b", [0, 1], add_special_tokens=False, parse_special_tokens=False)


def test_it_is_said_what_becomes_of_special_tokens(reader):
    with grpc.insecure_channel(reader.address) as channel:
        code, text = refusal(
            ScoringServiceStub(channel).TokenizeTexts,
            pb.TokenizeTextsRequest(prompts=["a"], completions=["b"], group_sizes=[1], add_special_tokens=True),
        )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text == "parse_special_tokens is not set: say what becomes of special tokens"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"completions": ["b", ""], "group_sizes": [2]}, r"completions\[1\] has no tokens"),
        ({"group_sizes": [2]}, "group_sizes sum to 2, but completions has 1"),
        ({"group_sizes": [1, 1]}, "group_sizes has 2 entries, but prompts has 1"),
        ({"terminated": [True, False]}, r"terminated is bool \(2,\)"),
        ({"prompts": [], "completions": [], "group_sizes": []}, "completions is empty"),
    ],
)
def test_texts_that_are_no_samples_are_the_callers_fault(reader, changes, message):
    request = {"prompts": ["a"], "completions": ["b"], "group_sizes": [1]} | changes
    with grpc.insecure_channel(reader.address) as channel:
        code, text = refusal(
            ScoringServiceStub(channel).TokenizeTexts,
            pb.TokenizeTextsRequest(**request, add_special_tokens=False, parse_special_tokens=False),
        )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(ValueError, match=message):
        raise ValueError(text)


def test_a_server_without_a_tokenizer_says_so(client, stub):
    request = pb.TokenizeTextsRequest(
        prompts=["a"], completions=["b"], group_sizes=[1], add_special_tokens=False, parse_special_tokens=False
    )
    assert refusal(stub.TokenizeTexts, request)[0] is grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(NoTokenizerError, match="tabular has no tokenizer: send token ids"):
        client.tokenize(["a"], ["b"], [0, 1], add_special_tokens=False, parse_special_tokens=False)


# KL.


def test_kl_over_grpc_is_that_in_process_bit_for_bit(client):
    for n in (1, 300, 20_000):
        lengths = np.random.default_rng(n).integers(1, 100, n)
        policy, prior = (
            Ragged.from_lengths(
                -np.random.default_rng(seed).exponential(size=lengths.sum()).astype(np.float32), lengths
            )
            for seed in (1, 2)
        )
        found = client.kl_estimators(policy, prior)
        for ours, expected in zip(found, kl_estimators(policy, prior, precision="mixed"), strict=False):
            np.testing.assert_array_equal(ours, expected, strict=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy_logprobs": bytes(8)}, "policy_logprobs has 2 values, but completion_lengths sum to 3"),
        ({"completion_lengths": [0] * 4}, "completion_lengths has 4 entries, but policy_logprobs has 12 bytes"),
        ({"prior_logprobs": bytes(11)}, "prior_logprobs has 11 bytes"),
        ({"completion_lengths": [2**32 - 1] * 2}, f"completion_lengths sum to {2 * (2**32 - 1)}"),
        ({"prior_logprobs": np.full(3, np.nan, "<f4").tobytes()}, "is NaN"),
        ({"policy_logprobs": np.ones(3, "<f4").tobytes()}, "at most 0"),
    ],
)
def test_log_probs_that_are_none_have_no_kl(stub, changes, message):
    request = {"completion_lengths": [1, 2], "policy_logprobs": bytes(12), "prior_logprobs": bytes(12)} | changes
    code, text = refusal(stub.EstimateKl, pb.EstimateKlRequest(**request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(ValueError, match=message):
        raise ValueError(text)


def test_a_busy_server_says_when_to_come_back():
    """The time that it asks for is among the trailing metadata, where gRPC's own clients look too."""
    model = Gated()
    with (
        running_in_thread(Models(prior=model), ServerSettings(port=0, max_waiting_tokens=1)) as address,
        grpc.insecure_channel(address) as channel,
    ):
        stub = ScoringServiceStub(channel)
        first = stub.ScoreSamples.future(score_request(draw(0)), timeout=20)
        model.wait_until_called()
        waiting = [stub.ScoreSamples.future(score_request(draw(1)), timeout=20) for _ in range(2)]
        refused = next(call for call in waiting if _ended(call))
        assert dict(refused.trailing_metadata())["grpc-retry-pushback-ms"].isdecimal()
        model.gate.set()
        assert first.result().prior_name == "gated"


def _ended(call):
    try:
        return call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED if call.exception(timeout=2) else False
    except grpc.FutureTimeoutError:
        return False
