"""Rolling origins: every law refitted below several earlier cuts of the same ladder, and judged on the runs above."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scaling_jax.fitting.errors import FitError, FitWarning
from scaling_jax.fitting.fit import Fit, fit
from scaling_jax.fitting.laws.base import Law
from scaling_jax.fitting.laws.registry import find_law
from scaling_jax.fitting.objectives import Objective
from scaling_jax.fitting.rows import duplicates, evenly, mistaken_columns
from scaling_jax.fitting.solver._levenberg_marquardt import levenberg_marquardt

STARTS = 8  # of the fit of all rows; refits below a cut start at its optimum
CUTS = 8  # inner cuts at most
LEVEL_RATIO = 1.35  # scales nearer than this count as one level of the ladder
MIN_ROWS, MIN_LEVELS, MIN_SHARE = 6, 2, 0.02  # below an inner cut
RECENCY = 1.5  # power of the scale that weighs the rows of a fit
LARGEST_ROWS, LARGEST_SHARE = 12, 0.1  # of the largest runs, which have equal weight
RESAMPLES = 60
ROWS = 4096  # more rows than this are thinned, evenly along the scale
SPARE_ROWS = 2  # different runs beyond the number of parameters that a law must have to take part


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A law that may take part: its label, the `Law`, and what is fixed in it."""

    name: str
    law: Law
    fixed: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def free(self) -> int:
        """Number of fitted parameters."""
        return len(self.law.params) - len(self.fixed)


def candidate(entry: Any) -> Candidate:
    """The `Candidate` of a name, a `Law`, or a pair of either and {parameter: fixed value}. Raises FitError."""
    name: Any = entry
    fixed: Any = {}
    if isinstance(entry, tuple) and len(entry) == 2:
        name, fixed = entry
    law = find_law(name)
    if not (isinstance(fixed, Mapping) and all(isinstance(v, (int, float, np.number)) for v in fixed.values())):
        raise FitError(f"laws: the fixed parameters of {law.name} are {fixed!r}; give a dict of numbers.")
    return Candidate(law.name + "".join(f", {k}={v:g}" for k, v in fixed.items()), law, fixed)


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Checked rows: inputs {name: (n,)}, y, weights, scale (n,), and cluster labels (n,) or None.

    `worth` is how many independent runs each row counts as, (n,): less than 1 in a cluster.
    """

    inputs: dict[str, np.ndarray]
    y: np.ndarray
    weights: np.ndarray
    scale: np.ndarray
    labels: np.ndarray | None
    worth: np.ndarray

    def rows(self, index: np.ndarray) -> Ladder:
        """The chosen rows; labels keep their numbers."""
        inputs = {k: v[index] for k, v in self.inputs.items()}
        labels = None if self.labels is None else self.labels[index]
        return Ladder(inputs, self.y[index], self.weights[index], self.scale[index], labels, self.worth[index])


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One law fitted to the whole ladder, below each cut, and to resamples.

    Attributes:
      candidate: the law.
      fit: the `Fit` of all rows.
      cuts: parameters below each cut; None where too few rows are left.
      samples: {parameter: (r,)} of the resamples.
    """

    candidate: Candidate
    fit: Fit
    cuts: tuple[dict[str, float] | None, ...]
    samples: dict[str, np.ndarray]

    def log(self, params: Mapping, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """ln of the law, nan where it is not positive: (m,) for parameters that are numbers, (r, m) for arrays (r,)."""
        columns = {k: v[:, None] if np.ndim(v) else v for k, v in params.items()}
        with np.errstate(all="ignore"):
            value = np.log(self.candidate.law(columns, inputs))
        return np.where(np.isfinite(value), value, np.nan)


def recency_weights(scale: np.ndarray, worth: np.ndarray | None = None, power: float = RECENCY) -> np.ndarray:
    """(n,) weights min(scale / s, 1)^power: large runs are more informative about still larger ones.

    No law is exact over many decades, so a fit that weighs all rows alike errs where it is asked. On the public ladders
    this halves the error of forecasts and of N*; see benchmarks/extrapolation.md. The largest runs weigh alike, a tenth
    of all and at least 12 independent ones, so that no few decide; so do all runs of a smaller ladder.

    Args:
      scale: (n,) scale of each run.
      worth: (n,) independent runs that each row counts as, 1 by default; less for the runs of a cluster.
      power: of the scale.
    """
    order = np.argsort(-scale, kind="stable")
    total = np.cumsum(np.ones(scale.size) if worth is None else worth[order])
    wanted = max(LARGEST_ROWS, LARGEST_SHARE * total[-1]) * (1 - 1e-9)
    last = min(int(np.searchsorted(total, wanted)), scale.size - 1)
    return np.minimum(scale / scale[order[last]], 1.0) ** power


def thinned(ladder: Ladder) -> tuple[Ladder, list[str]]:
    """At most `ROWS` rows of the ladder, and what is odd about its rows, in sentences."""
    n, notes = len(ladder.y), []
    if same := duplicates(ladder.inputs, ladder.y):
        notes.append(f"{same} of {n} rows repeat an earlier row exactly: each is counted as a separate run")
    if mistaken := mistaken_columns(ladder.inputs, ladder.scale):
        notes.append(mistaken)
    if n <= ROWS:
        return ladder, notes
    order = np.argsort(ladder.scale, kind="stable")
    kept = np.sort(order[evenly(n, ROWS)])
    return ladder.rows(kept), [*notes, f"{n} rows were thinned to {ROWS}, evenly along the scale"]


def levels(scale: np.ndarray) -> np.ndarray:
    """Ascending scales that differ by more than a third: the rungs of the ladder."""
    found = [float(scale.min())]
    for value in np.sort(scale):
        if value > found[-1] * LEVEL_RATIO:
            found.append(float(value))
    return np.array(found)


def inner_cuts(scale: np.ndarray) -> tuple[float, ...]:
    """Scales to cut at, ascending: rungs with enough rows and rungs below, evenly spaced when there are many.

    The lowest handful of a thousand rows says how a fit of a handful errs, not how one of a thousand does: of many rows
    a share must be below.
    """
    rungs, least = levels(scale), max(MIN_ROWS, MIN_SHARE * scale.size)
    usable = [c for c in rungs[MIN_LEVELS:] if np.sum(scale < c * (1 - 1e-9)) >= least]
    if len(usable) > CUTS:
        usable = [usable[i] for i in np.unique(np.round(np.linspace(0, len(usable) - 1, CUTS)).astype(int))]
    return tuple(float(c) * (1 - 1e-9) for c in usable)


def members(
    candidates: Sequence[Candidate], ladder: Ladder, cuts: Sequence[float], objective: Objective, seed: int
) -> tuple[list[Member], dict[str, str]]:
    """Fits every candidate to the ladder, below each cut, and to resamples.

    Args:
      candidates: laws to fit.
      ladder: rows.
      cuts: scales; the refit at a cut sees only the rows below it.
      objective: of all fits.
      seed: of starts and resamples.

    Returns:
      The members, and {law: why it could not take part} of the others.
    """
    found, impossible = [], {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # a refit that did not converge is one forecast that went wrong
        for candidate in candidates:
            try:
                full = fit_rows(candidate, ladder, objective, seed, STARTS)
                found.append(
                    Member(candidate, full, _params_below(candidate, full, ladder, cuts), _samples(full, seed))
                )
            except FitError as error:
                impossible[candidate.name] = str(error)
    return found, impossible


def fit_rows(
    candidate: Candidate, ladder: Ladder, objective: Objective, seed: int, starts: int | list, recent: bool = True
) -> Fit:
    """The `Fit` of a candidate to a ladder, with `recency_weights` where `recent`.

    Raises:
      FitError: too few different runs for its parameters.
    """
    distinct = _distinct(candidate, ladder)
    if distinct < candidate.free + SPARE_ROWS:
        raise FitError(f"{distinct} different runs for {candidate.free} parameters")
    labels = ladder.labels
    if labels is not None and len(np.unique(labels)) < 2:
        labels = None
    return fit(
        candidate.law,
        {k: ladder.inputs[k] for k in candidate.law.inputs},
        ladder.y,
        objective,
        weights=ladder.weights * recency_weights(ladder.scale, ladder.worth) if recent else ladder.weights,
        fixed=dict(candidate.fixed) or None,
        clusters=labels,
        seed=seed,
        starts=starts,
    )


def _params_below(
    candidate: Candidate, full: Fit, ladder: Ladder, cuts: Sequence[float]
) -> tuple[dict[str, float] | None, ...]:
    """Parameters refitted below each cut, all in one batch from the optimum of all rows."""
    enough = [_distinct(candidate, ladder.rows(ladder.scale < c)) >= candidate.free + SPARE_ROWS for c in cuts]
    used = [c for c, ok in zip(cuts, enough) if ok]
    if not used:
        return (None,) * len(cuts)
    problem, z = full.solved("a forecast")
    weights = np.zeros((len(used), problem.n))
    for row, cut in zip(weights, used):
        below = ladder.scale < cut
        row[below] = ladder.weights[below] * recency_weights(ladder.scale[below], ladder.worth[below])
    below_cuts, starts = problem.with_data(weights=weights), np.repeat(z[None], len(used), axis=0)
    ends = levenberg_marquardt(below_cuts, starts, max_steps=200, tolerance=1e-9, widen=0.3)
    params = problem.constrained(ends.z)
    found = iter([{k: float(v[i]) for k, v in params.items()} for i in range(len(used))])
    return tuple(next(found) if ok else None for ok in enough)


def _distinct(candidate: Candidate, ladder: Ladder) -> int:
    """Number of different rows in the inputs of a law."""
    return len(np.unique(np.stack([ladder.inputs[k] for k in candidate.law.inputs], axis=1), axis=0))


def _samples(full: Fit, seed: int) -> dict[str, np.ndarray]:
    """Parameters refitted to resamples: signs of whole clusters where they are too few to be drawn."""
    few = full.clusters is not None and len(np.unique(full.clusters)) < 2 * len(full.free)
    boot = full.bootstrap(RESAMPLES, seed=seed, method="wild" if few else "pairs")
    return full.coordinates("a forecast")[0].constrained(boot.coordinates)
