"""A fit as JSON: everything but the data, so that predictions, frontiers and their intervals work after loading."""

import json
import os
import tempfile
from importlib import metadata

import numpy as np

from scaling_jax.fitting.errors import FileError, FitError, LawError
from scaling_jax.fitting.laws.registry import laws
from scaling_jax.fitting.objectives import objective_from_dict

FORMAT = "scaling_jax.fit"
VERSION = 1


def versions():
    """Versions of what made a fit."""
    import jax

    import scaling_jax

    return {"scaling_jax": scaling_jax.__version__, "jax": jax.__version__, "numpy": np.__version__}


def save(fit, path):
    """Writes a `Fit`, whole or not at all."""
    boot = fit._bootstrap
    record = {
        "format": FORMAT,
        "version": VERSION,
        "law": fit.law.name,
        "equation": fit.law.equation,
        "own_law": fit.law.custom,
        "params": fit.params,
        "fixed": fit.fixed,
        "objective": fit.objective.to_dict(),
        "objective_value": fit.objective_value,
        "converged": bool(fit.converged),
        "certificate": fit.certificate.to_dict(),
        "warnings": fit.warnings,
        "seed": int(fit.seed),
        "n": fit.n,
        "duplicates": fit.duplicates,
        "ranges": fit.ranges,
        "data_hash": fit.data_hash,
        "probe": _probe(fit),
        "versions": {**fit.versions, "scipy": metadata.version("scipy")},
        "solver": {
            "centre": fit._problem.centre,
            "z": fit._z,
            "lower": fit._problem.lower,
            "upper": fit._problem.upper,
            "covariance": fit.spread.covariance,
            "inverse": fit.spread.inverse,
            "held": fit.spread.held,
            "scale": fit.spread.scale,
            "dof": fit.spread.dof,
        },
        "bootstrap": None
        if boot is None
        else {"coordinates": boot.coordinates, "method": boot.method, "seed": int(boot.seed), "settled": boot.settled},
    }  # fmt: skip
    text = json.dumps(_plain(record), indent=1, allow_nan=False)
    path = os.fspath(path)
    try:
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path) or ".", suffix=".tmp")
    except OSError as err:
        raise FileError(f"{path} cannot be written: {err.strerror}.") from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path, law=None):
    """Loads a fit saved by `Fit.to_json`.

    Args:
      path: the file.
      law: the `Law`, for a fit of your own law: a file cannot carry a function.
    Returns:
      A `Fit` without its data: `predict`, `frontier` and `interval` work; `bootstrap`, `profile` and `refit` do not.
    Raises:
      FileError: no such file, not a saved fit, damaged, or of a law this process does not have.
    """
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
        return _fit(_floats(record), _law(path, record, law))
    except FileError:
        raise
    except KeyError as err:
        raise FileError(f"{path} is damaged: {err.args[0]!r} is missing; save the fit again.") from None
    except FitError as err:
        raise FileError(f"{path} cannot be loaded: {err}; fit and save again.") from None
    except (TypeError, ValueError, AttributeError, IndexError) as err:
        raise FileError(f"{path} is damaged: {err}; save the fit again.") from None


def _law(path, record, law):
    if record["own_law"]:
        if law is None:
            raise FileError(
                f"{path} holds a fit of your own law {record['law']!r}: pass it, fitting.load(path, law=...)."
            )
    elif law is None:
        try:
            law = laws[record["law"]]
        except LawError as err:
            raise FileError(f"{path}: {err}") from None
    if any(float(record["params"].get(k, 0.0)) < 0 for k in law.levels):
        law = law.signed
    if set(record["params"]) != set(law.params):
        raise FileError(
            f"{path} has the parameters {', '.join(record['params'])}, law {law.name!r} has {', '.join(law.params)}."
        )
    return law


def _fit(record, law):
    from scaling_jax.fitting.fitted import Fit
    from scaling_jax.fitting.inference.bootstrap import from_coordinates
    from scaling_jax.fitting.inference.covariance import Spread
    from scaling_jax.fitting.solver._problem import Problem
    from scaling_jax.fitting.solver._search import Certificate

    params = {k: float(record["params"][k]) for k in law.params}
    if not all(np.isfinite(v) for v in params.values()):
        raise FitError("a parameter is not finite")
    solver, boot = record["solver"], record["bootstrap"]
    fixed = {k: float(v) for k, v in record["fixed"].items()}
    problem = Problem.without_data(law, fixed, solver["centre"], solver["lower"], solver["upper"])
    z = np.array(solver["z"], np.float64)
    covariance, inverse = (np.array(solver[k], np.float64) for k in ("covariance", "inverse"))
    for shape, array in (((problem.p,), z), ((problem.p, problem.p), covariance), ((problem.p,), problem.lower)):
        if array.shape != shape:
            raise FitError(f"{problem.p} fitted parameters, but numbers about them of shape {array.shape}")
    _check_consistency(record, law, params, problem, z)
    if boot is not None:
        samples = np.array(boot["coordinates"], np.float64)
        if samples.ndim != 2 or samples.shape[1] != problem.p:
            raise FitError(f"bootstrap samples of shape {samples.shape}")
        boot = from_coordinates(problem, samples, boot["method"], boot["seed"], float(boot["settled"]))
    return Fit(
        law=law, params=params, objective=objective_from_dict(record["objective"]),
        objective_value=float(record["objective_value"]), converged=bool(record["converged"]),
        certificate=Certificate(**record["certificate"]), fixed=fixed, seed=int(record["seed"]), n=int(record["n"]),
        duplicates=int(record["duplicates"]), ranges={k: tuple(v) for k, v in record["ranges"].items()},
        data_hash=record["data_hash"], versions=record["versions"], _problem=problem, _z=z,
        _spread=Spread(
            covariance, inverse, np.array(solver["held"], bool), float(solver["scale"]), float(solver["dof"])
        ),
        _bootstrap=boot, _saved_warnings=[str(w) for w in record["warnings"]],
    )  # fmt: skip


def _check_consistency(record, law, params, problem, z):
    """Refuses a law that is not the one that was saved, and parameters that were edited by hand."""
    if probe := record.get("probe"):
        value = float(law(params, probe["inputs"]))
        if not np.isclose(value, probe["value"], rtol=1e-6, atol=0, equal_nan=True):
            at = ", ".join(f"{k} = {v:g}" for k, v in probe["inputs"].items())
            raise FitError(
                f"the law or its parameters are not those that were saved: at {at} {law.name!r} gives {value:g}, then "
                f"{probe['value']:g}"
            )
    for k, v in problem.natural(z).items():
        if not np.isclose(params[k], v, rtol=1e-6, atol=0):
            raise FitError(f"{k} = {params[k]:g}, but the coordinates that intervals come from say {float(v):g}")


def _probe(fit):
    """The law's value at one place inside the data: by it a loaded law is known to be the same."""
    inputs = {k: 0.5 * (low + high) for k, (low, high) in fit.ranges.items() if k in fit.law.inputs}
    return {"inputs": inputs, "value": float(fit.law(fit.params, inputs))}


def _plain(value):
    """JSON knows no arrays and no infinity: lists, and the words "inf", "-inf" and "nan"."""
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


def _floats(value):
    if isinstance(value, dict):
        return {k: _floats(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_floats(v) for v in value]
    return float(value) if value in ("inf", "-inf", "nan") else value
