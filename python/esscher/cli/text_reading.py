"""Files of texts on the command line: the tokenizer that a user names, or the words as they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from esscher.cli.options import MODEL_HELP
from esscher.lm.base import token_id_rule
from esscher.warning import ReportWarning

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from esscher.lm.transformers.retokenising import Retokeniser
    from esscher.samples import Samples

COMPLETION = "completion"
ROWS_AT_ONCE = 1000

Tokenizer = Annotated[
    str | None,
    typer.Option(help=f"Make token ids of files that hold texts alone, and show n-grams as text. {MODEL_HELP}"),
]


def load_retokeniser(model: str) -> Retokeniser:
    """Load the tokenizer of a model, by what its user calls it."""
    from esscher.lm.packaged import resolve
    from esscher.lm.transformers import load_tokenizer, locate
    from esscher.lm.transformers.retokenising import Retokeniser

    return Retokeniser(model, load_tokenizer(locate(resolve(model))))


def compare_again(paths: Sequence[Path], tool: str | None, tokenizer: Retokeniser) -> tuple[ReportWarning, ...]:
    """Say how many completions have other ids when their text is tokenised again, where files hold both."""
    from esscher import files

    compared = changed = 0
    for file in files.find(paths, tool).files:
        rows = files.scan(file.path, file.tool)
        if not {COMPLETION, files.NEEDED[1]} <= set(rows.schema.names):
            continue
        for block in files.read_blocks(rows, ROWS_AT_ONCE, [COMPLETION, files.NEEDED[1]]):
            for row in block.table.to_pylist():
                text, ids = row[COMPLETION], row[files.NEEDED[1]]
                if isinstance(text, str) and text and ids:
                    compared += 1
                    # An end token has no text.
                    again = tokenizer.read("", text)[1]
                    changed += again not in (ids, ids[:-1])
    if not compared:
        return ()
    return (
        ReportWarning(
            "retokenised",
            f"Of {compared:,} completions that have text and ids, {changed:,} get other ids when their text is "
            "tokenised again: so many numbers of log-probs would be of other tokens, had the ids not been kept.",
        ),
    )


def check_known(samples: Samples, tokenizer: Retokeniser) -> None:
    """Raise `ValueError` if completions have ids that a tokenizer does not know."""
    ids = samples.completions
    unknown = np.flatnonzero(ids.values >= tokenizer.size)
    if len(unknown):
        row, place = ids.locate(unknown[0])
        rule = token_id_rule(f"the tokenizer of {tokenizer.name}", tokenizer.size)
        raise ValueError(f"completions[{row}][{place}] is {ids.values[unknown[0]]}: {rule}")
