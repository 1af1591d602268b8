"""Samples in files: ours, in and out, and what other tools write.

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
rewards               double             finite or -inf
terminated            bool               whether the completion ended by itself
action_mask           list<bool>         which completion tokens the policy chose
cross_log_probs       list<float32>      log-prob of the completion after other prompts
rollout_logprobs      list<float32>      the policy's, as the engine recorded them that sampled
step                  integer            which step of training
====================  =================  ===========================================

Where there is an `action_mask`, nothing is counted but the tokens that it keeps, and a row of which it keeps none is
left out. The columns of tokens have a value for each completion token, null at the others, or one for each action.

Files are Parquet, Arrow and JSON lines, the last packed or not. What a tool writes is recognised by its name and
columns, and read as rows of ours (`readers`, a module for each tool), with what else it holds; ``tool="ours"`` takes
rows as they stand. Where there are texts, `prompt` and `completion`, and no ids, a tokenizer makes ids of them again,
or words are numbered (`text_columns`).

Other names and types are read too: `reward` where there are no `rewards`; other kinds of numbers, if they hold
the same, booleans and text as rewards; 0 and 1, "stop" and "length" for `terminated`; each value in a list of its own.
An optional column of nothing but nulls counts as not there. A column that is a mask by its name (`masks`), under
another name than ours, and leaves something out, is asked about.

Columns of any other name are not looked at, whatever they hold, and kept as they are by what writes the rows again.
Where no one type holds all values of a column of JSON lines, they are kept as JSON, in Parquet too.

JSON lines are valid JSON, so infinities are written as the numbers ``1e999`` and ``-1e999``, which overflow to them
in any reader of doubles; they are taken back, and the literals that Python writes. NaN has no such number: a table that
holds one is written as Parquet, and only where a file of JSON lines held ``NaN`` itself, it gets that back.

`read` holds all rows of files, folders and patterns, of one step; `read_run` reads a run step by step. `scan` and
`read_blocks` read a file of any size a block at a time, and `write_blocks` writes it so.
"""

from esscher.files.asking import ask_about_masks, masks_in
from esscher.files.blocks import Block, Rows, load, read_blocks, scan
from esscher.files.columns import RowError, check_values
from esscher.files.dump import NEEDED, check_needed, names_of, to_table
from esscher.files.finding import NoSamplesError, RunFile, RunFiles, find, stamps
from esscher.files.formats import check_output, check_writable, is_json_lines, naming, write, write_blocks
from esscher.files.logprobs import LogprobColumns, read_logprobs
from esscher.files.masks import MASK
from esscher.files.numbers import with_numbers
from esscher.files.runs import Dump, read
from esscher.files.scores import completions, grouped, to_columns, token_columns, with_columns
from esscher.files.stepping import Step, read_run
from esscher.files.steps import SeveralStepsError
from esscher.files.text_columns import TextReader, WordNumbers

__all__ = [
    "MASK",
    "NEEDED",
    "Block",
    "Dump",
    "LogprobColumns",
    "NoSamplesError",
    "RowError",
    "Rows",
    "RunFile",
    "RunFiles",
    "SeveralStepsError",
    "Step",
    "TextReader",
    "WordNumbers",
    "ask_about_masks",
    "check_needed",
    "check_output",
    "check_values",
    "check_writable",
    "completions",
    "find",
    "grouped",
    "is_json_lines",
    "load",
    "masks_in",
    "names_of",
    "naming",
    "read",
    "read_blocks",
    "read_logprobs",
    "read_run",
    "scan",
    "stamps",
    "to_columns",
    "to_table",
    "token_columns",
    "with_columns",
    "with_numbers",
    "write",
    "write_blocks",
]
