"""A causal transformer in two halves, hidden states and the head above them, so that logits can be made in pieces."""

from __future__ import annotations

import copy
import inspect
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from esscher.lm.transformers import attention, configuration
from esscher.lm.transformers.decoding import reads_in_batches
from esscher.lm.transformers.head import HeadProduct, call_widened, is_plain, multiply
from esscher.lm.transformers.probes import WAY_ROUND, check_logits, reads_packs
from esscher.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from esscher.lm.packing import Pack

# What transformers calls it, and what versions before 5.24 did.
CACHES = ("cache", "past_key_values", "cache_params")
LOGITS_BYTES = 2**28


class Pace(NamedTuple):
    """How much is done at a time.

    Attributes
    ----------
    tokens
        Of a forward pass.
    rows
        Of a projection onto the vocabulary, unless they take more than `LOGITS_BYTES`.
    batch
        Tokens of a call, beyond which more are done no faster.
    """

    tokens: int
    rows: int
    batch: int


def pace_of(device: torch.device, dtype: torch.dtype) -> Pace:
    """Return the pace for a device: on a CPU larger steps fall out of its caches, a GPU needs them to be busy."""
    if device.type != "cpu":
        return Pace(tokens=65536, rows=1024, batch=65536)
    return Pace(tokens=8192 // dtype.itemsize, rows=512, batch=4096)


class Network:
    """A causal model of transformers whose hidden states and head are run apart.

    Raises
    ------
    ValueError
        If the model lets a token see later ones, or its logits are not its output embeddings' (scaled or capped as
        its configuration says): log-probs would be wrong.
    """

    def __init__(self, model: Any, name: str) -> None:
        # A `PreTrainedModel`, whose methods are not all typed.
        self.model = model = _unwrapped(model, name)
        config = model.config.get_text_config()
        model.eval()
        self.device = model.device
        pace = pace_of(self.device, model.dtype)
        self.output = model.get_output_embeddings()
        if self.output is None:
            raise ValueError(f"{name} is a {type(model).__name__}, which has no output embeddings to make logits with")
        self.body = _body(model, name)
        self.max_tokens = configuration.max_tokens(config, name)
        configuration.warn_of_dynamic_ntk(config, name)
        self.logits_per_token = len(self.output.weight)
        # How many of the logits count; see `narrowed`.
        self.known = self.logits_per_token
        most = LOGITS_BYTES // (self.logits_per_token * torch.float32.itemsize)
        self.pace = pace._replace(rows=max(1, min(pace.rows, most)))
        self.vocabulary_size = min(len(model.get_input_embeddings().weight), self.logits_per_token)
        self.end_token_ids = configuration.end_token_ids(model)
        self.start_token_id = configuration.start_token_id(config, self.vocabulary_size)
        self._softcap = configuration.softcap(config)
        self._scale = configuration.logit_scale(config)
        taken = inspect.signature(self.body.forward).parameters
        self.takes_positions = "position_ids" in taken
        self._cache_name = next((name for name in CACHES if name in taken), CACHES[0])
        self.config = config
        # Up to how many tokens a text is read alike beside any others.
        self.longest_alike, self.long_are_alike = configuration.longest_alike(config)
        self._logits: torch.Tensor | None = None
        self._seen = _appearance(model)
        check_logits(self, name)
        self.longest_in_pack = min(configuration.window(config), self.longest_alike) if reads_packs(self, name) else 0

    @property
    def is_changed(self) -> bool:
        """Whether the model was changed by others, its weights apart, so that it has to be looked at anew."""
        return self._seen != _appearance(self.model)

    @cached_property
    def can_sample(self) -> bool:
        """Whether texts that are written beside others are as they would be alone; see `reads_in_batches`."""
        return reads_in_batches(self)

    def anew(self, name: str) -> Network:
        """Read the structure of a changed model again; raises `ValueError` if it takes other tokens than before."""
        network = Network(self.model, name)
        for what in ("vocabulary_size", "logits_per_token", "max_tokens", "end_token_ids", "start_token_id"):
            was, now = getattr(self, what), getattr(network, what)
            if was != now:
                raise ValueError(
                    f"{name} was changed after it was handed over: its {what} was {was} and is {now}; make a new "
                    "TransformersLM of it"
                )
        return network

    def read_pack(self, laid: Pack) -> torch.Tensor:
        """Hidden states [t, d] of the tokens of a pack."""
        token_ids, positions = (self.tensor(ids[None]) for ids in (laid.token_ids, laid.positions))
        with _attending_within_packs(self.config):
            out = self.run(token_ids, positions, plan=attention.make_plan(laid, self.device))
        hidden: torch.Tensor = out.last_hidden_state[0]
        return hidden

    def read_padded(self, laid: Pack) -> torch.Tensor:
        """Hidden states [t, d] of a pack without shared prompts, its segments padded on the right.

        That is where a causal model does not look, so no mask is needed.
        """
        rows = Ragged(laid.token_ids, laid.segments)
        token_ids = rows.to_padded(fill=0)
        if token_ids.shape[1] >= self.longest_alike:
            # The last token of the text, which is not read, counts for its length.
            token_ids = np.pad(token_ids, ((0, 0), (0, 1)))
        padded = self.tensor(token_ids)
        position = np.arange(padded.shape[1])
        hidden: torch.Tensor = self.run(padded, self.tensor(position).expand_as(padded)).last_hidden_state
        # Found here: to count them on a GPU would make the CPU wait for it.
        kept = np.flatnonzero(position < rows.lengths[:, None])
        return hidden.flatten(0, 1).index_select(0, self.tensor(kept))

    def run(self, token_ids: torch.Tensor, position_ids: torch.Tensor, **options: Any) -> Any:
        """Run everything below the head; the result's `last_hidden_state` is [n, t, d]."""
        if self.takes_positions:
            options["position_ids"] = position_ids
        return self.body(input_ids=token_ids, **{"use_cache": False, **options})

    def run_on(self, token_ids: torch.Tensor, mask: torch.Tensor, position_ids: torch.Tensor, cache: Any = None) -> Any:
        """Run tokens that follow what a cache holds: the last one's hidden states [n, d], and the cache with them.

        Raises
        ------
        AttributeError
            If the architecture has no cache.
        """
        known = {} if cache is None else {self._cache_name: cache}
        out = self.run(token_ids, position_ids, attention_mask=mask, use_cache=True, **known)
        return out.last_hidden_state[:, -1], getattr(out, self._cache_name)

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        """Project a few rows [n, d] onto the vocabulary [n, V], in float32.

        The result is overwritten by the next call: new memory for each would cost as much as the projection.
        """
        if not is_plain(self.output):
            logits = call_widened(self.output, hidden)
        else:
            weight = self.output.weight
            if self._logits is None or len(self._logits) < len(hidden):
                self._logits = weight.new_empty(len(hidden), len(weight), dtype=torch.float32)
            logits = multiply(hidden, weight, self._logits[: len(hidden)])
        if self._scale != 1:
            logits.mul_(self._scale)
        if self._softcap is not None:
            logits.div_(self._softcap).tanh_().mul_(self._softcap)
        projected: torch.Tensor = logits[:, : self.known]
        return projected

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Project rows [n, d] onto the vocabulary [n, V], in float32, in memory of their own; differentiable."""
        if is_plain(self.output):
            logits: torch.Tensor = HeadProduct.apply(hidden, self.output.weight) * self._scale
        else:
            logits = call_widened(self.output, hidden) * self._scale
        logits = logits[:, : self.known]
        return logits if self._softcap is None else self._softcap * torch.tanh(logits / self._softcap)

    def narrowed(self, size: int) -> Network:
        """Return the same model as a distribution over its first `size` token ids."""
        narrow = copy.copy(self)
        narrow.known = narrow.vocabulary_size = size
        narrow.end_token_ids = tuple(token for token in self.end_token_ids if token < size)
        return narrow

    def draw(
        self, hidden: torch.Tensor, uniforms: torch.Tensor, sampling_temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the token that follows each row [n, d] by inverting the cdf at `uniforms` [n], with its log-prob [n]."""
        tokens, parts = [], []
        for rows, uniform in zip(self._few(hidden), self._few(uniforms), strict=True):
            logprobs = torch.log_softmax(self.project(rows) / sampling_temperature, dim=1)
            cdf = logprobs.double().exp_().cumsum_(1)
            # To the right of equal values, so never a token of probability 0; the clamp is for rows of NaN.
            token = torch.searchsorted(cdf, uniform[:, None] * cdf[:, -1:], right=True).clamp_(max=cdf.shape[1] - 1)
            tokens.append(token[:, 0])
            parts.append(logprobs.gather(1, token)[:, 0])
        return torch.cat(tokens), torch.cat(parts)

    def tensor(self, array: NDArray[Any]) -> torch.Tensor:
        """Copy an array onto the model's device."""
        return torch.tensor(array, device=self.device)

    def _few(self, tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.split(tensor, self.pace.rows)


def _appearance(model: Any) -> tuple[Any, ...]:
    """Return what tells whether a model was changed, its weights apart: modules, hooks, sizes, dtype and device."""
    modules = [(one, *one._forward_hooks, *one._forward_pre_hooks, vars(one).get("forward")) for one in model.modules()]
    sizes = [
        one.weight.shape for one in (model.get_input_embeddings(), model.get_output_embeddings()) if one is not None
    ]
    return model.device, model.dtype, sizes, modules


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode for the block: dropout would make log-probs random."""
    training = [one for one in model.modules() if one.training]
    for one in training:
        one.training = False
    try:
        yield
    finally:
        for one in training:
            one.training = True


def _unwrapped(model: Any, name: str) -> Any:
    """Return the model of transformers that peft has wrapped, whose layers have the adapters."""
    if not hasattr(model, "get_base_model"):
        return model
    if any(config.is_prompt_learning for config in model.peft_config.values()):
        raise ValueError(f"{name} has prompts that were learnt, which are not read here: {WAY_ROUND}")
    return model.get_base_model()


def _body(model: Any, name: str) -> Any:
    """Everything below the head: what transformers says is that, or else the part that has the embeddings."""
    if model.base_model is not model:
        return model.base_model
    embeddings = model.get_input_embeddings()
    bodies = [part for part in model.children() if part is not embeddings and embeddings in part.modules()]
    if not bodies:
        raise ValueError(
            f"{name}: a {type(model).__name__} has no part that makes hidden states apart from its logits: {WAY_ROUND}"
        )
    return bodies[0]


@contextmanager
def _attending_within_packs(config: Any) -> Iterator[None]:
    usual = config._attn_implementation
    config._attn_implementation = attention.NAME
    try:
        yield
    finally:
        config._attn_implementation = usual
