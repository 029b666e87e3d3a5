"""The study of one run: the recipe of a ladder, carried to another size and length.

Rates stay where the ladder's parametrization carries them (muP, CompleteP); under "standard" the best rates of the
scales are continued as a power of N. A batch is kept up to `FAR` times the tokens of the longest run; beyond, tokens
per batch grow as D^.571 (Step Law, arXiv:2503.04715), in powers of two, and the rate as the square root of the batch
(arXiv:2205.10287), and warm-up is at least 1% of the steps. Rules of the study stay rules.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from scaling_jax.analysis import Analysis
from scaling_jax.decide.shapes import Shape
from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.study import Budgets, Ladder, Study
from scaling_jax.text import short

FAR = 10.0  # times the tokens of the longest run, up to which its batch is kept
BATCH_EXPONENT = 0.571
WARMUP = 0.01  # of the steps, at least
TUNED_SCALES = 3  # whose best rates make a trend
# Field -> column of the results, of what may be swept; then of the schedule.
SWEPT = {"learning_rates": "lr", "weight_decays": "weight_decay", "init_scales": "init_scale", "b2": "b2"}
SCHEDULE = ("warmup_steps", "cooldown_fraction")
LARGEST_BATCH = 2**20


def one_run(
    study: Study, spec: Spec, analysis: Analysis, shape: Shape, D: float, C: float
) -> tuple[Study, tuple[str, ...]]:
    """(study of one run of D tokens of this shape, what was decided in sentences).

    Raises:
      UserError: the recipe cannot be carried there.
    """
    notes: list[str] = []
    optimizer, schedule, steps = study.optimizer, study.schedule, D / spec.context
    changes: dict[str, Any] = {}
    for field, column in SWEPT.items():
        values = getattr(optimizer, field)
        if isinstance(values, tuple) and len(values) > 1:
            best = _best(analysis, column, values, study, shape, notes)
            changes[field] = best if field == "b2" else (best,)
    for field in SCHEDULE:
        values = getattr(schedule, field)
        if isinstance(values, tuple):
            schedule = dataclasses.replace(schedule, **{field: _best(analysis, field, values, study, shape, notes)})
    batch = optimizer.batch_size
    if isinstance(batch, tuple):
        batch = _best(analysis, "batch_size", batch, study, shape, notes)
    if isinstance(batch, (int, float)):
        grown = _batch(int(batch), D, float(analysis.runs.chosen.D.max()))
        rate = changes.get("learning_rates", optimizer.learning_rates)[0]
        if grown != batch and isinstance(rate, (int, float)):
            factor = math.sqrt(grown / batch)
            changes["learning_rates"] = (float(f"{rate * factor:.4g}"),)
            notes.append(
                f"the batch grows from {batch:g} to {grown} sequences (D^.571) and the rate by its square root, "
                f"{factor:.3g}: check both in a short sweep"
            )
        changes["batch_size"] = batch = grown
        steps /= batch
        far = float(analysis.runs.chosen.D.max()) * FAR < D
        if far and isinstance(schedule.warmup_steps, (int, float)) and schedule.name != "constant":
            warmup = max(int(schedule.warmup_steps), round(WARMUP * steps))
            schedule = dataclasses.replace(schedule, warmup_steps=min(warmup, 2**31 - 1))
    try:
        made = dataclasses.replace(
            study,
            name=f"{study.name}_{C:.0e}".replace("+", ""),
            ladder=Ladder(widths=(shape.width,), depths=(shape.depth,)),
            budgets=Budgets(tokens=(float(f"{D:.6g}"),), min_steps=min(study.budgets.min_steps, max(int(steps), 1))),
            optimizer=dataclasses.replace(optimizer, **changes),
            schedule=schedule,
            seeds=study.seeds[:1],
        )
    except UserError as error:
        raise UserError(f"no study for {short(shape.N)} parameters: {error}") from error
    return made, tuple(notes)


def _batch(batch: int, D: float, longest: float) -> int:
    """Sequences per step for D tokens."""
    if longest * FAR >= D:
        return batch
    return min(batch * 2 ** round(math.log2((D / longest) ** BATCH_EXPONENT)), LARGEST_BATCH)


def _best(analysis: Analysis, column: str, values: Any, study: Study, shape: Shape, notes: list[str]) -> Any:
    """The value of a swept quantity that did best at the largest scales, or what their trend gives."""
    chosen = analysis.runs.chosen
    numbers = chosen[column].to_numpy(float) if column in chosen else np.full(len(chosen), np.nan)
    if not np.isfinite(numbers).any():
        notes.append(f"{column}: the first of those tried, since the runs do not say which is best")
        return values[0]
    best = chosen.assign(value=numbers).dropna(subset=["value"]).sort_values("C").groupby("N").value.last()
    positive = best[best > 0]
    trend = column == "lr" and study.parametrization.name == "standard" and len(positive) >= TUNED_SCALES
    if trend:
        slope, level = np.polyfit(np.log(positive.index.to_numpy(float)), np.log(positive.to_numpy()), 1)
        notes.append(f"lr follows the best rates of the scales, ~ N^{slope:.2f}")
        return float(f"{np.exp(level + slope * np.log(shape.N)):.4g}")
    top = best.iloc[-max(1, len(best) // 2) :]
    value = float(np.exp(np.mean(np.log(top)))) if (top > 0).all() else float(top.iloc[-1])
    value = float(f"{value:.4g}")
    notes.append(f"{column} {value:g}: the best of the larger half of the scales")
    return round(value) if column in ("batch_size", "warmup_steps") else value
