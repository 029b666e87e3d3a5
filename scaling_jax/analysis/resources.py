"""What runs take besides FLOPs, as power laws of N through the scales; the best model for budgets of each kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from scaling_jax import fitting
from scaling_jax.analysis.frames import names_of
from scaling_jax.analysis.status import DONE
from scaling_jax.fitting.optimal.power_law import PowerLaw
from scaling_jax.study import Fit
from scaling_jax.text import listed, plural, short, short_bytes

MIN_SCALES = 3
FAR = 10.0  # times the most that runs took: a law of laptop-sized models says little about what a device holds
SECONDS_PER_TOKEN = "s_per_token"  # not shown: what the cost of a run in device-hours is made of
# Name of the resource -> what it is, its unit.
KINDS = {
    "step_s": ("time of a step", "s"), "tokens_per_s": ("tokens per second of a device", ""),
    "compile_s": ("time to compile", "s"), "memory_bytes": ("peak memory of a device", "B"),
    "checkpoint_bytes": ("checkpoint of a run", "B"), SECONDS_PER_TOKEN: ("seconds per token", "s"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Resource:
    """A power law of one resource in N, through the median of each scale.

    Attributes:
      name: of `KINDS`.
      N, values: (n,) of the scales, in order of N.
      level: of the intervals.
      law: `fitting.PowerLaw`; None with fewer than three scales, from which nothing can be told.
    """

    name: str
    N: np.ndarray
    values: np.ndarray
    level: float
    law: PowerLaw | None

    @property
    def exponent(self) -> tuple[float, float, float]:
        """(exponent, low, high); nan where it cannot be told."""
        if self.law is None:
            return np.nan, np.nan, np.nan
        half = self._quantile * self.law.stderr
        return self.law.exponent, self.law.exponent - half, self.law.exponent + half

    def at(self, N: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(value, low, high) of a scale of N parameters, each shaped like N; nan where it cannot be told."""
        N = np.asarray(N, float)
        if self.law is None:
            nan = np.full(N.shape, np.nan)
            return nan, nan, nan
        log_n, value = np.log(self.N), self.law(N)
        away = (np.log(N) - log_n.mean()) ** 2 / np.sum((log_n - log_n.mean()) ** 2)
        half = self._quantile * self.law.scatter * np.sqrt(1 + 1 / len(log_n) + away)
        return value, value * np.exp(-half), value * np.exp(half)

    @property
    def _quantile(self) -> float:
        from scipy.special import stdtrit  # takes long to import, and training needs none of it

        return float(stdtrit(len(self.N) - 2, 0.5 + 0.5 * self.level))

    def largest_within(self, most: float) -> float:
        """The most parameters whose upper end is within so much of the resource; 0 where none is."""
        sizes = np.geomspace(self.N[0] * 1e-3, self.N[-1] * 1e6, 4001)
        within = self.at(sizes)[2] <= most
        return float(sizes[within][-1]) if within.any() else 0.0

    def show(self, value: float) -> str:
        """A value with its unit."""
        unit = KINDS[self.name][1]
        return short_bytes(value) if unit == "B" else f"{short(value)} {unit}".rstrip()

    def far(self, value: float) -> str:
        """How far a value is beyond the runs', in words; "" where it is near."""
        most = float(self.values.max())
        return f"{short(value / most)} times the most of any run, {self.show(most)}" if value > FAR * most else ""

    def __str__(self) -> str:
        what = KINDS[self.name][0]
        if self.law is None:
            return f"{what}: cannot tell from {plural(len(self.N), 'scale')}, {MIN_SCALES} are needed"
        exponent, low, high = self.exponent
        return f"{what} ~ N^{exponent:.2f} [{low:.2f}, {high:.2f}]"


def resources(table: pd.DataFrame, level: float) -> tuple[dict[str, Resource], str]:
    """({name: law of each resource that the runs recorded}, a sentence on whose runs these are).

    Of runs on several kinds of machine those of the one with the most are used.

    Args:
      table: rows with status, scale, N, D, and what is known of wall_s, steps, devices, device, memory_bytes,
        checkpoint_bytes, compile_s.
      level: of the intervals.
    """
    wall = _column(table, "wall_s")
    done = table[(table.status == DONE) & (wall > 0) & (table.N > 0)]
    if not len(done):
        return {}, ""
    note = ""
    if "device" in names_of(done) and done.device.notna().any():
        counts = done.device.value_counts()
        done, note = done[done.device == counts.index[0]], f"{plural(int(counts.iloc[0]), 'run')} on {counts.index[0]}"
        if len(counts) > 1:
            note += f"; those on {listed(counts.index[1:])} are left out"
    wall, devices = _column(done, "wall_s"), _column(done, "devices").fillna(1.0)
    measured = {
        "step_s": wall / _column(done, "steps"),
        "tokens_per_s": done.D / (wall * devices),
        **{name: _column(done, name) for name in ("compile_s", "memory_bytes", "checkpoint_bytes")},
        SECONDS_PER_TOKEN: wall * devices / done.D,
    }
    out = {}
    for name, values in measured.items():
        frame = pd.DataFrame({"scale": done.scale, "N": done.N.astype(float), "value": values})
        frame = frame[np.isfinite(frame.value) & (frame.value > 0)]
        scales = frame.groupby("scale")[["N", "value"]].median().sort_values("N")
        if len(scales):
            out[name] = _resource(name, scales.N.to_numpy(), scales.value.to_numpy(), level)
    return out, note


def _resource(name: str, N: np.ndarray, values: np.ndarray, level: float) -> Resource:
    law = fitting.power_law(N, values) if len(np.unique(N)) >= MIN_SCALES else None
    return Resource(name, N, values, level, law)


def _column(table: pd.DataFrame, name: str) -> pd.Series:
    if name not in names_of(table):
        return pd.Series(np.nan, index=table.index)
    return pd.to_numeric(table[name], errors="coerce").astype(float)


@dataclasses.dataclass(frozen=True)
class Hours:
    """Device-hours of training N parameters on D tokens, by the law of seconds per token."""

    coefficient: float
    exponent: float

    def __call__(self, N: Any, D: Any) -> Any:
        """Device-hours; broadcasts."""
        return self.coefficient * N**self.exponent * D / 3600.0


@dataclasses.dataclass(frozen=True)
class Budget:
    """The best model of one kind of budget.

    Attributes:
      kind: what is spent, in words.
      amount: of it, in words.
      N, D, loss, loss_low, loss_high: of the best run.
      hours: device-hours of that run; nan where they cannot be told.
      memory: peak bytes of a device; nan where they cannot be told.
    """

    kind: str
    amount: str
    N: float
    D: float
    loss: float
    loss_low: float
    loss_high: float
    hours: float
    memory: float


def each_budget(
    best_runs: Callable[..., Any],
    first: Any,
    settings: Fit,
    laws: Mapping[str, Resource],
    planned: float | None = None,
) -> tuple[tuple[Budget, ...], str]:
    """The first target as a budget of each kind, with the best model of each: FLOPs, device-hours, dollars, memory.

    As many device-hours are spent as the best model of the FLOPs takes.

    Args:
      best_runs: `Analysis.best_runs`.
      first: row of the frontier at that target: C, N, D, loss, loss_low, loss_high.
      settings: of the fit, with the price of a device-hour and the memory of a device.
      laws: of `resources`.
      planned: the most parameters that the memory holds by the plan's estimate, which counts where the law does not
        tell, or is read far beyond the runs and promises more.

    Returns:
      (budgets; none where the runs give no frontier or did not record their time, why a kind that the settings ask for
      is missing).
    """
    C = float(first.C)
    time, memory = laws.get(SECONDS_PER_TOKEN), laws.get("memory_bytes")
    hours = None if time is None or time.law is None else Hours(time.law.coefficient, time.law.exponent)
    missing = []

    def row(kind: str, amount: str, best: Any) -> Budget:
        spent = float("nan") if hours is None else float(hours(best.N, best.D))
        held = float("nan") if memory is None else float(memory.at(best.N)[0])
        return Budget(kind, amount, best.N, best.D, best.loss, best.loss_low, best.loss_high, spent, held)

    out = [row("FLOPs", f"{C:.2e}", first)]
    if hours is not None:
        same = out[0].hours
        out.append(row("device-hours", short(same), best_runs([same], hours).rows.iloc[0]))
        if settings.price is not None:
            out.append(dataclasses.replace(out[-1], kind="dollars", amount=f"${short(same * settings.price)}"))
    elif settings.price is not None:
        missing.append(f"dollars: {_why(time, SECONDS_PER_TOKEN, 'wall_s')}")
    if settings.max_memory is not None:
        law = None if memory is None or memory.law is None else memory
        cap = 0.0 if law is None else law.largest_within(settings.max_memory)
        kind = f"FLOPs, {short_bytes(settings.max_memory)} a device"
        if planned and (law is None or (law.far(settings.max_memory) and planned < cap)):
            cap, kind = planned, f"{kind} by the plan's estimate"
        if cap:
            out.append(row(kind, f"{C:.2e}", best_runs([C], max_N=cap).rows.iloc[0]))
        elif memory is None or memory.law is None:
            missing.append(f"memory: {_why(memory, 'memory_bytes', 'memory_bytes')}")
        else:
            missing.append(f"memory: {short_bytes(settings.max_memory)} do not hold even a thousandth of the least N")
    if len(out) == 1 and not missing and hours is None:
        return (), _why(time, SECONDS_PER_TOKEN, "wall_s")
    return tuple(out), "; ".join(missing)


def _why(law: Resource | None, name: str, column: str) -> str:
    return f"no run has its {column}" if law is None else str(law)
