"""Steps in, the story of the run out."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from esscher import _core
from esscher.trend.events import TrendEvent, Watch
from esscher.warning import ReportWarning, merge_warnings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from esscher.trend.path import KnownFrontier
    from esscher.trend.trend_step import TrendStep

Part = TypeVar("Part")


@dataclass(frozen=True)
class TrendEnd:
    """What is said once all steps of a run have been seen.

    Attributes
    ----------
    version
        The version of Esscher that made it.
    target
        What steps were held against, as `str` gives it; `None` without a target.
    steps
        How many there were.
    events
        What happened, in the order in which it was named.
    warnings
        What the reader should know before trusting it, and what to do.
    """

    version: str
    target: str | None
    steps: int
    events: tuple[TrendEvent, ...]
    warnings: tuple[ReportWarning, ...]


@dataclass(frozen=True, eq=False)
class Trend:
    """The story of a run: its steps, and what happened.

    Attributes
    ----------
    steps
        What each step says, in order.
    end
        What is said of all of them.
    known
        The frontier that steps are held against; `None` without samples of the prior.
    """

    steps: tuple[TrendStep, ...]
    end: TrendEnd
    known: KnownFrontier | None

    @property
    def events(self) -> tuple[TrendEvent, ...]:
        """What happened, in the order in which it was named."""
        return self.end.events


class TrendRecorder:
    """Takes the steps of a run as they come, watches them, and says at any time what the story is.

    Parameters
    ----------
    target
        What the steps are held against, as `str` gives it.
    known
        The frontier that they are held against.
    """

    def __init__(self, target: str | None = None, known: KnownFrontier | None = None) -> None:
        self._target, self._known = target, known
        self._steps: list[TrendStep] = []
        self._events: list[TrendEvent] = []
        self._watch = Watch()

    def take(self, step: TrendStep) -> list[TrendEvent]:
        """Take the next step; return what is named at it.

        Raises
        ------
        ValueError
            If it does not come after the one before.
        """
        if self._steps and step.step <= self._steps[-1].step:
            raise ValueError(f"step {step.step} comes after step {self._steps[-1].step}: give each once, in order")
        self._steps.append(step)
        found = self._watch.take(step)
        self._events += found
        return found

    def story(self, warnings: Iterable[ReportWarning] = ()) -> Trend:
        """Return the story so far, with what else is to be warned of."""
        told = [*warnings, *_of_places(self._steps)]
        if self._known is not None:
            told += self._known.prototype.warnings
        end = TrendEnd(_core.__version__, self._target, len(self._steps), tuple(self._events), merge_warnings(told))
        return Trend(tuple(self._steps), end, self._known)


def trend(steps: Iterable[TrendStep], *, known: KnownFrontier | None = None, target: str | None = None) -> Trend:
    """Tell the story of a run from what its steps say: what happened, when it began, and by what evidence.

    Parameters
    ----------
    steps
        What each step says, as `summarise_step` gives it, in order.
    known
        The frontier that they are held against, to draw it.
    target
        The target that they are held against, to name it.

    Raises
    ------
    ValueError
        If a step does not come after the one before.

    Examples
    --------
    >>> import numpy as np
    >>> from esscher import Ragged, Samples, summarise_step
    >>> rng = np.random.default_rng(0)
    >>> def drawn(step):
    ...     "From step 25 on the policy hardly ever writes anything but one token."
    ...     p = np.where(step < 25, 0.5, 0.02)
    ...     tokens = rng.random((32, 8)) < p
    ...     logprobs = Ragged.from_rows(np.log(np.where(tokens, p, 1 - p)))
    ...     return Samples(Ragged.from_rows([[i] for i in range(8)]), Ragged.from_rows(tokens.astype(int)),
    ...                    np.arange(0, 33, 4), policy_logprobs=logprobs)
    >>> found = trend(summarise_step(i, drawn(i)) for i in range(40))
    >>> [(event.code, event.began, event.named) for event in found.events]
    [('entropy-collapse', 25, 25)]
    """
    recorder = TrendRecorder(target, known)
    for step in steps:
        recorder.take(step)
    return recorder.story()


def summarise_ahead(
    parts: Iterable[Part], summarise: Callable[[Part], TrendStep], threads: int = 2
) -> Iterator[TrendStep]:
    """Summarise the parts of a run in several threads, in order; parts are held for as many threads, and one more.

    Examples
    --------
    >>> list(summarise_ahead([1, 2, 3], lambda part: 10 * part))
    [10, 20, 30]
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[TrendStep]] = deque()
        for part in parts:
            waiting.append(pool.submit(summarise, part))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _of_places(steps: list[TrendStep]) -> list[ReportWarning]:
    """Say if the prior's samples are of other prompts than the steps'."""
    placed = [step for step in steps if step.frontier is not None]
    few = [step for step in placed if step.frontier is not None and step.frontier.prompts < step.prompts]
    if not few:
        return []
    none = sum(step.frontier is not None and step.frontier.prompts == 0 for step in few)
    seen = f"The prior's samples do not have all prompts of {len(few)} of {len(placed)} steps: "
    seen += "only those that they have are held against the frontier"
    if none:
        seen += f", and {none} of which they have none against the frontier of all their prompts"
    return [ReportWarning("unshared-prompts", f"{seen}.", "Draw samples of the prior for every prompt of the run.")]
