"""IsoFLOP sweeps: points that share a compute budget, and where along each sweep the loss is lowest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scaling_jax.fitting.data import as_column, check_positive, require_ordinary, require_same_rows
from scaling_jax.fitting.errors import FitError

METHODS = ("akima", "cubic", "parabola")
# Akima needs a point on either side of the lowest; a polynomial of degree k needs k + 1 points.
MIN_POINTS = {"akima": 3, "cubic": 4, "parabola": 3}
# Sizes closer than this (in ln N) are one size to an interpolant: their slope would be pure noise.
MERGE = 0.01


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The runs of one compute budget, ordered by N.

    Attributes:
      C: the budget in FLOPs: the geometric mean of its points, or the nominal budget when given.
      N: (n,) parameters of its points.
      D: (n,) tokens.
      loss: (n,) losses.
      index: (n,) their positions in the arrays that were passed in.
      spread: largest over smallest C among the points.
    """

    C: float
    N: np.ndarray
    D: np.ndarray
    loss: np.ndarray
    index: np.ndarray
    spread: float

    @property
    def span(self) -> float:
        """Largest over smallest N."""
        return float(self.N[-1] / self.N[0])


def as_columns(**columns: Any) -> dict[str, np.ndarray]:
    """Checks that all columns are finite, positive and of one length; returns them in float64.

    Raises:
      FitError: a column has another value; the message quotes the first such value.
    """
    require_same_rows(columns)
    out = {}
    for name, values in columns.items():
        array = as_column([values] if np.isscalar(values) else values, name)
        bad = ~(np.isfinite(array) & (array > 0))
        if bad.any():
            first = int(np.argmax(bad))
            raise FitError(
                f"{name}[{first}] is {array[first]}: N, D, C and loss must be finite and positive here; "
                f"drop such rows first ({int(bad.sum())} of {array.size})"
            )
        require_ordinary(array, name)
        out[name] = array
    sizes = {name: array.size for name, array in out.items()}
    if len(set(sizes.values())) > 1:
        raise FitError(f"columns differ in length: {', '.join(f'{k} has {v}' for k, v in sizes.items())}")
    if not next(iter(sizes.values())):
        raise FitError("there are no points")
    return out


def find_sweeps(N: Any, D: Any, C: Any, loss: Any, budgets: Any = None, tolerance: float | None = None) -> list[Sweep]:
    """Groups points by compute budget.

    Args:
      N: (n,) parameters of each run.
      D: (n,) tokens.
      C: (n,) training FLOPs.
      loss: (n,) final loss.
      budgets: None finds the budgets: C sorted is cut wherever it jumps by more than `tolerance`. A list of
        nominal budgets sends each point to the nearest, and leaves out points further than `tolerance`.
      tolerance: relative difference of C inside one budget; 0.1 when budgets are found, 0.25 when given.

    Returns:
      The sweeps in order of C.

    Raises:
      FitError: C does not come in budgets, or there are fewer than two of them.
    """
    columns = as_columns(N=N, D=D, C=C, loss=loss)
    if tolerance is not None:
        check_positive(tolerance, "tolerance", "0.1")
    nominal, groups = _jumps(columns, tolerance) if budgets is None else _nearest(columns, budgets, tolerance)
    sweeps = [_sweep(columns, budget, group, budgets is None) for budget, group in zip(nominal, groups) if group.size]
    if len(sweeps) < 2:
        raise FitError(
            f"exponents need at least two compute budgets and {columns['C'].size} points have {len(sweeps)}: "
            "C must repeat (to within tolerance=) over runs of different N"
        )
    return sweeps


def _jumps(columns: Mapping[str, np.ndarray], tolerance: float | None) -> tuple[list[float], list[np.ndarray]]:
    """(budgets, rows of each): C sorted and cut wherever it jumps. Raises FitError where these are not sweeps."""
    log_c = np.log(columns["C"])
    width = np.log1p(0.1 if tolerance is None else tolerance)
    order = np.argsort(log_c, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(log_c[order]) > width) + 1)
    for group in groups:
        low, high = columns["C"][group[0]], columns["C"][group[-1]]
        if np.log(high / low) > 2 * width:
            raise FitError(
                f"C runs from {low:.3g} to {high:.3g} without a gap of {np.expm1(width):.0%} "
                f"({group.size} points): these are not IsoFLOP sweeps; pass budgets=[...] with the nominal "
                "budgets, a smaller tolerance=, or fit the parametric law, which needs no budgets"
            )
    swept = [group.size for group in groups if np.unique(columns["N"][group]).size >= 3]
    # Single runs beside sweeps do no harm; a grid of N and D is mostly such runs.
    if len(groups) > 1 and (len(swept) < 2 or (len(swept) < len(groups) / 2 and sum(swept) < log_c.size / 2)):
        raise FitError(
            f"{log_c.size} points have {len(groups)} different C, only {len(swept)} of them with 3 sizes or more: "
            "these are not IsoFLOP sweeps; fit the parametric law, which needs no budgets, or pass budgets=[...]"
        )
    return [float(np.exp(log_c[group].mean())) for group in groups], groups


def _nearest(
    columns: Mapping[str, np.ndarray], budgets: Any, tolerance: float | None
) -> tuple[list[float], list[np.ndarray]]:
    """(budgets, rows of each): every point at the nearest of the given budgets, or at none."""
    nominal = np.unique(as_columns(budgets=budgets)["budgets"])
    width = np.log1p(0.25 if tolerance is None else tolerance)
    distance = np.abs(np.log(columns["C"])[:, None] - np.log(nominal))
    nearest = np.where(distance.min(1) <= width, distance.argmin(1), -1)
    return nominal.tolist(), [np.flatnonzero(nearest == k) for k in range(nominal.size)]


def _sweep(columns: Mapping[str, np.ndarray], budget: float, group: np.ndarray, found: bool) -> Sweep:
    """The points of one budget in order of N; a budget that was found is the C of its points where they agree."""
    index = group[np.argsort(columns["N"][group], kind="stable")]
    c = columns["C"][index]
    return Sweep(
        C=float(c[0]) if found and np.ptp(c) == 0 else budget,
        N=columns["N"][index],
        D=columns["D"][index],
        loss=columns["loss"][index],
        index=index,
        spread=float(c.max() / c.min()),
    )


def in_window(sweep: Sweep, window: int | None) -> Sweep:
    """The `window` points around the lowest loss of a sweep (all points when None)."""
    if window is None or window >= sweep.N.size:
        return sweep
    start = int(np.clip(np.argmin(sweep.loss) - window // 2, 0, sweep.N.size - window))
    keep = slice(start, start + window)
    return dataclasses.replace(sweep, N=sweep.N[keep], D=sweep.D[keep], loss=sweep.loss[keep], index=sweep.index[keep])


def log_noise(sweeps: Sequence[Sweep]) -> float:
    """Standard deviation of ln loss about a parabola through every four neighbors, pooled over sweeps.

    Four points leave one degree of freedom beside a parabola; the median keeps kinks and outliers from counting.
    nan when no sweep has four distinct sizes.
    """
    residuals = []
    for sweep in sweeps:
        x, y = merge_close(np.log(sweep.N), np.log(sweep.loss))
        for i in range(x.size - 3):
            centered = (x[i : i + 4] - x[i : i + 4].mean()) / (x[i + 3] - x[i])
            basis, _ = np.linalg.qr(np.vander(centered, 3), mode="complete")
            residuals.append(basis[:, 3] @ y[i : i + 4])
    if not residuals:
        return float("nan")
    return float(np.median(np.abs(residuals)) / 0.6745)  # the median of |z| for a standard normal z


def merge_close(x: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orders x (n,) and averages rows of Y (n,) or (n, k) whose x is equal or nearly so."""
    order = np.argsort(x, kind="stable")
    x, Y = x[order], Y[order]
    starts = np.flatnonzero(np.r_[True, np.diff(x) > MERGE])
    counts = np.diff(np.r_[starts, x.size])
    if starts.size == x.size:
        return x, Y
    shape = (-1,) + (1,) * (Y.ndim - 1)
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(Y, starts, axis=0) / counts.reshape(shape)


def minimum(method: str, x: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each column of losses Y (n, k) over x = ln N (or ln D), (n,), is lowest.

    Returns:
      (x*, loss*), each (k,): nan where the lowest point is an edge of the sweep (akima, cubic) or the curve
      has no minimum. A parabola's vertex may lie outside the sweep, as in the published approach 2.
    """
    if method == "akima":
        x, log_y = merge_close(x, np.log(Y))
        if x.size < MIN_POINTS["akima"]:
            return np.full(Y.shape[1], np.nan), np.full(Y.shape[1], np.nan)
        x_star, y_star = _interpolated_minimum(x, log_y)
        return x_star, np.exp(y_star)
    center = x.mean()
    if np.unique(x).size < MIN_POINTS[method]:
        return np.full(Y.shape[1], np.nan), np.full(Y.shape[1], np.nan)
    if method == "parabola":
        c2, c1, c0 = np.polyfit(x - center, Y, 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            at = np.where(c2 > 0, -c1 / (2 * c2), np.nan)
        return at + center, c0 + at * (c1 + at * c2)
    c3, c2, c1, c0 = np.polyfit(x - center, Y, 3)
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(c2**2 - 3 * c3 * c1)
        at = c1 / (-c2 - root)  # of the two stationary points the one where the curve bends up
    at = np.where((at + center > x.min()) & (at + center < x.max()), at, np.nan)
    return at + center, c0 + at * (c1 + at * (c2 + at * c3))


def tokens_at(sweep: Sweep, log_n: np.ndarray) -> np.ndarray:
    """ln D of a sweep at ln N, linearly between its sizes: exact where D = C / 6N. nan stays nan."""
    return np.interp(log_n, *merge_close(np.log(sweep.N), np.log(sweep.D)))


def curve(method: str, sweep: Sweep, N: np.ndarray) -> np.ndarray:
    """The loss that `method` draws through a sweep at sizes N; nan outside the sweep for akima.

    nan everywhere where the sweep has fewer sizes than the method needs, e.g. one run alone at its budget.
    """
    x = np.log(sweep.N)
    merged, log_loss = merge_close(x, np.log(sweep.loss))
    if merged.size < MIN_POINTS[method]:
        return np.full(np.shape(N), np.nan)
    if method == "akima":
        from scipy.interpolate import Akima1DInterpolator

        return np.exp(Akima1DInterpolator(merged, log_loss)(np.log(N)))
    degree = {"parabola": 2, "cubic": 3}[method]
    return np.polyval(np.polyfit(x - x.mean(), sweep.loss, degree), np.log(N) - x.mean())


def _interpolated_minimum(x: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact minimum of the Akima interpolant of each column of Y: every piece's stationary points and ends."""
    from scipy.interpolate import Akima1DInterpolator

    c3, c2, c1, c0 = Akima1DInterpolator(x, Y).c  # each (n - 1, k)
    length = np.diff(x)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(c2**2 - 3 * c3 * c1)
        at = np.where(c2 >= 0, c1 / (-c2 - root), (-c2 + root) / (3 * c3))
    at = np.where((at > 0) & (at < length), at, 0.0)
    value = c0 + at * (c1 + at * (c2 + at * c3))
    value = np.concatenate([value, Y[-1:]])
    place = np.concatenate([x[:-1, None] + at, np.full_like(Y[-1:], x[-1])])
    lowest, column = value.argmin(0), np.arange(Y.shape[1])
    x_star = place[lowest, column]
    edge = (x_star <= x[0]) | (x_star >= x[-1])
    return np.where(edge, np.nan, x_star), np.where(edge, np.nan, value[lowest, column])
