"""The server: models behind one address, until it is told to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from esscher.server.batcher import Batcher
from esscher.server.guard import Guard
from esscher.server.prometheus import ServerMetrics
from esscher.server.servicer import Servicer
from esscher.server.settings import REQUESTS_AT_ONCE, ServerSettings
from esscher.v1.scoring_service_pb2_grpc import add_ScoringServiceServicer_to_server
from esscher.wire.addresses import check_name
from esscher.wire.transport import SERVICE, TRANSPORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from esscher.lm.base import LanguageModel
    from esscher.server.models import Models

DEFAULTS = ServerSettings()
ANY_PORT = ServerSettings(port=0)

_log = logging.getLogger(__name__)


async def serve(
    models: Models,
    settings: ServerSettings = DEFAULTS,
    *,
    new_policies: AsyncIterator[LanguageModel] | None = None,
    on_ready: Callable[[str], object] | None = None,
) -> None:
    """Serve models until SIGTERM or SIGINT, then let calls in flight finish; a second signal ends the process.

    Parameters
    ----------
    models
        What scores completions.
    settings
        Where to listen, and how much to take on.
    new_policies
        Policies that replace the one there is, each as soon as it comes. If this fails, the last one stays.
    on_ready
        Called with the address ("host:port") once calls are answered.

    Raises
    ------
    OSError
        If a port is in use, or the address is not this machine's.
    ValueError
        If other machines could reach `host` and `insecure` is not set, or a port is not between 0 and 65535.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    server = running(models, settings, new_policies=new_policies)
    del models
    async with server as address:
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, stop.set)
        try:
            if on_ready is not None:
                on_ready(address)
            await stop.wait()
        finally:
            for number in signals:
                loop.remove_signal_handler(number)
        _log.info("stopping: calls in flight have %g s to finish", settings.grace)


@asynccontextmanager
async def running(
    models: Models,
    settings: ServerSettings = ANY_PORT,
    *,
    new_policies: AsyncIterator[LanguageModel] | None = None,
) -> AsyncIterator[str]:
    """Serve in this event loop while the context is open; gives the address. Arguments and errors as `serve`."""
    host = settings.host
    check_host(host, insecure=settings.insecure)
    metrics = ServerMetrics()
    batcher = Batcher(
        models,
        max_batch_tokens=settings.max_batch_tokens,
        max_waiting_tokens=settings.max_waiting_tokens,
        metrics=metrics,
    )
    # Here and below, lest the first policy be kept for as long as the server runs.
    del models
    kernels = ThreadPoolExecutor(max_workers=1, thread_name_prefix="esscher-kernels")
    try:
        with _served(metrics, host, settings.metrics_port):
            async with batcher, _following(batcher, new_policies):
                server, health = _build(Servicer(batcher, kernels, settings), metrics, settings.max_message_bytes)
                address = _listen(server, host, settings.port)
                await server.start()
                await health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
                _log.info("serving %s at %s", ", ".join(batcher.models.names), address)
                try:
                    yield address
                finally:
                    await health.enter_graceful_shutdown()
                    await server.stop(settings.grace)
    finally:
        kernels.shutdown(wait=False, cancel_futures=True)


@contextmanager
def running_in_thread(models: Models, settings: ServerSettings = ANY_PORT) -> Iterator[str]:
    """Serve from a thread of this process while the context is open; gives the address.

    For tests, notebooks and demonstrations. Arguments and errors as `serve`.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="esscher-server", daemon=True)
    thread.start()
    server = running(models, settings)
    try:
        address = asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result()
        try:
            yield address
        finally:
            asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def check_host(host: str, *, insecure: bool) -> None:
    """Raise `ValueError` if other machines could reach `host` and nobody said that they may; or it is no host."""
    check_name(host)
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not (loopback or insecure):
        raise ValueError(
            f"host is {host!r}, which other machines may reach, and calls are neither encrypted nor authenticated: "
            "listen on 127.0.0.1, or say --insecure (insecure=True) on a network you trust"
        )


@contextmanager
def _served(metrics: ServerMetrics, host: str, port: int | None) -> Iterator[None]:
    if port is None:
        yield
        return
    _check_port("metrics_port", port)
    with metrics.served(host, port) as bound:
        _log.info("serving metrics at http://%s/metrics", _join(host, bound))
        yield


@asynccontextmanager
async def _following(batcher: Batcher, policies: AsyncIterator[LanguageModel] | None) -> AsyncIterator[None]:
    """Take each new policy while the context is open."""
    if policies is None:
        yield
        return
    task = asyncio.create_task(_follow(batcher, policies))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _follow(batcher: Batcher, policies: AsyncIterator[LanguageModel]) -> None:
    try:
        async for policy in policies:
            _log.info("policy %s is revision %d", policy.name, batcher.replace_policy(policy))
    except Exception:
        _log.exception("no new policies are taken any more: revision %d stays", batcher.models.policy_revision)


def _build(
    servicer: Servicer, metrics: ServerMetrics, max_message_bytes: int
) -> tuple[grpc.aio.Server, health_aio.HealthServicer]:
    options = [
        ("grpc.max_receive_message_length", max_message_bytes),
        *TRANSPORT,
        # Two servers on one port would share its calls at random.
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.aio.server(options=options)
    guard = Guard(server, metrics, max_bytes=REQUESTS_AT_ONCE * max_message_bytes)
    add_ScoringServiceServicer_to_server(servicer, guard)  # type: ignore[no-untyped-call]  # as generated
    health = health_aio.HealthServicer()
    # It asks of a server no more than where to add handlers.
    health_pb2_grpc.add_HealthServicer_to_server(health, guard)  # type: ignore[arg-type]
    return server, health


def _listen(server: grpc.aio.Server, host: str, port: int) -> str:
    _check_port("port", port)
    # One address rather than all that the name stands for, some of which may be taken.
    host = "127.0.0.1" if host == "localhost" else host
    try:
        bound = server.add_insecure_port(_join(host, port))
    except RuntimeError:
        bound = 0
    if not bound:
        raise OSError(
            f"cannot listen on {_join(host, port)}: the port is in use, or the address is not this machine's; "
            "choose another port, or 0 for any free one"
        )
    return _join(host, bound)


def _check_port(name: str, port: int) -> None:
    if not 0 <= port <= 65535:
        raise ValueError(f"{name} is {port}: it must be between 0 (any free one) and 65535")


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
