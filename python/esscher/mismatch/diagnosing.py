"""`mismatch`: two columns in, a report out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from esscher import _core
from esscher.groups import Groups, as_groups, as_integers
from esscher.mismatch import causes, pattern_causes
from esscher.mismatch.alignment import Alignment, Pairs, align, fitting_scale
from esscher.mismatch.ends_and_noise import last_tokens, noise
from esscher.mismatch.findings import Cause, Coverage, MismatchReport, PerToken
from esscher.mismatch.kept_mass import kept_mass
from esscher.mismatch.temperature import temperature, within_contexts
from esscher.mismatch.units import BASES, find_scale, find_shapes, marginal_ratio
from esscher.mismatch.values import (
    FLOAT32,
    as_raw,
    count_values,
    find_grid,
    find_missing,
    find_padding,
    find_sentinels,
    is_rounding,
    rounding_of,
)
from esscher.mismatch.verl_metrics import metrics_of
from esscher.mismatch.wrong_rows import find_exchanged, find_other_rows
from esscher.ragged import Ragged

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from esscher.mismatch.findings import Column
    from esscher.mismatch.values import Grid
    from esscher.ragged import Masked

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]
    Mask = NDArray[np.bool_]


class _Grids(NamedTuple):
    train: Grid | None
    rollout: Grid | None


def mismatch(
    train_logprobs: Ragged | Masked,
    rollout_logprobs: Ragged | Masked,
    groups: ArrayLike | None = None,
    terminated: ArrayLike | None = None,
    row_numbers: ArrayLike | None = None,
) -> MismatchReport:
    """Compare the log-probs of the engine that sampled with those of the engine that trains, and name what differs.

    Columns are taken as they were recorded: a positive value, NaN, -inf or a constant that was filled in is a cause
    with a name, and its tokens are left out of the metrics. So are rows of unequal length, which are laid side by side
    as far as they go. With r = l_train - l_rollout of a token, ``kl = -mean r``; the other metrics are those of verl,
    with unclamped ones beside them: see `Metrics`.

    Parameters
    ----------
    train_logprobs
        Log-prob of every completion token under the engine that trains, in nats, a row for each of N completions; of
        `Masked` ones what is kept.
    rollout_logprobs
        The same under the engine that sampled, as it reported it.
    groups
        Offsets of the completions that share a prompt [P + 1]. Give them if you can: tokens that were sampled in one
        context tell a temperature exactly, and standard errors are clustered by prompt.
    terminated
        Whether each completion ended by itself [N].
    row_numbers
        What to call each completion where it is named [N], as by its row in a file; from 0 up by default.

    Raises
    ------
    ValueError
        If there are no completions, the columns have different numbers of them, or `groups`, `terminated` or
        `row_numbers` do not fit them.
    TypeError
        If a column is not `Ragged` or holds no numbers, or `terminated` no booleans.

    References
    ----------
    Metrics: verl 0.7, ``verl/trainer/ppo/rollout_corr_helper.py``. Pareto k: Vehtari, Simpson, Gelman, Yao, Gabry,
    "Pareto smoothed importance sampling", JMLR 2024, arXiv:1507.02646.

    Examples
    --------
    A rollout that sampled with top_p = 0.9 and reported log-probs renormalised after it:

    >>> import numpy as np
    >>> from esscher import Ragged
    >>> train = Ragged.from_rows(-np.random.default_rng(0).exponential(1.5, size=(8, 10)))
    >>> rollout = Ragged(train.values - np.log(0.9), train.offsets)
    >>> report = mismatch(train, rollout)
    >>> report.names, round(report.causes[0].estimate, 3), round(report.metrics.kl.value, 3)
    (('kept-mass',), 0.9, 0.105)
    """
    train, rollout = as_raw("train_logprobs", train_logprobs), as_raw("rollout_logprobs", rollout_logprobs)
    _check_rows(train, rollout)
    known_groups = as_groups(groups, len(train))
    ended = _terminated(terminated, len(train))
    numbers = _numbers(row_numbers, len(train))
    found: list[Cause] = []
    train, rollout = _as_logprobs(train, rollout, known_groups, found)
    scale = fitting_scale(train, rollout, marginal_ratio(train, rollout))
    alignment = align(train, rollout, scale)
    if not alignment.nearly_all_shifted:
        rollout = _put_back(train, rollout, known_groups, scale, numbers, found)
        alignment = align(train, rollout, scale)
    _tell_alignment(train, rollout, alignment, found)
    pairs = _without_missing(alignment.pairs, found)
    grids = _tell_grids(train, rollout, found)
    whole = train.lengths == rollout.lengths
    pairs = _in_nats(pairs, whole, found)
    if len(pairs.row):
        others = find_other_rows(pairs, whole)
        if others is not None:
            found.append(causes.other_rows(others, pairs, numbers))
        kept = pairs if others is None else pairs.where(~np.isin(pairs.row, others.rows))
        # Without groups, no two completions are known to share a prompt.
        prompts = Groups(np.arange(len(train) + 1)) if groups is None else known_groups
        found += _patterns(kept, grids, known_groups, prompts, ended)
    return MismatchReport(
        version=_core.__version__,
        clean=not found and len(pairs.row) > 0,
        causes=tuple(found),
        metrics=metrics_of(pairs, known_groups) if len(pairs.row) else None,
        counts=_coverage(train, rollout, pairs),
        per_token=PerToken(pairs.train, pairs.rollout, pairs.place),
    )


def _coverage(train: Ragged, rollout: Ragged, pairs: Pairs) -> Coverage:
    tokens = int(np.maximum(train.lengths, rollout.lengths).sum())
    return Coverage(
        completions=len(train),
        tokens=tokens,
        compared_completions=len(np.unique(pairs.row)),
        compared_tokens=len(pairs.row),
        left_out_tokens=tokens - len(pairs.row),
    )


def _check_rows(train: Ragged, rollout: Ragged) -> None:
    if len(train) != len(rollout):
        raise ValueError(
            f"train_logprobs has {len(train)} rows, rollout_logprobs {len(rollout)}: each has one for every "
            "completion. Join the two on the completion first, a row that one lacks can be empty"
        )
    if len(train) == 0:
        raise ValueError("train_logprobs and rollout_logprobs have no rows: there is no completion to compare")


def _terminated(terminated: Any, n: int) -> Mask | None:
    if terminated is None:
        return None
    array = np.asarray(terminated)
    if array.dtype.kind != "b":
        raise TypeError(f"terminated has dtype {array.dtype}: it must be booleans")
    if array.shape != (n,):
        raise ValueError(
            f"terminated has shape {array.shape}, but there are {n} completions: it has one entry for each"
        )
    return array


def _numbers(row_numbers: ArrayLike | None, n: int) -> Integers:
    if row_numbers is None:
        return np.arange(n)
    numbers = as_integers("row_numbers", row_numbers)
    if numbers.shape != (n,):
        raise ValueError(f"row_numbers has shape {numbers.shape}, but there are {n} completions: it has one for each")
    return numbers


def _as_logprobs(train: Ragged, rollout: Ragged, groups: Groups, found: list[Cause]) -> tuple[Ragged, Ragged]:
    """Read columns that hold something else as log-probs, put NaN for values that are none, and tell of both."""
    recorded: dict[Column, Ragged] = {"rollout": rollout, "train": train}
    read: dict[Column, Ragged] = {}
    for column, values in recorded.items():
        read[column], shapes = find_shapes(values, train if column == "rollout" else read["rollout"])
        found += (causes.shape(column, shape, len(values.values)) for shape in shapes)
    bad = {
        "rollout": find_sentinels(read["rollout"], read["train"], groups),
        "train": find_sentinels(read["train"], read["rollout"], groups),
    }
    for column, values in recorded.items():
        if bad[column].any():
            kinds = count_values(values.values[bad[column]])
            found.append(causes.sentinels(column, kinds, len(values.values)))
    return _with_nan(read["train"], bad["train"]), _with_nan(read["rollout"], bad["rollout"])


def _with_nan(column: Ragged, where: Mask) -> Ragged:
    return Ragged(np.where(where, np.nan, column.values), column.offsets)


def _put_back(
    train: Ragged, rollout: Ragged, groups: Groups, scale: float, numbers: Integers, found: list[Cause]
) -> Ragged:
    """Return the rollout's column with rows that fit another completion put there, and tell of them."""
    exchanged = find_exchanged(train, rollout, groups, scale)
    if exchanged is None:
        return rollout
    tokens = int(train.lengths[exchanged.rows].sum())
    found.append(causes.exchanged(exchanged, numbers, tokens, len(train.values)))
    order = np.arange(len(train))
    order[exchanged.rows] = exchanged.source
    return rollout.take(order)


def _in_nats(pairs: Pairs, whole: Mask, found: list[Cause]) -> Pairs:
    """Undo what all log-probs of a column were multiplied by, and tell of it; rows of another policy do not say."""
    others = find_other_rows(pairs, whole) if len(pairs.row) else None
    scale = find_scale(pairs if others is None else pairs.where(~np.isin(pairs.row, others.rows)))
    if scale is None:
        return pairs
    found.append(causes.scale(scale, pairs))
    if scale.in_train and scale.base is not None:
        return pairs._replace(train=pairs.train * BASES[scale.base])
    factor = 1.0 / scale.ratio if scale.base is None else BASES[scale.base]
    return pairs._replace(rollout=pairs.rollout * factor)


def _tell_alignment(train: Ragged, rollout: Ragged, alignment: Alignment, found: list[Cause]) -> None:
    tokens = int(np.maximum(train.lengths, rollout.lengths).sum())
    gaps = np.abs(train.lengths - rollout.lengths)
    empty: dict[Column, Mask] = {"rollout": rollout.lengths == 0, "train": train.lengths == 0}
    for column, rows in empty.items():
        absent = rows & (gaps > 0)
        if absent.any():
            found.append(causes.absent(column, int(absent.sum()), int(gaps[absent].sum()), tokens, len(train)))
            gaps[absent] = 0
    if gaps.any():
        found.append(causes.lengths(alignment.lengths, tokens, int(gaps.sum()), len(train)))
    found += (causes.shift(shift, tokens) for shift in alignment.shifts)


def _without_missing(pairs: Pairs, found: list[Cause]) -> Pairs:
    """Leave out tokens that have no two log-probs, and tell of zeros that were filled in."""
    pairs = pairs.where(~np.isnan(pairs.difference))
    gone = find_padding(pairs)
    if gone.any():
        found.append(causes.padding(gone, pairs))
    zeros: dict[Column, Mask] = {
        "rollout": find_missing(pairs, pairs.rollout, pairs.train),
        "train": find_missing(pairs, pairs.train, pairs.rollout),
    }
    for column, where in zeros.items():
        if where.any():
            found.append(causes.missing(column, where, pairs))
            gone |= where
    return pairs.where(~gone)


def _tell_grids(train: Ragged, rollout: Ragged, found: list[Cause]) -> _Grids:
    columns: dict[Column, Floats] = {"rollout": _recorded(rollout), "train": _recorded(train)}
    grids = {column: find_grid(values) for column, values in columns.items()}
    for column, grid in grids.items():
        if grid is not None:
            values = columns[column]
            length = len(values) / len(train)
            found.append(causes.rounding(column, grid, values, length, len(values)))
    return _Grids(grids["train"], grids["rollout"])


def _recorded(column: Ragged) -> Floats:
    values: Floats = column.values[~np.isnan(column.values)]
    return values


def _patterns(pairs: Pairs, grids: _Grids, groups: Groups, prompts: Groups, terminated: Mask | None) -> list[Cause]:
    """Name the pattern of the differences, ends of rows first: what they show is not in the others."""
    found: list[Cause] = []
    ends = last_tokens(pairs, terminated)
    if ends is not None:
        found.append(pattern_causes.last_tokens(ends, pairs))
        pairs = pairs.where(~pairs.last)
    # Twice what rounding to nearest does, for engines that cut digits off.
    rounding = rounding_of(pairs.train, grids.train) + rounding_of(pairs.rollout, grids.rollout)
    tolerance = FLOAT32 + 2 * rounding
    if is_rounding(pairs.difference, tolerance):
        return found
    contexts = within_contexts(pairs, prompts, tolerance)
    tempered = temperature(pairs, groups, contexts, tolerance)
    if tempered is not None:
        found.append(pattern_causes.temperature(tempered, pairs))
    kept = kept_mass(pairs, groups, tolerance, tempered is not None)
    if kept is not None:
        found.append(pattern_causes.kept_mass(kept, pairs))
    left = noise(pairs, contexts, tolerance, tempered, kept)
    if left is not None:
        found.append(pattern_causes.noise(left, pairs))
    return found
