"""What targets would give, as a table for the terminal, as JSON, and as a picture in a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from esscher.atomic import replacing
from esscher.estimate import Estimate
from esscher.report import digits

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from esscher.compare import Comparison, PolicyPoint
    from esscher.estimate import Interval
    from esscher.frontier import Curve
    from esscher.prototype import Prototype

# Rows of the table: the prior's end, the limit of what is trusted, and what lies evenly between them.
ROWS = 8
PICTURES = (".svg", ".png")
CURVES = ("log_z", "reward", "kl", "prior_kl", "total_variation")

Json = dict[str, Any]


class FrontierRow(NamedTuple):
    """What the target at one beta would give, in words and figures."""

    beta: str
    reward: str
    kl: str
    log_z: str
    total_variation: str
    ess: str
    pareto_k: str
    trusted: bool


class BestRow(NamedTuple):
    """What the best of n samples gives."""

    n: str
    reward: str
    kl: str


class PolicyRow(NamedTuple):
    """A policy beside the frontier."""

    name: str
    reward: str
    kl: str
    reachable: str
    efficiency: str
    gap: str
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
    agree: str


class DiversityRow(NamedTuple):
    """Diversity of the target at one beta."""

    beta: str
    kl: str
    values: tuple[str, ...]


def frontier_rows(found: Prototype) -> tuple[FrontierRow, ...]:
    """Return points of the frontier, evenly spaced in the square root of KL, and the first that is not trusted."""
    curve = found.frontier
    trusted = np.flatnonzero(curve.trusted)
    roots = np.sqrt(np.maximum(curve.kl.value, 0.0))[trusted]
    wanted = np.linspace(roots.min(), roots.max(), ROWS) if len(trusted) else np.empty(0)
    chosen = sorted({int(trusted[np.abs(roots - root).argmin()]) for root in wanted})
    beyond = np.flatnonzero(~curve.trusted)[:1].tolist()
    return tuple(_frontier_row(found, i) for i in [*chosen, *beyond])


def best_rows(found: Prototype) -> tuple[BestRow, ...]:
    """Return best-of-n for each n but 1, which is the prior; of the KL, which hardly varies, the value only."""
    best = found.best_of_n
    columns = (best.n.tolist(), best.reward.value.tolist(), best.reward.stderr.tolist(), best.kl.value.tolist())
    return tuple(
        BestRow(str(n), digits.estimate(Estimate(reward, stderr)), digits.number(kl))
        for n, reward, stderr, kl in zip(*columns, strict=True)
        if n > 1
    )


def diversity_rows(found: Prototype) -> tuple[DiversityRow, ...]:
    """Return the diversity of the target, from the prior on."""
    return tuple(
        DiversityRow(
            "prior" if np.isinf(at.beta) else digits.number(at.beta, 3),
            digits.number(at.kl, 3) if at.kl else "0",
            tuple(digits.estimate(metric.within) for metric in at.metrics),
        )
        for at in found.diversity
    )


def policy_rows(policies: Sequence[PolicyPoint]) -> tuple[PolicyRow, ...]:
    """Return the policies; `excess` is that of the first metric, distinct 2-grams of two completions."""
    return tuple(
        PolicyRow(
            policy.name,
            digits.estimate(policy.reward),
            digits.estimate(Estimate(policy.kl.value, policy.kl.stderr)),
            "not known" if policy.reachable is None else digits.number(policy.reachable.value, 3),
            "not known" if policy.efficiency is None else _percent(policy.efficiency),
            _or_unknown(policy.inference_gap),
            _or_unknown(policy.excess_collapse[0].within if policy.excess_collapse else None),
        )
        for policy in policies
    )


def log_z_rows(policies: Sequence[PolicyPoint]) -> tuple[LogZRow, ...]:
    """Return log Z of the target of each policy that has one."""
    return tuple(
        LogZRow(
            policy.name,
            str(policy.target),
            _bound(policy, 0),
            digits.estimate(policy.log_z.prior),
            digits.estimate(policy.log_z.policy),
            _or_unknown(policy.log_z.both),
            _bound(policy, 1),
            "yes" if policy.log_z.agree else f"no, {policy.log_z.difference:.1f} standard errors apart",
        )
        for policy in policies
        if policy.log_z is not None
    )


def diversity_names(found: Prototype) -> tuple[str, ...]:
    """Return what the columns of `diversity_rows` are."""
    return tuple(metric.metric for metric in found.diversity[0].metrics)


def counts(found: Prototype) -> str:
    """Return how much there was, in one line."""
    return f"{digits.plural(found.prompts, 'prompt')}, {digits.plural(found.completions, 'completion')} of the prior"


def footnote(found: Prototype) -> str:
    """Say what ± means, and what it assumes."""
    return f"± is one standard error. Intervals are of 95 %, if {found.frontier.assumes}."


def print_comparison(found: Comparison, console: Console | None = None) -> None:
    """Print policies beside the frontier, then what targets would give."""
    console = console or Console()
    _section(console, "Policies, and what their KL could buy", _policies(found.policies))
    targets = dict.fromkeys(str(policy.target) for policy in found.policies if policy.target is not None)
    against = "the target of the same KL" if len(targets) > 1 else next(iter(targets), "no target")
    console.print(Text(f"  Gap (nats) and excess of distinct-2 are against {against}.", "dim"))
    if any(policy.log_z is not None for policy in found.policies):
        _section(console, "log Z of these targets, nats: by whose samples?", _log_z(found.policies))
    console.print()
    print_prototype(replace(found.prototype, warnings=found.warnings), console)


def print_prototype(found: Prototype, console: Console | None = None) -> None:
    """Print what targets would give: the frontier, best-of-n, diversity, and warnings."""
    console = console or Console()
    console.print(Text(counts(found), "bold"))
    if found.warnings:
        _section(console, "Before trusting these numbers", Text("\n".join(found.warnings)), "bold yellow")
    _section(console, "Targets prior·exp(reward/beta)/Z: the most reward at each KL", _frontier(found))
    if not found.frontier.trusted.all():
        console.print(Text("  The last line is not to be trusted: too few samples carry it.", "dim"))
    _section(console, "Best of n samples of the prior", _best(found))
    _section(console, "Diversity of the target, within prompts", _diversity(found))
    console.print(Text(f"\n{footnote(found)}", "dim"))


def comparison_to_json(found: Comparison) -> str:
    """Return everything as indented JSON, with the rules of `prototype_to_json`."""
    record = _record(found.prototype) | {
        "policies": [_policy(policy) for policy in found.policies],
        "warnings": list(found.warnings),
    }
    return json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False)


def prototype_to_json(found: Prototype) -> str:
    """Return everything as indented JSON; NaN becomes null, infinities "inf" and "-inf"."""
    return json.dumps(_record(found), indent=2, allow_nan=False, ensure_ascii=False)


def _policy(policy: PolicyPoint) -> Json:
    return {
        "name": policy.name,
        "reward": _estimate(policy.reward, policy.reward_interval),
        "kl": _estimate(Estimate(policy.kl.value, policy.kl.stderr), policy.kl.interval),
        "kl_signature": policy.kl.signature,
        "beta": policy.beta,
        "reachable": _estimate(policy.reachable),
        "efficiency": _estimate(policy.efficiency, policy.efficiency_interval),
        "target": None if policy.target is None else str(policy.target),
        "log_z": _log_z_record(policy),
        "inference_gap": _estimate(policy.inference_gap, policy.inference_gap_interval),
        "excess_collapse": {
            excess.metric: _estimate(excess.within, excess.interval) for excess in policy.excess_collapse
        },
    }


def _log_z_record(policy: PolicyPoint) -> Json | None:
    if policy.log_z is None:
        return None
    lower, upper = policy.log_z_bounds or (None, None)
    return {
        "prior": _estimate(policy.log_z.prior),
        "policy": _estimate(policy.log_z.policy),
        "both": _estimate(policy.log_z.both),
        "elbo": _estimate(lower),
        "eubo": _estimate(upper),
        "difference": _number(policy.log_z.difference),
        "agree": policy.log_z.agree,
    }


def _estimate(estimate: Estimate | None, interval: Interval | None = None) -> Json | None:
    if estimate is None:
        return None
    record = {"value": _number(estimate.value), "stderr": _number(estimate.stderr)}
    return record if interval is None else record | {"low": _number(interval.low), "high": _number(interval.high)}


def _record(found: Prototype) -> Json:
    curve, best = found.frontier, found.best_of_n
    return {
        "version": found.version,
        "prompts": found.prompts,
        "completions": found.completions,
        "frontier": {
            "beta": _column(curve.beta),
            **{name: _curve(getattr(curve, name)) for name in CURVES},
            "ess": _column(curve.ess),
            "pareto_k": _column(curve.pareto_k),
            "trusted": curve.trusted.tolist(),
            "prior_reward": {"value": _number(curve.prior_reward.value), "stderr": _number(curve.prior_reward.stderr)},
            "highest_reward": _number(curve.highest_reward),
            "assumes": curve.assumes,
        },
        "best_of_n": {
            "n": best.n.tolist(),
            "reward": _curve(best.reward),
            "kl": _curve(best.kl),
            "kl_is_bound": best.kl_is_bound,
        },
        "diversity": [
            {
                "beta": _number(at.beta),
                "kl": _number(at.kl),
                "metrics": {
                    metric.metric: {"value": _number(metric.within.value), "stderr": _number(metric.within.stderr)}
                    for metric in at.metrics
                },
            }
            for at in found.diversity
        ],
        "warnings": list(found.warnings),
    }


def write_picture(found: Prototype, path: str | os.PathLike[str], policies: Sequence[PolicyPoint] = ()) -> None:
    """Write the picture of the frontier as SVG or PNG, by the path's suffix; the file appears whole or not at all.

    Raises
    ------
    ValueError
        If the suffix is another, or the path is a folder.
    """
    check_picture(path)
    # Importing altair takes most of a second, which only those who want a picture should wait.
    from esscher.report import charts
    from esscher.report.frontier_chart import frontier_chart

    drawn = frontier_chart(found, policies)
    picture = charts.png(drawn) if Path(path).suffix == ".png" else charts.svg(drawn, "white").encode()
    with replacing(path) as file:
        file.write(picture)


def check_picture(path: str | os.PathLike[str]) -> None:
    """Raise `ValueError` if a picture cannot be written under such a name."""
    if Path(path).suffix not in PICTURES:
        raise ValueError(f"{path}: a picture is .svg or .png, name it so")


def _frontier_row(found: Prototype, i: int) -> FrontierRow:
    curve = found.frontier
    at = {name: digits.estimate(Estimate(*(float(x[i]) for x in getattr(curve, name)[:2]))) for name in CURVES}
    return FrontierRow(
        beta=digits.number(float(curve.beta[i]), 3),
        reward=at["reward"],
        kl=at["kl"],
        log_z=at["log_z"],
        total_variation=at["total_variation"],
        ess=digits.share(float(curve.ess[i]), found.completions),
        pareto_k=digits.number(float(curve.pareto_k[i]), 2),
        trusted=bool(curve.trusted[i]),
    )


def _section(console: Console, title: str, body: Table | Text, style: str = "bold") -> None:
    console.print()
    console.print(Text(title, style))
    console.print(Padding(body, (0, 0, 0, 2), expand=False))


def _grid(*headings: str) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in headings:
        table.add_column(overflow="fold")
    table.add_row(*(Text(heading, "dim") for heading in headings))
    return table


def _frontier(found: Prototype) -> Table:
    table = _grid("beta", "reward", "KL, nats", "log Z", "ESS", "Pareto k")
    prior = digits.estimate(found.frontier.prior_reward)
    table.add_row(Text("prior"), Text(prior, "cyan"), Text("0", "cyan"), Text("0", "cyan"), "", "")
    for row in frontier_rows(found):
        style = "cyan" if row.trusted else "dim"
        cells = (row.reward, row.kl, row.log_z, row.ess, row.pareto_k)
        table.add_row(Text(row.beta), *(Text(cell, style) for cell in cells))
    return table


def _policies(policies: Sequence[PolicyPoint]) -> Table:
    table = _grid("policy", "reward", "KL, nats", "reachable", "got", "gap", "excess")
    for row in policy_rows(policies):
        name, *cells = row
        table.add_row(Text(name), *(Text(cell, "cyan") for cell in cells))
    return table


def _log_z(policies: Sequence[PolicyPoint]) -> Table:
    table = _grid("policy", "ELBO", "by prior's", "by policy's", "by both", "EUBO", "agree")
    for row in log_z_rows(policies):
        cells = (row.lower, row.prior, row.policy, row.both, row.upper)
        table.add_row(Text(row.name), *(Text(cell, "cyan") for cell in cells), Text(row.agree))
    return table


def _or_unknown(estimate: Estimate | None) -> str:
    return "not known" if estimate is None else digits.estimate(estimate)


def _bound(policy: PolicyPoint, which: int) -> str:
    return "not known" if policy.log_z_bounds is None else digits.number(policy.log_z_bounds[which].value)


def _percent(share: Estimate) -> str:
    return f"{digits.estimate(Estimate(100 * share.value, 100 * share.stderr))} %"


def _best(found: Prototype) -> Table:
    table = _grid("n", "reward", "KL at most, nats" if found.best_of_n.kl_is_bound else "KL, nats")
    for row in best_rows(found):
        table.add_row(Text(row.n), Text(row.reward, "cyan"), Text(row.kl, "cyan"))
    return table


def _diversity(found: Prototype) -> Table:
    table = _grid("beta", "KL, nats", *diversity_names(found))
    for row in diversity_rows(found):
        table.add_row(Text(row.beta), Text(row.kl), *(Text(value, "cyan") for value in row.values))
    return table


def _number(value: float) -> float | str | None:
    if np.isnan(value):
        return None
    return float(value) if np.isfinite(value) else str(float(value))


def _column(values: NDArray[np.float64]) -> list[float | str | None]:
    return [_number(value) for value in values.tolist()]


def _curve(curve: Curve) -> Json:
    return {name: _column(values) for name, values in curve._asdict().items()}
