"""KL(policy‖prior) of samples: every estimator, with its error, its interval, and what makes it unfit to be trusted."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from esscher.divergence import kl_warnings
from esscher.divergence.checked_columns import exact_kl_of, log_proposal_of, logprobs_of
from esscher.divergence.control import control_coefficients
from esscher.divergence.estimators import KlEstimators, kl_estimators, of_log_ratios
from esscher.divergence.kl_estimate import KlEstimate, signature
from esscher.divergence.presets import estimate_preset
from esscher.divergence.weighting import policy_weights
from esscher.estimate import above_zero, with_interval

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from esscher.divergence.estimators import Level
    from esscher.divergence.presets import PresetName
    from esscher.divergence.weighting import PolicyWeights
    from esscher.ragged import Ragged
    from esscher.samples import Samples
    from esscher.warning import ReportWarning

Column = Literal["k1", "k2", "k3", "abs", "k1_cv", "exact"]


def estimate_kl(
    samples: Samples,
    estimator: Column | None = None,
    preset: PresetName | None = None,
    *,
    level: Level = "token",
    proposal_logprobs: Ragged | None = None,
    log_potential: ArrayLike | None = None,
) -> KlEstimate:
    """Estimate KL(policy‖prior) with its standard error clustered by prompt, or reproduce what a trainer logs as it.

    With ``d = log policy - log prior`` of each token ("token") or of the completion ("sequence"), the value is the mean
    over completions of ``k1 = d``, ``k2 = d^2 / 2``, ``k3 = exp(-d) - 1 + d`` or ``abs = |d|``, summed over tokens;
    of ``k1_cv = k1 + c (k3 - k1)``, where ``k3 - k1 = exp(-d) - 1`` has mean 0 on policy and c is fitted to give the
    least variance, for each prompt to the completions of the others; or of ``exact``, the KL over the whole vocabulary
    at each token.

    Parameters
    ----------
    samples
        Completions with the log-probs of policy and prior, or with `token_kl` for "exact".
    estimator
        "k1" if not given. k1, k1_cv, k3 and exact are unbiased on the policy's own samples, k2 and abs are not.
    preset
        A trainer, whose number is reproduced: its estimator, aggregation and clamps (see `estimate_preset`).
    level
        What the log-ratio is of. k1 and exact are the same at both levels.
    proposal_logprobs
        Log-probs of the tokens under what the completions were drawn from, if that is not the policy. Completions are
        then weighted by ``policy / proposal``, self-normalised over all of them. Of the presets, "disco" alone knows
        such samples.
    log_potential
        For "disco" alone: the target's, in nats [N].

    Raises
    ------
    ValueError
        If `samples` lack a column that is needed, `estimator`, `preset` or `level` is none of the above, rows differ,
        a token is impossible under both policy and prior, or a completion under `proposal_logprobs`. What is impossible
        under one of policy and prior makes the KL infinite, and a warning says so.
    TypeError
        If `proposal_logprobs` is not `Ragged`, or not of floating point.

    References
    ----------
    Schulman, "Approximating KL Divergence", 2020, joschu.net/blog/kl-approx.html; Owen, "Monte Carlo theory,
    methods and examples", 2013, section 8.9 (control variates).

    Examples
    --------
    >>> from esscher import Ragged, Samples
    >>> samples = Samples(
    ...     prompts=Ragged.from_rows([[1]]),
    ...     completions=Ragged.from_rows([[2, 3], [4]]),
    ...     groups=[0, 2],
    ...     policy_logprobs=Ragged.from_rows([[-1.0, -0.5], [-0.5]]),
    ...     prior_logprobs=Ragged.from_rows([[-1.5, -0.5], [-1.0]]),
    ... )
    >>> estimate = estimate_kl(samples)
    >>> estimate.value, estimate.stderr
    (0.5, 0.0)
    >>> estimate.signature
    'kl:k1|level:token|agg:seq-sum|dir:policy-prior|clamp:none|eos:incl|dtype:f64|n:2|clusters:1|v:0.1.0'
    >>> round(estimate_kl(samples, preset="trl-grpo").value, 4)
    0.071
    """
    if preset is not None:
        if level != "token":
            raise ValueError(f"preset {preset!r} says how the KL is made: leave level as it is")
        log_proposal = None if proposal_logprobs is None else log_proposal_of(samples, proposal_logprobs)
        return estimate_preset(samples, preset, estimator, log_potential=log_potential, log_proposal=log_proposal)
    if log_potential is not None:
        raise ValueError("log_potential is given without preset='disco', which alone needs it")
    name = _key(estimator or "k1", level)
    estimates = estimate_kls(samples, proposal_logprobs=proposal_logprobs)
    if name not in estimates:
        raise ValueError("samples have no token_kl: the exact KL needs the full-vocabulary KL of each token")
    return estimates[name]


def estimate_kls(samples: Samples, *, proposal_logprobs: Ragged | None = None) -> dict[str, KlEstimate]:
    """As `estimate_kl`, by all estimators in one pass over the tokens.

    Keys are k1, k2, k3, abs and k1_cv at token level; sequence_k2, sequence_k3, sequence_abs and sequence_k1_cv; and
    exact, if the samples have `token_kl`.

    Examples
    --------
    >>> from esscher import Ragged, Samples
    >>> samples = Samples(
    ...     prompts=Ragged.from_rows([[1]]),
    ...     completions=Ragged.from_rows([[2, 3], [4]]),
    ...     groups=[0, 2],
    ...     policy_logprobs=Ragged.from_rows([[-1.0, -0.5], [-0.5]]),
    ...     prior_logprobs=Ragged.from_rows([[-1.5, -0.5], [-1.0]]),
    ... )
    >>> {name: round(estimate.value, 4) for name, estimate in estimate_kls(samples).items()}
    {'k1': 0.5, 'k2': 0.125, 'k3': 0.1065, 'abs': 0.5, 'k1_cv': 0.5,
     'sequence_k2': 0.125, 'sequence_k3': 0.1065, 'sequence_abs': 0.5, 'sequence_k1_cv': 0.5}
    """
    policy, prior = logprobs_of(samples)
    weights = policy_weights(samples, proposal_logprobs)
    tokens = kl_estimators(policy, prior)
    unfit = (*kl_warnings.warn_of_columns(samples, weights), *kl_warnings.warn_of_impossible(tokens.k1, weights))
    make = partial(_estimate, samples, weights, unfit)
    estimates = _of_level(samples, tokens, "token", weights, make)
    sequences = _of_level(samples, of_log_ratios(tokens.k1), "sequence", weights, make)
    estimates |= {f"sequence_{name}": estimate for name, estimate in sequences.items() if name != "k1"}
    if samples.token_kl is not None:
        exact = exact_kl_of(samples.token_kl)
        estimates["exact"] = make("exact", exact, kl_warnings.warn_of_exact(exact))
    return estimates


def _of_level(
    samples: Samples, columns: KlEstimators, level: Level, weights: PolicyWeights, make: Callable[..., KlEstimate]
) -> dict[str, KlEstimate]:
    rests_on_ratio = kl_warnings.warn_of_mean_ratio(samples, columns, level, weights)
    unfit = {"k3": rests_on_ratio}
    estimates = {
        name: make(name, values, unfit.get(name, ()), level=level) for name, values in columns._asdict().items()
    }
    coefficients = control_coefficients(columns, weights, samples.groups)
    fitted = coefficients.any()
    values = columns.k1 + coefficients * (columns.k3 - columns.k1) if fitted else columns.k1
    unfit_cv = rests_on_ratio if fitted else ()
    estimates["k1_cv"] = make("k1_cv", values, unfit_cv, level=level, cv=f"{coefficients.mean():.6g}")
    return estimates


def _key(column: str, level: str) -> str:
    known = (*KlEstimators._fields, "k1_cv", "exact")
    if column not in known:
        raise ValueError(f"estimator is {column!r}: it must be one of {', '.join(known)}")
    if level not in ("token", "sequence"):
        raise ValueError(f"level is {level!r}: it must be one of token, sequence")
    return column if level == "token" or column in ("k1", "exact") else f"sequence_{column}"


# Unbiased on policy: that they are below 0 by more than chance says something.
UNBIASED = ("k1", "k1_cv")


def _estimate(
    samples: Samples,
    weights: PolicyWeights,
    unfit: tuple[ReportWarning, ...],
    column: str,
    per_sequence: NDArray[np.float64],
    more: tuple[ReportWarning, ...] = (),
    **parts: str,
) -> KlEstimate:
    numerators = weights.times(per_sequence)
    found, interval = with_interval(numerators, samples.groups, weights.relative)
    tokens_of = partial(kl_warnings.tokens_of, samples, column, parts.get("level", "token"))
    spike = kl_warnings.warn_of_spike(f"KL ({column})", samples, numerators, tokens_of)
    if weights.ess is not None:
        parts["weights"] = "policy/proposal"
    return KlEstimate(
        value=found.value,
        stderr=found.stderr,
        per_sequence=per_sequence,
        signature=signature(samples, column, **parts),
        interval=above_zero(interval),
        raw=found.value,
        ess=weights.ess,
        pareto_k=weights.pareto_k,
        warnings=(
            *unfit,
            *more,
            *spike,
            *(kl_warnings.warn_of_value(column, found) if column in UNBIASED else ()),
            *kl_warnings.warn_of_clusters(samples.groups.sums(weights.relative)),
        ),
    )
