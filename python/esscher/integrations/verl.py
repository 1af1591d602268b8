"""Rewards for verl from a server: `compute_score`, called with one completion at a time.

verl calls it from many threads or coroutines; what comes within a few milliseconds goes to the server in one request.
verl has no reward that is missing, and a wrong one trains the wrong policy: where there is none, an error is raised.
Of verl's reward managers, "naive" and "dapo" let it through, and the run stops; "rate_limited" makes it a reward of 0.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from esscher.integrations.texts import shared_batcher
from esscher.lm.conversations import text_of
from esscher.wire.addresses import check_address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

# Long enough for a server that is restarted, which the client waits for.
TIMEOUT = 300.0


def compute_score(
    data_source: str,  # noqa: ARG001 - verl names its arguments
    solution_str: str,
    ground_truth: Any,  # noqa: ARG001
    extra_info: Mapping[str, Any] | None = None,
    *,
    address: str | None = None,
    timeout: float = TIMEOUT,
    **others: Any,  # noqa: ARG001
) -> float:
    """Return the server's reward of one completion.

    Parameters
    ----------
    data_source, ground_truth
        As verl gives them; not used: the server's reward knows prompt and completion.
    solution_str
        The completion's text.
    extra_info
        Its "prompt" is the prompt: a text, or messages, whose contents are joined by line breaks. Without one the
        prompt is empty.
    address
        The server's, "host:port"; that of the environment variable ESSCHER_ADDRESS if not given.
    timeout
        Seconds that a request to the server may take, waits for a server that is restarted included.
    others
        What else verl passes; not used.

    Raises
    ------
    ValueError
        If it is not said where the server is, the server has no reward, or it refuses the texts.
    ConnectionError, TimeoutError, RuntimeError
        If no server answers, it takes too long, or its reward fails.
    """
    return _submit(solution_str, extra_info, address, timeout).result()


async def compute_score_async(
    data_source: str,  # noqa: ARG001 - verl names its arguments
    solution_str: str,
    ground_truth: Any,  # noqa: ARG001
    extra_info: Mapping[str, Any] | None = None,
    *,
    address: str | None = None,
    timeout: float = TIMEOUT,
    **others: Any,  # noqa: ARG001
) -> float:
    """As `compute_score`, awaited: verl's reward loop then has all completions of a worker under way at once."""
    return await asyncio.wrap_future(_submit(solution_str, extra_info, address, timeout))


def make_compute_score(address: str, timeout: float = TIMEOUT) -> Callable[..., float]:
    """Return `compute_score` of one server; arguments are those of `compute_score`."""
    return partial(compute_score, address=check_address(address), timeout=timeout)


def _submit(
    solution_str: str, extra_info: Mapping[str, Any] | None, address: str | None, timeout: float
) -> Future[float]:
    prompt = text_of((extra_info or {}).get("prompt", ""))
    # verl decodes without special tokens: one that is spelled out in a text is text.
    return shared_batcher(address, timeout, parse_special_tokens=False).submit(prompt, solution_str)
