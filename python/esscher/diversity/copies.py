"""Diversity as how much completions copy: unique ones, and what a compressor makes of all of them."""

from __future__ import annotations

import gzip
import io
import itertools
import zlib
from typing import TYPE_CHECKING

import numpy as np

from esscher.diversity.arguments import check_texts
from esscher.diversity.ngrams import distinct
from esscher.groups import as_groups
from esscher.ragged import Ragged, as_token_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from esscher.ragged import Masked

# Level 9 makes token ids 1 or 2 % smaller still, in three to five times the time.
LEVEL = 6
# The package writes the time into what it compresses again; any time of four different bytes costs about as much.
INNER_TIME = 0x6A5B4C3D


def unique_share(
    token_ids: Ragged | Masked, groups: ArrayLike | None = None, weights: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return the number of different completions of each group over the number of its completions [P].

    It is distinct-1 of completions that are one token each, and treats weights in the same way.

    Parameters
    ----------
    token_ids
        Completions as integers; of `Masked` ones what is kept.
    groups
        Offsets of completions that belong together [P + 1]; all are one group if not given.
    weights
        One a completion [N], as in `ngram_statistics`.

    Returns
    -------
    Shares in (0, 1]; NaN for a group without completions, or without weight.

    Raises
    ------
    ValueError
        If `groups` are no offsets, or a weight is negative or not finite.
    TypeError
        If `token_ids` are not integers, or `weights` no numbers.

    Examples
    --------
    >>> from esscher import Ragged
    >>> unique_share(Ragged.from_rows([[1, 2], [1, 2], [2, 1], [1, 2]]), groups=[0, 2, 4])
    array([0.5, 1. ])
    """
    rows = as_token_ids("token_ids", token_ids, or_masked=True).kept
    flat, borders = rows.values.tobytes(), (rows.offsets * rows.values.itemsize).tolist()
    numbers: dict[bytes, int] = {}
    which = [numbers.setdefault(flat[a:b], len(numbers)) for a, b in itertools.pairwise(borders)]
    single = Ragged(np.array(which, dtype=np.uint32), np.arange(len(rows) + 1))
    return distinct(single, 1, as_groups(groups, len(rows)), weights)


def compression_ratio(
    token_ids: Ragged | Masked, groups: ArrayLike | None = None, *, bytes_per_token: int | None = None
) -> NDArray[np.float64]:
    """Return how many times smaller zlib makes each group's completions [P]: the larger, the more they repeat.

    The ids of a group, one completion after the other and nothing between them, are written as little-endian integers
    of equal width and compressed once at level 6, zlib's own default: raw bytes over compressed bytes.

    Parameters
    ----------
    token_ids
        Completions as integers; of `Masked` ones what is kept.
    groups
        Offsets of completions that belong together [P + 1]; all are one group if not given.
    bytes_per_token
        1, 2 or 4. If not given, the fewest of them that hold the largest id of all groups. Wider integers compress
        better, so give it where ratios of several calls are compared.

    Returns
    -------
    Ratios, below 1 where there is little to compress; NaN for a group without tokens.

    Raises
    ------
    ValueError
        If `groups` are no offsets, or an id does not fit into `bytes_per_token`.
    TypeError
        If `token_ids` are not integers.

    References
    ----------
    Shaib, Barrow, Sun, Siu, Wallace, Nenkova, "Standardizing the Measurement of Text Diversity", 2024,
    arXiv:2403.00553.

    Examples
    --------
    >>> import numpy as np
    >>> from esscher import Ragged
    >>> same = np.tile(np.arange(50), 40)
    >>> mixed = np.random.default_rng(0).integers(0, 256, 2000)
    >>> ratios = compression_ratio(Ragged.from_rows([same, mixed]), groups=[0, 1, 2])
    >>> bool(ratios[0] > 20), bool(0.9 < ratios[1] < 1)
    (True, True)
    """
    rows = as_token_ids("token_ids", token_ids, or_masked=True).kept
    borders = rows.offsets[as_groups(groups, len(rows)).offsets]
    ids = rows.values.astype(f"<u{_width(rows.values, bytes_per_token)}")
    flat, ends = ids.tobytes(), (borders * ids.itemsize).tolist()
    return np.array([_ratio(memoryview(flat)[a:b]) for a, b in itertools.pairwise(ends)], dtype=np.float64)


def _width(ids: NDArray[np.uint32], asked: int | None) -> int:
    needed = next(width for width in (1, 2, 4) if int(ids.max(initial=0)) < 256**width)
    if asked is None:
        return needed
    if asked not in (1, 2, 4):
        raise ValueError(f"bytes_per_token is {asked}: it must be 1, 2 or 4")
    if asked < needed:
        i = int(np.argmax(ids >= 256**asked))
        raise ValueError(f"bytes_per_token is {asked}, but token {i} is {ids[i]}: it needs {needed}")
    return asked


def _ratio(raw: memoryview) -> float:
    return len(raw) / len(zlib.compress(raw, LEVEL)) if len(raw) else np.nan


def text_compression_ratio(texts: Sequence[str]) -> float:
    """Return the compression ratio of texts as the package ``diversity`` computes it (version 0.3.1, gzip).

    UTF-8 bytes of the texts, joined by spaces, over the size of the file in which the package writes them: it
    compresses twice, the second time to no avail, and counts the headers of both. It rounds to 3 digits; this does not.
    As it writes the time of day too, its files can differ by a byte or two from call to call.

    Raises
    ------
    TypeError
        If a text is not a string, or `texts` is a single one.

    References
    ----------
    Shaib, Barrow, Sun, Siu, Wallace, Nenkova, "Standardizing the Measurement of Text Diversity", 2024,
    arXiv:2403.00553.

    Examples
    --------
    >>> text_compression_ratio(["the same words again"] * 100) > 20
    True
    """
    check_texts(texts)
    raw = " ".join(texts).encode()
    file = io.BytesIO()
    # The name of the package's file, which the format keeps.
    with gzip.GzipFile("compressed.gz", "wb", fileobj=file, mtime=0) as compressed:
        compressed.write(gzip.compress(raw, mtime=INNER_TIME))
    return len(raw) / len(file.getvalue())
