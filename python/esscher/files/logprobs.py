"""Two columns of log-probs of the same tokens, as files hold them: for comparing the engines that made them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files import columns as arrow
from esscher.files.formats import load
from esscher.ragged import Ragged, counts_within

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from esscher.ragged import Offsets

PROMPTS = ("prompt_id", "prompt_token_ids")
TERMINATED, TOKEN_IDS = "terminated", "token_ids"


class Trainer(NamedTuple):
    """What a trainer calls the two columns, and the mask of the tokens that it trains on."""

    train: str
    rollout: str
    mask: str | None


# Ours, NeMo-RL's and prime-rl's.
TRAINERS = (
    Trainer("policy_logprobs", "rollout_logprobs", None),
    Trainer("prev_logprobs", "generation_logprobs", "token_loss_mask"),
    Trainer("trainer_logprobs", "inference_logprobs", "loss_mask"),
)


class LogprobColumns(NamedTuple):
    """Log-probs as two engines recorded them, in nats, null as NaN; rows are completions, grouped by prompt.

    ``groups`` and ``terminated`` are `None` where the files do not tell.
    """

    train: Ragged
    rollout: Ragged
    groups: Offsets | None
    terminated: NDArray[np.bool_] | None


def read_logprobs(paths: Sequence[Path], train: str | None = None, rollout: str | None = None) -> LogprobColumns:
    """Read two columns of log-probs as they are: no value is refused, a null is NaN, a null row is empty.

    Where a file has a trainer's mask of the tokens that count, only these are read. Rows are grouped by `prompt_id` and
    `prompt_token_ids`, or by the tokens before the mask's first.

    Parameters
    ----------
    paths
        Parquet (.parquet) or JSON lines (.jsonl), at least one.
    train, rollout
        What the columns are called; by default as one of `TRAINERS` calls them.

    Raises
    ------
    FileNotFoundError
        If a file is not there.
    ValueError
        If a file is not whole, lacks a column, or a column holds something else than numbers.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> row = '{"policy_logprobs": [-0.5, -1.0], "rollout_logprobs": [-0.5, null]}'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "rows.jsonl")
    ...     _ = path.write_text(row)
    ...     read_logprobs([path]).rollout.values
    array([-0.5,  nan])
    """
    tables = [load(path) for path in paths]
    names = _names(paths[0], tables[0].column_names, train, rollout)
    wanted = [name for name in (*names, *PROMPTS, TERMINATED, TOKEN_IDS) if name in tables[0].column_names]
    for path, table in zip(paths, tables, strict=True):
        for name in wanted:
            if name not in table.column_names:
                raise ValueError(f"{path} has no column {name!r}, {paths[0]} has: files read together must agree")
    try:
        table = pa.concat_tables([table.select(wanted) for table in tables], promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(f"{paths[0]} and the files after it have columns of different types: {error}") from error
    return _grouped(_columns(table, names), table, names)


def _names(path: Path, there: list[str], train: str | None, rollout: str | None) -> Trainer:
    known = next((t for t in TRAINERS if {t.train, t.rollout} <= set(there)), TRAINERS[0])
    mask = known.mask if known.mask in there else None
    names = Trainer(train or known.train, rollout or known.rollout, mask)
    for name, option in ((names.train, "--train"), (names.rollout, "--rollout")):
        if name not in there:
            raise ValueError(
                f"{path} has no column {name!r}. It has: {', '.join(there)}. Say which holds these log-probs: {option} "
                "COLUMN"
            )
    return names


def _columns(table: pa.Table, names: Trainer) -> LogprobColumns:
    train, rollout = (arrow.raw_numbers(name, table.column(name)) for name in (names.train, names.rollout))
    if names.mask is not None:
        mask = arrow.raw_numbers(names.mask, table.column(names.mask))
        train, rollout = _masked(names.train, train, mask), _masked(names.rollout, rollout, mask)
    terminated = None
    if TERMINATED in table.column_names and not table.column(TERMINATED).null_count:
        terminated = arrow.booleans(TERMINATED, table.column(TERMINATED))
    return LogprobColumns(train, rollout, None, terminated)


def _masked(name: str, column: Ragged, mask: Ragged) -> Ragged:
    differ = np.flatnonzero(column.lengths != mask.lengths)
    if len(differ):
        i = int(differ[0])
        raise ValueError(
            f"column {name!r}, row {i} has {column.lengths[i]} values, its mask {mask.lengths[i]}: they must agree "
            "(rows count from 0)"
        )
    keep = mask.values == 1
    lengths = np.diff(np.concatenate([np.zeros(1, np.int64), np.cumsum(keep)])[mask.offsets])
    return Ragged.from_lengths(column.values[keep], lengths)


def _grouped(columns: LogprobColumns, table: pa.Table, names: Trainer) -> LogprobColumns:
    codes = _prompt_codes(table, names)
    if codes is None:
        return columns
    order = np.argsort(codes, kind="stable")
    sizes = np.unique(codes, return_counts=True)[1]
    return LogprobColumns(
        columns.train.take(order),
        columns.rollout.take(order),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
        None if columns.terminated is None else columns.terminated[order],
    )


def _prompt_codes(table: pa.Table, names: Trainer) -> NDArray[np.int64] | None:
    """Give rows of one prompt an equal number; `None` if the table does not tell prompts."""
    codes = []
    if "prompt_id" in table.column_names:
        codes.append(arrow.codes("prompt_id", table.column("prompt_id")))
    if "prompt_token_ids" in table.column_names:
        codes.append(arrow.row_codes(arrow.token_ids("prompt_token_ids", table.column("prompt_token_ids"))))
    elif not codes and names.mask is not None and TOKEN_IDS in table.column_names:
        codes.append(arrow.row_codes(_before_mask(table, names.mask)))
    if not codes:
        return None
    both = Ragged.from_padded(np.stack([codes[0], codes[-1]], axis=1), lengths=np.full(len(table), 2))
    return arrow.row_codes(both)


def _before_mask(table: pa.Table, name: str) -> Ragged:
    """Return the token ids before the first that the mask keeps: the prompt."""
    ids = arrow.raw_numbers(TOKEN_IDS, table.column(TOKEN_IDS))
    mask = arrow.raw_numbers(name, table.column(name))
    within = counts_within(mask.lengths)
    first = [int(within[a:b][mask.values[a:b] == 1].min(initial=b - a)) for a, b in _bounds(mask)]
    lengths = np.minimum(first, ids.lengths)
    places = np.repeat(ids.offsets[:-1], lengths) + counts_within(lengths)
    return Ragged.from_lengths(ids.values[places].astype(np.int64), lengths)


def _bounds(rows: Ragged) -> list[tuple[int, int]]:
    return list(zip(rows.offsets[:-1].tolist(), rows.offsets[1:].tolist(), strict=True))
