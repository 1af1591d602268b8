"""Rewards that are Python functions of texts; whoever starts a program names them, a request never does."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esscher.lm.packaged import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from esscher.lm.base import Reward, TextModel
    from esscher.lm.transformers import TransformersLM
    from esscher.samples import Samples

FUNCTION_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class FunctionReward:
    """A function of texts, called as trainers call theirs: with the keywords `prompts` and `completions`.

    Each is a list with one text for every completion, special tokens left out. `completion_ids`, lists of token ids, is
    passed too if the function has a parameter of that name, or takes any keyword: what TRL's trainers take does.

    Parameters
    ----------
    name
        What the reward is called in messages.
    function
        It returns one number for every completion, finite or -inf.
    texts
        Whose tokenizer turns token ids into texts.
    """

    def __init__(self, name: str, function: Callable[..., Any], texts: TextModel) -> None:
        self.name = name
        self._function = function
        self._texts = texts
        parameters = inspect.signature(function).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        self._takes_ids = takes_any or "completion_ids" in parameters

    def __call__(self, samples: Samples) -> NDArray[np.float64]:
        """Rewards of the completions [N].

        Raises
        ------
        TypeError, ValueError
            If the function gives something other than numbers; and whatever it raises itself.
        """
        prompts = self._texts.decode(samples.prompts)
        texts: dict[str, Any] = {
            "prompts": [prompts[p] for p in samples.groups.of],
            "completions": self._texts.decode(samples.completions),
        }
        if self._takes_ids:
            texts["completion_ids"] = [row.tolist() for row in samples.completions]
        rewards = self._function(**texts)
        missing = [i for i, reward in enumerate(rewards) if reward is None]
        if missing:
            raise ValueError(f"{self.name} gives None for completion {missing[0]}: a reward is a number")
        return np.asarray(rewards, dtype=np.float64)


def find_reward_function(name: str | None, label: str | None = None) -> Callable[..., Any] | None:
    """Return the function that a reward's name means; `None` if it means a classification model, or is none.

    Raises
    ------
    ValueError
        If a label is given for what is no classification model; and as `find_function`.
    """
    is_model = name is not None and (not FUNCTION_NAME.fullmatch(name) or Path(name).exists())
    if label is not None and not is_model:
        raise ValueError(f"reward label {label!r} is given, but the reward is no classification model")
    return None if name is None or is_model else find_function(name)


def load_reward(
    name: str,
    function: Callable[..., Any] | None,
    texts: TransformersLM,
    label: str | None,
    device: str | None,
    notify: Callable[[str], None],
) -> Reward:
    """Return the reward of a name: of the function that `find_reward_function` found, or a classification model.

    Raises
    ------
    FileNotFoundError, ValueError
        If a classification model cannot be loaded, or has no such label.
    """
    if function is not None:
        return FunctionReward(name, function, texts)
    from esscher.lm.transformers.classifier import ClassifierReward

    return ClassifierReward(resolve(name, notify), texts, label=label, device=device)


def sentiment(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:  # noqa: ARG001 - rewards are called so
    """How positive each completion sounds, from -1 to 1: VADER's compound score.

    Raises
    ------
    ModuleNotFoundError
        If the package vaderSentiment is not installed.

    References
    ----------
    Hutto, Gilbert, "VADER: A Parsimonious Rule-Based Model for Sentiment Analysis of Social Media Text", ICWSM 2014,
    doi:10.1609/icwsm.v8i1.14550.
    """
    return [_vader().polarity_scores(text)["compound"] for text in completions]


@cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def find_function(name: str) -> Callable[..., Any]:
    """Import a reward function by its name, ``module:function``; modules of the working folder are found too.

    Raises
    ------
    ValueError
        If `name` is not of that form, or the module or the function is not there.
    """
    if not FUNCTION_NAME.fullmatch(name):
        raise ValueError(f"reward is {name!r}: name a function as module:function, or a classification model's folder")
    module, _, function = name.partition(":")
    # As `python -m` does, whatever installed the program that runs.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # a module that this one needs
        raise ValueError(f"reward is {name!r}: there is no module {module}, here or installed") from error
    if not hasattr(found, function):
        raise ValueError(f"reward is {name!r}: {module} has no {function}")
    reward: Callable[..., Any] = getattr(found, function)
    if not callable(reward):
        raise ValueError(f"reward is {name!r}: that is {type(reward).__name__}, not a function")
    if inspect.iscoroutinefunction(reward):
        raise ValueError(f"reward is {name!r}: that is a coroutine, and only ordinary functions are called")
    return reward
