"""What a client sends and how it reads the answer; whether it waits or awaits is not decided here."""

from __future__ import annotations

from collections.abc import Callable  # noqa: TC003 - a NamedTuple reads its annotations, here and below
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

from esscher.groups import as_groups
from esscher.v1 import scoring_service_pb2 as pb
from esscher.wire.codec import (
    COLUMNS,
    LOGPROB,
    decode_samples,
    decode_values,
    encode_logprob_pair,
    encode_proposal,
    encode_samples,
    encode_target,
    encode_tokens,
)
from esscher.wire.parts import Part  # noqa: TC001
from esscher.wire.report_codec import decode_report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from esscher.evaluate import Report
    from esscher.evaluate.posterior import Proposal
    from esscher.ragged import Ragged
    from esscher.samples import Samples
    from esscher.target import Target

Result = TypeVar("Result")

_NUMBERS: dict[str, Any] = {name: number for number, name in COLUMNS.items()}


# Every method, and what it answers with.
RESPONSES: dict[str, Any] = {
    "GetServerInfo": pb.GetServerInfoResponse,
    "ScoreSamples": pb.ScoreSamplesResponse,
    "TokenizeTexts": pb.TokenizeTextsResponse,
    "EstimateKl": pb.EstimateKlResponse,
    "EvaluateSamples": pb.EvaluateSamplesResponse,
}


class ServerInfo(NamedTuple):
    """What a server holds and the limits it sets.

    Attributes
    ----------
    version
        The server's version of Esscher.
    prior_name
        What the prior is called.
    policy_name
        What the policy is called; `None` if the server has none.
    policy_revision
        How many policies the server has had, the present one included; 0 if it has none.
    reward_name
        What the reward is called; `None` if the server has none.
    columns
        The columns of `Samples` that can be asked for.
    vocabulary_size
        Token ids are below this number.
    start_token_id
        What an empty prompt begins with; `None` if an empty prompt is refused.
    end_token_ids
        Ids that end a completion.
    max_tokens
        The longest prompt and completion together.
    max_message_bytes
        The largest request.
    max_batch_tokens
        Tokens that the server works on at a time, prompts counted once.
    """

    version: str
    prior_name: str
    policy_name: str | None
    policy_revision: int
    reward_name: str | None
    columns: tuple[str, ...]
    vocabulary_size: int
    start_token_id: int | None
    end_token_ids: tuple[int, ...]
    max_tokens: int
    max_message_bytes: int
    max_batch_tokens: int


class Call(NamedTuple, Generic[Result]):
    """One call: which method, the bytes to send, how to read the answer, and where in the caller's samples it belongs.

    `place` makes indices in a refusal those of the caller's samples.
    """

    method: str
    request: bytes
    read: Callable[[Any], Result]
    place: Callable[[str], str] = str


class PartAnswer(NamedTuple):
    """The response to a part, and its columns; they share the memory of the response."""

    part: Part
    response: pb.ScoreSamplesResponse
    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.part)


def info_call() -> Call[ServerInfo]:
    """Ask what the server holds."""
    return Call("GetServerInfo", b"", _read_info)


def _read_info(response: pb.GetServerInfoResponse) -> ServerInfo:
    return ServerInfo(
        version=response.version,
        prior_name=response.prior_name,
        policy_name=response.policy_name or None,
        policy_revision=response.policy_revision,
        reward_name=response.reward_name or None,
        # A newer server may have columns that this client cannot name.
        columns=tuple(COLUMNS[number] for number in response.columns if number in COLUMNS),
        vocabulary_size=response.vocabulary_size,
        start_token_id=response.start_token_id if response.HasField("start_token_id") else None,
        end_token_ids=tuple(response.end_token_ids),
        max_tokens=response.max_tokens,
        max_message_bytes=response.max_message_bytes,
        max_batch_tokens=response.max_batch_tokens,
    )


def check_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """Return each column once; raises `ValueError` if there are none, or one that no server has."""
    if isinstance(columns, str):
        raise ValueError(f"columns is {columns!r}: it must be a sequence of names, such as ({columns!r},)")
    names = tuple(dict.fromkeys(columns))
    unknown = [name for name in names if name not in _NUMBERS]
    if unknown or not names:
        raise ValueError(f"columns is {columns!r}: it must hold at least one of {', '.join(_NUMBERS)}, and no others")
    return names


def score_call(part: Part, columns: tuple[str, ...]) -> Call[PartAnswer]:
    """Ask for columns of a part."""
    samples = part.take()
    message = encode_tokens(samples)
    if samples.terminated is not None:
        message.terminated.extend(samples.terminated.tolist())
    request = pb.ScoreSamplesRequest(samples=message, columns=[_NUMBERS[name] for name in columns])
    return Call(
        "ScoreSamples", request.SerializeToString(), lambda response: _read_part(part, columns, response), part.place
    )


def _read_part(part: Part, columns: tuple[str, ...], response: pb.ScoreSamplesResponse) -> PartAnswer:
    missing = {entry.name for entry in response.unavailable}
    return PartAnswer(
        part, response, {name: _read_column(part, name, response) for name in columns if name not in missing}
    )


def _read_column(part: Part, name: str, response: pb.ScoreSamplesResponse) -> NDArray[Any]:
    column = getattr(response, name)
    if name != "rewards":
        return decode_values(name, column, LOGPROB, part.actions, "lengths")
    if len(column) != len(part):
        raise ValueError(f"rewards has {len(column)} entries, but there are {len(part)} completions")
    return np.fromiter(column, np.float64, len(column))


def tokenize_call(
    prompts: Sequence[str],
    completions: Sequence[str],
    groups: ArrayLike,
    *,
    add_special_tokens: bool,
    parse_special_tokens: bool,
    terminated: ArrayLike | None = None,
) -> Call[Samples]:
    """Ask for token ids of texts; raises `ValueError` if groups and texts disagree."""
    for name, texts in (("prompts", prompts), ("completions", completions)):
        if isinstance(texts, str):
            raise TypeError(f"{name} is one text: give a list of them")
    sizes = as_groups(groups, len(completions)).sizes
    if len(sizes) != len(prompts):
        raise ValueError(f"groups has {len(sizes) + 1} entries, but there are {len(prompts)} prompts: it has one more")
    request = pb.TokenizeTextsRequest(
        prompts=prompts,
        group_sizes=sizes.tolist(),
        completions=completions,
        add_special_tokens=add_special_tokens,
        parse_special_tokens=parse_special_tokens,
        terminated=None if terminated is None else np.asarray(terminated).tolist(),
    )

    def read(response: pb.TokenizeTextsResponse) -> Samples:
        samples = decode_samples(response.samples)
        if not np.array_equal(samples.groups.sizes, sizes):
            raise ValueError("its groups are not those of the texts")
        return samples

    return Call("TokenizeTexts", request.SerializeToString(), read)


def kl_call(policy_logprobs: Ragged, prior_logprobs: Ragged) -> Call[tuple[NDArray[np.float64], ...]]:
    """Ask for k1, k2 and k3; raises `ValueError` if the two have different rows."""

    def read(response: pb.EstimateKlResponse) -> tuple[NDArray[np.float64], ...]:
        columns = tuple(np.array(column) for column in (response.k1, response.k2, response.k3))
        if any(len(column) != len(policy_logprobs) for column in columns):
            raise ValueError("it has not one number for each completion")
        return columns

    return Call("EstimateKl", encode_logprob_pair(policy_logprobs, prior_logprobs), read)


def evaluate_call(samples: Samples, target: Target | None, proposal: Proposal) -> Call[Report]:
    """Ask for a report; raises what the encoders raise."""
    request = pb.EvaluateSamplesRequest(
        samples=encode_samples(samples),
        target=None if target is None else encode_target(target),
        proposal=encode_proposal(proposal),
    )
    return Call("EvaluateSamples", request.SerializeToString(), lambda response: decode_report(response.report))


def check_size(request: bytes, max_message_bytes: int) -> None:
    """Raise `ValueError` if the server would not accept a request of this size."""
    size = len(request)
    if size > max_message_bytes:
        raise ValueError(
            f"the request takes {size} bytes, and the server accepts {max_message_bytes}: send fewer completions at a "
            "time, or start the server with a higher --max-message-mib"
        )


def read_response(call: Call[Result], response: Any, address: str) -> Result:
    """Read the response to a call; raises `RuntimeError` if it is none."""
    try:
        return call.read(response)
    except ValueError as error:
        raise RuntimeError(f"the server at {address} answered what is no answer to {call.method}: {error}") from error
