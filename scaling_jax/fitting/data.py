"""Input columns, checked and converted to float64; every error quotes the value and says what to do."""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling_jax.fitting.errors import DataError, FitError
from scaling_jax.fitting.laws.base import Law
from scaling_jax.fitting.objectives import Objective

# Beyond these, or below their inverses, products of inputs leave float64.
LARGEST, LARGEST_Y = 1e150, 1e250


@dataclass(frozen=True)
class Rows:
    """Checked data: inputs {name: (n,)}, y (n,), weights (n,), clusters (n,) integers or None."""

    inputs: dict
    y: np.ndarray
    weights: np.ndarray
    clusters: np.ndarray | None


def as_column(values: Any, name: str, length: int | None = None, like: str | None = None) -> np.ndarray:
    """One column as a float64 vector. Raises DataError when it is text, masked, not a vector or of another length."""
    if isinstance(values, (str, bytes)):
        raise DataError(f"{name} is the text {values!r}; give numbers, or a column of them.")
    if np.ma.isMaskedArray(values) and np.ma.getmaskarray(values).any():
        row = int(np.argmax(np.ma.getmaskarray(values).ravel()))
        raise DataError(f"{name} is masked at row {row}: drop the masked rows from every column.")
    try:
        array = np.asarray(values)
    except ValueError:
        raise DataError(f"{name} is ragged: give one value per row, a 1-d array.") from None
    if array.ndim == 0 and (array.dtype == object or length is not None):
        raise DataError(f"{name} is {_described(values)}; give one value per row, a list or an array.")
    if array.dtype.kind in "OUSMm" or array.dtype.kind == "c":
        try:
            if array.dtype.kind in "USMmc":
                raise ValueError
            if any(isinstance(v, (str, bytes)) for v in array.ravel()):
                raise ValueError
            array = array.astype(np.float64)  # pandas' nullable columns and None
        except (TypeError, ValueError, OverflowError):
            bad = next((i for i, v in enumerate(array.ravel()) if not _is_number(v)), 0)
            value = array.ravel()[bad]
            value = value.item() if isinstance(value, np.generic) else value
            raise DataError(
                f"{name} is not numeric: {reprlib.repr(value)} at row {bad}. Convert the column to numbers first."
            ) from None
    array = array.astype(np.float64)
    if array.ndim != 1:
        raise DataError(f"{name} has shape {array.shape}; give one value per row, a 1-d array.")
    if length is not None and len(array) != length:
        raise DataError(f"{name} has {len(array)} values but {like} has {length}; columns must have one length.")
    return array


def _described(values: Any) -> str:
    return repr(values) if values is None or np.isscalar(values) else f"a {type(values).__name__}"


def _is_number(value: Any) -> bool:
    if isinstance(value, int) and abs(value) > 10**300:  # beyond float64
        return False
    return isinstance(value, (int, float, np.number)) and not isinstance(value, complex)


def inputs_of(law: Law, data: Any, fitting: bool = True) -> dict[str, np.ndarray]:
    """The law's inputs from a dict, a DataFrame or (for a law of one input) a plain array.

    For a fit they are vectors of one length; otherwise (a prediction) numbers or arrays that broadcast.
    """
    if names_of(data) is None:
        if len(law.inputs) == 1:
            data = {law.inputs[0]: data}
        else:
            example = ", ".join(f'"{k}": {k}' for k in law.inputs)
            raise DataError(
                f"{law.name!r} reads {', '.join(law.inputs)}: give a dict {{{example}}} or a DataFrame with these "
                f"columns, not {type(data).__name__}."
            )
    data = _with_derived(law, data)
    columns = _columns(data)
    missing = [k for k in law.inputs if k not in columns]
    if missing:
        either = " (or 'N' and 'D')" if law.from_nd is not None else ""
        unused = [k for k in columns if k not in law.inputs]
        example = f' Rename, e.g. {{"{missing[0]}": data[{unused[0]!r}]}}.' if unused and not either else ""
        raise DataError(
            f"{law.name!r} needs the column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}{either}; "
            f"there {'are' if len(columns) != 1 else 'is'} {', '.join(map(repr, columns)) or 'none'}.{example}"
        )
    inputs, first = {}, law.inputs[0]
    for k in law.inputs:
        length = len(inputs[first]) if inputs and fitting else None
        values = column_of(data, k)
        inputs[k] = as_column(values, k, length, first) if fitting else _values(law, values, k)
    if not fitting:
        try:
            np.broadcast_shapes(*(v.shape for v in inputs.values()))
        except ValueError:
            shapes = ", ".join(f"{k} {v.shape}" for k, v in inputs.items())
            raise DataError(f"inputs of different shapes that do not broadcast: {shapes}.") from None
    return inputs


def _with_derived(law: Law, data: Any) -> Any:
    """The data with the inputs that follow from their N and D, e.g. M = D / N, where they lack them."""
    columns = _columns(data)
    if law.from_nd is None or not {"N", "D"} <= set(columns) or set(law.inputs) <= set(columns):
        return data
    nd = {k: _values(law, column_of(data, k), k) for k in ("N", "D")}
    try:
        derived = law.from_nd(nd)
    except ValueError:
        raise DataError(
            f"inputs of different shapes that do not broadcast: N {nd['N'].shape}, D {nd['D'].shape}."
        ) from None
    return {k: column_of(data, k) if k in columns else derived[k] for k in law.inputs}


def names_of(data: Any) -> list[str] | None:
    """Names of the columns of a mapping, a table (pandas, polars, Arrow) or a structured array; None of others."""
    if isinstance(data, Mapping):
        return list(data)
    if getattr(getattr(data, "dtype", None), "names", None):
        return list(data.dtype.names)
    for names in ("column_names", "columns"):
        if hasattr(data, names):
            return list(getattr(data, names))
    return None


def _columns(data: Any) -> list[str]:
    """Names of the columns; none of data without names."""
    return names_of(data) or []


def column_of(data: Any, name: str) -> Any:
    """The values of a column as they are. Raises DataError when it cannot be read or its name stands for several."""
    if _columns(data).count(name) > 1:
        raise DataError(f"there are {_columns(data).count(name)} columns named {name!r}: rename or drop all but one.")
    try:
        return data[name]
    except Exception as err:
        reason = " ".join(str(err).split())
        raise DataError(f"column {name!r} of a {type(data).__name__} cannot be read: {reason}.") from None


def resolve_column(data: Any, values: Any, what: str) -> Any:
    """`values`, or the column of the data that they name."""
    if not isinstance(values, str):
        return values
    columns = _columns(data)
    if values not in columns:
        raise DataError(f"{what}={values!r} is not a column of the data; there are {', '.join(map(repr, columns))}.")
    return column_of(data, values)


def _refuse_other_order(columns: Mapping[str, Any]) -> None:
    """pandas columns are taken row by row, so the same labels in another order are a mistake, not another pairing."""
    labelled = {k: v.index for k, v in columns.items() if hasattr(getattr(v, "index", None), "equals")}
    for name, index in labelled.items():
        first, reference = next(iter(labelled.items()))
        if len(index) == len(reference) and not index.equals(reference) and not len(index.difference(reference)):
            raise DataError(
                f"{name} and {first} have the same row labels in a different order: put them into one DataFrame, or "
                "reset_index(drop=True) both if they are paired by position."
            )


def _values(law: Law, values: Any, name: str) -> np.ndarray:
    """Numbers of any shape at which a law is asked for its value."""
    try:
        shape = np.shape(values)
    except ValueError:
        raise DataError(f"{name} is ragged: give a number or an array.") from None
    flat = as_column(np.ma.ravel(values) if np.ma.isMaskedArray(values) else np.ravel(values), name)
    _require(np.isfinite(flat), flat, name, "must be finite", "leave the point out")
    if law.positive:
        _require(flat > 0, flat, name, "must be positive", "leave the point out, or correct its unit")
    require_ordinary(flat, name)
    return flat.reshape(shape)


def read(law: Law, data: Any, y: Any, weights: Any, clusters: Any, objective: Objective, free: Sequence[str]) -> Rows:
    """Checks everything that `fitting.fit` is given. Raises DataError."""
    inputs = inputs_of(law, data)
    first = law.inputs[0]
    n = len(inputs[first])
    y, weights, clusters = (
        resolve_column(data, v, k) for k, v in (("y", y), ("weights", weights), ("clusters", clusters))
    )
    columns = names_of(data)
    sources = (*law.inputs, "N", "D") if law.from_nd is not None else law.inputs
    named = {first: data} if columns is None else {k: data[k] for k in sources if k in columns}
    _refuse_other_order({**named, "y": y, "weights": weights, "clusters": clusters})
    y = as_column(y, "y", n, first)
    if n == 0:
        raise DataError("There are no rows to fit.")
    for k, v in inputs.items():
        _require(np.isfinite(v), v, k, "must be finite", "drop or repair the row")
        if law.positive:
            _require(v > 0, v, k, "must be positive", "drop the row, or correct its unit")
        require_ordinary(v, k)
    _require(np.isfinite(y), y, "y", "must be finite", "drop the row: a diverged run has no place in a fit")
    require_ordinary(y, "y", LARGEST_Y)
    if objective.log:
        _require(
            y + objective.shift > 0,
            y,
            "y",
            f"must be positive for {objective}",
            "drop the row or use LeastSquares() on y itself",
        )
    else:
        _require(np.abs(y) < 1e100, y, "y", f"is too large for {objective}", "divide all of y by a constant")
        if 0 < np.abs(y).max() < 1e-100:
            raise DataError(f"y is below {np.abs(y).max():g} for {objective}: its squares vanish; use a larger unit.")
    weights = np.ones(n) if weights is None else as_column(weights, "weights", n, first)
    _require(
        np.isfinite(weights) & (weights >= 0),
        weights,
        "weights",
        "must be zero or positive",
        "use 0 to leave a row out",
    )
    require_ordinary(weights, "weights")
    if not weights.any():
        raise DataError("weights are all zero: nothing is left to fit.")
    clusters = None if clusters is None else _labels(clusters, weights)
    _require_enough(law, inputs, weights, free)
    return Rows(inputs, y, weights, clusters)


def scale_column(data: Any, C: Any, y: np.ndarray) -> np.ndarray:
    """(n,) what makes runs large, which may be given as the name of a column. Raises DataError unless it is finite."""
    C = as_column(resolve_column(data, C, "C"), "C", len(y), "y")
    _require(np.isfinite(C), C, "C", "must be finite", "drop or repair the row")
    return C


def column_y(data: Any, y: Any) -> np.ndarray:
    """y, (n,), which may be given as the name of a column of the data."""
    return as_column(resolve_column(data, y, "y"), "y")


def _labels(clusters: Any, weights: np.ndarray) -> np.ndarray:
    """(n,) integers, one per cluster; labels may be of any kind."""
    labels = np.asarray(clusters)
    if labels.shape != weights.shape:
        raise DataError(f"clusters has shape {labels.shape}; give one label per row, {len(weights)} of them.")
    labels = labels.tolist()
    missing = [i for i, v in enumerate(labels) if v is None or v != v or type(v).__name__ == "NAType"]
    if missing:
        raise DataError(f"clusters = {labels[missing[0]]} at row {missing[0]}: give every row a label.")
    known = {v: i for i, v in enumerate(dict.fromkeys(labels))}
    numbers = np.array([known[v] for v in labels])
    if len(np.unique(numbers[weights > 0])) < 2:
        raise DataError(
            f"all rows are in one cluster, {labels[0]!r}: intervals come from how clusters differ, so give several, or "
            "leave clusters= away."
        )
    return numbers


def check_positive(value: Any, name: str, example: str) -> float:
    """A positive finite number. Raises DataError otherwise."""
    try:
        if 1 / LARGEST_Y < value < LARGEST_Y:
            return float(value)
    except (TypeError, ValueError):
        pass
    raise DataError(f"{name}={value!r} must be a positive number below {LARGEST_Y:.0e}, e.g. {example}.")


def check_int(value: Any, name: str, least: int = 0) -> int:
    """A whole number, `least` or more. Raises DataError otherwise."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least:
        return int(value)
    raise DataError(f"{name}={value!r} must be a whole number, {least} or more.")


def check_all_positive(values: Any, name: str) -> np.ndarray:
    """Numbers of any shape that are positive and finite. Raises DataError otherwise."""
    flat = as_column(np.ravel(values), name)
    bad = flat[~(np.isfinite(flat) & (flat > 0))]
    if len(bad):
        raise DataError(f"{name} = {bad[0]:g}: give positive and finite numbers.")
    require_ordinary(flat, name, LARGEST_Y)
    return flat.reshape(np.shape(values))


def _require(good: np.ndarray, values: np.ndarray, name: str, rule: str, way_out: str) -> None:
    if not good.all():
        rows = np.flatnonzero(~good)
        more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
        raise DataError(f"{name} = {values[rows[0]]:g} at row {rows[0]}{more}: {name} {rule}; {way_out}.")


def require_ordinary(values: np.ndarray, name: str, largest: float = LARGEST) -> None:
    """Refuses numbers whose products or quotients leave float64, far beyond anything that is measured."""
    size = np.abs(values)
    ordinary = (size < largest) & ((size > 1 / largest) | (size == 0))
    rule = f"must be 0 or between {1 / largest:.0e} and {largest:.0e} in size"
    _require(ordinary, values, name, rule, "correct its unit")


def _require_enough(law: Law, inputs: Mapping[str, np.ndarray], weights: np.ndarray, free: Sequence[str]) -> None:
    used = weights > 0
    table = np.stack([v[used] for v in inputs.values()], axis=1)
    distinct = len(np.unique(table, axis=0))
    if distinct < len(free):
        raise DataError(
            f"{distinct} different points for {len(free)} parameters ({_some(free)}) of {law.name!r}: add points, "
            "fix parameters (fixed=) or choose a smaller law."
        )
    if law.custom or len(free) < len(law.params):
        return
    for k, v in zip(inputs, table.T):
        if k not in law.constant_allowed and np.all(v == v[0]):
            raise DataError(
                f"All {len(v)} points have {k} = {v[0]:g}: {law.name!r} cannot learn how y depends on {k}. Vary {k}, "
                f"fix its parameters (fixed=), or fit a law without {k}."
            )


def _some(names: Sequence[str], limit: int = 12) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def duplicates(inputs: Mapping[str, np.ndarray], y: np.ndarray) -> int:
    """How many rows repeat an earlier one exactly."""
    table = np.stack([*inputs.values(), y], axis=1)
    return len(y) - len(np.unique(table, axis=0))


def check_level(level: Any) -> None:
    """Raises FitError unless 0 < level < 1."""
    if not (isinstance(level, (int, float, np.number)) and 0 < level < 1):
        raise FitError(f"level={level!r} must lie between 0 and 1, e.g. 0.95.")


def data_hash(rows: Rows) -> str:
    """Identity of the inputs, y and weights of a fit."""
    digest = hashlib.sha256()
    for v in (*rows.inputs.values(), rows.y, rows.weights):
        digest.update(np.ascontiguousarray(v, "<f8").tobytes())
    return digest.hexdigest()[:16]


def ranges_of(law: Law, rows: Rows) -> dict[str, tuple[float, float]]:
    """{input: (min, max)} of the rows with positive weight, and "C" for 6ND where the law has N and D."""
    columns = {k: v[rows.weights > 0] for k, v in rows.inputs.items()}
    compute = law.compute(columns)
    if compute is not None:
        columns["C"] = compute
    return {k: (float(v.min()), float(v.max())) for k, v in columns.items()}
