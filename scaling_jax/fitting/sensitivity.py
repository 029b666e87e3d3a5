"""How much a fit depends on the analyst's choices: objective, outliers and how parameters are counted."""

from __future__ import annotations

import dataclasses
import itertools
import warnings as python_warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scaling_jax.fitting.data import as_column, check_positive
from scaling_jax.fitting.errors import FitError, FitWarning
from scaling_jax.fitting.fit import Fit
from scaling_jax.fitting.fit import fit as refit
from scaling_jax.fitting.inference.influence import influence
from scaling_jax.fitting.laws.base import Law
from scaling_jax.fitting.objectives import LAD, Huber, LeastSquares, Objective
from scaling_jax.fitting.rows import evenly
from scaling_jax.text import short, table

REFIT_ROWS = 20_000


@dataclasses.dataclass(frozen=True, repr=False)
class Sensitivity:
    """One fit per combination of choices. Made by `sensitivity`.

    Attributes:
      rows: dicts with "objective", "converged", "points", "N" (the convention), "params", "a" (None where the law has
        no such exponent) and "frontier" (N*, D*, loss at the target; None where there is none).
      target: that compute.
    """

    rows: list[dict]
    target: float | None

    def size_ratio(self) -> float | None:
        """Largest over smallest N* at the target over all rows that have one."""
        sizes = [row["frontier"]["N"] for row in self.rows if row["frontier"]]
        sizes = [size for size in sizes if 0 < size < np.inf]
        return max(sizes) / min(sizes) if sizes else None

    def __repr__(self) -> str:
        counted = len({row["N"] for row in self.rows}) > 1
        exponent = self.rows[0]["a"] is not None
        header = ["objective", "points"] + ["N"] * counted + list(self.rows[0]["params"]) + ["a"] * exponent
        header += [f"N* at {self.target:.3g}", "D*", "y*"] if self.target else []
        cells = []
        for row in self.rows:
            objective = row["objective"].removesuffix(", SUM over points")
            cell = [objective + ("" if row["converged"] else " NOT CONVERGED"), row["points"]] + [row["N"]] * counted
            cell += [f"{v:.4g}" for v in row["params"].values()]
            cell += [f"{row['a']:.4f}"] if exponent else []
            if self.target:
                at = row["frontier"]
                cell += [short(at["N"]), short(at["D"]), f"{at['loss']:.4f}"] if at else ["", "", ""]
            cells.append(cell)
        return table(header, cells)


def sensitivity(
    fit: Fit,
    *,
    objectives: Sequence | None = None,
    conventions: Mapping[str, np.ndarray] | None = None,
    target: float | None = None,
    inputs: Mapping | None = None,
) -> Sensitivity:
    """Refits under other objectives, without the influential points, and with other ways to count parameters.

    The refits start from the optimum of the fit where that is safe (see `starts_near`), and are to `REFIT_ROWS` points,
    evenly among all, where there are more: choices differ by more than such a sample.

    Args:
      fit: a `Fit` with its data; its own choices are the first row.
      objectives: None takes the fit's own, Huber(1e-3), LAD and least squares in ln y (or in y, if the fit is).
      conventions: name -> (n,) values that replace N, e.g. {"total": ..., "non-embedding": ...}.
      target: compute at which the frontier is compared; None takes ten times the largest of the data, where the
        law has a frontier.
      inputs: further inputs of the law at that target, as for `Fit.frontier`.

    Example:
      >>> import numpy as np
      >>> from scaling_jax import fitting
      >>> N, D = (v.ravel() for v in np.meshgrid(np.logspace(7, 9, 4), np.logspace(9, 11, 4)))
      >>> loss = 1.7 + 480 / N**0.35 + 2100 / D**0.37
      >>> fit = fitting.fit("chinchilla", {"N": N, "D": D}, loss)
      >>> round(fitting.sensitivity(fit).size_ratio(), 3)
      1.0
    """
    data, y, _ = fit.observed("sensitivity")
    _check_choices(fit, objectives, conventions)
    if target is not None:
        check_positive(target, "target", "1e22")
    elif (compute := fit.law.compute(data)) is not None:
        target = 10 * float(np.max(compute))
    log = fit.objective.log
    if objectives is None:
        objectives = [fit.objective, Huber(1e-3, log=log), LAD(log=log), LeastSquares(log=log)]
    unique = {str(o): o for o in objectives}
    counts = {"as fitted": None, **{k: as_column(v, k, len(y), "y") for k, v in (conventions or {}).items()}}
    rows = []
    for (convention, sizes), (points, mask), (name, objective) in itertools.product(
        counts.items(), _subsets(fit).items(), unique.items()
    ):
        one = fit
        if sizes is not None or not mask.all() or objective != fit.objective:
            columns = data if sizes is None else _counted(fit.law, data, sizes)
            one = refit_near(fit, columns, np.flatnonzero(mask), objective)
        rows.append(
            {
                "objective": name,
                "converged": one.converged,
                "points": points,
                "N": convention,
                "params": dict(one.params),
                "a": one.exponents.get("a"),
                "frontier": _frontier_at(one, target, inputs),
            }
        )
    return Sensitivity(rows=rows, target=target if any(row["frontier"] for row in rows) else None)


def starts_near(fit: Fit) -> list[dict[str, float]] | None:
    """The optimum of a fit as the only start of a refit to similar data; None, for a wide search, where that is unsafe.

    A start is followed wherever it leads, also out of the usual range that the fit kept to, and a parameter at which a
    term leaves the law has no way back.
    """
    if fit.certificate.lower_outside is not None:
        return None
    if not all(np.isfinite(value) and value != 0 for value in fit.params.values()):
        return None
    return [dict(fit.params)]


def _check_choices(fit: Fit, objectives: Any, conventions: Any) -> None:
    if objectives is not None and not objectives:
        raise FitError(
            "objectives is empty: name at least one, e.g. [fitting.Huber(1e-3)], or None for the default ones."
        )
    if not isinstance(conventions or {}, Mapping):
        raise FitError(
            f"conventions={type(conventions).__name__}: give a dict of names and columns, e.g. {{'total': N}}."
        )
    if conventions and "N" not in fit.law.inputs:
        raise FitError(f"conventions replace N, and {fit.law.name} takes {', '.join(fit.law.inputs)}")


def _subsets(fit: Fit) -> dict[str, np.ndarray]:
    """{name: (n,) mask}: all points, and those without the influential ones where there are any."""
    everything = np.ones(fit.y.size, bool)
    flagged = influence(fit, refits=0).flagged
    if not flagged.size:
        return {f"all {fit.y.size}": everything}
    kept = everything.copy()
    kept[flagged] = False
    return {f"all {fit.y.size}": everything, f"without {flagged.size} influential": kept}


def refit_near(fit: Fit, data: Mapping[str, np.ndarray], chosen: np.ndarray, objective: Objective) -> Fit:
    """The law of `fit` through chosen points of `data` (their positions), under another objective.

    Of more than `REFIT_ROWS` points so many are taken, evenly among them. Warnings are not given: the fit has them.

    Raises:
      FitError: too few points.
    """
    chosen = chosen[evenly(len(chosen), REFIT_ROWS)]
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore", FitWarning)
        return refit(
            fit.law,
            {k: v[chosen] for k, v in data.items()},
            fit.y[chosen],
            objective,
            weights=fit.weights[chosen],
            fixed=fit.fixed or None,
            seed=fit.seed,
            starts=starts_near(fit),
        )


def _counted(law: Law, data: Mapping[str, np.ndarray], sizes: np.ndarray) -> dict:
    """The data with N counted otherwise and the tokens as they are, also where the law takes M = D / N."""
    if law.from_nd is None:
        return {**data, "N": sizes}
    _, tokens = law.nd(data) or (None, data["D"])
    return law.from_nd({"N": sizes, "D": tokens})


def _frontier_at(fit: Fit, target: float | None, inputs: Mapping | None) -> dict | None:
    if target is None:
        return None
    try:
        at = fit.frontier(target, inputs=inputs)
    except FitError:
        return None
    return {k: float(np.squeeze(getattr(at, k))) for k in ("N", "D", "loss")}
