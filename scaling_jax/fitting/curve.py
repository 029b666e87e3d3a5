"""The law of a loss curve under any schedule of the learning rate, to forecast a schedule that was not run.

The Multi-Power Law of Luo et al. 2025 (arXiv:2503.12811): after t steps with rates eta_1 ... eta_t

    L(t) = L0 + A / S(t)^alpha - B sum_k (eta_(k-1) - eta_k) G(C eta_k^-gamma S_k(t)),   G(x) = 1 - (1 + x)^-beta,

where S(t) is the sum of all rates so far, S_k(t) that from step k on, and the sum over k begins after the warmup. The
first two terms are progress along the trunk, the last is what each decrease of the rate has gained by step t.
"""

from __future__ import annotations

import dataclasses
import warnings as python_warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling_jax.fitting.data import as_column, check_positive, column_of, names_of, require, resolve_column
from scaling_jax.fitting.errors import DataError, FitError, FitWarning
from scaling_jax.fitting.solver._starts import low_discrepancy

PARAMS = ("L0", "A", "alpha", "B", "C", "beta", "gamma")
DECAY = ("B", "C", "beta", "gamma")  # only a decaying rate shows them
TINIEST = 1e-30  # steps below it are no counts, and their powers leave float64
TERMS = 512  # largest number of changes of the rate in one schedule
MISFIT = 0.05  # rms of ln loss - ln law beyond which the curves cannot be of one model
ROWS = 200  # of a curve that enter a fit: means of neighbors where there are more
STARTS, FINISHED = 96, 4  # starting points evaluated, and how many of them are descended from
# Ranges of the starting points, and bounds, of alpha, ln C, ln beta, gamma in the units of `_Scale`.
START = np.array([[0.1, 1.2], [-1.0, 6.0], [-2.3, 0.7], [0.0, 1.0]])
# Mean and scatter of the paper's fits: a prior worth one observation, for what noise leaves open.
PRIOR, WIDTH = np.array([0.5, 2.5, -0.7, 0.5]), np.array([0.3, 2.0, 0.7, 0.3])
BOUNDS = np.array([[0.0, 5.0], [-12.0, 18.0], [-7.0, 4.0], [-2.0, 4.0]])


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """A schedule of the rate, prepared for the law.

    Attributes:
      step: (n,) nodes.
      total: (n,) sum of all rates up to each.
      warmup: the step at which the rate is highest before it first falls.
      drop: (k,) decreases of the rate (increases are negative).
      rate: (k,) rate after each.
      since: (k,) sum of the rates before each.
    """

    step: np.ndarray
    total: np.ndarray
    warmup: float
    drop: np.ndarray
    rate: np.ndarray
    since: np.ndarray

    def sums(self, step: np.ndarray) -> np.ndarray:
        """The sum of all rates up to each step."""
        return np.interp(step, self.step, self.total)


@dataclasses.dataclass(frozen=True, eq=False)
class CurveFit:
    """The law of a loss curve, fitted by `fit_curves`.

    Attributes:
      params: L0, A, alpha, B, C, beta, gamma, in the units of the steps, rates and losses.
      rms: root mean square of ln loss - ln law over the rows of the fit.
      worst: its largest absolute value.
      n: rows that entered the fit, of all curves.
      rates: (lowest, highest) peak rate of the curves.
      steps: (lowest, highest) number of steps of the curves.
      warnings: what makes a forecast doubtful, in sentences.
    """

    params: Mapping[str, float]
    rms: float
    worst: float
    n: int
    rates: tuple[float, float]
    steps: tuple[float, float]
    warnings: tuple[str, ...] = ()

    def predict(self, step: ArrayLike, rate: ArrayLike) -> np.ndarray:
        """The loss at each step of a schedule.

        Args:
          step: (n,) steps, increasing; the rate is taken as linear between them.
          rate: (n,) learning rate at each.

        Returns:
          (n,) loss; its last number is the loss at the end. NaN during warmup, which the law leaves out, and where the
          law is not positive. A peak rate beyond twice those of the fit warns (`FitWarning`).

        Raises:
          FitError: steps that do not increase, or rates that are negative or all zero.
        """
        step, rate = as_column(step, "step"), as_column(rate, "rate", len(np.atleast_1d(step)), "step")
        schedule = _schedule(step, rate)
        value, peak = _law(self.params, schedule, step), float(rate.max())
        low, high = self.rates
        if not low / 2 <= peak <= 2 * high:
            why = f"a peak rate of {peak:g} is far from the {low:g} to {high:g} of the fitted curves: a guess."
            python_warnings.warn(why, FitWarning, stacklevel=2)
        return np.where((step >= schedule.warmup) & (value > 0), value, np.nan)

    def __str__(self) -> str:
        numbers = ", ".join(f"{k} {v:.4g}" for k, v in self.params.items())
        lines = [f"loss curve: {numbers}", f"  {self.n} rows, rms {self.rms:.2%}, worst {self.worst:.2%}"]
        return "\n".join(lines + [f"  ! {w}" for w in self.warnings])


def fit_curves(
    curves: Mapping[str, Any] | Iterable[Any], *, fixed: Mapping[str, float] | None = None, delta: float = 1e-3
) -> CurveFit:
    """Fits the law of a loss curve to curves of one model under different schedules.

    Args:
      curves: each a dict or DataFrame with columns "step", "rate" and "loss"; one or a list of them. A loss that was
        not measured at a step is NaN. At least one rate must decay, e.g. cosines beside a constant trunk: with
        cosines of two or more lengths forecasts err half as much. Losses are best of one fixed validation set.
      fixed: parameters to keep, e.g. {"C": ..., "beta": ..., "gamma": ...} of a smaller model.
      delta: of the Huber cost on ln loss, in case residuals are smaller; never below their own scatter.

    Returns:
      A `CurveFit`, whose `.predict(step, rate)` is the loss under any other schedule.

    Raises:
      FitError: columns that are missing or do not fit together, no decay to learn from, or too few rows.

    Example:
      >>> import numpy as np
      >>> from scaling_jax import fitting
      >>> t = np.arange(0, 2001, 20.0)
      >>> cosine = 5e-4 * (1 + np.cos(np.pi * t / 2000))
      >>> constant = np.full_like(t, 1e-3)
      >>> truth = dict(L0=2.0, A=1.0, alpha=0.5, B=300.0, C=2.0, beta=0.5, gamma=0.5)
      >>> law = fitting.CurveFit(truth, 0, 0, 0, (1e-3, 1e-3), (2000, 2000))
      >>> curves = [{"step": t, "rate": r, "loss": law.predict(t, r)} for r in (cosine, constant)]
      >>> curves = [{k: v[1:] for k, v in curve.items()} for curve in curves]
      >>> branch = np.where(t < 1600, 1e-3, 1e-3 * (2000 - t) / 400)
      >>> fit = fitting.fit_curves(curves)
      >>> bool(abs(fit.predict(t, branch)[-1] / law.predict(t, branch)[-1] - 1) < 1e-3)
      True
    """
    fixed = _checked_fixed({} if fixed is None else fixed)
    check_positive(delta, "delta", "1e-3")
    if isinstance(curves, Mapping) or names_of(curves) is not None:
        curves = [curves]
    if isinstance(curves, str) or not isinstance(curves, Iterable):
        raise DataError(f'curves={curves!r}: give one or more of {{"step": ..., "rate": ..., "loss": ...}}.')
    read = [_read(curve, i) for i, curve in enumerate(curves)]
    if not read:
        raise DataError('curves is empty: give one or more of {"step": ..., "rate": ..., "loss": ...}.')
    schedules = [_schedule(step, rate) for step, rate, _ in read]
    largest = max(float(s.drop.clip(0).sum() / max(s.rate.max(initial=0), 1e-300)) for s in schedules)
    peak = max(float(rate.max()) for _, rate, _ in read)
    if largest < 0.05 and not set(DECAY) <= set(fixed):
        raise DataError(
            "the rate of no curve decays, so what a decay gains cannot be learned: add a curve with a decay, or give "
            f"fixed={{...}} with {', '.join(DECAY)} of another fit."
        )
    rows = [_rows(schedule, step, loss) for schedule, (step, _, loss) in zip(schedules, read)]
    n = sum(len(y) for _, y in rows)
    if n < len(PARAMS) - len(fixed) + 3:
        raise DataError(f"{n} losses after warmup for {len(PARAMS) - len(fixed)} parameters: log more steps.")
    scale = _Scale(peak, max(float(s.total[-1]) for s in schedules))
    problem = _Problem(schedules, rows, scale, fixed)
    params, residuals = problem.solve(delta)
    steps, peaks = [float(step[-1]) for step, _, _ in read], [float(rate.max()) for _, rate, _ in read]
    rms, worst = float(np.sqrt(np.mean(residuals**2))), float(np.abs(residuals).max())
    return CurveFit(
        params=params, rms=rms, worst=worst, n=n, rates=(min(peaks), max(peaks)), steps=(min(steps), max(steps)),
        warnings=tuple(_warnings(params, problem, rms)),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Scale:
    """Units in which every parameter is about one: the peak rate, and the largest sum of rates."""

    rate: float
    total: float

    def natural(self, z: Iterable[float]) -> dict[str, float]:
        """Natural parameters of (L0, A, B, alpha, ln C, ln beta, gamma)."""
        L0, A, B, alpha, log_c, log_beta, gamma = map(float, z)
        return {
            "L0": L0, "A": A * self.total**alpha, "alpha": alpha, "B": B / self.rate,
            "C": float(np.exp(log_c)) * self.rate**gamma / self.total, "beta": float(np.exp(log_beta)), "gamma": gamma,
        }  # fmt: skip


class _Problem:
    """Curves prepared for the law, and the parameters that are fitted to them."""

    def __init__(
        self,
        schedules: Sequence[Schedule],
        rows: Sequence[tuple[np.ndarray, np.ndarray]],
        scale: _Scale,
        fixed: Mapping[str, float],
    ) -> None:
        self.scale, self.fixed = scale, fixed
        self.y = np.concatenate([y for _, y in rows])
        self.log_y = np.log(self.y)
        self.parts = []
        for schedule, (step, _) in zip(schedules, rows):
            total = schedule.sums(step) / scale.total
            since = np.maximum(total[:, None] - schedule.since / scale.total, 0.0)
            self.parts.append((total, since, schedule.drop / scale.rate, schedule.rate / scale.rate))

    def basis(self, alpha: float, log_c: float, log_beta: float, gamma: float) -> np.ndarray:
        """(n, 3) the factors of L0, A and B."""
        rows = []
        for total, since, drop, rate in self.parts:
            x = np.exp(log_c) * rate**-gamma * since
            gain = -np.expm1(-np.exp(log_beta) * np.log1p(x)) @ drop
            rows.append(np.stack([np.ones_like(total), total**-alpha, -gain], axis=1))
        return np.concatenate(rows)

    def with_fixed(self, nonlinear: np.ndarray) -> tuple[float, float, float, float]:
        """(alpha, ln C, ln beta, gamma) with those that are fixed in place."""
        alpha, log_c, log_beta, gamma = nonlinear
        alpha, gamma = self.fixed.get("alpha", alpha), self.fixed.get("gamma", gamma)
        if "beta" in self.fixed:
            log_beta = np.log(self.fixed["beta"])
        if "C" in self.fixed:
            log_c = np.log(self.fixed["C"] * self.scale.rate**-gamma * self.scale.total)
        return alpha, log_c, log_beta, gamma

    def linear(
        self, nonlinear: tuple[float, float, float, float], weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(basis, (L0, A, B)) by non-negative least squares of relative residuals."""
        from scipy.optimize import nnls

        basis = self.basis(*nonlinear)
        kept = {0: "L0", 1: "A", 2: "B"}
        unit = {"L0": 1.0, "A": self.scale.total ** -nonlinear[0], "B": self.scale.rate}
        pinned = {i: self.fixed[k] * unit[k] for i, k in kept.items() if k in self.fixed}
        free = [i for i in range(3) if i not in pinned]
        remainder = self.y - sum((basis[:, i] * v for i, v in pinned.items()), np.zeros_like(self.y))
        coefficients = np.zeros(3)
        for i, v in pinned.items():
            coefficients[i] = v
        if free:
            scaled = basis[:, free] * (weights / self.y)[:, None]
            coefficients[free] = nnls(scaled, remainder * weights / self.y)[0]
        return basis, coefficients

    def residuals(self, nonlinear: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """((n,) ln y - ln law, (L0, A, B)) at the best linear coefficients."""
        basis, coefficients = self.linear(self.with_fixed(nonlinear), weights)
        with np.errstate(all="ignore"):
            r = self.log_y - np.log(basis @ coefficients)
        return np.where(np.isfinite(r), r, 10.0), coefficients

    def solve(self, delta: float) -> tuple[dict[str, float], np.ndarray]:
        """(params, residuals): variable projection from many starts, reweighted so that outliers count linearly."""
        weights = np.ones_like(self.y)
        starts = START[:, 0] + (START[:, 1] - START[:, 0]) * low_discrepancy(STARTS, 4, 0)
        value = [np.sum(self.residuals(z, weights)[0] ** 2) for z in starts]
        ends = [self._descend(starts[i], weights, 0.0) for i in np.argsort(value)[:FINISHED]]
        best = min(ends, key=lambda z: float(np.sum(self.residuals(z, weights)[0] ** 2)))
        for _ in range(4):
            size = np.abs(self.residuals(best, weights)[0])
            noise = 1.4826 * float(np.median(size))
            weights = np.sqrt(np.minimum(1.0, max(delta, 1.5 * noise) / np.maximum(size, 1e-300)))
            best = self._descend(best, weights, noise)
        r, linear = self.residuals(best, weights)
        natural = self.scale.natural([*linear, *self.with_fixed(best)])
        return {k: float(self.fixed.get(k, natural[k])) for k in PARAMS}, r

    def _descend(self, z: np.ndarray, weights: np.ndarray, noise: float) -> np.ndarray:
        from scipy.optimize import least_squares

        def residuals(z: np.ndarray) -> np.ndarray:
            return np.append(weights * self.residuals(z, weights)[0], noise * (z - PRIOR) / WIDTH)

        options = {"bounds": (BOUNDS[:, 0], BOUNDS[:, 1]), "x_scale": np.ptp(START, axis=1)}
        found = least_squares(residuals, z, max_nfev=60, xtol=1e-9, ftol=1e-10, **options)
        return found.x


def _law(params: Mapping[str, float], schedule: Schedule, step: np.ndarray) -> np.ndarray:
    total = schedule.sums(step)
    since = np.maximum(total[:, None] - schedule.since, 0.0)
    with np.errstate(all="ignore"):
        x = params["C"] * schedule.rate ** -params["gamma"] * since
        gain = -np.expm1(-params["beta"] * np.log1p(x)) @ schedule.drop
        return params["L0"] + params["A"] * total ** -params["alpha"] - params["B"] * gain


def _schedule(step: np.ndarray, rate: np.ndarray) -> Schedule:
    if len(step) < 2 or not np.all(np.diff(step) > 0) or step[0] < 0:
        raise DataError("step must have two or more increasing numbers, zero or more.")
    if not np.all(np.isfinite(rate) & (rate >= 0)) or not rate.any():
        raise DataError("rate must be finite, zero or more, and positive somewhere.")
    require((step == 0) | (step > TINIEST), step, "step", "must be 0 or a count of steps", "correct its unit")
    if step[0] > 0:
        step, rate = np.append(0.0, step), np.append(rate[0], rate)
    gaps, change = np.diff(step), np.diff(rate)
    # Rates linear between nodes: the sum over the steps in (a, b], exactly.
    total = np.append(0.0, np.cumsum(gaps * (rate[:-1] + rate[1:]) / 2 + change / 2))
    falling = np.flatnonzero(change < 0)
    top = int(np.argmax(rate[: falling[0] + 1] if len(falling) else rate))  # where warmup ends
    drop, after, since = _changes(step[top:], rate[top:], total[top:])
    floor = 1e-6 * rate.max()  # a rate of zero gives its whole gain at once
    return Schedule(step, total, float(step[top]), drop, np.maximum(after, floor), since)


def _changes(step: np.ndarray, rate: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(decrease, rate after it, sum of rates before it) of each change, at most about TERMS of them."""
    variation = np.abs(np.diff(rate))
    unit = max(variation.sum() / TERMS, 1e-300)
    drop, after, since, pending = [], [], [], []
    for i in np.flatnonzero(variation):
        pieces = int(min(max(step[i + 1] - step[i], 1), np.ceil(variation[i] / unit)))
        ends = np.linspace(0.0, 1.0, pieces + 1)
        levels = rate[i] + ends * (rate[i + 1] - rate[i])
        sums = np.interp(ends, [0, 1], total[[i, i + 1]])
        for j in range(pieces):
            pending.append((levels[j] - levels[j + 1], levels[j + 1], sums[j]))
            size = sum(abs(p[0]) for p in pending)
            if size >= 0.999 * unit or np.sign(pending[0][0]) != np.sign(pending[-1][0]):
                _flush(pending, drop, after, since)
    _flush(pending, drop, after, since)
    return np.array(drop), np.array(after), np.array(since)


def _flush(
    pending: list[tuple[float, float, float]], drop: list[float], after: list[float], since: list[float]
) -> None:
    """Joins changes of the rate into one, at their weighted mean."""
    if not pending:
        return
    d, a, s = (np.array(v) for v in zip(*pending))
    w = np.abs(d) / np.abs(d).sum()
    drop.append(d.sum())
    after.append(w @ a)
    since.append(w @ s)
    pending.clear()


def _rows(schedule: Schedule, step: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(steps, losses) after warmup where there is a loss; geometric means of neighbors where there are many."""
    used = np.isfinite(loss) & (step >= schedule.warmup) & (step > 0)
    step, loss = step[used], loss[used]
    if len(loss) and np.any(loss <= 0):
        raise DataError(f"loss = {loss[loss <= 0][0]:g}: losses must be positive.")
    if len(step) <= ROWS:
        return step, loss
    # Half of the bins even in time, half in its logarithm, where the curve bends most.
    even, log = np.linspace(step[0], step[-1], ROWS // 2 + 1), np.geomspace(step[0], step[-1], ROWS // 2 + 1)
    edges = np.unique(np.concatenate([even, log]))
    place = np.clip(np.searchsorted(edges, step, side="right") - 1, 0, len(edges) - 2)
    count = np.bincount(place, minlength=len(edges) - 1)
    mean = [np.bincount(place, v, len(count))[count > 0] / count[count > 0] for v in (step, np.log(loss))]
    return mean[0], np.exp(mean[1])


def _read(curve: Any, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(step, rate, loss) of one curve, each (n,)."""
    known = names_of(curve)
    if known is None or not {"step", "rate", "loss"} <= set(known):
        raise DataError(f'curve {i} must have the columns "step", "rate" and "loss"; it has {known}.')
    step = as_column(column_of(curve, "step"), f"step of curve {i}")
    rate = as_column(resolve_column(curve, "rate", "rate"), f"rate of curve {i}", len(step), "step")
    loss = as_column(resolve_column(curve, "loss", "loss"), f"loss of curve {i}", len(step), "step")
    require(
        ~np.isinf(loss), loss, f"loss of curve {i}", "must be finite, or NaN where not measured", "cut it off before"
    )
    if np.isnan(loss).all():
        raise DataError(f"loss of curve {i} is NaN throughout: leave the curve out.")
    return step, rate, loss


def _checked_fixed(fixed: Any) -> dict[str, float]:
    if not isinstance(fixed, Mapping):
        raise FitError(f"fixed={fixed!r} must be a dict of parameters and values, e.g. {{'B': 300.0}}.")
    for k, v in fixed.items():
        if k not in PARAMS:
            raise FitError(f"fixed: the law of a curve has no parameter {k!r}; it has {', '.join(PARAMS)}.")
        if not (isinstance(v, (int, float, np.number)) and np.isfinite(v)):
            raise FitError(f"fixed[{k!r}] = {v!r} is not a number.")
        if k != "gamma" and (v < 0 or (v == 0 and k in ("C", "beta"))):
            raise FitError(f"fixed[{k!r}] = {v!r} must be positive.")
    return {k: float(v) for k, v in fixed.items()}


def _warnings(params: Mapping[str, float], problem: _Problem, rms: float) -> Iterator[str]:
    if rms > MISFIT:
        yield f"the law misses these curves by {rms:.0%}: are all of one model and peak rate, their losses of one kind?"
    if params["B"] == 0 and "B" not in problem.fixed:
        yield "a decay of the rate gains nothing in these curves (B = 0): the law is that of the trunk alone"
    if params["L0"] == 0 and "L0" not in problem.fixed:
        yield "the floor is zero: the curves are too short to show it, and longer runs are predicted too low"
