"""Any causal language model of the transformers library; the only place that imports it, and torch, to run a model."""

from esscher.lm.transformers.loading import convert_gguf, load_tokenizer
from esscher.lm.transformers.model import TransformersLM
from esscher.lm.transformers.sources import ModelSource, locate

__all__ = ["ModelSource", "TransformersLM", "convert_gguf", "load_tokenizer", "locate"]
