"""Numbers that were right stay as they are: those of the golden set, but for what is named here with its reason."""

from __future__ import annotations

import json
import re

import pytest

from golden_numbers import NUMBERS, numbers

# Which numbers moved, as patterns of their paths, each with its reason; to be emptied when the set is written anew.
MOVED = {
    "^evaluate/one/product/target/forward_kl/(stderr|interval/(low|high))$": "KL(target‖policy) is judged by the "
    "random halves that log Z is judged by, and those of this one prompt tell of a bias that its own did not",
}


@pytest.fixture(scope="module")
def before():
    return json.loads(NUMBERS.read_text())


@pytest.fixture(scope="module")
def now():
    return numbers()


def test_every_other_number_is_what_it_was(before, now):
    kept = {path: value for path, value in before.items() if not any(re.search(one, path) for one in MOVED)}
    assert len(kept) > 0.9 * len(before)
    moved = [
        (path, value, now.get(path))
        for path, value in kept.items()
        if now.get(path) != pytest.approx(value, rel=1e-12, abs=1e-14, nan_ok=True)
    ]
    assert not moved


def test_each_exception_is_one(before, now):
    for one in MOVED:
        assert any(now.get(path) != value for path, value in before.items() if re.search(one, path)), one
