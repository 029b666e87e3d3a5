"""The runs of an Analysis as points of charts: names, colors, labels of axes."""

from __future__ import annotations

import numpy as np

from scaling_jax.analysis import Analysis
from scaling_jax.analysis.frames import rows_of
from scaling_jax.fitting.plots import Points
from scaling_jax.text import short

COUNTS = {
    "params_matmul": "matmul parameters",
    "params_non_embedding": "non-embedding parameters",
    "params_total": "parameters",
}


def points_of(analysis: Analysis) -> Points:
    """The chosen runs, scales in order of N."""
    chosen, scales = analysis.runs.chosen, list(rows_of(analysis.runs.scales))
    held = set() if analysis.hold_out is None else set(analysis.hold_out.rows.run_id)
    return Points(
        scale=chosen.scale.to_numpy(),
        order=tuple(s.scale for s in scales),
        labels={s.scale: scale_label(s.scale, s.N) for s in scales},
        runs=[str(run) for run in chosen.run_id],
        held=chosen.run_id.isin(held).to_numpy(bool),
    )


def answers(analysis: Analysis) -> bool:
    """False where the runs do not determine an answer: then no chart shows one."""
    return analysis.verdict != "no answer"


def scale_label(scale: object, N: float) -> str:
    """w64-d2  (131k); a scale that is called by its size is not named twice."""
    return str(scale) if str(scale) == short(N) or not np.isfinite(N) else f"{scale}  ({short(N)})"


def count_label(analysis: Analysis) -> str:
    """The label of an axis of N."""
    name = analysis.runs.names.get("N", "N")
    return COUNTS.get(name, name)
