"""The whole job once, on a real language model: serve a prior, play the trainer, score and evaluate over gRPC.

The policy is the prior under a hidden instruction: it was never trained, but it is a policy with exact log-probs whose
reward, KL and distance from the target are real numbers.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.client import Client
from esscher.divergence import sequence_logprobs
from esscher.lm.packaged import resolve
from esscher.lm.prompts import NEUTRAL_PROMPTS
from esscher.lm.rewards import FunctionReward, sentiment
from esscher.lm.transformers import TransformersLM
from esscher.report import digits
from esscher.target import Tilt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from esscher.evaluate import Report
    from esscher.samples import Samples

INSTRUCTION = "Good news: "
NEW_TOKENS = 16


@dataclass(frozen=True)
class Demo:
    """What to run: a model, the strength of the KL penalty, completions a prompt, and a seed."""

    model: str
    beta: float
    completions: int
    seed: int


@dataclass(frozen=True, eq=False)
class DemoResult:
    """The policy's scored samples, its report, the prior's, and how to turn token ids into text."""

    samples: Samples
    report: Report
    prior_report: Report
    decode: Callable[[Sequence[int]], str]


def run_demo(demo: Demo, progress: Callable[[str], None]) -> DemoResult:
    """Serve, sample, score, evaluate; `progress` is told what is being done."""
    folder = str(resolve(demo.model, notify=progress))
    progress(f"starting a server that holds {demo.model} as prior, and loading it once more as the policy")
    with _server(folder) as server:
        lm = TransformersLM.load(folder)
        with Client(_address(server), timeout=600.0) as client:
            return _play_trainer(demo, lm, client, progress)


def _play_trainer(demo: Demo, lm: TransformersLM, client: Client, progress: Callable[[str], None]) -> DemoResult:
    rng, target = np.random.default_rng(demo.seed), Tilt(demo.beta)
    prompts, instructed = lm.encode(NEUTRAL_PROMPTS), lm.encode([INSTRUCTION + prompt for prompt in NEUTRAL_PROMPTS])
    progress(f"sampling {demo.completions} completions of {len(NEUTRAL_PROMPTS)} prompts from the policy")
    drawn = lm.sample(instructed, demo.completions, NEW_TOKENS, rng)
    progress("sampling as many from the prior, to compare")
    prior_drawn = lm.sample(prompts, demo.completions, NEW_TOKENS, rng)
    progress("scoring the policy's completions under the server's prior")
    reward = FunctionReward("sentiment", sentiment, lm)
    scored = client.score(replace(drawn, prompts=prompts, rewards=reward(drawn)))
    progress("evaluating")
    rewarded = replace(prior_drawn, rewards=reward(prior_drawn))
    return DemoResult(
        samples=scored,
        report=client.evaluate(scored, target),
        prior_report=client.evaluate(rewarded, target, proposal="prior"),
        decode=lambda ids: lm.decode([ids])[0],
    )


@contextmanager
def _server(folder: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``esscher serve`` in a process of its own, on a free port."""
    command = [sys.executable, "-m", "esscher", "serve", "--prior", folder, "--port", "0"]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as server,
    ):
        try:
            yield server
        except ConnectionError as error:
            log.seek(0)
            raise ConnectionError(f"{error}; the server said: {log.read().strip()}") from error
        finally:
            server.terminate()


def _address(server: subprocess.Popen[str]) -> str:
    """Wait until the server says where it listens."""
    line = server.stdout.readline() if server.stdout else ""
    if not line:
        raise ConnectionError("the server did not start")
    return line.split()[-1]


def compare(result: DemoResult) -> str:
    """Compare the policy's samples with the prior's: two estimates of log Z, and J beside its bound, in sentences."""
    policy, prior = result.report.target, result.prior_report.target
    if policy is None or prior is None or policy.objective is None or prior.objective_bound is None:
        raise ValueError("the reports have no objective: both need a Tilt, and the first the policy's samples")
    j, bound = policy.objective, prior.objective_bound
    # Of few completions a prompt the bound has no error, as what it is biased by is not small: J's own is left.
    errors = (j.value - bound.value) / (j.stderr**2 + np.nan_to_num(bound.stderr) ** 2) ** 0.5
    verdict = (
        "J is below it, or within two standard errors" if errors <= 2 else f"J is {errors:.1f} standard errors above"
    )
    return (
        f"log Z from the policy's completions: {digits.estimate(policy.log_z)} nats; from as many of the prior's: "
        f"{digits.estimate(prior.log_z)}.\n"
        f"J of the policy: {digits.estimate(j)}; its bound, beta log Z from the prior's completions: "
        f"{digits.estimate(bound)}: {verdict}."
    )


class Example(NamedTuple):
    """A completion with its prompt, its reward, its log-probs, and its weight relative to equal ones."""

    prompt: str
    completion: str
    reward: float
    log_policy: float
    log_prior: float
    weight: float


def examples(result: DemoResult, n: int = 5) -> list[Example]:
    """Return completions from the heaviest to the lightest, at equal distances."""
    samples, weights = result.samples, result.report.per_completion.relative_weights
    if samples.policy_logprobs is None or samples.prior_logprobs is None or samples.rewards is None or weights is None:
        raise ValueError("the samples lack log-probs, rewards or weights")
    policy, prior = sequence_logprobs(samples.policy_logprobs), sequence_logprobs(samples.prior_logprobs)
    return [
        Example(
            prompt=result.decode(samples.prompts[samples.groups.of[i]].tolist()),
            completion=result.decode(samples.completions[i].tolist()),
            reward=float(samples.rewards[i]),
            log_policy=float(policy[i]),
            log_prior=float(prior[i]),
            weight=float(weights[i]),
        )
        for i in np.argsort(-weights, kind="stable")[np.linspace(0, len(samples) - 1, n).astype(int)]
    ]
