"""Recipes against each other as one offline page: verdicts, the multiplier over compute, its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from scaling_jax.charts import Chart
from scaling_jax.report import html
from scaling_jax.report.tables import Table, flops


def page(comparisons: Mapping[str, Any], chart: Chart, rows: Sequence[pd.DataFrame], notes: Sequence[str]) -> str:
    """The page.

    Args:
      comparisons: metric -> `fitting.Comparison`.
      chart: of `fitting.plots.multipliers`.
      rows: of each, the table of its multipliers.
      notes: sentences on what was left out.
    """
    parts = []
    for (metric, found), frame in zip(comparisons.items(), rows):
        cells = tuple(
            (str(recipe), flops(C), f"{value:.3g}", f"{low:.3g} to {high:.3g}", "" if inside else "extrapolated")
            for recipe, C, value, low, high, inside in frame[list(frame.columns[:6])].itertuples(index=False, name=None)
        )
        header = ("recipe", f"compute of {found.names[0]}", "multiplier", f"{found.level:.0%} interval", "")
        kinds = tuple("" if inside else "beyond" for inside in frame[frame.columns[5]])
        reasons = found.reasons if len(found.names) == 2 else []
        parts.append((metric, found.verdict, reasons, str(found.floor), Table(header, cells, kinds)))
    names = next(iter(comparisons.values())).names
    return html.render(
        "compare.html.j2", {chart.name: chart}, title=f"{' against '.join(names)} \u00b7 comparison", names=names,
        parts=parts, chart=chart, notes=notes,
    )  # fmt: skip
