"""`python -m bench [--write] [JOB...]`: all jobs, or those whose names begin with one of the words given."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.environment import describe
from bench.figures import Figure
from bench.measure import Row
from bench.table import Results, as_markdown, show

ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")} | {"POLARS_MAX_THREADS": "1"}
MALLOC = {
    "default": {},
    "tuned": {
        "MALLOC_MMAP_THRESHOLD_": "4294967296",
        "MALLOC_TRIM_THRESHOLD_": "4294967296",
        "MALLOC_TOP_PAD_": "268435456",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--write", action="store_true", help="also write RESULTS.md")
    parser.add_argument("jobs", nargs="*", metavar="JOB")
    arguments = parser.parse_args()
    results = _gather(*(_run(mode, arguments.jobs) for mode in MALLOC))
    show(results)
    if results.failures:
        raise SystemExit(f"{len(results.failures)} failed")
    if arguments.write:
        jobs = f' JOBS="{" ".join(arguments.jobs)}"' if arguments.jobs else ""
        Path(__file__).with_name("RESULTS.md").write_text(as_markdown(results, f"make bench WRITE=1{jobs}"))


def _run(mode: str, jobs: list[str]) -> list[dict[str, Any]]:
    """Run the jobs in a process of their own, since malloc reads its settings when a process starts."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        worker = subprocess.run(
            [sys.executable, "-m", "bench.worker", file.name, mode, *jobs],
            env={**environment, **ONE_THREAD, **MALLOC[mode], "HF_HUB_OFFLINE": "1"},
            check=False,
        )
        if worker.returncode:
            raise SystemExit(worker.returncode)  # it has said why
        return [json.loads(line) for line in Path(file.name).read_text().splitlines()]


def _gather(default: list[dict[str, Any]], tuned: list[dict[str, Any]]) -> Results:
    (bandwidth,), (tuned_bandwidth,) = _of(default, "bandwidth"), _of(tuned, "bandwidth")
    rows, tuned_rows = (
        {(row["job"], row["peer"]): Row(**row) for row in _of(mode, "row")} for mode in (default, tuned)
    )
    return Results(
        pairs=[(row, tuned_rows[key]) for key, row in rows.items() if key in tuned_rows],
        bandwidths=(bandwidth["value"], tuned_bandwidth["value"]),
        figures=[Figure(**figure) for figure in _of(default, "figure")],
        failures=[f"{failure['name']}: {failure['error']}" for failure in _of(default + tuned, "failure")],
        environment=describe(),
    )


def _of(results: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in result.items() if key != "kind"} for result in results if result["kind"] == kind
    ]


if __name__ == "__main__":
    main()
