"""Statistics of n-grams: how many are different, how evenly they are used, and which are the most frequent."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from esscher import _core
from esscher.diversity.arguments import as_orders, as_weights, check_order
from esscher.groups import as_groups
from esscher.ragged import as_token_ids, pieces_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from esscher.ragged import Masked, Ragged


class NgramStatistics(NamedTuple):
    """What n-grams say of the diversity of each group, by order [len(orders), P]; NaN where there is no answer.

    `distinct` and `rarefied` are shares, `entropy` is in nats. `rarefied` is NaN where no subsample was asked for.
    """

    distinct: NDArray[np.float64]
    entropy: NDArray[np.float64]
    rarefied: NDArray[np.float64]


class TopNgrams(NamedTuple):
    """The most frequent n-grams [k, n] and how often each occurs [k], most frequent first.

    With weights, `weights` [k] are the sums over all occurrences, largest first.
    """

    token_ids: NDArray[np.uint32]
    counts: NDArray[np.int64]
    weights: NDArray[np.float64] | None = None


def ngram_statistics(
    token_ids: Ragged | Masked,
    orders: Sequence[int],
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    subsample: int | None = None,
    *,
    threads: int | None = None,
) -> NgramStatistics:
    r"""Return distinct-n, entropy and rarefied distinct-n of each group, for all orders in one pass.

    An n-gram g that occurs c times, in d of the group's N completions, is one of T n-grams. Without weights:

    - distinct: the number of different n-grams over T;
    - entropy: ``log T - sum_g c log c / T``;
    - rarefied to m completions: m of the N are drawn without replacement. The expected number of different n-grams,
      ``sum_g 1 - C(N - d, m) / C(N, m)``, over the expected number of n-grams, ``m T / N``. It does not depend on how
      many completions there are, which distinct does; m = N gives distinct.

    With weights w, and the mass ``sum_i w_i c_i`` of an n-gram over completions i:

    - distinct: the weights are scaled by ``sum w / sum w^2``. They then add up to the effective sample size, and equal
      ones are 1; ``sum_g min(1, mass) / sum_g mass``. It is distinct-n of about as many completions as the weights
      are worth, so two sets of weights compare only where these are alike; else compare rarefied ones;
    - entropy: that of ``mass / sum_g mass``;
    - rarefied: each set of m different completions counts by the product of its weights, so that
      ``C(N - d, m) / C(N, m)`` becomes ``e_m(weights without g) / e_m(weights)`` with the elementary symmetric
      polynomial ``e_m``. Its error grows where weights are concentrated, and so does a bias towards the unweighted
      value, of about one over the effective sample size: NaN where m exceeds that.

    Parameters
    ----------
    token_ids
        Completions as integers; of `Masked` ones what is kept, and no n-gram spans a gap.
    orders
        Lengths of n-grams, each at least 1.
    groups
        Offsets of completions that belong together [P + 1]; all are one group if not given.
    weights
        One a completion [N], relative to its group: finite and at least 0. A completion of weight 0 is as if it were
        not there. Equal weights are as none: `distinct` to the last bit, the others but for rounding.
    subsample
        The m of `rarefied`, at least 1; at most 8 with weights.
    threads
        How many threads to use; all cores if not given. The result does not depend on it.

    Returns
    -------
    Arrays [len(orders), P]; NaN for a group without n-grams, without weight, or of fewer than m completions.

    Raises
    ------
    ValueError
        If an order or `subsample` is out of its range, `groups` are no offsets, or a weight is negative or not finite.
    TypeError
        If `token_ids` are not integers, or `weights` no numbers.

    References
    ----------
    Li, Galley, Brockett, Gao, Dolan, "A Diversity-Promoting Objective Function for Neural Conversation Models", 2016,
    arXiv:1510.03055.
    Hurlbert, "The Nonconcept of Species Diversity: A Critique and Alternative Parameters", Ecology 1971,
    doi:10.2307/1934145 (rarefaction).

    Examples
    --------
    >>> from esscher import Ragged
    >>> completions = Ragged.from_rows([[1, 2, 1, 2], [1, 2], [3, 4]])
    >>> said = ngram_statistics(completions, [1, 2], subsample=1)
    >>> said.distinct
    array([[0.5],
           [0.6]])
    >>> said.rarefied
    array([[0.75],
           [0.8 ]])
    >>> ngram_statistics(completions, [1], weights=[1, 1, 0]).entropy.round(6)
    array([[0.693147]])
    """
    lengths = as_orders(list(orders)).tolist()
    rows = as_token_ids("token_ids", token_ids, or_masked=True)
    borders = as_groups(groups, len(rows))
    if subsample is not None and subsample < 1:
        raise ValueError(f"subsample is {subsample}: draw at least 1 completion")
    relative = None if weights is None else as_weights(weights, len(rows))
    said = _core.ngram_statistics(rows.values, rows.layout, borders.offsets, lengths, relative, subsample, threads)
    shape = (len(lengths), len(borders.sizes))
    rarefied = np.full(shape, np.nan) if said[2] is None else said[2].reshape(shape)
    return NgramStatistics(said[0].reshape(shape), said[1].reshape(shape), rarefied)


def distinct(
    token_ids: Ragged | Masked,
    n: int | Sequence[int],
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    *,
    threads: int | None = None,
) -> NDArray[np.float64]:
    """Return distinct-n: the number of different n-grams over the number of n-grams.

    N-grams never cross a completion's border. Ask for several n at once: all are counted in one pass, which costs
    little more than the longest alone.

    Parameters
    ----------
    token_ids
        Completions as integers; of `Masked` ones what is kept, and no n-gram spans a gap.
    n
        Length of the n-grams, at least 1, or several such lengths.
    groups
        Offsets of completions that belong together [P + 1]; all are one group if not given. ``np.arange(N + 1)`` makes
        each of N completions its own.
    weights
        One a completion [N], as in `ngram_statistics`.
    threads
        How many threads to use; all cores if not given. The result does not depend on it.

    Returns
    -------
    One share per group [P], in (0, 1]; NaN for a group without n-grams. For several n, one row for each [len(n), P].

    Raises
    ------
    ValueError
        If `n` is below 1, `groups` are no offsets, or a weight is negative or not finite.
    TypeError
        If `token_ids` are not integers, or `weights` no numbers.

    References
    ----------
    Li, Galley, Brockett, Gao, Dolan, "A Diversity-Promoting Objective Function for Neural Conversation Models", 2016,
    arXiv:1510.03055.

    Examples
    --------
    >>> from esscher import Ragged
    >>> distinct(Ragged.from_rows([[1, 2, 1, 2], [1, 2]]), 2)
    array([0.5])
    >>> distinct(Ragged.from_rows([[1, 2, 1, 2], [1, 2]]), range(2, 4))
    array([[0.5],
           [1. ]])
    >>> distinct(Ragged.from_rows([[1, 2, 1, 2], [1, 2]]), 2, weights=[0, 1])
    array([1.])
    """
    orders = as_orders(n)
    if weights is not None:
        said = ngram_statistics(token_ids, orders.ravel().tolist(), groups, weights, threads=threads)
        return said.distinct.reshape(*orders.shape, said.distinct.shape[1])
    rows = as_token_ids("token_ids", token_ids, or_masked=True)
    borders = as_groups(groups, len(rows))
    shares = _core.distinct(rows.values, rows.layout, borders.offsets, orders.ravel().tolist(), threads)
    return shares.reshape(*orders.shape, len(borders.sizes))


def distinct_without_each(
    token_ids: Ragged | Masked, n: int | Sequence[int], groups: ArrayLike, *, threads: int | None = None
) -> NDArray[np.float64]:
    """Return distinct-n of all completions but those of one group, for each group, in one pass.

    It says how much a prompt adds to the diversity of a corpus, and gives the jackknife its replicates.

    Parameters
    ----------
    token_ids
        Completions as integers; of `Masked` ones what is kept, and no n-gram spans a gap.
    n
        Length of the n-grams, at least 1, or several such lengths.
    groups
        Offsets of completions that belong together [P + 1].
    threads
        How many threads to use; all cores if not given. The result does not depend on it.

    Returns
    -------
    One share per group [P]; NaN where the others have no n-grams. For several n, one row for each [len(n), P].

    Raises
    ------
    ValueError
        If `n` is below 1, or `groups` are no offsets.
    TypeError
        If `token_ids` are not integers.

    Examples
    --------
    >>> from esscher import Ragged
    >>> completions = Ragged.from_rows([[1, 2], [1, 2], [3, 3, 3, 3]])
    >>> distinct(completions, 1), distinct_without_each(completions, 1, groups=[0, 2, 3])
    (array([0.375]), array([0.25, 0.5 ]))
    """
    orders = as_orders(n)
    rows = as_token_ids("token_ids", token_ids, or_masked=True)
    borders = as_groups(groups, len(rows))
    shares = _core.distinct_without_each(rows.values, rows.layout, borders.offsets, orders.ravel().tolist(), threads)
    return shares.reshape(*orders.shape, len(borders.sizes))


def ngram_entropy(
    token_ids: Ragged | Masked, n: int, groups: ArrayLike | None = None, weights: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return the entropy of each group's distribution of n-grams [P], in nats; see `ngram_statistics`.

    Examples
    --------
    >>> from esscher import Ragged
    >>> ngram_entropy(Ragged.from_rows([[1, 2], [1, 2], [3, 4, 3]]), 2, groups=[0, 2, 3]).round(6)
    array([0.      , 0.693147])
    """
    return ngram_statistics(token_ids, [n], groups, weights).entropy.reshape(-1)


def rarefied_distinct(
    token_ids: Ragged | Masked,
    n: int,
    subsample: int,
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return distinct-n of `subsample` completions of each group [P]: expected different n-grams over expected n-grams.

    Distinct-n falls with the number of completions; this does not, so it compares groups of different sizes. See
    `ngram_statistics`.

    Examples
    --------
    >>> from esscher import Ragged
    >>> copies = Ragged.from_rows([[1, 2]] * 2 + [[1, 2]] * 6)
    >>> distinct(copies, 1, groups=[0, 2, 8]).round(6)
    array([0.5     , 0.166667])
    >>> rarefied_distinct(copies, 1, subsample=2, groups=[0, 2, 8])
    array([0.5, 0.5])
    """
    return ngram_statistics(token_ids, [n], groups, weights, subsample).rarefied.reshape(-1)


def repetition(token_ids: Ragged | Masked, n: int) -> NDArray[np.float64]:
    """Return the share of each completion's n-grams that it had before [N]: 1 - its distinct-n.

    The negative of the reward that TRL's ``get_repetition_penalty_reward`` gives at a ``max_penalty`` of -1. NaN for a
    completion of fewer than `n` tokens, for which TRL gives 0.

    Raises
    ------
    ValueError
        If `n` is below 1.
    TypeError
        If `token_ids` are not integers.

    Examples
    --------
    >>> from esscher import Ragged
    >>> repetition(Ragged.from_rows([[1, 1, 1, 1, 1], [1, 2, 3]]), 2)
    array([0.75, 0.  ])
    """
    check_order(n)
    return 1 - distinct(token_ids, n, np.arange(len(token_ids) + 1))


def ead(
    token_ids: Ragged | Masked, n: int, vocabulary_size: int, groups: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return expectation-adjusted distinct-n of each group [P]: different n-grams over those expected of chance.

    ``D / (V (1 - (1 - 1 / V)^C))`` for D different ones of C n-grams: the denominator is the number of different ones
    among C independent uniform draws from V. Unlike distinct-n, it does not fall as texts grow longer.

    Parameters
    ----------
    token_ids
        Completions as integers; of `Masked` ones what is kept, and no n-gram spans a gap.
    n
        Length of the n-grams, at least 1.
    vocabulary_size
        V, how many different n-grams there could be, at least 1: the vocabulary's size for n = 1, as in the paper.
    groups
        Offsets of completions that belong together [P + 1]; all are one group if not given.

    Returns
    -------
    At least 0; above 1 where n-grams repeat less than chance would have it. NaN for a group without n-grams.

    Raises
    ------
    ValueError
        If `n` or `vocabulary_size` is below 1, or `groups` are no offsets.
    TypeError
        If `token_ids` are not integers.

    References
    ----------
    Liu, Sabour, Zheng, Ke, Zhu, Huang, "Rethinking and Refining the Distinct Metric", ACL 2022,
    arXiv:2202.13587.

    Examples
    --------
    >>> from esscher import Ragged
    >>> ead(Ragged.from_rows([[1, 2, 1], [2]]), 1, vocabulary_size=2).round(6)
    array([1.066667])
    """
    check_order(n)
    if not vocabulary_size >= 1:  # NaN is not
        raise ValueError(f"vocabulary_size is {vocabulary_size}: a vocabulary has at least 1 entry")
    rows = as_token_ids("token_ids", token_ids, or_masked=True)
    borders = as_groups(groups, len(rows))
    pieces, of_rows = pieces_of(rows)
    totals = borders.sums(of_rows.sums(np.maximum(pieces.lengths - n + 1, 0))).astype(np.float64)
    # For V = 1 the logarithm is -inf, and one n-gram is expected, as it should be; the NaN of no n-grams is not used.
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = -vocabulary_size * np.expm1(totals * np.log1p(-1 / vocabulary_size))
    shares = distinct(rows, n, borders)
    adjusted = np.full(len(totals), np.nan)
    np.divide(shares * totals, expected, out=adjusted, where=totals > 0)
    return adjusted


def top_ngrams(
    token_ids: Ragged | Masked, n: int, k: int, weights: ArrayLike | None = None, *, threads: int | None = None
) -> TopNgrams:
    """Return the `k` most frequent n-grams of all completions, ties in order of appearance; weighted, up to rounding.

    Parameters
    ----------
    token_ids
        Completions as integers; of `Masked` ones what is kept, and no n-gram spans a gap.
    n
        Length of the n-grams, at least 1.
    k
        How many, at least 1.
    weights
        One a completion [N]: an occurrence counts as much as its completion, and n-grams without weight are left out.
    threads
        How many threads to use; all cores if not given. The result does not depend on it.

    Raises
    ------
    ValueError
        If `n` or `k` is below 1, or a weight is negative or not finite.
    TypeError
        If `token_ids` are not integers, or `weights` no numbers.

    Examples
    --------
    >>> from esscher import Ragged
    >>> top = top_ngrams(Ragged.from_rows([[1, 2, 1, 2], [7, 8]]), n=2, k=2)
    >>> top.token_ids.tolist(), top.counts.tolist()
    ([[1, 2], [2, 1]], [2, 1])
    >>> top = top_ngrams(Ragged.from_rows([[1, 2, 1, 2], [7, 8]]), n=2, k=1, weights=[0.25, 0.75])
    >>> top.token_ids.tolist(), top.counts.tolist(), top.weights.tolist()
    ([[7, 8]], [1], [0.75])
    """
    check_order(n)
    if k < 1:
        raise ValueError(f"k is {k}: ask for at least 1 n-gram")
    rows = as_token_ids("token_ids", token_ids, or_masked=True)
    masses = None
    if weights is None:
        starts, counts = _core.top_ngrams(rows.values, rows.layout, n, k, threads)
    else:
        relative = as_weights(weights, len(rows))
        starts, counts, masses = _core.top_weighted_ngrams(rows.values, rows.layout, relative, n, k, threads)
    found = rows.values[starts[:, None] + np.arange(n)] if len(starts) else np.empty((0, n), np.uint32)
    return TopNgrams(found, counts, masses)
