"""`esscher train`: a policy by one objective, or several objectives on one prior."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esscher.allocator import keep_freed_memory
from esscher.atomic import replacing
from esscher.cli.shared import Device, Dtype, Model, console, errors, show_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from rich.progress import Progress, TaskID

    from esscher.train.step_metrics import StepMetrics
    from esscher.train.training_job import TrainingJob

INTERRUPTED = 130
# So many steps are shown, at equal distances.
ROWS = 20
HEADING = "  step   reward       KL, nats  entropy  distinct-2  gap, n.     ESS  s a step"


class Recipe(StrEnum):
    """What several objectives are tried on."""

    dissociation = "dissociation"


class Objective(StrEnum):
    """What is maximised; see `TrainingSettings`."""

    plain_rl = "plain-rl"
    kl_rl = "kl-rl"
    dpg = "dpg"
    f_dpg = "f-dpg"
    weighted_ml = "weighted-ml"


class Divergence(StrEnum):
    """What f-dpg minimises; see `f_dpg`."""

    forward_kl = "forward-kl"
    reverse_kl = "reverse-kl"
    tv = "tv"
    js = "js"
    forward_chi2 = "forward-chi2"
    reverse_chi2 = "reverse-chi2"


def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder that the run is kept in.")],
    model: Model = "smollm2",
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts, one a line; of a .jsonl file the *prompt* of each line.")
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION|MODEL",
            help="A function of *prompts* and *completions*, lists of texts, or a sequence-classification model; "
            "**esscher.lm.rewards:sentiment** is one.",
        ),
    ] = None,
    reward_label: Annotated[
        str | None, typer.Option(help="The label whose log-probability is the reward, where the model has several.")
    ] = None,
    recipe: Annotated[
        Recipe | None,
        typer.Option(help="Instead of prompts and a reward: several objectives on one prior. *--model tabular* too."),
    ] = None,
    objective: Annotated[Objective | None, typer.Option(help="What is maximised.  [default: kl-rl]")] = None,
    beta: Annotated[
        float | None, typer.Option(help="Strength of the KL penalty, in reward per nat.  [default: 0.1]")
    ] = None,
    divergence: Annotated[Divergence | None, typer.Option(help="What f-dpg minimises.  [default: js]")] = None,
    steps: Annotated[int | None, typer.Option(help="Updates.  [default: 100]", min=1)] = None,
    prompts_a_step: Annotated[int | None, typer.Option(help="Prompts of a step.  [default: 4]", min=1)] = None,
    completions: Annotated[int | None, typer.Option(help="Completions of each.  [default: 8]", min=1)] = None,
    new_tokens: Annotated[int | None, typer.Option(help="The longest completion.  [default: 16]", min=1)] = None,
    prior_samples: Annotated[
        int | None,
        typer.Option(help="Completions of every prompt drawn from the prior first, for log Z.  [default: 64]", min=0),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of AdamW.  [default: 2e-4]")] = None,
    warm_up: Annotated[int | None, typer.Option(help="Steps over which it rises.  [default: 5]", min=0)] = None,
    clip: Annotated[float | None, typer.Option(help="The largest norm of a gradient.  [default: 1]")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of AdamW.  [default: 0]")] = None,
    micro_batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens that are differentiated at a time.  [default: 4096]", min=1)
    ] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.  [default: 50]", min=1)] = None,
    keep: Annotated[int | None, typer.Option(help="Checkpoints that are kept.  [default: 2]", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything that is random.  [default: 0]", min=0)] = None,
    last_layers: Annotated[int | None, typer.Option(help="Train only so many layers, the last ones.", min=1)] = None,
    lora: Annotated[int | None, typer.Option(help="Train adapters of this rank instead (needs peft).", min=1)] = None,
    prior_server: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Ask a running server for log-probs under the prior.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Discard the run that is in the folder.")] = False,
    device: Device = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Precision of the model's weights.  [default: float32]")] = None,
) -> None:
    """Train a policy by an objective, from completions that it draws itself; or see what each objective does to one.

    Everything is kept in a folder: the prior's samples, a log with a line of JSON a step, and checkpoints, which
    `esscher serve --policy-dir` takes. After a stop of any kind the same command goes on from the last checkpoint; on a
    CPU to the same bits as without the stop. Ctrl-C and SIGTERM end it after the step, with a checkpoint.
    """
    given = {
        "objective": None if objective is None else objective.value,
        "beta": beta,
        "divergence": None if divergence is None else divergence.value,
        "steps": steps,
        "prompts": prompts_a_step,
        "completions": completions,
        "new_tokens": new_tokens,
        "prior_samples": prior_samples,
        "learning_rate": learning_rate,
        "warm_up": warm_up,
        "clip": clip,
        "weight_decay": weight_decay,
        "micro_batch_tokens": micro_batch_tokens,
        "save_every": save_every,
        "keep": keep,
        "seed": seed,
    }
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    keep_freed_memory()
    if recipe is not None:
        _check_alone(
            recipe,
            prompts=prompts,
            reward=reward,
            reward_label=reward_label,
            objective=objective,
            divergence=divergence,
            lora=lora,
            prior_server=prior_server,
        )
        _train_by_recipe(model, output, settings, last_layers, device, dtype, restart=restart)
        return
    if prompts is None or reward is None:
        raise ValueError("--prompts and --reward say what to train on: give both, or --recipe dissociation")
    from esscher.train.training_job import TrainingJob
    from esscher.train.training_settings import TrainingSettings

    job = TrainingJob(
        model=model,
        prompts=prompts,
        reward=reward,
        folder=output,
        settings=TrainingSettings(**settings),
        reward_label=reward_label,
        last_layers=last_layers,
        lora=lora,
        server=prior_server,
        device=device,
        dtype="float32" if dtype is None else dtype.value,
    )
    _train(job, restart=restart)


def _train(job: TrainingJob, *, restart: bool) -> None:
    from esscher.train.training_job import run_job

    with show_progress() as progress, _stopping() as is_stopped:
        task = progress.add_task("starting", total=None)
        rows = Rows(progress, task, job.settings.steps)
        reached = run_job(
            job,
            restart=restart,
            notify=lambda text: progress.update(task, description=text),
            show=rows.show,
            is_stopped=is_stopped,
        )
    if reached < job.settings.steps:
        console.print(
            f"stopped after {reached} of {job.settings.steps} steps: the same command goes on", soft_wrap=True
        )
        sys.exit(INTERRUPTED)
    console.print(f"\nCheckpoints, log and the prior's samples: {job.folder.resolve()}", soft_wrap=True)


def _train_by_recipe(
    model: str,
    folder: Path,
    settings: dict[str, Any],
    last_layers: int | None,
    device: str | None,
    dtype: Dtype | None,
    *,
    restart: bool,
) -> None:
    from esscher.train.dissociation import (
        OBJECTIVES,
        dissociation_to_json,
        print_dissociation,
        recipe_of,
        run_dissociation,
        write_dissociation_page,
    )
    from esscher.train.run_folder import RunFolder

    usual = recipe_of(model)
    recipe = replace(
        usual,
        settings=replace(usual.settings, **settings),
        last_layers=last_layers or usual.last_layers,
        device=device,
        dtype=usual.dtype if dtype is None else dtype.value,
    )
    if restart:
        for objective in OBJECTIVES:
            RunFolder.discard(folder / objective)
    with show_progress() as progress, _stopping() as is_stopped:
        task = progress.add_task("starting", total=None)
        rows = Rows(progress, task, recipe.settings.steps)
        found = run_dissociation(
            recipe,
            folder,
            notify=lambda text: progress.update(task, description=text),
            show=rows.show_of,
            is_stopped=is_stopped,
        )
    if found is None:
        console.print("stopped: the same command goes on")
        sys.exit(INTERRUPTED)
    console.print()
    print_dissociation(found, console)
    page, results = folder / "dissociation.html", folder / "dissociation.json"
    write_dissociation_page(found, page)
    with replacing(results) as file:
        file.write(dissociation_to_json(found).encode())
    console.print(f"\nPage: {page.resolve()}\nNumbers: {results.resolve()}", soft_wrap=True, markup=False)


class Rows:
    """Shows the metrics of some steps, under a heading, and how far training is."""

    def __init__(self, progress: Progress, task: TaskID, steps: int) -> None:
        self._progress, self._task, self._steps = progress, task, steps
        self._every = max(1, steps // ROWS)
        self._objective: str | None = None
        self._is_headed = False
        self._told: set[str] = set()

    def show_of(self, objective: str, metrics: StepMetrics) -> None:
        """Show a step of one of several objectives."""
        if objective != self._objective:
            console.print(f"\n[bold]{objective}[/]")
            self._objective, self._is_headed, self._told = objective, False, set()
        self.show(metrics)

    def show(self, metrics: StepMetrics) -> None:
        """Show a step if it is one of those shown, and what there is to say of it."""
        step = metrics.step + 1
        self._progress.update(self._task, description=self._objective or "training", completed=step, total=self._steps)
        if not self._is_headed:
            console.print(HEADING, style="dim", highlight=False)
            self._is_headed = True
        if metrics.step % self._every == 0 or step == self._steps:
            console.print(_row(metrics), highlight=False)
        for note in metrics.notes:
            # A reward that fails in every step is told of once.
            if note not in self._told:
                text = f"        step {metrics.step}: {note}"
                console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)
                self._told.add(note)


def _row(metrics: StepMetrics) -> str:
    kl = f"{metrics.kl:.2f} ± {metrics.kl_stderr:.2f}"
    return (
        f"{metrics.step:6}  {metrics.reward:7.3f}  {kl:>14}  {metrics.entropy:7.2f}  {metrics.distinct_2:10.2f}  "
        f"{metrics.inference_gap:7.2f}  {metrics.ess:6.1%}  {metrics.seconds:7.2f}"
    )


def _check_alone(recipe: Recipe, **others: object) -> None:
    given = [name for name, value in others.items() if value is not None]
    if given:
        option = given[0].replace("_", "-")
        raise ValueError(f"--{option} and --recipe {recipe.value}: the recipe has its own, give one of them")


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C or SIGTERM ask for a stop after the step, and a second one stop at once."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            signal.default_int_handler(number, frame)
        asked.set()
        errors.print("stopping after this step, with a checkpoint; once more to stop at once", soft_wrap=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
