"""What an estimate says besides that its prompts are few, as they are in most tests."""

from __future__ import annotations

FEW = "There is one prompt", "Standard errors are clustered by prompt, and there are only"


def doubts(estimate):
    """Return its warnings but that one."""
    return tuple(warning for warning in estimate.warnings if not warning.startswith(FEW))
