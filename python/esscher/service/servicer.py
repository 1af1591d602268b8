"""The service's three methods."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from esscher import _core
from esscher.evaluate import evaluate
from esscher.service.codec import decode_proposal, decode_samples, decode_target, encode_logprobs
from esscher.service.report_codec import encode_report
from esscher.v1 import scoring_service_pb2 as pb
from esscher.v1.scoring_service_pb2_grpc import ScoringServiceServicer

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import grpc

    from esscher.lm.base import LanguageModel
    from esscher.service.batcher import Batcher

    Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Limits:
    """How much the server takes on.

    Attributes
    ----------
    max_message_bytes
        The largest request.
    max_batch_tokens
        Tokens per call of the model, each completion counted with its prompt.
    max_waiting_tokens
        Tokens that may wait for the model; beyond them calls are refused.
    """

    max_message_bytes: int = 64 * 2**20
    max_batch_tokens: int = 2**14
    max_waiting_tokens: int = 2**20


class Servicer(ScoringServiceServicer):
    """Answers calls with a model, reached through `batcher`, and with kernels, run in `kernels`.

    Methods raise ordinary exceptions; `Guard` makes a status of them.
    """

    def __init__(self, model: LanguageModel, batcher: Batcher, kernels: Executor, limits: Limits) -> None:
        self._model = model
        self._batcher = batcher
        self._kernels = kernels
        self._limits = limits

    # The methods' names are the proto's.
    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:  # noqa: ARG002, N802
        """Say what the server holds and the limits it sets."""
        return pb.GetServerInfoResponse(
            version=_core.__version__,
            model_name=self._model.name,
            vocabulary_size=self._model.vocabulary_size,
            end_token_ids=self._model.end_token_ids,
            max_tokens=self._model.max_tokens,
            max_message_bytes=self._limits.max_message_bytes,
            max_batch_tokens=self._limits.max_batch_tokens,
        )

    async def ScoreSamples(self, request: pb.ScoreSamplesRequest, context: Context) -> pb.ScoreSamplesResponse:  # noqa: N802
        """Score completions under the prior."""
        samples = await asyncio.to_thread(decode_samples, request.samples)
        scored = await self._batcher.score(samples, timeout=context.time_remaining())
        return pb.ScoreSamplesResponse(
            prior_logprobs=encode_logprobs("prior_logprobs", scored.logprobs.values),
            model_name=self._model.name,
            queue_seconds=scored.queue_seconds,
            model_seconds=scored.model_seconds,
        )

    async def EvaluateSamples(self, request: pb.EvaluateSamplesRequest, context: Context) -> pb.EvaluateSamplesResponse:  # noqa: ARG002, N802
        """Evaluate samples; a call that is cancelled while it waits for the thread is not computed."""
        return await asyncio.get_running_loop().run_in_executor(self._kernels, _evaluate, request)


def _evaluate(request: pb.EvaluateSamplesRequest) -> pb.EvaluateSamplesResponse:
    target = decode_target(request.target) if request.HasField("target") else None
    proposal = decode_proposal(request.proposal)
    report = evaluate(decode_samples(request.samples), target, proposal=proposal)
    return pb.EvaluateSamplesResponse(report=encode_report(report))
