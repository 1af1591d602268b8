"""Two engines compared: the log-probs of the engine that sampled, and of the engine that trains."""

from esscher.mismatch.compare import mismatch
from esscher.mismatch.metrics import Metrics
from esscher.mismatch.record import Cause, Coverage, MismatchReport, PerToken

__all__ = ["Cause", "Coverage", "Metrics", "MismatchReport", "PerToken", "mismatch"]
