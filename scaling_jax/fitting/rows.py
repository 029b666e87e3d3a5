"""The rows of a fit: inputs, y, weights and clusters, checked together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling_jax.fitting.data import (
    LARGEST_Y,
    as_column,
    inputs_of,
    label_column,
    require,
    require_ordinary,
    require_same_rows,
    resolve_column,
)
from scaling_jax.fitting.errors import DataError
from scaling_jax.fitting.laws.base import Law
from scaling_jax.fitting.objectives import Objective

LOGARITHMS, LOG_SPAN = (3.0, 45.0), 2.5  # where logarithms of counts are, and how many times their smallest the largest
ODD_COMPUTE = 10.0  # times 6 N D: a compute beyond this, or below its inverse, is doubted
SMALL, LARGE = 1e3, 1e5  # no ladder has all of a count below the first and all of the other above the second


@dataclass(frozen=True)
class Rows:
    """Checked data.

    Attributes:
      inputs: {name: (n,)}.
      y: (n,) the metric.
      weights: (n,) factors, zero or positive.
      clusters: (n,) integers, or None.
    """

    inputs: dict[str, np.ndarray]
    y: np.ndarray
    weights: np.ndarray
    clusters: np.ndarray | None


def read(law: Law, data: Any, y: Any, weights: Any, clusters: Any, objective: Objective, free: Sequence[str]) -> Rows:
    """Checks everything that `fitting.fit` is given.

    Args:
      law: the `Law`.
      data: columns of its inputs.
      y: (n,) the metric, or the name of a column, as are `weights` and `clusters`.
      weights: (n,) factors, or None.
      clusters: (n,) labels, or None.
      objective: the objective whose residuals must exist.
      free: parameters that are fitted.

    Raises:
      DataError: values, lengths or labels that cannot be fitted.
    """
    inputs = inputs_of(law, data)
    first = law.inputs[0]
    n = len(inputs[first])
    y, weights, clusters = (
        resolve_column(data, v, k) for k, v in (("y", y), ("weights", weights), ("clusters", clusters))
    )
    require_same_rows(data, law, y=y, weights=weights, clusters=clusters)
    y = as_column(y, "y", n, first)
    if n == 0:
        raise DataError("There are no rows to fit.")
    for k, v in inputs.items():
        require(np.isfinite(v), v, k, "must be finite", "drop or repair the row")
        if law.positive:
            require(v > 0, v, k, "must be positive", "drop the row, or correct its unit")
        require_ordinary(v, k)
    _require_y(y, objective)
    weights = np.ones(n) if weights is None else as_column(weights, "weights", n, first)
    valid = np.isfinite(weights) & (weights >= 0)
    require(valid, weights, "weights", "must be zero or positive", "use 0 to leave a row out")
    require_ordinary(weights, "weights")
    if not weights.any():
        raise DataError("weights are all zero: nothing is left to fit.")
    if clusters is not None:
        clusters = label_column(data, clusters, n)
        if len(np.unique(clusters[weights > 0])) < 2:
            raise DataError(
                "all rows are in one cluster: intervals come from how clusters differ, so give several, or leave "
                "clusters= away."
            )
    _require_enough(law, inputs, weights, free)
    return Rows(inputs, y, weights, clusters)


def _require_y(y: np.ndarray, objective: Objective) -> None:
    """Refuses a y of which the objective cannot take residuals."""
    require(np.isfinite(y), y, "y", "must be finite", "drop the row: a diverged run has no place in a fit")
    require_ordinary(y, "y", LARGEST_Y)
    if objective.log:
        rule, way_out = f"must be positive for {objective}", "drop the row or use LeastSquares() on y itself"
        require(y + objective.shift > 0, y, "y", rule, way_out)
        return
    require(np.abs(y) < 1e100, y, "y", f"is too large for {objective}", "divide all of y by a constant")
    if 0 < np.abs(y).max() < 1e-100:
        raise DataError(f"y is below {np.abs(y).max():g} for {objective}: its squares vanish; use a larger unit.")


def _require_enough(law: Law, inputs: Mapping[str, np.ndarray], weights: np.ndarray, free: Sequence[str]) -> None:
    used = weights > 0
    table = np.stack([v[used] for v in inputs.values()], axis=1)
    distinct = len(np.unique(table[: 10 * len(free)], axis=0))
    if distinct < len(free):  # of very many rows the first few mostly tell
        distinct = len(np.unique(table, axis=0))
    if distinct < len(free):
        raise DataError(
            f"{distinct} different points for {len(free)} parameters ({_shortened(free)}) of {law.name!r}: add points, "
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


def _shortened(names: Sequence[str], limit: int = 12) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def evenly(count: int, most: int) -> np.ndarray:
    """Positions of at most `most` of `count` things, evenly among them."""
    return np.linspace(0, count - 1, min(count, most)).astype(int)


def duplicates(inputs: Mapping[str, np.ndarray], y: np.ndarray) -> int:
    """The number of rows that repeat an earlier one exactly."""
    values, of, count = np.unique(y, return_inverse=True, return_counts=True)
    if len(values) == len(y):
        return 0
    shared = count[of] > 1  # sorting whole rows takes long, and few share their y
    table = np.stack([*(v[shared] for v in inputs.values()), y[shared]], axis=1)
    return len(table) - len(np.unique(table, axis=0))


def mistaken_columns(inputs: Mapping[str, np.ndarray], C: np.ndarray | None = None) -> str:
    """A sentence on N, D, C or x that look like logarithms or are in units of their own; "" where they do not."""
    columns = {k: inputs[k] for k in ("N", "D", "x") if k in inputs}
    shown = " and ".join(f"{k} from {v.min():.3g} to {v.max():.3g}" for k, v in columns.items())
    narrow = [v.min() > LOGARITHMS[0] and v.max() < min(LOGARITHMS[1], LOG_SPAN * v.min()) for v in columns.values()]
    if columns and all(narrow) and all(len(np.unique(v)) > 1 for v in columns.values()):
        return f"{shown}: these look like logarithms; if they are, give the values themselves"
    if {"N", "D"} <= set(columns):
        small, large = sorted(("N", "D"), key=lambda k: columns[k].max())
        if columns[small].max() < SMALL and columns[large].min() > LARGE:
            return f"{shown}: {small} looks like a logarithm, or is in millions or billions; give both as counts"
        ratio = np.ones(1) if C is None else C / (6.0 * columns["N"] * columns["D"])
        if ratio.min() < 1 / ODD_COMPUTE or ratio.max() > ODD_COMPUTE:
            low, high = f"{ratio.min():.3g}", f"{ratio.max():.3g}"
            times = f"{low} to {high}" if low != high else f"about {low}"
            return f"C is {times} times 6 N D: are the columns in the same units?"
    return ""


def data_hash(rows: Rows) -> str:
    """Hash of the inputs, y and weights of a fit: 16 hexadecimal digits."""
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
