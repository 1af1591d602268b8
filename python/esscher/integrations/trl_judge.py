"""What a batch of TRL's says, found out beside the training, with the prior's log-probs from a server."""

from __future__ import annotations

import logging
import math
import queue
import threading
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from esscher.client import Client
from esscher.divergence import estimate_kl
from esscher.diversity import distinct, unique_share
from esscher.evaluate.posterior import assess
from esscher.ragged import Ragged
from esscher.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

    from esscher.target import Tilt

# What TRL calls a batch's columns.
COLUMNS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
# Where tools answered: 1 at the tokens that the policy chose.
TOOLS = "tool_mask"
# TRL sums the policy's log-probs in its own order: a difference beyond this means that they are of something else.
TOLERANCE = 1e-2

_log = logging.getLogger(__name__)


class Episode:
    """Logs the first of several failures in a row, and the end of them."""

    def __init__(self, what: str, over: str) -> None:
        self._what, self._over = what, over
        self._lasts = False

    def failed(self, error: Exception) -> None:
        """Log a failure, if the last one is over."""
        if not self._lasts:
            _log.warning("%s: %s: %s", self._what, type(error).__name__, error)
        self._lasts = True

    def ended(self) -> None:
        """Log that failures are over, if there were any."""
        if self._lasts:
            _log.warning("%s", self._over)
        self._lasts = False


class RetriedClient:
    """A client that is made anew after a failure: a server that has never answered it is not waited for."""

    def __init__(self, address: str, timeout: float, what: str) -> None:
        self._new = partial(Client, address, timeout)
        self._client: Client | None = self._new()
        self._episode = Episode(
            f"the server at {address} gives no answer, {what}", f"the server at {address} answers again"
        )

    def client(self) -> Client:
        """Return the client, a new one after a failure."""
        self._client = self._client or self._new()
        return self._client

    def answered(self) -> None:
        """Note that the server has answered."""
        self._episode.ended()

    def failed(self, error: Exception) -> None:
        """Note a failure, and close the client."""
        self._episode.failed(error)
        self.close()

    def close(self) -> None:
        """Close the client, which cancels its calls."""
        if self._client is not None:
            self._client.close()
        self._client = None


@dataclass(frozen=True, eq=False)
class TrainerBatch:
    """What the trainer knows of a batch: on its device, padded.

    `logprobs` are the policy's, of rows in the given `order`; `log_prob` is what the trainer made their sum.
    """

    step: int
    columns: dict[str, torch.Tensor]
    rewards: torch.Tensor
    weights: torch.Tensor
    reward_range: tuple[float, float] | None
    logprobs: torch.Tensor | None = None
    order: torch.Tensor | None = None
    log_prob: torch.Tensor | None = None


class Judge:
    """The thread that asks the server, the batches that wait for it, and the numbers that it found."""

    def __init__(
        self,
        address: str,
        timeout: float,
        waiting: int,
        target: Tilt | None,
        keep: Callable[[TrainerBatch, Samples | None], None] = lambda *_: None,
    ) -> None:
        self.dropped = self.failed = 0
        self._keep = keep  # told of each batch once, with what the server said of it, or without
        self._server, self._target = RetriedClient(address, timeout, "the log lacks its numbers"), target
        self._batches: queue.Queue[TrainerBatch | None] = queue.Queue(waiting)
        self._found: queue.SimpleQueue[dict[str, float]] = queue.SimpleQueue()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="esscher-judge", daemon=True)
        self._thread.start()

    def submit(self, batch: TrainerBatch) -> None:
        """Have a batch judged, or drop it where too many wait."""
        try:
            self._batches.put_nowait(batch)
        except queue.Full:
            self.drop(batch)

    def drop(self, batch: TrainerBatch) -> None:
        """Count a batch that is not judged."""
        self.dropped += 1
        self._keep(batch, None)

    def take(self) -> list[dict[str, float]]:
        """Return the numbers that were found since the last call."""
        return [self._found.get() for _ in range(self._found.qsize())]

    def wait(self, seconds: float) -> bool:
        """Wait until no batch waits any more; whether that came in time."""
        with self._batches.all_tasks_done:
            return self._batches.all_tasks_done.wait_for(lambda: not self._batches.unfinished_tasks, seconds)

    def close(self, seconds: float) -> None:
        """Drop what waits, and end the thread."""
        self._closing = True
        while True:
            try:
                left = self._batches.get_nowait()
            except queue.Empty:
                break
            if left is not None:
                self._keep(left, None)
        self._batches.put(None)
        self._server.close()  # cancels a call that is under way
        self._thread.join(seconds)

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            scored = None
            try:
                samples, rewards, _ = samples_of(batch)
                scored = self._server.client().score(samples)
                self._found.put(self._numbers(batch.step, scored, rewards))
            except Exception as error:  # the log lacks its numbers
                self._fail(error)
            else:
                self._server.answered()
            finally:
                self._keep(batch, scored)
                self._batches.task_done()
        self._server.close()

    def _fail(self, error: Exception) -> None:
        if not self._closing:
            self.failed += 1
            self._server.failed(error)

    def _numbers(self, step: int, scored: Samples, rewards: NDArray[np.float64]) -> dict[str, float]:
        numbers = {"step": float(step), "completions": float(len(scored))}
        numbers |= _of_kl(scored) | _of_diversity(scored)
        if self._target is not None:
            numbers |= _of_target(scored, rewards, self._target)
        # A number that is not there is missing from the log: loggers stumble over NaN and infinity.
        return {name: value for name, value in numbers.items() if math.isfinite(value)}


def samples_of(batch: TrainerBatch) -> tuple[Samples, NDArray[np.float64], NDArray[np.int64]]:
    """Move a batch to the host: samples with the policy's log-probs; rewards, NaN where TRL has none; the batch's rows.

    Where the policy's log-probs never came, the samples lack them.
    """
    # In this thread, so that only it waits for the device.
    prompt_ids, prompt_mask, completion_ids, mask = (host(batch.columns[name]) for name in COLUMNS)
    chosen = mask if TOOLS not in batch.columns else mask * host(batch.columns[TOOLS]).astype(mask.dtype)
    kept = np.flatnonzero(chosen.any(axis=1))  # TRL masks the whole of one that it leaves out
    if not len(kept):
        raise ValueError("the trainer has masked every completion")
    prompts = Ragged.from_padded(prompt_ids[kept], mask=prompt_mask[kept])
    starts = [i for i in range(len(kept)) if i == 0 or not np.array_equal(prompts[i], prompts[i - 1])]
    completions = Ragged.from_padded(completion_ids[kept], mask=mask[kept])
    samples = Samples(
        prompts=prompts.take(starts),
        completions=completions,
        groups=np.array([*starts, len(kept)]),
        policy_logprobs=None if batch.logprobs is None else _logprobs_of(batch, batch.logprobs, mask, kept),
        action_mask=Ragged(chosen[kept][mask[kept] != 0] != 0, completions.offsets),
    )
    return samples, _rewards_of(batch)[kept], kept


def _logprobs_of(
    batch: TrainerBatch, of_rows: torch.Tensor, mask: NDArray[np.int64], kept: NDArray[np.int64]
) -> Ragged:
    logprobs = host(of_rows.float())
    if logprobs.shape != mask.shape:
        raise RuntimeError(f"the trainer's log-probs have shape {logprobs.shape}, its completions {mask.shape}")
    if batch.order is not None:
        ordered = np.empty_like(logprobs)
        ordered[host(batch.order)] = logprobs
        logprobs = ordered
    if batch.log_prob is not None:
        sums = np.where(mask != 0, logprobs, 0.0).sum(axis=1)
        if not np.allclose(sums, host(batch.log_prob.float()), rtol=TOLERANCE, atol=TOLERANCE):
            raise RuntimeError("the log-probs that were found are not those that the trainer goes on with")
    # A sum of rounded numbers can come out a little above 0.
    return Ragged.from_padded(np.minimum(logprobs[kept], 0.0), mask=mask[kept])


def _rewards_of(batch: TrainerBatch) -> NDArray[np.float64]:
    """Return what TRL makes of several reward functions: their weighted sum, without those that gave none."""
    each = host(batch.rewards.double())
    rewards = np.nansum(each * host(batch.weights.double()), axis=1)
    if batch.reward_range is not None:
        rewards = rewards.clip(*batch.reward_range)
    return np.where(np.isnan(each).all(axis=1), np.nan, rewards)


def host(tensor: torch.Tensor) -> NDArray[Any]:
    """Move a tensor to the host."""
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array


def _of_kl(samples: Samples) -> dict[str, float]:
    kl = estimate_kl(samples, "k1")
    return {
        "kl": kl.value,
        "kl_stderr": kl.stderr,
        "kl_trl_grpo": estimate_kl(samples, preset="trl-grpo").value,
        "kl_trl_rloo": estimate_kl(samples, preset="trl-rloo").value,
    }


def _of_diversity(samples: Samples) -> dict[str, float]:
    pairs = distinct(samples.actions, 2, samples.groups)
    known = pairs[~np.isnan(pairs)]  # a prompt whose completions are single tokens has none
    return {
        "distinct_2": float(known.mean()) if len(known) else math.nan,
        "unique": float(unique_share(samples.actions, samples.groups).mean()),
    }


def _of_target(samples: Samples, rewards: NDArray[np.float64], target: Tilt) -> dict[str, float]:
    """Numbers of completions that have a reward; prompts with fewer than two of them say nothing of log Z."""
    scored = ~np.isnan(rewards)
    several = samples.groups.sums(scored) > 1
    rows = np.flatnonzero(scored & samples.groups.spread(several))
    if not len(rows):
        return {}
    scored_samples = replace(samples.take_completions(rows), rewards=rewards[rows])
    report, weights = assess(scored_samples, target)
    numbers = {
        "ess": report.ess,
        "largest_weight": float(np.exp(weights.groups.largest(weights.log_weights)).mean()),
        "log_z": report.log_z.value,
        "log_z_stderr": report.log_z.stderr,
    }
    gap = report.inference_gap
    return numbers if gap is None else numbers | {"inference_gap": gap.value, "inference_gap_stderr": gap.stderr}
