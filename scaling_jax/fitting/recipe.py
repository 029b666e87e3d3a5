"""One training recipe in a comparison: its runs, and the loss it reaches with each compute."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scaling_jax.fitting.data import as_column, column_of, label_column, names_of, require_same_rows, resolve_column
from scaling_jax.fitting.errors import DataError
from scaling_jax.fitting.inference import posterior
from scaling_jax.fitting.rows import evenly

ROWS = 512
SAME = 0.02  # difference of ln N, ln D or ln C up to which runs of two recipes are of one size
APART = 0.15  # scatter of ln N about its line in ln C, above which runs show more than one N for a compute
ENOUGH_ND = 8  # runs that E, A, B, alpha, beta need at least
EXPONENTS = (1e-3, 3.0)
SIZE = (1e-9, 2.0)  # of a term at the center of the runs, in mean losses


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """Checked runs of one recipe.

    Attributes:
      C: (n,) compute.
      y: (n,) loss.
      N: (n,) parameters where N and D vary independently; else None, and the law is one of C alone.
      D: (n,) tokens, or None as N.
      clusters: (n,) labels 0, 1, ... of runs that share noise, or None.
      given: how many runs these were taken from, where they were thinned.
    """

    C: np.ndarray
    y: np.ndarray
    N: np.ndarray | None
    D: np.ndarray | None
    clusters: np.ndarray | None
    given: int = 0

    def thinned(self) -> Recipe:
        """At most `ROWS` runs, evenly along compute: sampling with more takes minutes and tells no more."""
        if len(self.C) <= ROWS:
            return self
        kept = np.sort(np.argsort(self.C, kind="stable")[evenly(len(self.C), ROWS)])
        N, D, clusters = (v if v is None else v[kept] for v in (self.N, self.D, self.clusters))
        labels = None if clusters is None else np.unique(clusters, return_inverse=True)[1]
        return Recipe(self.C[kept], self.y[kept], N, D, labels, len(self.C))

    @property
    def parameters(self) -> int:
        """3 parameters E, K, gamma; or 5: E, A, B, alpha, beta. Sizes are of terms at the center, in mean losses."""
        return 3 if self.N is None else 5

    def bounds(self) -> tuple[list[float], list[float]]:
        """Ends of the flat prior of the parameters but E."""
        terms = (self.parameters - 1) // 2
        return [SIZE[0]] * terms + [EXPONENTS[0]] * terms, [SIZE[1]] * terms + [EXPONENTS[1]] * terms

    def terms(self, z: np.ndarray) -> np.ndarray:
        """(b, terms, n) the factor of each size at the runs, for parameters z (b, p)."""
        exponents = z[:, 1 + len(self._centered) :]
        return self.y.mean() * np.exp(-exponents[:, :, None] * self._centered)

    @functools.cached_property
    def _centered(self) -> np.ndarray:
        """(terms, n) logarithms of the inputs of the terms, around their means."""
        x = np.log([self.C] if self.N is None or self.D is None else [self.N, self.D])
        return x - x.mean(axis=1, keepdims=True)

    @functools.cached_property
    def _log_y(self) -> np.ndarray:
        return np.log(self.y)

    def residuals(self, z: np.ndarray) -> np.ndarray:
        """(b, n) ln y - ln of the law."""
        k = (self.parameters - 1) // 2
        with np.errstate(all="ignore"):
            law = z[:, :1] + (z[:, 1 : 1 + k, None] * self.terms(z)).sum(axis=1)
            return self._log_y - np.log(law)

    def loss(self, z: np.ndarray, C: np.ndarray) -> np.ndarray:
        """(b, len(C)) the loss that each compute reaches at its best N and D."""
        level, slope = self._excess(z)
        with np.errstate(over="ignore"):
            return z[:, :1] + np.exp(level - slope * (np.log(C) - np.log(self.C).mean()))

    def log_compute(self, z: np.ndarray, loss: np.ndarray) -> np.ndarray:
        """(b, m) ln of the compute that reaches `loss` (b, m); inf where none does."""
        level, slope = self._excess(z)
        with np.errstate(all="ignore"):
            above = np.log(np.maximum(loss - z[:, :1], 0.0))
            return np.log(self.C).mean() + (level - above) / slope

    def optimum(self, z: np.ndarray, C: float) -> tuple[float, float] | None:
        """(N, D) at which `loss` reaches its value at compute C, medians over samples; None for a law of C alone."""
        if self.N is None or self.D is None:
            return None
        best_n, log_nd, _ = self._center(z)
        alpha, beta = z[:, 3:4], z[:, 4:5]
        farther = np.log(C) - np.log(self.C).mean()
        log_n = float(np.median(best_n + beta / (alpha + beta) * farther))
        return float(np.exp(log_n)), float(np.exp(log_nd + farther - log_n))

    def _excess(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(b, 1) ln of the loss above E at the center of ln C, and how fast it falls with ln C."""
        if self.N is None or self.D is None:
            return np.log(z[:, 1:2] * self.y.mean()), z[:, 2:3]
        alpha, beta = z[:, 3:4], z[:, 4:5]
        return self._center(z)[2], alpha * beta / (alpha + beta)

    def _center(self, z: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
        """At the center of ln C: ln N* (b, 1), ln(N D) that it buys, and ln of the loss above E (b, 1)."""
        assert self.N is not None and self.D is not None
        a, b, alpha, beta = (z[:, i : i + 1] for i in range(1, 5))
        n, d, c = (np.log(v).mean() for v in (self.N, self.D, self.C))
        log_nd = float(c - np.mean(np.log(self.C) - np.log(self.N) - np.log(self.D)))
        log_A, log_B = (np.log(size * self.y.mean()) + e * at for size, e, at in ((a, alpha, n), (b, beta, d)))
        best_n = (np.log(alpha) + log_A - np.log(beta) - log_B + beta * log_nd) / (alpha + beta)
        return best_n, log_nd, np.logaddexp(log_A - alpha * best_n, log_B - beta * (log_nd - best_n))


def read_recipe(name: str, recipe: Sequence, clusters: ArrayLike | str | None) -> Recipe:
    """Checks the runs of one recipe of `compare`.

    Args:
      name: of the recipe, for messages.
      recipe: (data, y).
      clusters: labels, the name of a column of data, or None.

    Raises:
      DataError: no compute, values that are not positive, or too few runs.
    """
    if isinstance(recipe, (str, bytes)) or not isinstance(recipe, Sequence) or len(recipe) != 2:
        raise DataError(f"recipe {name!r} must be a pair (data, loss), e.g. ({{'C': flops}}, loss).")
    data, y = recipe
    require_same_rows(data, y=y, clusters=clusters)
    y = _positive(as_column(resolve_column(data, y, "y"), f"y of {name}"), f"y of {name}")
    known = names_of(data)
    x = {k: _column(data, k, name, len(y)) for k in ("C", "x", "N", "D") if known is not None and k in known}
    if known is None:
        x = {"C": _positive(as_column(data, f"C of {name}", len(y), "y"), f"C of {name}")}
    both = "N" in x and "D" in x
    if "C" not in x and "x" in x:
        x["C"] = x["x"]
    if "C" not in x and both:
        x["C"] = 6.0 * x["N"] * x["D"]
    if "C" not in x:
        raise DataError(f"recipe {name!r} has no compute: its data needs 'C', or 'N' and 'D'; it has {known}.")
    labels = None
    if clusters is not None:
        labels = label_column(data, resolve_column(data, clusters, "clusters"), len(y), f"clusters of {name}")
        if len(np.unique(labels)) == len(labels):
            labels = None  # nothing is shared, and sampling a share takes the square of the runs
    log_C = np.log(x["C"])
    distinct = len(np.unique(log_C))
    if distinct < 3:
        raise DataError(f"recipe {name!r} has runs at {distinct} different compute budgets; three are the least.")
    N, D = (x["N"], x["D"]) if both and len(y) >= ENOUGH_ND and _apart(np.log(x["N"]), log_C) else (None, None)
    if N is None and np.polyfit(log_C, np.log(y), 1)[0] > 0:
        raise DataError(f"y of {name} rises with compute; give a loss, or 1 - y of an accuracy.")
    return Recipe(x["C"], y, N, D, labels)


def sample_pair(first: Recipe, second: Recipe, floor: str | float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Posterior samples (s, p) of the parameters of two recipes whose noise of ln y has one size.

    Args:
      first: one recipe.
      second: the other.
      floor: "shared", "free", or a number.
      seed: of the sampling.
    """
    p, q = first.parameters, second.parameters
    top = max(float(first.y.max()), float(second.y.max()))
    floors = {"shared": 1, "free": 2}.get(floor, 0) if isinstance(floor, str) else 0
    lower = np.array([0.0] * floors + first.bounds()[0] + second.bounds()[0])
    upper = np.array([top] * floors + first.bounds()[1] + second.bounds()[1])

    def split(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if floors == 0:
            E = np.full((len(z), 2), float(floor))
        else:
            E = z[:, [0, floors - 1]]
        terms = z[:, floors:]
        return np.hstack([E[:, :1], terms[:, : p - 1]]), np.hstack([E[:, 1:], terms[:, p - 1 :]])

    def residuals(z: np.ndarray) -> np.ndarray:
        a, b = split(z)
        return np.hstack([first.residuals(a), second.residuals(b)])

    def guess(z: np.ndarray) -> np.ndarray:
        """Sizes (and floors) by linear least squares, given the exponents."""
        a, b = split(z)
        basis_a, basis_b = first.terms(a), second.terms(b)
        n, m, k, l = len(first.y), len(second.y), (p - 1) // 2, (q - 1) // 2
        basis = np.zeros((len(z), floors + k + l, n + m))
        basis[:, floors : floors + k, :n], basis[:, floors + k :, n:] = basis_a, basis_b
        if floors:
            basis[:, 0, :n], basis[:, floors - 1, n:] = 1.0, 1.0
        y = np.concatenate([first.y, second.y])
        above = y if floors else y - float(floor)
        scaled, target = basis / y, above / y
        gram = scaled @ scaled.transpose(0, 2, 1) + 1e-10 * np.eye(basis.shape[1])
        solved = np.linalg.solve(gram, (scaled @ target)[:, :, None])[:, :, 0]
        z = z.copy()
        z[:, :floors] = solved[:, :floors]
        z[:, floors : floors + k] = solved[:, floors : floors + k]
        z[:, floors + p - 1 : floors + p - 1 + l] = solved[:, floors + k :]
        return z

    return split(posterior.sample(residuals, lower, upper, guess, _joined(first, second), seed))


def noise(first: Recipe, second: Recipe, samples: tuple[np.ndarray, np.ndarray]) -> float:
    """Standard deviation of ln y about the laws, from the typical sample."""
    r = np.hstack([first.residuals(samples[0]), second.residuals(samples[1])])
    left = max(r.shape[1] - samples[0].shape[1] - samples[1].shape[1] + 1, 1)
    return float(np.sqrt(np.min(np.sum(r**2, axis=1)) / left))


def paired(first: Recipe, second: Recipe) -> np.ndarray:
    """ln of the second's loss over the first's at each size that both have (N and D, or C), means over repeats."""
    both = first.N is not None and second.N is not None
    sizes = [np.log(np.stack([r.N, r.D] if both else [r.C], axis=1)) for r in (first, second)]  # type: ignore[list-item]
    near = [np.all(np.abs(sizes[0][:, None] - x) <= SAME, axis=2) for x in sizes]  # of each run of the first
    rows = np.unique(near[0].argmax(axis=1))  # the first run of each size
    means = [
        np.where(m.any(axis=1), (m * np.log(r.y)).sum(axis=1) / np.maximum(m.sum(axis=1), 1), np.nan)
        for m, r in zip(near, (first, second))
    ]
    ratios = (means[1] - means[0])[rows]
    return ratios[np.isfinite(ratios)]


def _joined(first: Recipe, second: Recipe) -> np.ndarray | None:
    """(n + m,) cluster labels of the runs of both recipes; None where neither has any."""
    a, b = first.clusters, second.clusters
    if a is None and b is None:
        return None
    a = np.arange(len(first.y)) if a is None else a
    b = np.arange(len(second.y)) if b is None else b
    return np.concatenate([a, a.max() + 1 + b])


def _column(data: Any, key: str, name: str, length: int) -> np.ndarray:
    return _positive(as_column(column_of(data, key), f"{key} of {name}", length, "y"), f"{key} of {name}")


def _positive(values: np.ndarray, name: str) -> np.ndarray:
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(f"{name} = {values[row]:g} at row {row}: it must be positive and finite; drop the row.")
    return values


def _apart(log_N: np.ndarray, log_C: np.ndarray) -> bool:
    """True where N varies at a given compute, so that N and D can have terms of their own."""
    left = log_N - np.polyval(np.polyfit(log_C, log_N, 1), log_C)
    return float(np.std(left)) > APART
