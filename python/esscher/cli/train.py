"""`esscher train`: a policy by one objective, or several objectives on one prior."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import Annotated, Any, Literal

import typer

from esscher.atomic import replacing
from esscher.cli.allocator import keep_freed_memory
from esscher.cli.options import Device, Dtype, Explain, Model, Reward, RewardLabel, with_settings
from esscher.cli.output import console
from esscher.cli.step_table import following_steps
from esscher.train.training_settings import TrainingSettings

INTERRUPTED = 130
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
    "keep_samples": "Keep each step's completions, for *esscher trend*.",
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
    explain: Explain = False,
    **options: Any,
) -> None:
    """Train a policy by an objective, from completions that it draws itself; or see what each objective does to one.

    Everything is kept in a folder: the prior's samples, a log with a line of JSON a step, and checkpoints, which
    `esscher serve --policy-dir` takes. After a stop of any kind the same command goes on from the last checkpoint; on a
    CPU to the same bits as without the stop. Ctrl-C and SIGTERM end it after the step, with a checkpoint.
    """
    keep_freed_memory()
    settings = _given(**options)
    if "prompts_a_step" in settings:
        settings["prompts"] = settings.pop("prompts_a_step")
    if recipe is not None:
        others = _given(
            prompts=prompts,
            reward=reward,
            reward_label=reward_label,
            objective=options["objective"],
            divergence=options["divergence"],
            lora=lora,
            prior_server=prior_server,
        )
        if others:
            option = next(iter(others)).replace("_", "-")
            raise ValueError(f"--{option} and --recipe {recipe}: the recipe has its own, give one of them")
        others = _given(last_layers=last_layers, device=device, dtype=dtype)
        _train_by_recipe(model, settings, others, output, restart=restart, explain=explain)
        return
    if prompts is None or reward is None:
        raise ValueError("--prompts and --reward say what to train on: give both, or --recipe dissociation")
    from esscher.train.training_job import TrainingJob, run_job

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
    with following_steps(job.settings.steps) as (table, is_stopped):
        reached = run_job(job, restart=restart, notify=table.say, show=table.show, is_stopped=is_stopped)
    if reached < job.settings.steps:
        console.print(
            f"stopped after {reached} of {job.settings.steps} steps: the same command goes on", soft_wrap=True
        )
        sys.exit(INTERRUPTED)
    console.print(f"\nCheckpoints, log and the prior's samples: {output.resolve()}", soft_wrap=True)


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _train_by_recipe(
    model: str, settings: dict[str, Any], others: dict[str, Any], folder: Path, *, restart: bool, explain: bool
) -> None:
    from esscher.report import to_json
    from esscher.report.dissociation import print_dissociation, write_dissociation_page
    from esscher.train.dissociation import OBJECTIVES, recipe_of, run_dissociation
    from esscher.train.run_folder import RunFolder

    usual = recipe_of(model)
    recipe = replace(usual, settings=replace(usual.settings, **settings), **others)
    if restart:
        for objective in OBJECTIVES:
            RunFolder.discard(folder / objective)
    with following_steps(recipe.settings.steps) as (table, is_stopped):
        found = run_dissociation(recipe, folder, notify=table.say, show=table.show_of, is_stopped=is_stopped)
    if found is None:
        console.print("stopped: the same command goes on")
        sys.exit(INTERRUPTED)
    console.print()
    print_dissociation(found, console, explain=explain)
    page, results = folder / "dissociation.html", folder / "dissociation.json"
    write_dissociation_page(found, page)
    with replacing(results) as file:
        file.write(to_json(found).encode())
    console.print(f"\nPage: {page.resolve()}\nNumbers: {results.resolve()}", soft_wrap=True, markup=False)
