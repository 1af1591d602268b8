"""The clients with samples of any size, and with servers that are slow, busy, failing or gone for a while."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esscher import Ragged, Samples
from esscher.client import AsyncClient, Client, ColumnError
from esscher.client.delivery import Failure, pause_before_retry
from esscher.v1 import report_pb2
from esscher.v1 import scoring_service_pb2 as pb
from esscher.v1.scoring_service_pb2_grpc import ScoringServiceServicer, add_ScoringServiceServicer_to_server
from esscher.wire.codec import decode_samples, encode_samples
from esscher.wire.errors import ServerBusyError
from esscher.wire.parts import split
from esscher.wire.status import Status
from service_models import assert_equal

pytestmark = pytest.mark.timeout(60)

BUSY, GONE = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE
INTERNAL, INVALID = grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT
# In the order of the error that lists them.
COLUMNS = ("prior_logprobs", "policy_logprobs", "token_kl", "policy_entropy", "rewards")
TOKEN_COLUMNS = COLUMNS[:-1]


def expected(samples):
    """Columns that tell each token by its prompt, its completion's tokens and its place."""
    prompts = np.array([prompt.sum() for prompt in samples.prompts])[samples.groups.of]
    lengths = samples.completions.lengths
    values = np.repeat(prompts, lengths) * 1000.0 + samples.completions.values
    tokens = {
        name: ((-1.0 if "logprobs" in name else 1.0) * (values + i) / 1024).astype(np.float32)
        for i, name in enumerate(TOKEN_COLUMNS)
    }
    starts = samples.completions.offsets[:-1]
    return {**tokens, "rewards": np.add.reduceat(samples.completions.values.astype(float), starts) + prompts / 7}


class Fake(ScoringServiceServicer):
    """A server that does what it is told: `outcomes` are those of the first calls, the others are answered."""

    def __init__(self, *outcomes, max_message_bytes=2**20, max_batch_tokens=2**14, seconds=lambda: 0.0):
        self.outcomes = list(outcomes)
        self.limits = {"max_message_bytes": max_message_bytes, "max_batch_tokens": max_batch_tokens}
        self.seconds = seconds
        self.unavailable, self.prior_name, self.revisions = {}, "fake", iter(range(7, 10**6))
        self.requests, self.running, self.most = [], 0, 0
        self.arrived, self.left, self.closing = threading.Semaphore(0), threading.Semaphore(0), threading.Event()
        self._lock = threading.Lock()

    # The methods' names are the proto's.
    def GetServerInfo(self, _, context):  # noqa: ARG002, N802
        return pb.GetServerInfoResponse(prior_name="fake", columns=[5, 99], **self.limits)

    def ScoreSamples(self, request, context):  # noqa: N802
        with self._lock:
            self.requests.append(request)
            self.running += 1
            self.most = max(self.most, self.running)
            outcome = self.outcomes.pop(0) if self.outcomes else None
        self.arrived.release()
        if not context.add_callback(self.left.release):
            self.left.release()
        try:
            self.closing.wait(self.seconds())
            if outcome is not None:
                code, text, *pushback = outcome
                context.set_trailing_metadata([("grpc-retry-pushback-ms", str(after)) for after in pushback])
                context.abort(code, text)
            return self._answer(request)
        finally:
            with self._lock:
                self.running -= 1

    def _answer(self, request):
        columns = expected(decode_samples(request.samples))
        names = [COLUMNS_BY_NUMBER[number] for number in request.columns]
        response = pb.ScoreSamplesResponse(
            prior_name=self.prior_name,
            policy_name="policy",
            policy_revision=next(self.revisions),
            queue_seconds=0.5,
            model_seconds=0.25,
            unavailable=[report_pb2.Unavailable(name=name, reason=why) for name, why in self.unavailable.items()],
        )
        for name in sorted(set(names) - set(self.unavailable)):
            if name == "rewards":
                response.rewards.extend(columns[name])
            else:
                setattr(response, name, columns[name].tobytes())
        return response

    def TokenizeTexts(self, request, context):  # noqa: ARG002, N802
        self.requests.append(request)
        samples = Samples(
            Ragged.from_rows([[len(text)] for text in request.prompts]),
            Ragged.from_rows([[len(text)] for text in request.completions]),
            np.cumsum([0, *request.group_sizes]),
            terminated=list(request.terminated) or None,
        )
        return pb.TokenizeTextsResponse(samples=encode_samples(samples))


COLUMNS_BY_NUMBER = {number: name.removeprefix("COLUMN_").lower() for name, number in pb.Column.items()}


@contextmanager
def serving(fake, port=0):
    """Serve until the context closes, which ends what is in flight; gives the address."""
    with ThreadPoolExecutor(16) as pool:
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", fake.limits["max_message_bytes"])]
        server = grpc.server(pool, options=options)
        add_ScoringServiceServicer_to_server(fake, server)
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        assert port
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            stopped = server.stop(None)
            fake.closing.set()
            stopped.wait()


def ask(address, *arguments, timeout=30, window=4, **options):
    with Client(address, timeout, window=window) as client:
        return client.ask(*arguments, **options)


def ask_async(address, *arguments, timeout=30, window=4, **options):
    async def run():
        async with AsyncClient(address, timeout, window=window) as client:
            return await client.ask(*arguments, **options)

    return asyncio.run(run())


both = pytest.mark.parametrize("ask", [ask, ask_async])


def draw(seed, prompts=20, most=6, longest=9, terminated=False):
    """Ragged samples, empty prompts among them."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, most + 1, prompts)
    lengths = rng.integers(1, longest + 1, sizes.sum())
    prompt_lengths = rng.integers(0, longest, prompts)
    return Samples(
        Ragged.from_lengths(rng.integers(0, 50, prompt_lengths.sum()), prompt_lengths),
        Ragged.from_lengths(rng.integers(0, 1000, lengths.sum()), lengths),
        np.concatenate([[0], np.cumsum(sizes)]),
        terminated=rng.random(sizes.sum()) < 0.5 if terminated else None,
    )


def filled(samples, columns=COLUMNS):
    """The samples with the columns that a fake server answers."""
    values = expected(samples)
    rows = {name: Ragged(values[name], samples.completions.offsets) for name in TOKEN_COLUMNS}
    all_columns = {**rows, "rewards": values["rewards"]}
    return dataclasses.replace(samples, **{name: all_columns[name] for name in columns})


def joined(requests):
    """The completions of requests, as rows."""
    return [row.tolist() for request in requests for row in decode_samples(request.samples).completions]


@given(
    seed=st.integers(0, 2**32 - 1),
    longest=st.integers(1, 40),
    most=st.integers(1, 30),
    max_tokens=st.integers(1, 500),
    spare=st.integers(0, 300),
)
def test_parts_are_all_of_the_samples_in_order_and_within_the_limits(seed, longest, most, max_tokens, spare):
    samples = draw(seed, most=most, longest=longest, terminated=True)
    smallest = 128 + 4 * 2 * longest + 16
    parts = split(samples, max_bytes=smallest + spare, max_tokens=max_tokens)
    assert [part.begin for part in parts] == [0, *(part.end for part in parts[:-1])]
    assert parts[-1].end == len(samples)
    for part in parts:
        taken = part.take()
        rows = np.arange(part.begin, part.end)
        assert taken.completions.values.tolist() == samples.completions.take(rows).values.tolist()
        assert part.tokens == len(taken.completions.values)
        assert taken.terminated.tolist() == samples.terminated[rows].tolist()
        prompts = [samples.prompts[p].tolist() for p in samples.groups.of[rows]]
        assert [taken.prompts[p].tolist() for p in taken.groups.of] == prompts
        request = pb.ScoreSamplesRequest(samples=encode_samples(taken), columns=[1, 2, 3, 4, 5])
        assert request.ByteSize() <= smallest + spare
        tokens = taken.completions.lengths.sum() + taken.prompts.lengths.sum()
        assert tokens <= max_tokens or len(part) == 1
    for before, part in itertools.pairwise(parts):
        # A group that is cut is alone in the part before.
        assert part.begin in samples.groups or before.prompt == part.prompt


def test_a_group_is_cut_only_if_it_is_larger_than_a_part():
    samples = draw(3, prompts=40, most=6)
    cuts = {part.begin for part in split(samples, max_bytes=2**20, max_tokens=6 * 17)}
    assert len(cuts) > 3
    assert cuts <= set(samples.groups.tolist())


def test_samples_within_the_limits_are_sent_as_they_are():
    samples = draw(0)
    (part,) = split(samples, max_bytes=2**20, max_tokens=2**14)
    assert part.take() is samples


def test_a_completion_that_is_too_large_is_named_before_anything_is_sent():
    samples = Samples(Ragged.from_rows([[1], [2]]), Ragged.from_rows([[1], [1] * 500, [1] * 900]), [0, 1, 3])
    fake = Fake(max_message_bytes=1500)
    with serving(fake) as address, pytest.raises(ValueError, match=r"completions\[1\] takes 2\d{3} bytes .* 1500"):
        ask(address, samples)
    assert fake.requests == []


@both
@pytest.mark.parametrize(
    ("limits", "requests"), [({}, 1), ({"max_message_bytes": 300}, 10), ({"max_batch_tokens": 10}, 10)]
)
def test_parts_give_what_the_whole_gives(ask, limits, requests):
    samples = draw(1, terminated=True)
    fake = Fake(**limits, seconds=lambda: random.uniform(0, 0.02))
    with serving(fake) as address:
        answer = ask(address, samples, COLUMNS)
    assert_equal(answer.samples, filled(samples))
    assert len(fake.requests) >= requests
    assert sorted(joined(fake.requests)) == sorted(row.tolist() for row in samples.completions)
    assert all(len(request.samples.terminated) for request in fake.requests)
    assert answer.samples.prior_logprobs.values.flags.writeable
    assert (answer.prior_name, answer.policy_name) == ("fake", "policy")
    assert answer.policy_revisions == (7, 7 + len(fake.requests) - 1)
    assert (answer.queue_seconds, answer.model_seconds) == (0.5, 0.25 * len(fake.requests))


@given(seed=st.integers(0, 2**32 - 1), max_message_bytes=st.integers(230, 2000), max_batch_tokens=st.integers(1, 50))
def test_any_samples_at_any_limits_give_what_the_whole_gives(fakes, seed, max_message_bytes, max_batch_tokens):
    samples = draw(seed)
    with fakes(max_message_bytes, max_batch_tokens) as client:
        assert_equal(client.score(samples, COLUMNS), filled(samples))


@pytest.fixture(scope="module")
def fakes():
    """Clients of one server that says other limits each time."""
    fake = Fake()
    with serving(fake) as address:

        @contextmanager
        def connect(max_message_bytes, max_batch_tokens):
            fake.limits = {"max_message_bytes": max_message_bytes, "max_batch_tokens": max_batch_tokens}
            with Client(address) as client:
                yield client

        yield connect


@both
def test_a_group_larger_than_a_message_is_sent_in_parts(ask):
    samples = Samples(Ragged.from_rows([[5, 6]]), Ragged.from_rows([[i, i + 1] for i in range(200)]), [0, 200])
    fake = Fake(max_message_bytes=500)
    with serving(fake) as address:
        answer = ask(address, samples)
    assert_equal(answer.samples, filled(samples, ["prior_logprobs"]))
    assert len(fake.requests) > 4
    assert {request.samples.prompt_token_ids for request in fake.requests} == {samples.prompts.values.tobytes()}


@both
@pytest.mark.parametrize("window", [1, 3])
def test_no_more_calls_are_in_flight_than_the_window_holds(ask, window):
    fake = Fake((BUSY, "busy"), (BUSY, "busy"), max_batch_tokens=5, seconds=lambda: 0.01)
    with serving(fake) as address:
        ask(address, draw(2), window=window)
    assert fake.most == window
    assert len(fake.requests) > 10


@both
def test_progress_rises_to_all_completions(ask):
    samples, seen = draw(4), []
    with serving(Fake(max_batch_tokens=10, seconds=lambda: random.uniform(0, 0.01))) as address:
        ask(address, samples, progress=seen.append)
    assert seen == sorted(set(seen))
    assert len(seen) > 5
    assert seen[-1] == len(samples)


@both
def test_progress_is_told_of_a_single_part_too(ask):
    samples, seen = draw(4), []
    with serving(Fake()) as address:
        ask(address, samples, progress=seen.append)
    assert seen == [len(samples)]


@both
@pytest.mark.parametrize("limit", [10, 2**14], ids=["in parts", "whole"])
def test_a_server_that_is_busy_or_gone_for_a_while_is_asked_again(ask, limit):
    samples = draw(5)
    failures = [(BUSY, "busy"), (GONE, "shutting down"), (BUSY, "busy", 10), (INTERNAL, "oops")]
    fake = Fake(*failures, (grpc.StatusCode.CANCELLED, "stopping"), max_batch_tokens=limit)
    with serving(fake) as address:
        answer = ask(address, samples)
    assert_equal(answer.samples, filled(samples, ["prior_logprobs"]))
    assert fake.outcomes == []


@both
def test_a_server_that_says_how_long_it_is_busy_is_left_alone_so_long(ask):
    fake = Fake((BUSY, "busy", 700))
    with serving(fake) as address:
        started = time.monotonic()
        ask(address, draw(0))
    assert time.monotonic() - started > 0.7


@both
@pytest.mark.parametrize(
    ("failure", "kind", "calls"),
    [
        ((INVALID, "no"), ValueError, 1),
        ((BUSY, "SERVER: Received message larger than max (9 vs. 8)"), ServerBusyError, 1),
        ((BUSY, "busy", -1), ServerBusyError, 1),
        ((BUSY, "busy", "soon"), ServerBusyError, 1),
        ((BUSY, "busy", 60_000), ServerBusyError, 1),
        ((INTERNAL, "oops"), RuntimeError, 2),
        ((grpc.StatusCode.DEADLINE_EXCEEDED, "late"), TimeoutError, 1),
        ((grpc.StatusCode.UNIMPLEMENTED, "what?"), RuntimeError, 1),
    ],
)
def test_what_does_not_pass_is_not_waited_for(ask, failure, kind, calls):
    fake = Fake(*[failure] * 3)
    with serving(fake) as address, pytest.raises(kind) as raised:
        ask(address, draw(0))
    assert type(raised.value) is kind
    assert len(fake.requests) == calls


@both
@pytest.mark.parametrize(("code", "kind"), [(BUSY, ServerBusyError), (GONE, ConnectionError)])
@pytest.mark.parametrize("limit", [10, 2**14], ids=["in parts", "whole"])
def test_a_server_that_stays_busy_or_gone_is_given_up_after_the_timeout(ask, code, kind, limit):
    fake = Fake(*[(code, "again")] * 1000, max_batch_tokens=limit)
    with serving(fake) as address:
        started = time.monotonic()
        with pytest.raises(kind, match="again"):
            ask(address, draw(0), timeout=1)
    assert time.monotonic() - started < 10
    assert len(fake.requests) > 1


@both
def test_a_server_without_an_answer_is_given_up_after_the_timeout(ask):
    slow = Fake(max_batch_tokens=10, seconds=lambda: 1.0)
    with serving(slow) as address, pytest.raises(TimeoutError, match=r"no answer within 0\.3 s"):
        ask(address, draw(0), timeout=0.3)


@both
def test_a_refusal_names_the_completion_as_the_caller_knows_it(ask):
    samples = draw(6)
    size = 4 * 10
    second = split(samples, max_bytes=2**20, max_tokens=size)[1]
    text = "completions[0][4] is 9, prompts[0] too"
    fake = Fake(None, (INVALID, text), max_batch_tokens=10)
    with serving(fake) as address:
        message = rf"completions\[{second.begin}\]\[4\] is 9, prompts\[{second.prompt}\] too"
        with pytest.raises(ValueError, match=message):
            ask(address, samples, window=1)
    assert second.begin > second.prompt > 0


@both
def test_columns_that_are_missing_lose_no_others(ask):
    samples = filled(draw(7), ["rewards", "token_kl"])
    fake = Fake(max_batch_tokens=10)
    fake.unavailable = {"rewards": "completions[0] has no text", "policy_entropy": "no policy"}
    with serving(fake) as address:
        answer = ask(address, samples, ("rewards", "prior_logprobs"))
        with (
            Client(address) as client,
            pytest.raises(ColumnError, match=r"rewards \(completions\[0\] has no") as raised,
        ):
            client.score(samples, ("rewards", "prior_logprobs"))
    assert answer.unavailable == {"rewards": "completions[0] has no text"} == raised.value.unavailable
    for got in (answer.samples, raised.value.samples):
        assert_equal(got, dataclasses.replace(filled(samples, ["prior_logprobs"]), rewards=None))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([], f"at least one of {', '.join(COLUMNS)}"),
        (["rewards", "logits"], "'logits'.*: it must hold"),
        (["terminated"], "'terminated'.*: it must hold"),
        ("rewards", "columns is 'rewards': it must be a sequence"),
    ],
)
def test_columns_that_no_server_has_are_refused_before_anything_is_sent(columns, message):
    with Client("localhost:1") as client, pytest.raises(ValueError, match=message):
        client.score(draw(0), columns)


@both
def test_an_answer_with_a_column_too_short_is_none(ask):
    fake = Fake()
    whole = fake._answer
    fake._answer = lambda request: pb.ScoreSamplesResponse(prior_logprobs=whole(request).prior_logprobs[:-4])
    with serving(fake) as address, pytest.raises(RuntimeError, match="no answer to ScoreSamples: prior_logprobs has"):
        ask(address, draw(0))


@both
def test_parts_of_two_priors_are_not_mixed(ask):
    names = iter(range(1000))
    fake = Fake(max_batch_tokens=10)
    whole = fake._answer

    def answer(request):
        response = whole(request)
        response.prior_name = f"prior {next(names)}"
        return response

    fake._answer = answer
    with serving(fake) as address, pytest.raises(RuntimeError, match=r"changed its prior.*'prior 0', 'prior 1'"):
        ask(address, draw(0))


@both
@pytest.mark.parametrize("limit", [10, 2**14], ids=["in parts", "whole"])
def test_a_server_that_restarts_meanwhile_changes_no_number(ask, limit):
    samples = draw(8)
    first, second = Fake(max_batch_tokens=limit, seconds=lambda: 0.2), Fake(max_batch_tokens=limit)
    with ThreadPoolExecutor(1) as pool:
        with serving(first) as address:
            asked = pool.submit(ask, address, samples, COLUMNS)
            assert first.arrived.acquire(timeout=30)
        time.sleep(0.3)
        with serving(second, int(address.rpartition(":")[2])):
            answer = asked.result(timeout=30)
    assert_equal(answer.samples, filled(samples))
    assert second.requests


class Interrupted(BaseException):
    """What no handler of ordinary exceptions sees, such as a KeyboardInterrupt."""


@both
def test_an_interruption_cancels_what_is_in_flight(ask):
    fake = Fake(max_batch_tokens=10, seconds=iter([0.0, *[20.0] * 1000]).__next__)
    with serving(fake) as address:

        def interrupt(_):
            raise Interrupted

        with pytest.raises(Interrupted):
            ask(address, draw(9), progress=interrupt)
        for _ in fake.requests:
            assert fake.left.acquire(timeout=5)
        assert len(fake.requests) <= 5


@both
@pytest.mark.parametrize("limit", [10, 2**14], ids=["in parts", "whole"])
def test_an_interrupt_by_the_keyboard_ends_a_call_that_waits(ask, limit):
    fake, main = Fake(max_batch_tokens=limit, seconds=lambda: 20.0), threading.main_thread().ident
    with serving(fake) as address:
        press = threading.Timer(0.5, signal.pthread_kill, (main, signal.SIGINT))
        press.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            ask(address, draw(9))
        assert 0.3 < time.monotonic() - started < 10
        for _ in fake.requests:
            assert fake.left.acquire(timeout=5)
        press.join()


@pytest.mark.parametrize("limit", [10, 2**14], ids=["in parts", "whole"])
def test_closing_a_client_ends_what_other_threads_wait_for(limit):
    fake = Fake(max_batch_tokens=limit, seconds=lambda: 20.0)
    with serving(fake) as address, ThreadPoolExecutor(1) as pool:
        with Client(address) as client:
            scoring = pool.submit(client.score, draw(9))
            assert fake.arrived.acquire(timeout=30)
        with pytest.raises(ValueError, match=r"[Cc]hannel"):
            scoring.result(timeout=5)


async def test_cancelling_the_task_cancels_what_is_in_flight():
    fake = Fake(max_batch_tokens=10, seconds=lambda: 20.0)
    with serving(fake) as address:
        async with AsyncClient(address) as client:
            task = asyncio.create_task(client.score(draw(9)))
            for _ in range(4):
                assert await asyncio.to_thread(fake.arrived.acquire, timeout=30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for _ in range(4):
                assert await asyncio.to_thread(fake.left.acquire, timeout=5)
            assert len(asyncio.all_tasks()) == 1


def test_many_threads_share_a_client():
    fake = Fake((BUSY, "busy"), (INTERNAL, "oops"), (GONE, "gone"), max_batch_tokens=20)
    before = threading.active_count()
    with serving(fake) as address, Client(address) as client, ThreadPoolExecutor(12) as pool:
        many = [draw(seed) for seed in range(36)]
        for samples, scored in zip(many, pool.map(client.score, many), strict=True):
            assert_equal(scored, filled(samples, ["prior_logprobs"]))
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_that_holds_nothing_is_refused(window):
    with pytest.raises(ValueError, match=f"window is {window}: it must be at least 1"):
        Client("localhost:1", window=window)


def test_a_pause_is_random_grows_and_ends_with_the_time_left():
    busy = Failure(Status(BUSY, ""))
    for n, longest in ((1, 0.1), (2, 0.2), (4, 0.8), (2000, 3.2)):
        pauses = [pause_before_retry([busy] * n, 100.0, answered=True) for _ in range(300)]
        assert max(pauses) <= longest
        assert max(pauses) > longest / 2 > min(pauses)
    pushed = Failure(Status(BUSY, ""), pushback=2.0)
    assert 2.0 <= pause_before_retry([busy, pushed], 100.0, answered=True) <= 2.2
    assert pause_before_retry([pushed], 2.0, answered=True) is None
    assert pause_before_retry([Failure(Status(GONE, ""))], 100.0, answered=False) is None


@pytest.mark.parametrize("terminated", [None, [True, False, True]])
async def test_texts_become_samples(terminated):
    texts = (["a", "bb"], ["ccc", "d", "ee"], [0, 2, 3])
    options = {"add_special_tokens": True, "parse_special_tokens": False, "terminated": terminated}
    fake = Fake()
    with serving(fake) as address:
        with Client(address) as client:
            samples = client.tokenize(*texts, **options)
        async with AsyncClient(address) as client:
            assert_equal(await client.tokenize(*texts, **options), samples)
    assert [row.tolist() for row in samples.completions] == [[3], [1], [2]]
    assert samples.groups.tolist() == [0, 2, 3]
    assert (samples.terminated is None) == (terminated is None)
    request = fake.requests[0]
    assert (request.add_special_tokens, request.HasField("parse_special_tokens")) == (True, True)
    assert not request.parse_special_tokens


@pytest.mark.parametrize(
    ("groups", "message"),
    [([0, 3], "groups has 2 entries, but there are 2 prompts"), ([0, 1, 2], "groups ends at 2, but there are 3")],
)
def test_texts_and_groups_that_disagree_are_not_sent(groups, message):
    with Client("localhost:1") as client, pytest.raises(ValueError, match=message):
        client.tokenize(["a", "b"], ["c", "d", "e"], groups, add_special_tokens=False, parse_special_tokens=False)


def test_texts_that_are_too_large_are_not_sent():
    fake = Fake(max_message_bytes=100)
    with (
        serving(fake) as address,
        Client(address) as client,
        pytest.raises(ValueError, match=r"request takes \d+ bytes"),
    ):
        client.tokenize(["a" * 200], ["b"], [0, 1], add_special_tokens=False, parse_special_tokens=False)
    assert fake.requests == []


def test_columns_that_a_newer_server_has_are_not_in_the_way():
    with serving(Fake()) as address, Client(address) as client:
        info = client.info()
    assert info.columns == ("rewards",)
    assert (info.policy_name, info.policy_revision, info.reward_name, info.start_token_id) == (None, 0, None, None)
