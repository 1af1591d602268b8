"""Two engines compared: the log-probs of the engine that sampled, and of the engine that trains."""

from esscher.mismatch.diagnosing import mismatch
from esscher.mismatch.findings import Cause, Coverage, MismatchReport, PerToken
from esscher.mismatch.verl_metrics import Metrics

__all__ = ["Cause", "Coverage", "Metrics", "MismatchReport", "PerToken", "mismatch"]
