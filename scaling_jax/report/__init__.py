"""One Analysis as pictures, one offline HTML page, JSON, and a summary for the terminal."""

from __future__ import annotations

import io
import json
from typing import Any

from scaling_jax.analysis import Analysis
from scaling_jax.report import figures, html, summary
from scaling_jax.storage.paths import as_path, write_atomic

DPI = 150


def write_report(analysis: Analysis, out_dir: Any) -> str:
    """Writes out_dir/*.png, summary.json and index.html, each whole or not at all.

    Args:
      analysis: everything that is shown.
      out_dir: local folder or gs:// path; made if missing. Pictures of an earlier report that this one does not draw
        are removed.

    Returns:
      The summary for the terminal.
    """
    folder = as_path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {name: _png(figure) for name, figure in figures.draw(analysis).items()}
    for name, picture in pictures.items():
        write_atomic(folder / f"{name}.png", picture)
    for path in folder.glob("*.png"):
        if path.stem not in pictures and figures.is_name(path.stem):
            path.unlink()
    text = summary.text(analysis, str(folder))
    write_atomic(folder / "summary.json", json.dumps(summary.as_json(analysis), indent=1, allow_nan=False) + "\n")
    write_atomic(folder / "summary.txt", text + "\n")
    write_atomic(folder / "index.html", html.page(analysis, pictures))
    return text


def _png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
