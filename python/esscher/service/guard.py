"""What every call goes through: its bytes are parsed, failures become a status, and one line goes to the log."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import grpc

from esscher.service.errors import status_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from esscher.service.metrics import Metrics

    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]

# For how long a caller whom a busy server refused is asked to stay away.
PUSHBACK_MS = "200"

_log = logging.getLogger(__name__)


class Guard(grpc.aio.ServerInterceptor):
    """Answers every unary call with a response or a status, whatever its handler does.

    Left to gRPC, an exception's text would go to the caller, bytes that do not parse would be the server's fault, and
    an exception that is not an `Exception` would leave the caller waiting until its deadline.

    Parameters
    ----------
    metrics
        Where calls are counted.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Put the guard around the method's handler."""
        handler = await continuation(handler_call_details)
        # None is an unknown method; the only streaming one is the health service's.
        if handler is None or handler.unary_unary is None:
            return handler

        async def guarded(request: bytes, context: Context) -> Any:
            return await self._answer(handler, handler_call_details.method, request, context)

        return grpc.unary_unary_rpc_method_handler(guarded, None, handler.response_serializer)

    async def _answer(self, handler: Any, method: str, request: bytes, context: Context) -> Any:
        started = time.monotonic()
        outcome = "OK"
        try:
            return await handler.unary_unary(handler.request_deserializer(request), context)
        except asyncio.CancelledError:
            left = context.time_remaining()
            outcome = "CANCELLED" if left is None or left > 0 else "DEADLINE_EXCEEDED"
            raise
        except grpc.aio.AbortError:
            outcome = context.code().name
            raise
        except BaseException as error:
            code, text = status_of(error)
            outcome = code.name
            if code is not grpc.StatusCode.INTERNAL:
                self._metrics.note_refusal(type(error).__name__)
        finally:
            seconds = time.monotonic() - started
            self._metrics.note_call(method, outcome)
            _log.info("method=%s status=%s seconds=%.3f request_bytes=%d", method, outcome, seconds, len(request))
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", PUSHBACK_MS),))
        # Counted and logged first, so that whoever has the answer finds it there.
        return await context.abort(code, text)
