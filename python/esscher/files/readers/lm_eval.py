"""lm-eval: `samples_{task}_{date}.jsonl` of `--log_samples`: the texts that a model generated for each document.

The repeats of a document are its completions, and samples of the prior. A document has a row for each filter: the first
is taken. A metric is of what the filter chose, the first text, and is a reward only if it is named.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no annotations

from esscher.files.readers import reading
from esscher.files.streams import first_line

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from esscher.files.conversion import Converted

NAME = "lm-eval"
STEP = None
SCORED, FILTERED = "documents of which choices were scored, not texts sampled", "rows of a further filter"


def is_mine(_path: Path, names: Collection[str]) -> bool:
    """Tell by its columns whether a file is lm-eval's."""
    return {"doc_id", "resps", "filtered_resps", "arguments"} <= set(names)


def convert(path: Path, table: pa.Table, _first: int) -> Converted:
    """Return the samples of a block."""
    texts = [_texts(resps) for resps in reading.values(table, "resps")]
    scored = np.array([one is None for one in texts])
    first = json.loads(first_line(path)).get("filter")
    further = np.array([one != first for one in reading.values(table, "filter")]) & ~scored
    sizes = np.where(scored | further, 0, [len(one or ()) for one in texts])
    rows = np.repeat(np.arange(len(table)), sizes)
    prompts = [_prompt(one) for one in reading.values(table, "arguments")]
    kept = [i for i, size in enumerate(sizes) if size]
    documents = reading.values(table, "doc_id")
    ours: dict[str, Any] = {
        "prompt_id": pa.array([str(documents[i]) for i in rows]),
        "prompt": reading.column_of([prompts[i] for i in rows]),
        "completion": reading.column_of([text for i in kept for text in texts[i] or ()]),
    }
    first_of_document = np.concatenate([[True], rows[1:] != rows[:-1]]) if len(rows) else np.zeros(0, np.bool_)
    metrics = _metrics(table)
    for name in metrics:
        found = [reading.number(reading.values(table, name)[i]) for i in rows]
        ours[name] = pa.array(
            [x if one else None for x, one in zip(found, first_of_document, strict=True)], pa.float64()
        )
    out = {SCORED: int(scored.sum()), FILTERED: int(further.sum())}
    used = ("arguments", "resps", "filtered_resps", *metrics)
    return reading.samples(NAME, table, ours, used=used, rows=rows, rewards=metrics, left_out=out)


def _texts(resps: Any) -> list[str] | None:
    """Return the texts that were generated for a document; `None` if its choices were scored."""
    found = resps[0] if resps and isinstance(resps[0], list) else resps
    return found if found and all(isinstance(text, str) for text in found) and len(resps) == 1 else None


def _prompt(arguments: Any) -> Any:
    """Return what the model was asked: a text, or a conversation where it is told as JSON."""
    first = next(iter(arguments.values()), None) if isinstance(arguments, dict) else (arguments or [None])[0]
    prompt = first.get("arg_0") if isinstance(first, dict) else (first[0] if isinstance(first, list) else first)
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt.startswith('[{"role"'):
        try:
            return json.loads(prompt)
        except json.JSONDecodeError:
            return prompt
    return prompt


def _metrics(table: pa.Table) -> tuple[str, ...]:
    named = dict.fromkeys(name for names in reading.values(table, "metrics") for name in names or ())
    return tuple(name for name in named if name in table.column_names and name not in reading.OURS)
