"""The client for asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

import grpc

from esscher.client.answers import Answer, Inquiry, samples_of
from esscher.client.connection import OPTIONS, Connection, methods
from esscher.client.requests import (
    Call,
    Result,
    ServerInfo,
    check_columns,
    check_size,
    evaluate_call,
    info_call,
    kl_call,
    tokenize_call,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Unpack

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from esscher.evaluate import Report
    from esscher.evaluate.posterior import Proposal
    from esscher.lm.base import TokenizeOptions
    from esscher.ragged import Ragged
    from esscher.samples import Samples
    from esscher.target import Target


class AsyncClient(Connection):
    """`Client` for asyncio: the same methods, awaited. Made and used in one event loop.

    Parameters
    ----------
    address, timeout, window
        As for `Client`.

    Raises
    ------
    ValueError
        As `Client`.
    RuntimeError
        If no event loop is running.
    """

    def __init__(self, address: str, timeout: float = 60.0, *, window: int = 4) -> None:
        asyncio.get_running_loop()  # raises where gRPC would tie the channel to some other loop
        super().__init__(address, timeout, window)
        self._channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        self._methods = methods(self._channel)

    async def info(self) -> ServerInfo:
        """As `Client.info`."""
        self._known = await self._send(info_call())
        return self._known

    async def score(
        self,
        samples: Samples,
        columns: Sequence[str] = ("prior_logprobs",),
        *,
        progress: Callable[[int], object] | None = None,
    ) -> Samples:
        """As `Client.score`."""
        return samples_of(await self.ask(samples, columns, progress=progress))

    async def ask(
        self,
        samples: Samples,
        columns: Sequence[str] = ("prior_logprobs",),
        *,
        progress: Callable[[int], object] | None = None,
    ) -> Answer:
        """As `Client.ask`; one that is cancelled cancels what it has sent."""
        names = check_columns(columns)
        inquiry = Inquiry(samples, names, self._known or await self.info(), progress)
        await self._send_all(inquiry.calls(), min(self.window, len(inquiry.parts)), inquiry.add)
        return inquiry.answer()

    async def evaluate(
        self, samples: Samples, target: Target | None = None, *, proposal: Proposal = "policy"
    ) -> Report:
        """As `Client.evaluate`."""
        return await self._send_sized(evaluate_call(samples, target, proposal))

    async def tokenize(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        groups: ArrayLike,
        **options: Unpack[TokenizeOptions],
    ) -> Samples:
        """As `Client.tokenize`."""
        return await self._send_sized(tokenize_call(prompts, completions, groups, **options))

    async def kl_estimators(
        self, policy_logprobs: Ragged, prior_logprobs: Ragged
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """As `Client.kl_estimators`."""
        k1, k2, k3 = await self._send_sized(kl_call(policy_logprobs, prior_logprobs))
        return k1, k2, k3

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send_sized(self, call: Call[Result]) -> Result:
        check_size(call.request, (self._known or await self.info()).max_message_bytes)
        return await self._send(call)

    async def _send(self, call: Call[Result]) -> Result:
        delivery = self._delivery(call)
        while True:
            try:
                response = await self._methods[call.method](call.request, timeout=delivery.seconds_left())
            except grpc.RpcError as error:
                await asyncio.sleep(delivery.fail(error))
            else:
                return delivery.read(response)

    async def _send_all(self, calls: Iterator[Call[Result]], size: int, done: Callable[[Result], object]) -> None:
        async def send_in_turn() -> None:
            for call in calls:
                done(await self._send(call))

        if size == 1:
            await send_in_turn()
            return
        try:
            async with asyncio.TaskGroup() as turns:
                for _ in range(size):
                    turns.create_task(send_in_turn())
        except BaseExceptionGroup as errors:
            # One failure ends the others; the caller gets it as it is.
            first = errors.exceptions[0]
            raise first from first.__cause__
