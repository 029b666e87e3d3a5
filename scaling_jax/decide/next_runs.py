"""The next runs of a study: trainable scales and budgets that narrow its forecast most for their FLOPs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd

from scaling_jax import fitting
from scaling_jax.analysis import Analysis
from scaling_jax.analysis.status import DONE
from scaling_jax.decide.shapes import Path, Shape
from scaling_jax.errors import UserError
from scaling_jax.fitting import Suggestion
from scaling_jax.models.family import Spec
from scaling_jax.planning import make_plan, scale_name
from scaling_jax.study import Study
from scaling_jax.text import short, table

WIDER = 4.0  # times the largest width of the ladder
BETWEEN = 1.2  # ratio of neighboring candidate widths, at least
LONGER = math.sqrt(2.0)  # ratio of neighboring candidate budgets
RATIOS = 2.0  # times beyond the ladder's range of tokens per parameter
STEPS_PER_SCALE = 64


@dataclasses.dataclass(frozen=True, repr=False)
class NextRuns:
    """Runs that a study should grow by. Made by `next_runs`.

    Attributes:
      suggestion: `fitting.Suggestion`: expected intervals, costs, whether to stop.
      points: (width, depth, tokens) of each run, in its order.
      lanes: runs that the study trains at each point, at most.
      study: grown by the points; the same study where the suggestion is to stop.
    """

    suggestion: Suggestion
    points: tuple[tuple[int, int, float], ...]
    lanes: int
    study: Study

    @property
    def flag(self) -> str:
        """The same growth as a flag for `run` with the study's own file."""
        return f"--set 'budgets.extra={self.study.budgets.extra!r}'"

    def text(self) -> str:
        """What to run and what it is worth."""
        if self.suggestion.stop or not self.points:
            return self.suggestion.text()
        found = self.suggestion
        rows = [
            (f"w{w}-d{d}", short(r.N), short(r.D), f"{r.cost:.3g}", f"{r.width:.2%}")
            for (w, d, _), r in zip(self.points, found.runs)
        ]
        each = "" if self.lanes == 1 else f", {self.lanes} lanes each"
        N, D = (float(np.median(found.target[k])) for k in ("N", "D"))
        return "\n".join(
            [
                f"now the {found.level:.0%} interval at N = {short(N)}, D = {short(D)} is +-{found.before:.2%}",
                f"run these {len(rows)}{each}, {found.cost:.3g} FLOPs in all: it should become +-{found.after:.2%}",
                table(("scale", "N", "D", "FLOPs", "then +-"), rows),
            ]
        )

    __repr__ = text


def next_runs(
    analysis: Analysis,
    study: Study,
    spec: Spec,
    budget_flops: float,
    *,
    target_flops: float | None = None,
    runs: int = 8,
) -> NextRuns:
    """Chooses the next runs of a study among the scales of its family, in whole steps.

    Args:
      analysis: of the study's runs.
      study: that is to grow.
      spec: what its data looks like.
      budget_flops: for all lanes of the new runs.
      target_flops: of the run that is being planned; None takes the analysis' first target.
      runs: at most this many.

    Raises:
      UserError: there is no forecast, or nothing within the budget can be trained.
    """
    if analysis.forecast is None:
        raise UserError(
            f"{analysis.name}: the runs give no forecast to improve "
            f"({analysis.no_fit.rstrip('.') or 'see the verdict of `scaling-jax report`'}); "
            f"{analysis.runs.too_few or 'run more of the study'} first"
        )
    for name, value in (("budget_flops", budget_flops), ("target_flops", target_flops)):
        if value is not None and not 0 < value < 1e40:
            raise UserError(f"{name}={value:g}: give a positive number of FLOPs, e.g. 1e21")
    pool = _pool(analysis, study, spec, budget_flops)
    if pool.empty:
        raise UserError(
            f"budget_flops={budget_flops:.3g}: no further run of {study.family.name!r} on the ladder's path costs so "
            "little in all its lanes; raise it"
        )
    wsd = {"wsd": 1.0 - _number(study.schedule.cooldown_fraction, 0.2), "constant": 1.0}
    try:
        found = fitting.suggest(
            analysis.forecast,
            budget_flops,
            target_flops=analysis.targets[0] if target_flops is None else target_flops,
            candidates=pool[["N", "D", "C"]],
            trunks=list(pool.scale),
            trained=_trained(analysis),
            shared=wsd.get(study.schedule.name, 0.0),
            runs=runs,
            repeats=pool.seeds,
        )
    except fitting.FitError as error:
        raise UserError(str(error)) from error
    chosen = pool.iloc[found.index]
    columns = (chosen[k].to_numpy() for k in ("width", "depth", "D"))
    points = tuple((int(w), int(d), float(tokens)) for w, d, tokens in zip(*columns))
    grown = study
    if not found.stop and points:
        extra = tuple(dict.fromkeys((*study.budgets.extra, *points)))
        grown = dataclasses.replace(study, budgets=dataclasses.replace(study.budgets, extra=extra))
        make_plan(grown, spec)
    return NextRuns(found, points, int(pool.lanes.max()), grown)


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) else default


def _trained(analysis: Analysis) -> dict[str, float]:
    """{scale: tokens of its longest run}."""
    longest = analysis.runs.chosen.groupby("scale").D.max()
    return {str(scale): float(tokens) for scale, tokens in longest.items()}


def _pool(analysis: Analysis, study: Study, spec: Spec, budget: float) -> pd.DataFrame:
    """Candidates: scale, width, depth, N, D, C (of all lanes), seeds, lanes; without runs that exist or are planned."""
    chosen = analysis.runs.chosen
    ratio = chosen.D / chosen.N
    low, high = float(ratio.min()) / RATIOS, float(ratio.max()) * RATIOS
    table_ = analysis.runs.table
    done = table_[table_.status == DONE]
    packs = make_plan(study, spec)
    planned = {(run.scale, run.tokens) for pack in packs for run in pack.runs}
    first = [pack for pack in packs if pack.scale == packs[0].scale]
    swept = sum(len(pack.lanes) for pack in first) // len(study.seeds_of(first[0].width, first[0].depth))
    known = {(str(s), int(d)) for s, d in zip(done.scale, done.D)} | planned
    batch = int(_number(study.optimizer.batch_size, float(chosen.batch_size.iloc[-1]) if "batch_size" in chosen else 1))
    per_step, rows = batch * spec.context, []
    for shape in _shapes(study, spec):
        seeds = len(study.seeds_of(shape.width, shape.depth))
        name, per_token = scale_name(shape.width, shape.depth), shape.counts.flops_per_token * swept * seeds
        least = max(shape.N * low, per_step * _fewest_steps(study), float(chosen.D.min()))
        last = min(shape.N * high, study.budgets.max_tokens, 20 * budget / per_token)
        tokens = least * LONGER ** np.arange(STEPS_PER_SCALE)
        for steps in np.unique(np.round(tokens[tokens <= last] / per_step)):
            D = int(steps) * per_step
            near = any(s == name and abs(math.log(d / D)) < 0.5 * math.log(LONGER) for s, d in known)
            if not near:
                rows.append((name, shape.width, shape.depth, shape.N, float(D), per_token * D, seeds, swept * seeds))
    return pd.DataFrame(rows, columns=["scale", "width", "depth", "N", "D", "C", "seeds", "lanes"])


def _fewest_steps(study: Study) -> float:
    warmup = _number(study.schedule.warmup_steps, 100.0)
    return max(study.budgets.min_steps, math.ceil((warmup + 2) / (1 - _number(study.schedule.cooldown_fraction, 0.2))))


def _shapes(study: Study, spec: Spec) -> list[Shape]:
    """Scales of the study, and others of its family between them and beyond."""
    path = Path.of(study, spec)
    own = list(study.ladder.scales()) + [(w, d) for w, d, _ in study.budgets.extra]
    shapes = {(w, d): s for w, d in own if (s := path.shape(w, d)) is not None}
    if study.init.starts:  # other scales have nothing to start from
        return list(shapes.values())
    widths = [w for w, _ in own]
    width, top = min(widths), WIDER * max(widths)
    while width <= top:
        if not any(width / BETWEEN < w < width * BETWEEN for w, _ in shapes):
            shape = path.shape(width)
            if shape is not None:
                shapes[shape.width, shape.depth] = shape
        width += path.step * max(1, round(width * (BETWEEN - 1) / 2 / path.step))
    return list(shapes.values())
