"""``esscher`` and ``python -m esscher``: the command line, or what to install for it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

# Whoever has set one of these has decided how threads wait: of OpenMP, and of GNU's, LLVM's and Intel's library.
THREAD_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


def main() -> None:
    """Run the command line."""
    # Before anything imports torch.
    let_waiting_threads_sleep(os.environ)
    try:
        from esscher.cli import run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "pyarrow", "altair", "jinja2"):
            raise
        print(
            f"error: the command line needs {error.name}, which is not installed: pip install 'esscher[report]'",
            file=sys.stderr,
        )
        sys.exit(2)
    run()


def let_waiting_threads_sleep(environment: MutableMapping[str, str]) -> None:
    """Have OpenMP's threads sleep while they wait for each other, unless the environment says how they wait.

    By default they spin for milliseconds each time, which takes the cores from whoever they wait for as soon as
    something else runs too. Call it before torch is imported, which reads the environment once.

    Examples
    --------
    >>> environment = {}
    >>> let_waiting_threads_sleep(environment)
    >>> environment
    {'OMP_WAIT_POLICY': 'PASSIVE'}
    """
    if not any(name in environment for name in THREAD_WAITING):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"


if __name__ == "__main__":
    main()
