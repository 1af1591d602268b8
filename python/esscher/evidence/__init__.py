"""log Z by samples of prior, policy and both: whether they agree, and the gap that the best of them leaves."""

from esscher.evidence.comparing import Gap, LogZ, best_gap, compare_log_z

__all__ = ["Gap", "LogZ", "best_gap", "compare_log_z"]
