"""Threads: where they come from, and that nothing hangs."""

import os
import subprocess
import sys

import pytest

from esscher import Ragged, distinct, top_ngrams

FORK = """
import os, warnings
import numpy as np
from esscher import exponential_weights

warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forking a process that has threads
rewards = np.linspace(0, 1, 200_000)
expected = exponential_weights(rewards, 0.1, threads=2)
child = os.fork()
got = exponential_weights(rewards, 0.1, threads=2)
same = all(np.array_equal(a, b) for a, b in zip(got, expected))
if child == 0:
    os._exit(0 if same else 1)
assert same and os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_process_has_threads_of_its_own():
    """A data loader's workers are forks of a process that has used its threads."""
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=60)


@pytest.mark.parametrize("threads", [-1, 0, 1025, 2**70])
def test_what_is_no_number_of_threads_is_refused(threads):
    """Threads that were started stay, so a mistyped number must not start them."""
    for call in (lambda rows: distinct(rows, 1, threads=threads), lambda rows: top_ngrams(rows, 1, 1, threads=threads)):
        with pytest.raises(ValueError, match=f"threads is {threads}: it must be 1 to 1024"):
            call(Ragged.from_rows([[1, 2]]))


# The library of OpenMP says how often its threads look before they sleep, when torch has loaded it.
WAITING = """
import sys
from esscher import __main__ as program
sys.argv = ["esscher", "--help"]
try:
    program.main()
except SystemExit:
    pass
assert "torch" not in sys.modules
import torch
torch.ones(4).sum()
"""


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "0"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000"),
        ({"GOMP_SPINCOUNT": "77"}, "77"),
    ],
)
def test_threads_of_the_command_line_sleep_while_they_wait(environment, expected):
    """Spinning, they take the cores from those they wait for; whoever has set how they wait is obeyed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", WAITING],
        env=kept | environment | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert f"GOMP_SPINCOUNT = '{expected}'" in done.stderr
