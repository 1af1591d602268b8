"""What happens to a policy in training: named when the evidence suffices, and dated at the step where it began."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.estimate import Estimate
from esscher.trend.change_points import (
    APART,
    FIRST,
    Level,
    above,
    as_normal,
    is_enough,
    onset,
    running_away,
    step_variance,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from esscher.trend.trend_step import TrendStep

# What each kind of event says in a line.
WHAT = {
    "entropy-collapse": "The entropy collapses",
    "kl-runaway": "The KL runs away",
    "reward-without-diversity": "The reward rises while diversity is lost",
    "left-the-frontier": "The run has left the frontier",
    "mismatch": "The engine that samples no longer agrees with the one that trains",
    "lengths-at-limit": "Completions are cut off at the longest length",
    "rewards-alike": "The completions of a prompt all have one reward",
}
# The chance that a healthy run has any event named, over its whole length, and that of each kind.
RUN_RATE = 0.05
RATE = RUN_RATE / len(WHAT)
# Entropy collapses below this share of its first level; completions that end in time become fewer than this share of
# theirs.
HALF = 0.5
# Diversity is lost below this share of its first level, or this far below the target's.
MOST_OF, BELOW_TARGET = 0.75, 0.1
# Engines disagree beyond so many times their first difference, and beyond so many nats a token: less is rounding.
TIMES, ROUNDING_NATS = 3.0, 0.01
# Nearly all prompts: all but this share.
FEW_PROMPTS = 0.2
# The reward has risen if that of so many last steps is so many standard errors above the first level.
RISEN, RISEN_ERRORS = 8, 3.0
# A step of bounded size moves a policy's parameters at most in proportion to the steps, and KL is the square of the
# distance: it grows with the square of the steps, with the fourth power while the learning rate warms up. A KL of less
# than a nat is small whatever it does.
POWER, LEAST_KL = 4.0, 1.0


@dataclass(frozen=True)
class TrendEvent:
    """Something that happened in a run.

    Attributes
    ----------
    code
        Which kind it is; it stays the same from version to version.
    what
        What happened, in a line.
    began
        The step at which it began, by least squares.
    named
        The step at which the evidence sufficed.
    evidence
        What was seen, in sentences.
    """

    code: str
    what: str
    began: int
    named: int
    evidence: str


class _Rule(NamedTuple):
    """A series of steps, turned so that what is named is a rise above a limit; `shown` turns it back.

    `limit` is that by the first level, `slope` how it moves with it, `floor` the least variance of a step; one
    `with_reward` is named only once the reward has risen.
    """

    code: str
    noun: str
    unit: str
    series: Callable[[TrendStep], Estimate | None]
    shown: Callable[[float], float]
    limit: Callable[[float], float]
    slope: float
    why: str
    floor: Callable[[TrendStep], float] = lambda _: 0.0
    rate: float = RATE
    with_reward: bool = False


@dataclass
class _History:
    """What has been seen of a series."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    stderrs: list[float] = field(default_factory=list)

    def add(self, step: int, estimate: Estimate | None) -> bool:
        """Add what a step says; whether it says anything."""
        if estimate is None or not math.isfinite(estimate.value):
            return False
        self.steps.append(step)
        self.values.append(estimate.value)
        self.stderrs.append(estimate.stderr)
        return True

    @property
    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Values and their standard errors."""
        return np.array(self.values), np.array(self.stderrs)


class Watch:
    """Watches the steps of a run as they come, and names each kind of event once, when the evidence suffices.

    Of past steps it keeps a few numbers each.
    """

    def __init__(self) -> None:
        self._histories = tuple(_History() for _ in RULES)
        self._kl, self._reward = _History(), _History()
        self._places = 0
        self._named: set[str] = set()

    def take(self, step: TrendStep) -> list[TrendEvent]:
        """Take the next step; return what is named at it."""
        self._reward.add(step.step, step.reward)
        found = [self._by_rule(rule, history, step) for rule, history in zip(RULES, self._histories, strict=True)]
        found += [self._of_kl(step), self._of_frontier(step)]
        events = {event.code: event for event in found if event is not None and event.code not in self._named}
        self._named |= events.keys()
        return list(events.values())

    def _by_rule(self, rule: _Rule, history: _History, step: TrendStep) -> TrendEvent | None:
        if not history.add(step.step, rule.series(step)) or rule.code in self._named:
            return None
        values, stderrs = history.columns
        level = above(values, stderrs, rule.limit, rule.slope, rule.rate, rule.floor(step))
        if level is None or (rule.with_reward and not self._has_reward_risen()):
            return None
        first = float(values[:FIRST].mean())
        at = onset(values, first, level.limit) if first < level.limit else 0
        evidence = _evidence(rule, first, level)
        return TrendEvent(rule.code, WHAT[rule.code], history.steps[at], step.step, evidence)

    def _has_reward_risen(self) -> bool:
        """Whether the last steps have more reward than the first ones: beside the test of diversity, a plain one."""
        values, _ = self._reward.columns
        if len(values) < 2 * FIRST:
            return False
        last = values[FIRST:][-RISEN:]
        stderr = math.sqrt(step_variance(values)[0] * (1 / FIRST + 1 / len(last)))
        return float(last.mean() - values[:FIRST].mean()) > RISEN_ERRORS * stderr

    def _of_kl(self, step: TrendStep) -> TrendEvent | None:
        if not self._kl.add(step.step, step.best_kl) or "kl-runaway" in self._named:
            return None
        values, stderrs = self._kl.columns
        level = running_away(values, stderrs, np.array(self._kl.steps) + 1.0, POWER, RATE)
        if level is None or level.value < LEAST_KL:
            return None
        n = len(values)
        before = slice(n - (APART + 1) * level.window, n - APART * level.window)
        was = max(float(values[before].mean()), 0.0)
        # As a distance, which grows straight where training goes at an even pace.
        distances = np.sqrt(np.maximum(values, 0.0))
        at = onset(distances, was**0.5, level.value**0.5)
        evidence = (
            f"KL(policy‖prior) was {was:.3g} nats in {_steps_of(self._kl.steps[before])}, and is {level.value:.3g} in "
            f"{_steps_of(self._kl.steps[n - level.window :])}: more than twice as much, and more than the fourth power "
            f"of the steps allows ({level.limit:.3g}), by {level.errors:.1f} standard errors"
        )
        return TrendEvent("kl-runaway", WHAT["kl-runaway"], self._kl.steps[at], step.step, f"{evidence}.")

    def _of_frontier(self, step: TrendStep) -> TrendEvent | None:
        place = step.frontier
        if place is None or place.regret is None or not (place.trusted and place.regret.stderr > 0):
            return None
        self._places += 1
        errors = as_normal(*place.regret, max(place.prompts - 1.0, 1.0)) if place.regret.value > 0 else -math.inf
        if errors <= is_enough(self._places, RATE):
            return None
        evidence = (
            f"At step {step.step} the reward is {place.regret.value:.3g} below what its KL could have bought, by "
            f"{errors:.1f} standard errors"
        )
        return TrendEvent("left-the-frontier", WHAT["left-the-frontier"], step.step, step.step, f"{evidence}.")


def _evidence(rule: _Rule, first: float, level: Level) -> str:
    """Say what was seen, turned back."""
    was, now, limit = (rule.shown(value) + 0.0 for value in (first, level.value, level.limit))  # -0.0 is 0.0
    side = "below" if now < limit else "above"
    last = "the last step" if level.window == 1 else f"the last {level.window} steps"
    return (
        f"{rule.noun} was {was:.3g}{rule.unit} in the first {FIRST} steps, and is {now:.3g} in {last}: "
        f"{side} {limit:.3g}, {rule.why}, by {level.errors:.1f} standard errors."
    )


def _steps_of(steps: list[int]) -> str:
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"


def _minus(estimate: Estimate | None, less: float = 0.0) -> Estimate | None:
    return None if estimate is None else Estimate(less - estimate.value, estimate.stderr)


def _below_target(step: TrendStep) -> Estimate | None:
    """By how much fewer 2-grams are distinct than under the target: by the prior's samples, else by the step's own."""
    place = step.frontier
    if place is not None and place.target_distinct_2 is not None:
        of_target = place.target_distinct_2
        stderr = float(np.hypot(of_target.stderr, step.distinct_2.stderr))
        return Estimate(of_target.value - step.distinct_2.value, stderr)
    excess = step.excess_collapse
    # Without an error it is biased: a collapsed policy's own completions do not show what the target asks for.
    return _minus(excess) if excess is not None and math.isfinite(excess.stderr) else None


RULES = (
    _Rule(
        "entropy-collapse",
        "The entropy",
        " nats a token",
        lambda step: _minus(step.best_entropy),
        shown=lambda value: -value,
        limit=lambda first: HALF * first,
        slope=HALF,
        why="half of it",
    ),
    _Rule(
        "reward-without-diversity",
        "The target's share of distinct 2-grams minus the policy's",
        "",
        _below_target,
        shown=lambda value: value,
        limit=lambda _: BELOW_TARGET,
        slope=0.0,
        why="while the reward has risen",
        rate=RATE / 2,
        with_reward=True,
    ),
    _Rule(
        "reward-without-diversity",
        "The share of distinct 2-grams",
        "",
        lambda step: _minus(step.distinct_2),
        shown=lambda value: -value,
        limit=lambda first: MOST_OF * first,
        slope=MOST_OF,
        why="three quarters of it, while the reward has risen",
        rate=RATE / 2,
        with_reward=True,
    ),
    _Rule(
        "mismatch",
        "The mean difference of log-probs",
        " nats a token",
        lambda step: None if step.mismatch is None else step.mismatch.mean_difference,
        shown=lambda value: value,
        limit=lambda first: max(TIMES * first, ROUNDING_NATS),
        slope=TIMES,
        why="three times as much and more than rounding",
    ),
    _Rule(
        "lengths-at-limit",
        "The share of completions that end before the longest length",
        "",
        lambda step: _minus(_minus(step.cut_off, 1.0)),
        shown=lambda value: -value,
        limit=lambda first: HALF * first,
        slope=HALF,
        why="half of it",
        floor=lambda step: 0.25 / step.prompts,
    ),
    _Rule(
        "rewards-alike",
        "The share of prompts whose completions differ in reward",
        "",
        lambda step: _minus(_minus(step.alike, 1.0)),
        shown=lambda value: -value,
        limit=lambda _: -FEW_PROMPTS,
        slope=0.0,
        why="so that nearly no prompt teaches anything",
        floor=lambda step: FEW_PROMPTS * (1 - FEW_PROMPTS) / step.prompts,
    ),
)
