"""The numbers a person hands in, checked and turned to float64; every refusal quotes the value and the way out."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .errors import DataError, FitError


@dataclass(frozen=True)
class Rows:
    """Checked data: inputs {name: (n,)}, y (n,), weights (n,), clusters (n,) integers or None."""

    inputs: dict
    y: np.ndarray
    weights: np.ndarray
    clusters: np.ndarray | None


def column(values, name, length=None, like=None):
    """One column as a float64 vector. Raises DataError when it is text, not one-dimensional or of another length."""
    if isinstance(values, str):
        raise DataError(f"{name} is the text {values!r}; give numbers, or a column of them.")
    array = np.asarray(values)
    if array.dtype.kind in "OUSMm" or array.dtype.kind == "c":
        try:
            if array.dtype.kind in "USMmc":
                raise ValueError
            if any(isinstance(v, (str, bytes)) for v in array.ravel()):
                raise ValueError
            array = array.astype(np.float64)  # pandas' nullable columns and None
        except (TypeError, ValueError):
            bad = next((i for i, v in enumerate(array.ravel()) if not _is_number(v)), 0)
            value = array.ravel()[bad]
            value = value.item() if isinstance(value, np.generic) else value
            raise DataError(
                f"{name} is not numeric: {value!r} at row {bad}. Convert the column to numbers first."
            ) from None
    array = array.astype(np.float64)
    if array.ndim != 1:
        raise DataError(f"{name} has shape {array.shape}; give one value per row, a 1-d array.")
    if length is not None and len(array) != length:
        raise DataError(f"{name} has {len(array)} values but {like} has {length}; columns must have one length.")
    return array


def _is_number(value):
    return isinstance(value, (int, float, np.number)) and not isinstance(value, complex)


def inputs_of(law, data, fitting=True):
    """The law's inputs from a dict, a DataFrame or (for a law of one input) a plain array.

    For a fit they are vectors of one length; otherwise (a prediction) numbers or arrays that broadcast.
    """
    if not (isinstance(data, Mapping) or hasattr(data, "columns")):
        if len(law.inputs) == 1:
            data = {law.inputs[0]: data}
        else:
            example = ", ".join(f'"{k}": {k}' for k in law.inputs)
            raise DataError(
                f"{law.name!r} reads {', '.join(law.inputs)}: give a dict {{{example}}} or a DataFrame with these "
                f"columns, not {type(data).__name__}."
            )
    columns = list(data.columns if hasattr(data, "columns") else data)
    missing = [k for k in law.inputs if k not in columns]
    if missing:
        raise DataError(
            f"{law.name!r} needs the column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}; "
            f"there {'are' if len(columns) != 1 else 'is'} {', '.join(map(repr, columns)) or 'none'}. Rename, e.g. "
            f'{{"{missing[0]}": data["{columns[0] if columns else "..."}"]}}.'
        )
    inputs, first = {}, law.inputs[0]
    for k in law.inputs:
        length = len(inputs[first]) if inputs and fitting else None
        inputs[k] = column(data[k], k, length, first) if fitting else _values(law, data[k], k)
    if not fitting:
        try:
            np.broadcast_shapes(*(v.shape for v in inputs.values()))
        except ValueError:
            shapes = ", ".join(f"{k} {v.shape}" for k, v in inputs.items())
            raise DataError(f"inputs of different shapes that do not broadcast: {shapes}.") from None
    return inputs


def _values(law, values, name):
    """Numbers of any shape at which a law is asked for its value."""
    shape = np.shape(values)
    flat = column(np.ravel(values), name)
    _require(np.isfinite(flat), flat, name, "must be finite", "leave the point out")
    if law.positive:
        _require(flat > 0, flat, name, "must be positive", "leave the point out, or correct its unit")
    return flat.reshape(shape)


def read(law, data, y, weights, clusters, objective, free):
    """Checks everything that `fitting.fit` is given. Raises DataError."""
    inputs = inputs_of(law, data)
    first = law.inputs[0]
    n = len(inputs[first])
    y = column_y(data, y, n, first)
    if n == 0:
        raise DataError("There are no rows to fit.")
    for k, v in inputs.items():
        _require(np.isfinite(v), v, k, "must be finite", "drop or repair the row")
        if law.positive:
            _require(v > 0, v, k, "must be positive", "drop the row, or correct its unit")
    _require(np.isfinite(y), y, "y", "must be finite", "drop the row: a diverged run has no place in a fit")
    if objective.log:
        _require(
            y + objective.shift > 0,
            y,
            "y",
            f"must be positive for {objective}",
            "drop the row or use LeastSquares() on y itself",
        )
    weights = np.ones(n) if weights is None else column(weights, "weights", n, first)
    _require(
        np.isfinite(weights) & (weights >= 0),
        weights,
        "weights",
        "must be zero or positive",
        "use 0 to leave a row out",
    )
    if not weights.any():
        raise DataError("weights are all zero: nothing is left to fit.")
    if clusters is not None:
        clusters = np.asarray(clusters)
        if clusters.shape != (n,):
            raise DataError(f"clusters has shape {clusters.shape}; give one label per row, {n} of them.")
        clusters = np.unique(clusters, return_inverse=True)[1]
    _require_enough(law, inputs, weights, free)
    return Rows(inputs, y, weights, clusters)


def column_y(data, y, length=None, like=None):
    """y, (n,), which may be given as the name of a column of the data."""
    if isinstance(y, str):
        columns = list(getattr(data, "columns", data))
        if y not in columns:
            raise DataError(f"y={y!r} is no column of the data; there are {', '.join(map(repr, columns))}.")
        y = data[y]
    return column(y, "y", length, like)


def number(value, name, example):
    """A positive finite number. Raises DataError otherwise."""
    try:
        if np.isfinite(value) and value > 0:
            return float(value)
    except (TypeError, ValueError):
        pass
    raise DataError(f"{name}={value!r} must be a positive number, e.g. {example}.")


def _require(good, values, name, rule, way_out):
    if not good.all():
        rows = np.flatnonzero(~good)
        more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
        raise DataError(f"{name} = {values[rows[0]]:g} at row {rows[0]}{more}: {name} {rule}; {way_out}.")


def _require_enough(law, inputs, weights, free):
    used = weights > 0
    table = np.stack([v[used] for v in inputs.values()], axis=1)
    distinct = len(np.unique(table, axis=0))
    if distinct < len(free):
        raise DataError(
            f"{distinct} different points for {len(free)} parameters ({', '.join(free)}) of {law.name!r}: add points, "
            "fix parameters (fixed=) or choose a smaller law."
        )
    if law.custom or len(free) < len(law.params):
        return
    for k, v in zip(inputs, table.T):
        if k not in law.may_be_constant and np.all(v == v[0]):
            raise DataError(
                f"All {len(v)} points have {k} = {v[0]:g}: {law.name!r} cannot learn how y depends on {k}. Vary {k}, "
                f"fix its parameters (fixed=), or fit a law without {k}."
            )


def duplicates(inputs, y):
    """How many rows repeat an earlier one exactly."""
    table = np.stack([*inputs.values(), y], axis=1)
    return len(y) - len(np.unique(table, axis=0))


def check_level(level):
    """Raises FitError unless 0 < level < 1."""
    if not (isinstance(level, (int, float, np.number)) and 0 < level < 1):
        raise FitError(f"level={level!r} must lie between 0 and 1, e.g. 0.95.")
