"""The size of things: functions and modules that are read at a sitting, and names that mean one thing."""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

import pytest

import esscher

ROOT = Path(esscher.__file__).parent
RUST = Path(__file__).parent.parent / "rust"
# Lines of code: docstrings, comments and blank lines not counted.
FUNCTION, MODULE, RUST_MODULE = 40, 300, 400
# What is larger, and why it stays so.
LARGER = {
    "cli.evaluate.evaluate": "options are a command's signature",
    "cli.prototype.prototype": "options are a command's signature",
    "cli.score.score": "options are a command's signature",
    "cli.serve.serve": "options are a command's signature",
    "cli.train.train": "options are a command's signature",
    "evaluate.reporting.evaluate": "a line for each field of the report",
    "inference.bridge.bridge_log_z": "both pools have all arguments twice",
    "inference.token_smc.token_smc": "arguments and the loop over tokens",
}
# Names of modules that several rooms have: a command, a page or a reader is called as what it is of.
SEVERAL_ROOMS = {"__init__", "comparison", "demo", "mismatch", "prototype", "trend", "trl", "verl"}

FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent.name != "v1")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def name_of(path):
    return str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")


def code_lines(text):
    """The numbers of lines that hold code."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            lines |= set(range(token.start[0], token.end[0] + 1)) if token.string.strip() else set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def sizes(path):
    """The size of a module and of each of its functions, by name."""
    text = path.read_text()
    lines = code_lines(text)
    yield name_of(path), len(lines), MODULE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            within = sum(node.lineno <= line <= node.end_lineno for line in lines)
            yield f"{name_of(path)}.{node.name}", within, FUNCTION


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_and_modules_are_read_at_a_sitting(path):
    too_large = {name: size for name, size, most in sizes(path) if size > most and name not in LARGER}
    assert not too_large


def test_each_exception_is_needed():
    large = {name for path in FILES for name, size, most in sizes(path) if size > most}
    assert set(LARGER) <= large


@pytest.mark.parametrize("path", sorted(RUST.rglob("*.rs")), ids=lambda path: str(path.relative_to(RUST)))
def test_rust_modules_are_read_at_a_sitting(path):
    code = [line for line in path.read_text().splitlines() if line.strip() and not line.strip().startswith("//")]
    assert len(code) <= RUST_MODULE


def test_a_class_has_its_name_alone():
    names = Counter(
        node.name for path in FILES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
    )
    assert not [name for name, count in names.items() if count > 1]


def test_a_module_has_its_name_alone():
    names = Counter(path.stem for path in FILES)
    assert not [name for name, count in names.items() if count > 1 and name not in SEVERAL_ROOMS]


def test_sums_of_groups_are_made_in_one_place():
    """Elsewhere empty groups would be forgotten, or told in another way."""
    assert not [name_of(path) for path in FILES if ".reduceat" in path.read_text() and path.stem not in REDUCING]


# Where groups are reduced by what `Groups` does not have: an exclusive or of bits, and a logical and.
REDUCING = {"groups", "halves", "scoring"}


def test_what_users_call_is_at_hand_and_no_more():
    assert len(esscher.__all__) <= 70
