"""Samples and a target in, a report out: a plain record that any layer can show, store or send."""

from esscher.evaluate.report import Counts, Ngram, PerCompletion, Report
from esscher.evaluate.reporting import evaluate

__all__ = ["Counts", "Ngram", "PerCompletion", "Report", "evaluate"]
