"""Print how often the frontier's 95 % intervals hold the exact value: `python tests/frontier_coverage.py`."""

from __future__ import annotations

from test_frontier import BETAS, CASES, QUANTITIES, REPETITIONS, coverage

NAMES = {"log_z": "log Z", "kl": "KL(target‖prior)", "prior_kl": "KL(prior‖target)", "total_variation": "TV"}


def main():
    print(f"| samples | beta | trusted | {' | '.join(NAMES.get(name, name) for name in QUANTITIES)} |")
    print("|" + "---|" * (3 + len(QUANTITIES)))
    for case, arguments in CASES.items():
        shares, trusted = coverage(*arguments)
        for b, beta in enumerate(BETAS):
            cells = [cell(shares[name][b], trusted[name][b], trusted["kl"][b]) for name in QUANTITIES]
            print(f"| {case} | {beta:g} | {100 * trusted['kl'][b] / REPETITIONS:.0f} | {' | '.join(cells)} |")


def cell(share, shown, trusted):
    """A share in percent; in brackets in what share of the trusted repetitions there is an interval, if not in all."""
    if shown < 0.05 * REPETITIONS:
        return ""
    return f"{100 * share:.0f}" if shown == trusted else f"{100 * share:.0f} ({100 * shown / trusted:.0f})"


if __name__ == "__main__":
    main()
