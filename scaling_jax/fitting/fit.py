"""`fit`, from data to a `Fit`, and the methods of a `Fit`."""

from __future__ import annotations

import dataclasses
import os
import warnings as python_warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from scaling_jax.fitting import diagnostics, persistence
from scaling_jax.fitting.data import check_int, check_level
from scaling_jax.fitting.errors import FitError, FitWarning, LawError
from scaling_jax.fitting.inference import delta
from scaling_jax.fitting.inference.bootstrap import METHODS, Bootstrap, bootstrap
from scaling_jax.fitting.inference.prediction import predict, predict_interval
from scaling_jax.fitting.inference.profile import Profile, profile
from scaling_jax.fitting.laws.base import Law
from scaling_jax.fitting.laws.registry import find_law
from scaling_jax.fitting.objectives import Objective, as_objective
from scaling_jax.fitting.optimal.frontier import Frontier, frontier
from scaling_jax.fitting.rows import Rows, data_hash, duplicates, ranges_of, read
from scaling_jax.fitting.solution import Solution
from scaling_jax.fitting.solver import _search as search
from scaling_jax.fitting.solver._problem import Problem
from scaling_jax.fitting.solver._refine import GRADIENT_TOLERANCE
from scaling_jax.fitting.solver._starts import given_starts


@dataclass(frozen=True, eq=False, repr=False)
class Fit(Solution):
    """A fitted law; made by `fit`, `load` or `Fit.from_params`. Frozen: no method changes it.

    Attributes beside those of `Solution`:
      resampled: the `Bootstrap` that intervals are taken from; None for the delta method (see `with_bootstrap`).
      saved_warnings: those of a loaded fit.
    """

    resampled: Bootstrap | None = None
    saved_warnings: list[str] | None = None

    @classmethod
    def from_params(cls, law: str | Law, params: Mapping[str, float]) -> Fit:
        """A law with given parameters, e.g. published ones: predictions and frontiers, but no intervals.

        Example:
          >>> from scaling_jax import fitting
          >>> besiroglu = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
          >>> fit = fitting.Fit.from_params("chinchilla", besiroglu)
          >>> round(float(fit.predict({"N": 70e9, "D": 1.4e12})), 3)
          1.974

        Args:
          law: a name in `fitting.laws`, or a `Law`.
          params: every parameter of the law, in natural units.

        Raises:
          LawError: a parameter is missing, unknown, not a number or outside the law's bounds.
        """
        law = find_law(law)
        if not isinstance(params, Mapping):
            raise LawError(f"params={params!r} must be a dict of the parameters {', '.join(law.params)}.")
        missing, unknown = ([k for k in a if k not in b] for a, b in ((law.params, params), (params, law.params)))
        if missing or unknown:
            wrong = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(map(str, unknown))}"
            raise LawError(f"params {wrong}; {law.name!r} has the parameters {', '.join(law.params)}.")
        values = {}
        for k in law.params:
            try:
                values[k] = float(params[k])
            except (TypeError, ValueError):
                raise LawError(f"params[{k!r}] = {params[k]!r} is not a number.") from None
            lo, hi = law.bounds[k]
            if k in law.asymptotes:
                lo = -np.inf
            if not (np.isfinite(values[k]) and lo <= values[k] <= hi):
                raise LawError(f"params[{k!r}] = {params[k]!r} is outside the bounds [{lo:g}, {hi:g}] of {law.name!r}.")
        if any(values[k] < 0 for k in law.asymptotes):
            law = law.signed
        return cls(law=law, params=values, fixed=values, versions=persistence.versions())

    def predict(self, inputs: Any, level: float | None = None) -> Any:
        """The law at new inputs.

        Args:
          inputs: dict or DataFrame of the law's inputs, numbers or arrays that broadcast; or an array for a law of
            one input.
          level: e.g. 0.9 for a 90% confidence interval of the law's value there. It covers the mean of this law, if
            the law is right: neither the scatter of a run, nor other laws, nor drift beyond the data. On public ladders
            it covers four of ten new runs; for future runs use `fitting.forecast`.

        Returns:
          float64 array; with `level`, a `Prediction(value, interval)`, the interval an array (2, ...).

        Raises:
          FitError: a missing column, text, or values the law cannot take.
        """
        if level is None:
            return predict(self, inputs)
        if self.resampled is not None:
            return self.resampled.predict(inputs, level)
        _, z = self.coordinates("an interval")
        return predict_interval(self, inputs, level, self.interval_of, 2 * len(z))

    def interval(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """{name: (lower, upper)} of every fitted parameter and derived exponent.

        By the delta method, or from the bootstrap of `with_bootstrap`. Parameters that the data do not determine have
        open ends: the bounds of the law.
        """
        check_level(level)
        return delta.intervals(self, level) if self.resampled is None else self.resampled.interval(level)

    @property
    def stderr(self) -> dict[str, float]:
        """{name: standard error} of fitted parameters and derived exponents, from the same source as `interval`."""
        return delta.standard_errors(self) if self.resampled is None else self.resampled.stderr

    def interval_of(
        self, function: Callable[[Mapping[str, np.ndarray]], np.ndarray], level: float, log: bool = False
    ) -> np.ndarray:
        """Interval of anything computed from the parameters, from the same source as `interval`.

        Args:
          function: of natural-unit parameters, a dict of (s,) arrays; returns (s, ...).
          level: e.g. 0.9.
          log: whether the delta method works on its logarithm (for positive quantities).

        Returns:
          (2, ...) lower and upper ends.
        """
        if self.resampled is not None:
            return self.resampled.interval_of(function, level, log)
        return delta.interval_of(self, function, level, log)

    def bootstrap(self, n: int = 1000, seed: int = 0, method: str = "pairs") -> Bootstrap:
        """Refits on `n` resamples.

        Args:
          n: resamples.
          seed: of the resampling.
          method: "pairs" (points, or whole clusters where the fit has them), "residual", "wild" (signs of residuals,
            per cluster where the fit has them), or "normal" (draws from the normal distribution that these tend to
            with many points: nothing is refitted, for tables of tens of thousands of rows).

        Returns:
          `Bootstrap` with `.samples` (n, p), `.stderr`, `.interval(level)`, `.predict` and `.frontier`. The fit itself
          stays as it is; `with_bootstrap` gives one whose own intervals come from the resamples.

        Raises:
          FitError: an unknown method, or as many parameters as points.
        """
        self.solved("bootstrap")
        if not (isinstance(n, (int, np.integer)) and n >= 2):
            raise FitError(f"bootstrap(n={n!r}): n must be a whole number of resamples, at least 2.")
        if check_int(seed, "seed") >= 2**32:
            raise FitError(f"seed={seed!r} must be below 2^32.")
        if method not in METHODS:
            raise FitError(f"bootstrap(method={method!r}): choose one of {', '.join(METHODS)}.")
        if not self.covariance.dof:
            raise FitError(
                f"bootstrap: {np.sum(self.weights > 0)} points for {len(self.free)} parameters leave no residual to "
                "resample, and intervals are open; add points or fix parameters."
            )
        return bootstrap(self, int(n), int(seed), method)

    def with_bootstrap(self, resampled: Bootstrap) -> Fit:
        """The same fit, with every interval and standard error taken from `resampled`, a `Bootstrap` of it."""
        if not isinstance(resampled, Bootstrap):
            raise FitError(f"with_bootstrap({resampled!r}): give a Bootstrap, from fit.bootstrap().")
        if tuple(resampled.params) != self.free:
            raise FitError(f"this bootstrap is of {', '.join(resampled.params)}, the fit of {', '.join(self.free)}.")
        return dataclasses.replace(self, resampled=resampled)

    def profile(self, name: str, level: float = 0.95) -> Profile:
        """Profile interval of one parameter: unpacks to (lower, upper), open where the data do not identify it.

        Returns:
          `Profile`, with the `.grid` and `.objective` that drew it.
        """
        problem, z = self.solved("profile")
        check_level(level)
        return profile(problem, z, self.covariance, name, level)

    def frontier(
        self,
        C: Any,
        cost: Callable[[Any, Any], Any] | None = None,
        level: float | None = None,
        *,
        max_N: float | None = None,
        max_D: float | None = None,
        allowed: Callable[[Any, Any], Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        maximize: bool = False,
    ) -> Frontier:
        """The best N and D for each budget.

        Args:
          C: budgets, a number or an array, in the unit of `cost`.
          cost: cost(N, D) of a run, increasing in both (exact FLOPs, device-hours, dollars); None for 6ND.
          level: e.g. 0.9 for intervals, from the same source as `interval`.
          max_N: cap on parameters (memory).
          max_D: cap on tokens (unique data).
          allowed: allowed(N, D) -> bool, for any other constraint.
          inputs: values, or functions of (N, D), of further inputs of the law, e.g. {"U": 1e11} unique tokens.
          maximize: True for a metric where higher is better, such as accuracy.

        Returns:
          `Frontier`, with arrays of the shape of C.

        Raises:
          FitError: the law has no N and D, a budget that is not positive, or constraints that leave nothing.
        """
        options = {"max_N": max_N, "max_D": max_D, "allowed": allowed, "inputs": inputs, "maximize": maximize}
        return frontier(self, C, level, self.interval_of, cost=cost, **options)

    def refit(
        self,
        data: Any = None,
        y: Any = None,
        *,
        weights: Any = None,
        objective: Objective | None = None,
        fixed: Mapping[str, float] | None = None,
        law: str | Law | None = None,
        starts: int | Sequence[Mapping[str, float]] | None = None,
    ) -> Fit:
        """The same fit on other data, or with another objective or law; everything not given is kept."""
        own_data, own_y, own_weights = self.observed("refit")
        new_data = data is not None
        return fit(
            law or self.law, data if new_data else own_data, own_y if y is None else y,
            objective or self.objective, weights=weights if new_data or weights is not None else own_weights,
            fixed=self.fixed if fixed is None else fixed, seed=self.seed, starts=starts,
            clusters=None if new_data else self.clusters,
        )  # fmt: skip

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Saves the fit without its data: law, parameters, objective, certificate, covariance, bootstrap samples.

        Raises:
          FileError: the file cannot be written.
        """
        persistence.save(self, path, self.warnings, self.resampled)

    @cached_property
    def warnings(self) -> list[str]:
        """Warnings about this fit, in sentences; computed once."""
        if self.saved_warnings is not None:
            return self.saved_warnings
        return [] if self.problem is None else [*diagnostics.search_warnings(self), *diagnostics.warnings(self)]

    def __str__(self) -> str:
        errors = {} if self.problem is None else self.stderr
        width = max(map(len, self.law.params))
        lines = [f"{self.law.name}: {self.law.equation}", *([f"  {self.law.reference}"] if self.law.reference else [])]
        for k, v in self.params.items():
            error = f"+- {errors[k]:.3g}" if k in errors else "(fixed)" if self.problem is not None else ""
            lines.append(f"  {k:<{width}} {v:<12.6g} {error}".rstrip())
        for k, v in self.exponents.items():  # some are fixed by the law
            lines.append(f"  {k} = {v:.4f}" + (f" +- {errors[k]:.2g}" if errors.get(k) else ""))
        if self.problem is None:
            return "\n".join([*lines, "  given parameters: no data, no intervals"])
        repeats = f", {self.duplicates} of them repeats" if self.duplicates else ""
        lines.append(f"  {self.objective}: {self.objective_value:.10g} on {self.n} points{repeats}")
        lines.append(f"  {'converged' if self.converged else 'NOT CONVERGED'}: {self.certificate}")
        return "\n".join(lines + [f"  ! {w}" for w in self.warnings])

    def __repr__(self) -> str:
        params = ", ".join(f"{k}={v:.6g}" for k, v in self.params.items())
        if self.problem is None:
            return f"<Fit {self.law.name}: {params} (given)>"
        state = "" if self.converged else ", NOT CONVERGED"
        return f"<Fit {self.law.name}: {params}; {self.objective} = {self.objective_value:.6g}, n={self.n}{state}>"


def fit(
    law: str | Law,
    data: Any,
    y: Any,
    objective: Objective | None = None,
    *,
    weights: Any = None,
    fixed: Mapping[str, float] | None = None,
    clusters: Any = None,
    seed: int = 0,
    starts: int | Sequence[Mapping[str, float]] | None = None,
) -> Fit:
    """Fits a law to data: the global optimum, with a certificate.

    Example:
      >>> import numpy as np
      >>> from scaling_jax import fitting
      >>> N, D = np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4))
      >>> loss = 1.7 + 400 / N**0.34 + 410 / D**0.28
      >>> fit = fitting.fit("chinchilla", {"N": N.ravel(), "D": D.ravel()}, loss.ravel())
      >>> round(fit.params["alpha"], 4)
      0.34

    Args:
      law: a name in `fitting.laws`, or a `Law` from `fitting.law`.
      data: dict or DataFrame with the law's inputs (N parameters, D tokens, ...), or an array for laws of one input.
      y: (n,) the metric to be predicted, usually a loss; or the name of a column of `data`.
      objective: `Huber(1e-3)` on ln y by default; `LAD()`, `LeastSquares()`.
      weights: (n,) factors on each point's cost, or the name of a column; 0 leaves a point out.
      fixed: {parameter: value in natural units} that is not fitted.
      clusters: (n,) labels of points that are not independent, e.g. the training trunk they branched from, or the
        name of a column; used by every interval.
      seed: of the starting points.
      starts: how many starting points (24 by default, more where they disagree), or a list of parameter dicts.

    Returns:
      A `Fit`.

    Raises:
      FitError: a ValueError that quotes the bad value and suggests a fix.
    """
    law, objective = find_law(law), as_objective(objective)
    _check_options(fixed, seed)
    rows = read(law, data, y, weights, clusters, objective, [k for k in law.params if k not in (fixed or {})])
    if np.any(rows.y < 0):
        law = law.signed
    return _minimize(Problem.of(law, rows.inputs, rows.y, rows.weights, objective, fixed), rows, seed, starts)


def _check_options(fixed: Any, seed: Any) -> None:
    if not isinstance(fixed or {}, Mapping):
        raise FitError(f"fixed={fixed!r} must be a dict of parameters and values, e.g. {{'E': 1.7}}.")
    if not (isinstance(seed, (int, np.integer)) and seed >= 0):
        raise FitError(f"seed={seed!r} must be a whole number, zero or more.")


def _minimize(problem: Problem, rows: Rows, seed: int, starts: int | Sequence[Mapping[str, float]] | None) -> Fit:
    """The `Fit` at the global optimum; warns where the search did not converge."""
    law = problem.law
    z, certificate = search.minimize(problem, seed, given_starts(problem, starts))
    if law.canonical is not None:
        z = problem.unconstrained(law.canonical(problem.params(z)))
    converged = certificate.gradient <= GRADIENT_TOLERANCE
    if not converged:
        python_warnings.warn(
            f"{law.name} did NOT CONVERGE ({certificate}); do not use these parameters.", FitWarning, stacklevel=3
        )
    return Fit(
        law=law,
        params=problem.params(z),
        objective=problem.objective,
        objective_value=float(problem.value(z[None])[0]),
        converged=converged,
        certificate=certificate,
        fixed=problem.fixed,
        seed=int(seed),
        n=len(rows.y),
        duplicates=duplicates(rows.inputs, rows.y),
        ranges=ranges_of(law, rows),
        data_hash=data_hash(rows),
        versions=persistence.versions(),
        data=rows.inputs,
        y=rows.y,
        weights=rows.weights,
        clusters=rows.clusters,
        problem=problem,
        z=z,
    )


def load(path: str | os.PathLike[str], law: Law | None = None) -> Fit:
    """Loads a fit saved by `Fit.to_json`.

    Args:
      path: the file.
      law: the `Law`, for a fit of your own law: a file cannot carry a function.

    Returns:
      A `Fit` without its data: `predict`, `frontier` and `interval` work; `bootstrap`, `profile` and `refit` do not.

    Raises:
      FileError: no such file, not a saved fit, damaged, or of a law this process does not have.

    Example:
      >>> import tempfile
      >>> from scaling_jax import fitting
      >>> path = tempfile.mkdtemp() + "/fit.json"
      >>> fitting.published["besiroglu2024"].to_json(path)
      >>> fitting.load(path).params["E"]
      1.81686
    """
    saved = persistence.load(path, law)
    fields = {f.name: getattr(saved.solution, f.name) for f in dataclasses.fields(Solution)}
    return Fit(**fields, resampled=saved.resampled, saved_warnings=saved.warnings)
