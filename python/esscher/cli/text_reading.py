"""Files of texts on the command line: the tokenizer that a user names, or the words as they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from esscher.cli.options import MODEL_HELP
from esscher.lm.base import token_id_rule

if TYPE_CHECKING:
    from esscher.lm.transformers.retokenising import Retokeniser
    from esscher.samples import Samples

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


def check_known(samples: Samples, tokenizer: Retokeniser) -> None:
    """Raise `ValueError` if completions have ids that a tokenizer does not know."""
    ids = samples.completions
    unknown = np.flatnonzero(ids.values >= tokenizer.size)
    if len(unknown):
        row, place = ids.locate(unknown[0])
        rule = token_id_rule(f"the tokenizer of {tokenizer.name}", tokenizer.size)
        raise ValueError(f"completions[{row}][{place}] is {ids.values[unknown[0]]}: {rule}")
