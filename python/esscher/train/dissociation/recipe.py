"""The dissociation: train one prior by several objectives, and judge the policy of each."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import torch

from esscher import files
from esscher.compare import compare
from esscher.lm.packaged import resolve
from esscher.lm.prompts import ALICE_PROMPTS, NEUTRAL_PROMPTS
from esscher.report.outcomes import Dissociation
from esscher.train.dissociation.judging import draw, judge
from esscher.train.dissociation.worlds import tabular_world, transformers_world
from esscher.train.lessons import known_prior
from esscher.train.run_folder import LOG, PRIOR, RunFolder
from esscher.train.training import Task, train
from esscher.train.training_settings import TrainingSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from esscher.lm.base import LanguageModel
    from esscher.samples import Samples
    from esscher.train.dissociation.worlds import World
    from esscher.train.policies import Policy
    from esscher.train.step_metrics import StepMetrics
    from esscher.train.training_settings import ObjectiveName

OBJECTIVES: tuple[ObjectiveName, ...] = ("plain-rl", "kl-rl", "dpg")


@dataclass(frozen=True)
class DissociationRecipe:
    """What is tried.

    Attributes
    ----------
    model
        "tabular", or what `TransformersLM.load` and `resolve` know.
    settings
        How each policy is trained, but for the objective.
    evaluated
        Completions of each prompt that a policy is judged by.
    last_layers
        How many layers are trained; the whole model if `None`.
    device, dtype
        As for `TransformersLM.load`.
    """

    model: str
    settings: TrainingSettings
    evaluated: int
    last_layers: int | None = None
    device: str | None = None
    dtype: str | None = None


def recipe_of(model: str) -> DissociationRecipe:
    """Return what is tried on a model, in seconds on "tabular", in a minute or two on "alice", else in a quarter hour.

    Examples
    --------
    >>> recipe_of("tabular").settings.beta
    0.2
    """
    if model == "tabular":
        settings = TrainingSettings(
            beta=0.2, steps=300, prompts=4, completions=64, new_tokens=4, prior_samples=4096, learning_rate=0.03
        )
        return DissociationRecipe(model, settings, evaluated=256)
    if model == "alice":
        settings = TrainingSettings(prompts=8, prior_samples=256, learning_rate=3e-4)
        return DissociationRecipe(model, settings, evaluated=64)
    return DissociationRecipe(model, TrainingSettings(prior_samples=128), evaluated=64, last_layers=4, dtype="bfloat16")


def run_dissociation(
    recipe: DissociationRecipe,
    folder: Path,
    *,
    notify: Callable[[str], None],
    show: Callable[[str, StepMetrics], object],
    is_stopped: Callable[[], bool] = lambda: False,
) -> Dissociation | None:
    """Train a policy by each objective, judge them all, and put them beside the frontier.

    Each run is kept in a folder of the folder, and goes on where it was stopped. The completions that a policy is
    judged by are written beside them, for `esscher compare` to read.

    Parameters
    ----------
    recipe
        What.
    folder
        Where it is kept.
    notify
        Told what is being done.
    show
        Called with the objective and the metrics of each step.
    is_stopped
        As for `train`; then there is no result.

    Raises
    ------
    ModuleNotFoundError, FileNotFoundError, ValueError
        If the model or the reward is not to be had, or as `train`.
    """
    notify(f"loading {recipe.model}")
    world = _world(recipe, notify)
    folder.mkdir(parents=True, exist_ok=True)
    prior = world.untrained()
    notify("drawing from the prior")
    held_out = _drawn("prior", prior.lm, prior.lm, world, recipe, folder)
    known = known_prior(held_out, recipe.settings.beta)
    # As many as of the policies, since most metrics of diversity move with the number of completions.
    alike = held_out.take_completions(np.flatnonzero(held_out.groups.place < recipe.evaluated))
    drawn: dict[str, Samples] = {}
    outcomes = [judge("prior", prior.lm, prior.lm, world, alike, known, recipe.settings.beta, 0.0)]
    for objective in OBJECTIVES:
        trained = _train(objective, recipe, world, prior.lm, folder, show, is_stopped)
        if trained is None:
            return None
        notify(f"drawing from the policy of {objective}")
        drawn[objective] = _drawn(objective, trained.lm, prior.lm, world, recipe, folder)
        log = (folder / objective / LOG).read_text().splitlines()
        seconds = sum(float(json.loads(line)["seconds"]) for line in log)
        outcomes.append(
            judge(objective, trained.lm, prior.lm, world, drawn[objective], known, recipe.settings.beta, seconds)
        )
    notify("comparing")
    return Dissociation(
        model=recipe.model,
        settings=asdict(recipe.settings),
        facts=_facts(recipe),
        comparison=compare(held_out, drawn, recipe.settings.beta),
        outcomes=tuple(outcomes),
    )


def _world(recipe: DissociationRecipe, notify: Callable[[str], None]) -> World:
    if recipe.model == "tabular":
        # Such small arrays take longer in several threads than in one.
        torch.set_num_threads(1)
        return tabular_world(np.random.default_rng([recipe.settings.seed]), prompts=4, vocabulary=6, depth=4)
    prompts = ALICE_PROMPTS if recipe.model == "alice" else NEUTRAL_PROMPTS[:8]
    source = str(resolve(recipe.model, notify))
    return transformers_world(source, prompts, recipe.last_layers, recipe.device, recipe.dtype)


def _train(
    objective: ObjectiveName,
    recipe: DissociationRecipe,
    world: World,
    prior: LanguageModel,
    folder: Path,
    show: Callable[[str, StepMetrics], object],
    is_stopped: Callable[[], bool],
) -> Policy | None:
    """Train by one objective; `None` if that was stopped."""
    settings, policy = replace(recipe.settings, objective=objective), world.untrained()
    run = RunFolder(folder / objective, settings, {"model": recipe.model, "last_layers": str(recipe.last_layers)})
    if objective != OBJECTIVES[0]:
        # All begin with the same samples of the prior, drawn once.
        shutil.copyfile(folder / OBJECTIVES[0] / PRIOR, run.folder / PRIOR)
    task = Task(policy, prior, world.reward, world.prompts)
    reached = train(task, settings, run, show=partial(show, objective), is_stopped=is_stopped)
    return policy if reached >= settings.steps else None


def _drawn(
    name: str, lm: LanguageModel, prior: LanguageModel, world: World, recipe: DissociationRecipe, folder: Path
) -> Samples:
    """Draw completions to judge by; of the prior none that a policy was trained on."""
    settings = recipe.settings
    n = settings.prior_samples if name == "prior" else recipe.evaluated
    path = folder / f"{name}.parquet"
    files.write(files.to_table(draw(lm, prior, world, n, settings.new_tokens, settings.seed)), path)
    # As whoever reads the file will have them.
    return files.read([path]).samples


def _facts(recipe: DissociationRecipe) -> dict[str, str]:
    names = ("esscher", "torch", "transformers")
    return {
        "trained": "the whole model" if recipe.last_layers is None else f"the last {recipe.last_layers} layers",
        "precision": "float64" if recipe.model == "tabular" else recipe.dtype or "float32",
        "threads": str(torch.get_num_threads()),
        **{name: version(name) for name in names},
    }
