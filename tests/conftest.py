"""What several test files share: real text, and a seed for generated data."""

from __future__ import annotations

import os
import signal
import sys
from pydoc_data.topics import topics

# Before NumPy and torch are imported: several processes test at once, and on a busy machine torch's threads wait for
# each other most of the time.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
from hypothesis import settings

from esscher import Ragged

# Before transformers is imported: nothing here comes from a hub.
os.environ["HF_HUB_OFFLINE"] = "1"

# A shell starts jobs in the background with Ctrl-C ignored, and so would be every process that tests start and stop.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("default", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("default")


@pytest.fixture(scope="session")
def real_text():
    """Sentences of the Python manual as word ids: real text of unequal lengths."""
    words = [paragraph.split() for text in list(topics.values())[:12] for paragraph in text.split("\n\n")[1:7]]
    numbers = {word: i for i, word in enumerate(sorted({word for row in words for word in row}))}
    return Ragged.from_rows([[numbers[word] for word in row[:60]] for row in words if row], np.uint32)


@pytest.fixture
def esscher(monkeypatch, capsys):
    """Run the command line in this process; gives its exit code, output and errors."""

    # Imported here, since most tests need no command line.
    from esscher import cli

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["esscher", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.run()
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, " ".join(captured.err.split())

    return call
