"""What a target could give, from samples of the prior alone: the frontier, and the target that has a KL or moments."""

from esscher.frontier.averages import Curve
from esscher.frontier.beta import solve_beta
from esscher.frontier.curve import Frontier, frontier
from esscher.frontier.gold import GoldCurve, GoldPeak, gold_curve
from esscher.frontier.moments import solve_moments
from esscher.frontier.prototype import Prototype, prototype
from esscher.frontier.trust import A_PROMPT

__all__ = [
    "A_PROMPT",
    "Curve",
    "Frontier",
    "GoldCurve",
    "GoldPeak",
    "Prototype",
    "frontier",
    "gold_curve",
    "prototype",
    "solve_beta",
    "solve_moments",
]
