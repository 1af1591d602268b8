"""Sequential Monte Carlo over tokens: completions that are weighted and resampled while they are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher.groups import as_groups
from esscher.inference.resampling import check_scheme, resample
from esscher.inference.validation import below_infinity
from esscher.ragged import Ragged, as_token_ids
from esscher.weights.weighing import weigh

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from esscher.inference.resampling import Scheme
    from esscher.lm.base import LanguageModel

    LogTwist = Callable[[Ragged, NDArray[np.bool_]], ArrayLike]


class TokenSmc(NamedTuple):
    """Weighted completions of one prompt that stand for a target, and how they came about in S steps of one token.

    Attributes
    ----------
    completions
        Token ids of the n particles. One of weight 0 was not written on, so it may be a mere prefix.
    prior_logprobs
        Log-prob of each token under the prior, in nats, with the rows of `completions`.
    terminated
        Whether each particle ended by itself, rather than being cut off [n].
    log_weights
        Log of the self-normalised weights [n]: their exponentials sum to 1; all -inf if nothing has weight.
    log_z
        Estimate of log Z in nats; -inf if nothing has weight.
    ess
        Effective sample size after each step, before resampling [S].
    resampled
        Whether each step ended with resampling [S].
    """

    completions: Ragged
    prior_logprobs: Ragged
    terminated: NDArray[np.bool_]
    log_weights: NDArray[np.float64]
    log_z: float
    ess: NDArray[np.float64]
    resampled: NDArray[np.bool_]


class TokenParticles(NamedTuple):
    """Completions in the making: n rows of at most T tokens, and what is known of each.

    Attributes
    ----------
    tokens, logprobs
        Token ids, and their log-probs under the prior [n, T]; the first `lengths` of each row count.
    lengths
        How many tokens each has [n].
    terminated, finished
        Whether each has an end token [n], and whether it has that or is cut off [n].
    log_psi
        Log-twist of each [n].
    log_weights
        Unnormalised log-weight since the last resampling [n].
    """

    tokens: NDArray[np.uint32]
    logprobs: NDArray[np.float64]
    lengths: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    finished: NDArray[np.bool_]
    log_psi: NDArray[np.float64]
    log_weights: NDArray[np.float64]


class Extension(NamedTuple):
    """One more token for each of m particles: its id, log-probs under prior and proposal, and whether it ends them."""

    token: NDArray[np.uint32]
    prior_logprob: NDArray[np.float64]
    proposal_logprob: NDArray[np.float64]
    terminated: NDArray[np.bool_]


def token_smc(
    model: LanguageModel,
    prompt: ArrayLike,
    n: int,
    max_new_tokens: int,
    rng: np.random.Generator,
    *,
    log_twist: LogTwist,
    ess_share: float = 0.5,
    proposal: LanguageModel | None = None,
    scheme: Scheme = "systematic",
) -> TokenSmc:
    """Write `n` completions side by side, and let those go on that promise a high potential.

    Step t extends every unfinished particle by one token drawn from q, the prior or another proposal, and multiplies
    its weight by ``psi(x_1:t) / psi(x_1:t-1) * prior(x_t | x_1:t-1) / q(x_t | x_1:t-1)``, with ``psi = 1`` for the
    empty prefix; when the effective sample size falls below ``ess_share * n``, particles are resampled.
    ``E[Z hat] = Z``, whatever psi is on prefixes if it is 0 only where nothing can come of one: a good twist makes the
    estimate less noisy. The best is the value
    ``psi(x_1:t) = E_prior[exp(log_potential) | x_1:t]``; with the target itself as proposal (``q`` in proportion to
    ``prior * psi``) it gives exact draws of the target, and Z without noise.

    Each step hands whole prefixes to the model as prompts, so the cost grows with the square of the length.

    Parameters
    ----------
    model
        The prior.
    prompt
        Token ids of the prompt.
    n
        How many particles, at least 1.
    max_new_tokens
        Where completions are cut off, at least 1.
    rng
        Source of all chance, handed on to the model.
    log_twist
        Called as ``log_twist(completions, finished)`` after each step, with the m particles that it extended (Ragged)
        and whether each is finished, ended or cut off [m]; returns log psi [m] in nats. Of finished ones it must be the
        log-potential. -inf says that no continuation has weight: the particle is not written on.
    ess_share
        Share of `n` below which the effective sample size leads to resampling, above 0 and at most 1. There is none
        after the last step.
    proposal
        What to draw tokens from, such as a policy trained for the target; the prior if not given. It must have the
        prior's tokens and end tokens, and give a chance to all that the target does.
    scheme
        How to resample, as in `resample`.

    Raises
    ------
    ValueError
        If `log_twist` returns another number of values, or a NaN or +inf; `n` or `max_new_tokens` is below 1;
        `ess_share` is not above 0 and at most 1; `prompt` is empty, or longer than a model takes together with
        `max_new_tokens`; `proposal` has other tokens; `scheme` is none; or as `LanguageModel.sample`.

    References
    ----------
    Zhao, Brekelmans, Makhzani, Grosse, "Probabilistic inference in language models via twisted sequential Monte Carlo",
    ICML 2024, arXiv:2404.17546; Lew, Zhi-Xuan, Grand, Mansinghka, "Sequential Monte Carlo steering of large language
    models using probabilistic programs", 2023, arXiv:2306.03081.

    Examples
    --------
    The prior throws a coin three times, and the target wants three heads (token 1): Z = 0.4^3 = 0.064.

    >>> import numpy as np
    >>> from esscher.lm.tabular import TabularLM
    >>> coin = TabularLM(np.log(np.tile([0.6, 0.4], (1, 3, 1))))
    >>> def all_heads(completions, finished):
    ...     return np.where([row.all() for row in completions], 0.0, -np.inf)
    >>> smc = token_smc(coin, [0], 1000, 3, np.random.default_rng(0), log_twist=all_heads)
    >>> round(float(np.exp(smc.log_z)), 3), smc.completions[0].tolist()
    (0.061, [1, 1, 1])
    >>> smc.resampled
    array([ True,  True, False])
    """
    proposal = model if proposal is None else proposal
    start = _as_prompt(prompt)
    _check(n, max_new_tokens, ess_share)
    check_scheme(scheme)
    _check_models(model, proposal, len(start), max_new_tokens)
    particles, log_z = _empty(n, max_new_tokens), 0.0
    steps: list[tuple[float, bool]] = []
    active, together = np.arange(n), as_groups(None, n)
    while len(active):
        added = _extend(model, proposal, _prefixes(start, particles, active), rng)
        particles = _grown(particles, active, added, log_twist)
        weights = weigh(particles.log_weights, together)
        ess = float(weights.ess[0])
        resampling = len(_active(particles)) > 0 and ess < ess_share * n
        if resampling:
            log_z += float(weights.log_z[0])
            particles = _survivors(particles, resample(particles.log_weights, n, rng, scheme=scheme))
        active = _active(particles)
        steps.append((ess, resampling))
    weights = weigh(particles.log_weights, together)
    return TokenSmc(
        completions=Ragged.from_padded(particles.tokens, lengths=particles.lengths),
        prior_logprobs=Ragged.from_padded(particles.logprobs, lengths=particles.lengths),
        terminated=particles.terminated,
        log_weights=weights.log_weights,
        log_z=log_z + float(weights.log_z[0]),
        ess=np.array([ess for ess, _ in steps]),
        resampled=np.array([resampling for _, resampling in steps]),
    )


def _as_prompt(prompt: ArrayLike) -> NDArray[np.uint32]:
    ids = np.asarray(prompt)
    if ids.ndim != 1 or len(ids) == 0:
        raise ValueError(f"prompt has shape {ids.shape}: it is the token ids of one prompt, at least one")
    return as_token_ids("prompt", Ragged.from_rows([ids])).values


def _check(n: int, max_new_tokens: int, ess_share: float) -> None:
    for name, value in (("n", n), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise ValueError(f"{name} is {value}: it is at least 1")
    if not 0 < ess_share <= 1:
        raise ValueError(f"ess_share is {ess_share}: it is above 0 and at most 1")


def _check_models(model: LanguageModel, proposal: LanguageModel, prompt_length: int, max_new_tokens: int) -> None:
    for name, each in (("model", model), ("proposal", proposal)):
        if prompt_length + max_new_tokens > each.max_tokens:
            raise ValueError(
                f"prompt has {prompt_length} tokens and max_new_tokens is {max_new_tokens}: {name} {each.name} takes "
                f"at most {each.max_tokens} together, cut the prompt or ask for fewer new tokens"
            )
    if proposal.vocabulary_size != model.vocabulary_size or set(proposal.end_token_ids) != set(model.end_token_ids):
        raise ValueError(
            f"proposal {proposal.name} has {proposal.vocabulary_size} tokens with end tokens {proposal.end_token_ids}, "
            f"model {model.name} {model.vocabulary_size} with {model.end_token_ids}: they must be the same"
        )


def _empty(n: int, max_new_tokens: int) -> TokenParticles:
    return TokenParticles(
        tokens=np.zeros((n, max_new_tokens), np.uint32),
        logprobs=np.zeros((n, max_new_tokens)),
        lengths=np.zeros(n, np.int64),
        terminated=np.zeros(n, np.bool_),
        finished=np.zeros(n, np.bool_),
        log_psi=np.zeros(n),
        log_weights=np.zeros(n),
    )


def _active(particles: TokenParticles) -> NDArray[np.int64]:
    """Which particles are to be extended."""
    return np.flatnonzero(~particles.finished & (particles.log_weights > -np.inf))


def _prefixes(prompt: NDArray[np.uint32], particles: TokenParticles, active: NDArray[np.int64]) -> Ragged:
    """Return the prompt and what each active particle has written."""
    written = _written(particles, active)
    lengths = len(prompt) + written.shape[1]
    prefixes = np.hstack([np.tile(prompt, (len(active), 1)), written])
    return Ragged.from_lengths(prefixes.ravel(), np.full(len(active), lengths))


def _written(particles: TokenParticles, active: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Tokens of the active particles [m, t]: all have been extended in every step, so they are equally long."""
    return particles.tokens[active, : particles.lengths[active[0]]]


def _extend(model: LanguageModel, proposal: LanguageModel, prefixes: Ragged, rng: np.random.Generator) -> Extension:
    drawn = proposal.sample(prefixes, n=1, max_new_tokens=1, rng=rng)
    log_q = drawn.need("policy_logprobs", why="a token is weighted by the chance that it had").values.astype(np.float64)
    log_p = log_q
    if proposal is not model:
        log_p = model.logprobs(prefixes, drawn.completions, drawn.groups.offsets).values.astype(np.float64)
    terminated = drawn.need("terminated", why="a completion that ended is not written on")
    return Extension(drawn.completions.values, log_p, log_q, terminated)


def _grown(
    particles: TokenParticles, active: NDArray[np.int64], added: Extension, log_twist: LogTwist
) -> TokenParticles:
    """Particles with one more token each of the active ones, and weights to match."""
    grown = TokenParticles._make(column.copy() for column in particles)
    length = int(particles.lengths[active[0]])
    grown.tokens[active, length] = added.token
    grown.logprobs[active, length] = added.prior_logprob
    grown.lengths[active] += 1
    grown.terminated[active] = added.terminated
    grown.finished[active] = added.terminated | (length + 1 == grown.tokens.shape[1])
    grown.log_psi[active] = _twists(log_twist, grown, active)
    twist_ratios = grown.log_psi[active] - particles.log_psi[active]
    grown.log_weights[active] += twist_ratios + (added.prior_logprob - added.proposal_logprob)
    return grown


def _twists(log_twist: LogTwist, particles: TokenParticles, active: NDArray[np.int64]) -> NDArray[np.float64]:
    written = _written(particles, active)
    completions = Ragged.from_lengths(written.ravel(), np.full(len(active), written.shape[1]))
    column = below_infinity("log_twist", log_twist(completions, particles.finished[active]))
    if len(column) != len(active):
        raise ValueError(f"log_twist returned {len(column)} values for {len(active)} completions: it returns one each")
    return column


def _survivors(particles: TokenParticles, survivors: NDArray[np.int64]) -> TokenParticles:
    """Return the particles drawn, with equal weights."""
    drawn = TokenParticles._make(column[survivors] for column in particles)
    return drawn._replace(log_weights=np.zeros(len(survivors)))
