"""Input columns, checked and converted to float64; every error quotes the value and suggests a fix."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from scaling_jax.fitting.errors import DataError, FitError, FitWarning
from scaling_jax.fitting.laws.base import Law

# Beyond these, or below their inverses, products of inputs leave float64.
LARGEST, LARGEST_Y = 1e150, 1e250


def as_column(values: Any, name: str, length: int | None = None, like: str | None = None) -> np.ndarray:
    """One column as a float64 vector.

    Args:
      values: a list, an array or a column of a table.
      name: of the column, for messages.
      length: that it must have; None for any.
      like: the column that sets the length, for messages.

    Returns:
      (n,) float64; missing values are nan.

    Raises:
      DataError: text, masked rows, not a vector, or another length.
    """
    array = _as_float(_as_array(values, name, scalar=length is None), name)
    if array.ndim != 1:
        raise DataError(f"{name} has shape {array.shape}; give one value per row, a 1-d array.")
    if length is not None and len(array) != length:
        raise DataError(f"{name} has {len(array)} values but {like} has {length}; columns must have one length.")
    return array


def _as_array(values: Any, name: str, scalar: bool) -> np.ndarray:
    """An array of any dtype and shape; refuses text, masked rows, ragged lists and (unless `scalar`) single numbers."""
    if isinstance(values, (str, bytes)):
        raise DataError(f"{name} is the text {values!r}; give numbers, or a column of them.")
    if np.ma.isMaskedArray(values) and np.ma.getmaskarray(values).any():
        row = int(np.argmax(np.ma.getmaskarray(values).ravel()))
        raise DataError(f"{name} is masked at row {row}: drop the masked rows from every column.")
    array = _plain(values, name, "give one value per row, a 1-d array")
    if array.ndim == 0 and (array.dtype == object or not scalar):
        raise DataError(f"{name} is {_described(values)}; give one value per row, a list or an array.")
    return array


def _plain(values: Any, name: str, way_out: str) -> np.ndarray:
    """An array of values of any kind and shape. Raises DataError where they do not make one."""
    try:
        return np.asarray(values)
    except ValueError:
        raise DataError(f"{name} is ragged: {way_out}.") from None
    except Exception as err:  # e.g. a tensor on a GPU, or one that has a gradient
        reason = " ".join(str(err).split()) or type(err).__name__
        raise DataError(f"{name} is a {type(values).__name__} that does not become an array: {reason}.") from None


def _as_float(array: np.ndarray, name: str) -> np.ndarray:
    """The array as float64; refuses text, dates and complex numbers and quotes the first of them."""
    if array.dtype.kind not in "OUSMmc":
        return array.astype(np.float64)
    if array.dtype.kind == "O" and not any(isinstance(v, (str, bytes)) for v in array.ravel()):
        try:
            return array.astype(np.float64)  # pandas' nullable columns and None
        except (TypeError, ValueError, OverflowError):
            pass
    bad = next((i for i, v in enumerate(array.ravel()) if not _is_number(v)), 0)
    value = array.ravel()[bad]
    value = value.item() if isinstance(value, np.generic) else value
    raise DataError(f"{name} is not numeric: {reprlib.repr(value)} at row {bad}. Convert the column to numbers first.")


def _described(values: Any) -> str:
    return repr(values) if values is None or np.isscalar(values) else f"a {type(values).__name__}"


def _is_number(value: Any) -> bool:
    if isinstance(value, int) and abs(value) > 10**300:  # beyond float64
        return False
    return isinstance(value, (int, float, np.number)) and not isinstance(value, complex)


def inputs_of(law: Law, data: Any) -> dict[str, np.ndarray]:
    """The law's inputs for a fit: vectors (n,) of one length.

    Args:
      law: the `Law`.
      data: a dict, a table, or (for a law of one input) a plain array.

    Raises:
      DataError: a missing column, values that are not numbers, or columns of different lengths.
    """
    data, first = _named(law, data), law.inputs[0]
    columns = {first: as_column(column_of(data, first), first)}
    for k in law.inputs[1:]:
        columns[k] = as_column(column_of(data, k), k, len(columns[first]), first)
    return columns


def points_of(law: Law, data: Any) -> dict[str, np.ndarray]:
    """The law's inputs at the points of a prediction: finite numbers or arrays that broadcast; otherwise `inputs_of`.

    Raises:
      DataError: a missing column, values that the law does not take, or shapes that do not broadcast.
    """
    require_same_rows(data, law)
    data = _named(law, data)
    points = {k: _values(law, column_of(data, k), k) for k in law.inputs}
    try:
        np.broadcast_shapes(*(v.shape for v in points.values()))
    except ValueError:
        shapes = ", ".join(f"{k} {v.shape}" for k, v in points.items())
        raise DataError(f"inputs of different shapes that do not broadcast: {shapes}.") from None
    return points


def _named(law: Law, data: Any) -> Any:
    """The data with a column for each input of the law. Raises DataError where one is missing."""
    if names_of(data) is None:
        if len(law.inputs) != 1:
            example = ", ".join(f'"{k}": {k}' for k in law.inputs)
            raise DataError(
                f"{law.name!r} reads {', '.join(law.inputs)}: give a dict {{{example}}} or a DataFrame with these "
                f"columns, not {type(data).__name__}."
            )
        return {law.inputs[0]: data}
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
    return data


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


def require_same_rows(data: Any, law: Law | None = None, **others: Any) -> None:
    """pandas columns are paired by position, whatever their row labels: warns where these differ.

    Args:
      data: a table, a dict of columns, or one column.
      law: whose inputs are taken from the data; None takes all columns of a dict.
      **others: further columns by name; those that are not of pandas are skipped.

    Raises:
      DataError: the same labels in another order, which is a mistake and not another pairing.
    """
    columns = dict(data) if isinstance(data, Mapping) else {law.inputs[0] if law is not None else "data": data}
    if law is not None and isinstance(data, Mapping):
        read = law.inputs if law.from_nd is None else (*law.inputs, "N", "D")
        columns = {k: v for k, v in columns.items() if k in read}
    labelled = {k: v.index for k, v in {**columns, **others}.items() if hasattr(getattr(v, "index", None), "equals")}
    for name, index in labelled.items():
        first, reference = next(iter(labelled.items()))
        if len(index) != len(reference) or index.equals(reference):
            continue
        if not len(index.difference(reference)):
            raise DataError(
                f"{name} and {first} have the same row labels in a different order: put them into one DataFrame, or "
                "reset_index(drop=True) both if they are paired by position."
            )
        if len(index.intersection(reference)):
            row = int(np.argmax(np.asarray(index != reference)))
            warnings.warn(
                f"{name} and {first} have different row labels ({index[row]} and {reference[row]} at row {row}): they "
                "are paired by position; reset_index(drop=True) both if that is right.",
                FitWarning,
                stacklevel=3,
            )


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
    """The values of a column, unchanged. Raises DataError when it cannot be read or several have its name."""
    if _columns(data).count(name) > 1:
        raise DataError(f"there are {_columns(data).count(name)} columns named {name!r}: rename or drop all but one.")
    try:
        return data[name]
    except Exception as err:
        reason = " ".join(str(err).split())
        raise DataError(f"column {name!r} of a {type(data).__name__} cannot be read: {reason}.") from None


def resolve_column(data: Any, values: Any, what: str) -> Any:
    """`values`, or the column of the data with that name. Raises DataError when there is none."""
    if not isinstance(values, str):
        return values
    columns = _columns(data)
    if values not in columns:
        raise DataError(f"{what}={values!r} is not a column of the data; there are {', '.join(map(repr, columns))}.")
    return column_of(data, values)


def _values(law: Law, values: Any, name: str) -> np.ndarray:
    """Points of a prediction, of any shape: finite, and positive where the law needs that."""
    if not np.ma.isMaskedArray(values):
        values = _plain(values, name, "give a number or an array")
    flat = as_column(values.ravel(), name)
    require(np.isfinite(flat), flat, name, "must be finite", "leave the point out")
    if law.positive:
        require(flat > 0, flat, name, "must be positive", "leave the point out, or correct its unit")
    require_ordinary(flat, name)
    return flat.reshape(values.shape)


def label_column(data: Any, labels: Any, length: int, name: str = "clusters") -> np.ndarray:
    """(n,) whole numbers from 0, one per group of equal labels of any kind; `labels` may be the name of a column.

    Raises:
      DataError: not one label per row, or a row whose label is missing or cannot be compared.
    """
    array = _plain(resolve_column(data, labels, name), name, "give one label per row, a number or a text")
    if array.shape != (length,):
        raise DataError(f"{name} has shape {array.shape}; give one label per row, {length} of them.")
    values = array.tolist()
    for i, v in enumerate(values):
        if not isinstance(v, Hashable):
            raise DataError(f"{name} = {reprlib.repr(v)} at row {i}: give every row a number or a text.")
        if v is None or type(v).__name__ == "NAType" or v != v:
            raise DataError(f"{name} = {v} at row {i}: give every row a label.")
    known = {v: i for i, v in enumerate(dict.fromkeys(values))}
    return np.array([known[v] for v in values], int)


def scale_column(data: Any, C: Any, y: np.ndarray) -> np.ndarray:
    """(n,) the scale of each run, or the name of its column. Raises DataError unless it is finite and positive."""
    C = as_column(resolve_column(data, C, "C"), "C", len(y), "y")
    require(np.isfinite(C), C, "C", "must be finite", "drop or repair the row")
    require(C > 0, C, "C", "must be positive", "correct its unit; it is the scale itself, not its logarithm")
    return C


def column_y(data: Any, y: Any) -> np.ndarray:
    """(n,) y, or the name of its column."""
    return as_column(resolve_column(data, y, "y"), "y")


def check_positive(value: Any, name: str, example: str) -> float:
    """A positive finite number. Raises DataError otherwise."""
    value = value.item() if isinstance(value, np.generic) else value  # a float32 does not know these limits
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
    values = _plain(values, name, "give a number or an array")
    flat = as_column(values.ravel(), name)
    bad = flat[~(np.isfinite(flat) & (flat > 0))]
    if len(bad):
        raise DataError(f"{name} = {bad[0]:g}: give positive and finite numbers.")
    require_ordinary(flat, name, LARGEST_Y)
    return flat.reshape(values.shape)


def require(good: np.ndarray, values: np.ndarray, name: str, rule: str, way_out: str) -> None:
    """Raises DataError, with the first bad value and its row, unless `good` (n,) is true everywhere."""
    if not good.all():
        rows = np.flatnonzero(~good)
        more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
        raise DataError(f"{name} = {values[rows[0]]:g} at row {rows[0]}{more}: {name} {rule}; {way_out}.")


def require_ordinary(values: np.ndarray, name: str, largest: float = LARGEST) -> None:
    """Refuses numbers whose products or quotients overflow float64, far beyond anything that is measured."""
    size = np.abs(values)
    ordinary = (size < largest) & ((size > 1 / largest) | (size == 0))
    rule = f"must be 0 or between {1 / largest:.0e} and {largest:.0e} in size"
    require(ordinary, values, name, rule, "correct its unit")


def check_level(level: Any) -> None:
    """Raises FitError unless 0 < level < 1."""
    if not (isinstance(level, (int, float, np.number)) and 0 < level < 1):
        raise FitError(f"level={level!r} must lie between 0 and 1, e.g. 0.95.")
