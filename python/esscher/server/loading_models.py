"""The models of a server, loaded by what its operator calls them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from esscher.lm.checkpoints import newest_whole_checkpoint
from esscher.lm.pair import check_comparable, load_lm
from esscher.lm.rewards import find_reward_function, load_reward
from esscher.server.models import Models

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from esscher.lm.checkpoints import Checkpoint
    from esscher.lm.transformers import TransformersLM


Result = TypeVar("Result")


class Sources(NamedTuple):
    """What the models are called, and where and in which precision they run.

    Attributes
    ----------
    prior, policy
        A folder, a GGUF file, a hub name, or a packaged model's name.
    policy_dir
        Where a trainer saves checkpoints of the policy.
    reward
        A function, as ``module:function``, or a sequence-classification model.
    reward_label
        Which label's log-probability is the reward, where that model has several.
    device, dtype
        As for `TransformersLM.load`.
    """

    prior: str
    policy: str | None = None
    policy_dir: Path | None = None
    reward: str | None = None
    reward_label: str | None = None
    device: str | None = None
    dtype: str | None = None


class Loaded(NamedTuple):
    """The models to begin with, the checkpoint that the policy is, how later ones are loaded, and a good batch size."""

    models: Models
    checkpoint: Checkpoint | None
    load_policy: Callable[[Path], TransformersLM]
    batch_tokens: int


def load_models(sources: Sources, notify: Callable[[str], None]) -> Loaded:
    """Load what a server begins with, in a thread of its own; `notify` is told of what takes long.

    Of `policy_dir` the newest whole checkpoint is the policy. If there is none yet, `policy` is, until there is one;
    without that too, the server has no policy until then.

    Raises
    ------
    FileNotFoundError, ValueError
        If a model cannot be loaded, policy and prior have different tokenizers or vocabularies, or a label is given for
        a reward that has none.
    """
    return _in_passing_thread(_load_models, sources, notify)


def _load_models(sources: Sources, notify: Callable[[str], None]) -> Loaded:
    if sources.policy_dir is not None and not sources.policy_dir.is_dir():
        raise FileNotFoundError(f"{sources.policy_dir} is no folder: name the one that checkpoints are saved to")
    # Before what takes long: it is named by hand.
    function = find_reward_function(sources.reward, sources.reward_label)
    prior = load_lm(sources.prior, sources.device, sources.dtype, notify)
    checkpoint = None if sources.policy_dir is None else newest_whole_checkpoint(sources.policy_dir)
    source = sources.policy if checkpoint is None else str(checkpoint.folder)
    policy = None
    if source is not None:
        policy = load_lm(source, sources.device, sources.dtype, notify, prior=prior)
    reward = None
    if sources.reward is not None:
        reward = load_reward(sources.reward, function, prior, sources.reward_label, sources.device, notify)
    models = Models(prior, policy, reward=reward)
    # Not the first policy itself, which would be kept for as long.
    architecture = (policy or prior).architecture
    load_policy = partial(_load_checkpoint, prior=prior, architecture=architecture, sources=sources)
    return Loaded(models, checkpoint, partial(_in_passing_thread, load_policy), prior.batch_tokens)


def _in_passing_thread(load: Callable[..., Result], *arguments: object) -> Result:
    """Load in a thread that ends with it, and ends the threads that torch computed with meanwhile.

    Of a process that has more such threads than cores, those that wait sleep at once (OpenMP's library sees to that),
    and to wake them thousands of times made the models a quarter slower.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="esscher-loading") as thread:
        return thread.submit(load, *arguments).result()


def _load_checkpoint(folder: Path, prior: TransformersLM, architecture: str, sources: Sources) -> TransformersLM:
    """Load the policy's next checkpoint; raises `ValueError` if it is not the same kind of model."""
    from esscher.lm.transformers import TransformersLM

    policy = TransformersLM.load(folder, sources.device, sources.dtype, prior=prior)
    if policy.architecture != architecture:
        raise ValueError(f"{folder} holds a {policy.architecture}, but the server's model is a {architecture}")
    check_comparable(policy, prior)
    return policy
