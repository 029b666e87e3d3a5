"""The big one: what to train with a budget, what it will reach, and how sure that is."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from typing import Any

import numpy as np

from scaling_jax.analysis import Analysis
from scaling_jax.decide.chips import Chip
from scaling_jax.decide.recipe import one_run
from scaling_jax.decide.shapes import Path, Shape
from scaling_jax.decide.surface import Ends, Optimum, Surface
from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.planning import Pack, compute_dtype_of, make_plan, memory_bytes
from scaling_jax.study import Ladder, Study
from scaling_jax.text import short, short_bytes, times

GRID, SMALLEST = 241, 1e-3  # sizes tried for the over-trained optimum, down to this share of N*
MOST_TOKENS = 1e4  # times D* that over-training may take
WIDTH = 110  # of text
WORTH = 0.005  # of all FLOPs: over-training that saves less is not named
INFERENCE = 2.0  # FLOPs per parameter and token


@dataclasses.dataclass(frozen=True)
class Inference:
    """The cheapest model of the same loss when its use is paid for, too (Sardana et al. 2024, arXiv:2401.00448).

    Attributes:
      tokens: of inference.
      N, D: of the model that costs least in training and inference together.
      flops: its total.
      flops_at_optimum: the total of the compute-optimal model.
    """

    tokens: float
    N: float
    D: float
    flops: float
    flops_at_optimum: float

    def text(self) -> str:
        """One sentence."""
        saved = 1 - self.flops / self.flops_at_optimum
        if saved < WORTH:
            return (
                f"with {short(self.tokens)} tokens of inference, no smaller model of the same loss costs less: "
                f"{self.flops:.3g} FLOPs in all"
            )
        return (
            f"with {short(self.tokens)} tokens of inference, the same loss costs least at N = {short(self.N)}, "
            f"D = {short(self.D)} ({short(self.D / self.N)} tokens per parameter): {self.flops:.3g} FLOPs in all, "
            f"{saved:.0%} less than N* and its inference"
        )


@dataclasses.dataclass(frozen=True, repr=False)
class Recommendation:
    """What to train with so many FLOPs. Made by `recommend`; without an answer it names no model.

    Attributes:
      C: FLOPs that were asked for.
      source: where the numbers come from.
      metric: what the loss is.
      level: of the intervals.
      verdict: of the analysis; "" for a published fit.
      reasons: why there is no answer, or why to be careful.
      instead: with no answer, what to run.
      optimum: N*, D*, loss and intervals within the caps; None without an answer.
      beyond: C over the largest run's; nan for a published fit.
      flatness: relative rise of the loss at {0.5: ..., 2.0: ...} times N* at the same FLOPs.
      inference: the over-trained optimum, where inference counts.
      shape: the nearest scale that the study's family can build.
      run_loss, run_interval: expected of the run of that shape.
      pack: the run as planned: batch, rate, steps, FLOPs.
      study: of that run; None where there is none to write.
      chip: for the time and the price.
      notes: what else was decided, in sentences.
    """

    C: float
    source: str
    metric: str
    level: float
    verdict: str
    reasons: tuple[str, ...]
    instead: str = ""
    optimum: Optimum | None = None
    beyond: float = float("nan")
    flatness: dict[float, float] = dataclasses.field(default_factory=dict)
    inference: Inference | None = None
    shape: Shape | None = None
    run_loss: float | None = None
    run_interval: Ends | None = None
    pack: Pack | None = None
    study: Study | None = None
    chip: Chip | None = None
    notes: tuple[str, ...] = ()

    @property
    def answer(self) -> bool:
        """False where the data do not give an optimum."""
        return self.optimum is not None

    def text(self) -> str:
        """The answer first."""
        if self.optimum is None:
            lines = [f"no answer for {self.C:.3g} FLOPs from {self.source}, because"]
            lines += [wrapped(f"- {reason}") for reason in self.reasons]
            return "\n".join([*lines, *([f"instead: {self.instead}"] if self.instead else [])])
        best, level = self.optimum, f"{self.level:.0%}"
        far = "" if math.isnan(self.beyond) else f", {times(self.beyond)} times the largest run"
        trust = f"verdict: {self.verdict}; " if self.verdict else ""
        lines = [
            f"{trust}for {self.C:.3g} FLOPs{far}, from {self.source}",
            _row("N*", short(best.N), _ends(best.N_interval, level)),
            _row("D*", short(best.D), _ends(best.D_interval, level)),
            _row(self.metric, f"{best.loss:.4f}", _ends(best.run_interval, level, "{:.4f}", "of one run")),
            _row("tokens per parameter", short(best.D / best.N)),
            _row("2x off in N", ", ".join(f"{k:g} N*: {v:+.2%}" for k, v in self.flatness.items())),
        ]
        if self.chip is not None:
            lines.append(_row("cost", self.chip.text(self.C)))
        if self.shape is not None:
            lines.append(_row("model", f"{self.shape.text()}: N = {short(self.shape.N)}"))
        if self.pack is not None:
            lines.append(_row("recipe", _recipe(self.pack)))
            run, loss = self.pack.runs[0], "" if self.run_loss is None else f" {self.run_loss:.4f}"
            what = f"{short(run.tokens)} tokens, {run.flops:.3g} FLOPs, {self.metric}{loss}"
            lines.append(_row("this run", what, _ends(self.run_interval, level, "{:.4f}")))
        more = [] if self.inference is None else [self.inference.text()]
        more += [f"note: {note}" for note in self.notes] + [f"! {reason}" for reason in self.reasons]
        return "\n".join([*lines, *(wrapped(sentence) for sentence in more)])

    __repr__ = text


def recommend(
    surface: Surface,
    C: float,
    *,
    analysis: Analysis | None = None,
    study: Study | None = None,
    spec: Spec | None = None,
    max_params: float | None = None,
    max_memory: float | None = None,
    inference_tokens: float | None = None,
    chip: Chip | None = None,
) -> Recommendation:
    """The best model and run for a budget.

    Args:
      surface: losses of N and D.
      C: training FLOPs.
      analysis: behind the surface; its verdict "no answer" leaves the recommendation without a model.
      study: whose family, data and recipe the run continues; with `spec`, what its data looks like.
      spec: of the data.
      max_params: cap on N.
      max_memory: cap on the bytes of one device, by the runs' own law of memory (its upper end, as in the report), or
        where they have none by the plan's estimate for the study's family.
      inference_tokens: that the model will be used for.
      chip: for the time and the price.

    Raises:
      UserError: a cap below every scale, or a number that is not positive.
    """
    for name, value in (("max_params", max_params), ("inference_tokens", inference_tokens), ("target_flops", C)):
        if value is not None and not 0 < value < 1e40:
            raise UserError(f"{name}={value:g}: give a positive number")
    verdict = "" if analysis is None else analysis.verdict
    said: dict[str, Any] = dict(
        C=C, source=surface.source, metric=surface.metric, level=surface.level, verdict=verdict, chip=chip
    )
    reasons = () if analysis is None else tuple(analysis.reasons)
    if verdict == "no answer":
        return Recommendation(**said, reasons=reasons)
    path = Path.of(study, spec) if study is not None and spec is not None else None
    notes: list[str] = []
    cap = max_params
    if max_memory is not None:
        if path is None or study is None:
            raise UserError("max_memory needs a study with a family: give --workdir, or --max_params instead")
        held, by = _most_in_memory(path, study, analysis, max_memory)
        cap = min(held, cap or math.inf)
        notes.append(f"{short_bytes(max_memory)} hold {short(held)} parameters at the ladder's batch, by {by}")
    found, why = surface.optima([C], cap)
    if not found:
        return Recommendation(**said, reasons=(*why, *reasons))
    best = found[0]
    if cap is not None and 0.98 * cap < best.N:
        notes.append(f"N is at its cap of {short(cap)}")
    shape = None if path is None else path.nearest(best.N, cap)
    if path is not None and shape is None:
        notes.append(f"no model: the study's family has no scale of at most {short(cap or best.N)} parameters")
    made, pack, loss, interval = None, None, None, None
    if shape is not None and study is not None and spec is not None and analysis is not None:
        made, pack, more = _planned(study, spec, analysis, shape, C)
        notes += more
        if pack is not None:
            tokens = pack.runs[0].tokens
            loss, interval = float(surface.loss(shape.N, tokens)), surface.run_interval(shape.N, tokens)
    return Recommendation(
        **said,
        reasons=reasons,
        optimum=best,
        beyond=C / surface.largest,
        flatness=_flatness(surface, best),
        inference=None if inference_tokens is None else _inference(surface, best, inference_tokens),
        shape=shape,
        run_loss=loss,
        run_interval=interval,
        pack=pack,
        study=made,
        notes=tuple(notes),
    )


def _planned(
    study: Study, spec: Spec, analysis: Analysis, shape: Shape, C: float
) -> tuple[Study | None, Pack | None, list[str]]:
    """(study of the run, its pack, what was decided or why there is none)."""
    try:
        made, notes = one_run(study, spec, analysis, shape, C / shape.counts.flops_per_token, C)
        return made, make_plan(made, spec)[0], list(notes)
    except UserError as error:
        return None, None, [f"no study of this run: {error}"]


def _flatness(surface: Surface, best: Optimum) -> dict[float, float]:
    """Relative rise of the loss at half and twice N*, at the same FLOPs."""
    factors = np.array([0.5, 2.0])
    N = best.N * factors
    D = best.D * surface.flops(best.N, best.D) / surface.flops(N, best.D)
    return {float(k): float(v) for k, v in zip(factors, surface.rise(N, D, best))}


def _inference(surface: Surface, best: Optimum, tokens: float) -> Inference:
    """The least training plus inference FLOPs on the contour of the optimum's loss."""
    goal = float(surface.loss(best.N, best.D))
    N = best.N * np.geomspace(SMALLEST, 1.0, GRID)
    low, high = np.full(GRID, math.log(best.D)), np.full(GRID, math.log(best.D * MOST_TOKENS))
    low[-1] -= 1e-9
    reached = surface.loss(N, np.exp(high)) <= goal
    for _ in range(50):
        middle = 0.5 * (low + high)
        above = surface.loss(N, np.exp(middle)) > goal
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    D = np.exp(high)
    total = np.where(reached, surface.flops(N, D) + INFERENCE * N * tokens, np.inf)
    i = int(np.argmin(total))
    at_best = float(surface.flops(best.N, best.D) + INFERENCE * best.N * tokens)
    return Inference(tokens, float(N[i]), float(D[i]), float(min(total[i], at_best)), at_best)


def _most_in_memory(path: Path, study: Study, analysis: Analysis | None, most: float) -> tuple[float, str]:
    """(parameters of the largest model whose training fits into so many bytes of one device, what says so).

    Raises:
      UserError: not even the smallest does.
    """
    measured, whose = ({}, "") if analysis is None else analysis.resources
    law = measured.get("memory_bytes")
    if law is not None and law.law is not None:
        best, far = law.largest_within(most), law.far(most)
        by = f"the memory that runs took ({whose})"
        if far:  # small models' memory is activations, large ones' is weights: the law may promise too much
            planned = most_planned(path, study, most)
            by += f", continued to {far}: try one step of that size first"
            if 0 < planned < best:
                best, by = planned, f"the plan's estimate ({short(best)} by {by})"
    else:
        best, by = most_planned(path, study, most), "the plan's estimate: the runs do not tell how memory grows"
    if not best:
        raise UserError(f"max_memory={short_bytes(most)} do not hold even the smallest scale, by {by}")
    return best, by


def most_planned(path: Path, study: Study, most: float) -> float:
    """Parameters of the largest scale on the path whose training step fits by the plan's estimate; 0 if none does."""
    best, width = 0.0, path.step
    while (shape := path.shape(width)) is not None:
        sized = dataclasses.replace(
            study,
            ladder=Ladder(widths=(shape.width,), depths=(shape.depth,)),
            budgets=dataclasses.replace(
                study.budgets, tokens=(1e3 * path.spec.context * 2**20,), tokens_per_param=(), flops=()
            ),
            seeds=study.seeds[:1],
        )
        pack = make_plan(sized, path.spec)[0]
        pack = dataclasses.replace(pack, lanes=pack.lanes[:1])
        execution = dataclasses.replace(
            study.execution, compute_dtype=compute_dtype_of(study.execution, "gpu"), layout="sequential",
            scan_layers=True, remat=True, attention="xla" if study.execution.attention == "auto" else "blocked",
        )  # fmt: skip
        if memory_bytes(study, pack, path.spec, (1, 1, 1), execution) > most:
            break
        best, width = float(shape.N), max(width + path.step, int(width * 1.03) // path.step * path.step)
    return best


def _recipe(pack: Pack) -> str:
    lane = pack.lanes[0]
    return (
        f"batch {pack.batch_size} x {pack.tokens_per_step // pack.batch_size}, rate {lane.learning_rate:.4g}, "
        f"warm-up {lane.warmup_steps} of {pack.runs[0].steps:,} steps"
    )


def _ends(ends: Ends | None, level: str, shape: str = "", what: str = "") -> str:
    if ends is None:
        return ""
    low, high = (shape.format(v) if shape else short(v) for v in ends)
    return f"[{low}, {high}] {level}" + (f" {what}" if what else "")


def wrapped(sentence: str) -> str:
    """An indented paragraph of at most `WIDTH` columns."""
    return textwrap.fill(sentence, WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False)


def _row(name: str, *values: str) -> str:
    return f"  {name:<21} " + "  ".join(v for v in values if v)
