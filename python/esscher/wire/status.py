"""Exceptions to gRPC status codes on the server, and back on the client."""

from __future__ import annotations

from typing import NamedTuple

import grpc
from google.protobuf.message import DecodeError

from esscher.lm.base import NoTokenizerError
from esscher.wire.errors import ServerBusyError

# What is not here is a failure of the server: it sends INTERNAL, with an id in place of the text.
_STATUS_OF: tuple[tuple[type[BaseException], grpc.StatusCode], ...] = (
    (NoTokenizerError, grpc.StatusCode.FAILED_PRECONDITION),  # before ValueError, which it is too
    (ValueError, grpc.StatusCode.INVALID_ARGUMENT),
    (TypeError, grpc.StatusCode.INVALID_ARGUMENT),
    (DecodeError, grpc.StatusCode.INVALID_ARGUMENT),
    (ServerBusyError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (TimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
)
# A status travels in a header, and gRPC itself turns one of more than about 8 kB into another error.
_MAX_TEXT = 1000


class Status(NamedTuple):
    """How a call ended, as gRPC says it."""

    code: grpc.StatusCode
    text: str


def status_of(error: BaseException) -> Status | None:
    """Return the status to send for an exception; `None` if it is not the caller's to know."""
    code = next((code for kind, code in _STATUS_OF if isinstance(error, kind)), None)
    return None if code is None else Status(code, str(error)[:_MAX_TEXT])


def exception_of(status: Status, address: str, timeout: float) -> Exception:
    """Return the exception that a client raises for a status."""
    code, text = status
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return ValueError(text)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return ServerBusyError(f"the server at {address} refused the call: {text}")
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return NoTokenizerError(text)
    if code is grpc.StatusCode.UNAVAILABLE:
        return ConnectionError(
            f"no server answers at {address} ({text}): check the address, or start one with `esscher serve --prior ...`"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimeoutError(
            f"the server at {address} had no answer within {timeout:g} s: send fewer completions at a time, or give "
            "the client more time (timeout=, in seconds)"
        )
    return RuntimeError(f"the server at {address} failed with {code.name}: {text}")
