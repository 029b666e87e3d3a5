"""What a fit is: parameters and certificate, and the questions it answers."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scaling_jax.fitting import persistence
from scaling_jax.fitting.data import check_level, inputs_of, whole
from scaling_jax.fitting.errors import FitError
from scaling_jax.fitting.inference import bootstrap as resampling
from scaling_jax.fitting.inference import covariance as uncertainty
from scaling_jax.fitting.inference import profile
from scaling_jax.fitting.objectives import Objective
from scaling_jax.fitting.optimal import frontier as frontiers
from scaling_jax.fitting.solver import _search as search
from scaling_jax.fitting.solver._problem import Problem

BLOCK = 2**22  # numbers held at once when an interval is taken over many points


class Prediction(NamedTuple):
    """A prediction: `value`, and its `interval`, an array (2, ...) of lower and upper ends."""

    value: np.ndarray
    interval: np.ndarray


@dataclass(eq=False, repr=False)
class Fit:
    """A fitted law; made by `fit` or `load`.

    Attributes:
      law: the `Law`. params: fitted (and fixed) parameters in natural units, a dict.
      objective: what was minimised. objective_value: its value, a SUM over points.
      converged: whether the optimum is certified (relative gradient <= 1e-8).
      certificate: a `Certificate`: gradient, how many of how many starts agree, the next best optimum.
      fixed: parameters that were held. seed: of the starts.
      n, duplicates: rows, and how many of them repeat an earlier row exactly.
      ranges: {input: (min, max)} of the data that count, and "C" for 6ND where the law has N and D.
      data_hash: of the inputs, y and weights. versions: of the packages that made the fit.
      data, y, weights, clusters: inputs {name: (n,)}, (n,), (n,), (n,) labels or None; all None on a loaded fit.
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
    versions: dict
    data: dict | None = None
    y: np.ndarray | None = None
    weights: np.ndarray | None = None
    clusters: np.ndarray | None = None
    _problem: Problem | None = None
    _z: np.ndarray | None = None
    _spread: uncertainty.Spread | None = None
    _bootstrap: resampling.Bootstrap | None = None
    _saved_warnings: list | None = None

    @property
    def free(self):
        """Names of the parameters that were fitted, in the law's order."""
        return self._problem.free

    @property
    def residuals(self):
        """(n,) residuals in the objective's space, e.g. ln y - ln f."""
        self._need_data("residuals")
        return self._problem.residuals(self._z[None])[0]

    @property
    def at_bounds(self):
        """{parameter: "lower" or "upper"} for those whose optimum sits at an end of its range."""
        low, high = self._z <= self._problem.lower, self._z >= self._problem.upper
        return {k: "lower" if lo else "upper" for k, lo, hi in zip(self.free, low, high) if lo or hi}

    @property
    def exponents(self):
        """Derived exponents, e.g. {"a": beta / (alpha + beta), "b": ...}: N* ~ C^a, D* ~ C^b."""
        return {k: float(of(self.params)) for k, of in self.law.exponents.items()}

    @property
    def spread(self):
        """`Spread`: covariance of the solver's coordinates, robust to unequal noise and to clusters."""
        if self._spread is None:
            self._spread = uncertainty.spread(self._problem, self._z, self.clusters)
        return self._spread

    def interval(self, level=0.95):
        """{name: (lower, upper)} of every fitted parameter and derived exponent: bootstrap if run, else delta method.

        What the data do not determine has open ends: the bounds of the law.
        """
        check_level(level)
        if self._bootstrap is not None:
            return uncertainty.open_where_unmoved(self, self._bootstrap.interval(level))
        return uncertainty.delta_intervals(self, level)

    @property
    def stderr(self):
        """{name: standard error} of fitted parameters and derived exponents: bootstrap if run, else delta method."""
        return uncertainty.delta_errors(self) if self._bootstrap is None else self._bootstrap.stderr

    def predict(self, inputs, level=None):
        """The law at new inputs.

        Args:
          inputs: dict or DataFrame of the law's inputs, numbers or arrays that broadcast; or an array for a law of
            one input.
          level: e.g. 0.9 for a 90% confidence interval of the law's value there.
        Returns:
          float64 array; with `level`, a `Prediction(value, interval)`.
        Raises:
          FitError: a missing column, text, or values the law cannot take.
        """
        columns = inputs_of(self.law, inputs, fitting=False)
        value = self.law(self.params, columns)
        if level is None:
            return value
        check_level(level)
        shape = value.shape
        flat = {k: np.broadcast_to(v, shape).ravel() for k, v in columns.items()}
        samples = 2 * len(self._z) if self._bootstrap is None else len(self._bootstrap.samples)
        block = max(1, BLOCK // samples)
        ends = np.empty((2, value.size))
        for i in range(0, value.size, block):
            part = {k: v[i : i + block] for k, v in flat.items()}
            ends[:, i : i + block] = self.interval_of(
                lambda p, part=part: self.law({k: v[:, None] for k, v in p.items()}, part), level, self.objective.log
            )
        return Prediction(value, ends.reshape(2, *shape))

    def bootstrap(self, n=1000, seed=0, method="pairs"):
        """Refits on `n` resamples; afterwards `interval`, `predict` and `frontier` take their intervals from it.

        Args:
          n: resamples.
          seed: of the resampling.
          method: "pairs" (points, or whole clusters where the fit has them), "residual", or "wild" (signs of
            residuals, per cluster where the fit has them).
        Returns:
          `Bootstrap` with `.samples` (n, p), `.stderr`, `.interval(level)`.
        Raises:
          FitError: an unknown method, or as many parameters as points.
        """
        self._need_data("bootstrap")
        if not (isinstance(n, (int, np.integer)) and n >= 2):
            raise FitError(f"bootstrap(n={n!r}): n must be a whole number of resamples, at least 2.")
        if whole(seed, "seed") >= 2**32:
            raise FitError(f"seed={seed!r} must be below 2^32.")
        if method not in resampling.METHODS:
            raise FitError(f"bootstrap(method={method!r}): choose one of {', '.join(resampling.METHODS)}.")
        if not self.spread.dof:
            raise FitError(
                f"bootstrap: {np.sum(self.weights > 0)} points for {len(self.free)} parameters leave no residual to "
                "resample, and intervals are open; add points or fix parameters."
            )
        old = self._bootstrap
        if old is not None and (len(old.samples), old.seed, old.method) == (n, seed, method):
            return old
        self._bootstrap = resampling.bootstrap(self._problem, self._z, n, seed, method, self.clusters)
        return self._bootstrap

    def profile(self, name, level=0.95):
        """Profile interval of one parameter: unpacks to (lower, upper), open where the data do not identify it.

        Returns:
          `Profile`, with the `.grid` and `.objective` that drew it.
        """
        self._need_data("profile")
        check_level(level)
        return profile.profile(self._problem, self._z, self.spread, name, level)

    def frontier(self, C, cost=None, level=None, *, max_N=None, max_D=None, allowed=None, inputs=None, maximize=False):
        """The best N and D for each budget.

        Args:
          C: budgets, a number or an array, in the unit of `cost`.
          cost: cost(N, D) of a run, increasing in both (exact FLOPs, device-hours, dollars); None for 6ND.
          level: e.g. 0.9 for intervals: from the bootstrap if run, else by the delta method.
          max_N, max_D: caps on parameters (memory) and tokens (unique data).
          allowed: allowed(N, D) -> bool, for any other constraint.
          inputs: further inputs of the law, values or functions of (N, D), e.g. {"U": 25e9}.
          maximize: for a metric that should be large.
        Returns:
          `Frontier` with `.N .D .loss`, `.interval` and `.extrapolation`.
        Raises:
          FitError: the law has no N and D, a budget that is not positive, or constraints that leave nothing.
        """
        options = {"max_N": max_N, "max_D": max_D, "allowed": allowed, "inputs": inputs, "maximize": maximize}
        return frontiers.frontier(self, C, level, cost=cost, **options)

    def refit(self, data=None, y=None, *, weights=None, objective=None, fixed=None, law=None, starts=None):
        """The same fit on other data or with another objective or law; what is not given stays."""
        from scaling_jax.fitting.fit import fit

        self._need_data("refit")
        new_data = data is not None
        return fit(
            law or self.law, self.data if data is None else data, self.y if y is None else y,
            objective or self.objective, weights=weights if new_data or weights is not None else self.weights,
            fixed=self.fixed if fixed is None else fixed, seed=self.seed, starts=starts,
            clusters=None if new_data else self.clusters,
        )  # fmt: skip

    def to_json(self, path):
        """Saves the fit without its data: law, parameters, objective, certificate, covariance, bootstrap samples."""
        persistence.save(self, path)

    @property
    def warnings(self):
        """Plain sentences on everything about this fit that must not be overlooked."""
        if self._saved_warnings is not None:
            return list(self._saved_warnings)
        from scaling_jax.fitting import diagnostics

        return [*search.warnings(self), *diagnostics.warnings(self)]

    def __str__(self):
        errors = self.stderr
        width = max(map(len, self.law.params))
        lines = [f"{self.law.name}: {self.law.equation}", *([f"  {self.law.reference}"] if self.law.reference else [])]
        for k, v in self.params.items():
            lines.append(f"  {k:<{width}} {v:<12.6g} " + ("(fixed)" if k in self.fixed else f"+- {errors[k]:.3g}"))
        for k, v in self.exponents.items():  # some are fixed by the law
            lines.append(f"  {k} = {v:.4f}" + (f" +- {errors[k]:.2g}" if errors.get(k) else ""))
        repeats = f", {self.duplicates} of them repeats" if self.duplicates else ""
        lines.append(f"  {self.objective}: {self.objective_value:.10g} on {self.n} points{repeats}")
        lines.append(f"  {'converged' if self.converged else 'NOT CONVERGED'}: {self.certificate}")
        return "\n".join(lines + [f"  ! {w}" for w in self.warnings])

    def __repr__(self):
        return str(self)

    def _need_data(self, what):
        if self.data is None:
            raise FitError(f"{what} needs the data, which a fit loaded from JSON does not carry; fit again.")

    def interval_of(self, function, level, log=False):
        """Interval of anything computed from the parameters: bootstrap if run, else delta method.

        Args:
          function: of natural-unit parameters, a dict of (s,) arrays; returns (s, ...).
          level: e.g. 0.9.
          log: whether the delta method works on its logarithm (for positive quantities).
        Returns:
          (2, ...) lower and upper ends.
        """
        if self._bootstrap is None:
            return uncertainty.delta_interval(self._problem, self._z, self.spread, function, level, log)
        with np.errstate(all="ignore"):
            return uncertainty.quantiles(function(self._problem.natural(self._bootstrap.coordinates)), level)
