"""Warnings: what the reader of a number should know before trusting it, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# What each kind of warning says in a line, the gravest first: numbers that mean something else than their name, numbers
# that are off, numbers whose errors are, and notes.
HEADLINES = {
    "several-steps": "Completions of several training steps are taken for those of one policy",
    "filler-values": "Some log-probs are fillers that stand for missing ones",
    "zero-values": "Zeros stand for values that are missing",
    "past-the-end": "Completions go on after their end",
    "doubled-start": "Some prompts begin with two start tokens",
    "other-models": "Log-probs of the same completions differ: they are of different models",
    "other-reward": "Rewards of the same completions differ",
    "other-policy": "The completions were not drawn from the policy whose log-probs they have",
    "infinite-kl": "The KL is infinite",
    "above-the-frontier": "The policy got more than any policy of its KL can",
    "copied-log-probs": "The KL is exactly 0 in every completion",
    "template-collapse": "The policy does not heed its prompts",
    "equal-rewards": "The reward prefers no completion to another",
    "no-weight": "No completion has weight under the target",
    "infinite-gap": "The inference gap is infinite",
    "log-z-disagrees": "log Z by the prior's samples and by the policy's disagree",
    "k3-too-low": "k3 misses tokens that the prior likes",
    "one-token": "A single token makes most of the KL",
    "heavy-tail": "A few weights decide (Pareto k)",
    "bias-left": "Numbers without an error bar: a bias is left that is not small beside it",
    "few-effective": "Few completions carry the weight",
    "prompts-without-weight": "In some prompts no completion has weight",
    "single-completions": "Some prompts have a single completion",
    "few-completions": "Too few completions a prompt to judge their weights",
    "beyond-the-samples": "The prior's samples cannot be trusted so far",
    "reachable-unknown": "What the KL could buy is not known",
    "infinite-rewards": "Rewards of -inf make mean rewards -inf",
    "flat-frontier": "The frontier is a point",
    "best-of-n-without-error": "The reward of the best of many has no error",
    "partial-excess": "The excess of diversity is that of some prompts only",
    "steps-out-of-order": "Steps do not follow one another in the files",
    "steps-twice": "Several files hold the same step",
    "left-out": "Some rows are no samples, or have no reward, and are left out",
    "passed-over": "Some files are passed over",
    "not-available": "Something is not available",
    "one-prompt": "There is one prompt",
    "few-prompts": "Standard errors are rough: they rest on few prompts",
    "without-gold": "Completions without a gold reward are left out",
    "texts-not-ids": "There are texts, not token ids",
    "retokenised": "Texts that are tokenised again need not give the ids that were sampled",
    "unshared-prompts": "Only prompts that all samples share are compared",
    "rounded": "Values that rounding left beyond 0 are read as 0",
}
_RANK = {code: rank for rank, code in enumerate(HEADLINES)}


class ReportWarning(str):
    """A warning: the sentences that a reader sees, and the parts that they are made of.

    Attributes
    ----------
    code
        Which kind it is, one of `HEADLINES`; it stays the same from version to version.
    what
        What is wrong, in a line; of a kind that only a newer version knows, the evidence.
    where
        The samples or policies that it is about, by name; empty where there is only one.
    evidence
        What was seen and what it means, in sentences.
    remedy
        What to do, in sentences; empty where nothing is to be done.

    Examples
    --------
    >>> warning = ReportWarning("infinite-kl", "The prior cannot produce 2 of 8 completions.", "Leave them out.")
    >>> print(warning.at("tuned"))
    tuned: The prior cannot produce 2 of 8 completions. Leave them out.
    >>> warning.what
    'The KL is infinite'
    """

    code: str
    what: str
    where: tuple[str, ...]
    evidence: str
    remedy: str

    __slots__ = ("code", "evidence", "remedy", "what", "where")
    _fields = ("code", "what", "where", "evidence", "remedy")

    def __new__(cls, code: str, evidence: str, remedy: str = "", where: tuple[str, ...] = ()) -> ReportWarning:
        """Make the sentences of their parts."""
        named = f"{', '.join(where)}: " if where else ""
        warning = super().__new__(cls, f"{named}{evidence}{' ' if remedy else ''}{remedy}")
        warning.code, warning.what, warning.where = code, HEADLINES.get(code, evidence), where
        warning.evidence, warning.remedy = evidence, remedy
        return warning

    def __reduce__(self) -> tuple[type[ReportWarning], tuple[str, str, str, tuple[str, ...]]]:
        return ReportWarning, (self.code, self.evidence, self.remedy, self.where)

    def _asdict(self) -> dict[str, str | tuple[str, ...]]:
        return {name: getattr(self, name) for name in self._fields}

    def at(self, *where: str) -> ReportWarning:
        """Return the warning with the names of what it is about."""
        return ReportWarning(self.code, self.evidence, self.remedy, where)


def merge_warnings(warnings: Iterable[ReportWarning]) -> tuple[ReportWarning, ...]:
    """Return each warning once, with all that it is about, the gravest first.

    Examples
    --------
    >>> rough = ReportWarning("few-prompts", "There are only 3 prompts.", "Draw more.")
    >>> infinite = ReportWarning("infinite-kl", "The prior cannot produce 2 of 8 completions.")
    >>> for warning in merge_warnings([rough.at("one"), infinite.at("two"), rough.at("two")]):
    ...     print(warning)
    two: The prior cannot produce 2 of 8 completions.
    one, two: There are only 3 prompts. Draw more.
    """
    where: dict[ReportWarning, list[str]] = {}
    for warning in warnings:
        names = where.setdefault(warning.at(), [])
        names += (name for name in warning.where if name not in names)
    return tuple(
        warning.at(*names)
        for warning, names in sorted(where.items(), key=lambda found: _RANK.get(found[0].code, len(_RANK)))
    )
