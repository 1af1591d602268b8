"""What readers make of blocks of a tool's file, as one table: of one schema, in blocks of one size."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np  # noqa: TC002 - the record's type is read by tools
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations
import pyarrow.compute as pc  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files.columns import is_json
from esscher.files.masks import MASK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray


# As much as a block of a thousand rows of a thousand tokens has: smaller files are converted once.
HELD_BYTES = 64 * 2**20
# A mask that leaves nothing out in the whole file is not kept.


class Converted(NamedTuple):
    """Samples that a block of a tool's file holds.

    Attributes
    ----------
    table
        A row for each, in our columns, and what else the file says of it.
    rows
        Which row of the block each is from.
    rewards
        What the columns of single rewards are called.
    left_out
        Why rows are no samples, and how many.
    """

    table: pa.Table
    rows: NDArray[np.int64]
    rewards: tuple[str, ...]
    left_out: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Found:
    """What all blocks of a tool's file hold; `held` is all of it, where that is no more than a block may be."""

    schema: pa.Schema
    count: int
    rewards: tuple[str, ...]
    left_out: dict[str, int]
    held: pa.Table | None


def look_through(blocks: Iterable[Converted]) -> Found:
    """Return the columns and the number of samples of all blocks, holding one at a time and what is little."""
    schema, count = pa.schema([]), 0
    rewards: dict[str, None] = {}
    left_out: Counter[str] = Counter()
    held: list[pa.Table] | None = []
    has_gaps = False
    for table, _, names, out in blocks:
        if len(table):
            schema = table.schema.remove_metadata() if count == 0 else joined(schema, table.schema)
        count += len(table)
        rewards |= dict.fromkeys(names)
        left_out.update(out)
        has_gaps = has_gaps or _has_gaps(table)
        if held is not None:
            held.append(table)
            held = held if sum(one.nbytes for one in held) <= HELD_BYTES else None
    if not has_gaps:
        schema = pa.schema([field for field in schema if field.name != MASK])
    whole = None if not held or count == 0 else pa.concat_tables([conformed(table, schema) for table in held])
    return Found(schema, count, tuple(rewards), dict(left_out), whole)


def _has_gaps(table: pa.Table) -> bool:
    if MASK not in table.column_names:
        return False
    return not pc.all(pa.chunked_array([chunk.flatten() for chunk in table.column(MASK).chunks], pa.bool_())).as_py()


def joined(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    """Return a schema that holds rows of two; what is of no one type is JSON.

    Examples
    --------
    >>> joined(pa.schema({"x": pa.int64()}), pa.schema({"x": pa.string(), "y": pa.bool_()}))
    x: extension<arrow.json>
    y: bool
    """
    types = {field.name: field.type for field in one}
    for field in other:
        types[field.name] = _unified(types.get(field.name, pa.null()), field.type)
    return pa.schema(list(types.items()))


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the columns of a schema: those of a table, in its types, and nulls where it has none."""
    return pa.table([_column(table, field) for field in schema], schema=schema)


def of_size(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """Join batches of any sizes into tables of one size and what is left."""
    waiting: list[pa.RecordBatch] = []
    held = 0
    for batch in batches:
        rest = batch
        while held + len(rest) >= size:
            yield pa.Table.from_batches([*waiting, rest.slice(0, size - held)])
            rest, waiting, held = rest.slice(size - held), [], 0
        if len(rest):
            waiting.append(rest)
            held += len(rest)
    if waiting:
        yield pa.Table.from_batches(waiting)


def batches_of(tables: Iterable[pa.Table]) -> Iterator[pa.RecordBatch]:
    """Return the batches of tables, one after the other."""
    return chain.from_iterable(table.to_batches() for table in tables)


def _column(table: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    if field.name not in table.column_names:
        return pa.chunked_array([pa.nulls(len(table), field.type)])
    column = table.column(field.name)
    if column.type == field.type:
        return column
    if is_json(field.type):
        return pa.chunked_array([as_json(column.to_pylist())])
    return column.cast(field.type)


def as_json(values: Sequence[Any]) -> pa.Array:
    """Return values of any types as a column of JSON.

    Examples
    --------
    >>> as_json([1, "x", None]).to_pylist()
    ['1', '"x"', None]
    """
    texts = [None if value is None else json.dumps(value) for value in values]
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))


def _unified(one: Any, other: Any) -> Any:
    if one == other:
        return one
    schemas = [pa.schema([("x", kind)]) for kind in (one, other)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
    except pa.ArrowException:
        return pa.json_()
