"""One Analysis as figures, one offline HTML page, JSON, and a summary for the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from scaling_jax import charts
from scaling_jax.analysis import Analysis
from scaling_jax.charts import figure_of, picture_of
from scaling_jax.errors import UserError
from scaling_jax.report import figures, html, text
from scaling_jax.report.as_json import as_json
from scaling_jax.report.plot import Plots
from scaling_jax.storage.paths import as_path, write_atomic

__all__ = ["FORMATS", "Plots", "as_json", "check_formats", "preload", "write_report"]

FORMATS = ("png", "svg", "pdf")
FIRST = ("frontier", "law")  # the picture that represents a report, e.g. in a README


def write_report(
    analysis: Analysis, out_dir: Any, formats: Sequence[str] = (), about: Mapping[str, Any] | None = None
) -> str:
    """Writes index.html, summary.json, summary.txt and figures into out_dir, each whole or not at all.

    Args:
      analysis: everything that is shown.
      out_dir: local folder or gs:// path; made if missing. Figures of an earlier report that this one does not draw
        are removed.
      formats: of "png", "svg", "pdf", in which every figure is written for a paper. Without them the one of loss
        against compute is, as .png.
      about: of the workdir: see `html.page`.

    Returns:
      The summary for the terminal.

    Raises:
      UserError: another format.
    """
    check_formats(formats)
    folder = as_path(out_dir)
    drawings = figures.charts(analysis)
    page = html.page(analysis, drawings, about)
    files: dict[str, bytes] = {}
    for name, chart in drawings.items():
        wanted = tuple(formats) or (("png",) if name in FIRST else ())
        drawn = figure_of(chart) if wanted else None
        files |= {f"{name}.{kind}": picture_of(chart, kind, drawn) for kind in wanted}
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in files.items():
        write_atomic(folder / name, picture)
    for path in (p for kind in FORMATS for p in folder.glob(f"*.{kind}")):
        if path.name not in files and figures.is_name(path.stem):
            path.unlink()
    summary = text.summary(analysis, f"report: {folder}/index.html  (summary.json beside it)")
    write_atomic(folder / "summary.json", json.dumps(as_json(analysis), indent=1, allow_nan=False) + "\n")
    write_atomic(folder / "summary.txt", summary + "\n")
    write_atomic(folder / "index.html", page)
    return summary


def preload() -> None:
    """Imports what analysis and figures import only when they need it: a second, for a thread beside training."""
    from scipy import interpolate, optimize, special  # noqa: F401

    charts.preload()


def check_formats(formats: Sequence[str]) -> None:
    """Raises UserError for a format that no figure is written in."""
    if unknown := [kind for kind in formats if kind not in FORMATS]:
        raise UserError(f"figures are written as {', '.join(FORMATS)}, not as {unknown[0]!r}")
