"""A causal transformer in two halves, hidden states and the head above them, so that logits can be made in pieces."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedConfig

UNLIMITED = 2**31 - 1


class Pace(NamedTuple):
    """How much is done at a time: padded tokens in a forward pass, rows in a projection onto the vocabulary."""

    tokens: int
    rows: int


# On a CPU larger steps fall out of its caches and are no faster; a GPU wants them large enough to be busy.
PACES = {"cpu": Pace(tokens=2048, rows=128), "cuda": Pace(tokens=65536, rows=1024)}


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
        self.model = model
        config = model.config.get_text_config()
        model.eval()
        self.device = model.device
        self.pace = PACES.get(self.device.type, PACES["cuda"])
        self.output = model.get_output_embeddings()
        if self.output is None:
            raise ValueError(f"{name} is a {type(model).__name__}, which has no output embeddings to make logits with")
        self.max_tokens: int = getattr(config, "max_position_embeddings", None) or UNLIMITED
        self.vocabulary_size = min(len(model.get_input_embeddings().weight), len(self.output.weight))
        self.end_token_ids = _end_token_ids(model)
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._scale = _logit_scale(config)
        self._takes_positions = "position_ids" in inspect.signature(model.base_model.forward).parameters
        _probe(self, name)

    def run(self, token_ids: torch.Tensor, position_ids: torch.Tensor, **options: Any) -> Any:
        """Run everything below the head; the result's `last_hidden_state` is [n, t, d]."""
        if self._takes_positions:
            options["position_ids"] = position_ids
        return self.model.base_model(input_ids=token_ids, **{"use_cache": False, **options})

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Project rows [n, d] onto the vocabulary [n, V], in float32."""
        logits: torch.Tensor = self.output(hidden).float() * self._scale
        return logits if self._softcap is None else self._softcap * torch.tanh(logits / self._softcap)

    def logprobs(self, hidden: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """Log-prob [n] of the token that follows each row [n, d], a few rows at a time."""
        parts = [torch.empty(0, device=self.device)]
        for rows, ids in zip(self._few(hidden), self._few(token_ids), strict=True):
            logits = self.logits(rows)
            parts.append(logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(1))
        # Rounding can put the log-prob of a token that is certain just above 0.
        return torch.cat(parts).clamp_(max=0)

    def draw(
        self, hidden: torch.Tensor, uniforms: torch.Tensor, sampling_temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the token that follows each row [n, d] by inverting the cdf at `uniforms` [n], with its log-prob [n]."""
        tokens, parts = [], []
        for rows, uniform in zip(self._few(hidden), self._few(uniforms), strict=True):
            logprobs = torch.log_softmax(self.logits(rows) / sampling_temperature, dim=1)
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


@torch.inference_mode()
def _probe(network: Network, name: str) -> None:
    """Run four tokens to see that the head is ours to run and the model is causal."""
    ids = torch.arange(1, 5, device=network.device).repeat(2, 1) % network.vocabulary_size
    ids[1, 3] = 0
    positions = torch.arange(4, device=network.device).repeat(2, 1)
    expected = network.model(input_ids=ids, use_cache=False).logits.float()
    tolerance = (1e-4 if network.model.dtype == torch.float32 else 3e-2) * float(expected.abs().max())
    if not torch.allclose(expected[0, :3], expected[1, :3], rtol=0, atol=tolerance):
        raise ValueError(f"{name} is not causal: its logits depend on later tokens")
    hidden = network.run(ids, positions).last_hidden_state
    found = network.logits(hidden.reshape(8, -1)).reshape(expected.shape)
    if not torch.allclose(found, expected, rtol=0, atol=tolerance):
        raise ValueError(
            f"{name}: a {type(network.model).__name__} makes its logits in a way that is not known here; log-probs of "
            "it would be wrong"
        )


def _logit_scale(config: PreTrainedConfig) -> float:
    """By how much an architecture multiplies its logits: Cohere by `logit_scale`, Granite by 1 / `logits_scaling`."""
    return (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)


def _end_token_ids(model: Any) -> tuple[int, ...]:
    ids = getattr(model.generation_config, "eos_token_id", None)
    if ids is None:
        ids = getattr(model.config.get_text_config(), "eos_token_id", None)
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, (list, tuple)) else (int(ids),)
