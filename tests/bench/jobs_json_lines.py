"""Reading columns of JSON lines as arrays: files as we write them, and files with much that is not needed."""

from __future__ import annotations

import json
import os
import tempfile
from functools import cache, partial, wraps
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.json as pj

from bench import data
from bench.measure import Job, Peer, largest_error
from esscher import Samples, files
from esscher.files import columns
from esscher.groups import Groups

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from esscher import Ragged

COMPLETIONS, WIDTH, PER_PROMPT = 4096, 256, 8
WORDS = 1500  # of each text that nobody asks for
# What is read of each kind of file: token ids, numbers of tokens, numbers.
IDS, LOGPROBS, NUMBERS = columns.token_ids, columns.token_numbers, columns.numbers
OURS = {
    "prompt_token_ids": IDS,
    "completion_token_ids": IDS,
    "policy_logprobs": LOGPROBS,
    "prior_logprobs": LOGPROBS,
    "rewards": NUMBERS,
}
NEMO_RL = {
    "token_ids": IDS,
    "prev_logprobs": LOGPROBS,
    "generation_logprobs": LOGPROBS,
    "token_loss_mask": IDS,
    "rewards": NUMBERS,
}


def ours() -> Job:
    return _job("our format", _folder() / "ours.jsonl", _write_ours, OURS)


def nemo_rl() -> Job:
    return _job("NeMo-RL's, texts not needed", _folder() / "nemo_rl.jsonl", _write_nemo_rl, NEMO_RL)


def _job(name: str, path: Path, write: Callable[[Path], None], wanted: dict[str, Callable[..., Any]]) -> Job:
    write(path)
    return Job(
        f"JSON lines, {name}: {len(wanted)} columns of {COMPLETIONS} completions, {path.stat().st_size / 1e6:.0f} MB",
        _on_one_core(partial(_read, path, wanted)),
        (
            Peer("orjson, objects alone", partial(_objects, path), (1, 1), 0, partial(_error_of_objects, wanted)),
            Peer("orjson, then NumPy", lambda: _arrays(_objects(path), wanted), (None, None), 0),
            Peer("pyarrow.json, these columns", partial(_pyarrow, path, wanted), (None, None), 0),
        ),
    )


def _on_one_core(call: Callable[[], Any]) -> Callable[[], Any]:
    """Let a call have one thread, as its peers have: it takes as many as there are cores."""

    @wraps(call)
    def on_one() -> Any:
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        try:
            return call()
        finally:
            os.sched_setaffinity(0, cores)

    return on_one


def _read(path: Path, wanted: dict[str, Callable[..., Any]]) -> list[NDArray[Any]]:
    return _converted(files.load(path, list(wanted)), wanted)


def _pyarrow(path: Path, wanted: dict[str, Callable[..., Any]]) -> list[NDArray[Any]]:
    """Types given, so that nothing has to be found out, and other columns passed over."""
    is_nested = isinstance(_first(path)[next(iter(wanted))][0], list)
    types = {IDS: pa.list_(pa.int64()), LOGPROBS: pa.list_(pa.float64()), NUMBERS: pa.float64()}
    schema = pa.schema(
        [
            (name, pa.list_(types[convert]) if is_nested and convert is not NUMBERS else types[convert])
            for name, convert in wanted.items()
        ]
    )
    table = pj.read_json(
        path,
        read_options=pj.ReadOptions(use_threads=False, block_size=8 << 20),
        parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )
    return _converted(table, wanted)


def _converted(table: pa.Table, wanted: dict[str, Callable[..., Any]]) -> list[NDArray[Any]]:
    found = [convert(name, table.column(name)) for name, convert in wanted.items()]
    return [column if isinstance(column, np.ndarray) else column.values for column in found]


def _first(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return orjson.loads(file.readline())  # type: ignore[no-any-return]


def _objects(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        return [orjson.loads(line) for line in file]


def _arrays(rows: Sequence[dict[str, Any]], wanted: dict[str, Callable[..., Any]]) -> list[NDArray[Any]]:
    return [_array([row[name] for row in rows], convert) for name, convert in wanted.items()]


def _array(values: list[Any], convert: Callable[..., Any]) -> NDArray[Any]:
    if convert is NUMBERS:
        return np.array(values, np.float64)
    if isinstance(values[0][0], list):
        values = [value[0] for value in values]
    return np.fromiter(chain.from_iterable(values), np.uint32 if convert is IDS else np.float32)


def _error_of_objects(
    wanted: dict[str, Callable[..., Any]], ours: list[NDArray[Any]], rows: Sequence[dict[str, Any]]
) -> float:
    return largest_error(ours, _arrays(rows, wanted))


@cache
def _kept() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def _folder() -> Path:
    return Path(_kept().name)


def _logprobs(completions: Ragged, seed: int) -> Ragged:
    values = -np.abs(np.random.default_rng(seed).standard_normal(len(completions.values), np.float32))
    return type(completions)(values, completions.offsets)


def _write_ours(path: Path) -> None:
    completions = data.completions(COMPLETIONS, WIDTH)
    prompts = data.completions(COMPLETIONS // PER_PROMPT, WIDTH // 4)
    samples = Samples(
        prompts,
        completions,
        Groups.from_sizes(np.full(len(prompts), PER_PROMPT)),
        policy_logprobs=_logprobs(completions, 1),
        prior_logprobs=_logprobs(completions, 2),
        rewards=data.rewards(COMPLETIONS),
    )
    files.write(files.to_table(samples), path)


def _write_nemo_rl(path: Path) -> None:
    completions = data.completions(COMPLETIONS, WIDTH)
    previous, generated = (_logprobs(completions, seed) for seed in (1, 2))
    text = 'the quick brown fox, which "jumps" over the lazy dog.\n and runs — as all foxes do it, day by day'
    words = np.array(text.split(" "))
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for i, ids in enumerate(completions):
            row = {
                "content": " ".join(rng.choice(words, WORDS)),
                "rewards": float(i % 2),
                "token_ids": [ids.tolist()],
                "token_loss_mask": [[1] * len(ids)],
                "sample_loss_mask": 1.0,
                # As doubles, which float32 makes long: -0.12573021650314331.
                "prev_logprobs": [previous[i].tolist()],
                "generation_logprobs": [generated[i].tolist()],
            }
            file.write(json.dumps(row) + "\n")


JOBS = {"json-lines-ours": ours, "json-lines-nemo-rl": nemo_rl}
