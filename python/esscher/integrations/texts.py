"""Rewards of texts that come one at a time, from several threads: they are sent to a server together."""

from __future__ import annotations

import os
import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from esscher.client import Client, ColumnError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ADDRESS_VARIABLE = "ESSCHER_ADDRESS"


def rewards_of(
    client: Client, prompts: Sequence[str], completions: Sequence[str], *, parse_special_tokens: bool
) -> NDArray[np.float64]:
    """Ask a server for the rewards of texts [N]; a prompt that follows itself is sent once.

    Parameters
    ----------
    client
        Whom to ask.
    prompts, completions
        Texts [N], a prompt for each completion. No special tokens are put around them; an empty completion is an end
        token.
    parse_special_tokens
        Whether a special token that is spelled out in a text becomes that token, which rewards do not see.

    Raises
    ------
    ColumnError
        If the server's reward fails.
    ValueError
        If the server has no reward or refuses the texts; and what every method of `Client` raises.
    """
    starts = [i for i, prompt in enumerate(prompts) if i == 0 or prompt != prompts[i - 1]]
    samples = client.tokenize(
        [prompts[i] for i in starts],
        completions,
        [*starts, len(prompts)],
        add_special_tokens=False,
        parse_special_tokens=parse_special_tokens,
        # A completion has a token at least, and one that shows no text ended at once.
        terminated=np.array([not text for text in completions]) if "" in completions else None,
    )
    return client.score(samples, ("rewards",)).need("rewards", why="the server was asked for them")


@dataclass(frozen=True, eq=False)
class _Request:
    prompt: str
    completion: str
    reward: Future[float] = field(default_factory=Future)


class RewardBatcher:
    """Asks a server for rewards of texts that come from several threads or coroutines: those that wait go together.

    Parameters
    ----------
    address
        The server's: "host:port".
    timeout
        Seconds that a request to the server may take, waits and repetitions included (see `Client`).
    parse_special_tokens
        Whether a special token that is spelled out in a text becomes that token.
    wait
        Seconds to wait for others once one has come.
    most
        How many go together.

    Raises
    ------
    ValueError
        As `Client`.
    """

    def __init__(
        self,
        address: str,
        timeout: float,
        *,
        parse_special_tokens: bool,
        wait: float = 0.005,
        most: int = 256,
    ) -> None:
        self._client = Client(address, timeout)
        self._timeout, self._wait, self._most = timeout, wait, most
        self._parse = parse_special_tokens
        self._requests: queue.Queue[_Request | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="esscher-rewards", daemon=True)
        self._thread.start()

    def submit(self, prompt: str, completion: str) -> Future[float]:
        """Ask for the reward of a completion; the future raises what `rewards_of` does."""
        request = _Request(prompt, completion)
        self._requests.put(request)
        return request.reward

    def close(self, seconds: float = 5.0) -> None:
        """Finish what was submitted, as far as `seconds` allow, and end; what is under way then fails."""
        self._requests.put(None)
        self._thread.join(seconds)
        self._client.close()

    def _run(self) -> None:
        while batch := self._collect():
            # Equal prompts side by side are sent once.
            batch.sort(key=lambda request: request.prompt)
            self._answer([r for r in batch if r.reward.set_running_or_notify_cancel()], time.monotonic())

    def _collect(self) -> list[_Request]:
        """Wait for a request, and then for others; none if it is time to end."""
        batch: list[_Request] = []
        end = None
        while len(batch) < self._most:
            try:
                request = self._requests.get(timeout=None if end is None else max(end - time.monotonic(), 0.0))
            except queue.Empty:
                break
            if request is None:
                if batch:
                    self._requests.put(None)  # after these
                break
            batch.append(request)
            end = end or time.monotonic() + self._wait
        return batch

    def _answer(self, batch: Sequence[_Request], started: float) -> None:
        """Give each its reward; where the server cannot say which text is at fault, ask for halves."""
        if not batch:
            return
        try:
            rewards = rewards_of(
                self._client,
                [request.prompt for request in batch],
                [request.completion for request in batch],
                parse_special_tokens=self._parse,
            )
        except (ValueError, ColumnError) as error:
            if len(batch) > 1 and time.monotonic() - started < self._timeout:
                middle = len(batch) // 2
                self._answer(batch[:middle], started)
                self._answer(batch[middle:], started)
            else:
                _fail(batch, error)
        except Exception as error:  # whatever it is, the callers wait
            _fail(batch, error)
        else:
            for request, reward in zip(batch, rewards.tolist(), strict=True):
                request.reward.set_result(reward)


def _fail(batch: Sequence[_Request], error: Exception) -> None:
    for request in batch:
        request.reward.set_exception(error)


def shared_batcher(address: str | None, timeout: float, *, parse_special_tokens: bool) -> RewardBatcher:
    """Return this process's batcher for a server, made when it is first asked for.

    Raises
    ------
    ValueError
        If neither `address` nor the environment variable ESSCHER_ADDRESS says where the server is; and as `Client`.
    """
    address = address or os.environ.get(ADDRESS_VARIABLE)
    if not address:
        raise ValueError(
            f"no address: say where the server is with address='host:port', or in the environment variable "
            f"{ADDRESS_VARIABLE}; `esscher serve --prior PATH --reward module:function` starts one"
        )
    # Threads that come at once share one; a process that was forked has none of its parent's threads.
    with _one_at_a_time:
        return _batcher(os.getpid(), address, timeout, parse_special_tokens)


_one_at_a_time = threading.Lock()


@cache
def _batcher(_process: int, address: str, timeout: float, parse_special_tokens: bool) -> RewardBatcher:
    return RewardBatcher(address, timeout, parse_special_tokens=parse_special_tokens)
