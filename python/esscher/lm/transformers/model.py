"""`TransformersLM`: log-probs of given completions, and completions, of any causal model."""

from __future__ import annotations

import copy
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from esscher.lm.base import check_sampling, check_scoring
from esscher.lm.pair import OtherVocabularyError, check_same_tokenizer
from esscher.lm.transformers.decoding import draw_completions
from esscher.lm.transformers.gradient import add_gradient
from esscher.lm.transformers.loading import dtype_of, load_model, place_of
from esscher.lm.transformers.network import Network, evaluating
from esscher.lm.transformers.scoring import check_numbers, token_scores
from esscher.lm.transformers.sources import locate
from esscher.lm.transformers.tokenizing import TextCoder
from esscher.ragged import Ragged
from esscher.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import ArrayLike
    from transformers import PreTrainedModel

    from esscher.lm.transformers.sources import ModelSource
    from esscher.ragged import Masked
    from esscher.token_scores import TokenScores

# Without tokenizers to tell, a vocabulary so many times larger is taken for another one, not for a padded one.
MOST_PADDED = 1.1


class TransformersLM(TextCoder):
    """A causal language model of transformers, which scores given completions and samples its own.

    Masks and positions come from lengths alone, so padding may have any id, even that of the end-of-sequence token.
    Logits are never held for more than a few rows at a time.

    Parameters
    ----------
    model
        A causal model of transformers, on its device, or one that peft has wrapped. It is run in evaluation mode, even
        if it is put back into training mode. Modules and hooks that are changed later are used from the next call on,
        which raises `ValueError` if that changed the vocabulary, the special tokens or the context.
    name
        What it is called in messages.
    source
        Where its tokenizer comes from; without it, only token ids can be used.

    Raises
    ------
    ValueError
        If log-probs of this model would be wrong: it is not causal, or makes its logits in a way unknown here.
    """

    def __init__(self, model: PreTrainedModel, name: str, source: ModelSource | None = None) -> None:
        super().__init__(name, source)
        self._network = Network(model, name)
        # One thread runs a network at a time, since its configuration says how it attends.
        self._running = threading.RLock()
        self.vocabulary_size = self._network.vocabulary_size
        self.end_token_ids = self._network.end_token_ids
        self.start_token_id = self._network.start_token_id
        self.max_tokens = self._network.max_tokens

    @classmethod
    def load(
        cls,
        source: str | Path,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        *,
        prior: TransformersLM | None = None,
    ) -> TransformersLM:
        """Load a model from a folder, a GGUF file or, by its name, from a hub.

        Parameters
        ----------
        source
            A folder that ``save_pretrained`` made, of a model or of an adapter, a GGUF file, or a hub's ``owner/name``;
            only the last reaches for the network.
        device
            Where it runs; by default CUDA where there is one, else the CPU.
        dtype
            "float32", "bfloat16" or "float16"; by default float32 on a CPU, elsewhere the checkpoint's own. In 16 bits
            two ways to compute the same log-prob can differ by tenths of a nat.
        prior
            What an adapter is added to if the model that it names is not to be had, which is then logged.

        Raises
        ------
        FileNotFoundError
            If there is no model at `source`.
        ValueError
            If what is there is not a causal language model with all its weights, or `device` or `dtype` is unknown.
        """
        place = place_of(device)
        found = locate(source)
        if prior is not None and found.is_adapter:
            found = found._replace(base=prior._source)
        model = load_model(found, dtype_of(dtype, place), place)
        return cls(model, found.name, found)

    def logprobs(self, prompts: Ragged, completions: Ragged | Masked, groups: ArrayLike) -> Ragged:
        """Log-prob of every completion token, float32 nats; see `LanguageModel.logprobs`.

        Raises
        ------
        ValueError
            As `LanguageModel.logprobs`, before anything is computed.
        MemoryError
            If a completion is too long for the memory there is; the message names it.
        FloatingPointError
            If the model gives NaN.
        """
        scores = self.token_scores(prompts, completions, groups)
        return Ragged(scores.logprobs, completions.rows.offsets)

    def token_scores(
        self, prompts: Ragged, completions: Ragged | Masked, groups: ArrayLike, prior: TransformersLM | None = None
    ) -> TokenScores:
        """Log-prob, entropy and, with a prior, its log-prob and the KL at every completion token, float32 nats.

        A prompt is read once for all its completions, in packs without padding, where the architecture allows that.
        Logits are made of a few hidden states at a time, of the tokens that count alone, and reduced at once: what is
        held never grows with tokens times vocabulary. See `LanguageModel.token_scores`.

        Raises
        ------
        ValueError
            As `LanguageModel.token_scores`, before anything is computed.
        MemoryError, FloatingPointError
            As `logprobs`, for either model.
        """
        models = [self] if prior is None else [self, prior]
        if prior is not None:
            self.beside(prior)  # which refuses another vocabulary before token ids are looked at
        for model in models:
            samples = check_scoring(model, prompts, completions, groups)
            model._check_start(self, samples.prompts)
        begun = replace(samples, prompts=self._begun(samples.prompts))
        with ExitStack() as running:
            # Locked in one order everywhere, so that no two threads wait for each other.
            for model in sorted(set(models), key=id):
                running.enter_context(model._at_work())
            # Asked again, since the structure of a changed model has been read again.
            pair = models if prior is None else self.beside(prior)
            scores = token_scores([model._network for model in pair], begun)
        for model, logprobs in zip(models, (scores.logprobs, scores.prior_logprobs), strict=False):
            if logprobs is not None:
                check_numbers(model.name, Ragged(logprobs, samples.actions.rows.offsets))
        return scores

    def sample(
        self, prompts: Ragged, n: int, max_new_tokens: int, rng: np.random.Generator, sampling_temperature: float = 1.0
    ) -> Samples:
        """Draw `n` completions of every prompt; see `LanguageModel.sample`.

        Each completion has its own random numbers, so the way they are batched changes them by rounding at most.

        Raises
        ------
        ValueError
            As `LanguageModel.sample`, before anything is computed; if positions would change their meaning while a
            text is written, as those of LongRoPE models do at one length; and if the architecture does not read a
            text with padding and a cache as it does without.
        MemoryError
            If there is not memory enough for one completion; more at a time are halved.
        FloatingPointError
            If the model gives NaN.
        """
        check_sampling(self, prompts, n, max_new_tokens, sampling_temperature)
        begun = self._begun(prompts)
        uniforms = rng.random((len(prompts) * n, max_new_tokens))
        with self._at_work(), torch.inference_mode():
            tokens, values, lengths = draw_completions(self._network, self.name, begun, uniforms, sampling_temperature)
        return Samples(
            prompts=prompts,
            completions=Ragged.from_padded(tokens, lengths=lengths),
            groups=np.arange(len(prompts) + 1) * n,
            policy_logprobs=check_numbers(self.name, Ragged.from_padded(values, lengths=lengths)),
            terminated=np.isin(tokens[np.arange(len(tokens)), lengths - 1], self.end_token_ids),
        )

    def add_gradient(self, samples: Samples, coefficients: ArrayLike) -> None:
        """Add the gradient of ``sum_i coefficients_i log_prob(x_i)`` to that of the parameters that require one.

        All completions are read at once, padded, and logits are made and differentiated a few rows at a time.

        Parameters
        ----------
        samples
            The completions; of their columns none is used.
        coefficients
            What multiplies the gradient of each completion's log-prob [N].

        Raises
        ------
        ValueError
            As `logprobs`, before anything is computed, and if `coefficients` are not N numbers.
        RuntimeError, torch.OutOfMemoryError
            As torch raises them, also where memory does not suffice: gradients may have been added in part then.
        """
        samples = check_scoring(self, samples.prompts, samples.actions, samples.groups)
        factors = np.asarray(coefficients, np.float64)
        if factors.shape != (len(samples),):
            raise ValueError(
                f"coefficients has shape {factors.shape}: it is one for each of {len(samples)} completions"
            )
        with self._at_work():
            add_gradient(self._network, replace(samples, prompts=self._begun(samples.prompts)), factors)

    def frozen_copy(self) -> TransformersLM:
        """Return a copy that later training does not change; parameters that require no gradient are shared with it."""
        shared = {id(one): one for one in (*self.module.parameters(), *self.module.buffers()) if not one.requires_grad}
        model = copy.deepcopy(self.module, shared)
        model.requires_grad_(False)
        return TransformersLM(model, self.name, self._source)

    @property
    def module(self) -> PreTrainedModel:
        """The model of transformers."""
        model: PreTrainedModel = self._network.model
        return model

    def beside(self, prior: TransformersLM) -> tuple[TransformersLM, TransformersLM]:
        """Return the model and a prior over the token ids that both know; see `side_by_side`.

        Raises
        ------
        ValueError
            If they have different vocabularies: as their tokenizers say, or without those, sizes that differ by more
            than padding.
        """
        least, most = sorted((self.vocabulary_size, prior.vocabulary_size))
        if least == most and self._network.known == prior._network.known:
            return self, prior
        if least < most:
            try:
                is_known = check_same_tokenizer(self, prior)
            except ValueError as error:
                raise OtherVocabularyError(self, prior, error) from error
            if not is_known and most > MOST_PADDED * least:
                raise OtherVocabularyError(self, prior)
        return self._narrowed(least), prior._narrowed(least)

    def _narrowed(self, size: int) -> TransformersLM:
        narrow = copy.copy(self)
        narrow._network = self._network.narrowed(size)
        narrow.vocabulary_size, narrow.end_token_ids = size, narrow._network.end_token_ids
        return narrow

    @property
    def batch_tokens(self) -> int:
        """How many tokens a call should have: larger calls are no faster."""
        return self._network.pace.batch

    @property
    def device(self) -> str:
        """Where it runs, "cpu" or "cuda:0"."""
        return str(self._network.device)

    @property
    def threads(self) -> int:
        """How many threads torch computes with on a CPU, on which the last bits of sums depend."""
        return torch.get_num_threads()

    @property
    def architecture(self) -> str:
        """What transformers calls the model's class."""
        return type(self._network.model).__name__

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Lock the model, put it into evaluation mode, and read its structure again if others have changed it."""
        with self._running, evaluating(self.module):
            if self._network.is_changed:
                self._network = self._network.anew(self.name)
            yield

    def _check_start(self, policy: TransformersLM, prompts: Ragged) -> None:
        if self.start_token_id != policy.start_token_id and not prompts.lengths.all():
            raise ValueError(
                f"prompts[{int(prompts.lengths.argmin())}] has no tokens, and {policy.name} and {self.name} have "
                "different start tokens: begin it with at least one token"
            )

    def _begun(self, prompts: Ragged) -> Ragged:
        """Return the prompts, with the start token in place of each empty one."""
        if prompts.lengths.all():
            return prompts
        start = np.array([self.start_token_id], np.int64)
        return Ragged.from_rows([row if len(row) else start for row in prompts])
