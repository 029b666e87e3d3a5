"""Are some runs off what the others say? Mean-shift tests in the linearized law, with noise shared along trunks.

A group of runs that is off the law by a common factor adds one column to the linearized regression of ln y on the
parameters; the t statistic of its coefficient compares the shift with the scatter of all other runs and with how well
they determine the law where the group is (the mean-shift outlier model, Cook & Weisberg 1982, section 2.2.2). The
covariance of the residuals has a component per trunk and one per run, both estimated from seeds where there are some.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

STEP = 1e-4  # relative, of the central differences
RANK = 1e-6  # of singular values: below, the runs do not determine that direction of the parameters
UNKNOWN = 1e-4  # share of a gradient in such directions
FLOOR = 1e-4  # standard deviation of ln y below which differences are rounding of what was written down


@dataclasses.dataclass(frozen=True)
class Shift:
    """The shift of a group of runs against the law.

    Attributes:
      size: of ln y against what the other runs say.
      stderr: of the size, from the scatter of the others.
      p: two-sided probability of such a shift by chance.
    """

    size: float
    stderr: float
    p: float


@dataclasses.dataclass(frozen=True)
class Noise:
    """Variance of ln y between seeds.

    Attributes:
      trunk: shared by all branches of a trunk; run: of a single run.
      freedom: degrees of freedom it is estimated with; 0 where there are no seeds.
    """

    trunk: float
    run: float
    freedom: int

    @property
    def total(self) -> float:
        """Standard deviation of ln y of one run."""
        return float(np.sqrt(self.trunk + self.run))


class Linearized:
    """The law linearized at its fit, whitened by the noise of the runs.

    Args:
      fit: a `fitting.Fit` of a law of y > 0.
      inputs: of the law, name -> (n,).
      chosen: runs with scale, seed, D, trunk and y.
    """

    def __init__(self, fit, inputs: dict[str, np.ndarray], chosen: pd.DataFrame):
        self.chosen = chosen
        self.predicted = np.asarray(fit.predict(inputs), float)
        self.residuals = np.log(chosen.y.to_numpy(float)) - np.log(self.predicted)
        self.noise = seed_components(self.residuals, chosen)
        self.jacobian = _jacobian(fit, inputs)
        self._trunk = pd.factorize(chosen.trunk, use_na_sentinel=False)[0]
        self._r = self._whiten(self.residuals, self._trunk)
        self._J = self._whiten(self.jacobian, self._trunk)
        self._Q, _ = np.linalg.qr(self._J)
        self._left = self._r - self._Q @ (self._Q.T @ self._r)

    @property
    def freedom(self) -> int:
        """Trunks beyond the parameters, which is what shared noise leaves; at least 3."""
        n, p = self.jacobian.shape
        if self.noise.freedom == 0:
            return max(n - p - 1, 1)
        return int(np.clip(self.chosen.trunk.nunique() - 2, 3, max(n - p - 1, 3)))

    def shift(self, members: np.ndarray) -> Shift | None:
        """The common shift of the runs in a mask (or of a weighted column); None where the others cannot tell.

        Args:
          members: (n,) booleans, or numbers: the shift of run i is size x members[i].
        """
        members = np.asarray(members, float)
        at = np.flatnonzero(members)
        if self.noise.trunk:  # whitening mixes the runs of a trunk
            at = np.flatnonzero(np.isin(self._trunk, self._trunk[at]))
        column = self._whiten(members[at], self._trunk[at])
        along = self._Q[at].T @ column
        whole = float(column @ column)
        length = whole - float(along @ along)  # of what the parameters cannot follow
        if length <= 1e-6 * whole or len(self._r) <= self._J.shape[1] + 1:
            return None
        shared = float(column @ self._left[at])
        size = shared / length
        variance = max(float(self._left @ self._left) - shared * size, 0.0) / (len(self._left) - self._J.shape[1] - 1)
        if self.noise.freedom:  # what seeds scatter by is there whatever the others do
            variance = max(variance, 1.0)
        from scipy.special import stdtr  # takes long to import, and training needs none of it

        stderr = float(np.sqrt(variance / length))
        t = abs(size) / max(stderr, FLOOR)
        return Shift(size, stderr, float(2 * stdtr(self.freedom, -t)))

    def extrapolation(self, held: np.ndarray) -> float:
        """Standard error of the mean of ln y - ln f over held-out runs, where the law is fitted to the others alone.

        Noise of the held-out runs and of the fit, as trunks share it (Draper & Smith 1998, section 5.3, linearized);
        infinite where the others leave a direction open in which the held-out runs are.

        Args:
          held: (n,) booleans.
        """
        kept = ~held
        if not held.any() or kept.sum() <= self.jacobian.shape[1]:
            return float("inf")
        scale = np.linalg.norm(self.jacobian[kept], axis=0) + 1e-300
        J, ahead = self.jacobian[kept] / scale, self.jacobian[held].mean(axis=0) / scale
        inverse = np.linalg.pinv(J, rcond=RANK)
        if np.linalg.norm(ahead - ahead @ inverse @ J) > UNKNOWN * np.linalg.norm(ahead):
            return float("inf")
        weight = np.where(held, 1.0 / held.sum(), 0.0)
        weight[kept] = -ahead @ inverse
        by_trunk = np.bincount(self._trunk, weight)
        return float(np.sqrt(self.noise.run * weight @ weight + self.noise.trunk * by_trunk @ by_trunk))

    def misfit(self) -> tuple[float, float]:
        """(mean square of the whitened residuals per degree of freedom, its probability under noise alone)."""
        from scipy.special import fdtrc

        n, p = self.jacobian.shape
        free = max(n - p, 1)
        ratio = float(self._left @ self._left) / free
        return ratio, float(fdtrc(free, max(self.noise.freedom, 1), ratio))

    def _whiten(self, values: np.ndarray, trunk: np.ndarray) -> np.ndarray:
        """(n, ...) values by the symmetric root of the inverse covariance: noise of each run, and of its trunk (n,)."""
        run = max(self.noise.run, FLOOR**2)
        if not self.noise.trunk:
            return values / np.sqrt(run)
        sizes = np.maximum(np.bincount(trunk), 1)
        share = (1.0 - np.sqrt(run / (run + sizes * self.noise.trunk))) / sizes
        sums = np.zeros((len(sizes), *values.shape[1:]))
        np.add.at(sums, trunk, values)
        return (values - (sums.T * share).T[trunk]) / np.sqrt(run)


def seed_components(residuals: np.ndarray, chosen: pd.DataFrame) -> Noise:
    """Variances between and within trunks, from seeds at equal (scale, D); from the misfit where there are none.

    Seeds are compared with their own cell only, so the law's misfit does not enter. One wild run counts little: where
    the pooled deviation is far above the typical one, the typical one is taken.
    """
    frame = pd.DataFrame(
        {"r": residuals, "scale": chosen.scale.to_numpy(), "D": chosen.D.to_numpy(), "trunk": chosen.trunk.to_numpy()}
    )
    cells = frame.groupby(["scale", "D"], dropna=False).r
    size = cells.transform("size")
    frame = frame[size > 1].assign(e=(frame.r - cells.transform("mean"))[size > 1])
    freedom = int(len(frame) - frame.groupby(["scale", "D"], dropna=False).ngroups) if len(frame) else 0
    if freedom < 1:
        spread = 1.4826 * float(np.median(np.abs(residuals - np.median(residuals)))) if len(residuals) else 0.0
        return Noise(0.0, max(spread, FLOOR) ** 2, 0)
    seeds = frame.groupby(["scale", "D"], dropna=False).e.transform("size")
    inflate = np.sqrt(seeds / (seeds - 1))
    total = float((frame.e**2).sum() / freedom)
    typical = (1.4826 * float(np.median(np.abs(frame.e * inflate)))) ** 2
    if total > 4 * typical > 0:
        total = typical
    means = frame.groupby(["scale", "trunk"]).e.agg(["mean", "size"])
    scales = means.groupby(level=0)["mean"].agg(["size"])["size"]
    free = int((scales - 1).clip(lower=0).sum())
    branches = float(means["size"].mean())
    if free < 1 or branches <= 1:
        return Noise(0.0, max(total, FLOOR**2), freedom)
    between = float((means["mean"] ** 2).sum() / free)
    if between > 4 * typical > 0:
        between = min(between, typical)
    trunk = float(np.clip((between - total / branches) / (1 - 1 / branches), 0, total))
    return Noise(trunk, max(total - trunk, FLOOR**2), free if trunk > 0.2 * total else freedom)


def _jacobian(fit, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """(n, p) derivatives of ln f by the free parameters, by central differences; parameters without effect left out."""
    columns = []
    for name in fit.law.params:
        if name in fit.fixed:
            continue
        value = fit.params[name]
        step = STEP * abs(value) if value else STEP
        with np.errstate(all="ignore"):
            up, down = (np.log(fit.law({**fit.params, name: value + s * step}, inputs)) for s in (1, -1))
            slope = (up - down) / 2 * (abs(value) / step if value else 1.0)
        if np.all(np.isfinite(slope)) and np.max(np.abs(slope)) > 1e-12:
            columns.append(slope)
    return np.column_stack(columns) if columns else np.zeros((len(fit.y), 0))


def adjusted(shifts: Sequence[Shift | None]) -> list[float]:
    """Bonferroni-adjusted probabilities of the shifts that could be tested; 1 for the others."""
    tested = sum(s is not None for s in shifts)
    return [min(1.0, s.p * tested) if s is not None else 1.0 for s in shifts]
