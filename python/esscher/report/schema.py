"""The JSON schema of all reports, made of the records' annotations and docstrings.

``python -m esscher.report.schema`` writes it anew.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from esscher.compare import Comparison, LogZ, PolicyPoint
from esscher.divergence import KlEstimate, MutualInformation
from esscher.diversity import DiversityEstimate
from esscher.estimate import Estimate, Interval
from esscher.evaluate import Report
from esscher.evaluate.posterior import TargetReport
from esscher.frontier import Frontier
from esscher.frontier.prototype import Prototype
from esscher.mismatch import Metrics, MismatchReport
from esscher.report.as_json import COLUMNS
from esscher.report.outcomes import Dissociation
from esscher.samples import Tokens
from esscher.target import Target, Tilt
from esscher.trend import FrontierPlace, StepMismatch, TrendEnd, TrendEvent, TrendStep
from esscher.warning import ReportWarning

SCHEMA = Path(__file__).with_name("schema.json")
# What each command prints with --json, or writes; of `train` with --recipe dissociation. Of `trend`, a line is a step,
# an event that is named at the step before it, or the end.
KINDS = {
    "evaluate": Report,
    "prototype": Prototype,
    "compare": Comparison,
    "mismatch": MismatchReport,
    "train": Dissociation,
    "trend: a step": TrendStep,
    "trend: an event": TrendEvent,
    "trend: the end": TrendEnd,
}
# What records' modules import for type checkers alone.
PARTS = (Comparison, PolicyPoint, KlEstimate, DiversityEstimate, Estimate, Interval, Report, LogZ, Frontier, Metrics)
OF_TREND = (FrontierPlace, StepMismatch, TrendEvent)
NAMES = {
    one.__name__: one for one in (*PARTS, MutualInformation, ReportWarning, TargetReport, Prototype, Tilt, *OF_TREND)
} | {
    "np": np,
    "NDArray": NDArray,
    "Tokens": Tokens,
}
NUMBER = {
    "description": "A number; null for NaN and for what is not known, a string for an infinity: JSON has neither.",
    "anyOf": [{"type": "number"}, {"type": "null"}, {"enum": ["inf", "-inf"]}],
}
SIMPLE: dict[Any, dict[str, Any]] = {
    float: {"$ref": "#/$defs/number"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    str: {"type": "string"},
    Any: {},
}


def schema() -> dict[str, Any]:
    """Return the schema: a definition for each record, and of the whole that it is one of `KINDS`.

    Examples
    --------
    >>> schema()["$defs"]["Estimate"]["properties"]
    {'value': {'$ref': '#/$defs/number'}, 'stderr': {'$ref': '#/$defs/number'}}
    """
    definitions: dict[str, Any] = {"number": NUMBER}
    kinds = [{"title": command, **_of(record, definitions)} for command, record in KINDS.items()]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Esscher reports",
        "description": "What the commands print with --json. Nats per completion unless said otherwise.",
        "anyOf": kinds,
        "$defs": definitions,
    }


def _of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a type; those of the records in it are added to the definitions."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in SIMPLE:
        return SIMPLE[kind]
    if isinstance(kind, type) and issubclass(kind, Target):
        return SIMPLE[str]
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is np.ndarray:
        return {"type": "array", "items": _of(type(get_args(arguments[1])[0]().item()), definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(arguments[1], definitions)}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"type": "array", "items": _of(arguments[0], definitions)}
    if origin is tuple:
        items = [_of(one, definitions) for one in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin in (Union, types.UnionType):
        (known,) = (one for one in arguments if one is not types.NoneType)
        # A number may be null as it is.
        return SIMPLE[float] if known is float else {"anyOf": [_of(known, definitions), {"type": "null"}]}
    return _of_record(kind, definitions)


def _of_record(record: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if not (is_dataclass(record) or hasattr(record, "_fields")):
        raise TypeError(f"{record} is in a report, and its JSON is not known")
    if record.__name__ not in definitions:
        definitions[record.__name__] = None  # while that of what is in it is made
        about, attributes = _documented(record)
        hints = get_type_hints(record, localns=NAMES)
        properties = {
            name: ({"description": attributes[name]} if name in attributes else {}) | _of(hint, definitions)
            for name, hint in hints.items()
            if name not in COLUMNS - {"per_completion"}
        }
        definitions[record.__name__] = {
            "type": "object",
            "description": about,
            "properties": properties,
            "required": [name for name in properties if name not in COLUMNS],
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{record.__name__}"}


def _documented(record: Any) -> tuple[str, dict[str, str]]:
    """Return what a docstring says of a record, and of each of its attributes."""
    about, _, listed = (inspect.getdoc(record) or "").partition("\nAttributes\n----------\n")
    found: dict[str, str] = {}
    for names, text in re.findall(r"^(\w[\w, ]*)\n((?:    .*\n?|\n)+)", listed, re.MULTILINE):
        found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return " ".join(about.split()), found


if __name__ == "__main__":
    SCHEMA.write_text(json.dumps(schema(), indent=2, ensure_ascii=False) + "\n")
