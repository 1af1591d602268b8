"""The service's methods."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np

from esscher import _core
from esscher.divergence import kl_estimators
from esscher.evaluate import evaluate
from esscher.lm.base import NoTokenizerError, TextModel
from esscher.v1 import report_pb2
from esscher.v1 import scoring_service_pb2 as pb
from esscher.v1.scoring_service_pb2_grpc import ScoringServiceServicer
from esscher.wire.codec import (
    TOKEN_COLUMNS,
    decode_columns,
    decode_groups,
    decode_logprob_pair,
    decode_proposal,
    decode_samples,
    decode_target,
    encode_logprobs,
    encode_samples,
)
from esscher.wire.report_codec import encode_report

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import grpc

    from esscher.lm.base import LanguageModel
    from esscher.ragged import Ragged
    from esscher.samples import Samples
    from esscher.server.batcher import Batcher, ScoredCall
    from esscher.server.settings import ServerSettings

    Context = grpc.aio.ServicerContext[Any, Any]


# Bytes of a column that the kernel is done with in a few tenths of a millisecond.
AT_ONCE_BYTES = 2 * 2**20


class Servicer(ScoringServiceServicer):
    """Answers calls with models, reached through `batcher`, and with kernels, run in `kernels`.

    Methods raise ordinary exceptions; `Guard` makes a status of them.
    """

    def __init__(self, batcher: Batcher, kernels: Executor, settings: ServerSettings) -> None:
        self._batcher = batcher
        self._kernels = kernels
        self._settings = settings

    # The methods' names are the proto's.
    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:  # noqa: ARG002, N802
        """Say what the server holds and the limits it sets."""
        models = self._batcher.models
        prior, policy, reward = models.prior, models.policy, models.reward
        return pb.GetServerInfoResponse(
            version=_core.__version__,
            prior_name=prior.name,
            vocabulary_size=prior.vocabulary_size,
            end_token_ids=prior.end_token_ids,
            max_tokens=prior.max_tokens if policy is None else min(prior.max_tokens, policy.max_tokens),
            max_message_bytes=self._settings.max_message_bytes,
            max_batch_tokens=self._settings.max_batch_tokens,
            policy_name="" if policy is None else policy.name,
            policy_revision=models.policy_revision,
            reward_name="" if reward is None else reward.name,
            columns=[f"COLUMN_{name.upper()}" for name in models.columns],
            start_token_id=prior.start_token_id,
        )

    async def ScoreSamples(self, request: pb.ScoreSamplesRequest, context: Context) -> pb.ScoreSamplesResponse:  # noqa: N802
        """Compute columns for completions."""
        samples, columns = await asyncio.to_thread(_decode, request)
        scored = await self._batcher.score(samples, columns, caller=context.peer(), timeout=context.time_remaining())
        return await asyncio.to_thread(_encode, scored)

    async def TokenizeTexts(self, request: pb.TokenizeTextsRequest, context: Context) -> pb.TokenizeTextsResponse:  # noqa: ARG002, N802
        """Make samples of texts."""
        prior = self._batcher.models.prior
        return await asyncio.get_running_loop().run_in_executor(self._kernels, _tokenize, prior, request)

    async def EstimateKl(self, request: pb.EstimateKlRequest, context: Context) -> pb.EstimateKlResponse:  # noqa: ARG002, N802
        """Compute k1, k2 and k3; at once where a thread would cost more time than it saves."""
        policy, prior = decode_logprob_pair(request)
        if policy.values.nbytes + policy.offsets.nbytes <= AT_ONCE_BYTES:
            return _estimate_kl(policy, prior, threads=1)
        return await asyncio.get_running_loop().run_in_executor(self._kernels, _estimate_kl, policy, prior)

    async def EvaluateSamples(self, request: pb.EvaluateSamplesRequest, context: Context) -> pb.EvaluateSamplesResponse:  # noqa: ARG002, N802
        """Evaluate samples; a call that is cancelled while it waits for the thread is not computed."""
        return await asyncio.get_running_loop().run_in_executor(self._kernels, _evaluate, request)


def _decode(request: pb.ScoreSamplesRequest) -> tuple[Samples, tuple[str, ...]]:
    return decode_samples(request.samples), decode_columns(request.columns)


def _encode(scored: ScoredCall) -> pb.ScoreSamplesResponse:
    columns, models = scored.columns, scored.models
    policy = models.policy if scored.asked_policy else None
    tokens: dict[str, Any] = {name: encode_logprobs(name, columns[name]) for name in TOKEN_COLUMNS if name in columns}
    return pb.ScoreSamplesResponse(
        **tokens,
        rewards=columns["rewards"].tolist() if "rewards" in columns else (),
        unavailable=[report_pb2.Unavailable(name=name, reason=why) for name, why in scored.unavailable.items()],
        prior_name=models.prior.name,
        policy_name="" if policy is None else policy.name,
        policy_revision=0 if policy is None else models.policy_revision,
        queue_seconds=scored.queue_seconds,
        model_seconds=scored.model_seconds,
    )


def _tokenize(prior: LanguageModel, request: pb.TokenizeTextsRequest) -> pb.TokenizeTextsResponse:
    for name in ("add_special_tokens", "parse_special_tokens"):
        if not request.HasField(name):
            raise ValueError(f"{name} is not set: say what becomes of special tokens")
    if not isinstance(prior, TextModel):
        raise NoTokenizerError(f"{prior.name} has no tokenizer: send token ids to ScoreSamples")
    samples = prior.tokenize(
        request.prompts,
        request.completions,
        decode_groups(request.group_sizes, len(request.prompts), len(request.completions), "prompts", "completions"),
        add_special_tokens=request.add_special_tokens,
        parse_special_tokens=request.parse_special_tokens,
        terminated=np.array(request.terminated, np.bool_) if request.terminated else None,
    )
    return pb.TokenizeTextsResponse(samples=encode_samples(samples))


def _estimate_kl(policy: Ragged, prior: Ragged, threads: int | None = None) -> pb.EstimateKlResponse:
    # As precise as the columns are.
    k1, k2, k3, _ = kl_estimators(policy, prior, precision="mixed", threads=threads)
    return pb.EstimateKlResponse(k1=k1.tolist(), k2=k2.tolist(), k3=k3.tolist())


def _evaluate(request: pb.EvaluateSamplesRequest) -> pb.EvaluateSamplesResponse:
    target = decode_target(request.target) if request.HasField("target") else None
    proposal = decode_proposal(request.proposal)
    report = evaluate(decode_samples(request.samples), target, proposal=proposal)
    return pb.EvaluateSamplesResponse(report=encode_report(report))
