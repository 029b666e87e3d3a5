r"""The report's page: its size, the time it takes to make, and how fast it opens in headless Chromium.

    python benchmarks/page.py [--runs 1000 2000 10000] [--keep FOLDER]

Simulated ladders of 14 scales, ten budgets and two learning rates, with as many seeds as make up the runs; 12-point
learning curves. CPU seconds of the analysis and the report are of this process: reading, fitting, checking and drawing,
libraries imported. Those of the page are of all of Chromium's processes, from the navigation to the first points drawn
and to the last chart; the seconds beside them are wall time, which a busy machine stretches.
"""

import argparse
import pathlib
import sys
import tempfile
import time

import numpy as np

from scaling_jax import analysis, report
from scaling_jax.charts import matplotlib_figure  # noqa: F401  imported before anything is timed
from scaling_jax.text import table

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
import browser
import simulated

WIDTHS = [int(16 * 1.25**i) for i in range(14)]


def measured(runs: int, folder: pathlib.Path) -> list[str]:
    """Cells of a row: runs, CPU seconds of the analysis and of the report, MB, seconds to the first chart, to all."""
    seeds = range(max(round(runs / (len(WIDTHS) * 20)), 1))
    ladder = simulated.ladder(widths=WIDTHS, flops=np.geomspace(1e12, 1e16, 10), tokens=(), seeds=seeds)
    curves = simulated.curves(ladder, points=12)
    begin = time.process_time()
    found = analysis.analyse(ladder, curves, name=f"{runs} runs")
    print(f"{len(ladder)} runs: {found.verdict}", flush=True)
    middle = time.process_time()
    report.write_report(found, folder)
    end = time.process_time()
    page = folder / "index.html"
    cells = [f"{len(ladder)}", f"{middle - begin:.1f}", f"{end - middle:.1f}", f"{page.stat().st_size / 1e6:.2f}"]
    if browser.CHROMIUM is None:
        return [*cells, *"----"]
    tab = browser.Browser()
    try:
        begin = tab.cpu_seconds()
        first = tab.open(page, until="document.querySelector('figure .js-plotly-plot .points path')")
        middle = tab.cpu_seconds()
        tab.wait("document.documentElement.dataset.ready === 'yes'", 300)
        last, end = tab.eval("performance.now() / 1000"), tab.cpu_seconds()
        return [*cells, f"{first:.1f}", f"{middle - begin:.1f}", f"{last:.1f}", f"{end - begin:.1f}"]
    finally:
        tab.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[1000, 2000, 10000])
    parser.add_argument("--keep", default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(args.keep or temporary)
        header = ("runs", "CPU s: analysis", "report", "MB", "s to first chart", "CPU s", "s to all charts", "CPU s")
        print(table(header, [measured(runs, folder / str(runs)) for runs in args.runs]))


if __name__ == "__main__":
    main()
