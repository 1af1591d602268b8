"""Rewards of completions, of which some may have none: these are counted and left out, never taken for 0."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from esscher.lm.base import Reward
    from esscher.samples import Samples


class Rewarded(NamedTuple):
    """Completions with rewards.

    Attributes
    ----------
    samples
        Those that have one; `None` if none has.
    rows
        Which of the completions they are.
    why
        Why the first of the others has none; empty if all have one.
    """

    samples: Samples | None
    rows: NDArray[np.int64]
    why: str


def give_rewards(reward: Reward, samples: Samples) -> Rewarded:
    """Compute the rewards of completions, and leave out those that the reward fails for.

    If it fails for all together, it is called for each half, and so on, so that one completion costs no other its
    reward. NaN and +inf count as no reward.
    """
    rewards, why = _of_all(reward, samples)
    good = ~(np.isnan(rewards) | (rewards == np.inf))
    if not why and not good.all():
        first = int(np.argmin(good))
        why = f"{reward.name} gives {rewards[first]} for completion {first}"
    rows = np.flatnonzero(good)
    if not len(rows):
        return Rewarded(None, rows, why)
    whole = replace(samples, rewards=np.where(good, rewards, 0.0))
    return Rewarded(whole if good.all() else whole.take_completions(rows), rows, why)


def _of_all(reward: Reward, samples: Samples) -> tuple[NDArray[np.float64], str]:
    """Return the rewards [N], NaN where there is none, and what was raised first."""
    try:
        return _asked(reward, samples), ""
    # Whatever a reward raises is its own affair: it costs the rewards, not the training.
    except Exception as error:
        if len(samples) == 1:
            return np.array([np.nan]), f"{reward.name} raises {type(error).__name__}: {error}"
    halves = np.array_split(np.arange(len(samples)), 2)
    each = [_of_all(reward, samples.take_completions(rows)) for rows in halves]
    return np.concatenate([rewards for rewards, _ in each]), next((why for _, why in each if why), "")


def _asked(reward: Reward, samples: Samples) -> NDArray[np.float64]:
    rewards = np.asarray(reward(samples), np.float64)
    if rewards.shape != (len(samples),):
        raise ValueError(f"it gives {rewards.shape} rewards for {len(samples)} completions")
    return rewards
