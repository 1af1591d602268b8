"""`TransformersLM`: log-probs of given completions, and completions, of any causal model."""

from __future__ import annotations

import copy
import logging
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from esscher.lm.base import NoTokenizerError, OtherVocabularyError, check_sampling, check_scoring
from esscher.lm.transformers.decoding import batches, check_positions, read, reads_in_batches, write
from esscher.lm.transformers.gradient import add_gradient
from esscher.lm.transformers.loading import ModelSource, load_model, load_tokenizer, locate, place_of
from esscher.lm.transformers.memory import is_out_of_memory
from esscher.lm.transformers.network import Network, evaluating
from esscher.lm.transformers.scoring import token_scores
from esscher.ragged import Ragged, as_integers
from esscher.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from esscher.ragged import Offsets
    from esscher.token_scores import TokenScores


_log = logging.getLogger(__name__)

# Of vocabularies without tokenizers: a larger one is another, not the same with padding.
MOST_PADDED = 1.1
PROBE_TEXTS = ("The quick brown fox, 1234.", "  naïve\n\tcafé — 日本語 🙂", "if x == 10:\n    return x")


class TransformersLM:
    """A causal language model: its log-probs of given completions, and its own completions.

    Masks and positions come from lengths alone, so that padding may have any id, that of the end-of-sequence token
    included. Logits are never held for more than a few rows at a time.

    Parameters
    ----------
    model
        A causal model of transformers, on its device, or one that peft has wrapped; it is put into evaluation mode. Put
        back into training mode it is still read as in evaluation. Parts that are replaced or hooked later are followed,
        where what this says of itself stays true; else calls raise `ValueError`.
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
        self._network = Network(model, name)
        self._source = source
        # A network is run by one thread at a time: how it attends is part of its configuration.
        self._running = threading.RLock()
        # A tokenizer is no longer itself while another thread changes how it encodes.
        self._tokenizing = threading.Lock()
        self.name = name
        self.vocabulary_size = self._network.vocabulary_size
        self.end_token_ids = self._network.end_token_ids
        self.start_token_id = self._network.start_token_id
        self.max_tokens = self._network.max_tokens

    @classmethod
    def load(
        cls, source: str | Path, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
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

        Raises
        ------
        FileNotFoundError
            If there is no model at `source`.
        ValueError
            If what is there is not a causal language model with all its weights, or `device` or `dtype` is unknown.
        """
        place = place_of(device)
        found = locate(source)
        model = load_model(found, _dtype(dtype, place), place)
        return cls(model, found.name, found)

    def logprobs(self, prompts: Ragged, completions: Ragged, groups: Offsets) -> Ragged:
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
        return Ragged(scores.logprobs, completions.offsets)

    def token_scores(
        self, prompts: Ragged, completions: Ragged, groups: Offsets, prior: TransformersLM | None = None
    ) -> TokenScores:
        """Log-prob, entropy and, with a prior, its log-prob and the KL at every completion token, float32 nats.

        A prompt is read once for all its completions, in packs without padding, where the architecture allows that.
        Logits are made of a few hidden states at a time and reduced at once: what is held never grows with tokens times
        vocabulary. See `LanguageModel.token_scores`.

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
            # In one order everywhere, so that no two threads wait for each other's.
            for model in sorted(set(models), key=id):
                running.enter_context(model._at_work())
            # Looked at anew if it was changed, and then over the token ids that both know.
            pair = models if prior is None else self.beside(prior)
            scores = token_scores([model._network for model in pair], begun)
        for model, logprobs in zip(models, (scores.logprobs, scores.prior_logprobs), strict=False):
            if logprobs is not None:
                model._without_nan(Ragged(logprobs, completions.offsets))
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
        tokens, values = np.zeros(uniforms.shape, np.int64), np.zeros(uniforms.shape, np.float32)
        lengths = np.zeros(len(uniforms), np.int64)
        with self._at_work(), torch.inference_mode():
            self._check_can_sample(begun, max_new_tokens)
            waiting = batches(self._network, np.repeat(begun.lengths, n), max_new_tokens)[::-1]
            while waiting:
                rows = waiting.pop()
                try:
                    texts = read(self._network, begun, rows // n)
                    tokens[rows], values[rows], lengths[rows] = write(
                        self._network, texts, uniforms[rows], sampling_temperature
                    )
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    waiting += self._halved(rows, prompts, rows // n, error)
        return Samples(
            prompts=prompts,
            completions=Ragged.from_padded(tokens, lengths=lengths),
            groups=np.arange(len(prompts) + 1) * n,
            policy_logprobs=self._without_nan(Ragged.from_padded(values, lengths=lengths)),
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
        samples = check_scoring(self, samples.prompts, samples.completions, samples.groups)
        factors = np.asarray(coefficients, np.float64)
        if factors.shape != (len(samples),):
            raise ValueError(
                f"coefficients has shape {factors.shape}: it is one for each of {len(samples)} completions"
            )
        with self._at_work():
            add_gradient(self._network, replace(samples, prompts=self._begun(samples.prompts)), factors)

    def frozen_copy(self) -> TransformersLM:
        """Return the model as it is now, which stays so; what requires no gradient is shared, not copied."""
        shared = {id(one): one for one in (*self.module.parameters(), *self.module.buffers()) if not one.requires_grad}
        model = copy.deepcopy(self.module, shared)
        model.requires_grad_(False)
        return TransformersLM(model, self.name, self._source)

    @property
    def module(self) -> PreTrainedModel:
        """The model of transformers."""
        model: PreTrainedModel = self._network.model
        return model

    def encode(
        self, texts: Sequence[str], *, add_special_tokens: bool = False, parse_special_tokens: bool = True
    ) -> Ragged:
        """Token ids of texts, uint32.

        Parameters
        ----------
        texts
            The texts.
        add_special_tokens
            Whether the tokenizer puts its special tokens around each text, such as a start token.
        parse_special_tokens
            Whether a special token that is spelled out in a text becomes that token, rather than plain text.

        Raises
        ------
        NoTokenizerError
            If the model came without a tokenizer.
        TypeError
            If `texts` is one text instead of several.
        """
        if isinstance(texts, str):
            raise TypeError("texts is one text: give a list of them")
        tokenizer = self.tokenizer
        options = {"add_special_tokens": add_special_tokens, "split_special_tokens": not parse_special_tokens}
        rows = []
        for text in texts:
            # For each text alone, so that one thread's many do not keep another's few waiting.
            with self._tokenizing:
                # Not verbose: whether a text is too long is for `logprobs` and `sample` to say.
                rows.append(tokenizer.encode(text, verbose=False, **options))
        return Ragged.from_rows(rows, dtype=np.uint32)

    def tokenize(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        groups: ArrayLike,
        *,
        add_special_tokens: bool,
        parse_special_tokens: bool,
        terminated: ArrayLike | None = None,
    ) -> Samples:
        """Make samples of texts; see `TextModel.tokenize`.

        Raises
        ------
        NoTokenizerError
            If the model came without a tokenizer.
        ValueError
            As `TextModel.tokenize`.
        """
        samples = Samples(
            self.encode(prompts, add_special_tokens=add_special_tokens, parse_special_tokens=parse_special_tokens),
            self._ended(self.encode(completions, parse_special_tokens=parse_special_tokens), terminated),
            as_integers("groups", groups),
        )
        return samples if terminated is None else replace(samples, terminated=np.asarray(terminated))

    def _ended(self, completions: Ragged, terminated: ArrayLike | None) -> Ragged:
        """Put the end token behind each completion that ended by itself."""
        if terminated is None:
            return completions
        ends = np.asarray(terminated)
        if ends.dtype != np.bool_ or ends.shape != (len(completions),):
            raise ValueError(f"terminated is {ends.dtype} {ends.shape}: it is one boolean for each completion")
        if ends.any() and not self.end_token_ids:
            raise ValueError(f"terminated is set, but {self.name} has no end token to put behind a completion")
        rows = [
            np.append(row, self.end_token_ids[0]) if ended else row
            for row, ended in zip(completions, ends, strict=True)
        ]
        return Ragged.from_rows(rows, dtype=np.uint32)

    def decode(self, token_ids: Iterable[ArrayLike]) -> list[str]:
        """Texts of rows of token ids, special tokens left out.

        Raises
        ------
        NoTokenizerError
            If the model came without a tokenizer.
        """
        rows = [np.asarray(row, dtype=np.int64).tolist() for row in token_ids]
        tokenizer = self.tokenizer
        with self._tokenizing:
            # Tidying up spaces would give a text that encodes to other tokens.
            return [
                str(tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False)) for row in rows
            ]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that came with the model, loaded when first needed."""
        if self._source is None:
            raise NoTokenizerError(f"{self.name} was given without a source for its tokenizer: give token ids")
        return load_tokenizer(self._source)

    def beside(self, prior: TransformersLM) -> tuple[TransformersLM, TransformersLM]:
        """Return the model and a prior over the token ids that both know; see `side_by_side`.

        Raises
        ------
        ValueError
            If they have different vocabularies: as their tokenizers say, or without those, sizes that differ by more
            than padding.
        """
        sizes = (self.vocabulary_size, prior.vocabulary_size)
        if sizes[0] != sizes[1]:
            self._check_same_but_for_padding(prior)
        elif self._network.known == prior._network.known:
            return self, prior
        return self._narrowed(min(sizes)), prior._narrowed(min(sizes))

    def _check_same_but_for_padding(self, prior: TransformersLM) -> None:
        sizes = (self.vocabulary_size, prior.vocabulary_size)
        try:
            is_known = self.check_same_tokenizer(prior)
        except ValueError as error:
            raise OtherVocabularyError(self, prior, error) from error
        if not is_known and max(sizes) > MOST_PADDED * min(sizes):
            raise OtherVocabularyError(self, prior)

    def _narrowed(self, size: int) -> TransformersLM:
        narrow = copy.copy(self)
        narrow._network = self._network.narrowed(size)
        narrow.vocabulary_size, narrow.end_token_ids = size, narrow._network.end_token_ids
        return narrow

    def check_same_tokenizer(self, other: TransformersLM) -> bool:
        """Raise `ValueError` if token ids that both know mean something else to the other; `False` if none can tell.

        Without a tokenizer nothing is known of it. Vocabularies and what a few texts are encoded to are compared: equal
        sizes say little.
        """
        try:
            ours, theirs = self.tokenizer, other.tokenizer
        except NoTokenizerError:
            return False
        shared = min(self.vocabulary_size, other.vocabulary_size)
        differing = sorted(
            (token, i) for token, i in set(ours.get_vocab().items()) ^ set(theirs.get_vocab().items()) if i < shared
        )
        if differing:
            raise ValueError(
                f"{self.name} and {other.name} have different tokenizers, which differ in {differing[0][0]!r}: policy "
                "and prior must read the same token ids alike"
            )
        for text in PROBE_TEXTS:
            if self.encode([text])[0].tolist() != other.encode([text])[0].tolist():
                raise ValueError(
                    f"{self.name} and {other.name} have different tokenizers: they encode {text!r} differently"
                )
        return True

    @property
    def batch_tokens(self) -> int:
        """How many tokens of a call are enough: larger calls are no faster."""
        return self._network.pace.batch

    @property
    def device(self) -> str:
        """Where it runs, "cpu" or "cuda:0"."""
        return str(self._network.device)

    @property
    def threads(self) -> int:
        """How many threads torch computes with on a CPU: sums differ in their last bits by that number."""
        return torch.get_num_threads()

    @property
    def architecture(self) -> str:
        """What transformers calls the model's class."""
        return type(self._network.model).__name__

    @cached_property
    def _can_sample(self) -> bool:
        return reads_in_batches(self._network)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Have the model to oneself, in evaluation mode, and looked at anew if it was changed by others."""
        with self._running, evaluating(self.module):
            if self._network.is_changed:
                self._look_anew()
            yield

    def _look_anew(self) -> None:
        network = Network(self.module, self.name)
        for what in ("vocabulary_size", "logits_per_token", "max_tokens", "end_token_ids", "start_token_id"):
            was, now = getattr(self._network, what), getattr(network, what)
            if was != now:
                raise ValueError(
                    f"{self.name} was changed after it was handed over: its {what} was {was} and is {now}; make a new "
                    "TransformersLM of it"
                )
        self._network = network
        vars(self).pop("_can_sample", None)

    def _halved(
        self, rows: NDArray[np.int64], prompts: Ragged, which: NDArray[np.int64], error: BaseException
    ) -> list[NDArray[np.int64]]:
        """Divide completions that could not be written for want of memory; raise `MemoryError` if it is one."""
        if len(rows) == 1:
            raise MemoryError(
                f"a completion of the {prompts.lengths[which[0]]} tokens of prompts[{which[0]}] is more than memory "
                "holds: cut the prompt, or ask for fewer new tokens"
            ) from error
        _log.warning("out of memory: %s writes %d completions at a time, not %d", self.name, len(rows) // 2, len(rows))
        return np.array_split(rows, 2)

    def _check_can_sample(self, prompts: Ragged, max_new_tokens: int) -> None:
        if not self._can_sample:
            raise ValueError(
                f"{self.name} can score, not sample: a {type(self._network.model).__name__} does not read a text with "
                "padding and a cache as it does without"
            )
        check_positions(self._network, self.name, prompts.lengths, max_new_tokens)

    def _check_start(self, policy: TransformersLM, prompts: Ragged) -> None:
        if self.start_token_id != policy.start_token_id and not prompts.lengths.all():
            raise ValueError(
                f"prompts[{int(prompts.lengths.argmin())}] has no tokens, and {policy.name} and {self.name} have "
                "different start tokens: begin it with at least one token"
            )

    def _begun(self, prompts: Ragged) -> Ragged:
        """Return the prompts, each empty one with the start token."""
        if prompts.lengths.all():
            return prompts
        start = np.array([self.start_token_id], np.int64)
        return Ragged.from_rows([row if len(row) else start for row in prompts])

    def _without_nan(self, logprobs: Ragged) -> Ragged:
        broken = np.flatnonzero(np.isnan(logprobs.values))
        if len(broken):
            row, token = logprobs.locate(broken[0])
            raise FloatingPointError(
                f"{self.name} gives NaN at completions[{row}][{token}]: its weights or dtype cannot be used"
            )
        return logprobs


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | str:
    if dtype is None:
        return torch.float32 if device.type == "cpu" else "auto"
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype is {dtype!r}: it is float32, bfloat16 or float16")
    return found
