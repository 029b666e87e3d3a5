"""The face of the fitter: `fit` and what it returns."""

import hashlib
import warnings as python_warnings
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from . import search
from .catalogue import find_law
from .data import duplicates, inputs_of, read
from .errors import FitError, FitWarning
from .objectives import Huber, Objective
from .problem import Problem


class Prediction(NamedTuple):
    """A prediction: `value`, and its `interval`, an array (2, ...) of lower and upper ends."""

    value: np.ndarray
    interval: np.ndarray


@dataclass(eq=False)
class Fit:
    """A fitted law.

    Attributes:
      law: the `Law`. params: fitted (and fixed) parameters in natural units, a dict.
      objective: what was minimised. objective_value: its value, a SUM over points.
      converged: whether the optimum is certified (gradient <= 1e-8 relative).
      certificate: `search.Certificate`.
      fixed: parameters that were held. seed: of the starts.
      data: inputs {name: (n,)}; y, weights: (n,); clusters: (n,) labels or None. None on a fit loaded from JSON.
      ranges: {input: (min, max)} of the data, and "C" for 6ND where the law has N and D.
      n, duplicates: rows, and how many of them repeat an earlier row exactly.
      data_hash: of the inputs, y and weights.
    """

    law: object
    params: dict
    objective: Objective
    objective_value: float
    converged: bool
    certificate: search.Certificate
    fixed: dict
    seed: int
    n: int
    duplicates: int
    ranges: dict
    data_hash: str
    data: dict | None = field(default=None, repr=False)
    y: np.ndarray | None = field(default=None, repr=False)
    weights: np.ndarray | None = field(default=None, repr=False)
    clusters: np.ndarray | None = field(default=None, repr=False)
    _problem: Problem | None = field(default=None, repr=False)
    _z: np.ndarray | None = field(default=None, repr=False)

    @property
    def free(self):
        """Names of the parameters that were fitted, in the law's order."""
        return tuple(k for k in self.law.params if k not in self.fixed)

    @property
    def residuals(self):
        """(n,) residuals in the objective's space, e.g. ln y - ln f."""
        self._need_data("residuals")
        return self._problem.residuals(self._z[None])[0]

    def predict(self, inputs, level=None):
        """The law at new inputs.

        Args:
          inputs: dict or DataFrame of the law's inputs (broadcast together), or an array for a law of one input.
          level: e.g. 0.9 for a 90% confidence interval of the law's value there.
        Returns:
          float64 array; with `level`, a `Prediction(value, interval)`.
        """
        value = self.law(self.params, inputs_of(self.law, inputs))
        return value

    def refit(self, data=None, y=None, *, weights=None, objective=None, fixed=None, law=None, starts=None):
        """The same fit on other data or with another objective or law; what is not given stays."""
        self._need_data("refit")
        new_data = data is not None
        return fit(
            law or self.law, self.data if data is None else data, self.y if y is None else y,
            objective or self.objective, weights=weights if new_data or weights is not None else self.weights,
            fixed=self.fixed if fixed is None else fixed, seed=self.seed, starts=starts,
            clusters=None if new_data else self.clusters,
        )  # fmt: skip

    def _need_data(self, what):
        if self._problem is None:
            raise FitError(f"{what} needs the data, which a fit loaded from JSON does not carry; fit again.")

    @property
    def warnings(self):
        """Plain sentences on everything about this fit that must not be overlooked."""
        try:
            from . import diagnostics
        except ImportError:
            return []
        return diagnostics.warnings(self)

    @property
    def at_bounds(self):
        """{parameter: "lower" or "upper"} for those whose optimum sits at an end of the allowed range."""
        self._need_data("at_bounds")
        low, high = self._z <= self._problem.lower, self._z >= self._problem.upper
        return {k: "lower" if lo else "upper" for k, lo, hi in zip(self.free, low, high) if lo or hi}

    def __str__(self):
        lines = [
            f"{self.law.name}: {self.law.equation}",
            "  " + "  ".join(f"{k} {v:.6g}" + (" (fixed)" if k in self.fixed else "") for k, v in self.params.items()),
            f"  {self.objective}: {self.objective_value:.10g} on {self.n} points",
            f"  {'converged' if self.converged else 'NOT CONVERGED'}: {self.certificate}",
        ]
        return "\n".join(lines)


def fit(law, data, y, objective=None, *, weights=None, fixed=None, clusters=None, seed=0, starts=None):
    """Fits a law to data: the global optimum, with a certificate.

    Args:
      law: a name in `fitting.laws`, or a `Law` from `fitting.law`.
      data: dict or DataFrame with the law's inputs (N parameters, D tokens, ...), or an array for laws of one input.
      y: (n,) what is predicted: a loss, or any other metric; or the name of a column of `data`.
      objective: `Huber(1e-3)` on ln y by default; `LAD()`, `LeastSquares()`.
      weights: (n,) factors on each point's cost; 0 leaves a point out.
      fixed: {parameter: value in natural units} held while the others are fitted.
      clusters: (n,) labels of points that are not independent, e.g. the training trunk they branched from; used by
        the bootstrap.
      seed: of the starting points.
      starts: how many starting points (24 by default, more where they disagree), or a list of parameter dicts.
    Returns:
      A `Fit`.
    Raises:
      FitError: a ValueError that quotes what is wrong with the input and says the way out.
    """
    law, objective = find_law(law), Huber(1e-3) if objective is None else objective
    if not isinstance(objective, Objective):
        raise FitError(f"objective={objective!r}: give Huber(delta), LAD() or LeastSquares(log=False).")
    free = [k for k in law.params if k not in (fixed or {})]
    rows = read(law, data, y, weights, clusters, objective, free)
    problem = Problem(law, rows.inputs, rows.y, rows.weights, objective, fixed)
    z, certificate = search.minimise(problem, seed, _own_starts(problem, starts))
    if law.canonical is not None:
        z = problem.internal(law.canonical({k: float(v) for k, v in problem.natural(z).items()}))
    params = {k: float(v) for k, v in problem.natural(z).items()}
    converged = certificate.gradient <= search.GRADIENT_TOLERANCE
    result = Fit(
        law=law, params=params, objective=objective, objective_value=float(problem.value(z[None])[0]),
        converged=converged, certificate=certificate, fixed=problem.fixed, seed=seed, n=len(rows.y),
        duplicates=duplicates(rows.inputs, rows.y), ranges=_ranges(law, rows.inputs), data_hash=_hash(rows),
        data=rows.inputs, y=rows.y, weights=rows.weights, clusters=rows.clusters, _problem=problem, _z=z,
    )  # fmt: skip
    if not converged:
        python_warnings.warn(
            f"{law.name} did NOT CONVERGE ({certificate}); do not use these parameters.", FitWarning, stacklevel=2
        )
    return result


def _own_starts(problem, starts):
    if starts is None or isinstance(starts, (int, np.integer)):
        return starts
    return np.stack([problem.internal({**problem.fixed, **start}) for start in starts])


def _ranges(law, inputs):
    ranges = {k: (float(v.min()), float(v.max())) for k, v in inputs.items()}
    compute = law.compute(inputs)
    if compute is not None:
        ranges["C"] = (float(compute.min()), float(compute.max()))
    return ranges


def _hash(rows):
    digest = hashlib.sha256()
    for v in (*rows.inputs.values(), rows.y, rows.weights):
        digest.update(np.ascontiguousarray(v, "<f8").tobytes())
    return digest.hexdigest()[:16]
