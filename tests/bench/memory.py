"""`python -m bench.memory distinct`, or bleu: the peak additional memory of that call in bytes, and its tokens."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import esscher
from bench import data


def main(call: str) -> None:
    completions = data.completions(1_000_000, 128 if call == "distinct" else 64)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    if call == "distinct":
        esscher.distinct(completions, range(1, 6), threads=1)
    else:
        esscher.self_bleu(completions, smoothing="method1", threads=1)
    print(_status("VmHWM") - before, len(completions.values))


def _status(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
