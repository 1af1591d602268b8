"""A prior that a running server holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esscher.samples import as_samples

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from esscher.client import Client
    from esscher.ragged import Masked, Ragged


class ServedPrior:
    """Asks a server for log-probs under the prior; it waits for one that is busy or restarts.

    Parameters
    ----------
    client
        Of the server.

    Raises
    ------
    ConnectionError
        If no server answers.
    ValueError
        If it holds no prior.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        info = client.info()
        if "prior_logprobs" not in info.columns:
            raise ValueError(f"the server at {client.address} holds no prior: start it with --prior")
        self.name = f"{info.prior_name} of {client.address}"

    def logprobs(self, prompts: Ragged, completions: Ragged | Masked, groups: ArrayLike) -> Ragged:
        """Log-prob of every completion token, float32 nats; see `LanguageModel.logprobs`.

        Raises
        ------
        ConnectionError, TimeoutError
            As `Client.score`.
        """
        scored = self._client.score(as_samples(prompts, completions, groups))
        return scored.need("prior_logprobs", why="the server was asked for them")
