"""How much a policy's completions say of their prompts: the template collapse that entropy does not see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from esscher._core import ROUNDING
from esscher.divergence.checked_columns import check_drawn
from esscher.estimate import Interval, above_zero, with_interval
from esscher.samples import check_samples
from esscher.warning import ReportWarning

if TYPE_CHECKING:
    from esscher.samples import Samples

# A policy that may have more than this share of the bound is not said to have collapsed.
FAR_BELOW = 0.5


@dataclass(frozen=True)
class MutualInformation:
    """What completions and prompts say of each other, in nats.

    Attributes
    ----------
    value
        The estimate: 0 if the policy does not heed its prompt; a little below 0 by chance, too.
    stderr
        Its standard error, clustered by prompt.
    interval
        The 95 % interval; never below 0, nor above `bound`.
    bound
        The most that it can be: log of the number of prompts that each completion is scored under, its own included;
        the mean of that, where it differs.
    """

    value: float
    stderr: float
    interval: Interval
    bound: float


def estimate_mutual_information(samples: Samples) -> MutualInformation:
    """Estimate the mutual information of prompt and completion under the policy that the completions came from.

    With ``l_i`` the log-prob of completion i after its own prompt and ``c_ij`` those after K others, it is the mean of
    ``l_i - log((exp(l_i) + sum_j exp(c_ij)) / (K + 1))``. That has the mean I(prompt; completion) where each of K + 1
    prompts is as likely, and is no more than log(K + 1); over other prompts drawn at random it is a lower bound of
    that over all prompts, the nearer the more there are. A policy that answers every prompt alike has 0, however
    many answers it has: its entropy is as it was, its rewards may be too.

    Parameters
    ----------
    samples
        Completions of the policy with `policy_logprobs` and, of the same policy, `cross_log_probs`.

    Returns
    -------
    The estimate, in nats, with errors over prompts; those of a single one say nothing of others.

    Raises
    ------
    ValueError
        If one of the columns is not there, a completion is scored under no other prompt, or is impossible under the
        policy that it came from.

    References
    ----------
    Wang et al., "RAGEN-2: Reasoning Collapse in Agentic RL", 2026, arXiv:2604.06268 (template collapse).
    Poole, Ozair, van den Oord, Alemi, Tucker, "On Variational Bounds of Mutual Information", ICML 2019,
    arXiv:1905.06922 (the bound from a batch, with a known conditional).

    Examples
    --------
    >>> import numpy as np
    >>> from esscher import Ragged, Samples
    >>> samples = Samples(
    ...     prompts=Ragged.from_rows([[1], [2]]),
    ...     completions=Ragged.from_rows([[5], [6], [7], [8]]),
    ...     groups=[0, 2, 4],
    ...     policy_logprobs=Ragged.from_rows([[np.log(0.5)]] * 4),
    ...     cross_log_probs=Ragged.from_rows([[-np.inf], [np.log(0.5)], [-np.inf], [-np.inf]]),
    ... )
    >>> found = estimate_mutual_information(samples)
    >>> round(found.value, 4), round(found.bound, 4)  # three of four are told apart
    (0.5199, 0.6931)
    """
    check_samples("samples", samples)
    why = "the mutual information compares a completion's log-prob after its own prompt with those after others"
    samples.need("policy_logprobs", why=why)
    cross = samples.need("cross_log_probs", why=why)
    none = np.flatnonzero(cross.lengths == 0)
    if len(none):
        raise ValueError(f"cross_log_probs[{none[0]}] is empty: the completion is scored under no other prompt")
    own = np.minimum(check_drawn("policy_logprobs", samples.policy_log_prob), 0.0)
    prompts = cross.lengths + 1.0
    beside = cross.values.astype(np.float64) - cross.rows.spread(own)  # log of the likelihood beside the own
    highest = np.maximum(cross.rows.largest(beside), 0.0)
    sums = np.exp(-highest) + cross.rows.sums(np.exp(beside - cross.rows.spread(highest)))
    terms = np.log(prompts) - np.log(sums) - highest
    estimate, interval = with_interval(terms, samples.groups)
    bound = float(np.log(prompts).mean())
    if -ROUNDING <= interval.high < 0:  # what rounding leaves of 0
        interval = interval._replace(high=0.0)
    interval = above_zero(interval)
    return MutualInformation(*estimate, interval._replace(high=min(interval.high, bound)), bound)


def warn_of_collapse(found: MutualInformation, prompts: int) -> list[ReportWarning]:
    """Say if completions tell nothing of their prompts, although there are several.

    Examples
    --------
    >>> found = MutualInformation(0.01, 0.02, Interval(0.0, 0.05, "normal"), bound=2.08)
    >>> warn_of_collapse(found, prompts=8)[0].code
    'template-collapse'
    """
    low, high, _ = found.interval
    is_below = found.value < 0 and np.isnan(high)  # all of the interval, by chance
    if prompts < 2 or not (is_below or (low <= ROUNDING and high <= FAR_BELOW * found.bound)):
        return []
    return [
        ReportWarning(
            "template-collapse",
            f"The mutual information of prompt and completion is {found.value:.3g} nats, within error of 0 where "
            f"{found.bound:.3g} could be: the completions would be as likely after other prompts. Entropy and "
            "diversity do not show it.",
            "Look at completions of different prompts side by side, and at rewards that hardly differ within a prompt.",
        )
    ]
