"""Makes the tables and the picture of docs/training.md from what the recipe wrote, one folder for each seed.

for seed in 0 1 2; do esscher train --recipe dissociation --seed $seed --output out/dissociation-$seed; done
python docs/training_figure.py out/dissociation-0 out/dissociation-1 out/dissociation-2
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from esscher import files
from esscher.compare import compare
from esscher.report.prototype import write_picture

FIGURE = Path(__file__).parent / "figures" / "training.svg"
ROWS = {
    "reward": lambda one: one["report"]["reward"],
    "KL(policy‖prior), exact, nats": lambda one: one["report"]["kl"]["exact"],
    "the same by token k3": lambda one: one["report"]["kl"]["k3"],
    "entropy, nats a token": lambda one: one["entropy"],
    "KL(policy‖target), the gap": lambda one: one["inference_gap"],
    "KL(target‖policy)": lambda one: one["forward_kl"],
    "distinct-2": lambda one: diversity(one, "distinct-2"),
    "self-BLEU-4": lambda one: diversity(one, "self-bleu-4 (method1)"),
    "excess of distinct-2 of two": lambda one: one["excess_collapse"],
    "different completions": lambda one: diversity(one, "unique share"),
}


def main() -> None:
    """Print the table, and draw the picture of the first run."""
    folders = [Path(name) for name in sys.argv[1:]]
    if not folders:
        sys.exit(f"name the folders: {__doc__}")
    runs = [json.loads((folder / "dissociation.json").read_text()) for folder in folders]
    print(table(runs))
    draw(folders[0], runs[0])


def table(runs: list[dict[str, Any]]) -> str:
    """Return a row for each number, with mean and standard deviation over the runs."""
    names = [outcome["name"] for outcome in runs[0]["outcomes"]]
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for row, number in ROWS.items():
        cells = [spread([number(run["outcomes"][i])["value"] for run in runs]) for i in range(len(names))]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    shares = [spread([share(run, i) for run in runs]) for i in range(len(names))]
    return "\n".join([*lines, f"| entropy, share of the prior's | {' | '.join(shares)} |"])


def share(run: dict[str, Any], i: int) -> float:
    """Say how much of the prior's entropy an outcome has kept."""
    return float(run["outcomes"][i]["entropy"]["value"] / run["outcomes"][0]["entropy"]["value"])


def spread(values: list[float]) -> str:
    """Write the mean of the runs, and their standard deviation if there are several."""
    return f"{mean(values):.3g} ± {stdev(values):.1g}" if len(values) > 1 else f"{values[0]:.3g}"


def diversity(outcome: dict[str, Any], name: str) -> dict[str, Any]:
    """Find the mean over prompts of a metric within their completions."""
    (found,) = (one["within"] for one in outcome["report"]["diversity"] if one["metric"] == name)
    return dict(found)


def draw(folder: Path, run: dict[str, Any]) -> None:
    """Draw the frontier, with the policies on it."""
    names = [outcome["name"] for outcome in run["outcomes"][1:]]
    prior, *policies = (files.read([folder / f"{name}.parquet"]).samples for name in ("prior", *names))
    found = compare(prior, dict(zip(names, policies, strict=True)), run["settings"]["beta"])
    write_picture(found.prototype, FIGURE, found.policies)


if __name__ == "__main__":
    main()
