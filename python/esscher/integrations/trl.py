"""Esscher for TRL's RLOOTrainer and GRPOTrainer: a reward from a server, and its numbers in the trainer's own logs.

TRL shows log-probs to nobody, and logs to callbacks only when they have been written. So the callback here wraps
methods of the trainer that are not public, keeps what they return, and puts its numbers where the trainer keeps its
own. This is the only module that does; it was written for TRL 1.16, and checks that the methods are there.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from esscher.client import Client
from esscher.integrations.texts import rewards_of
from esscher.integrations.trl_dump import StepWriter
from esscher.integrations.trl_judge import COLUMNS, TOOLS, Episode, Judge, RetriedClient, TrainerBatch
from esscher.lm.conversations import text_of
from esscher.target import Tilt

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

TRL = "1.16"
PREFIX = "esscher/"
# Methods of TRL's trainers that are wrapped, and the parameters with which they begin.
HOOKS = {
    "_generate_and_score_completions": ("inputs",),
    "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
    "_get_per_token_logps_and_entropies": ("model", "input_ids", "attention_mask", "logits_to_keep"),
    "_compute_loss": ("model", "inputs"),
}
# A column of ours in TRL's batches: it finds a completion again after TRL has shuffled them.
ROWS = "esscher_rows"
# Seconds that the last batches of a dump may take to be written.
WRITING = 30.0
# Completions with tokens that the policy did not produce, or with images, are not what the server's prior scores.
FOREIGN = {"pixel_values": "images"}

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
        self._server = RetriedClient(address, timeout, f"{name} has no rewards")
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
    dump
        A folder to keep every batch of completions in, ``step-000001.parquet`` and so on, as `esscher.files` reads
        them: ids, the policy's log-probs, the prior's where the server gave them, each reward by its name and what the
        trainer makes of them (`rewards`), whether they ended by themselves, and the step. It is made if it is not
        there; a file appears whole or not at all, and replaces one of an earlier run.

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
        dump: str | os.PathLike[str] | None = None,
    ) -> None:
        _check_trainer(trainer)
        if waiting < 1:
            raise ValueError(f"waiting is {waiting}: at least 1 batch must be able to wait for the server")
        if not patience >= 0:
            raise ValueError(f"patience is {patience}: it is at least 0 seconds")
        self._trainer, self._patience = trainer, patience
        target = _target_of(trainer, beta)
        self._new_judge = partial(Judge, address, timeout, waiting, target)
        self._dump = None if dump is None else Path(dump)
        if self._dump is not None:
            self._dump.mkdir(parents=True, exist_ok=True)  # raises before there is something to lose
        self._writer: StepWriter | None = None
        Client(address, timeout).close()  # raises what is wrong with them
        self._judge: Judge | None = None
        self._wrapped: dict[str, Any] = {}  # what the trainer had in their places, beside its class's methods
        self._episode = Episode("the trainer's completions cannot be judged", "the completions are judged again")
        self._forwards: list[torch.Tensor] | None = None  # log-probs that the trainer computes, while they are wanted
        self._rewards: torch.Tensor | None = None
        self._open: _Open | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Start to watch the trainer."""
        self._end(0.0)
        if self._trainer.accelerator.is_main_process:
            if self._dump is not None:
                self._writer = StepWriter(self._dump, self._trainer.reward_func_names, self._trainer.eos_token_ids)
            self._judge = self._new_judge(*([self._writer.keep] if self._writer else []))
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
        is_judged = self._judge is None or self._judge.wait(seconds)
        return (self._writer is None or self._writer.wait(seconds)) and is_judged

    def _end(self, seconds: float) -> None:
        while self._wrapped:
            name, before = self._wrapped.popitem()
            if before is None:
                delattr(self._trainer, name)
            else:
                setattr(self._trainer, name, before)
        if self._judge is not None:
            if self._open is not None:
                self._judge.drop(self._open.batch)
            self._judge.close(seconds)
        if self._writer is not None:
            self._writer.close(WRITING)
        self._judge = self._writer = self._open = self._forwards = self._rewards = None

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
        if self._judge is None:
            return
        if self._open is not None:
            self._judge.drop(self._open.batch)  # its log-probs never came
        self._open = None
        for column, what in FOREIGN.items():
            if column in output:
                raise ValueError(f"they have {what}, which the server's prior does not read")
        if self._rewards is None:
            raise RuntimeError("the trainer asked for no rewards")
        n = len(output["completion_ids"])
        batch = TrainerBatch(
            step=self._trainer.state.global_step + 1,
            columns={name: output[name] for name in (*COLUMNS, TOOLS) if name in output},
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


@dataclass(frozen=True, eq=False)
class _Open:
    """A batch whose log-probs come part by part."""

    batch: TrainerBatch
    rows: list[torch.Tensor]
    logprobs: list[torch.Tensor]
