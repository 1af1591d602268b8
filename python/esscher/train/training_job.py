"""A training job as its command line tells it: models, prompts, reward, and the folder that it is kept in."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from esscher.client import Client
from esscher.lm.pair import load_lm
from esscher.lm.rewards import find_reward_function, load_reward
from esscher.train.policies import TransformersPolicy
from esscher.train.run_folder import RunFolder
from esscher.train.served import ServedPrior
from esscher.train.training import Prior, Task, check_prompts, train
from esscher.wire.addresses import check_address

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from esscher.train.step_metrics import StepMetrics
    from esscher.train.training_settings import TrainingSettings

# Seconds that a server may take for a batch, a restart included.
SERVER_TIMEOUT = 600.0


@dataclass(frozen=True)
class TrainingJob:
    """What to train.

    Attributes
    ----------
    model
        The policy before its first step, and the prior: a folder, a GGUF file, a hub name or a packaged model's name.
    prompts
        A file of prompts: a text a line, or JSON lines with a ``prompt`` each.
    reward
        A function, as ``module:function``, or a sequence-classification model.
    folder
        Where the run is kept.
    settings
        How to train.
    reward_label
        Which label's log-probability is the reward, where that model has several.
    last_layers, lora
        What of the model is trained (see `TransformersPolicy`).
    server
        Who is asked for log-probs under the prior, "host:port"; the prior is held here too if not given.
    device, dtype
        As for `TransformersLM.load`.
    """

    model: str
    prompts: Path
    reward: str
    folder: Path
    settings: TrainingSettings
    reward_label: str | None = None
    last_layers: int | None = None
    lora: int | None = None
    server: str | None = None
    device: str | None = None
    dtype: str | None = None


def run_job(
    job: TrainingJob,
    *,
    restart: bool = False,
    notify: Callable[[str], None],
    show: Callable[[StepMetrics], object],
    is_stopped: Callable[[], bool],
) -> int:
    """Train, from the last checkpoint if there is one; return the step that was reached.

    Parameters
    ----------
    job
        What.
    restart
        Whether a run that is in the folder is discarded, once the job is known to be one.
    notify
        Told what takes long before the first step.
    show, is_stopped
        As for `train`.

    Raises
    ------
    FileNotFoundError, ModuleNotFoundError
        If the model, the prompts, or a package that is needed is not there.
    ConnectionError, TimeoutError
        If the server does not answer.
    ValueError, FloatingPointError, MemoryError
        As `train`, and if prompts or reward cannot be used.
    """
    # What was named by hand, before what takes long.
    if job.server is not None:
        check_address(job.server)
    texts = read_prompts(job.prompts)
    function = find_reward_function(job.reward, job.reward_label)
    if restart:
        RunFolder.discard(job.folder)
    run = RunFolder(job.folder, job.settings, _facts(job, texts))
    notify(f"loading {job.model}")
    lm = load_lm(job.model, job.device, job.dtype, notify)
    reward = load_reward(job.reward, function, lm, job.reward_label, job.device, notify)
    with ExitStack() as open_:
        policy = TransformersPolicy(lm, last_layers=job.last_layers, lora=job.lora, seed=job.settings.seed)
        prior: Prior = policy.frozen_copy()
        if job.server is not None:
            prior = ServedPrior(open_.enter_context(Client(job.server, timeout=SERVER_TIMEOUT)))
        task = Task(policy, prior, reward, lm.encode(texts))
        check_prompts(task, job.settings)
        notify(f"drawing {job.settings.prior_samples} completions of {len(texts)} prompts from the prior")
        return train(task, job.settings, run, show=show, is_stopped=is_stopped)


def read_prompts(path: Path) -> list[str]:
    """Read prompts, a text a line; of a file that is named .jsonl, the ``prompt`` of each line.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is a folder, there are no prompts, or a line is not as it should be; the message names it.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file")
    try:
        # At line feeds alone: texts hold other characters that Python takes for the end of a line.
        lines = [line.removesuffix("\r") for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8: {error}") from error
    numbered = [(i, line) for i, line in enumerate(lines, start=1) if line.strip()]
    texts = [_prompt(path, i, line) for i, line in numbered] if path.suffix == ".jsonl" else [t for _, t in numbered]
    if not texts:
        raise ValueError(f"{path} has no prompts: write one a line")
    return texts


def _prompt(path: Path, number: int, line: str) -> str:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}, line {number}: it is no JSON object with a prompt") from error
    if not isinstance(prompt, str) or not prompt:
        raise ValueError(f"{path}, line {number}: the prompt is {prompt!r}, not a text")
    return prompt


def _facts(job: TrainingJob, texts: list[str]) -> dict[str, str]:
    """Return what makes this job what it is, beside its settings."""
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    facts = {
        name: str(getattr(job, name)) for name in ("model", "reward", "reward_label", "last_layers", "lora", "dtype")
    }
    return facts | {"prompts sha256": digest, **{name: version(name) for name in ("esscher", "torch", "transformers")}}
