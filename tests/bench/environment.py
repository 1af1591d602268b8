"""What the figures depend on: processor, kernel, versions, date."""

from __future__ import annotations

import datetime
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGES = (
    "esscher", "numpy", "scipy", "torch", "trl", "transformers", "arviz-stats", "nltk", "polars", "sacrebleu",
    "fast-bleu", "diversity", "orjson", "pyarrow",
)  # fmt: skip
INSTRUCTIONS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16")


def describe(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    cpu = Path("/proc/cpuinfo").read_text()
    flags = _field(cpu, "flags").split()
    return {
        "CPU": f"{_field(cpu, 'model name')} (family {_field(cpu, 'cpu family')}, model {_field(cpu, 'model')})",
        "Instructions": ", ".join(name for name in INSTRUCTIONS if name in flags),
        "Cores": str(os.cpu_count()),
        "Kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "Packages": ", ".join(f"{name} {version(name)}" for name in packages),
        "Date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _field(cpu: str, key: str) -> str:
    found = re.search(rf"^{key}\s*: (.*)$", cpu, re.MULTILINE)
    return found[1] if found else "unknown"
