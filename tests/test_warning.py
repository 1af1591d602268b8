"""Warnings: the sentences, their parts, and the order that they come in."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import esscher
from esscher.warning import HEADLINES, ReportWarning, merge_warnings

CODES = [
    code
    for path in Path(esscher.__file__).parent.rglob("*.py")
    for code in re.findall(r'ReportWarning\(\s*"([a-z0-9-]+)"', path.read_text())
]


def test_every_kind_that_is_told_has_a_headline_and_every_headline_is_told():
    assert set(CODES) == set(HEADLINES)


def test_a_warning_is_its_sentences_and_has_its_parts():
    warning = ReportWarning("few-prompts", "There are only 3 prompts.", "Draw more.", ("tuned", "other"))
    assert warning == "tuned, other: There are only 3 prompts. Draw more."
    assert warning._asdict() == {
        "code": "few-prompts",
        "what": HEADLINES["few-prompts"],
        "where": ("tuned", "other"),
        "evidence": "There are only 3 prompts.",
        "remedy": "Draw more.",
    }
    for again in (pickle.loads(pickle.dumps(warning)), copy.deepcopy(warning)):
        assert (again, again._asdict()) == (warning, warning._asdict())


def test_a_kind_that_only_a_newer_version_knows_is_shown_by_its_evidence_and_comes_last():
    newer, known = ReportWarning("newer", "Something new."), ReportWarning("rounded", "Read as 0.")
    assert newer.what == "Something new."
    assert merge_warnings([newer, known]) == (known, newer)


def test_the_gravest_come_first_and_of_one_kind_those_that_came_first():
    rough, worse = (ReportWarning("few-prompts", text) for text in ("2 prompts.", "3 prompts."))
    infinite = ReportWarning("infinite-kl", "The prior cannot produce it.")
    found = merge_warnings([rough.at("b"), worse.at("a"), infinite.at("b"), rough.at("a"), rough.at("b")])
    assert found == ("b: The prior cannot produce it.", "b, a: 2 prompts.", "a: 3 prompts.")
