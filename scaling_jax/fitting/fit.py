"""The face of the fitter: from data to a `Fit`."""

import hashlib
import warnings as python_warnings
from collections.abc import Mapping, Sequence

import numpy as np

from scaling_jax.fitting import persistence
from scaling_jax.fitting.data import duplicates, read
from scaling_jax.fitting.errors import FitError, FitWarning
from scaling_jax.fitting.fitted import Fit
from scaling_jax.fitting.laws.registry import find_law
from scaling_jax.fitting.objectives import Huber, Objective
from scaling_jax.fitting.solver import _search as search
from scaling_jax.fitting.solver._finish import GRADIENT_TOLERANCE
from scaling_jax.fitting.solver._problem import Problem


def fit(law, data, y, objective=None, *, weights=None, fixed=None, clusters=None, seed=0, starts=None):
    """Fits a law to data: the global optimum, with a certificate.

    Args:
      law: a name in `fitting.laws`, or a `Law` from `fitting.law`.
      data: dict or DataFrame with the law's inputs (N parameters, D tokens, ...), or an array for laws of one input.
      y: (n,) what is predicted: a loss, or any other metric; or the name of a column of `data`.
      objective: `Huber(1e-3)` on ln y by default; `LAD()`, `LeastSquares()`.
      weights: (n,) factors on each point's cost, or the name of a column; 0 leaves a point out.
      fixed: {parameter: value in natural units} held while the others are fitted.
      clusters: (n,) labels of points that are not independent, e.g. the training trunk they branched from, or the
        name of a column; used by every interval.
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
    if not isinstance(fixed or {}, Mapping):
        raise FitError(f"fixed={fixed!r} must be a dict of parameters and values, e.g. {{'E': 1.7}}.")
    if not (isinstance(seed, (int, np.integer)) and seed >= 0):
        raise FitError(f"seed={seed!r} must be a whole number, zero or more.")
    free = [k for k in law.params if k not in (fixed or {})]
    rows = read(law, data, y, weights, clusters, objective, free)
    if np.any(rows.y < 0):
        law = law.signed
    problem = Problem(law, rows.inputs, rows.y, rows.weights, objective, fixed)
    z, certificate = search.minimise(problem, seed, _own_starts(problem, starts))
    if law.canonical is not None:
        z = problem.internal(law.canonical(problem.params(z)))
    params = problem.params(z)
    converged = certificate.gradient <= GRADIENT_TOLERANCE
    result = Fit(
        law=law,
        params=params,
        objective=objective,
        objective_value=float(problem.value(z[None])[0]),
        converged=converged,
        certificate=certificate,
        fixed=problem.fixed,
        seed=seed,
        n=len(rows.y),
        duplicates=duplicates(rows.inputs, rows.y),
        ranges=_ranges(law, {k: v[rows.weights > 0] for k, v in rows.inputs.items()}),
        data_hash=_hash(rows),
        versions=persistence.versions(),
        data=rows.inputs,
        y=rows.y,
        weights=rows.weights,
        clusters=rows.clusters,
        _problem=problem,
        _z=z,
    )
    if not converged:
        python_warnings.warn(
            f"{law.name} did NOT CONVERGE ({certificate}); do not use these parameters.", FitWarning, stacklevel=2
        )
    return result


def _own_starts(problem, starts):
    if starts is None or (isinstance(starts, (int, np.integer)) and starts > 0):
        return starts
    if not (isinstance(starts, Sequence) and starts and all(isinstance(start, Mapping) for start in starts)):
        raise FitError(f"starts={starts!r}: give how many, at least 1, or a list of dicts of parameters.")
    for start in starts:
        missing = [k for k in problem.free if k not in start]
        if missing:
            raise FitError(f"starts: {dict(start)!r} lacks {', '.join(missing)}.")
        for k in problem.free:
            if not (isinstance(start[k], (int, float, np.number)) and np.isfinite(start[k])):
                raise FitError(f"starts: {k} = {start[k]!r} is not a finite number.")
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
