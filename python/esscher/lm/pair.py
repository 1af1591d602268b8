"""Policy and prior: loading them, and checking that their log-probs of the same token ids can be compared."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from esscher.lm.base import NoTokenizerError
from esscher.lm.packaged import resolve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from esscher.lm.base import LanguageModel
    from esscher.lm.transformers import TransformersLM

M = TypeVar("M", bound="LanguageModel")
# What tokenizers of one vocabulary most often read differently: spaces, digits, accents, other scripts, line breaks.
PROBE_TEXTS = ("The quick brown fox, 1234.", "  naïve\n\tcafé — 日本語 🙂", "if x == 10:\n    return x")

_log = logging.getLogger(__name__)


@runtime_checkable
class Paddable(Protocol):
    """A model whose vocabulary may be padded with token ids that stand for no text."""

    def beside(self, prior: Any) -> tuple[Any, Any]:
        """Return the model and a prior, both over the token ids that both know; see `side_by_side`."""
        ...


def load_lm(
    source: str | Path,
    device: str | None = None,
    dtype: str | None = None,
    notify: Callable[[str], None] = lambda _: None,
    *,
    prior: TransformersLM | None = None,
) -> TransformersLM:
    """Load a model by what its user calls it, and check that it can be compared with a prior, if there is one.

    Parameters
    ----------
    source
        A packaged model's name (see `resolve`), or as for `TransformersLM.load`.
    device, dtype
        As for `TransformersLM.load`.
    notify
        Told if a packaged model has to be converted first.
    prior
        What the model, a policy, is to be compared with; an adapter is added to it if the model that it names is not
        to be had.

    Raises
    ------
    ModuleNotFoundError
        As `resolve`.
    FileNotFoundError, ValueError
        As `TransformersLM.load` and `check_comparable`.
    """
    from esscher.lm.transformers import TransformersLM

    lm = TransformersLM.load(resolve(source, notify), device, dtype, prior=prior)
    if prior is not None:
        check_comparable(lm, prior)
    return lm


def check_comparable(policy: TransformersLM, prior: TransformersLM) -> None:
    """Raise `ValueError` if policy and prior have different vocabularies or tokenizers."""
    policy.beside(prior)
    check_same_tokenizer(policy, prior)


def check_same_tokenizer(policy: TransformersLM, prior: TransformersLM) -> bool:
    """Raise `ValueError` if token ids that both models know mean different texts; `False` if one has no tokenizer.

    Vocabularies are compared, and what a few texts are encoded to: equal sizes say little.
    """
    try:
        ours, theirs = policy.tokenizer.get_vocab(), prior.tokenizer.get_vocab()
    except NoTokenizerError:
        return False
    shared = min(policy.vocabulary_size, prior.vocabulary_size)
    differing = min(((token, i) for token, i in ours.items() ^ theirs.items() if i < shared), default=None)
    different = f"{policy.name} and {prior.name} have different tokenizers"
    if differing is not None:
        raise ValueError(
            f"{different}, which differ in {differing[0]!r}: policy and prior must read the same token ids alike"
        )
    for text in PROBE_TEXTS:
        if policy.encode([text])[0].tolist() != prior.encode([text])[0].tolist():
            raise ValueError(f"{different}: they encode {text!r} differently")
    return True


def side_by_side(policy: M, prior: M) -> tuple[M, M]:
    """Return two models over the token ids that both know.

    Where one vocabulary is padded to different sizes, each becomes a distribution over the shared ids alone. So padding
    changes nothing: a KL is never below 0, and the mean of ``log policy - log prior`` is the exact one.

    Raises
    ------
    ValueError
        If the two have different vocabularies, of which there is no KL.
    """
    if not (isinstance(policy, Paddable) and isinstance(prior, Paddable)):
        check_same_vocabulary(policy, prior)
        return policy, prior
    pair: tuple[M, M] = policy.beside(prior)
    if pair[0] is not policy:
        shared = pair[0].vocabulary_size
        _log.warning("%s: both are read as distributions over the %d that they share", _sizes(policy, prior), shared)
    return pair


def check_same_vocabulary(policy: LanguageModel, prior: LanguageModel) -> None:
    """Raise `ValueError` if two models cannot be compared token by token."""
    if policy.vocabulary_size != prior.vocabulary_size:
        raise OtherVocabularyError(policy, prior)


class OtherVocabularyError(ValueError):
    """Two models have different vocabularies: there is no KL between them."""

    def __init__(self, policy: LanguageModel, prior: LanguageModel, reason: object = "") -> None:
        super().__init__(
            f"{_sizes(policy, prior)}: policy and prior must share a vocabulary, for a KL between them to exist"
            f"{'; ' * bool(reason)}{reason}"
        )


def _sizes(policy: LanguageModel, prior: LanguageModel) -> str:
    return f"{policy.name} has {policy.vocabulary_size} tokens and {prior.name} {prior.vocabulary_size}"
