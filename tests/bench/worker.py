"""All jobs under one allocator: `python -m bench.worker FILE MODE JOB...` writes one JSON line per result."""

from __future__ import annotations

import gc
import json
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench import (
    jobs_bleu,
    jobs_distinct,
    jobs_estimates,
    jobs_frontier,
    jobs_json_lines,
    jobs_kl,
    jobs_logits,
    jobs_logprobs,
    jobs_ngrams,
    jobs_pareto,
    jobs_weights,
)
from bench.figures import FIGURES
from bench.measure import measure, read_bandwidth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MODULES = (
    jobs_logprobs,
    jobs_kl,
    jobs_estimates,
    jobs_logits,
    jobs_weights,
    jobs_pareto,
    jobs_frontier,
    jobs_distinct,
    jobs_ngrams,
    jobs_bleu,
    jobs_json_lines,
)
JOBS = {name: build for module in MODULES for name, build in module.JOBS.items()}


def main(path: str, mode: str, *words: str) -> None:
    # As timeit does: a collection that comes in the middle of a call is not its own.
    gc.disable()
    torch.set_num_threads(1)
    unknown = [word for word in words if not any(name.startswith(word) for name in [*JOBS, *FIGURES])]
    if unknown:
        raise SystemExit(f"no job begins with {unknown}: there are {', '.join([*JOBS, *FIGURES])}")
    with Path(path).open("w") as file:
        for kind, result in _results(mode, words):
            file.write(json.dumps({"kind": kind, **result}) + "\n")


def _results(mode: str, words: tuple[str, ...]) -> Iterable[tuple[str, dict[str, Any]]]:
    bandwidth = read_bandwidth()
    yield "bandwidth", {"value": bandwidth}
    for name, build in _chosen(JOBS, words):
        yield from _attempt("row", f"{mode}: {name}", lambda build=build: measure(build(), bandwidth))
    if mode == "default":
        for name, figures in _chosen(FIGURES, words):
            yield from _attempt("figure", f"{mode}: {name}", figures)


def _chosen(known: dict[str, Callable[[], Any]], words: tuple[str, ...]) -> Iterable[tuple[str, Callable[[], Any]]]:
    return [(name, call) for name, call in known.items() if not words or any(map(name.startswith, words))]


def _attempt(kind: str, name: str, call: Callable[[], Any]) -> list[tuple[str, dict[str, Any]]]:
    """The results, or a failure, which is reported and fails the run once the other jobs are done."""
    start = time.perf_counter()
    try:
        return [(kind, asdict(result)) for result in call()]
    except Exception as error:
        traceback.print_exc()
        return [("failure", {"name": name, "error": f"{type(error).__name__}: {error}"})]
    finally:
        gc.collect()
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
