"""Files to score, and scorers of them that need no torch, for the tests and for the processes that they start."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from esscher import Ragged, files
from esscher.lm.tabular import TabularLM
from esscher.offline import LocalModels, make_plan, score_file
from service_models import tabular

ROWS, BLOCK = 22, 5


def other():
    """A policy for the tabular prior."""
    return TabularLM.random(np.random.default_rng(8), prompts=4, vocabulary=5, depth=6)


def rows(n=ROWS):
    """Completions of few prompts in no order, and columns that nobody asks about."""
    rng = np.random.default_rng(0)
    prompts = Ragged.from_rows(rng.integers(4, size=(n, 1)))
    drawn = tabular().sample(prompts, 1, 6, rng)
    return pa.table(
        {
            "text": [f"row {i}" for i in range(n)],
            "prompt_token_ids": [prompt.tolist() for prompt in prompts],
            "completion_token_ids": [completion.tolist() for completion in drawn.completions],
            "extra": [None if i % 3 else {"x": i / 2} for i in range(n)],
            "late": [None] * (n - 1) + [[0.5]],
        }
    )


def write(path, table=None):
    files.write(rows() if table is None else table, path)
    return path


class Recorder(LocalModels):
    """Scores like `LocalModels`, and keeps what it was asked."""

    def __init__(self, columns=("prior_logprobs",), identity=None, stop_at=None):
        super().__init__(tabular(), other(), columns, identity or {"prior": "tabular"})
        self.asked, self.stop_at = [], stop_at

    def fill(self, samples):
        if len(self.asked) == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(samples)
        return super().fill(samples)


def plan(file, output, columns=("prior_logprobs",), *, renames=None, block=BLOCK, overwrite=False, ignore_masks=()):
    return make_plan(
        file, output, columns, renames=renames or {}, block=block, overwrite=overwrite, ignore_masks=ignore_masks
    )


def score(file, output, scorer=None, *, restart=False, **options):
    scorer = scorer or Recorder()
    score_file(plan(file, output, scorer.columns, **options), scorer, restart=restart)
    return output
