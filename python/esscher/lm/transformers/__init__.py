"""Any causal language model of the transformers library; the only place that imports it, and torch, to run a model."""

from esscher.lm.transformers.loading import ModelSource, convert_gguf, load_tokenizer, locate
from esscher.lm.transformers.model import TransformersLM

__all__ = ["ModelSource", "TransformersLM", "convert_gguf", "load_tokenizer", "locate"]
