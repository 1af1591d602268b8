"""The service: what a call costs, how fast bytes arrive, KL of a batch, and many callers at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np

from bench.lm.engine import model, pieces
from bench.lm.measure import Figure, Peer, Row, compare, seconds
from bench.lm.peer import METHOD, UNLIMITED, nested_messages
from esscher import Client, Ragged, Samples
from esscher.client import AsyncClient
from esscher.lm.packaged import resolve
from esscher.wire.codec import encode_logprob_pair
from esscher.wire.transport import SERVICE, TRANSPORT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

CALLERS, CALLS = 64, 4
SIZES = ((1, 100), (16, 10))  # MiB, and how many messages are timed together


@contextmanager
def process(*arguments: str) -> Iterator[int]:
    """A server in a process of its own; the port, which is the last word of its first line."""
    with subprocess.Popen(
        [sys.executable, "-m", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            yield int(server.stdout.readline().rpartition(":")[2])
        finally:
            server.terminate()


@contextmanager
def peer(name: str) -> Iterator[Any]:
    """A function that sends bytes to a peer's server and gives what it answers."""
    with process("bench.lm.peer", name) as port, grpc.insecure_channel(f"127.0.0.1:{port}", UNLIMITED) as channel:
        yield channel.unary_unary(METHOD, _registered_method=False)


@contextmanager
def ours(source: str = "alice", dtype: str = "float32") -> Iterator[str]:
    """The address of a server that holds a prior; alice, where the model is not asked."""
    command = ("esscher", "serve", "--prior", str(resolve(source)), "--port", "0", "--dtype", dtype)
    with process(*command) as port:
        yield f"127.0.0.1:{port}"


def empty() -> list[Row]:
    with ours() as address, Client(address) as client, peer("bare") as call:
        return compare(
            "500 empty calls",
            repeated(client.info, 500),
            [Peer("grpcio's sync server", repeated(partial(call, b""), 500), 1 / 1.3)],
            rounds=5,
            tolerance=None,
        )


def upload() -> list[Row]:
    """The same bytes to both; ours checks them and computes their KL."""
    rows = []
    with ours() as address, peer("bare") as bare, sender(address) as send:
        for mib, times in SIZES:
            request = encode_logprob_pair(*logprobs(mib))
            rows += compare(
                f"{times} x {mib} MiB, and their KL",
                repeated(partial(send, request), times),
                [Peer("a bare server that takes the bytes", repeated(partial(bare, request), times), 0.85)],
                rounds=5,
                tolerance=None,
            )
    return rows


@contextmanager
def sender(address: str) -> Iterator[Any]:
    """A function that sends a request for KL that is encoded already, as our client does."""
    with grpc.insecure_channel(address, (*UNLIMITED, *TRANSPORT)) as channel:
        yield channel.unary_unary(f"/{SERVICE}/EstimateKl", _registered_method=False)


def logprobs(mib: int) -> list[Ragged]:
    n = mib * 2**17  # float32, twice
    lengths = np.full(n // 512, 512)
    return [Ragged.from_lengths(-np.random.default_rng(i).random(n, np.float32), lengths) for i in (0, 1)]


def kl() -> list[Row]:
    policy, prior = (-np.random.default_rng(i).exponential(size=(256, 512)).astype(np.float32) for i in (0, 1))
    columns = [Ragged.from_padded(column, lengths=np.full(256, 512)) for column in (policy, prior)]
    request, response = nested_messages()

    def send_nested(call: Any) -> NDArray[np.float64]:
        rows = {
            name: [{"values": row} for row in column.tolist()]
            for name, column in (("policy", policy), ("prior", prior))
        }
        answer = response.FromString(call(request(**rows).SerializeToString()))
        return np.array(answer.values)

    def send_raw(call: Any) -> NDArray[np.float32]:
        return np.frombuffer(call(policy.tobytes() + prior.tobytes()), np.float32)

    job = "k1, k2, k3 of 256 x 512 tokens"
    with ours() as address, Client(address) as client, peer("nested") as by_lists, peer("raw") as by_bytes:

        def k3() -> NDArray[np.float64]:
            return client.kl_estimators(*columns)[2]

        def everything() -> NDArray[np.float64]:
            return np.concatenate(client.kl_estimators(*columns))

        lists = Peer("lists of floats, TRL's formula", partial(send_nested, by_lists), 80)
        raw = Peer("bytes, torch", partial(send_raw, by_bytes), 1.8)
        tolerance = 0.05  # sums of 512 in float32
        return [
            *compare(job, k3, [lists], 20, tolerance),
            *compare(job, everything, [raw], 300, tolerance),
            *compare(job, k3, [Peer("an empty call", client.info, 1 / 3)], 300, None),
        ]


def callers(dtype: str) -> list[Row]:
    """Many callers with small calls, beside all of their samples in one call in process."""
    n = CALLERS * CALLS
    prompts, completions = pieces(np.full(n, 24), 5), pieces(np.full(4 * n, 16), 6)
    everything = Samples(prompts, completions, np.arange(n + 1) * 4)
    calls = [everything.take_prompts([i]) for i in range(n)]
    with ours("smollm2", dtype) as address:

        async def call_in_turn(caller: int) -> list[NDArray[np.float32]]:
            async with AsyncClient(address, timeout=300) as client:
                mine = calls[caller * CALLS : (caller + 1) * CALLS]
                return [(await client.score(part)).prior_logprobs.values for part in mine]

        async def all_at_once() -> NDArray[np.float32]:
            parts = await asyncio.gather(*map(call_in_turn, range(CALLERS)))
            return np.concatenate([values for part in parts for values in part])

        in_process = partial(model(dtype).logprobs, prompts, completions, everything.groups)
        return compare(
            f"{CALLERS} callers x {CALLS} calls of 4 completions, prompt 24, completion 16 tokens: {dtype}",
            lambda: asyncio.run(all_at_once()),
            [Peer("the same in one call in process", lambda: in_process().values, 0.85)],
            rounds=3,
            tolerance=1e-3 if dtype == "float32" else 2.0,
        )


def repeated(call: Any, times: int) -> Any:
    """A call whose time is that of `times` of them."""

    def run() -> None:
        for _ in range(times):
            call()

    return run


def rates() -> list[Figure]:
    figures = []
    with ours() as address, Client(address) as client, sender(address) as send:
        for mib, _ in SIZES:
            columns = logprobs(mib)
            calls = (partial(send, encode_logprob_pair(*columns)), partial(client.kl_estimators, *columns))
            sent, whole = (2**20 * mib / median(seconds(call) for _ in range(50)) / 1e9 for call in calls)
            value = f"{sent:.2f} GB/s (mark 1); from the caller's arrays {whole:.2f} GB/s"
            figures.append(Figure(f"{mib} MiB of log-probs, and their KL", value))
    return figures


COMPARISONS = {
    "empty": empty,
    "upload": upload,
    "kl": kl,
    **{f"callers-{dtype}": partial(callers, dtype) for dtype in ("float32", "bfloat16")},
}
FIGURES = {"rates": rates}
