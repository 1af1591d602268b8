"""Samples in files: Parquet and JSON lines, in and out.

One row is one completion. The columns, all but the first two optional:

====================  =================  ===========================================
column                type               what it is
====================  =================  ===========================================
prompt_token_ids      list<uint32>       the prompt's token ids
completion_token_ids  list<uint32>       the completion's token ids
prompt_id             string or integer  which prompt; without, equal tokens are one
policy_logprobs       list<float32>      log-prob of each completion token, in nats
prior_logprobs        list<float32>      the same under the prior
token_kl              list<float32>      full-vocabulary KL at each token, in nats
policy_entropy        list<float32>      full-vocabulary entropy at each token
reward                double             finite or -inf
terminated            bool               whether the completion ended by itself
====================  =================  ===========================================

Columns of any other name are kept as they are. An optional column of nothing but nulls counts as not there.

JSON lines are valid JSON, so infinities are written as the numbers ``1e999`` and ``-1e999``, which overflow to them
in any reader of doubles; `read` takes these back, and the literals ``Infinity`` and ``-Infinity`` that Python writes.
NaN has no such number: a table that holds one is written as Parquet.

`read` holds all rows of a file; `scan` and `read_blocks` read one of any size a block at a time, and `write_blocks`
writes it so.
"""

from esscher.files.blocks import (
    Block,
    Rows,
    completions,
    grouped,
    read_blocks,
    scan,
    to_columns,
    token_columns,
    with_columns,
)
from esscher.files.columns import check_values
from esscher.files.dump import Dump, check_needed, field_of, names_of, read, to_table
from esscher.files.formats import (
    check_output,
    check_types,
    check_writable,
    column_names,
    is_json_lines,
    load,
    naming,
    write,
    write_blocks,
)
from esscher.files.logprobs import LogprobColumns, read_logprobs

__all__ = [
    "Block",
    "Dump",
    "LogprobColumns",
    "Rows",
    "check_needed",
    "check_output",
    "check_types",
    "check_values",
    "check_writable",
    "column_names",
    "completions",
    "field_of",
    "grouped",
    "is_json_lines",
    "load",
    "names_of",
    "naming",
    "read",
    "read_blocks",
    "read_logprobs",
    "scan",
    "to_columns",
    "to_table",
    "token_columns",
    "with_columns",
    "write",
    "write_blocks",
]
