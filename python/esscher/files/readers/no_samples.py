"""Files that lie beside samples and are none, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

# What a row of completions has at least one of, in whatever format.
TEXTS_OR_IDS = ("prompt_token_ids", "completion_token_ids", "completion", "prompt")


def why_no_samples(path: Path, names: Collection[str]) -> str | None:
    """Return what a file is, by its name and columns, that tools write beside samples; `None` if it is none such.

    Examples
    --------
    >>> from pathlib import Path
    >>> why_no_samples(Path("aggregated_results.jsonl"), ["eval/all/avg_score"])
    'totals of an evaluation (SkyRL)'
    """
    if path.name.startswith("aggregated_results."):
        return "totals of an evaluation (SkyRL)"
    if {"run_name", "git_commit", "model_name"} <= set(names):
        return "what a run is called and where it is from (open-instruct)"
    if {"total_reward", "steps"} <= set(names) or {"ob_len", "ac_len"} <= set(names):
        return "lengths and rewards without texts or token ids (tinker-cookbook)"
    return None


def why_no_rows(names: Collection[str]) -> str | None:
    """Return why rows of these columns, which no tool's are, cannot be samples; `None` if they can.

    Examples
    --------
    >>> why_no_rows(["loss", "lr"])
    'no samples: neither texts nor token ids in its columns loss, lr'
    """
    if set(TEXTS_OR_IDS) & set(names):
        return None
    shown = ", ".join(list(names)[:6]) + ", ..." * (len(names) > 6)
    return f"no samples: neither texts nor token ids in its columns {shown}"
