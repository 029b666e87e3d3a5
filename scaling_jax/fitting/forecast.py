"""`fitting.forecast`: the loss of future runs, with an interval that stays honest beyond the data."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from scaling_jax.fitting.data import (
    as_column,
    check_int,
    check_level,
    column_of,
    column_y,
    inputs_of,
    names_of,
    points_of,
    require_same_rows,
    resolve_column,
    scale_column,
)
from scaling_jax.fitting.errors import DataError, FitError, FitWarning
from scaling_jax.fitting.fit import Fit
from scaling_jax.fitting.inference import noise, rolling
from scaling_jax.fitting.inference.mixture import Mixture, mixture, unexplained
from scaling_jax.fitting.inference.rolling import Candidate, Ladder
from scaling_jax.fitting.laws.base import Law
from scaling_jax.fitting.laws.registry import listed
from scaling_jax.fitting.objectives import Objective, as_objective
from scaling_jax.fitting.optimal.mixed_frontier import MixedFrontier, mixed_frontier
from scaling_jax.fitting.rows import read
from scaling_jax.text import table

ND_LAWS = ("chinchilla", "chinchilla_tied", "chinchilla_outer")
FALLING, RISING = ("power", "power_offset", "power_shifted"), ("power", "saturating", "m4")
SINGLE = ("x", "C", "D", "N")  # other names that a single input may have
FAR = 4.0  # decades beyond the data from which the unit of an input is doubted


@dataclasses.dataclass(frozen=True, eq=False)
class ForecastPrediction:
    """Forecast of single runs; arrays have the shape of the inputs.

    Attributes:
      value: of y.
      low: lower end of the interval of one run.
      high: its upper end.
      parts: {"resampling", "run", "laws", "drift"}: standard deviations of ln y; their squares add up.
      level: of the interval.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    parts: dict[str, np.ndarray]
    level: float

    @property
    def interval(self) -> np.ndarray:
        """(2, ...) `low` and `high`."""
        return np.stack([self.low, self.high])

    def __repr__(self) -> str:
        rows = [
            [f"{self.value[i]:.5g}", f"{self.low[i]:.5g}", f"{self.high[i]:.5g}"]
            + [f"{v[i]:.2%}" for v in self.parts.values()]
            for i in list(np.ndindex(self.value.shape))[:20]
        ]
        more = [] if self.value.size <= 20 else [f"  ... {self.value.size - 20} more"]
        return "\n".join([table(["value", f"{self.level:.0%} from", "to", *self.parts], rows), *more])


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Forecast:
    """The weighted mean of several laws, with calibrated intervals. Made by `forecast`.

    Attributes:
      level: of intervals unless another is asked for.
      noise: the `Noise` of one run.
      impossible: {law: why it takes no part}.
      notes: what was done to the data, in sentences.
      n: rows.
    """

    level: float
    noise: noise.Noise
    impossible: dict[str, str]
    notes: list[str]
    n: int
    _mixture: Mixture
    _ladder: Ladder
    _names: dict[str, str]
    _most_parameters: int

    @property
    def weights(self) -> dict[str, float]:
        """{law: weight}, sum 1."""
        return {m.candidate.name: float(w) for m, w in zip(self._mixture.members, self._mixture.weights)}

    @property
    def fits(self) -> dict[str, Fit]:
        """{law: its `Fit` of all rows}, fitted with more weight on larger runs."""
        return {m.candidate.name: m.fit for m in self._mixture.members}

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """{input: (min, max)} of the data, and of C = 6ND where there are N and D."""
        return dict(self._mixture.ranges)

    @property
    def drift(self) -> float:
        """Standard deviation of the drift of ln y per decade beyond the data, for runs like the largest ones."""
        return float(np.sqrt(np.interp(self._top_ratio(), self._mixture.ratio, self._mixture.drift)))

    @property
    def learned_from(self) -> int:
        """Number of earlier cuts that the drift was learned from; 0: it is the default of the public ladders."""
        return len(self._mixture.cuts)

    def predict(self, inputs: Any, level: float | None = None) -> ForecastPrediction:
        """Forecasts single runs.

        Args:
          inputs: dict or DataFrame of the inputs, numbers or arrays that broadcast; an array for a single input.
          level: of the interval; the forecast's own by default.

        Returns:
          A `ForecastPrediction` with `.value`, `.low`, `.high` and `.parts`.

        Raises:
          FitError: a missing column, text, or values that are not positive.
        """
        level = self.level if level is None else level
        check_level(level)
        columns = _columns([m.candidate for m in self._mixture.members], _renamed(inputs, self._names), points_of)
        shape = np.broadcast_shapes(*(v.shape for v in columns.values()))
        flat = {k: np.broadcast_to(v, shape).ravel() for k, v in columns.items()}
        if (away := self._mixture.decades(flat)).size and away.max() > FAR:
            why = f"{away.max():.0f} decades beyond the data: are the inputs in the units of the data?"
            warnings.warn(why, FitWarning, stacklevel=2)
        mean, variances = self._mixture.parts(flat)
        half = self._mixture.half_width(variances, level)
        value, low, high = (np.exp(v).reshape(shape) for v in (mean, mean - half, mean + half))
        return ForecastPrediction(value, low, high, {k: np.sqrt(v).reshape(shape) for k, v in variances.items()}, level)

    def frontier(
        self,
        C: float | np.ndarray,
        cost: Callable | None = None,
        level: float | None = None,
        *,
        max_N: float | None = None,
        max_D: float | None = None,
        allowed: Callable | None = None,
        inputs: Mapping | None = None,
    ) -> MixedFrontier:
        """The best N and D for each budget, or why the data do not give one.

        Args:
          C: budgets, a number or an array, in the unit of `cost`.
          cost: cost(N, D) of a run, increasing in both; None for 6ND.
          level: of the intervals; the forecast's own by default.
          max_N: cap on parameters.
          max_D: cap on tokens.
          allowed: allowed(N, D) -> bool, any other constraint.
          inputs: further inputs of the laws, as in `Fit.frontier`.

        Returns:
          A `MixedFrontier` with `.N`, `.D`, `.loss` and `.interval`; with `.answer` False it has `.reasons` instead.

        Raises:
          FitError: laws without N and D, a budget that is not positive, or constraints that leave nothing.
        """
        level = self.level if level is None else level
        check_level(level)
        options = {"cost": cost, "max_N": max_N, "max_D": max_D, "allowed": allowed, "inputs": inputs}
        return mixed_frontier(self._mixture, self._ladder, self._most_parameters, C, level, **options)

    def _top_ratio(self) -> float:
        """Median ln(D / N) of the largest runs; 0 without N and D."""
        ladder = self._ladder
        if {"N", "D"} <= set(ladder.inputs):
            top = ladder.scale >= 0.5 * ladder.scale.max()
            return float(np.median(np.log(ladder.inputs["D"][top] / ladder.inputs["N"][top])))
        return 0.0

    def __repr__(self) -> str:
        low, high = self._ladder.scale.min(), self._ladder.scale.max()
        laws = ", ".join(f"{k} {w:.0%}" for k, w in self.weights.items())
        learned = f"learned from {self.learned_from} earlier cuts" if self.learned_from else "the default"
        lines = [
            f"forecast from {self.n} runs, scale {low:.3g} to {high:.3g}; {self.level:.0%} intervals of one run",
            f"  laws: {laws}",
            f"  {self.noise!r}",
            f"  drift {self.drift:.2%} of y per decade beyond the data ({learned})",
            *(f"  {k} takes no part: {why}" for k, why in self.impossible.items()),
            *(f"  ! {note}" for note in self.notes),
        ]
        return "\n".join(lines)


def forecast(
    data: Any,
    y: Any,
    C: Any = None,
    laws: Sequence | str | Law | None = None,
    clusters: Any = None,
    level: float = 0.9,
    *,
    weights: Any = None,
    objective: Objective | None = None,
    n_tuned: int = 1,
    seed: int = 0,
) -> Forecast:
    """Forecasts future runs: the weighted mean of several laws, with an interval for a single run.

    Its variance adds resampling of the runs, scatter of one run, disagreement between laws, and drift: the error per
    decade of forecasts from earlier cuts of the same data. They are shown as `.parts`.

    Args:
      data: dict or DataFrame with N and D, or with a single input (any name), or an array of it.
      y: (n,) positive: a loss, or the name of a column.
      C: (n,) scale of each run, or the name of a column; by default 6ND, or the single input.
      laws: names, `Law`s, or pairs (name, {fixed parameter: value}); by default three of N and D, or of one input.
      clusters: (n,) labels of runs with shared noise (a trunk, a seed), or a column; they are resampled together.
      level: of the intervals.
      weights: (n,) factors on each row's cost, or the name of a column; 0 leaves a row out.
      objective: of the fits; Huber(1e-3) on ln y by default.
      n_tuned: each row is the best of this many runs; forecasts are raised by the bias of that under noise alone.
      seed: of starts and resamples.

    Returns:
      A `Forecast`.

    Raises:
      FitError: input that cannot be forecast from; the message quotes the value and suggests a fix.

    Example:
      >>> import numpy as np
      >>> from scaling_jax import fitting
      >>> N, D = (v.ravel() for v in np.meshgrid(np.logspace(7, 9, 5), np.logspace(9, 11, 5)))
      >>> loss = 1.7 + 480 / N**0.35 + 2100 / D**0.37
      >>> round(float(fitting.forecast({"N": N, "D": D}, loss).predict({"N": 1e10, "D": 1e12}).value), 2)
      1.93
    """
    check_level(level)
    check_int(n_tuned, "n_tuned", 1)
    check_int(seed, "seed")
    objective = as_objective(objective)
    candidates, ladder, names = _read(data, y, C, laws, clusters, weights, objective)
    n = len(ladder.y)
    ladder, notes = rolling.thinned(ladder)
    cuts = rolling.inner_cuts(ladder.scale)
    ladder, components = _count_clusters(candidates[0], ladder, objective, seed)
    members, impossible = rolling.members(candidates, ladder, cuts, objective, seed)
    if not members:
        why = "; ".join(f"{k}: {v}" for k, v in impossible.items())
        raise DataError(f"no law can be forecast from {n} runs ({why}): add runs, or give laws= with fewer parameters.")
    made = mixture(members, ladder, cuts, n_tuned, components)
    notes += unexplained(made, ladder)
    if n_tuned > 1:
        notes.append(f"raised by {np.expm1(made.shift):.2%}: each row is taken as the best of {n_tuned} by noise")
    return Forecast(level, made.noise, impossible, notes, n, made, ladder, names, max(c.free for c in candidates))


def _read(
    data: Any, y: Any, C: Any, laws: Any, clusters: Any, weights: Any, objective: Objective
) -> tuple[list[Candidate], Ladder, dict[str, str]]:
    """(laws, rows with positive weight, {column of the data: input of the laws}); arguments as those of `forecast`."""
    require_same_rows(data, y=y, C=C, weights=weights, clusters=clusters)
    y_values, named = column_y(data, y), {v for v in (y, C, clusters, weights) if isinstance(v, str)}
    names = _input_names(data, laws, named)
    data = _renamed(data, names)
    candidates = _candidates(laws, data, y_values)
    columns = _columns(candidates, data)
    weights, clusters = resolve_column(data, weights, "weights"), resolve_column(data, clusters, "clusters")
    rows = read(candidates[0].law, columns, y_values, weights, clusters, objective, [])
    if np.any(rows.y <= 0):
        raise DataError(f"y = {rows.y.min():g}: forecasts are made in ln y, so y must be positive.")
    scale, worth = _scale(columns, C, data, rows.y), np.ones(len(rows.y))
    ladder = Ladder({**columns, **rows.inputs}, rows.y, rows.weights, scale, rows.clusters, worth)
    return candidates, ladder.rows(rows.weights > 0), names


def _count_clusters(
    candidate: Candidate, ladder: Ladder, objective: Objective, seed: int
) -> tuple[Ladder, tuple[float, float] | None]:
    """The ladder with rows weighted by what their clusters are worth, and the variances between and within clusters.

    Both come from the residuals of a first fit; without clusters, or with too few runs, the ladder stays as it is.
    """
    if ladder.labels is None:
        return ladder, None
    try:
        first = rolling.fit_rows(candidate, ladder, objective, seed, rolling.STARTS, recent=False)
    except FitError:
        return ladder, None
    between, within = noise.components(first.residuals, ladder.labels, len(first.free))
    worth = noise.cluster_weights(between, within, ladder.labels)
    return dataclasses.replace(ladder, weights=ladder.weights * worth, worth=worth), (between, within)


def _input_names(data: Any, laws: Any, named: set[str]) -> dict[str, str]:
    """{column of the data: input of the laws} where a single input has a name of its own."""
    columns = names_of(data)
    if laws is not None or columns is None or {"N", "D"} <= set(columns):
        return {}
    free = [k for k in columns if k not in named]
    chosen = free if len(free) == 1 else [k for k in SINGLE if k in free][:1]
    if len(chosen) != 1:
        raise DataError(
            f"the columns {', '.join(map(repr, columns))} do not say what to forecast from: give 'N' and 'D', a single "
            "input, or laws=."
        )
    return {} if chosen == ["x"] else {chosen[0]: "x"}


def _renamed(data: Any, names: Mapping[str, str]) -> Any:
    columns = names_of(data)
    if not names or columns is None:
        return data
    missing = [k for k in names if k not in columns and names[k] not in columns]
    if missing:
        raise DataError(f"needs the column {missing[0]!r}; there are {', '.join(map(repr, columns)) or 'none'}.")
    return {names.get(k, k): column_of(data, k) for k in columns if k in names or k not in names.values()}


def _default_laws(data: Any, y: np.ndarray) -> tuple[str, ...]:
    """Laws of N and D where there are both; else of x, by whether y falls with it."""
    columns = names_of(data)
    if columns is not None and {"N", "D"} <= set(columns):
        return ND_LAWS
    x = as_column(data if columns is None else column_of(data, "x"), "x", y.size, "y")
    return FALLING if np.sum((x.argsort().argsort() - (x.size - 1) / 2) * (y - y.mean())) <= 0 else RISING


def _candidates(laws: Any, data: Any, y: np.ndarray) -> list[Candidate]:
    if laws is None:
        laws = _default_laws(data, y)
    found = [rolling.candidate(entry) for entry in listed(laws)]
    for label in {c.name for c in found}:
        if sum(c.name == label for c in found) > 1:
            raise FitError(f"laws names {label} twice.")
    return found


def _columns(
    candidates: Sequence[Candidate], data: Any, inputs: Callable[[Law, Any], dict[str, np.ndarray]] = inputs_of
) -> dict[str, np.ndarray]:
    """All inputs of the laws, and N and D where those give them."""
    columns: dict[str, np.ndarray] = {}
    for candidate in candidates:
        own = inputs(candidate.law, data)
        nd = candidate.law.nd(own)
        columns |= own if nd is None else {**own, "N": nd[0], "D": nd[1]}
    return columns


def _compute(columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
    if {"N", "D"} <= set(columns):
        return 6.0 * columns["N"] * columns["D"]
    return None


def _scale(columns: Mapping[str, np.ndarray], C: Any, data: Any, y: np.ndarray) -> np.ndarray:
    if C is not None:
        scale = scale_column(data, C, y)
    elif (compute := _compute(columns)) is not None:
        scale = compute
    elif len(columns) == 1:
        scale = next(iter(columns.values()))
    else:
        raise FitError(f"the inputs {', '.join(columns)} give no C = 6ND: pass C=, the scale of each run.")
    if np.any(scale <= 0):
        raise DataError(f"C = {scale.min():g}: the scale of a run must be positive.")
    return scale
