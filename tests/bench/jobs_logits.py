"""What a token's logits tell: log-prob, entropy, and with a prior's logits the exact KL."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from trl.trainer.utils import entropy_from_logits, selective_log_softmax

import esscher
from bench import data
from bench.measure import Job, Peer, compiled

TOKENS, VOCABULARY = 256, 151_936
FLOAT32_SUMS = 1e-4  # what the peers' float32 sums over a vocabulary lose


def policy_alone() -> Job:
    logits, token_ids = _logits(1, torch.float32), _token_ids()
    return Job(
        "token log-prob, entropy: f32 [256, 151936]",
        lambda: esscher.token_scores(logits, token_ids, threads=1)[:2],
        (
            Peer("TRL", partial(_trl, logits, token_ids), (60, 20), FLOAT32_SUMS),
            Peer("torch.compile", compiled(_torch, logits, token_ids), (4.5, 4.5), FLOAT32_SUMS),
        ),
        bytes=logits.nbytes,
    )


def with_prior(dtype: torch.dtype) -> Job:
    logits, prior_logits, token_ids = _logits(1, dtype), _logits(2, dtype), _token_ids()
    arguments = logits, prior_logits, token_ids
    eager = Peer("torch eager", partial(_torch_with_prior, *arguments), (55, 15), FLOAT32_SUMS)
    return Job(
        f"token log-probs, entropy, exact KL: {str(dtype)[6:]} [256, 151936] x 2",
        lambda: esscher.token_scores(logits, token_ids, prior_logits, threads=1),
        (
            *((eager,) if dtype == torch.float32 else ()),
            Peer("torch.compile", compiled(_torch_with_prior, *arguments), (4.5, 4.5), FLOAT32_SUMS),
        ),
        bytes=logits.nbytes + prior_logits.nbytes,
    )


def _logits(seed: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(data.logits(TOKENS, VOCABULARY, seed)).to(dtype)


def _token_ids() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, VOCABULARY, TOKENS))


def _trl(logits: torch.Tensor, token_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return selective_log_softmax(logits, token_ids), entropy_from_logits(logits)


def _torch(logits: torch.Tensor, token_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    logprobs = logits.float().log_softmax(-1)
    return logprobs.gather(-1, token_ids[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)


def _torch_with_prior(
    logits: torch.Tensor, prior_logits: torch.Tensor, token_ids: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    policy, prior = logits.float().log_softmax(-1), prior_logits.float().log_softmax(-1)
    logprob, prior_logprob = (logprobs.gather(-1, token_ids[:, None])[:, 0] for logprobs in (policy, prior))
    probs = policy.exp()
    return logprob, -(probs * policy).sum(-1), prior_logprob, (probs * (policy - prior)).sum(-1)


JOBS = {
    "logits": policy_alone,
    "logits-prior": partial(with_prior, torch.float32),
    "logits-prior-bf16": partial(with_prior, torch.bfloat16),
}
