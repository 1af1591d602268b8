"""What an estimate of a KL says, and the signature by which it can be made again."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from esscher import _core

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from esscher.estimate import Interval
    from esscher.samples import Samples
    from esscher.warning import ReportWarning


class KlEstimate(NamedTuple):
    """An estimate of KL(policy‖prior), with what is needed to trust it.

    Attributes
    ----------
    value
        The estimate, in nats per completion; per token where the signature says ``agg:token-mean`` or ``seq-mean``.
    stderr
        Its standard error, clustered by prompt; NaN where the samples cannot tell.
    per_sequence
        What each completion contributes [N]: its estimate in nats, before weights and averaging.
    signature
        How the number was made, so that it can be made again.
    interval
        The 95 % confidence interval and what it assumes: cut at 0, below which no KL is; none where all of it would lie
        there.
    raw
        The value without clamps; equal to `value` where there are none.
    clamped
        The share of tokens whose estimate a clamp changed.
    ess
        Effective sample size of the weights, in completions; `None` for samples of the policy itself.
    pareto_k
        Tail shape of the weights; `None` for samples of the policy itself.
    warnings
        What makes the number unfit to be trusted, and what to do about it.
    """

    value: float
    stderr: float
    per_sequence: NDArray[np.float64]
    signature: str
    interval: Interval
    raw: float
    clamped: float = 0.0
    ess: float | None = None
    pareto_k: float | None = None
    warnings: tuple[ReportWarning, ...] = ()


def signature(samples: Samples, estimator: str, **parts: str) -> str:
    """Return what tells how a KL was made: the estimator, `parts` in place of the defaults, and the size of the data.

    Where only actions count, ``mask:actions`` says so, and ``tokens:retokenised`` where ids are not those sampled.

    Examples
    --------
    >>> from esscher import Ragged, Samples
    >>> rows = Ragged.from_rows([[-1.0, -0.5]])
    >>> samples = Samples(Ragged.from_rows([[1]]), Ragged.from_rows([[2, 3]]), [0, 1], rows, rows)
    >>> signature(samples, "k3", agg="token-mean", clamp="value10")
    'kl:k3|level:token|agg:token-mean|dir:policy-prior|clamp:value10|eos:incl|dtype:f64|n:1|clusters:1|v:0.1.0'
    """
    named = {
        "kl": estimator,
        "level": "token",
        "agg": "seq-sum",
        "dir": "policy-prior",
        "clamp": "none",
        "eos": "incl",
        "dtype": _dtype(samples),
        "n": str(len(samples)),
        "clusters": str(len(samples.prompts)),
    }
    if samples.action_mask is not None:
        named["mask"] = "actions"
    if samples.tokens != "sampled":
        named["tokens"] = samples.tokens
    return "|".join(f"{key}:{value}" for key, value in (named | parts | {"v": _core.__version__}).items())


def _dtype(samples: Samples) -> str:
    """Name what the log-probs are stored in: both types, where policy and prior differ."""
    columns = (samples.policy_logprobs, samples.prior_logprobs)
    names = [f"f{8 * column.values.dtype.itemsize}" for column in columns if column is not None]
    return "+".join(dict.fromkeys(names))
