"""Policies beside the frontier, as tables for the terminal and as a page."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from esscher.estimate import Estimate
from esscher.report.digits import OF_THESE, estimate, number
from esscher.report.prototype import print_prototype, write_prototype_page
from esscher.report.table import Table, headings, print_beside, turned, without

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from esscher.compare import Comparison, LogZ, PolicyPoint

ERROR_OF_LOG_Z = (
    f"± of log Z by samples is {OF_THESE}: other completions of them would differ by about as much, other "
    "prompts by more. Every other ± holds that, too. ± ?: a bias is left that is not small, and there is no error."
)
BOTH = "log Z by both"
BY = {"prior": "by the prior's", "policy": "by the policy's", "both": "by both"}


def tables(found: Comparison) -> tuple[Table, ...]:
    """Return the policies, with the excess of the first metric, distinct 2-grams of two completions; then log Z."""
    columns = headings(
        *("policy", "reward", "KL(policy‖prior), nats", "reachable reward at this KL", "got of the gain to it"),
        *("gap to the target, nats", "gap by its own samples alone", "excess of distinct-2"),
    )
    beside = Table("Policies, and what their KL could buy", columns, tuple(map(_policy_row, found.policies)))
    log_z = _log_z(found.policies, found.prototype.prompts)
    return (beside, log_z) if log_z.rows else (beside,)


def print_comparison(found: Comparison, console: Console | None = None, *, explain: bool = False) -> None:
    """Print policies beside the frontier, then what targets would give."""
    console = console or Console()
    for table in tables(found):
        print_beside(console, turned(table))
    console.print()
    print_prototype(replace(found.prototype, warnings=found.warnings), console, explain=explain)


def write_comparison_page(
    found: Comparison, path: str | os.PathLike[str], title: str = "How good could they be?"
) -> None:
    """Write policies beside the frontier as a page, as `write_prototype_page` does the frontier alone."""
    whole = replace(found.prototype, warnings=found.warnings)
    write_prototype_page(whole, path, title, found.policies, tables(found))


def _policy_row(policy: PolicyPoint) -> tuple[str, ...]:
    share = policy.efficiency
    return (
        policy.name,
        estimate(policy.reward),
        estimate(policy.kl),
        estimate(policy.reachable),
        "not known" if share is None else f"{estimate(Estimate(100 * share.value, 100 * share.stderr))} %",
        estimate(policy.inference_gap),
        estimate(policy.own_inference_gap),
        estimate(policy.excess_collapse[0].within if policy.excess_collapse else None),
    )


def _log_z(policies: Sequence[PolicyPoint], prompts: int) -> Table:
    """Return log Z of the target of each policy that has one, by every way that there is."""
    rows = tuple(
        (
            policy.name,
            str(policy.target),
            estimate(policy.log_z.prior),
            estimate(policy.log_z.policy),
            "" if policy.log_z.both is None else estimate(policy.log_z.both),
            _best(policy.log_z, prompts),
            "not known" if policy.log_z_bounds is None else ", ".join(number(one.value) for one in policy.log_z_bounds),
            _agreement(policy.log_z, prompts),
        )
        for policy in policies
        if policy.log_z is not None
    )
    columns = headings(
        *("policy", "target", "log Z by the prior's samples", "log Z by the policy's", BOTH, "the gap uses log Z"),
        *("its bounds, ELBO and EUBO", "the first two agree"),
    )
    table = Table("log Z of these targets, nats", columns, rows, (ERROR_OF_LOG_Z,))
    return table if any(policy.log_z and policy.log_z.both for policy in policies) else without(table, BOTH)


def _best(log_z: LogZ, prompts: int) -> str:
    """Say by which samples log Z is the best, and in how many prompts if not in all."""
    if len(log_z.best_by) == 1:
        return BY[next(iter(log_z.best_by))]
    return ", ".join(f"{BY[name]} in {count} of {prompts}" for name, count in log_z.best_by.items())


def _agreement(log_z: LogZ, prompts: int) -> str:
    if log_z.agree is None:
        return "not known"
    where = "" if log_z.compared == prompts else f" (in {log_z.compared} of {prompts} prompts)"
    return f"yes{where}" if log_z.agree else f"no, {number(log_z.difference, 3)} standard errors apart{where}"
