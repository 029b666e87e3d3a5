"""A fit as JSON: everything but the data, so that predictions, frontiers and their intervals work after loading."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import jax
import numpy as np

import scaling_jax
from scaling_jax.fitting.errors import FileError, FitError, LawError
from scaling_jax.fitting.inference.bootstrap import Bootstrap
from scaling_jax.fitting.inference.covariance import Covariance
from scaling_jax.fitting.laws.base import Law
from scaling_jax.fitting.laws.registry import find_law
from scaling_jax.fitting.objectives import objective_from_dict
from scaling_jax.fitting.solution import Solution
from scaling_jax.fitting.solver._problem import Coordinates
from scaling_jax.fitting.solver._search import Certificate

FORMAT = "scaling_jax.fit"
VERSION = 2


class Saved(NamedTuple):
    """The contents of a saved fit."""

    solution: Solution
    resampled: Bootstrap | None
    warnings: list[str]


def versions() -> dict[str, str]:
    """Versions of the packages that make a fit."""
    return {"scaling_jax": scaling_jax.__version__, "jax": jax.__version__, "numpy": np.__version__}


def save(
    fit: Solution, path: str | os.PathLike[str], warnings: Sequence[str], resampled: Bootstrap | None = None
) -> None:
    """Writes a `Fit`, whole or not at all.

    Args:
      fit: a `Fit`.
      path: the file.
      warnings: its warnings.
      resampled: the bootstrap its intervals come from, if any.

    Raises:
      FileError: the file cannot be created.
    """
    record = {
        "format": FORMAT,
        "version": VERSION,
        "law": fit.law.name,
        "equation": fit.law.equation,
        "own_law": fit.law.custom,
        "params": fit.params,
        "fixed": fit.fixed,
        "objective": None if fit.objective is None else fit.objective.to_dict(),
        "objective_value": fit.objective_value,
        "converged": bool(fit.converged),
        "certificate": None if fit.certificate is None else fit.certificate.to_dict(),
        "warnings": list(warnings),
        "seed": int(fit.seed),
        "n": fit.n,
        "duplicates": fit.duplicates,
        "ranges": fit.ranges,
        "data_hash": fit.data_hash,
        "probe": _probe(fit),
        "versions": {**fit.versions, "scipy": metadata.version("scipy")},
        "solver": _solver(fit),
        "bootstrap": None
        if resampled is None
        else {
            "coordinates": resampled.coordinates,
            "method": resampled.method,
            "seed": int(resampled.seed),
            "converged": resampled.converged,
        },
    }
    _write(json.dumps(_plain(record), indent=1, allow_nan=False), os.fspath(path))


def _solver(fit: Solution) -> dict[str, Any] | None:
    """The solver's coordinates and covariance; None where the parameters were given."""
    if fit.problem is None:
        return None
    return {
        "center": fit.problem.center,
        "z": fit.z,
        "lower": fit.problem.lower,
        "upper": fit.problem.upper,
        "covariance": fit.covariance.matrix,
        "inverse": fit.covariance.inverse,
        "held": fit.covariance.held,
        "scale": fit.covariance.scale,
        "dof": fit.covariance.dof,
    }


def _write(text: str, path: str) -> None:
    folder = os.path.dirname(path) or "."
    temporary = os.path.join(folder, f".{uuid.uuid4().hex}.tmp")  # not mkstemp, whose files only their owner may read
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException as err:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(err, OSError) and err.filename == temporary:
            raise FileError(f"{path} cannot be written: {err.strerror}.") from None
        raise


def load(path: str | os.PathLike[str], law: Law | None = None) -> Saved:
    """Reads a fit saved by `save`; see `fitting.load`."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as err:
        raise FileError(f"{path} cannot be read: {getattr(err, 'strerror', None) or err}.") from None
    try:
        record = json.loads(text)
    except json.JSONDecodeError as err:
        raise FileError(
            f"{path} is not JSON (line {err.lineno}: {err.msg}); was it cut off? Save the fit again."
        ) from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise FileError(f'{path} is not a fit saved by Fit.to_json: it has no "format": "{FORMAT}".')
    if record.get("version") != VERSION:
        raise FileError(f"{path} has version {record.get('version')!r}; this scaling_jax reads version {VERSION}.")
    try:
        return _saved(_floats(record), _law(str(path), record, law))
    except FileError:
        raise
    except KeyError as err:
        raise FileError(f"{path} is damaged: {err.args[0]!r} is missing; save the fit again.") from None
    except FitError as err:
        raise FileError(f"{path} cannot be loaded: {err}; fit and save again.") from None
    except (TypeError, ValueError, AttributeError, IndexError) as err:
        raise FileError(f"{path} is damaged: {err}; save the fit again.") from None


def _law(path: str, record: dict[str, Any], law: Law | None) -> Law:
    if law is None:
        try:
            law = find_law(record["law"])
        except LawError as err:
            own = f"{path} is a fit of your own law {record['law']!r}: pass it, fitting.load(path, law=...)."
            raise FileError(own if record["own_law"] else f"{path}: {err}") from None
    if any(float(record["params"].get(k, 0.0)) < 0 for k in law.asymptotes):
        law = law.signed
    if set(record["params"]) != set(law.params):
        raise FileError(
            f"{path} has the parameters {', '.join(record['params'])}, law {law.name!r} has {', '.join(law.params)}."
        )
    return law


def _saved(record: dict[str, Any], law: Law) -> Saved:
    params = {k: float(record["params"][k]) for k in law.params}
    if not all(np.isfinite(v) for v in params.values()):
        raise FitError("a parameter is not finite")
    _check_probe(record, law, params)
    fixed = {k: float(v) for k, v in record["fixed"].items()}
    solved: dict[str, Any] = {} if record["solver"] is None else _solved(record["solver"], law, params, fixed)
    solution = Solution(
        law=law, params=params, fixed=fixed, seed=int(record["seed"]), n=int(record["n"]),
        **({} if record["objective"] is None else {"objective": objective_from_dict(record["objective"])}),
        objective_value=float(record["objective_value"]), converged=bool(record["converged"]),
        **({} if record["certificate"] is None else {"certificate": Certificate(**record["certificate"])}),
        duplicates=int(record["duplicates"]),
        ranges={k: (float(v[0]), float(v[1])) for k, v in record["ranges"].items()},
        data_hash=record["data_hash"], versions=record["versions"], **solved,
    )  # fmt: skip
    return Saved(solution, _bootstrap(record["bootstrap"], solution), [str(w) for w in record["warnings"]])


def _solved(solver: dict[str, Any], law: Law, params: dict[str, float], fixed: dict[str, float]) -> dict[str, Any]:
    """The solver's part of a `Solution`. Raises FitError where it does not fit the parameters."""
    vectors = {k: np.array(solver[k], np.float64) for k in ("z", "lower", "upper", "covariance", "inverse")}
    free = tuple(k for k in law.params if k not in fixed)
    p = len(free)
    for k, array in vectors.items():
        if array.shape != ((p, p) if k in ("covariance", "inverse") else (p,)):
            raise FitError(f"{p} fitted parameters, but {k!r} has the shape {array.shape}")
    center = {k: float(v) for k, v in solver["center"].items()}
    problem = Coordinates(law, free, fixed, center, vectors["lower"], vectors["upper"])
    for k, v in problem.constrained(vectors["z"]).items():
        if not np.isclose(params[k], v, rtol=1e-6, atol=0):
            raise FitError(f"{k} = {params[k]:g}, but the coordinates that intervals come from give {float(v):g}")
    held, scale, dof = np.array(solver["held"], bool), float(solver["scale"]), float(solver["dof"])
    covariance = Covariance(vectors["covariance"], vectors["inverse"], held, scale, dof)
    return {"problem": problem, "z": vectors["z"], "saved_covariance": covariance}


def _bootstrap(record: dict[str, Any] | None, solution: Solution) -> Bootstrap | None:
    if record is None:
        return None
    p = len(solution.free)
    samples = np.array(record["coordinates"], np.float64)
    if samples.ndim != 2 or samples.shape[1] != p:
        raise FitError(f"bootstrap samples of shape {samples.shape} for {p} fitted parameters")
    return Bootstrap(solution, samples, str(record["method"]), int(record["seed"]), float(record["converged"]))


def _check_probe(record: Mapping[str, Any], law: Law, params: Mapping[str, float]) -> None:
    """Refuses a law that is not the one that was saved."""
    probe = record.get("probe")
    if not probe:
        return
    value = float(law(params, probe["inputs"]))
    if not np.isclose(value, probe["value"], rtol=1e-6, atol=0, equal_nan=True):
        at = ", ".join(f"{k} = {v:g}" for k, v in probe["inputs"].items())
        raise FitError(
            f"the law or its parameters are not those that were saved: at {at} {law.name!r} gives {value:g}, then "
            f"{probe['value']:g}"
        )


def _probe(fit: Solution) -> dict[str, Any] | None:
    """The law's value at one point inside the data, by which a loaded law is recognized; None without data."""
    inputs = {k: 0.5 * (low + high) for k, (low, high) in fit.ranges.items() if k in fit.law.inputs}
    return {"inputs": inputs, "value": float(fit.law(fit.params, inputs))} if inputs else None


def _plain(value: Any) -> Any:
    """JSON has neither arrays nor infinity: lists, and the words "inf", "-inf" and "nan"."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else str(float(value))
    if isinstance(value, np.generic):
        return value.item()
    return value


def _floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _floats(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_floats(v) for v in value]
    return float(value) if value in ("inf", "-inf", "nan") else value
