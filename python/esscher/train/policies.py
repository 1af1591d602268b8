"""What can be trained: a language model, its parameters, and the gradient of its log-probs."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from safetensors.torch import save_file

from esscher.lm.base import NoTokenizerError
from esscher.lm.tabular import TabularLM
from esscher.lm.transformers.loading import no_progress_bars

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray
    from torch.nn import Parameter

    from esscher.lm.base import LanguageModel
    from esscher.lm.transformers import TransformersLM
    from esscher.samples import Samples


class Policy(Protocol):
    """A language model that is trained.

    Attributes
    ----------
    lm
        The model, which changes with its parameters.
    parameters
        What is trained, by name.
    """

    @property
    def lm(self) -> LanguageModel:  # noqa: D102 - above
        ...

    @property
    def parameters(self) -> dict[str, Parameter]:  # noqa: D102 - above
        ...

    def frozen_copy(self) -> LanguageModel:
        """Return a copy that training does not change: before the first step, it is the prior."""
        ...

    def add_gradient(self, samples: Samples, coefficients: ArrayLike) -> None:
        """Add the gradient of ``sum_i coefficients_i log_prob(x_i)`` to that of the parameters.

        Raises
        ------
        MemoryError, RuntimeError
            If memory does not suffice: gradients may have been added in part then.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the model into a folder, so that it can be loaded by itself."""
        ...


class TabularPolicy:
    """Tables of logits, every one of which is trained; all that is said of them is exact.

    Parameters
    ----------
    logits
        Where the policy begins, as `TabularLM` takes them [prompts, nodes, vocabulary].

    Raises
    ------
    ValueError
        As `TabularLM`.
    """

    def __init__(self, logits: ArrayLike) -> None:
        start: NDArray[np.float64] = np.array(logits, np.float64)
        self.logits = torch.nn.Parameter(torch.from_numpy(start))
        # The very memory that the optimiser changes, not a copy of it.
        self.lm = TabularLM(self.logits.detach().numpy())
        self.parameters = {"logits": self.logits}

    def frozen_copy(self) -> TabularLM:
        """Return a copy of the tables; see `Policy.frozen_copy`."""
        return TabularLM(self.logits.detach().numpy().copy())

    def add_gradient(self, samples: Samples, coefficients: ArrayLike) -> None:
        """Add the gradient of ``sum_i coefficients_i log_prob(x_i)``; see `Policy.add_gradient`."""
        tables, nodes = (torch.from_numpy(place) for place in self.lm.places(samples))
        tokens = torch.from_numpy(samples.actions.kept.values.astype(np.int64))
        factors = np.repeat(np.asarray(coefficients, np.float64), samples.actions.lengths)
        logprobs = torch.log_softmax(self.logits[tables, nodes], dim=-1).gather(-1, tokens[:, None])[:, 0]
        torch.autograd.backward(torch.from_numpy(factors) @ logprobs)

    def save(self, folder: Path) -> None:
        """Write the logits as ``model.safetensors``."""
        save_file({"logits": self.logits.detach()}, folder / "model.safetensors")


class TransformersPolicy:
    """A causal model of transformers, whole or in part, or adapters of it.

    Parameters
    ----------
    lm
        The model before fine-tuning; it becomes the policy.
    last_layers
        Train only so many layers, the last ones, with the norm after them; the head stays as it is, also where it is
        the embeddings.
    lora
        Train adapters of this rank beside every linear layer but the head instead (LoRA; needs the package peft).
    seed
        Of the adapters.

    Raises
    ------
    ValueError
        If both are given, a number is below 1, or the model has fewer layers.
    ModuleNotFoundError
        If adapters are asked for and peft is not installed.

    References
    ----------
    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv:2106.09685.
    """

    def __init__(
        self, lm: TransformersLM, *, last_layers: int | None = None, lora: int | None = None, seed: int = 0
    ) -> None:
        if last_layers is not None and lora is not None:
            raise ValueError("last_layers and lora are two ways to train a part: give one of them")
        self.lm = lm
        if lora is not None:
            _add_adapters(lm.module, lora, seed)
        trained = _is_adapter if lora is not None else _is_among_the_last(lm, last_layers)
        for name, parameter in lm.module.named_parameters():
            parameter.requires_grad_(trained(name))
        self.parameters = {name: one for name, one in lm.module.named_parameters() if one.requires_grad}

    def frozen_copy(self) -> TransformersLM:
        """Return a copy that shares what is not trained; see `Policy.frozen_copy`."""
        return self.lm.frozen_copy()

    def add_gradient(self, samples: Samples, coefficients: ArrayLike) -> None:
        """Add the gradient of ``sum_i coefficients_i log_prob(x_i)``; see `Policy.add_gradient`."""
        self.lm.add_gradient(samples, coefficients)

    def save(self, folder: Path) -> None:
        """Write the model as ``save_pretrained`` does, adapters added to what they adapt, and its tokenizer."""
        with no_progress_bars():
            self.lm.module.save_pretrained(folder, state_dict=_without_adapters(self.lm.module))
        with suppress(NoTokenizerError):
            self.lm.tokenizer.save_pretrained(folder)


def _is_adapter(name: str) -> bool:
    return ".lora_" in name


def _is_among_the_last(lm: TransformersLM, layers: int | None) -> Callable[[str], bool]:
    """Return a test of parameter names, true of the last layers and of what follows them below the head."""
    if layers is None:
        return lambda _: True
    base = lm.module.base_model
    names = [name for name, _ in base.named_children()]
    sizes = {name: len(child) for name, child in base.named_children() if isinstance(child, torch.nn.ModuleList)}
    if not sizes:
        raise ValueError(f"{lm.name} has no list of layers that can be told apart: train the whole model, or adapters")
    stack = max(sizes, key=lambda name: sizes[name])
    count = sizes[stack]
    if not 1 <= layers <= count:
        raise ValueError(f"last_layers is {layers}: {lm.name} has {count} layers")
    kept = [f"{stack}.{i}" for i in range(count - layers, count)] + names[names.index(stack) + 1 :]
    prefixes = tuple(f"{lm.module.base_model_prefix}.{name}." for name in kept)
    return lambda name: name.startswith(prefixes)


def _add_adapters(model: Any, rank: int, seed: int) -> None:
    if rank < 1:
        raise ValueError(f"lora is {rank}: it is a rank, at least 1")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Adapters need the package peft: run `pip install peft`") from error
    # Drawn apart from whatever else is drawn in the process.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"), model)


def _without_adapters(model: Any) -> dict[str, torch.Tensor] | None:
    """Return the weights with their adapters added, under the names that the model has without them."""
    adapted = {name: layer for name, layer in model.named_modules() if hasattr(layer, "get_delta_weight")}
    if not adapted:
        return None
    state = {name: weight for name, weight in model.state_dict().items() if not _is_adapter(name)}
    for name, layer in adapted.items():
        weight = state[f"{name}.base_layer.weight"]
        state[f"{name}.base_layer.weight"] = (weight.float() + layer.get_delta_weight("default").float()).to(weight)
    return {name.replace(".base_layer.", "."): weight for name, weight in state.items()}
