"""What both clients share: whom they call and how, and how long they wait."""

from __future__ import annotations

import math
from typing import Any

from esscher.client.delivery import Delivery
from esscher.client.requests import RESPONSES, Call, Result, ServerInfo
from esscher.wire.addresses import check_address
from esscher.wire.transport import SERVICE, TRANSPORT

OPTIONS = (
    # A report grows with the samples, and the server is trusted with its size.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A proxy in the environment is for the web, not for a server on this machine or the next.
    ("grpc.enable_http_proxy", 0),
    # A server that comes up after a failed call is found within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A connection of its own: callers who shared one would be one caller to the server, which treats callers alike.
    ("grpc.use_local_subchannel_pool", 1),
    *TRANSPORT,
    # Calls are sent again by the clients, which know for how long that makes sense.
    ("grpc.enable_retries", 0),
)


class Connection:
    """What the clients share: whom they call, for how long and how often, and what they know of the server."""

    def __init__(self, address: str, timeout: float, window: int) -> None:
        self.address = check_address(address)
        if not 0 < timeout < math.inf:
            raise ValueError(f"timeout is {timeout}: it must be a positive number of seconds")
        if window < 1:
            raise ValueError(f"window is {window}: it must be at least 1")
        self.timeout, self.window = timeout, window
        self._known: ServerInfo | None = None

    def _delivery(self, call: Call[Result]) -> Delivery[Result]:
        return Delivery(call, self.address, self.timeout, answered=self._known is not None)


def methods(channel: Any) -> dict[str, Any]:
    """Methods that send bytes as they are: requests are encoded once, however often they are sent."""
    return {
        name: channel.unary_unary(f"/{SERVICE}/{name}", None, response.FromString)
        for name, response in RESPONSES.items()
    }
