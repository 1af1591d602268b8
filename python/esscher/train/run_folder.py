"""The folder of a run: its settings, the prior's samples, a log of steps, and checkpoints to go on from."""

from __future__ import annotations

import json
import math
import shutil
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from esscher import files
from esscher.atomic import build_folder, replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import IO

    from esscher.samples import Samples
    from esscher.train.optimiser import Optimiser
    from esscher.train.policies import Policy
    from esscher.train.step_metrics import StepMetrics
    from esscher.train.training_settings import TrainingSettings

RUN, LOG, PRIOR, CHECKPOINTS, SAMPLES = "run.json", "log.jsonl", "prior.parquet", "checkpoints", "samples"
TENSORS, PLACE = "trainer.safetensors", "trainer.json"
# What may change when a run goes on.
FREE = {"steps", "save_every", "keep", "keep_samples", "esscher", "torch", "transformers"}


class RunFolder:
    """The folder of a run; if it holds an unfinished run of the same settings, that goes on.

    Parameters
    ----------
    folder
        Where it is, or will be.
    settings
        How the policy is trained.
    facts
        What else makes a run what it is, such as the model; strings by name.

    Raises
    ------
    ValueError
        If a run of other settings is there, or other files.
    """

    def __init__(self, folder: Path, settings: TrainingSettings, facts: Mapping[str, str]) -> None:
        self.folder = folder
        told = {**facts, **asdict(settings)}
        if (folder / RUN).is_file():
            _check_same(folder, json.loads((folder / RUN).read_text()), told)
        elif folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"{folder} has files, and no run of `esscher train`: name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / RUN) as file:
            file.write(json.dumps(told, indent=2).encode())

    @staticmethod
    def discard(folder: Path) -> None:
        """Remove a run, and nothing else: a folder without one is left as it is."""
        if (folder / RUN).is_file():
            shutil.rmtree(folder)

    def restore(self, optimiser: Optimiser) -> tuple[int, int | None]:
        """Go back to the last checkpoint: its step and micro-batch tokens; step 0 and `None` if there is none.

        Raises
        ------
        ValueError
            If it is of other parameters.
        """
        saved = self.checkpoints()
        if not saved:
            return 0, None
        place = json.loads((saved[-1] / PLACE).read_text())
        optimiser.restore(load_file(saved[-1] / TENSORS))
        return int(place["step"]), int(place["micro_batch_tokens"])

    def save(self, policy: Policy, optimiser: Optimiser, step: int, micro_batch_tokens: int, keep: int) -> None:
        """Write a checkpoint, which appears whole or not at all, and remove old ones beyond `keep`."""

        def fill(folder: Path) -> None:
            policy.save(folder)
            save_file(optimiser.state(), folder / TENSORS)
            (folder / PLACE).write_text(json.dumps({"step": step, "micro_batch_tokens": micro_batch_tokens}))

        folder = self.folder / CHECKPOINTS / f"step-{step:06}"
        build_folder(folder, fill)
        folder.with_name(f".{folder.name}.lock").unlink(missing_ok=True)
        for old in self.checkpoints()[:-keep]:
            shutil.rmtree(old)

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints that are there, by their steps."""
        return sorted(
            (self.folder / CHECKPOINTS).glob("step-*"), key=lambda folder: int(folder.name.removeprefix("step-"))
        )

    def prior_samples(self, draw: Callable[[], Samples]) -> Samples:
        """Return the prior's samples of this run, drawn when first asked for."""
        path = self.folder / PRIOR
        if not path.is_file():
            files.write(files.to_table(draw()), path)
        # Read even then, so that a run that goes on has the same to the last bit.
        return files.read([path]).samples

    def keep(self, samples: Samples, step: int) -> None:
        """Write the completions of a step, with a column that says which step it is."""
        table = files.to_table(samples)
        (self.folder / SAMPLES).mkdir(exist_ok=True)
        files.write(
            table.append_column("step", [[step] * len(table)]), self.folder / SAMPLES / f"step-{step:06}.parquet"
        )

    @contextmanager
    def log(self, step: int) -> Iterator[Callable[[StepMetrics], None]]:
        """Append metrics to the log, a line of JSON for each step; lines from `step` on are of a run that was stopped.

        They go to TensorBoard too, if its package is installed.
        """
        path = self.folder / LOG
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        with replacing(path) as file:
            file.writelines(lines[:step])
        with path.open("a", encoding="utf-8") as file, _tensorboard(self.folder / "tensorboard", step) as board:
            yield lambda metrics: _write(metrics, file, board)


def _write(metrics: StepMetrics, file: IO[str], board: Any) -> None:
    record = asdict(metrics)
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()
    }
    file.write(json.dumps(finite, ensure_ascii=False) + "\n")
    file.flush()
    if board is not None:
        for name, value in record.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                board.add_scalar(f"esscher/{name}", value, metrics.step)


@contextmanager
def _tensorboard(folder: Path, step: int) -> Iterator[Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        yield None
        return
    with SummaryWriter(str(folder), purge_step=step) as board:
        yield board


def _check_same(folder: Path, there: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    names = sorted((there.keys() | told.keys()) - FREE)
    other = [name for name in names if there.get(name) != told.get(name)]
    if other:
        name = other[0]
        raise ValueError(
            f"{folder} holds a run with {name} {there.get(name)!r}, not {told.get(name)!r}: name another folder, or "
            "discard that run with --restart"
        )
