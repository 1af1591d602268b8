"""Draws the pictures of docs/trend.md, and prints its story, from a run whose policy collapses.

esscher train --recipe dissociation --model alice --keep-samples --output out/dissociation
python docs/trend_figure.py out/dissociation/plain-rl
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from esscher import Tilt, files, summarise_step
from esscher.report import charts
from esscher.report.trend import print_trend
from esscher.report.trend_plots import overview_chart, path_chart
from esscher.trend import TrendRecorder, known_frontier

FIGURES = Path(__file__).parent / "figures"
BETA = 0.1


def main() -> None:
    """Tell the story of the run in a folder, and draw it."""
    if len(sys.argv) != 2:
        sys.exit(f"name the folder of a run: {__doc__}")
    folder, target = Path(sys.argv[1]), Tilt(BETA)
    known = known_frontier(files.read(folder / "prior.parquet").samples, target)
    recorder = TrendRecorder(str(target), known)
    for number, path in enumerate(sorted((folder / "samples").iterdir())):
        recorder.take(summarise_step(number, files.read(path).samples, target=target, known=known))
    story = recorder.story()
    print_trend(story, Console(width=100))
    (FIGURES / "trend.svg").write_text(charts.svg(overview_chart(story), "white"))
    (FIGURES / "trend-path.svg").write_text(charts.svg(path_chart(story, known.prototype), "white"))


if __name__ == "__main__":
    main()
