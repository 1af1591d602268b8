"""Completions of TRL's trainers in files as they were sampled, ids and log-probs; their own logs have texts alone."""

from __future__ import annotations

import queue
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esscher import files
from esscher.files.dump import NAMES
from esscher.integrations.trl_judge import Episode, host, samples_of

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Sequence

    from esscher.integrations.trl_judge import TrainerBatch
    from esscher.samples import Samples

STEP = "step"
# So many batches may wait to be written, as where a disk hangs; they are small, and are kept on the trainer's device.
WAITING = 64


class StepWriter:
    """The thread that writes each batch of completions to a file of its own, whole or not at all.

    Parameters
    ----------
    folder
        Where to; it is made if it is not there.
    rewards
        What the trainer calls its rewards, in their order.
    end_token_ids
        The ids at which the trainer's model stops: a completion that ends with one has ended by itself.
    """

    def __init__(self, folder: str | os.PathLike[str], rewards: Sequence[str], end_token_ids: Collection[int]) -> None:
        self._folder, self._rewards, self._ends = Path(folder), tuple(rewards), list(end_token_ids)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._batches: queue.Queue[tuple[TrainerBatch, Samples | None] | None] = queue.Queue(WAITING)
        self._episode = Episode("completions cannot be written to the dump", "completions are written again")
        self._of_step: dict[int, int] = {}
        self._thread = threading.Thread(target=self._run, name="esscher-dump", daemon=True)
        self._thread.start()

    def keep(self, batch: TrainerBatch, scored: Samples | None) -> None:
        """Have a batch written; with the prior's log-probs, where it is `scored`."""
        try:
            self._batches.put_nowait((batch, scored))
        except queue.Full:
            self._episode.failed(TimeoutError(f"{WAITING} batches wait for the disk, and another is lost"))

    def wait(self, seconds: float) -> bool:
        """Wait until no batch waits any more; whether that came in time."""
        with self._batches.all_tasks_done:
            return self._batches.all_tasks_done.wait_for(lambda: not self._batches.unfinished_tasks, seconds)

    def close(self, seconds: float) -> None:
        """Write what waits, as long as that takes no longer, and end the thread."""
        self.wait(seconds)
        try:
            self._batches.put_nowait(None)
        except queue.Full:
            return  # the disk hangs, and so does the thread
        self._thread.join(seconds)

    def _run(self) -> None:
        while (taken := self._batches.get()) is not None:
            try:
                batch, scored = taken
                files.write(table_of(batch, scored, self._rewards, self._ends), self._path(batch.step))
            except Exception as error:  # training goes on without
                self._episode.failed(error)
            else:
                self._episode.ended()
            finally:
                self._batches.task_done()

    def _path(self, step: int) -> Path:
        """Name a file by its step; where a step has several batches, the others by their number, too."""
        self._of_step[step] = self._of_step.get(step, 0) + 1
        several = f"-{self._of_step[step]}" if self._of_step[step] > 1 else ""
        return self._folder / f"step-{step:06}{several}.parquet"


def table_of(batch: TrainerBatch, scored: Samples | None, rewards: Sequence[str], end_token_ids: Sequence[int]) -> Any:
    """Return a batch as a table in our format: with every reward by its name, and the step.

    What a reward function did not give is null. A completion that none gave any is left out, as it is by the trainer,
    unless that is all of them.
    """
    samples, total, kept = samples_of(batch)
    last = samples.completions.values[samples.completions.offsets[1:] - 1]
    table = files.to_table(replace(scored or samples, terminated=np.isin(last, end_token_ids)))
    each = host(batch.rewards.double())[kept].T
    names = ["rewards", *_apart(rewards, taken=[*NAMES, STEP])]
    step = np.full(len(table), batch.step)
    table = files.with_numbers(table, {**dict(zip(names, [total, *each], strict=True)), STEP: step})
    known = np.flatnonzero(~np.isnan(total))
    return table.take(known) if len(known) else table


def _apart(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Return names of which none is another's, nor taken.

    Examples
    --------
    >>> _apart(["length", "judge", "judge", "step"], taken=["step"])
    ['length', 'judge', 'judge_2', 'step_2']
    """
    found: list[str] = []
    for name in names:
        number, unlike = 1, name
        while unlike in (*taken, *found):
            number += 1
            unlike = f"{name}_{number}"
        found.append(unlike)
    return found
