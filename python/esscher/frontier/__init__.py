"""What a target could give, from samples of the prior alone: the frontier, and the target that has a KL or moments."""

from esscher.frontier.averages import Curve
from esscher.frontier.beta import solve_beta
from esscher.frontier.curve import Frontier, frontier
from esscher.frontier.moments import solve_moments
from esscher.frontier.prototype import Prototype, prototype
from esscher.frontier.trust import A_PROMPT

__all__ = ["A_PROMPT", "Curve", "Frontier", "Prototype", "frontier", "prototype", "solve_beta", "solve_moments"]
