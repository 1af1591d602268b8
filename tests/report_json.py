"""Reports' JSON as tests read it."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

from jsonschema import Draft202012Validator

from esscher.report import to_json

SCHEMA = json.loads(resources.files("esscher.report").joinpath("schema.json").read_text())


@cache
def validator(command):
    """What a command's report must be."""
    (kind,) = (one for one in SCHEMA["anyOf"] if one["title"] == command)
    return Draft202012Validator({"$ref": kind["$ref"], "$defs": SCHEMA["$defs"]})


def read(command, text):
    """The record that a command printed, which is JSON and as the schema says."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    record = json.loads(text, parse_constant=refuse)
    validator(command).validate(record)
    return record


def record_of(command, report, **options):
    """The same of a report that was not printed."""
    return read(command, to_json(report, **options))
