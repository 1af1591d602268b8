"""`python -m bench.lm.idle VOCABULARY`: Esscher's server with a prior that takes no time, as on another machine."""

from __future__ import annotations

import asyncio
import sys

import numpy as np

from esscher import Ragged
from esscher.lm.base import check_scoring
from esscher.server.models import Models
from esscher.server.serving import serve
from esscher.server.settings import ServerSettings


class Idle:
    """Every token has the same log-prob, whatever is asked."""

    name = "idle"
    end_token_ids: tuple[int, ...] = ()
    start_token_id = None
    max_tokens = 2**20

    def __init__(self, vocabulary_size: int) -> None:
        self.vocabulary_size = vocabulary_size

    def logprobs(self, prompts: Ragged, completions: Ragged, groups: np.ndarray) -> Ragged:
        check_scoring(self, prompts, completions, groups)
        return Ragged(np.full(len(completions.values), -3.0, np.float32), completions.offsets)


def main(vocabulary_size: str) -> None:
    models = Models(Idle(int(vocabulary_size)))
    asyncio.run(serve(models, ServerSettings(port=0), on_ready=lambda address: print(address, flush=True)))


if __name__ == "__main__":
    main(*sys.argv[1:])
