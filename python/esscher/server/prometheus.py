"""What a server counts, for Prometheus."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_TENTHS = tuple(tenth / 10 for tenth in range(1, 11))


class ServerMetrics:
    """Counts of one server, in a registry of their own; `what` is who works, "models" or "reward"."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        what, here = ("what",), self.registry
        self._calls = Counter("esscher_calls", "Calls that have ended", ("method", "status"), registry=here)
        self._refusals = Counter("esscher_refusals", "Calls refused, by the error they got", ("cause",), registry=here)
        self._tokens = Counter("esscher_tokens", "Tokens computed, completions with their prompts", what, registry=here)
        self._waits = Histogram(
            "esscher_queue_seconds", "From a call's arrival to its first turn", what, registry=here, buckets=_SECONDS
        )
        self._batches = Histogram(
            "esscher_batch_seconds", "Time that a batch took", what, registry=here, buckets=_SECONDS
        )
        self._fill = Histogram(
            "esscher_batch_fill", "Tokens of a batch / max_batch_tokens", what, registry=here, buckets=_TENTHS
        )
        self._waiting = Gauge("esscher_waiting_tokens", "Tokens that wait for their turn", what, registry=here)
        self._revision = Gauge("esscher_policy_revision", "How many policies there have been", registry=here)

    def note_call(self, method: str, status: str) -> None:
        """Count a call that has ended."""
        self._calls.labels(method, status).inc()

    def note_refusal(self, cause: str) -> None:
        """Count a call that was refused."""
        self._refusals.labels(cause).inc()

    def note_wait(self, what: str, seconds: float) -> None:
        """Count a call that has its first turn."""
        self._waits.labels(what).observe(seconds)

    def note_batch(self, what: str, tokens: int, max_tokens: int, seconds: float) -> None:
        """Count a batch that was computed."""
        self._tokens.labels(what).inc(tokens)
        self._fill.labels(what).observe(tokens / max_tokens)
        self._batches.labels(what).observe(seconds)

    def watch_waiting(self, what: str, tokens: Callable[[], int]) -> None:
        """Ask `tokens` how many wait whenever somebody wants to know."""
        self._waiting.labels(what).set_function(tokens)

    def note_revision(self, revision: int) -> None:
        """Say which policy is there now."""
        self._revision.set(revision)

    @contextmanager
    def served(self, host: str, port: int) -> Iterator[int]:
        """Serve the counts as text over HTTP while the context is open; gives the port.

        Raises
        ------
        OSError
            If the port is in use, or the address is not this machine's.
        """
        try:
            server, thread = start_http_server(port, addr=host, registry=self.registry)
        except OSError as error:
            raise OSError(f"cannot serve metrics on {host}:{port}: {error}; choose another port") from error
        try:
            yield server.server_port
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
