"""What a comparison holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esscher.compare.log_z import LogZ
    from esscher.divergence import KlEstimate
    from esscher.diversity import DiversityEstimate
    from esscher.estimate import Estimate, Interval
    from esscher.frontier import Prototype
    from esscher.target import Tilt
    from esscher.warning import ReportWarning


@dataclass(frozen=True, eq=False)
class PolicyPoint:
    """A policy beside the frontier.

    Attributes
    ----------
    name
        What it is called.
    reward, reward_interval
        Its mean reward, and the 95 % interval of it.
    kl
        KL(policy‖prior) in nats: exact where `token_kl` is known, else k1.
    beta
        The beta whose target has that KL; `None` where the prior's samples show none.
    reachable
        The reward of that target: the most that any policy of the same KL can have, with the error that it has at this
        very KL; `None` with `efficiency`.
    efficiency, efficiency_interval
        ``(reward - prior's) / (reachable - prior's)``: the share that the policy got of the reward that its KL could
        buy, and the 95 % interval of it; `None` with `beta`, and where a mean reward is -inf.
    target
        The target that it is measured against.
    log_z
        log Z of the target, from the prior's samples and from the policy's, with errors of these prompts; `None` with
        `target`.
    log_z_bounds
        Bounds of it from below and above by the policy's samples (see `TargetReport.elbo` and `eubo`), with errors over
        prompts; `None` where they cannot tell.
    inference_gap, inference_gap_interval
        KL(policy‖target) in nats by the best log Z that there is (see `LogZ.best`), and the 95 % interval of it; `None`
        with `target`.
    own_inference_gap
        The same by the policy's own samples alone, which cannot show what the policy misses; `None` where they cannot
        tell.
    excess_collapse
        Its diversity minus the target's: what it lost beyond what the target asks for.
    """

    name: str
    reward: Estimate
    reward_interval: Interval
    kl: KlEstimate
    beta: float | None
    reachable: Estimate | None
    efficiency: Estimate | None
    efficiency_interval: Interval | None
    target: Tilt | None
    log_z: LogZ | None
    log_z_bounds: tuple[Estimate, Estimate] | None
    inference_gap: Estimate | None
    inference_gap_interval: Interval | None
    own_inference_gap: Estimate | None
    excess_collapse: tuple[DiversityEstimate, ...]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Policies beside the frontier of the prior, and what the reader should know before trusting them."""

    prototype: Prototype
    policies: tuple[PolicyPoint, ...]
    warnings: tuple[ReportWarning, ...]
