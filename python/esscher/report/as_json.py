"""Any report as JSON, for machines: one walk over the records that say what it holds."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from esscher.target import Target

# Columns with an entry for each token or completion.
COLUMNS = {"per_token", "per_sequence", "per_completion"}


def to_dict(report: Any, *, per_completion: bool = False) -> dict[str, Any]:
    """Return a report as what JSON can say; the keys are the names of the fields of its record.

    ==================  =====================================================================
    in the record       in JSON
    ==================  =====================================================================
    record, dict        object; keys of a dict as strings
    tuple, array        list
    Estimate            ``{value, stderr}``
    Interval            ``{low, high, assumes}``: of the estimate named so, or of the one that
                        ``x_interval`` stands beside
    target              a string, as `str` gives it
    NaN                 null, as `None` is
    infinity            "inf" or "-inf", since JSON has neither
    ==================  =====================================================================

    What each key means is in the records and in ``schema.json`` beside this module, which is made of them.

    Parameters
    ----------
    report
        A `Report`, `Prototype`, `Comparison`, `MismatchReport` or `Dissociation`, or a line of `esscher trend`.
    per_completion
        Whether to add the columns of `Report.per_completion`, each a list [N] or null.

    Examples
    --------
    >>> from esscher import mismatch, Ragged
    >>> rows = Ragged.from_rows([[-1.0, -2.0]])
    >>> found = to_dict(mismatch(rows, rows))
    >>> found["clean"], found["metrics"]["kl"]
    (True, {'value': 0.0, 'stderr': None})
    """
    found: dict[str, Any] = _plain(report, COLUMNS - {"per_completion"} if per_completion else COLUMNS)
    return found


def to_json(report: Any, *, per_completion: bool = False) -> str:
    """Return a report as indented JSON, with the keys and rules of `to_dict`."""
    return json.dumps(to_dict(report, per_completion=per_completion), indent=2, allow_nan=False, ensure_ascii=False)


def to_json_line(record: Any) -> str:
    """Return a record as JSON in one line, with the keys and rules of `to_dict`."""
    return json.dumps(to_dict(record), allow_nan=False, ensure_ascii=False)


def _plain(value: Any, left_out: set[str]) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Target):
        return str(value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    elif is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value) if field.name not in left_out}
    elif hasattr(value, "_asdict"):
        value = {name: one for name, one in value._asdict().items() if name not in left_out}
    if isinstance(value, dict):
        return {str(key): _plain(one, left_out) for key, one in value.items()}
    return [_plain(one, left_out) for one in value] if isinstance(value, list | tuple) else value
