"""How a server is set up, and what it does unless told otherwise."""

from __future__ import annotations

from dataclasses import dataclass

# How many of the largest requests may be under way.
REQUESTS_AT_ONCE = 8


@dataclass(frozen=True)
class ServerSettings:
    """Where a server listens, and how much it takes on.

    Attributes
    ----------
    host
        An address of this machine, "localhost" or an IP address.
    port
        Where to listen; 0 picks a free one.
    metrics_port
        Where to serve metrics for Prometheus, at `host`; 0 picks a free one, and none are served if not given.
    insecure
        Whether `host` may be reached from other machines. Calls are neither encrypted nor authenticated.
    grace
        Seconds that calls in flight get to finish once the server is told to stop.
    max_message_bytes
        The largest request; those under way may have `REQUESTS_AT_ONCE` times as many.
    max_batch_tokens
        Tokens per call of the models, prompts counted once.
    max_waiting_tokens
        Tokens that may wait for the models, and for the reward; beyond them calls are refused.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    metrics_port: int | None = None
    insecure: bool = False
    grace: float = 30.0
    max_message_bytes: int = 64 * 2**20
    max_batch_tokens: int = 2**14
    max_waiting_tokens: int = 2**20
