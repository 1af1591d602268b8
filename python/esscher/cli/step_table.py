"""What `esscher train` shows while it trains, and how it is stopped."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from esscher.cli.output import console, errors, show_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from rich.progress import Progress

    from esscher.train.step_metrics import StepMetrics

# So many steps are shown, at equal distances.
ROWS = 20
HEADING = "  step   reward       KL, nats  entropy  distinct-2  gap, n.     ESS  s a step"


@contextmanager
def following_steps(steps: int) -> Iterator[tuple[StepTable, Callable[[], bool]]]:
    """Give what shows a training of so many steps, and what tells whether Ctrl-C or SIGTERM asked for its end."""
    with show_progress() as progress, _stopping() as is_stopped:
        yield StepTable(progress, steps), is_stopped


class StepTable:
    """Shows the metrics of some steps, under a heading, and how far training is."""

    def __init__(self, progress: Progress, steps: int) -> None:
        self._progress, self._task, self._steps = progress, progress.add_task("starting", total=None), steps
        self._every = max(1, steps // ROWS)
        self._objective: str | None = None
        self._is_headed = False
        self._told: set[str] = set()

    def say(self, text: str) -> None:
        """Say what takes long before the first step."""
        self._progress.update(self._task, description=text)

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
