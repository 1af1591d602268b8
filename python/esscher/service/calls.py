"""What a client sends and how it reads the answer; whether it waits or awaits is not decided here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable  # noqa: TC003 - a NamedTuple reads its annotations
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

from esscher.ragged import Ragged
from esscher.service.codec import (
    LOGPROB,
    decode_values,
    encode_proposal,
    encode_samples,
    encode_target,
    encode_tokens,
)
from esscher.service.report_codec import decode_report
from esscher.v1 import scoring_service_pb2 as pb

if TYPE_CHECKING:
    from esscher.evaluate import Report
    from esscher.posterior import Proposal
    from esscher.samples import Samples
    from esscher.target import Target

Result = TypeVar("Result")


class ServerInfo(NamedTuple):
    """What a server holds and the limits it sets.

    Attributes
    ----------
    version
        The server's version of Esscher.
    model_name
        What the model is called.
    vocabulary_size
        Token ids are below this number.
    end_token_ids
        Ids that end a completion.
    max_tokens
        The longest prompt and completion together.
    max_message_bytes
        The largest request.
    max_batch_tokens
        Tokens per call of the model.
    """

    version: str
    model_name: str
    vocabulary_size: int
    end_token_ids: tuple[int, ...]
    max_tokens: int
    max_message_bytes: int
    max_batch_tokens: int


class Call(NamedTuple, Generic[Result]):
    """One call: which method, what to send, and how to read the response."""

    method: str
    request: Any
    read: Callable[[Any], Result]


def info_call() -> Call[ServerInfo]:
    """Ask what the server holds."""
    return Call("GetServerInfo", pb.GetServerInfoRequest(), _read_info)


def _read_info(response: pb.GetServerInfoResponse) -> ServerInfo:
    values = {name: getattr(response, name) for name in ServerInfo._fields}
    return ServerInfo(**{**values, "end_token_ids": tuple(response.end_token_ids)})


def score_call(samples: Samples) -> Call[Samples]:
    """Ask for the prior's log-probs, to be put into `samples`."""

    def read(response: pb.ScoreSamplesResponse) -> Samples:
        offsets = samples.completions.offsets
        values = decode_values("prior_logprobs", response.prior_logprobs, LOGPROB, int(offsets[-1]), "lengths")
        # A copy, since the message's bytes cannot be written to.
        return dataclasses.replace(samples, prior_logprobs=Ragged(values.astype(np.float32), offsets))

    return Call("ScoreSamples", pb.ScoreSamplesRequest(samples=encode_tokens(samples)), read)


def evaluate_call(samples: Samples, target: Target | None, proposal: Proposal) -> Call[Report]:
    """Ask for a report; raises what the encoders raise."""
    request = pb.EvaluateSamplesRequest(
        samples=encode_samples(samples),
        target=None if target is None else encode_target(target),
        proposal=encode_proposal(proposal),
    )
    return Call("EvaluateSamples", request, lambda response: decode_report(response.report))


def check_size(request: Any, max_message_bytes: int) -> None:
    """Raise `ValueError` if the server would not accept a request of this size."""
    size = request.ByteSize()
    if size > max_message_bytes:
        raise ValueError(
            f"samples take {size} bytes, and the server accepts {max_message_bytes} at a time: send fewer completions "
            "at a time, or start the server with a higher limit"
        )


def read_response(call: Call[Result], response: Any, address: str) -> Result:
    """Read the response to a call; raises `RuntimeError` if it is none."""
    try:
        return call.read(response)
    except ValueError as error:
        raise RuntimeError(f"the server at {address} answered what is no answer to {call.method}: {error}") from error
