"""How threads that compute wait for each other, for programs that are Esscher's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

# Whoever has set one of these has decided: of OpenMP, and of GNU's, LLVM's and Intel's library.
DECIDING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


def let_waiting_threads_sleep(environment: MutableMapping[str, str]) -> None:
    """Have OpenMP's threads sleep while they wait for each other; what is set already stays.

    They would spin, for milliseconds each time, which takes the cores from whoever they wait for wherever something
    else runs too. To be called before torch is imported, which reads the environment once.

    Examples
    --------
    >>> environment = {}
    >>> let_waiting_threads_sleep(environment)
    >>> environment
    {'OMP_WAIT_POLICY': 'PASSIVE'}
    """
    if not any(name in environment for name in DECIDING):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
