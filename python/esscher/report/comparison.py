"""Policies beside the frontier, as a table for the terminal."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from esscher.estimate import Estimate
from esscher.report import digits
from esscher.report.prototype import print_prototype, print_section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from esscher.compare import Comparison, LogZ, PolicyPoint

ERROR_OF_LOG_Z = (
    f"± of log Z by samples is {digits.OF_THESE}: other completions of them would differ by about as much, other "
    "prompts by more. Every other ± holds that, too. ± ?: a bias is left that is not small, and there is no error."
)
# Widths in characters: of what a number is called, and of the numbers of one policy.
NAMES, NUMBERS = 30, 18


class PolicyRow(NamedTuple):
    """A policy beside the frontier."""

    name: str
    reward: str
    kl: str
    reachable: str
    efficiency: str
    gap: str
    own_gap: str
    excess: str


class LogZRow(NamedTuple):
    """log Z of a policy's target, by every way that there is."""

    name: str
    target: str
    lower: str
    prior: str
    policy: str
    both: str
    upper: str
    best: str
    agree: str


def policy_rows(policies: Sequence[PolicyPoint]) -> tuple[PolicyRow, ...]:
    """Return the policies; `excess` is that of the first metric, distinct 2-grams of two completions."""
    return tuple(
        PolicyRow(
            policy.name,
            digits.estimate(policy.reward),
            digits.estimate(Estimate(policy.kl.value, policy.kl.stderr)),
            "not known" if policy.reachable is None else digits.estimate(policy.reachable),
            "not known" if policy.efficiency is None else _percent(policy.efficiency),
            _or_unknown(policy.inference_gap),
            _or_unknown(policy.own_inference_gap),
            _or_unknown(policy.excess_collapse[0].within if policy.excess_collapse else None),
        )
        for policy in policies
    )


def log_z_rows(policies: Sequence[PolicyPoint], prompts: int) -> tuple[LogZRow, ...]:
    """Return log Z of the target, over so many prompts, of each policy that has one; by both is empty if not known."""
    return tuple(
        LogZRow(
            policy.name,
            str(policy.target),
            _bound(policy, 0),
            digits.estimate(policy.log_z.prior),
            digits.estimate(policy.log_z.policy),
            "" if policy.log_z.both is None else digits.estimate(policy.log_z.both),
            _bound(policy, 1),
            _best(policy.log_z, prompts),
            _agreement(policy.log_z, prompts),
        )
        for policy in policies
        if policy.log_z is not None
    )


def print_comparison(found: Comparison, console: Console | None = None) -> None:
    """Print policies beside the frontier, then what targets would give."""
    console = console or Console()
    beside = max((console.width - NAMES) // NUMBERS, 1)
    for start in range(0, len(found.policies), beside):
        part = _table(found.policies[start : start + beside], found.prototype.prompts)
        print_section(console, "Policies, and what their KL could buy", part)
    if any(policy.log_z for policy in found.policies):
        console.print(Text(f"  {ERROR_OF_LOG_Z}", "dim"))
    console.print()
    print_prototype(replace(found.prototype, warnings=found.warnings), console)


def _table(policies: Sequence[PolicyPoint], prompts: int) -> Table:
    """One column for each policy; what none of them has is left out."""
    rows, log_z = policy_rows(policies), {row.name: row for row in log_z_rows(policies, prompts)}
    known = [log_z.get(row.name) for row in rows]
    numbers = {
        "reward": [row.reward for row in rows],
        "KL(policy‖prior), nats": [row.kl for row in rows],
        "reachable reward at this KL": [row.reachable for row in rows],
        "got of the gain to it": [row.efficiency for row in rows],
        "target": ["not known" if row is None else row.target for row in known],
        "gap to the target, nats": [row.gap for row in rows],
        "gap by its own samples alone": [row.own_gap for row in rows],
        "excess of distinct-2": [row.excess for row in rows],
        "log Z by the prior's samples": ["" if row is None else row.prior for row in known],
        "log Z by the policy's": ["" if row is None else row.policy for row in known],
        "log Z by both": ["" if row is None else row.both for row in known],
        "the gap uses log Z": ["" if row is None else row.best for row in known],
        "its bounds, ELBO and EUBO": ["" if row is None else f"{row.lower}, {row.upper}" for row in known],
        "the first two agree": ["" if row is None else row.agree for row in known],
    }
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for _ in policies:
        table.add_column(overflow="fold")
    table.add_row("", *(Text(row.name, "bold") for row in rows))
    for name, cells in numbers.items():
        if any(cells):
            table.add_row(Text(name), *(Text(cell, "cyan") for cell in cells))
    return table


def _best(log_z: LogZ, prompts: int) -> str:
    """Say by which samples log Z is the best, and in how many prompts if not in all."""
    names = {"prior": "by the prior's", "policy": "by the policy's", "both": "by both"}
    if len(log_z.best_by) == 1:
        return names[next(iter(log_z.best_by))]
    return ", ".join(f"{names[name]} in {count} of {prompts}" for name, count in log_z.best_by.items())


def _agreement(log_z: LogZ, prompts: int) -> str:
    if log_z.agree is None:
        return "not known"
    where = "" if log_z.compared == prompts else f" (in {log_z.compared} of {prompts} prompts)"
    return f"yes{where}" if log_z.agree else f"no, {digits.number(log_z.difference, 3)} standard errors apart{where}"


def _or_unknown(estimate: Estimate | None) -> str:
    return "not known" if estimate is None else digits.estimate(estimate)


def _bound(policy: PolicyPoint, which: int) -> str:
    return "not known" if policy.log_z_bounds is None else digits.number(policy.log_z_bounds[which].value)


def _percent(share: Estimate) -> str:
    return f"{digits.estimate(Estimate(100 * share.value, 100 * share.stderr))} %"
