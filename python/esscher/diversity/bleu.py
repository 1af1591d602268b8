"""Self-BLEU, of token ids and, as other tools compute it, of texts."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal

import numpy as np

from esscher import _core
from esscher.diversity.arguments import check_order, check_texts
from esscher.diversity.mteval import tokenise
from esscher.groups import Groups, as_groups
from esscher.ragged import Ragged, as_token_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from esscher.ragged import Masked


Smoothing = Literal["none", "method1", "exp"]
Preset = Literal["nltk", "sacrebleu", "gdc", "fast-bleu"]
# The preset "gdc" compares the first texts only.
GDC_TEXTS = 500


def self_bleu(
    token_ids: Ragged | Masked,
    n: int = 4,
    groups: ArrayLike | None = None,
    smoothing: Smoothing = "none",
    *,
    threads: int | None = None,
) -> NDArray[np.float64]:
    """Return self-BLEU: the mean over a group's completions of BLEU-n against all its other completions.

    Equal to NLTK's ``sentence_bleu`` of each completion with the others as references, at a cost linear in the tokens:
    the higher, the less diverse.

    Parameters
    ----------
    token_ids
        Completions as integers; of `Masked` ones what is kept is one sentence, and no n-gram spans a gap.
    n
        Longest n-gram that counts, at least 1; orders 1 to n weigh the same.
    groups
        Offsets of completions that belong together [P + 1]; all are one group if not given.
    smoothing
        What a precision of 0 counts as: "none", the smallest normal double (NLTK's method0); "method1", 0.1 matches;
        "exp", 1/2 match for the first order without matches, 1/4 for the next, and so on, where orders that a
        completion is too short for do not count (sacreBLEU's default with its effective order).
    threads
        How many threads to use; all cores if not given. The result does not depend on it.

    Returns
    -------
    One mean per group [P], in [0, 1]; NaN for a group of fewer than two completions.

    Raises
    ------
    ValueError
        If `n` is below 1, `groups` are no offsets, or `smoothing` is none of the above.
    TypeError
        If `token_ids` are not integers.

    References
    ----------
    Zhu, Lu, Zheng, Guo, Zhang, Wang, Yu, "Texygen: A Benchmarking Platform for Text Generation Models", SIGIR 2018,
    arXiv:1802.01886.

    Examples
    --------
    >>> from esscher import Ragged
    >>> self_bleu(Ragged.from_rows([[1, 2, 3], [1, 2, 4], [1, 2, 3]]), n=2).round(4)
    array([0.8591])
    """
    check_order(n)
    rows = as_token_ids("token_ids", token_ids, or_masked=True)
    return _core.self_bleu(rows.values, rows.layout, as_groups(groups, len(rows)).offsets, n, smoothing, threads)


def self_bleu_of_texts(
    texts: Sequence[str],
    preset: Preset = "nltk",
    groups: ArrayLike | None = None,
    n: int | None = None,
    smoothing: Literal["none", "method1"] | None = None,
) -> NDArray[np.float64]:
    """Return self-BLEU of texts as another tool computes it, its quirks included.

    - "nltk": words between white space, BLEU-4, no smoothing unless asked for.
    - "fast-bleu": the same formula. That package's own scores can differ, as it can read past the end of a buffer.
    - "sacrebleu": what HELM logs: tokens by mteval-v13a's rules, "exp" smoothing with effective order, from 0 to 100;
      blank texts are left out. HELM gives 0 to fewer than two texts; here they have no self-BLEU.
    - "gdc": what ``SelfBlEU`` of naver/gdc logs: BLEU-3 of *characters*, since strings are passed where lists of tokens
      are meant, with "method1" smoothing, of the first 500 texts of each group.

    Parameters
    ----------
    texts
        Completions as text.
    preset
        The tool: "nltk", "sacrebleu", "gdc" or "fast-bleu".
    groups
        Offsets of texts that belong together [P + 1]; all are one group if not given.
    n
        Longest n-gram that counts, at least 1; the tool's own default if not given. GDC's papers report 3, 4 and 5.
    smoothing
        "none" or "method1" as in `self_bleu`, for the presets "nltk" and "fast-bleu"; the others have their own.

    Returns
    -------
    One mean per group [P]; NaN for a group of fewer than two texts.

    Raises
    ------
    ValueError
        If `n` is below 1, `groups` are no offsets, or `preset` or `smoothing` is none of the above.
    TypeError
        If a text is not a string, or `texts` is a single one.

    References
    ----------
    Post, "A Call for Clarity in Reporting BLEU Scores", WMT 2018, arXiv:1804.08771 (sacreBLEU).
    Liang et al., "Holistic Evaluation of Language Models", 2022, arXiv:2211.09110 (HELM).
    Khalifa, Elsahar, Dymetman, "A Distributional Approach to Controlled Text Generation", ICLR 2021,
    arXiv:2012.11635 (GDC).

    Examples
    --------
    >>> texts = ["the cat sat here", "the cat sat there", "the dog sat here"]
    >>> self_bleu_of_texts(texts, "nltk", n=2).round(4)
    array([0.7357])
    >>> self_bleu_of_texts(texts, "sacrebleu").round(2)
    array([55.18])
    """
    check_texts(texts)
    borders = as_groups(groups, len(texts))
    if preset in ("nltk", "fast-bleu"):
        return self_bleu(_numbered(texts, str.split), 4 if n is None else n, borders, smoothing or "none")
    if smoothing is not None:
        raise ValueError(f"smoothing is {smoothing!r}: the preset {preset!r} has its own, so leave it out")
    if preset == "sacrebleu":
        kept = np.array([bool(text.strip()) for text in texts], dtype=bool)
        words = _numbered(list(itertools.compress(texts, kept)), lambda text: tokenise(text.strip()))
        return 100 * self_bleu(words, 4 if n is None else n, _borders_of(kept, borders), "exp")
    if preset == "gdc":
        kept = borders.place < GDC_TEXTS
        characters = _numbered(list(itertools.compress(texts, kept)), list)
        return self_bleu(characters, 3 if n is None else n, _borders_of(kept, borders), "method1")
    raise ValueError(f"preset is {preset!r}: it must be one of nltk, sacrebleu, gdc, fast-bleu")


def _numbered(texts: Iterable[str], tokens_of: Callable[[str], list[str]]) -> Ragged:
    """Texts as rows of token ids, by order of appearance."""
    numbers: dict[str, int] = {}
    rows = [[numbers.setdefault(token, len(numbers)) for token in tokens_of(text)] for text in texts]
    flat = np.fromiter(itertools.chain.from_iterable(rows), np.uint32)
    return Ragged.from_lengths(flat, np.array([len(row) for row in rows], dtype=np.int64))


def _borders_of(kept: NDArray[np.bool_], borders: Groups) -> Groups:
    """Offsets of the groups of those items that are kept."""
    return Groups.from_sizes(borders.sums(kept))
