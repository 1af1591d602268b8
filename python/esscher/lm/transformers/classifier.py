"""A reward that is a sequence-classification model: what reward models are saved as."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

from esscher.lm.packing import micro_batches
from esscher.lm.transformers.configuration import longest_alike
from esscher.lm.transformers.loading import load_config, load_tokenizer, load_whole, place_of
from esscher.lm.transformers.network import pace_of
from esscher.lm.transformers.probes import check_finite_weights
from esscher.lm.transformers.sources import locate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from esscher.lm.base import TextModel
    from esscher.lm.transformers.sources import ModelSource
    from esscher.samples import Samples


class ClassifierReward:
    """The output of a sequence-classification model for prompt and completion, read as one text by its own tokenizer.

    Where the model has one output, as reward models do, that is the reward; else the log-probability of a label is.

    Parameters
    ----------
    source
        The model's folder or hub name.
    texts
        Whose tokenizer turns the completions' token ids into texts.
    label
        Which label's log-probability is the reward, where there are several.
    device
        Where it runs; by default CUDA where there is one, else the CPU.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such model, its tokenizer is not there, or `label` is none of its labels, or missing.
    """

    def __init__(
        self, source: str | Path, texts: TextModel, *, label: str | None = None, device: str | None = None
    ) -> None:
        found = locate(source)
        self.name = found.name
        self._texts = texts
        self._device = place_of(device)
        self._tokenizer: Any = load_tokenizer(found)
        self._model: Any = load_classifier(found, self._device)
        self._label = _label_index(self.name, self._model.config, label)
        self._config = self._model.config.get_text_config()
        # The tokenizer knows if some of the model's positions are not for tokens.
        positions = getattr(self._config, "max_position_embeddings", None) or self._tokenizer.model_max_length
        self._max_tokens = min(positions, self._tokenizer.model_max_length)

    @torch.inference_mode()
    def __call__(self, samples: Samples) -> NDArray[np.float64]:
        """Rewards of the completions [N].

        Raises
        ------
        ValueError
            If a text is longer than the model reads; the message names the completion.
        """
        prompts, completions = self._texts.decode(samples.prompts), self._texts.decode(samples.completions)
        texts = [prompts[p] + text for p, text in zip(samples.groups.of, completions, strict=True)]
        rows = [self._tokenizer.encode(text, verbose=False) for text in texts]
        lengths = np.array([len(row) for row in rows])
        too_long = np.flatnonzero(lengths > self._max_tokens)
        if len(too_long):
            i = int(too_long[0])
            raise ValueError(
                f"completion {i} has {lengths[i]} tokens with its prompt: {self.name} reads {self._max_tokens}"
            )
        rewards = np.empty(len(rows))
        for batch in self._batches(lengths):
            rewards[batch] = self._rewards([rows[i] for i in batch])
        return rewards

    def _batches(self, lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Yield rows that are read together: none beside a text that would change what its positions mean."""
        limit, _ = longest_alike(self._config)
        short, long = np.flatnonzero(lengths <= limit), np.flatnonzero(lengths > limit)
        budget = pace_of(self._device, self._model.dtype).tokens
        yield from (short[batch] for batch in micro_batches(lengths[short], budget))
        yield from long[:, None]

    def _rewards(self, rows: list[list[int]]) -> NDArray[np.float64]:
        width = max(map(len, rows))
        # Models find the end of a text by the padding after it, so that must be none of its tokens.
        used = {token for row in rows for token in row}
        padding = next(token for token in itertools.count() if token not in used)
        self._config.pad_token_id = padding
        ids = torch.full((len(rows), width), padding)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
        out = self._model(input_ids=ids.to(self._device), attention_mask=mask.to(self._device)).logits.double()
        column = out[:, 0] if self._label is None else torch.log_softmax(out, dim=1)[:, self._label]
        rewards: NDArray[np.float64] = column.cpu().numpy()
        return rewards


def _label_index(name: str, config: Any, label: str | None) -> int | None:
    labels = {str(text): int(index) for index, text in config.id2label.items()}
    if len(labels) == 1:
        if label is not None:
            raise ValueError(f"{name} has one output, its score: name no label, not {label!r}")
        return None
    if label not in labels:
        raise ValueError(
            f"{name} has {len(labels)} labels, {', '.join(list(labels)[:8])}: name the one whose log-probability is "
            f"the reward, not {label!r}"
        )
    return labels[label]


def load_classifier(source: ModelSource, device: torch.device) -> transformers.PreTrainedModel:
    """Load a sequence-classification model in evaluation mode, in its checkpoint's precision; else as `load_model`.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load_model`, where the model is not for sequence classification.
    """
    config = load_config(source)
    if type(config) not in transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ValueError(f"{source} is a {config.model_type} model, which does not classify sequences")
    kind = transformers.AutoModelForSequenceClassification
    dtype = torch.float32 if device.type == "cpu" else "auto"
    model = load_whole(kind, source, config, dtype, "a sequence-classification model")
    check_finite_weights(model, str(source))
    placed: transformers.PreTrainedModel = model.to(device).eval()
    return placed
