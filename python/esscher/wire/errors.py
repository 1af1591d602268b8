"""Errors that server and client both raise."""

from __future__ import annotations


class ServerBusyError(RuntimeError):
    """The server has as much work waiting as it accepts; nothing was computed. Retry later, or send less."""
