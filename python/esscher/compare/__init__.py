"""Trained policies beside the frontier of their prior; log Z by samples of both."""

from esscher.compare.comparing import compare
from esscher.compare.comparison import Comparison, PolicyPoint
from esscher.compare.log_z import LogZ, compare_log_z

__all__ = ["Comparison", "LogZ", "PolicyPoint", "compare", "compare_log_z"]
