"""What is asked about samples, in parts that a server takes, and the answer that comes of theirs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from esscher.client.requests import score_call
from esscher.ragged import Ragged
from esscher.wire.parts import split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from esscher.client.requests import Call, PartAnswer, ServerInfo
    from esscher.samples import Samples

# The server works on a batch at a time: a part of a few keeps it busy, and loses little if it is to be sent again.
_BATCHES_PER_PART = 4
# The largest answer: four numbers a token, and a reward that at least one token shares.
_ANSWER_BYTES = 4 * 4 + 8


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """Columns of samples, and who computed them.

    Attributes
    ----------
    samples
        The samples with the columns that were asked for, in place of any they had; without those in `unavailable`.
    unavailable
        Columns that could not be computed for some completion, each with the first reason.
    prior_name
        The prior.
    policy_name
        The policy; `None` if none was needed.
    policy_revisions
        The lowest and the highest revision of the policy: they differ if it was replaced between parts of the samples.
        (0, 0) if none was needed.
    queue_seconds
        How long a part waited for its first turn at most.
    model_seconds
        How long the models worked, summed over the parts; a batch that several share counts for each.
    """

    samples: Samples
    unavailable: dict[str, str]
    prior_name: str
    policy_name: str | None
    policy_revisions: tuple[int, int]
    queue_seconds: float
    model_seconds: float


class ColumnError(RuntimeError):
    """Columns could not be computed; the others were.

    Attributes
    ----------
    samples
        The samples with the other columns that were asked for.
    unavailable
        The columns that are missing, each with the reason.
    """

    def __init__(self, answer: Answer) -> None:
        self.samples, self.unavailable = answer.samples, answer.unavailable
        reasons = "; ".join(f"{name} ({reason})" for name, reason in answer.unavailable.items())
        super().__init__(f"the server could not compute {reasons}: the error's `samples` have the other columns")


class Inquiry:
    """One question about samples: a call for each part of them, and the answers, in whatever order they come.

    Raises
    ------
    ValueError
        If a completion is larger than the server accepts.
    """

    def __init__(
        self,
        samples: Samples,
        columns: tuple[str, ...],
        info: ServerInfo,
        progress: Callable[[int], object] | None,
    ) -> None:
        # An answer gets no larger than a request may be.
        max_tokens = min(_BATCHES_PER_PART * info.max_batch_tokens, info.max_message_bytes // _ANSWER_BYTES)
        self.parts = split(samples, max_bytes=info.max_message_bytes, max_tokens=max_tokens)
        self._samples, self._columns, self._progress = samples, columns, progress
        self._answers: list[PartAnswer] = []
        self._done = 0

    def calls(self) -> Iterator[Call[PartAnswer]]:
        """Ask for each part; its request is made when its turn comes, so that few are in memory."""
        return (score_call(part, self._columns) for part in self.parts)

    def add(self, answer: PartAnswer) -> None:
        """Keep the answer to a part, and report progress."""
        self._answers.append(answer)
        self._done += len(answer)
        if self._progress is not None:
            self._progress(self._done)

    def answer(self) -> Answer:
        """Put the answers together; raises as `merge`."""
        return merge(self._samples, self._columns, self._answers)


def merge(samples: Samples, columns: tuple[str, ...], answers: Sequence[PartAnswer]) -> Answer:
    """Put the answers to all parts of samples together, whatever their order.

    Raises
    ------
    RuntimeError
        If they are not from one prior, or hold what is no such column.
    """
    answers = sorted(answers, key=lambda answer: answer.part.begin)
    if sum(map(len, answers)) != len(samples):
        raise ConnectionError("the client was closed before all parts were answered")
    responses = [answer.response for answer in answers]
    priors = {response.prior_name for response in responses}
    if len(priors) > 1:
        raise RuntimeError(
            f"the server changed its prior, so parts do not belong together: {sorted(priors)}; try again"
        )
    policies = {(response.policy_revision, response.policy_name) for response in responses}
    if len({revision for revision, _ in policies}) < len(policies):
        raise RuntimeError(
            f"the server was restarted with another policy, so parts do not belong together: {sorted(policies)}; "
            "try again"
        )
    latest = max(responses, key=lambda response: response.policy_revision)
    unavailable = _unavailable(columns, answers)
    filled: dict[str, Any] = {name: None if name in unavailable else _join(samples, name, answers) for name in columns}
    try:
        samples = dataclasses.replace(samples, **filled)
    except ValueError as error:
        raise RuntimeError(f"the server answered what is no column: {error}") from error
    return Answer(
        samples=samples,
        unavailable=unavailable,
        prior_name=latest.prior_name,
        policy_name=latest.policy_name or None,
        policy_revisions=(min(response.policy_revision for response in responses), latest.policy_revision),
        queue_seconds=max(response.queue_seconds for response in responses),
        model_seconds=sum(response.model_seconds for response in responses),
    )


def _unavailable(columns: tuple[str, ...], answers: Sequence[PartAnswer]) -> dict[str, str]:
    """Return the first reason for each column that some part lacks."""
    reasons = {
        entry.name: answer.part.place(entry.reason)
        for answer in reversed(answers)
        for entry in answer.response.unavailable
    }
    return {name: reasons[name] for name in columns if name in reasons}


def _join(samples: Samples, name: str, answers: Sequence[PartAnswer]) -> Any:
    # A copy even of one part, since the message's bytes cannot be written to.
    values = np.concatenate([answer.columns[name] for answer in answers])
    return values if name == "rewards" else Ragged(values, samples.actions.rows.offsets)


def samples_of(answer: Answer) -> Samples:
    """Return the samples of an answer that has all columns; raises `ColumnError` if it lacks some."""
    if answer.unavailable:
        raise ColumnError(answer)
    return answer.samples
