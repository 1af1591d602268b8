"""Clients of the service, for trainers: they need neither torch nor a model."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Self

import grpc

from esscher.service.calls import (
    Call,
    Result,
    ServerInfo,
    check_size,
    evaluate_call,
    info_call,
    read_response,
    score_call,
)
from esscher.service.errors import Status, exception_of
from esscher.v1.scoring_service_pb2_grpc import ScoringServiceStub

if TYPE_CHECKING:
    from esscher.evaluate import Report
    from esscher.posterior import Proposal
    from esscher.samples import Samples
    from esscher.target import Target

_OPTIONS = (
    # A report grows with the samples, and the server is trusted with its size.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A proxy in the environment is for the web, not for a server on this machine or the next.
    ("grpc.enable_http_proxy", 0),
    # A server that comes up after a failed call is found within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class Client:
    """Calls a server; may be shared between threads.

    Parameters
    ----------
    address
        Where the server listens: "host:port".
    timeout
        Seconds that each call may take.

    Raises
    ------
    ValueError
        If `address` is not "host:port", or `timeout` is not a positive number.

    Notes
    -----
    Every method raises `ConnectionError` if no server answers, `TimeoutError` if it takes too long, `ServerBusyError`
    if it has too much work waiting (retry later), `ValueError` if it refuses the samples, and `RuntimeError` if it
    fails.
    """

    def __init__(self, address: str, timeout: float = 60.0) -> None:
        self.address, self.timeout = _check_address(address), _check_timeout(timeout)
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._stub = ScoringServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated without annotations
        self._max_message_bytes: int | None = None

    def info(self) -> ServerInfo:
        """Ask what the server holds and the limits it sets."""
        return self._send(info_call())

    def score(self, samples: Samples) -> Samples:
        """Return `samples` with the server's `prior_logprobs`, in place of any they had.

        The wire is float32: log-probs of a model that computes in float64 are rounded to the nearest float32.
        """
        return self._send_sized(score_call(samples))

    def evaluate(self, samples: Samples, target: Target | None = None, *, proposal: Proposal = "policy") -> Report:
        """Return what `esscher.evaluate` says of the samples, computed by the server.

        The wire is float32: on float32 columns the report is the same bit for bit, float64 ones are rounded first.
        """
        return self._send_sized(evaluate_call(samples, target, proposal))

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send_sized(self, call: Call[Result]) -> Result:
        if self._max_message_bytes is None:
            self._max_message_bytes = self.info().max_message_bytes
        check_size(call.request, self._max_message_bytes)
        return self._send(call)

    def _send(self, call: Call[Result]) -> Result:
        try:
            response = getattr(self._stub, call.method)(call.request, timeout=self.timeout)
        except grpc.RpcError as error:
            raise _exception(error, self) from error
        return read_response(call, response, self.address)


class AsyncClient:
    """`Client` for asyncio: the same methods, awaited. Made and used in one event loop.

    Parameters
    ----------
    address, timeout
        As for `Client`.

    Raises
    ------
    ValueError
        As `Client`.
    RuntimeError
        If no event loop is running.
    """

    def __init__(self, address: str, timeout: float = 60.0) -> None:
        asyncio.get_running_loop()  # raises where gRPC would tie the channel to some other loop
        self.address, self.timeout = _check_address(address), _check_timeout(timeout)
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stub = ScoringServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated without annotations
        self._max_message_bytes: int | None = None

    async def info(self) -> ServerInfo:
        """As `Client.info`."""
        return await self._send(info_call())

    async def score(self, samples: Samples) -> Samples:
        """As `Client.score`."""
        return await self._send_sized(score_call(samples))

    async def evaluate(
        self, samples: Samples, target: Target | None = None, *, proposal: Proposal = "policy"
    ) -> Report:
        """As `Client.evaluate`."""
        return await self._send_sized(evaluate_call(samples, target, proposal))

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send_sized(self, call: Call[Result]) -> Result:
        if self._max_message_bytes is None:
            self._max_message_bytes = (await self.info()).max_message_bytes
        check_size(call.request, self._max_message_bytes)
        return await self._send(call)

    async def _send(self, call: Call[Result]) -> Result:
        try:
            response = await getattr(self._stub, call.method)(call.request, timeout=self.timeout)
        except grpc.RpcError as error:
            raise _exception(error, self) from error
        return read_response(call, response, self.address)


def _check_address(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"address is {address!r}: it must be 'host:port', such as '127.0.0.1:50051'")
    return address


def _check_timeout(timeout: float) -> float:
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout is {timeout}: it must be a positive number of seconds")
    return timeout


def _exception(error: grpc.RpcError, client: Client | AsyncClient) -> Exception:
    # Every error of a call says how the call ended; the base class just does not declare it.
    call: Any = error
    return exception_of(Status(call.code(), call.details() or ""), client.address, client.timeout)
