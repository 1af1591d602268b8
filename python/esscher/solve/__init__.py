"""Modelling backwards: find the target that has the KL, the reward or the mean features that one asks for."""

from esscher.solve.beta import solve_beta
from esscher.solve.moments import solve_moments

__all__ = ["solve_beta", "solve_moments"]
