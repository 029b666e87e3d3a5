"""A chart as a matplotlib figure, or as the content of a file; matplotlib loads when it is first asked for."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from scaling_jax.charts.chart import Chart

DPI = 150
# Without dates and random ids, so that equal charts are equal files.
STAMPS = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def figure_of(chart: Chart) -> Any:
    """A `matplotlib.figure.Figure`, which notebooks show.

    Raises:
      ModuleNotFoundError: matplotlib is not installed (`pip install 'scaling_jax[plot]'`).
    """
    from scaling_jax.charts import matplotlib_figure

    return matplotlib_figure.draw(chart)


def preload() -> None:
    """Loads matplotlib, where it is installed, before it is asked for."""
    with contextlib.suppress(ModuleNotFoundError):
        from scaling_jax.charts import matplotlib_figure  # noqa: F401


def picture_of(chart: Chart, kind: str = "png", figure: Any = None) -> bytes:
    """The content of a .png, .svg or .pdf; of `figure` where it is drawn already."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "scaling_jax"}):
        (figure or figure_of(chart)).savefig(buffer, format=kind, dpi=DPI, metadata=STAMPS.get(kind))
    return buffer.getvalue()
