"""Print how often 95 % intervals of reports hold the exact value, in minutes: `python tests/coverage_table.py`."""

from __future__ import annotations

import numpy as np

from esscher.estimate import trusted_pareto_k
from test_coverage import CASES, LEAST, MOST, POLICIES, QUANTITIES, covered, policy, repeat, z_scores

REPETITIONS = 1000
NAMES = {
    "reward": "mean reward",
    "k1": "KL, k1",
    "exact": "KL, exact",
    "k3": "KL, k3",
    "k1_cv": "KL, k1_cv",
    "elbo": "ELBO",
    "log_z": "log Z",
    "eubo": "EUBO",
    "target_reward": "reward of the target",
    "inference_gap": "inference gap",
    "forward_kl": "KL(target‖policy)",
    "distinct-2 of 2": "excess, distinct-2 of 2",
    "repetition-3": "excess, repetition-3",
    "efficiency": "efficiency",
}


def main():
    found = {name: {case: repeat(case, name, REPETITIONS) for case in CASES} for name in POLICIES}
    for name, of_policy in found.items():
        print(f"{name}: KL(policy‖target) = {policy(name).exact['inference_gap']:.2f}\n")
        print("\n".join([header(), *rows(name, of_policy)]), end="\n\n")
    print("To find out why, and not for the page:")
    for name, of_policy in found.items():
        print("\n".join(reasons(name, of_policy)))


def header():
    return f"| | {' | '.join(CASES)} |\n|---|{'---|' * len(CASES)}"


def rows(name, found):
    """Return the lines of the table: percentages that hold the exact value, and in brackets those with a warning."""
    shares = {case: 100 * covered(repetitions, name).mean(axis=0) for case, repetitions in found.items()}
    warned = {case: 100 * repetitions.warned.mean(axis=0) for case, repetitions in found.items()}
    for i, quantity in enumerate(QUANTITIES):
        cells = [cell(shares[case][i], warned[case][i]) for case in found]
        yield f"| {NAMES[quantity]} | {' | '.join(cells)} |"


def cell(share, warned):
    told = f" ({warned:.0f})" if warned >= 1 else ""
    is_kept = 100 * LEAST <= round(share) <= 100 * MOST
    return f"{share:.0f}{told}" if is_kept else f"**{share:.0f}**{told}"


def reasons(name, found):
    """Say how often Pareto k is too large, and by how many standard errors values are off: 0 ± 1 is ideal."""
    for case, repetitions in found.items():
        z = z_scores(repetitions, name)
        pairs = zip(QUANTITIES, z.mean(axis=0), z.std(axis=0), strict=True)
        yield f"{name}, {case}: Pareto k {pareto_k(repetitions.pareto_k, CASES[case][1])}"
        yield "  " + ", ".join(f"{quantity} {mean:+.2f} ± {spread:.2f}" for quantity, mean, spread in pairs)


def pareto_k(k, completions):
    if np.isnan(k).all():
        return "is of no prompt"
    beyond = k > trusted_pareto_k(completions)
    half = beyond.sum(axis=1) > 0.5 * (~np.isnan(k)).sum(axis=1)
    return f"is too large in a prompt in {beyond.any(axis=1).mean():.0%} of repetitions, in a half in {half.mean():.0%}"


if __name__ == "__main__":
    main()
