"""Selection of a law: the one that, fitted to the smaller runs, best predicts the larger ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from scaling_jax.fitting.data import (
    as_column,
    check_positive,
    column_y,
    inputs_of,
    label_column,
    require_same_rows,
    resolve_column,
    scale_column,
)
from scaling_jax.fitting.errors import FitError
from scaling_jax.fitting.fit import Fit, fit
from scaling_jax.fitting.holdout import rows, scale_of
from scaling_jax.fitting.laws.base import Law
from scaling_jax.fitting.laws.registry import find_law, listed
from scaling_jax.fitting.objectives import as_objective
from scaling_jax.fitting.rows import read
from scaling_jax.fitting.solver._levenberg_marquardt import levenberg_marquardt
from scaling_jax.text import table

FRACTIONS = (0.4, 0.5, 0.6, 0.7, 0.8)
CLEARLY = 1.1  # times the error of the best law that the next must make for the choice to be clear
SHRINKAGE = 0.2  # of the exponents of weights, as in inference/mixture.py


@dataclasses.dataclass(frozen=True)
class Candidate:
    """The scores of one law.

    Attributes:
      name: of the law.
      fit: the `Fit` on all training points.
      score: root mean square over nested cuts of the error in ln y above the cut; what laws are ranked by.
      by_cut: RMSLE above each cut.
      aicc: Akaike's criterion, small-sample corrected, on all training points; lower is better.
      test: RMSLE on the points beyond `cut`; shown, never used. nan without such points.
    """

    name: str
    fit: Fit
    score: float
    by_cut: tuple[float, ...]
    aicc: float
    test: float


@dataclasses.dataclass(frozen=True, repr=False)
class Selection:
    """Laws ranked by extrapolation, best first. Made by `select`.

    Attributes:
      candidates: best first.
      cuts: the nested cuts of the scale.
      train: (n,) mask of the training rows.
      test: (n,) mask of the test rows.
      impossible: law -> why it could not be ranked.
    """

    candidates: list[Candidate]
    cuts: tuple[float, ...]
    train: np.ndarray
    test: np.ndarray
    impossible: dict[str, str]

    @property
    def best(self) -> Fit:
        """The `Fit` of the best law on all training points."""
        return self.candidates[0].fit

    @property
    def weights(self) -> dict[str, float]:
        """{law: weight}, sum 1, by the errors above the cuts, shrunk to equal ones since nested cuts are correlated."""
        errors = np.log(np.clip([c.by_cut for c in self.candidates], 1e-6, 1e3))
        relative = np.exp(-SHRINKAGE * (errors - errors.min(axis=0)).sum(axis=1))
        return {c.name: float(w) for c, w in zip(self.candidates, relative / relative.sum())}

    @property
    def decided(self) -> bool:
        """True where the best law beats the next by a tenth on average, and at every cut but one at most."""
        if len(self.candidates) < 2:
            return True
        best, second = (np.log(np.clip(c.by_cut, 1e-6, 1e3)) for c in self.candidates[:2])
        ahead = second - best
        return bool(ahead.mean() > np.log(CLEARLY) and np.sum(ahead <= 0) <= min(1, len(ahead) - 2))

    def __getitem__(self, name: str) -> Candidate:
        for candidate in self.candidates:
            if candidate.name == name:
                return candidate
        raise KeyError(f"{name!r} was not ranked; these were: {', '.join(c.name for c in self.candidates)}")

    def __repr__(self) -> str:
        header = ["law", "parameters", "extrapolation RMSLE", *(f"from {c:.3g}" for c in self.cuts), "AICc"]
        header += ["test RMSLE"] if self.test.any() else []
        cells = [
            [c.name, len(c.fit.params), f"{c.score:.5f}", *(f"{v:.5f}" for v in c.by_cut), f"{c.aicc:.1f}"]
            + ([f"{c.test:.5f}"] if self.test.any() else [])
            for c in self.candidates
        ]
        lines = [table(header, cells), *(f"  {k}: {why}" for k, why in self.impossible.items())]
        if not self.decided:
            first, second = (c.name for c in self.candidates[:2])
            weights = ", ".join(f"{k} {v:.0%}" for k, v in self.weights.items())
            lines.append(
                f"  cannot tell {first} from {second} on these runs (weights {weights}); fitting.forecast averages laws"
            )
        return "\n".join(lines)


def select(
    laws: Sequence,
    data: Mapping,
    y: Any,
    *,
    cut: float | None = None,
    C: Any = None,
    fractions: Sequence[float] = FRACTIONS,
    **options: Any,
) -> Selection:
    """Ranks laws by how well they extrapolate inside the training data.

    The training points are cut at several quantiles of their scale; each law is fitted below a cut and judged on
    all training points above it. Points with C >= `cut` are test points: they take no part in the ranking.

    Args:
      laws: names or `Law`s; each reads its own inputs from `data`.
      data: columns of all inputs.
      y: (n,) positive, or the name of a column.
      cut: scale from which points are test points; None: all points are for training.
      C: (n,) the scale, or the name of a column; None takes 6 N D of the first law that has it, else its single input.
      fractions: of the training points (in order of scale) below each nested cut.
      options: objective=, weights=, fixed= and so on, for `fitting.fit`; the same for all laws.

    Returns:
      `Selection`, `.candidates` best first.

    Raises:
      FitError: no law could be fitted below every cut, or no law was given.

    Example:
      >>> from scaling_jax import fitting
      >>> x = [1, 3, 10, 30, 100, 300, 1000]
      >>> fitting.select(["power", "power_offset"], {"x": x}, [2 + 3 / v**0.5 for v in x]).best.law.name
      'power_offset'
    """
    known = [find_law(law) for law in listed(laws)]
    require_same_rows(data, y=y, C=C, **{k: options.get(k) for k in ("weights", "clusters")})
    as_objective(options.get("objective"))
    y = column_y(data, y)
    scale = _shared_scale(known, data) if C is None else scale_column(data, C, y)
    if len(scale) != len(y):
        raise FitError(f"y has {len(y)} values but the data have {len(scale)} rows; give one y per row.")
    single = not isinstance(fractions, Iterable) or (isinstance(fractions, np.ndarray) and fractions.ndim == 0)
    if (
        single
        or not (fractions := list(fractions))
        or not all(isinstance(f, (int, float, np.number)) and 0 < f < 1 for f in fractions)
    ):
        raise FitError(f"fractions={fractions!r}: give shares of points below a cut, between 0 and 1.")
    train = scale < (np.inf if cut is None else check_positive(cut, "cut", "1e20"))
    if not train.any():
        raise FitError(f"cut={cut:g} leaves no training points: the smallest scale is {scale.min():.3g}")
    weights, clusters = resolve_column(data, options.pop("weights", None), "weights"), options.pop("clusters", None)
    weights = np.ones(y.size) if weights is None else as_column(weights, "weights", y.size, "y")
    clusters = None if clusters is None else label_column(data, clusters, y.size)
    cuts = _nested_cuts(np.sort(scale[train]), fractions)
    ranking = _Ranking(data, y, scale, train, cuts, weights, clusters, options)
    candidates, impossible = [], {}
    for law in known:
        try:
            candidates.append(ranking.candidate(law))
        except FitError as error:
            impossible[law.name] = str(error)
    if not candidates:
        raise FitError("no law could be ranked: " + "; ".join(f"{k}: {v}" for k, v in impossible.items()))
    candidates.sort(key=lambda c: c.score)
    return Selection(candidates=candidates, cuts=cuts, train=train, test=~train, impossible=impossible)


@dataclasses.dataclass(frozen=True, eq=False)
class _Ranking:
    """The runs that laws are ranked on; attributes as the arguments of `select`, `train` (n,) a mask."""

    data: Mapping
    y: np.ndarray
    scale: np.ndarray
    train: np.ndarray
    cuts: tuple[float, ...]
    weights: np.ndarray
    clusters: np.ndarray | None
    options: Mapping[str, Any]

    def candidate(self, law: Law) -> Candidate:
        """Fits the law to all training points and below every cut. Raises FitError where one of them is impossible."""
        inputs, y, scale = inputs_of(law, self.data), self.y, self.scale
        first = self.train & (scale < self.cuts[0])  # refused before time is spent on all points
        free = [k for k in law.params if k not in (self.options.get("fixed") or {})]
        objective = as_objective(self.options.get("objective"))
        read(law, rows(inputs, first), y[first], self.weights[first], None, objective, free)
        on_all = self._fit(law, inputs, self.train)
        by_cut = self._by_cut(on_all, inputs)
        return Candidate(
            name=law.name,
            fit=on_all,
            score=float(np.sqrt(np.mean(np.square(by_cut)))),
            by_cut=by_cut,
            aicc=aicc(on_all),
            test=_rmsle(on_all.law, on_all.params, inputs, y, ~self.train) if not self.train.all() else float("nan"),
        )

    def _by_cut(self, on_all: Fit, inputs: Mapping[str, np.ndarray]) -> tuple[float, ...]:
        """RMSLE above each cut, of refits below them in one batch: the optimum moves little from that of all points."""
        problem, z = on_all.solved("select")
        scale = self.scale[self.train]
        weights = np.stack([np.where(scale < c, problem.weights, 0.0) for c in self.cuts])
        refits, starts = problem.with_data(weights=weights), np.repeat(z[None], len(weights), axis=0)
        ends = levenberg_marquardt(refits, starts, max_steps=200, tolerance=1e-14, widen=0.3)
        params = [problem.params(end) for end in ends.z]
        above = [self.train & (self.scale >= c) for c in self.cuts]
        return tuple(_rmsle(on_all.law, p, inputs, self.y, judged) for p, judged in zip(params, above))

    def _fit(self, law: Law, inputs: Mapping[str, np.ndarray], mask: np.ndarray) -> Fit:
        clusters = None if self.clusters is None else self.clusters[mask]
        options = {"weights": self.weights[mask], "clusters": clusters, **self.options}
        return fit(law, rows(inputs, mask), self.y[mask], **options)


def aicc(fit: Fit) -> float:
    """Akaike's information criterion with the small-sample correction of Hurvich & Tsai 1989.

    Residuals are taken as Gaussian for least squares, as Laplace for LAD and for a Huber whose delta is below their
    median size (where it is LAD in all but name). The noise scale counts as a parameter; infinite when points are
    fewer than parameters + 3. Comparable between laws under one objective only.

    Example:
      >>> from scaling_jax import fitting
      >>> x, y = [1, 2, 4, 8, 16], [8, 4.1, 1.95, 1.02, 0.51]
      >>> fitting.aicc(fitting.fit("power", x, y)) < fitting.aicc(fitting.fit("power_offset", x, y))
      True
    """
    _, _, weights = fit.observed("aicc")
    counts = weights > 0
    r, w = fit.residuals[counts], weights[counts] / weights[counts].mean()
    n, k = r.size, len(fit.params) - len(fit.fixed) + 1
    if n - k - 1 <= 0:
        return float("inf")
    if fit.objective.delta < np.median(np.abs(r)):
        minus_twice = 2 * n * (np.log(2 * max(np.mean(w * np.abs(r)), 1e-300)) + 1)
    else:
        minus_twice = n * (np.log(2 * np.pi * max(np.mean(w * r**2), 1e-300)) + 1)
    return float(minus_twice + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def _rmsle(law: Law, params: Mapping, data: Mapping, y: np.ndarray, judged: np.ndarray) -> float:
    """Root mean square error in ln y; infinite where the law predicts nothing positive."""
    if np.any(y[judged] <= 0):
        raise FitError(f"laws are judged in ln y, and the smallest y is {y[judged].min():g}")
    predicted = law(params, rows(data, judged))
    if not np.all(predicted > 0):
        return float("inf")
    return float(np.sqrt(np.mean((np.log(predicted) - np.log(y[judged])) ** 2)))


def _nested_cuts(scale: np.ndarray, fractions: Sequence[float]) -> tuple[float, ...]:
    """Distinct scales with the given fractions of points strictly below; the largest scale is always judged."""
    cuts = {float(scale[min(int(np.ceil(f * scale.size)), scale.size - 1)]) for f in fractions}
    cuts.discard(float(scale[0]))
    if not cuts:
        raise FitError(
            f"all {scale.size} training points have the scale {scale[0]:g}: there is nothing to extrapolate to"
        )
    return tuple(sorted(cuts))


def _shared_scale(laws: Sequence, data: Mapping) -> np.ndarray:
    reasons = []
    for law in laws:
        try:
            return scale_of(law, data)
        except FitError as error:
            reasons.append(str(error))
    raise FitError(reasons[0])
