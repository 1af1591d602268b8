"""The client whose calls block until the answer is there."""

from __future__ import annotations

import queue
import time
from typing import TYPE_CHECKING, Any, Self

import grpc

from esscher.client.answers import Answer, Inquiry, samples_of
from esscher.client.connection import OPTIONS, Connection, methods
from esscher.client.delivery import Delivery, Window
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


class Client(Connection):
    """Calls a server; may be shared between threads.

    Parameters
    ----------
    address
        Where the server listens: "host:port".
    timeout
        Seconds from when a request is first sent until its answer must be there, waits and repetitions included. Large
        samples are sent as several requests, of which each has this time.
    window
        How many of them are under way at a time.

    Raises
    ------
    ValueError
        If `address` is not "host:port", `timeout` is not a positive number, or `window` is below 1.

    Notes
    -----
    A request that finds the server busy, restarting or gone is sent again, after pauses that grow, as long as `timeout`
    allows; one that made it fail is sent once more. A server that has never answered is not waited for.

    Every method raises `ConnectionError` if no server answers, `TimeoutError` if it takes too long, `ServerBusyError`
    if it has too much work waiting all that time, `ValueError` if it refuses the samples, and `RuntimeError` if it
    fails.
    """

    def __init__(self, address: str, timeout: float = 60.0, *, window: int = 4) -> None:
        super().__init__(address, timeout, window)
        self._channel = grpc.insecure_channel(address, options=OPTIONS)
        self._methods = methods(self._channel)

    def info(self) -> ServerInfo:
        """Ask what the server holds and the limits it sets."""
        self._known = self._send(info_call())
        return self._known

    def score(
        self,
        samples: Samples,
        columns: Sequence[str] = ("prior_logprobs",),
        *,
        progress: Callable[[int], object] | None = None,
    ) -> Samples:
        """Return `samples` with the columns asked for, in place of any they had.

        As `ask`, for who needs nothing but the numbers.

        Raises
        ------
        ColumnError
            If a column could not be computed; it has the samples with the others.
        """
        return samples_of(self.ask(samples, columns, progress=progress))

    def ask(
        self,
        samples: Samples,
        columns: Sequence[str] = ("prior_logprobs",),
        *,
        progress: Callable[[int], object] | None = None,
    ) -> Answer:
        """Ask for columns of samples: what could be computed, what could not, and by which models.

        The wire is float32: log-probs of a model that computes in float64 are rounded to the nearest float32.

        Samples of any size are sent in parts that the server takes. Parts may be answered by different revisions of a
        policy that is replaced meanwhile: the answer says the lowest and the highest.

        Parameters
        ----------
        samples
            The completions; of their columns, `terminated` alone is sent.
        columns
            Names of columns of `Samples`: prior_logprobs, policy_logprobs, token_kl, policy_entropy, rewards.
        progress
            Called after each part with the number of completions that are done.

        Raises
        ------
        ValueError
            If a column is unknown, a single completion is larger than the server accepts (nothing has been sent then),
            or the server refuses the samples; the message names which.
        RuntimeError
            If the server changed its prior between parts.
        """
        names = check_columns(columns)
        inquiry = Inquiry(samples, names, self._known or self.info(), progress)
        self._send_all(inquiry.calls(), min(self.window, len(inquiry.parts)), inquiry.add)
        return inquiry.answer()

    def evaluate(self, samples: Samples, target: Target | None = None, *, proposal: Proposal = "policy") -> Report:
        """Return what `esscher.evaluate` says of the samples, computed by the server.

        The wire is float32: on float32 columns the report is the same bit for bit, float64 ones are rounded first.
        A report needs all samples at once, so they are sent as one request.
        """
        return self._send_sized(evaluate_call(samples, target, proposal))

    def tokenize(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        groups: ArrayLike,
        **options: Unpack[TokenizeOptions],
    ) -> Samples:
        """Return texts as samples, encoded by the server's tokenizer.

        Parameters
        ----------
        prompts
            The prompts' texts [P].
        completions
            The completions' texts [N], those of one prompt side by side; each is encoded by itself.
        groups
            Offsets [P + 1] of each prompt's completions, as in `Samples`.
        options
            See `TokenizeOptions`; ``add_special_tokens`` and ``parse_special_tokens`` are needed.
        """
        return self._send_sized(tokenize_call(prompts, completions, groups, **options))

    def kl_estimators(
        self, policy_logprobs: Ragged, prior_logprobs: Ragged
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return k1, k2 and k3 of each completion [N], as `esscher.kl_estimators` with ``precision="mixed"``.

        Parameters
        ----------
        policy_logprobs, prior_logprobs
            Per-token log-probs of the same completions, in nats; the wire is float32.
        """
        k1, k2, k3 = self._send_sized(kl_call(policy_logprobs, prior_logprobs))
        return k1, k2, k3

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send_sized(self, call: Call[Result]) -> Result:
        check_size(call.request, (self._known or self.info()).max_message_bytes)
        return self._send(call)

    def _send(self, call: Call[Result]) -> Result:
        delivery = self._delivery(call)
        while True:
            try:
                response = self._methods[call.method](call.request, timeout=delivery.seconds_left())
            except grpc.RpcError as error:
                time.sleep(delivery.fail(error))
            else:
                return delivery.read(response)

    def _send_all(self, calls: Iterator[Call[Result]], size: int, done: Callable[[Result], object]) -> None:
        if size == 1:
            for call in calls:
                done(self._send(call))
        else:
            self._send_window(Window((self._delivery(call) for call in calls), size), done)

    def _send_window(self, window: Window[Result], done: Callable[[Result], object]) -> None:
        in_flight: dict[Any, Delivery[Result]] = {}
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        try:
            while not window.is_empty():
                for delivery in window.take_due():
                    future = self._start(delivery)
                    in_flight[future] = delivery
                    # From a thread of gRPC's; all else is done in the caller's.
                    future.add_done_callback(ended.put)
                try:
                    future = ended.get(timeout=window.pause())
                except queue.Empty:
                    continue
                delivery = in_flight.pop(future)
                if future.code() is grpc.StatusCode.OK:
                    done(delivery.read(future.result()))
                    window.finish()
                else:
                    delivery.fail(future)
                    window.retry(delivery)
        finally:
            for future in in_flight:
                future.cancel()

    def _start(self, delivery: Delivery[Any]) -> Any:
        method = self._methods[delivery.call.method]
        return method.future(delivery.call.request, timeout=delivery.seconds_left())
