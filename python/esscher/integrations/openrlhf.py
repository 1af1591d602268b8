"""Rewards for OpenRLHF from a server: a function for its reward file, and a small HTTP server for its remote reward.

``python -m esscher.integrations.openrlhf --server HOST:PORT --port 5000`` answers ``POST /get_reward``. A failure is
never a reward: the server answers 503, and OpenRLHF asks again.
"""

from __future__ import annotations

import argparse
import json
import signal
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from esscher.integrations.texts import RewardBatcher, shared_batcher
from esscher.wire.addresses import check_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PATH = "/get_reward"
# OpenRLHF gives up a request after 180 s.
TIMEOUT = 150.0
MAX_BODY_BYTES = 64 * 2**20
# Seconds without a byte after which a caller's connection is closed.
IDLE = 60.0


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> dict[str, Any]:  # noqa: ARG001
    """Return the rewards of completions, of the server that the environment variable ESSCHER_ADDRESS names.

    Parameters
    ----------
    queries
        Texts that begin with their prompt and go on with the completion [N].
    prompts
        The prompts [N].
    labels
        As OpenRLHF gives them; not used.

    Raises
    ------
    ValueError
        If ESSCHER_ADDRESS is not set, a query does not begin with its prompt, the server has no reward, or it refuses
        the texts.
    ConnectionError, TimeoutError, RuntimeError
        If no server answers, it takes too long, or its reward fails.
    """
    return rewards_of_queries(shared_batcher(None, TIMEOUT, parse_special_tokens=True), queries, prompts)


def rewards_of_queries(batcher: RewardBatcher, queries: Sequence[str], prompts: Sequence[str]) -> dict[str, Any]:
    """Return what OpenRLHF expects: "rewards" and "scores", which are the same here, and "extra_logs".

    Raises
    ------
    ValueError
        If there are not as many prompts as queries, or a query does not begin with its prompt.
    """
    if len(prompts) != len(queries):
        raise ValueError(f"there are {len(queries)} queries and {len(prompts)} prompts: each query needs its prompt")
    completions = [_completion_of(i, *pair) for i, pair in enumerate(zip(queries, prompts, strict=True))]
    futures = [batcher.submit(*pair) for pair in zip(prompts, completions, strict=True)]
    rewards = [future.result() for future in futures]
    return {"rewards": rewards, "scores": rewards, "extra_logs": {}}


def _completion_of(i: int, query: str, prompt: str) -> str:
    if not query.startswith(prompt):
        raise ValueError(
            f"query {i} does not begin with its prompt: was the prompt cut to fit, or changed by the tokenizer? Raise "
            "the length that prompts may have, or leave out those that are too long"
        )
    return query[len(prompt) :]


class _Refusal(Exception):  # noqa: N818 - an answer rather than an error
    """A request that is answered with a status other than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class RewardServer(ThreadingHTTPServer):
    """Answers OpenRLHF's requests for rewards.

    Parameters
    ----------
    batcher
        Where rewards come from.
    host, port
        Where to listen; port 0 picks a free one.
    max_body_bytes
        The largest request.

    Raises
    ------
    ValueError
        If the host is not a name or an IP address.
    OSError
        If the port is in use, or the address is not this machine's.
    """

    # Callers come all at once: beyond so many that wait, connections are refused.
    request_queue_size = 1024

    def __init__(
        self, batcher: RewardBatcher, host: str = "127.0.0.1", port: int = 0, max_body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        super().__init__((check_name(host), port), _Handler)
        self.batcher, self.max_body_bytes = batcher, max_body_bytes

    @property
    def url(self) -> str:
        """What to give OpenRLHF as its remote reward."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}{PATH}"


class _Handler(BaseHTTPRequestHandler):
    server: RewardServer
    protocol_version = "HTTP/1.1"
    timeout = IDLE

    def do_POST(self) -> None:
        try:
            answer = self._rewards()
        except _Refusal as refusal:
            self.close_connection = True  # what is left of the request is not read
            self._send(refusal.status, {"error": str(refusal)})
        except ValueError as error:
            self._send(400, {"error": str(error)})
        except Exception as error:  # of the server behind: OpenRLHF asks again
            self._send(503, {"error": f"{type(error).__name__}: {error}"})
        else:
            self._send(200, answer)

    def _rewards(self) -> dict[str, Any]:
        request = _parse(self._body())
        return rewards_of_queries(self.server.batcher, _texts(request, "query"), _texts(request, "prompts"))

    def _body(self) -> bytes:
        if self.path != PATH:
            raise _Refusal(404, f"there is nothing at {self.path}: POST to {PATH}")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise _Refusal(411, "the request has no Content-Length: say how many bytes it has")
        if int(length) > self.server.max_body_bytes:
            raise _Refusal(413, f"the request has {length} bytes, at most {self.server.max_body_bytes} are taken")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise _Refusal(400, f"the request ended after {len(body)} of {length} bytes")
        return body

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of single requests: there is one for each completion."""


def _parse(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except ValueError as error:
        raise ValueError(f"the request is no JSON: {error}") from error
    if not isinstance(request, dict):
        raise ValueError(f"the request is {type(request).__name__}: it must be an object with query and prompts")
    return request


def _texts(request: dict[str, Any], name: str) -> list[str]:
    texts = request.get(name)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} is missing, or no list of texts")
    return texts


@contextmanager
def serving(address: str, host: str, port: int, timeout: float) -> Iterator[RewardServer]:
    """Make the server, and close it with what is behind it; `serve_forever` is left to the caller."""
    batcher = RewardBatcher(address, timeout, parse_special_tokens=True)
    try:
        with RewardServer(batcher, host, port) as server:
            yield server
    finally:
        batcher.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m esscher.integrations.openrlhf", description="Rewards for OpenRLHF from an Esscher server."
    )
    parser.add_argument(
        "--server", required=True, metavar="HOST:PORT", help="the Esscher server, started with --reward"
    )
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (%(default)s); there is no encryption")
    parser.add_argument("--port", type=int, default=5000, help="where to listen (%(default)s); 0 picks a free port")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds the server has (%(default)s)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with serving(options.server, options.host, options.port, options.timeout) as server:
            print(f"serving rewards at {server.url}", flush=True)
            server.serve_forever()
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
