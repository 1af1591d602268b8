"""Print how often 95 % intervals of reports hold the exact value, in minutes: `python tests/coverage_table.py`."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial

from test_coverage import CASES, POLICIES, QUANTITIES, covered, exact, is_kept, printed, repeat

REPETITIONS = 300
# Where a report has an interval or no warning less often, nothing is said of how often it holds.
FEWEST = 0.05
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
    "best_gap": "gap, with the prior's samples",
}


def main():
    with ProcessPoolExecutor() as pool:
        found = dict(zip(CASES, pool.map(partial(repeat, repetitions=REPETITIONS), CASES), strict=True))
    for name in POLICIES:
        gap, forward = exact(name)["inference_gap"], exact(name)["forward_kl"]
        print(f"<!-- {name}: KL(policy‖target) {gap:.2f}, KL(target‖policy) {forward:.2f} -->\n")
        of_policy = {case: repetitions for case, repetitions in found.items() if CASES[case][0] == name}
        print("\n".join([header(of_policy), *rows(of_policy)]), end="\n\n")


def header(found):
    return f"| | {' | '.join(case.partition(', ')[2] for case in found)} |\n|---|{'---|' * len(found)}"


def rows(found):
    for i, quantity in enumerate(QUANTITIES):
        yield f"| {NAMES[quantity]} | {' | '.join(cell(found[case], case, i) for case in found)} |"


def cell(found, case, i):
    """Percentages: of intervals that hold the exact value; printed, if not always; with a warning, after "w"."""
    shown, warned = printed(found)[:, i], found.warned[:, i]
    if shown.mean() < FEWEST:
        return "none"
    held = covered(found, case)[:, i]
    share = f"{100 * held[shown].mean():.0f}"
    plain = shown & ~warned
    if plain.mean() >= FEWEST and not is_kept(held[plain].mean(), plain.sum()):
        share = f"**{share}**"
    said = f" ({100 * shown.mean():.0f})" if shown.mean() < 1 else ""
    return share + said + (f" w{100 * warned.mean():.0f}" if warned.mean() >= FEWEST else "")


if __name__ == "__main__":
    main()
