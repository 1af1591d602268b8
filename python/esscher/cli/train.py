"""`esscher train`: a policy by one objective, or several objectives on one prior."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from esscher.atomic import replacing
from esscher.cli.allocator import keep_freed_memory
from esscher.cli.options import Device, Dtype, Model, Reward, RewardLabel, with_settings
from esscher.cli.output import console, errors, show_progress
from esscher.train.training_settings import TrainingSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

    from rich.progress import Progress, TaskID

    from esscher.train.step_metrics import StepMetrics
    from esscher.train.training_job import TrainingJob

INTERRUPTED = 130
# So many steps are shown, at equal distances.
ROWS = 20
HEADING = "  step   reward       KL, nats  entropy  distinct-2  gap, n.     ESS  s a step"


SETTINGS = {
    "objective": "What is maximised.",
    "beta": "Strength of the KL penalty, in reward per nat.",
    "divergence": "What f-dpg minimises.",
    "steps": "Updates.",
    "prompts": "Prompts of a step.",
    "completions": "Completions of each.",
    "new_tokens": "The longest completion.",
    "prior_samples": "Completions of every prompt drawn from the prior first, for log Z.",
    "learning_rate": "Of AdamW.",
    "weight_decay": "Of AdamW.",
    "warm_up": "Steps over which the learning rate rises.",
    "clip": "The largest norm of a gradient.",
    "micro_batch_tokens": "Tokens that are differentiated at a time.",
    "save_every": "Steps between checkpoints.",
    "keep": "Checkpoints that are kept.",
    "seed": "Of everything that is random.",
}


@with_settings(TrainingSettings, SETTINGS, prompts="prompts_a_step")
def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder that the run is kept in.")],
    model: Model = "smollm2",
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts, one a line; of a .jsonl file the *prompt* of each line.")
    ] = None,
    reward: Reward = None,
    reward_label: RewardLabel = None,
    recipe: Annotated[
        Literal["dissociation"] | None,
        typer.Option(help="Instead of prompts and a reward: several objectives on one prior. *--model tabular* too."),
    ] = None,
    last_layers: Annotated[int | None, typer.Option(help="Train only so many layers, the last ones.", min=1)] = None,
    lora: Annotated[int | None, typer.Option(help="Train adapters of this rank instead (needs peft).", min=1)] = None,
    prior_server: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Ask a running server for log-probs under the prior.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Discard the run that is in the folder.")] = False,
    device: Device = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Precision of the model's weights.  [default: float32]")] = None,
    **options: Any,
) -> None:
    """Train a policy by an objective, from completions that it draws itself; or see what each objective does to one.

    Everything is kept in a folder: the prior's samples, a log with a line of JSON a step, and checkpoints, which
    `esscher serve --policy-dir` takes. After a stop of any kind the same command goes on from the last checkpoint; on a
    CPU to the same bits as without the stop. Ctrl-C and SIGTERM end it after the step, with a checkpoint.
    """
    settings = {name: value for name, value in options.items() if value is not None}
    if "prompts_a_step" in settings:
        settings["prompts"] = settings.pop("prompts_a_step")
    keep_freed_memory()
    if recipe is not None:
        given = {"prompts": prompts, "reward": reward, "reward_label": reward_label, "lora": lora}
        given |= {"prior_server": prior_server} | {name: options[name] for name in ("objective", "divergence")}
        _check_alone(recipe, given)
        _train_by_recipe(model, output, settings, last_layers, device, dtype, restart=restart)
        return
    if prompts is None or reward is None:
        raise ValueError("--prompts and --reward say what to train on: give both, or --recipe dissociation")
    from esscher.train.training_job import TrainingJob

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
        dtype=dtype or "float32",
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
        dtype=dtype or usual.dtype,
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


def _check_alone(recipe: str, others: Mapping[str, object]) -> None:
    given = [name.replace("_", "-") for name, value in others.items() if value is not None]
    if given:
        raise ValueError(f"--{given[0]} and --recipe {recipe}: the recipe has its own, give one of them")


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
