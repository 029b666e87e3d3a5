"""One Analysis as figures, one offline HTML page, JSON, and a summary for the terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from scaling_jax.analysis import Analysis
from scaling_jax.report import text
from scaling_jax.report.as_json import as_json
from scaling_jax.storage.paths import as_path, write_atomic

if TYPE_CHECKING:
    from scaling_jax.report.plot import Plots, png

__all__ = ["Plots", "as_json", "png", "write_report"]


def __getattr__(name: str) -> Any:
    """`Plots` and `png` load matplotlib, which the plain install does not bring."""
    if name in ("Plots", "png"):
        from scaling_jax.report import plot

        return getattr(plot, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def write_report(analysis: Analysis, out_dir: Any) -> str:
    """Writes out_dir/*.png, summary.json and index.html, each whole or not at all.

    Args:
      analysis: everything that is shown.
      out_dir: local folder or gs:// path; made if missing. Figures of an earlier report that this one does not draw
        are removed.

    Returns:
      The summary for the terminal.
    """
    from scaling_jax.report import figures, html, style
    from scaling_jax.report.plot import png

    folder = as_path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = figures.draw(analysis)
    pictures = {name: png(figure) for name, figure in drawn.items()}
    narrow = {name: png(style.narrow(figure)) for name, figure in drawn.items()}
    for name, picture in pictures.items():
        write_atomic(folder / f"{name}.png", picture)
    for path in folder.glob("*.png"):
        if path.stem not in pictures and figures.is_name(path.stem):
            path.unlink()
    summary = text.summary(analysis, f"report: {folder}/index.html  (figures, summary.json beside it)")
    write_atomic(folder / "summary.json", json.dumps(as_json(analysis), indent=1, allow_nan=False) + "\n")
    write_atomic(folder / "summary.txt", summary + "\n")
    write_atomic(folder / "index.html", html.page(analysis, pictures, narrow))
    return summary
