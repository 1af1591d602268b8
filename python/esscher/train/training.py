"""The loop: draw completions, give them rewards, ascend."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from esscher.lm.base import check_sampling
from esscher.ragged import MAX_TOKEN_ID
from esscher.train.ascent import accumulate
from esscher.train.lessons import known_prior, lesson_of, resampled_lesson
from esscher.train.optimiser import Optimiser
from esscher.train.rewarding import give_rewards
from esscher.train.step_metrics import StepMetrics, Update, measure

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from esscher.lm.base import Reward
    from esscher.ragged import Masked, Ragged
    from esscher.samples import Samples
    from esscher.train.lessons import KnownPrior, Lesson
    from esscher.train.policies import Policy
    from esscher.train.rewarding import Rewarded
    from esscher.train.run_folder import RunFolder
    from esscher.train.training_settings import TrainingSettings

# After so many steps in a row without any reward the reward is taken to be broken.
STEPS_WITHOUT_REWARD = 10
# What is drawn, beside the seed and the step: two draws from one seed would not be independent.
COMPLETIONS, RESAMPLING, ORDER, PRIOR_SAMPLES = range(4)
# Nats a token by which a prior may be off the untrained policy before it is taken for another model.
SAME_PRIOR = 0.1
NOTHING_DONE = Update(np.nan, np.nan, np.nan)


class Prior(Protocol):
    """Gives log-probs of completions under the prior: a model in this process, or a server."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    def logprobs(self, prompts: Ragged, completions: Ragged | Masked, groups: ArrayLike) -> Ragged:
        """Log-prob of every completion token, in nats; see `LanguageModel.logprobs`."""
        ...


class Task(NamedTuple):
    """A policy to train, the prior that its KL is measured from, a reward, and prompts."""

    policy: Policy
    prior: Prior
    reward: Reward
    prompts: Ragged


def train(
    task: Task,
    settings: TrainingSettings,
    run: RunFolder,
    *,
    show: Callable[[StepMetrics], object] = lambda _: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> int:
    """Train a policy, from the run's last checkpoint if there is one; return the step that it reached.

    Every step draws anew from its number and the seed, so that a run that goes on takes the same steps as one that was
    never stopped: on a CPU, with as many threads, bit for bit.

    Parameters
    ----------
    task
        Policy, prior, reward and prompts.
    settings
        How the policy is trained.
    run
        The folder that it is kept in.
    show
        Called with the metrics of each step.
    is_stopped
        Asked before each step whether to stop; there is a checkpoint then as at the end.

    Raises
    ------
    ValueError
        If there are fewer prompts than a step takes, one is too long, the prior is another model than the policy was,
        a prompt's log Z is not to be had, no completion gets a reward for ten steps, or as the objective.
    FloatingPointError
        If the gradient or a log-prob is not finite.
    MemoryError
        If memory does not suffice for one completion.
    """
    trainer = TrainingLoop(task, settings, run)
    with run.log(trainer.step) as log:
        while trainer.step < settings.steps and not is_stopped():
            metrics = trainer.take_step()
            log(metrics)
            show(metrics)
            if trainer.step % settings.save_every == 0:
                trainer.save()
    trainer.save()
    return trainer.step


class TrainingLoop:
    """A policy in training, with everything that its next step depends on.

    Parameters
    ----------
    task, settings, run
        As for `train`.
    """

    def __init__(self, task: Task, settings: TrainingSettings, run: RunFolder) -> None:
        check_prompts(task, settings)
        self._task, self._settings, self._run = task, settings, run
        self._optimiser = Optimiser(task.policy.parameters, settings)
        self._known = _known(task, settings, run)
        self.step, tokens = run.restore(self._optimiser)
        self._micro_batch_tokens = tokens or settings.micro_batch_tokens
        self._unrewarded = 0

    def take_step(self) -> StepMetrics:
        """Draw completions, give them rewards, ascend the objective, and return the step's metrics."""
        settings, clock = self._settings, _Clock()
        which = _prompts_of(self.step, len(self._task.prompts), settings)
        drawn = self._task.policy.lm.sample(
            self._task.prompts.take(which), settings.completions, settings.new_tokens, self._rng(COMPLETIONS)
        )
        clock.lap("sampling")
        drawn = with_prior(self._task.prior, drawn)
        if self.step == 0:
            check_same(self._task.prior, drawn)
        clock.lap("prior")
        scored = give_rewards(self._task.reward, drawn)
        clock.lap("reward")
        if self._settings.keep_samples and scored.samples is not None:
            self._run.keep(scored.samples, self.step)
        self._unrewarded = self._unrewarded + 1 if scored.samples is None else 0
        if self._unrewarded == STEPS_WITHOUT_REWARD:
            raise ValueError(f"no completion got a reward for {STEPS_WITHOUT_REWARD} steps in a row: {scored.why}")
        update, notes = self._learn(self._lesson(which, scored))
        clock.lap("gradient")
        log_z = None if self._known is None else self._known.corrected_log_z[self._kept(which, scored)]
        found = measure(
            self.step, drawn, scored.samples, settings.beta, log_z, update, clock.laps, (*_notes(drawn, scored), *notes)
        )
        self.step += 1
        return found

    def save(self) -> None:
        """Write a checkpoint of this step, if there is none."""
        settings = self._settings
        self._run.save(self._task.policy, self._optimiser, self.step, self._micro_batch_tokens, settings.keep)

    def _lesson(self, which: NDArray[np.int64], scored: Rewarded) -> Lesson | None:
        if self._settings.objective == "weighted-ml" and self._known is not None:  # as the settings see to
            return resampled_lesson(self._settings, self._known.samples.take_prompts(which), self._rng(RESAMPLING))
        if scored.samples is None:
            return None
        log_z = None if self._known is None else self._known.log_z[self._kept(which, scored)]
        return lesson_of(self._settings, scored.samples, log_z)

    def _learn(self, lesson: Lesson | None) -> tuple[Update, tuple[str, ...]]:
        if lesson is None:
            return NOTHING_DONE, ()
        before = self._micro_batch_tokens
        self._micro_batch_tokens = accumulate(self._task.policy, self._optimiser, lesson, before)
        norm = self._optimiser.ascend(self.step)
        update = Update(lesson.objective.value, norm, self._optimiser.learning_rate(self.step))
        if self._micro_batch_tokens == before:
            return update, ()
        return update, (f"out of memory: micro-batches have {self._micro_batch_tokens} tokens from now on",)

    def _kept(self, which: NDArray[np.int64], scored: Rewarded) -> NDArray[np.int64]:
        """Which prompts the completions with a reward are of."""
        return which[np.unique(scored.rows // self._settings.completions)]

    def _rng(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._settings.seed, purpose, self.step])


def check_prompts(task: Task, settings: TrainingSettings) -> None:
    """Raise `ValueError` if the prompts cannot be trained on: before long work begins."""
    if len(task.prompts) < settings.prompts:
        raise ValueError(f"there are {len(task.prompts)} prompts, and a step takes {settings.prompts}")
    # Which ids a model takes for a prompt is for it to say.
    check_sampling(task.policy.lm, task.prompts, settings.completions, settings.new_tokens, 1.0, MAX_TOKEN_ID + 1)


def with_prior(prior: Prior, drawn: Samples) -> Samples:
    """Add the prior's log-probs."""
    return replace(drawn, prior_logprobs=prior.logprobs(drawn.prompts, drawn.actions, drawn.groups))


def draw_prior_samples(task: Task, settings: TrainingSettings) -> Samples:
    """Draw the prior's completions of every prompt from the policy before its first step, and give them rewards.

    Raises
    ------
    ValueError
        If the prior is another model, or a prompt has no completion with a reward.
    """
    rng = np.random.default_rng([settings.seed, PRIOR_SAMPLES])
    drawn = task.policy.lm.sample(task.prompts, settings.prior_samples, settings.new_tokens, rng)
    drawn = with_prior(task.prior, drawn)
    check_same(task.prior, drawn)
    scored = give_rewards(task.reward, drawn)
    if scored.samples is None or len(scored.samples.prompts) < len(task.prompts):
        raise ValueError(f"of some prompt no completion of the prior got a reward: {scored.why}")
    return scored.samples


def _known(task: Task, settings: TrainingSettings, run: RunFolder) -> KnownPrior | None:
    if settings.prior_samples == 0:
        return None
    samples = run.prior_samples(lambda: draw_prior_samples(task, settings))
    some = samples.take_prompts([0])
    # A run that goes on may have been given another server.
    check_same(task.prior, with_prior(task.prior, replace(some, policy_logprobs=some.prior_logprobs)))
    return known_prior(samples, settings.beta)


def check_same(prior: Prior, untrained: Samples) -> None:
    """Raise `ValueError` if the prior's log-probs of completions are not those of the untrained policy."""
    why = "prior and untrained policy are compared by them"
    policy, of_prior = untrained.need("policy_logprobs", why=why), untrained.need("prior_logprobs", why=why)
    apart = float(np.abs(policy.values - of_prior.values).mean())
    if not apart <= SAME_PRIOR:
        raise ValueError(
            f"{prior.name} is {apart:.2g} nats a token off the policy before its first step: a prior is the model that "
            "training begins with"
        )


def _prompts_of(step: int, count: int, settings: TrainingSettings) -> NDArray[np.int64]:
    """Which prompts a step takes: those of a random order, which is new when too few for a step are left."""
    steps = count // settings.prompts
    order = np.random.default_rng([settings.seed, ORDER, step // steps]).permutation(count)
    first = step % steps * settings.prompts
    return np.sort(order[first : first + settings.prompts])


def _notes(drawn: Samples, scored: Rewarded) -> tuple[str, ...]:
    """Return what is odd about the rewards, in sentences."""
    notes = []
    if scored.why:
        notes.append(f"{len(drawn) - len(scored.rows)} of {len(drawn)} completions have no reward: {scored.why}")
    if scored.samples is not None and _are_alike(scored.samples):
        notes.append(
            "the completions of each prompt have one and the same reward: they say nothing of which are better"
        )
    return tuple(notes)


def _are_alike(samples: Samples) -> bool:
    """Whether some prompt has several completions, and in none do their rewards differ."""
    rewards, groups = samples.need("rewards", why="they are compared"), samples.groups
    return bool((groups.largest(rewards) == groups.smallest(rewards)).all() and groups.sizes.max() > 1)


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now
