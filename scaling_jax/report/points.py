"""The runs of an Analysis as points of charts: names, colors, labels of axes."""

from __future__ import annotations

import numpy as np

from scaling_jax.analysis import Analysis
from scaling_jax.analysis.frames import rows_of
from scaling_jax.fitting.plots import MAX_LABELS, Points, size_ranges
from scaling_jax.text import short

COUNTS = {
    "params_matmul": "matmul parameters",
    "params_non_embedding": "non-embedding parameters",
    "params_total": "parameters",
}


def points_of(analysis: Analysis) -> Points:
    """The chosen runs, scales in order of N; of very many scales ranges of N."""
    chosen, scales = analysis.runs.chosen, analysis.runs.scales
    held = set() if analysis.hold_out is None else set(analysis.hold_out.rows.run_id)
    ranges: dict[str, str] = {}
    if len(scales) > MAX_LABELS and (scales.N > 0).all():
        ranges = dict(zip(scales.scale, size_ranges(scales.N.to_numpy(float))))
    labels = {s.scale: scale_label(s.scale, s.N) for s in rows_of(scales)} if not ranges else {}
    return Points(
        scale=(chosen.scale.map(ranges) if ranges else chosen.scale).to_numpy(object),
        order=tuple(dict.fromkeys(ranges.values() if ranges else scales.scale)),
        labels=labels or {name: name for name in ranges.values()},
        runs=chosen.run_id.map(str).to_numpy(object),
        held=chosen.run_id.isin(held).to_numpy(bool),
        ranges=ranges,
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
