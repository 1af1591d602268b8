"""What every call goes through: its bytes are parsed, failures become a status, and one line goes to the log."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc

from esscher.server.incidents import log_incident
from esscher.wire.errors import ServerBusyError
from esscher.wire.status import Status, status_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from esscher.server.prometheus import ServerMetrics

    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]

# For how long a caller whom a busy server refused is asked to stay away.
PUSHBACK_MS = "200"
# Bytes of a request that is answered however much is under way: whether the server is well must not depend on that.
ALWAYS_TAKEN_BYTES = 2**10

_log = logging.getLogger(__name__)


class Guard:
    """Stands for a server to whom handlers are added: each will answer with a response or a status, whatever it does.

    Left to gRPC, an exception's text would go to the caller, bytes that do not parse would be the server's fault, and
    an exception that is not an `Exception` would leave the caller waiting until its deadline.

    Parameters
    ----------
    server
        The server that answers.
    metrics
        Where calls are counted.
    max_bytes
        Bytes of requests that may be under way; one that comes alone is accepted whatever its size, and those of
        `ALWAYS_TAKEN_BYTES` always.
    """

    def __init__(self, server: grpc.aio.Server, metrics: ServerMetrics, *, max_bytes: int) -> None:
        self._server = server
        self._metrics = metrics
        self._max_bytes = max_bytes
        self._bytes = 0

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Leave out what generated code adds besides, the same handlers to be looked up in another way."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Add the handlers of a service to the server."""
        guarded = {name: self._around(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, guarded)

    def _around(self, method: str, handler: Handler) -> Handler:
        # The only streaming one is the health service's.
        if handler.unary_unary is None:
            return handler

        async def guarded(request: bytes, context: Context) -> Any:
            return await self._answer(handler, method, request, context)

        return grpc.unary_unary_rpc_method_handler(guarded, None, handler.response_serializer)

    @contextmanager
    def _room_for(self, size: int) -> Iterator[None]:
        """Keep the memory of a request, which is held several times over, within bounds."""
        if size > ALWAYS_TAKEN_BYTES and self._bytes and self._bytes + size > self._max_bytes:
            raise ServerBusyError(
                f"requests of {self._bytes} bytes are under way, {size} more would exceed the limit of "
                f"{self._max_bytes}: retry in some seconds, or send less at a time"
            )
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size

    async def _answer(self, handler: Any, method: str, request: bytes, context: Context) -> Any:
        started = time.monotonic()
        outcome = "OK"
        try:
            with self._room_for(len(request)):
                return await handler.unary_unary(handler.request_deserializer(request), context)
        except asyncio.CancelledError:
            left = context.time_remaining()
            outcome = "CANCELLED" if left is None or left > 0 else "DEADLINE_EXCEEDED"
            raise
        except grpc.aio.AbortError:
            outcome = context.code().name
            raise
        except BaseException as error:
            code, text = status_of(error) or _internal(error)
            outcome = code.name
            if code is not grpc.StatusCode.INTERNAL:
                self._metrics.note_refusal(type(error).__name__)
        finally:
            seconds = time.monotonic() - started
            self._metrics.note_call(method, outcome)
            # Once the answer is on its way: to write a line can take half as long as an empty call.
            line = "method=%s status=%s seconds=%.3f request_bytes=%d"
            asyncio.get_running_loop().call_soon(_log.info, line, method, outcome, seconds, len(request))
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", PUSHBACK_MS),))
        # Counted and logged first, so that whoever has the answer finds it there.
        return await context.abort(code, text)


def _internal(error: BaseException) -> Status:
    return Status(grpc.StatusCode.INTERNAL, f"internal error {log_incident(error)}: the server's log explains it")
