"""Failures that the server's log explains, under an id that the caller is told in place of the text."""

from __future__ import annotations

import logging
import secrets

_log = logging.getLogger(__name__)


def log_incident(error: BaseException) -> str:
    """Log a failure, and return the id that it is found by."""
    incident = secrets.token_hex(4)
    _log.error("internal error %s", incident, exc_info=error)
    return incident
