"""A causal transformer in two halves, hidden states and the head above them, so that logits can be made in pieces."""

from __future__ import annotations

import copy
import inspect
import logging
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from esscher.lm.packing import Tree, pack
from esscher.lm.transformers import attention
from esscher.lm.transformers.head import HeadProduct, call_widened, is_plain, multiply
from esscher.lm.transformers.memory import is_out_of_memory
from esscher.lm.transformers.weights import check_finite_weights
from esscher.ragged import Ragged
from esscher.samples import Samples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from transformers import PreTrainedConfig

    from esscher.lm.packing import Pack

UNLIMITED = 2**31 - 1
WAY_ROUND = (
    "have another program make log-probs of its samples, and give them to `esscher evaluate` as the columns "
    "policy_logprobs and prior_logprobs"
)

_log = logging.getLogger(__name__)


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


LOGITS_BYTES = 2**28
# What transformers calls it, and what versions before 5.24 did.
CACHES = ("cache", "past_key_values", "cache_params")
READS_AGAIN = "%s reads each prompt once for each of its completions, where once for all would do: %s"


def pace_of(device: torch.device, dtype: torch.dtype) -> Pace:
    """On a CPU larger steps fall out of its caches; a GPU wants them large enough to be busy."""
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
        self.max_tokens = max_tokens(config, name)
        _warn_of_dynamic_ntk(config, name)
        self.logits_per_token = len(self.output.weight)
        # How many of the logits count; see `narrowed`.
        self.known = self.logits_per_token
        most = LOGITS_BYTES // (self.logits_per_token * torch.float32.itemsize)
        self.pace = pace._replace(rows=max(1, min(pace.rows, most)))
        self.vocabulary_size = min(len(model.get_input_embeddings().weight), self.logits_per_token)
        self.end_token_ids = end_token_ids(model)
        self.start_token_id = _start_token_id(model, self.vocabulary_size)
        self._softcap = _softcap(config)
        self._scale = _logit_scale(config)
        taken = inspect.signature(self.body.forward).parameters
        self._takes_positions = "position_ids" in taken
        self._cache_name = next((name for name in CACHES if name in taken), CACHES[0])
        self._config = config
        # Up to how many tokens texts are read alike in any company, and in packs, where each prompt is read once.
        self.longest_alike, self.long_are_alike = longest_alike(config)
        self._logits: torch.Tensor | None = None
        self._seen = _appearance(model)
        _probe(self, name)
        self.longest_in_pack = min(_window(config), self.longest_alike) if _probe_packs(self, name) else 0

    @property
    def is_changed(self) -> bool:
        """Whether the model was changed by others, its weights apart, so that it has to be looked at anew."""
        return self._seen != _appearance(self.model)

    def read_pack(self, laid: Pack) -> torch.Tensor:
        """Hidden states [t, d] of the tokens of a pack."""
        token_ids, positions = (self.tensor(ids[None]) for ids in (laid.token_ids, laid.positions))
        with _attending_within_packs(self._config):
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
        # Found here, since a GPU would have to be waited for to say how many there are.
        kept = np.flatnonzero(position < rows.lengths[:, None])
        return hidden.flatten(0, 1).index_select(0, self.tensor(kept))

    def run(self, token_ids: torch.Tensor, position_ids: torch.Tensor, **options: Any) -> Any:
        """Run everything below the head; the result's `last_hidden_state` is [n, t, d]."""
        if self._takes_positions:
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
    """Say what a model is made of, but for the values of its weights: modules, hooks on them, sizes, dtype, device."""
    modules = [(one, *one._forward_hooks, *one._forward_pre_hooks, vars(one).get("forward")) for one in model.modules()]
    sizes = [
        one.weight.shape for one in (model.get_input_embeddings(), model.get_output_embeddings()) if one is not None
    ]
    return model.device, model.dtype, sizes, modules


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put what is in training mode into evaluation mode for a while: dropout would make log-probs random."""
    training = [one for one in model.modules() if one.training]
    for one in training:
        one.training = False
    try:
        yield
    finally:
        for one in training:
            one.training = True


@torch.inference_mode()
def _probe(network: Network, name: str) -> None:
    """Run four tokens to see that the head is ours to run and the model is causal."""
    ids = torch.arange(1, 5, device=network.device).repeat(2, 1) % network.vocabulary_size
    ids[1, 3] = 0
    what = f"{name}: a {type(network.model).__name__}"
    with _refusing(f"{what} does not read a text of token ids"):
        expected = network.model(input_ids=ids, use_cache=False).logits.float()
    _check_finite(network.model, expected, name)
    tolerance = (1e-4 if network.model.dtype == torch.float32 else 3e-2) * float(expected.abs().max())
    if not torch.allclose(expected[0, :3], expected[1, :3], rtol=0, atol=tolerance):
        raise ValueError(f"{name} is not causal: its logits depend on later tokens")
    with _refusing(f"{what} does not give its hidden states apart from its logits"):
        found = _own_logits(network, ids)
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=0, atol=tolerance):
        raise ValueError(
            f"{what} makes its logits in a way that is not known here; log-probs of it would be wrong: {WAY_ROUND}"
        )


def _own_logits(network: Network, ids: torch.Tensor) -> torch.Tensor:
    """Logits of texts [n, t] by the two halves."""
    positions = torch.arange(ids.shape[1], device=network.device).expand_as(ids)
    hidden = network.run(ids, positions).last_hidden_state
    return network.logits(hidden.flatten(0, 1)).view(*ids.shape, -1)


@contextmanager
def _refusing(reason: str) -> Iterator[None]:
    """Turn whatever a model raises that cannot be read so into a `ValueError` that says what else there is."""
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(f"{reason}: {WAY_ROUND} ({error})") from error


def _check_finite(model: Any, logits: torch.Tensor, name: str) -> None:
    """Raise `ValueError` if logits are no numbers; -inf says that a token is impossible."""
    if (logits.isnan() | (logits == torch.inf)).any():
        check_finite_weights(model, name)
        raise ValueError(
            f"{name} gives NaN, although its weights are finite: {model.dtype} does not hold its numbers, try float32, "
            "or its config.json is another model's"
        )


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


@torch.inference_mode()
def _probe_packs(network: Network, name: str) -> bool:
    """Whether trees read as packs give the hidden states of each completion on its own.

    Architectures whose attention is not transformers' own, or that have state of another kind, do not.
    """
    if not network._takes_positions or not network.model._supports_sdpa:
        return False
    # From all over the vocabulary: of special tokens alone some models make states that 16 bits hardly hold.
    ids = np.linspace(0, network.vocabulary_size, 15, dtype=np.int64)[1:-1]
    samples = Samples(
        prompts=Ragged.from_lengths(ids[:6], [3, 1, 2]),
        completions=Ragged.from_lengths(np.roll(ids, 5), [3, 1, 4, 2, 3]),
        groups=np.array([0, 3, 4, 5]),
    )
    whole = [Tree(0, 0, 3), Tree(1, 3, 4), Tree(2, 4, 5)]
    apart = [Tree(int(prompt), i, i + 1) for i, prompt in enumerate(samples.group_of)]
    laid, expected = pack(samples, whole), pack(samples, apart)
    obstacle = _obstacle(network, laid)
    if obstacle is not None:
        _log.warning(READS_AGAIN, name, obstacle)
        return False
    rows = network.read_padded(expected)[network.tensor(expected.predictors)]
    try:
        found = network.read_pack(laid)[network.tensor(laid.predictors)]
    # Whatever a model raises that cannot be read so, it can still be read otherwise.
    except Exception as error:
        _log.info("%s reads a prompt once for each completion: %s", name, error)
        return False
    found = found[network.tensor(np.argsort(laid.counted))]
    # Rounding in 16 bits was seen to make up to 0.02 of this, attention to the wrong tokens 0.6 and more.
    tolerance = 1e-3 if network.model.dtype == torch.float32 else 0.1
    return bool((found.float() - rows.float()).norm() <= tolerance * rows.float().norm())


def _obstacle(network: Network, laid: Pack) -> str | None:
    """Say what keeps a model from being read in packs, though its architecture may be, if anything does."""
    config = network._config
    if config._attn_implementation != "sdpa":
        return f"its attention is {config._attn_implementation!r}, set it to 'sdpa'"
    heads = getattr(config, "num_attention_heads", None) or 1
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    return attention.obstacle(laid, (heads, key_heads), network.device, network.model.dtype)


def _window(config: Any) -> int:
    """How far back every layer of a model sees."""
    windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((window for window in windows if window), default=UNLIMITED)


def longest_alike(config: Any) -> tuple[int, bool]:
    """Up to how many tokens positions mean the same to every text, and whether they do to all that are longer.

    Beyond, the longest of a batch changes them for all: "longrope" and its kin change over to other frequencies or
    another scale, once; "dynamic" ones go on changing with each token.
    """
    each, most = _rope_parameters(config), getattr(config, "max_position_embeddings", None) or UNLIMITED
    once = [one.get("original_max_position_embeddings") or most for one in each if _changes_once(one)]
    always = [most for one in each if "dynamic" in (one.get("rope_type") or "")]
    limits = {*once, *always}
    return min(limits, default=UNLIMITED), len(limits) < 2 and not always


def _changes_once(rope: Any) -> bool:
    return rope.get("rope_type") == "longrope" or "long_mscale" in rope


def _rope_parameters(config: Any) -> list[dict[str, Any]]:
    """How positions are rotated: in all layers, or in each kind of them."""
    found = getattr(config, "rope_parameters", None) or {}
    return [found] if "rope_type" in found else [value for value in found.values() if isinstance(value, dict)]


def _start_token_id(model: Any, vocabulary_size: int) -> int | None:
    found = getattr(model.config.get_text_config(), "bos_token_id", None)
    return int(found) if found is not None and 0 <= found < vocabulary_size else None


def _logit_scale(config: PreTrainedConfig) -> float:
    """By how much an architecture multiplies its logits; `logits_scaling` divides them, but for HyperCLOVA X."""
    multipliers = (getattr(config, name, None) or 1.0 for name in ("logit_scale", "lm_head_multiplier"))
    scaling = getattr(config, "logits_scaling", None) or 1.0
    return math.prod(multipliers) * (scaling if config.model_type == "hyperclovax" else 1 / scaling)


def _softcap(config: PreTrainedConfig) -> float | None:
    """Where an architecture caps its logits: Gemma, RecurrentGemma and xLSTM each have a name for it."""
    names = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    return next((cap for name in names if (cap := getattr(config, name, None)) is not None), None)


def max_tokens(config: PreTrainedConfig, name: str) -> int:
    """How many tokens a configuration lets a model read; raises `ValueError` if that is no such number."""
    found = getattr(config, "max_position_embeddings", None)
    if found is None:
        return UNLIMITED
    if not isinstance(found, int) or not 1 <= found <= UNLIMITED:
        raise ValueError(
            f"{name} has max_position_embeddings {found} in its config.json: it is how many tokens the model can read, "
            f"1 to {UNLIMITED}, or null if any number"
        )
    return found


def _warn_of_dynamic_ntk(config: PreTrainedConfig, name: str) -> None:
    if any(parameters.get("rope_type") == "dynamic" for parameters in _rope_parameters(config)):
        _log.warning(
            "%s is read up to %d tokens: beyond them its dynamic NTK gives a token another log-prob with every length "
            "of its text; for longer texts set rope_type in its config.json to one that is fixed, yarn or linear",
            name,
            max_tokens(config, name),
        )


def end_token_ids(model: Any) -> tuple[int, ...]:
    """Return the tokens that end a text, as a model's generation configuration says, or else its configuration."""
    ids = getattr(model.generation_config, "eos_token_id", None)
    if ids is None:
        ids = getattr(model.config.get_text_config(), "eos_token_id", None)
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, (list, tuple)) else (int(ids),)
