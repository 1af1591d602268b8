"""N-grams as one writes them without this package: in Python, and in polars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterator

    import esscher


def windows(row: list[int], n: int) -> Iterator[tuple[int, ...]]:
    return zip(*(row[i:] for i in range(n)), strict=False)


def polars_frame(completions: esscher.Ragged) -> pl.DataFrame:
    """One row per token, with how many tokens its completion has left."""
    left = np.repeat(completions.offsets[1:], completions.lengths) - np.arange(len(completions.values))
    return pl.DataFrame({"token": completions.values, "left": left.astype(np.uint32)})


def polars_ngrams(frame: pl.DataFrame, n: int) -> pl.LazyFrame:
    """All n-grams, one a row and one token a column."""
    shifted = [pl.col("token").shift(-i).alias(str(i)) for i in range(n)]
    return frame.lazy().select(*shifted, "left").filter(pl.col("left") >= n).drop("left")
