"""Trained policies beside the frontier: how much of what their KL could buy they got, and what they left undone."""

from esscher.compare.comparing import compare
from esscher.compare.record import Comparison, PolicyPoint

__all__ = ["Comparison", "PolicyPoint", "compare"]
