"""Threads: where they come from, and that nothing hangs."""

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
