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
            cells = [f"{100 * shares[name][b]:.0f}" if trusted[b] else "" for name in QUANTITIES]
            print(f"| {case} | {beta:g} | {100 * trusted[b] / REPETITIONS:.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
