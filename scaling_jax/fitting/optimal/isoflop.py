"""Approach 2: the loss-minimal size of each compute budget, and the power laws through these optima."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from scaling_jax.fitting.data import check_level, number, positive, whole
from scaling_jax.fitting.errors import FitError
from scaling_jax.fitting.optimal.sweeps import (
    METHODS,
    MIN_POINTS,
    Sweep,
    curve,
    find_sweeps,
    in_window,
    log_noise,
    minimum,
    tokens_at,
)

OPTIMA = np.dtype([(name, np.float64) for name in ("C", "N", "D", "loss", "N_logstd", "D_logstd")])


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """y = coefficient * x^exponent by least squares in logs.

    Attributes:
      exponent, coefficient: of the law.
      stderr: standard error of the exponent from the scatter about the line (nan for two points).
      r2: share of the weighted variance of ln y that the line explains.
      scatter: sqrt(chi^2 / (n - 2)): how many times the points scatter more than their log_std says.
    """

    exponent: float
    coefficient: float
    stderr: float
    r2: float
    scatter: float

    def __call__(self, x):
        return self.coefficient * np.asarray(x, np.float64) ** self.exponent


def power_law(x, y, log_std=None) -> PowerLaw:
    """Fits ln y = ln k + p ln x, weighted by 1 / log_std^2 when given: optima to exponents.

    Args:
      x, y: (n,) positive, e.g. budgets and their optimal N.
      log_std: (n,) standard deviation of ln y; None weighs all points alike.

    Raises:
      FitError: fewer than two distinct x, or a value that is not finite and positive.
    """
    from scaling_jax.fitting.optimal.sweeps import as_columns

    columns = as_columns(x=x, y=y, log_std=np.ones(np.size(x)) if log_std is None else log_std)
    log_x, log_y, weight = np.log(columns["x"]), np.log(columns["y"]), columns["log_std"] ** -2.0
    if np.ptp(log_x) == 0:
        raise FitError(f"a power law needs two distinct x, and all are {columns['x'][0]:g}")
    mean_x, mean_y = np.average(log_x, weights=weight), np.average(log_y, weights=weight)
    dx, dy = log_x - mean_x, log_y - mean_y
    exponent = np.sum(weight * dx * dy) / np.sum(weight * dx**2)
    chi2 = np.sum(weight * (dy - exponent * dx) ** 2)
    freedom = log_x.size - 2
    scatter = np.sqrt(chi2 / freedom) if freedom else np.nan
    total = np.sum(weight * dy**2)
    return PowerLaw(
        exponent=float(exponent),
        coefficient=float(np.exp(mean_y - exponent * mean_x)),
        stderr=float(scatter / np.sqrt(np.sum(weight * dx**2))),
        r2=float(1 - chi2 / total) if total else 1.0,
        scatter=float(scatter),
    )


@dataclasses.dataclass(frozen=True, repr=False)
class IsoFlop:
    """What IsoFLOP sweeps say: N* ~ C^a and D* ~ C^b. Made by `isoflop`.

    Attributes:
      method: akima, cubic or parabola.
      optima: record array with one row per budget that has an optimum: `.C .N .D .loss`, and `.N_logstd
        .D_logstd`, how far noise in the losses moves ln N* and ln D* (`optima.N`, `optima["N"]` and
        `pandas.DataFrame(optima)` all work).
      N_law, D_law: power laws through the optima.
      noise: standard deviation of ln loss that the intervals assume.
      sweeps: the sweeps as fitted; `dropped`: (budget, why) of those without an optimum.
      samples: (resamples, 2) exponents a, b refitted to losses with that noise added.
    """

    method: str
    optima: np.recarray
    N_law: PowerLaw
    D_law: PowerLaw
    noise: float
    sweeps: tuple[Sweep, ...]
    dropped: tuple[tuple[float, str], ...]
    samples: np.ndarray
    window: int | None
    merged: int
    left_out: int

    @property
    def a(self) -> float:
        """Exponent of N* ~ C^a."""
        return self.N_law.exponent

    @property
    def b(self) -> float:
        """Exponent of D* ~ C^b."""
        return self.D_law.exponent

    @property
    def stderr(self) -> dict[str, float]:
        """Standard errors of a and b: the noise in the losses, widened where the optima scatter by more.

        Widened by max(1, s) with s = sqrt(chi^2 / (budgets - 2)) of the optima about the power law in units of
        their own noise (the scale factor of the Particle Data Group).
        """
        if not self.samples.size:
            return {"a": self.N_law.stderr, "b": self.D_law.stderr}
        return dict(zip("ab", (np.std(self.samples, axis=0) * self._widening).tolist()))

    def interval(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Interval of a and b: percentiles of the resampled exponents about the estimate, widened as `stderr`.

        Falls back on Student's t about the line where the noise could not be estimated.
        """
        check_level(level)
        if not self.samples.size:
            from scipy.stats import t

            reach = t.ppf((1 + level) / 2, max(self.optima.size - 2, 1))
            return {k: (v - reach * s, v + reach * s) for k, v, s in self._estimates()}
        tails = np.quantile(self.samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
        middle = np.median(self.samples, axis=0)
        low, high = (tails - middle) * self._widening
        return {k: (v + float(low[i]), v + float(high[i])) for i, (k, v, _) in enumerate(self._estimates())}

    def frontier(self, C) -> np.recarray:
        """N*(C) and D*(C) of the power laws, as a record array with `.C .N .D`."""
        C = np.atleast_1d(positive(C, "C"))
        return np.rec.fromarrays([C, self.N_law(C), self.D_law(C)], names="C,N,D")

    def curve(self, i: int, points: int = 200) -> tuple[np.ndarray, np.ndarray]:
        """(N, loss), each (points,): the curve drawn through sweep i, for figures."""
        N = np.geomspace(self.sweeps[i].N[0], self.sweeps[i].N[-1], points)
        N[[0, -1]] = self.sweeps[i].N[[0, -1]]  # geomspace can step past the ends by rounding
        return N, curve(self.method, self.sweeps[i], N)

    @functools.cached_property
    def warnings(self) -> list[str]:
        """What makes these exponents less sure than they look, in plain sentences."""
        from scaling_jax.fitting.optimal.isoflop_warnings import warnings

        return warnings(self)

    def cross_check(self, law="chinchilla", **options):
        """The parametric law on the same points beside the optima: `approaches.CrossCheck`, with `.warnings`.

        Args:
          law: a law of N and D with a frontier; options (objective=, ...) go to `fitting.fit`.
        """
        from scaling_jax.fitting.optimal.approaches import cross_check

        return cross_check(self, law, **options)

    @property
    def _widening(self) -> np.ndarray:
        laws = [power_law(self.optima.C, self.optima[k], self.optima[f"{k}_logstd"]) for k in "ND"]
        return np.array([max(1.0, np.nan_to_num(law.scatter)) for law in laws])

    def _estimates(self):
        return [("a", self.a, self.N_law.stderr), ("b", self.b, self.D_law.stderr)]

    def __repr__(self) -> str:
        low = self.interval()
        lines = [
            f"IsoFLOP ({self.method}{f', window of {self.window}' if self.window else ''}): "
            f"{self.optima.size} of {len(self.sweeps)} budgets have an optimum",
            f"  a = {self.a:.4f} [{low['a'][0]:.4f}, {low['a'][1]:.4f}]   N* = {self.N_law.coefficient:.4g} C^a",
            f"  b = {self.b:.4f} [{low['b'][0]:.4f}, {low['b'][1]:.4f}]   D* = {self.D_law.coefficient:.4g} C^b"
            "   (95%)",
            f"  {'C':>10} {'N*':>10} {'D*':>10} {'loss*':>8} {'D*/N*':>8}",
        ]
        lines += [f"  {o.C:10.3g} {o.N:10.4g} {o.D:10.4g} {o.loss:8.4f} {o.D / o.N:8.1f}" for o in self.optima]
        lines += [f"  ! {warning}" for warning in self.warnings]
        return "\n".join(lines)


def isoflop(
    N,
    D,
    C,
    loss,
    method: str = "akima",
    *,
    budgets: Sequence[float] | None = None,
    tolerance: float | None = None,
    window: int | None = None,
    noise: float | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> IsoFlop:
    """Approach 2 of Hoffmann et al. 2022: the size of lowest loss at each compute budget.

    Args:
      N, D, C, loss: (n,) parameters, tokens, FLOPs and loss of each run.
      method: "akima" interpolates ln loss over ln N (Porian et al. 2024): local, so a wide sweep does no harm.
        "parabola" and "cubic" are least squares of loss on log N over the whole sweep; the parabola is the
        published approach 2, biased by up to 35% in D* when sweeps are wide or off centre.
      budgets, tolerance: how points are grouped by C; see `sweeps.find_sweeps`.
      window: use only this many points around the lowest of each sweep (None: all).
      noise: standard deviation of ln loss between repeats of a run; None estimates it from the sweeps.
      resamples: draws of noise behind `.interval`, `.stderr` and the `_logstd` of the optima.
      seed: of these draws.

    Returns:
      `IsoFlop`, with `.a`, `.b`, `.optima`, `.warnings`, `.interval(level)`, `.frontier(C)`.

    Raises:
      FitError: an unknown method, C that does not come in budgets, or fewer than two budgets with an optimum.
    """
    if method not in METHODS:
        raise FitError(f"method is {method!r}: choose one of {', '.join(METHODS)}")
    whole(resamples, "resamples"), whole(seed, "seed")
    if window is not None and whole(window, "window") < MIN_POINTS[method]:
        raise FitError(f"window is {window}: {method} needs at least {MIN_POINTS[method]} points")
    if noise is not None:
        number(noise, "noise", "0.003, the standard deviation of ln loss")
    full = find_sweeps(N, D, C, loss, budgets, tolerance)
    noise = log_noise(full) if noise is None else float(noise)
    rng = np.random.default_rng(seed)
    sweeps = [in_window(sweep, window) for sweep in full]
    rows, draws, dropped = [], [], []
    for sweep in sweeps:
        # Column 0 is the data, the others are the data with noise added.
        shocks = rng.standard_normal((sweep.N.size, resamples)) * np.nan_to_num(noise)
        losses = sweep.loss[:, None] * np.exp(np.concatenate([np.zeros((sweep.N.size, 1)), shocks], axis=1))
        log_n, best = minimum(method, np.log(sweep.N), losses)
        # Polynomials are fitted to N and to D apart, as published; an interpolant has one lowest point.
        log_d = tokens_at(sweep, log_n) if method == "akima" else minimum(method, np.log(sweep.D), losses)[0]
        if not (np.isfinite(log_n[0]) and np.isfinite(log_d[0])):
            dropped.append((sweep.C, _why_dropped(method, sweep)))
            continue
        found = np.isfinite(log_n) & np.isfinite(log_d)
        # An optimum that noise often pushes off the edge is less sure than the draws that stay inside say.
        scale = 1 / found.mean()
        rows.append((sweep.C, np.exp(log_n[0]), np.exp(log_d[0]), best[0], *_spread(log_n, log_d, found, scale)))
        draws.append(np.stack([log_n, log_d])[:, 1:])
    if len(rows) < 2:
        raise FitError(
            f"{len(rows)} of {len(sweeps)} budgets have an optimum and exponents need two: "
            + "; ".join(f"{c:.3g}: {why}" for c, why in dropped[:4])
        )
    optima = np.array(rows, dtype=OPTIMA).view(np.recarray)
    return IsoFlop(
        method=method,
        optima=optima,
        N_law=power_law(optima.C, optima.N),
        D_law=power_law(optima.C, optima.D),
        noise=noise,
        sweeps=tuple(sweeps),
        dropped=tuple(dropped),
        samples=_exponents(optima.C, np.stack(draws)) if noise > 0 and resamples else np.empty((0, 2)),
        window=window,
        merged=sum(int(sweep.N.size - np.unique(sweep.N).size) for sweep in sweeps),
        left_out=int(np.size(C) - sum(sweep.N.size for sweep in full)),
    )


def _spread(log_n, log_d, found, scale) -> tuple[float, float]:
    """Standard deviations of ln N* and ln D*; never 0, so that they can weigh a fit."""
    floor = 1e-12
    return tuple(max(float(np.std(x[found])) * scale, floor) for x in (log_n, log_d))


def _exponents(C: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Least-squares exponents of every draw: draws (budgets, 2, resamples), nan where a draw has no optimum."""
    present = np.isfinite(draws)
    x = np.where(present, np.log(C)[:, None, None], np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        dx = x - np.nansum(x, axis=0) / present.sum(0)
        slopes = np.nansum(dx * draws, axis=0) / np.nansum(dx**2, axis=0)
    return slopes[:, np.isfinite(slopes).all(0) & (present.all(1).sum(0) >= 2)].T


def _why_dropped(method: str, sweep: Sweep) -> str:
    sizes = np.unique(sweep.N).size
    if sizes < MIN_POINTS[method]:
        return f"too few sizes ({sizes}), {method} needs {MIN_POINTS[method]}"
    lowest = int(np.argmin(sweep.loss))
    if lowest in (0, sweep.N.size - 1):
        side, more = ("smallest", "smaller") if lowest == 0 else ("largest", "larger")
        return f"the {side} size tried ({sweep.N[lowest]:.3g}) is the best: add {more} models"
    return "the curve has no minimum inside the sweep"
