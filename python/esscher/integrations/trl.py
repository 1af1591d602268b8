"""Esscher for TRL's RLOOTrainer and GRPOTrainer: a reward from a server, and its numbers in the trainer's own logs.

TRL shows log-probs to nobody, and logs to callbacks only when they have been written. So the callback here wraps
methods of the trainer that are not public, keeps what they return, and puts its numbers where the trainer keeps its
own. This is the only module that does; it was written for TRL 1.16, and checks that the methods are there.
"""

from __future__ import annotations

import inspect
import logging
import math
import queue
import threading
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback

from esscher.client import Client
from esscher.divergence import estimate_kl
from esscher.diversity import distinct, unique_share
from esscher.evaluate.posterior import assess
from esscher.integrations.texts import rewards_of, text_of
from esscher.ragged import Ragged
from esscher.samples import Samples
from esscher.target import Tilt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

TRL = "1.16"
PREFIX = "esscher/"
# Methods of TRL's trainers that are wrapped, and the parameters with which they begin.
HOOKS = {
    "_generate_and_score_completions": ("inputs",),
    "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
    "_get_per_token_logps_and_entropies": ("model", "input_ids", "attention_mask", "logits_to_keep"),
    "_compute_loss": ("model", "inputs"),
}
# What TRL calls a batch's columns; the last is ours, and finds a completion again after TRL has shuffled them.
COLUMNS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
ROWS = "esscher_rows"
# Completions with tokens that the policy did not produce, or with images, are not what the server's prior scores.
FOREIGN = {"tool_mask": "results of tools", "pixel_values": "images"}
# TRL sums the policy's log-probs in its own order: a difference beyond this means that they are of something else.
TOLERANCE = 1e-2

_log = logging.getLogger(__name__)


class EsscherReward:
    """A reward function for TRL's trainers that asks a server for the rewards of its ``--reward``.

    What cannot be had is `None`, for which TRL has a meaning: that completion is left out. It is never 0. The first
    failure is logged, and the first answer after it; a server that comes back is found by itself.

    Parameters
    ----------
    address
        Where the server listens: "host:port".
    timeout
        Seconds that each of a call's requests to the server may take (two, and one more to get to know it): training
        waits for them. While a server is gone, calls fail at once.
    name
        What TRL calls it in its logs: "rewards/{name}/mean".
    render
        Makes a text of a prompt that is a conversation, such as a tokenizer's chat template; by default its messages'
        contents are joined by line breaks.

    Raises
    ------
    ValueError
        If `address` is not "host:port", or `timeout` is not a positive number.

    Examples
    --------
    >>> reward = EsscherReward("127.0.0.1:50051", timeout=5.0)
    >>> reward.__name__
    'esscher_reward'
    """

    def __init__(
        self,
        address: str,
        timeout: float = 10.0,
        *,
        name: str = "esscher_reward",
        render: Callable[[Any], str] = text_of,
    ) -> None:
        self.__name__ = name
        self._server = _Server(address, timeout, f"{name} has no rewards")
        self._render = render

    def __call__(self, *, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:  # noqa: ARG002
        """Return a reward for each completion, `None` for all if the server cannot give them.

        A reward of -inf is `None` too: TRL has no baseline for a prompt that has one.
        """
        try:
            rewards = rewards_of(
                self._server.client(),
                [prompt if isinstance(prompt, str) else self._render(prompt) for prompt in prompts],
                [text_of(completion) for completion in completions],
                # What TRL decoded has no special tokens left: one that is spelled out is text.
                parse_special_tokens=False,
            )
        except Exception as error:  # training goes on without
            self._server.failed(error)
            return [None] * len(completions)
        self._server.answered()
        return [reward if math.isfinite(reward) else None for reward in rewards.tolist()]


class EsscherCallback(TrainerCallback):
    """Puts a server's judgement of each batch of completions into the trainer's own logs, under ``esscher/``.

    ``trainer.add_callback(EsscherCallback(trainer, "127.0.0.1:50051"))`` is all that is needed. The policy's log-probs
    are those that the trainer computes anyway; the prior's come from the server. A background thread asks for them: a
    step is never longer for it, and where there is no answer, numbers are missing. They come in a later line of the log
    than their step's, "esscher/step" says of which; where TRL averages several steps into a line, so it does these.

    In distributed training the main process judges its own share of the completions.

    Parameters
    ----------
    trainer
        TRL's RLOOTrainer or GRPOTrainer.
    address
        Where the server listens: "host:port". Its prior must be what the policy is trained from.
    beta
        Strength of the KL penalty of the target that the policy is held against, reward per nat. If not given, it is
        an RLOOTrainer's own; GRPOTrainer's acts on rewards that are normalised, and is none. Without one there is no
        log Z, inference gap or ESS.
    timeout
        Seconds that a request to the server may take.
    waiting
        How many batches may wait for the server; more are dropped, and counted in "esscher/dropped".
    patience
        Seconds to wait, when training ends, for the numbers of its last steps.

    Raises
    ------
    TypeError
        If `trainer` is none of the two, or of a version of TRL without the methods that this needs.
    ValueError
        If `address` is not "host:port", `beta` or `timeout` is not a positive number, `waiting` is below 1, `patience`
        below 0, or the trainer has a temperature other than 1: TRL's log-probs are then not the policy's.
    """

    def __init__(
        self,
        trainer: Any,
        address: str,
        *,
        beta: float | None = None,
        timeout: float = 30.0,
        waiting: int = 2,
        patience: float = 10.0,
    ) -> None:
        _check_trainer(trainer)
        if waiting < 1:
            raise ValueError(f"waiting is {waiting}: at least 1 batch must be able to wait for the server")
        if not patience >= 0:
            raise ValueError(f"patience is {patience}: it is at least 0 seconds")
        self._trainer, self._patience = trainer, patience
        target = _target_of(trainer, beta)
        self._new_judge = partial(_Judge, address, timeout, waiting, target)
        Client(address, timeout).close()  # raises what is wrong with them
        self._judge: _Judge | None = None
        self._wrapped: dict[str, Any] = {}  # what the trainer had in their places, beside its class's methods
        self._episode = _Episode("the trainer's completions cannot be judged", "the completions are judged again")
        self._forwards: list[torch.Tensor] | None = None  # log-probs that the trainer computes, while they are wanted
        self._rewards: torch.Tensor | None = None
        self._open: _Open | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Start to watch the trainer."""
        self._end(0.0)
        if self._trainer.accelerator.is_main_process:
            self._judge = self._new_judge()
            self._wrap()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Give the trainer the numbers that are there; the trainer logs after this."""
        if self._judge is None:
            return
        if control.should_training_stop or state.global_step >= state.max_steps:
            self._judge.wait(self._patience)
        metrics = self._trainer._metrics["train"]
        for numbers in self._judge.take():
            for name, value in numbers.items():
                metrics[PREFIX + name].append(value)
        # Counts since training began: not averaged over steps.
        metrics[PREFIX + "dropped"] = [float(self._judge.dropped)]
        metrics[PREFIX + "failed"] = [float(self._judge.failed)]

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Leave the trainer as it was."""
        self._end(1.0)

    def wait(self, seconds: float) -> bool:
        """Wait until no batch is under way; `False` if that takes longer."""
        return self._judge is None or self._judge.wait(seconds)

    def _end(self, seconds: float) -> None:
        while self._wrapped:
            name, before = self._wrapped.popitem()
            if before is None:
                delattr(self._trainer, name)
            else:
                setattr(self._trainer, name, before)
        if self._judge is not None:
            self._judge.close(seconds)
        self._judge = self._open = self._forwards = self._rewards = None

    def _wrap(self) -> None:
        wrappers: tuple[Callable[..., Any], ...] = (self._generate, self._reward, self._forward, self._loss)
        for name, wrapper in zip(HOOKS, wrappers, strict=True):
            self._wrapped[name] = vars(self._trainer).get(name)
            setattr(self._trainer, name, partial(wrapper, getattr(self._trainer, name)))

    def _forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if self._forwards is not None:
            self._forwards.append(result[0].detach())
        return result

    def _reward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._rewards = original(*args, **kwargs)
        return self._rewards

    def _generate(self, original: Callable[..., Any], inputs: Any) -> Any:
        self._rewards = None
        output, forwards = self._watched(original, inputs)
        if self._trainer.model.training:
            self._guarded(self._begin, output, forwards)
        return output

    def _loss(self, original: Callable[..., Any], model: Any, inputs: Any) -> Any:
        rows = inputs.get(ROWS)
        if rows is None:
            return original(model, inputs)
        loss, forwards = self._watched(original, model, inputs)
        self._guarded(self._continue, rows, forwards)
        return loss

    def _watched(self, original: Callable[..., Any], *args: Any) -> tuple[Any, list[torch.Tensor]]:
        """Call a method; also return the log-probs that it asked for."""
        forwards: list[torch.Tensor] = []
        self._forwards = forwards
        try:
            return original(*args), forwards
        finally:
            self._forwards = None

    def _guarded(self, step: Callable[..., None], *args: Any) -> None:
        try:
            step(*args)
        except Exception as error:  # training goes on without
            self._open = None
            self._episode.failed(error)
        else:
            self._episode.ended()

    def _begin(self, output: dict[str, Any], forwards: list[torch.Tensor]) -> None:
        """Keep a batch that was generated, and the policy's log-probs if they are there."""
        assert self._judge is not None
        if self._open is not None:
            self._judge.dropped += 1  # its log-probs never came
        self._open = None
        for column, what in FOREIGN.items():
            if column in output:
                raise ValueError(f"they have {what}, which the server's prior does not read")
        if self._rewards is None:
            raise RuntimeError("the trainer asked for no rewards")
        n = len(output["completion_ids"])
        batch = _Batch(
            step=self._trainer.state.global_step + 1,
            columns={name: output[name] for name in COLUMNS},
            rewards=self._rewards[:n],  # those of the main process come first
            weights=self._trainer.reward_weights,
            reward_range=getattr(self._trainer, "reward_clip_range", None),
        )
        if "old_per_token_logps" in output:  # GRPO, where completions serve for several updates
            self._judge.submit(replace(batch, logprobs=output["old_per_token_logps"]))
        elif "old_logps" in output:  # RLOO: the policy's are the first that it asks for
            self._judge.submit(replace(batch, logprobs=forwards[0], log_prob=output["old_logps"]))
        else:  # GRPO: they come with the loss, part by part and in another order
            output[ROWS] = torch.arange(n)
            self._open = _Open(batch, [], [])

    def _continue(self, rows: torch.Tensor, forwards: list[torch.Tensor]) -> None:
        """Keep the policy's log-probs of some rows of the batch; once all are there, have it judged."""
        if self._open is None or self._judge is None:
            return
        self._open.rows.append(rows)
        self._open.logprobs.append(forwards[0])
        if sum(map(len, self._open.rows)) == len(self._open.batch.columns["completion_ids"]):
            batch, rows_of, parts = self._open.batch, self._open.rows, self._open.logprobs
            self._open = None
            self._judge.submit(replace(batch, logprobs=torch.cat(parts), order=torch.cat(rows_of)))


def _check_trainer(trainer: Any) -> None:
    for name, expected in HOOKS.items():
        method = getattr(type(trainer), name, None)
        if method is None or tuple(inspect.signature(method).parameters)[1 : 1 + len(expected)] != expected:
            raise TypeError(
                f"{type(trainer).__name__} has no {name}({', '.join(expected)}, ...): EsscherCallback is for "
                f"RLOOTrainer and GRPOTrainer of TRL {TRL}, install that version (trl=={TRL}.*)"
            )
    if not isinstance(getattr(trainer, "_metrics", {}).get("train"), defaultdict):
        raise TypeError(
            f"{type(trainer).__name__} does not keep its numbers where TRL {TRL} does: install that version"
        )
    if trainer.temperature != 1.0:
        raise ValueError(
            f"the trainer's temperature is {trainer.temperature}: TRL then computes log-probs of tempered models, and "
            "the server those of the prior as it is, so that their difference is no KL; train with temperature=1.0"
        )


def _target_of(trainer: Any, beta: float | None) -> Tilt | None:
    if beta is None:
        from trl.trainer.rloo_trainer import RLOOTrainer

        beta = trainer.beta if isinstance(trainer, RLOOTrainer) and trainer.beta > 0 else None
    return None if beta is None else Tilt(beta)


class _Episode:
    """Logs the first of several failures in a row, and the end of them."""

    def __init__(self, what: str, over: str) -> None:
        self._what, self._over = what, over
        self._lasts = False

    def failed(self, error: Exception) -> None:
        if not self._lasts:
            _log.warning("%s: %s: %s", self._what, type(error).__name__, error)
        self._lasts = True

    def ended(self) -> None:
        if self._lasts:
            _log.warning("%s", self._over)
        self._lasts = False


class _Server:
    """A client that is made anew after a failure: a server that has never answered it is not waited for."""

    def __init__(self, address: str, timeout: float, what: str) -> None:
        self._new = partial(Client, address, timeout)
        self._client: Client | None = self._new()
        self._episode = _Episode(
            f"the server at {address} gives no answer, {what}", f"the server at {address} answers again"
        )

    def client(self) -> Client:
        self._client = self._client or self._new()
        return self._client

    def answered(self) -> None:
        self._episode.ended()

    def failed(self, error: Exception) -> None:
        self._episode.failed(error)
        self.close()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None


@dataclass(frozen=True, eq=False)
class _Batch:
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


@dataclass(frozen=True, eq=False)
class _Open:
    """A batch whose log-probs come part by part."""

    batch: _Batch
    rows: list[torch.Tensor]
    logprobs: list[torch.Tensor]


class _Judge:
    """The thread that asks the server, the batches that wait for it, and the numbers that it found."""

    def __init__(self, address: str, timeout: float, waiting: int, target: Tilt | None) -> None:
        self.dropped = self.failed = 0
        self._server, self._target = _Server(address, timeout, "the log lacks its numbers"), target
        self._batches: queue.Queue[_Batch | None] = queue.Queue(waiting)
        self._found: queue.SimpleQueue[dict[str, float]] = queue.SimpleQueue()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="esscher-judge", daemon=True)
        self._thread.start()

    def submit(self, batch: _Batch) -> None:
        try:
            self._batches.put_nowait(batch)
        except queue.Full:
            self.dropped += 1

    def take(self) -> list[dict[str, float]]:
        return [self._found.get() for _ in range(self._found.qsize())]

    def wait(self, seconds: float) -> bool:
        with self._batches.all_tasks_done:
            return self._batches.all_tasks_done.wait_for(lambda: not self._batches.unfinished_tasks, seconds)

    def close(self, seconds: float) -> None:
        self._closing = True
        while True:
            try:
                self._batches.get_nowait()
            except queue.Empty:
                break
        self._batches.put(None)
        self._server.close()  # cancels a call that is under way
        self._thread.join(seconds)

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            try:
                self._found.put(self._numbers(batch))
            except Exception as error:  # the log lacks its numbers
                self._fail(error)
            else:
                self._server.answered()
            finally:
                self._batches.task_done()
        self._server.close()

    def _fail(self, error: Exception) -> None:
        if not self._closing:
            self.failed += 1
            self._server.failed(error)

    def _numbers(self, batch: _Batch) -> dict[str, float]:
        samples, rewards = _samples_of(batch)
        scored = self._server.client().score(samples)
        numbers = {"step": float(batch.step), "completions": float(len(scored))}
        numbers |= _of_kl(scored) | _of_diversity(scored)
        if self._target is not None:
            numbers |= _of_target(scored, rewards, self._target)
        # A number that is not there is missing from the log: loggers stumble over NaN and infinity.
        return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _samples_of(batch: _Batch) -> tuple[Samples, NDArray[np.float64]]:
    """Move a batch to the host: samples with the policy's log-probs, and rewards, NaN where TRL has none."""
    # In this thread, so that only it waits for the device.
    prompt_ids, prompt_mask, completion_ids, mask = (_host(batch.columns[name]) for name in COLUMNS)
    logprobs = _logprobs_of(batch, mask)
    kept = np.flatnonzero(mask.any(axis=1))  # TRL masks the whole of one that it leaves out
    if not len(kept):
        raise ValueError("the trainer has masked every completion")
    prompts = Ragged.from_padded(prompt_ids[kept], mask=prompt_mask[kept])
    starts = [i for i in range(len(kept)) if i == 0 or not np.array_equal(prompts[i], prompts[i - 1])]
    completions = Ragged.from_padded(completion_ids[kept], mask=mask[kept])
    samples = Samples(
        prompts=prompts.take(starts),
        completions=completions,
        groups=np.array([*starts, len(kept)]),
        # A sum of rounded numbers can come out a little above 0.
        policy_logprobs=Ragged(np.minimum(logprobs[kept][mask[kept] != 0], 0.0), completions.offsets),
    )
    return samples, _rewards_of(batch)[kept]


def _logprobs_of(batch: _Batch, mask: NDArray[np.int64]) -> NDArray[np.float32]:
    assert batch.logprobs is not None
    logprobs = _host(batch.logprobs.float())
    if logprobs.shape != mask.shape:
        raise RuntimeError(f"the trainer's log-probs have shape {logprobs.shape}, its completions {mask.shape}")
    if batch.order is not None:
        ordered = np.empty_like(logprobs)
        ordered[_host(batch.order)] = logprobs
        logprobs = ordered
    if batch.log_prob is not None:
        sums = np.where(mask != 0, logprobs, 0.0).sum(axis=1)
        if not np.allclose(sums, _host(batch.log_prob.float()), rtol=TOLERANCE, atol=TOLERANCE):
            raise RuntimeError("the log-probs that were found are not those that the trainer goes on with")
    return logprobs


def _rewards_of(batch: _Batch) -> NDArray[np.float64]:
    """Return what TRL makes of several reward functions: their weighted sum, without those that gave none."""
    each = _host(batch.rewards.double())
    rewards = np.nansum(each * _host(batch.weights.double()), axis=1)
    if batch.reward_range is not None:
        rewards = rewards.clip(*batch.reward_range)
    return np.where(np.isnan(each).all(axis=1), np.nan, rewards)


def _host(tensor: torch.Tensor) -> NDArray[Any]:
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
    pairs = distinct(samples.completions, 2, samples.groups)
    known = pairs[~np.isnan(pairs)]  # a prompt whose completions are single tokens has none
    return {
        "distinct_2": float(known.mean()) if len(known) else math.nan,
        "unique": float(unique_share(samples.completions, samples.groups).mean()),
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
    assert report.inference_gap is not None
    return {
        "ess": report.ess,
        "largest_weight": float(np.exp(weights.groups.largest(weights.log_weights)).mean()),
        "log_z": report.log_z.value,
        "log_z_stderr": report.log_z.stderr,
        "inference_gap": report.inference_gap.value,
        "inference_gap_stderr": report.inference_gap.stderr,
    }
