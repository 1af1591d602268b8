"""Log-prob, entropy and exact KL of each token, from logits over the vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from esscher import _core
from esscher.groups import as_integers
from esscher.ragged import BFLOAT16, as_native, widened

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class TokenScores(NamedTuple):
    """What logits say of each token, in nats.

    Attributes
    ----------
    logprobs
        Log-prob of the token [T].
    entropy
        Entropy of the distribution it was drawn from [T].
    prior_logprobs, kl
        With the prior's logits: its log-prob of the token [T], and KL(policy‖prior) over the whole vocabulary [T].
    """

    logprobs: NDArray[np.floating]
    entropy: NDArray[np.floating]
    prior_logprobs: NDArray[np.floating] | None
    kl: NDArray[np.floating] | None

    def columns(self) -> dict[str, NDArray[np.floating]]:
        """Return the arrays that are there, by the names of the columns of `Samples` that hold them."""
        given = {"policy_logprobs": self.logprobs, "policy_entropy": self.entropy}
        against = {"prior_logprobs": self.prior_logprobs, "token_kl": self.kl}
        return given | {name: column for name, column in against.items() if column is not None}


def token_scores(
    logits: Any, token_ids: ArrayLike, prior_logits: Any | None = None, *, threads: int | None = None
) -> TokenScores:
    """Score tokens from logits, reading each logit once and allocating nothing of the logits' size.

    ``log p(v) = x_v - log sum_u exp(x_u)``, ``H = -sum_v p(v) log p(v)``,
    ``KL = sum_v p(v) (log p(v) - log p0(v))``. Exponentials are taken in float32. Log-probs and entropies are within
    1e-6 absolute or relative, whichever is more; a KL is within 5e-6 of 1 + entropy + cross-entropy, and never below 0.

    Parameters
    ----------
    logits
        Logits of the policy [T, V], float32, bfloat16 or float16: NumPy or a torch CPU tensor. -inf means impossible.
    token_ids
        The tokens [T].
    prior_logits
        Logits of the prior [T, V], of the same dtype.
    threads
        How many threads to use; all cores if not given. The result does not depend on it.

    Raises
    ------
    ValueError
        If shapes disagree, a token is outside the vocabulary, a logit is NaN or +inf, or no token is possible.
    TypeError
        If a dtype is none of the above, or the two differ.

    Examples
    --------
    >>> import numpy as np
    >>> scores = token_scores(np.log(np.array([[0.5, 0.25, 0.25]], np.float32)), [1], np.zeros((1, 3), np.float32))
    >>> np.exp(scores.logprobs), np.exp(scores.prior_logprobs).round(4)
    (array([0.25], dtype=float32), array([0.3333], dtype=float32))
    >>> round(float(scores.entropy[0]), 4), round(float(scores.kl[0]), 4)
    (1.0397, 0.0589)
    """
    policy = _as_logits("logits", logits)
    prior = None if prior_logits is None else _as_logits("prior_logits", prior_logits)
    return TokenScores(*_core.token_scores(policy, as_integers("token_ids", as_native(token_ids)), prior, threads))


def _as_logits(name: str, logits: Any) -> NDArray[Any]:
    array = as_native(logits)
    if array.ndim != 2:
        raise ValueError(f"{name} has {array.ndim} dimensions: it has two, [tokens, vocabulary]")
    if array.dtype == BFLOAT16:
        return array.view(np.uint16)
    if array.dtype not in (np.float16, np.float32):
        raise TypeError(f"{name} has dtype {array.dtype}: it must be float32, bfloat16 or float16")
    return widened(array)
