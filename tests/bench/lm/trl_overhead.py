"""What the callback for TRL adds to a step: the same training with and without it, in turns."""

from __future__ import annotations

import tempfile
import time
import warnings
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from trl import RLOOConfig, RLOOTrainer

from bench.lm.measure import Figure
from bench.lm.service import ours, process
from esscher.integrations.trl import EsscherCallback
from esscher.lm.packaged import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

PROMPTS = ("The movie was", "I think that", "Yesterday my friend told me", "The food at the restaurant")
COMPLETIONS, NEW_TOKENS = 4, 16  # of a prompt, of a completion at most
ROUNDS, STEPS = 3, 4
THREADS = 2


class Run(NamedTuple):
    """Seconds of each step but the first, and how many of them the callback spent in the trainer's thread."""

    steps: list[float]
    inside: list[float]
    judged: int


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.judged = 0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:  # noqa: ARG002
        self.judged += "esscher/kl" in logs


class Timed(EsscherCallback):
    """The callback, which adds up the time that it takes from the trainer."""

    spent = 0.0

    def _guarded(self, step: Callable[..., None], *arguments: Any) -> None:
        start = time.perf_counter()
        super()._guarded(step, *arguments)
        self.spent += time.perf_counter() - start

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        start = time.perf_counter()
        super().on_step_end(args, state, control, **kwargs)
        self.spent += time.perf_counter() - start


def overhead(source: str = "smollm2", rounds: int = ROUNDS, steps: int = STEPS) -> list[Figure]:
    """RLOO with a model, and a server whose prior takes no time, as on another machine, or the same two cores."""
    torch.set_num_threads(THREADS)
    vocabulary = AutoConfig.from_pretrained(resolve(source)).vocab_size
    servers = {
        "another machine": partial(idle, vocabulary),
        f"the same {THREADS} cores": partial(ours, source),
    }
    return [figure for place, server in servers.items() for figure in _figures(source, place, server, rounds, steps)]


def _figures(
    source: str, place: str, server: Callable[[], AbstractContextManager[str]], rounds: int, steps: int
) -> list[Figure]:
    runs: dict[bool, list[Run]] = {False: [], True: []}
    with server() as address:
        for i in range(rounds):
            for watched in (i % 2 == 1, i % 2 == 0):
                runs[watched].append(_run(source, steps, address if watched else None))
    without, watched = (median(_joined(runs[which], "steps")) for which in (False, True))
    inside = median(_joined(runs[True], "inside"))
    judged, of = sum(run.judged for run in runs[True]), rounds * steps
    job = (
        f"TRL's RLOO, {source}, {len(PROMPTS)} x {COMPLETIONS} completions of {NEW_TOKENS} tokens, server on {place}: "
    )
    return [
        Figure(
            f"{job}a step with the callback, and without",
            f"{watched:.3f} s, {without:.3f} s: {watched / without - 1:+.1%}; {judged} of {of} steps judged in time",
        ),
        Figure(f"{job}of which in the trainer's thread", f"{1e3 * inside:.2f} ms, {inside / watched:.2%} of a step"),
    ]


@contextmanager
def idle(vocabulary: int) -> Iterator[str]:
    """The address of a server whose prior takes no time."""
    with process("bench.lm.idle", str(vocabulary)) as port:
        yield f"127.0.0.1:{port}"


def _joined(runs: Sequence[Run], name: str) -> list[float]:
    return [value for run in runs for value in getattr(run, name)]


def _run(source: str, steps: int, address: str | None) -> Run:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TRL's own
        trainer = _trainer(source, steps, folder)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock)
        watching = None
        if address is not None:
            watching = Timed(trainer, address, patience=0.0)
            trainer.add_callback(watching)
        trainer.train()
    lasted = [b - a for a, b in zip(clock.ends, clock.ends[1:], strict=False)]
    inside = [] if watching is None else [watching.spent / steps]
    return Run(lasted, inside, clock.judged)


def _trainer(source: str, steps: int, folder: str) -> RLOOTrainer:
    tokenizer = AutoTokenizer.from_pretrained(resolve(source))
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.chat_template = None
    return RLOOTrainer(
        model=AutoModelForCausalLM.from_pretrained(resolve(source), dtype=torch.float32),
        reward_funcs=[lambda completions, **_: [float(len(set(text))) for text in completions]],
        args=RLOOConfig(
            output_dir=folder,
            per_device_train_batch_size=len(PROMPTS) * COMPLETIONS,
            num_generations=COMPLETIONS,
            max_completion_length=NEW_TOKENS,
            max_steps=steps,
            logging_steps=1,
            learning_rate=1e-6,
            beta=0.05,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            disable_tqdm=True,
            log_level="error",
            seed=1,
        ),
        train_dataset=Dataset.from_dict({"prompt": list(PROMPTS)}),
        processing_class=tokenizer,
    )


COMPARISONS: dict[str, Callable[[], Any]] = {}
FIGURES = {"trl-callback": overhead}
