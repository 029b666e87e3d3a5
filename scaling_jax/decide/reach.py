"""The other way round: the cheapest run that reaches a loss, an error or an accuracy."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from scaling_jax import fitting
from scaling_jax.decide.chips import Chip
from scaling_jax.decide.recommend import wrapped
from scaling_jax.decide.surface import Ends, Optimum, Surface
from scaling_jax.errors import UserError
from scaling_jax.text import short, times

FROM, TO, STEPS = 1e-4, 1e12, 49  # times the largest run: budgets that are searched
PUBLISHED = (1e16, 1e32)  # the same for a published fit
FLOORS = ("E",)  # parameters of laws that no run goes below


@dataclasses.dataclass(frozen=True, repr=False)
class Reach:
    """The cheapest run that reaches a goal. Made by `reach`.

    Attributes:
      goal: of y.
      shown: the goal as it was asked for, e.g. "accuracy 0.9".
      source: where the numbers come from.
      level: of the intervals.
      optimum: the run whose expected y is the goal; None where none is known to reach it.
      C_interval: FLOPs with which a lucky run, and almost any run, reaches it; the upper end is inf where it is not
        known that any budget makes that sure.
      reasons: why no run is named.
      beyond: C over the largest run's; nan for a published fit.
      chip: for the time and the price.
      verdict: of the analysis; "" for a published fit.
      instead: with the verdict "no answer", what to run.
    """

    goal: float
    shown: str
    source: str
    level: float
    optimum: Optimum | None
    C_interval: Ends | None
    reasons: tuple[str, ...] = ()
    beyond: float = float("nan")
    chip: Chip | None = None
    verdict: str = ""
    instead: str = ""

    def text(self) -> str:
        """The answer first."""
        trust = f"verdict: {self.verdict}; " if self.verdict else ""
        if self.optimum is None or self.C_interval is None:
            lines = [f"{trust}no run is known to reach {self.shown}, from {self.source}, because"]
            lines += [wrapped(f"- {reason}") for reason in self.reasons]
            return "\n".join([*lines, *([f"instead: {self.instead}"] if self.instead else [])])
        best, (low, high) = self.optimum, self.C_interval
        far = "" if math.isnan(self.beyond) else f", {times(self.beyond)} times the largest run"
        lines = [f"{trust}to reach {self.shown}, from {self.source}"]
        ends = "" if low == high else f"  [{low:.3g}, {'none is sure to' if math.isinf(high) else f'{high:.3g}'}]"
        lines.append(f"  FLOPs   {best.C:.3g}{ends} {'' if low == high else f'{self.level:.0%}'}{far}".rstrip())
        lines.append(f"  N       {short(best.N)}")
        lines.append(f"  D       {short(best.D)}")
        if self.chip is not None:
            worst = "" if math.isinf(high) or low == high else f"; to be sure: {self.chip.text(high)}"
            lines.append(f"  cost    {self.chip.text(best.C)}{worst}")
        return "\n".join([*lines, *(wrapped(f"! {reason}") for reason in self.reasons)])

    __repr__ = text


def reach(
    surface: Surface,
    goal: float,
    *,
    shown: str = "",
    max_params: float | None = None,
    chip: Chip | None = None,
    verdict: str = "",
    doubts: tuple[str, ...] = (),
) -> Reach:
    """The least FLOPs whose best run is expected to reach a goal.

    Args:
      surface: losses of N and D, lower is better.
      goal: of y; an accuracy is reached as an error of 1 - accuracy.
      shown: the goal in the user's words.
      max_params: cap on N.
      chip: for the time and the price.
      verdict: of the analysis; with "no answer" no run is named.
      doubts: reasons of the verdict.

    Raises:
      UserError: a goal that is not positive.
    """
    if not 0 < goal < math.inf:
        raise UserError(f"the goal {goal:g} of {surface.metric} must be positive")
    said: dict[str, Any] = dict(
        goal=goal, shown=shown or f"{surface.metric} {goal:g}", source=surface.source, level=surface.level, chip=chip,
        verdict=verdict,
    )  # fmt: skip
    if verdict == "no answer":
        return Reach(**said, optimum=None, C_interval=None, reasons=doubts)
    known = np.isfinite(surface.largest)
    ends = (FROM * surface.largest, TO * surface.largest) if known else PUBLISHED
    curve, why = _curve(surface, np.geomspace(*ends, STEPS), max_params)
    if not curve:
        return Reach(**said, optimum=None, C_interval=None, reasons=(*why, *doubts))
    log_c = np.log([point.C for point in curve])
    C = _crossing(log_c, np.array([point.loss for point in curve]), goal)
    if C is None or math.isinf(C):
        reason = _unreached(surface, curve, goal, why) if C is not None else _below(curve[0], goal)
        return Reach(**said, optimum=None, C_interval=None, reasons=(reason, *doubts))
    runs = np.array([p.run_interval or (p.loss, p.loss) for p in curve])
    low, high = (_crossing(log_c, runs[:, i], goal) for i in (0, 1))
    near, _ = surface.optima(C * np.geomspace(0.7, 1.4, 9), max_params)  # closer to where the curve crosses
    closer = _crossing(np.log([p.C for p in near]), np.array([p.loss for p in near]), goal) if near else None
    C = closer if closer is not None and math.isfinite(closer) else C
    found, why = surface.optima([C], max_params)
    if not found:
        return Reach(**said, optimum=None, C_interval=None, reasons=(*why, *doubts))
    interval = (curve[0].C if low is None else low, curve[0].C if high is None else high)
    beyond = C / surface.largest if known else float("nan")
    return Reach(**said, optimum=found[0], C_interval=interval, reasons=doubts, beyond=beyond)


def _curve(surface: Surface, budgets: np.ndarray, max_params: float | None) -> tuple[list[Optimum], list[str]]:
    """The frontier as far as it has an answer, and why not farther: halved until there is one."""
    why: list[str] = []
    count = len(budgets)
    while count:
        found, reasons = surface.optima(budgets[:count], max_params)
        if found:
            return found, why
        why, count = reasons, count * 3 // 4
    return [], why


def _crossing(log_c: np.ndarray, loss: np.ndarray, goal: float) -> float | None:
    """FLOPs at which a falling curve first reaches the goal; inf where it does not, None where it starts below it."""
    below = np.flatnonzero(loss <= goal)
    if not below.size:
        return math.inf
    i = int(below[0])
    if i == 0:
        return None
    share = (np.log(loss[i - 1]) - math.log(goal)) / (np.log(loss[i - 1]) - np.log(loss[i]))
    return float(np.exp(log_c[i - 1] + share * (log_c[i] - log_c[i - 1])))


def _unreached(surface: Surface, curve: list[Optimum], goal: float, why: list[str]) -> str:
    last = curve[-1]
    model = surface.model
    fits = model.fits.values() if isinstance(model, fitting.Forecast) else [model]
    floors = [fit.params[k] for fit in fits for k in FLOORS if k in fit.params]
    if floors and min(floors) > goal:
        span = " to ".join(dict.fromkeys(f"{floor:.4g}" for floor in (min(floors), max(floors))))
        return f"it is below the floor of every law ({span}), which no budget passes"
    more = f" ({why[0]})" if why else ""
    return f"even {last.C:.3g} FLOPs, the most that can be forecast{more}, are expected to reach only {last.loss:.4g}"


def _below(first: Optimum, goal: float) -> str:
    return f"{first.C:.3g} FLOPs already reach {first.loss:.4g}: {goal:g} is far above every run here"
