"""The bootstrap: the same fit on resampled points, residuals or clusters, thousands of them descended in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from scaling_jax.fitting.data import check_level
from scaling_jax.fitting.inference.covariance import leverage_correction, quantiles
from scaling_jax.fitting.inference.delta import open_where_unmoved
from scaling_jax.fitting.inference.prediction import Prediction, predict_interval
from scaling_jax.fitting.optimal.frontier import Frontier, frontier
from scaling_jax.fitting.solution import Solution
from scaling_jax.fitting.solver._levenberg_marquardt import levenberg_marquardt
from scaling_jax.fitting.solver._problem import Coordinates, Problem

SHARP = 3e-3  # of the mean residual: where LAD is rounded off for resampling
METHODS = ("pairs", "residual", "wild", "normal")


@dataclass(frozen=True, eq=False, repr=False)
class Bootstrap:
    """Refits on resampled data. Made by `Fit.bootstrap`.

    Attributes:
      solution: the `Fit` that was resampled.
      coordinates: (n, p) samples in the solver's coordinates, all finite: predictions are made from them.
      method: how points were resampled: pairs, residual or wild; or normal.
      seed: of the resampling.
      converged: share of resamples whose refit met its tolerance.
    """

    solution: Solution
    coordinates: np.ndarray
    method: str
    seed: int
    converged: float

    @property
    def params(self) -> tuple[str, ...]:
        """Names of the fitted parameters, p of them."""
        return self._problem.free

    @cached_property
    def samples(self) -> np.ndarray:
        """(n, p) natural units; infinite or zero where a parameter ran off to an end of its range."""
        params = self._params
        return np.stack([params[k] for k in self.params], axis=1)

    @cached_property
    def derived(self) -> dict[str, np.ndarray]:
        """{name: (n,)} samples of derived exponents such as a = beta / (alpha + beta)."""
        with np.errstate(all="ignore"):
            exponents = self.solution.law.exponents
            return {k: np.asarray(of(self._params), np.float64) for k, of in exponents.items()}

    def columns(self) -> dict[str, np.ndarray]:
        """{name: (n,)} samples of every fitted parameter, then of every derived exponent of another name."""
        columns = {k: self.samples[:, i] for i, k in enumerate(self.params)}
        return columns | {k: v for k, v in self.derived.items() if k not in columns}

    @property
    def stderr(self) -> dict[str, float]:
        """{name: standard deviation of its samples}, infinite for a parameter that ran off."""
        with np.errstate(invalid="ignore"):
            deviation = {k: float(np.std(v, ddof=1)) for k, v in self.columns().items()}
        return {k: np.inf if np.isnan(v) else v for k, v in deviation.items()}

    def interval(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """{name: (lower, upper)} central quantiles of its samples.

        Parameters that the data do not determine have open ends, also where no resample moved them: the bounds of
        the law.
        """
        check_level(level)
        ends = {k: quantiles(v, level) for k, v in self.columns().items()}
        return open_where_unmoved(self.solution, {k: (float(low), float(high)) for k, (low, high) in ends.items()})

    def interval_of(
        self, function: Callable[[Mapping[str, np.ndarray]], np.ndarray], level: float, log: bool = False
    ) -> np.ndarray:
        """Interval of anything computed from the parameters: central quantiles over the resamples.

        Args:
          function: of natural-unit parameters, a dict of (s,) arrays; returns (s, ...).
          level: e.g. 0.9.
          log: not used: quantiles are the same in logarithms.

        Returns:
          (2, ...) lower and upper ends.
        """
        del log
        check_level(level)
        with np.errstate(all="ignore"):
            return quantiles(function(self._problem.constrained(self.coordinates)), level)

    def predict(self, inputs: Any, level: float = 0.95) -> Prediction:
        """The law at new inputs, as `Fit.predict`, with an interval from the resamples."""
        return predict_interval(self.solution, inputs, level, self.interval_of, len(self.coordinates))

    def frontier(
        self, C: Any, cost: Callable[[Any, Any], Any] | None = None, level: float | None = 0.95, **constraints: Any
    ) -> Frontier:
        """The best N and D for each budget, as `Fit.frontier`, with intervals from the resamples."""
        return frontier(self.solution, C, level, self.interval_of, cost=cost, **constraints)

    @property
    def _problem(self) -> Coordinates:
        return self.solution.coordinates("a bootstrap")[0]

    @cached_property
    def _params(self) -> dict[str, np.ndarray]:
        return run_off(self._problem, self.coordinates, self._problem.constrained(self.coordinates))

    def __repr__(self) -> str:
        ends = {k: quantiles(v, 0.95) for k, v in self.columns().items()}
        rows = [f"  {k:<8} +- {s:<11.5g} 95% [{ends[k][0]:.5g}, {ends[k][1]:.5g}]" for k, s in self.stderr.items()]
        return "\n".join([f"{len(self.coordinates)} {self.method} resamples, seed {self.seed}", *rows])


def bootstrap(solution: Solution, n: int, seed: int, method: str) -> Bootstrap:
    """`n` refits of a fit on resampled data, around its optimum.

    "pairs" draws points (clusters, when the fit has them) with replacement; "residual" keeps the inputs and adds
    residuals drawn with replacement to the fitted values; "wild" keeps each point's own residual and flips its sign,
    one sign for a whole cluster (Cameron, Gelbach & Miller 2008), right for unequal noise. In both, residuals are
    first corrected for their leverage (Feng, He & Hu 2011): without it intervals are too narrow. "normal" refits
    nothing: it draws parameters from the normal distribution with the fit's `Covariance`, which is what the others tend
    to with many points (or clusters), in a time that does not grow with them.

    Args:
      solution: a `Fit` with its data.
      n: resamples.
      seed: of the resampling.
      method: one of `METHODS`.
    """
    problem, z = solution.solved("bootstrap")
    if method == "normal":
        return Bootstrap(solution, _normal_draws(solution, n, seed), method, seed, 1.0)
    clusters = solution.clusters
    if problem.objective.delta == 0:
        # The last digits of LAD cost most of its steps, and are far below the precision of resampling.
        problem = problem.smoothed(float(SHARP * np.mean(np.abs(problem.residuals(z[None]))) + 1e-300))
    ends, converged = np.empty((n, problem.p)), np.empty(n, bool)
    draw = _Resampler(problem, z, seed, method, clusters)
    # Resamples are drawn in blocks, so that a million rows do not need a million columns of weights at once.
    block = max(1, min(n, 2**22 // problem.n))
    starts = [z, *_starts_off_bounds(problem, z)]
    for i in range(0, n, block):
        size = min(block, n - i)
        resampled = draw(size)
        best = np.full(size, np.inf)
        for start in starts:
            done = levenberg_marquardt(resampled, np.repeat(start[None], size, axis=0), tolerance=1e-9, widen=0.3)
            better = done.value < best
            ends[i : i + size][better], converged[i : i + size][better] = done.z[better], done.converged[better]
            best = np.minimum(best, done.value)
    return Bootstrap(solution, ends, method, seed, float(converged.mean()))


def _normal_draws(solution: Solution, n: int, seed: int) -> np.ndarray:
    """(n, p) coordinates; those at a bound stay there."""
    problem, z = solution.solved("bootstrap")
    values, vectors = np.linalg.eigh(solution.covariance.matrix)
    draws = np.random.default_rng(seed).standard_normal((n, problem.p)) * np.sqrt(np.maximum(values, 0.0))
    return np.clip(z + draws @ vectors.T, problem.lower, problem.upper)


class _Resampler:
    """Draws resampled problems, each with its own weights or targets by batch element."""

    def __init__(self, problem: Problem, z: np.ndarray, seed: int, method: str, clusters: np.ndarray | None) -> None:
        self.problem, self.method = problem, method
        self.rng = np.random.default_rng(seed)
        # The stream of np.random.choice: seed 42 draws the same resamples as Besiroglu et al. 2024.
        self.choice = np.random.RandomState(seed)
        labels = np.arange(problem.n) if clusters is None else np.unique(clusters, return_inverse=True)[1]
        self.labels, self.groups = labels, int(labels.max()) + 1
        if method != "pairs":
            r = problem.residuals(z[None])[0]
            self.fitted = problem.target - r
            by_cluster = labels if method == "wild" and clusters is not None else None
            self.residuals = r + leverage_correction(problem, z, by_cluster)

    def __call__(self, size: int) -> Problem:
        """The problem with `size` resamples as its batch."""
        problem, groups = self.problem, self.groups
        if self.method == "pairs":
            drawn = self.choice.randint(0, groups, (size, groups)) + groups * np.arange(size)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=size * groups).reshape(size, groups)
            return problem.with_data(weights=problem.weights * counts[:, self.labels])
        if self.method == "residual":
            used = np.flatnonzero(problem.weights > 0)
            draws = self.residuals[used[self.rng.integers(0, len(used), (size, problem.n))]]
            return problem.with_data(target=self.fitted + draws)
        signs = self.rng.choice((-1.0, 1.0), (size, groups))
        return problem.with_data(target=self.fitted + self.residuals * signs[:, self.labels])


def _starts_off_bounds(problem: Problem, z: np.ndarray) -> list[np.ndarray]:
    """Further starts for parameters at an infinite bound, where the objective is flat and resamples would stay."""
    starts = []
    for i in np.flatnonzero((z <= problem.lower) | (z >= problem.upper)):
        coordinate = problem.law.coordinates[problem.free[i]]
        if coordinate.kind != "log":
            continue
        low, high = np.add(coordinate.start, problem.spans[coordinate.spans]) if coordinate.spans else coordinate.start
        for value in np.linspace(low, high, 6)[1:-1]:
            start = np.where(np.arange(problem.p) == i, value, z)
            starts.append(levenberg_marquardt(problem.pinned(int(i), value), start).z[0])
    return starts


def run_off(problem: Coordinates, z: np.ndarray, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Natural-unit parameters with practical zero and infinity of their range made exact.

    A positive parameter moved along its logarithm stops at a far limit when the data want it gone; that limit is a
    number of the solver, not of the data.
    """
    params = dict(params)
    for i, k in enumerate(problem.free):
        if problem.law.coordinates[k].kind == "log":
            lo, hi = problem.law.bounds[k]
            value = np.where(z[..., i] >= problem.upper[i], hi, params[k])
            params[k] = np.where(z[..., i] <= problem.lower[i], lo, value)
    return params
