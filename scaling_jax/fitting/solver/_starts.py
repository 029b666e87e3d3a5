"""Starting points: variable projection for the coefficients a law is linear in, low-discrepancy points for the others.

Given the exponents, E, A and B of a Chinchilla-like law follow from a small bounded least-squares problem, so starts
need only cover the exponents (Golub & Pereyra 1973). Its matrices come from the law's own derivatives: the law is
affine in those coefficients, so one evaluation gives the offset and every basis function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product

import numpy as np

from scaling_jax.fitting.errors import FitError, LawError
from scaling_jax.fitting.solver._levenberg_marquardt import CHUNK
from scaling_jax.fitting.solver._problem import Problem

# Places, in parts of their start range, where coordinates are tried with the others at the best end.
ONE_ELSEWHERE = (-8.0, -2.0, -0.5, 0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95, 1.5, 3.0, 9.0)
TWO_ELSEWHERE = (0.05, 0.35, 0.75, 3.0)
SEARCH = 512  # candidates evaluated, at least, to choose starts from


def low_discrepancy(n: int, dimensions: int, seed: int) -> np.ndarray:
    """(n, dimensions) points that fill the unit cube evenly: the additive recurrence of Roberts (2018), shifted."""
    root = 2.0
    for _ in range(60):  # the generalized golden ratio, root^(d + 1) = root + 1
        root = (1.0 + root) ** (1.0 / (dimensions + 1))
    steps = root ** -np.arange(1.0, dimensions + 1)
    shift = np.random.default_rng(seed).uniform(size=dimensions)
    return (shift + np.outer(np.arange(1, n + 1), steps)) % 1.0


def candidates(problem: Problem, n: int, seed: int) -> np.ndarray:
    """(n, p) points that cover the start ranges of the law's coordinates, linear ones at 1 (their unit).

    Every third covers ranges four times as wide: noisy small designs put optima there.
    """
    z = np.ones((n, problem.p))
    wide = np.arange(n) % 3 == 2
    for part, wider in ((~wide, 0.0), (wide, 1.0)):
        nonlinear, lo, hi = _ranges(problem, wider)
        if len(nonlinear):
            z[np.ix_(part, nonlinear)] = lo + (hi - lo) * low_discrepancy(part.sum(), len(nonlinear), seed)
    z = np.clip(z, problem.lower, problem.upper)
    z[::2] = with_guesses(problem, z[::2])
    return z


def with_guesses(problem: Problem, z: np.ndarray) -> np.ndarray:
    """z (b, p) with the law's own initial guess from the other coordinates and the data, where it has one."""
    if problem.law.initial_guess is None:
        return z
    with np.errstate(all="ignore"):
        params = {k: v[:, None] for k, v in problem.constrained(z).items()}
        return _moved_to(problem, z, problem.law.initial_guess(params, problem.inputs, problem.y))


def _moved_to(problem: Problem, z: np.ndarray, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """z (b, p) with natural values {name: (b,)} of some parameters; those that are not finite stay as they are."""
    z = z.copy()
    with np.errstate(all="ignore"):
        flat = problem.constrained(z)
        for k, value in values.items():
            if k in problem.free:
                i, coordinate = problem.free.index(k), problem.law.coordinates[k]
                if coordinate.shift is not None:
                    value = value - coordinate.shift(flat, problem.center)
                if coordinate.unit is not None:
                    value = value / coordinate.unit(flat, problem.center)
                if coordinate.kind == "log":
                    value = np.log(value)
                z[:, i] = np.where(np.isfinite(value), np.clip(value, problem.lower[i], problem.upper[i]), z[:, i])
    return z


def _ranges(problem: Problem, wider: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the coordinates that are not linear, and the ends of the ranges where they start.

    They are widened by `wider` times their width downwards and twice that upwards, within the bounds.
    """
    nonlinear = np.flatnonzero(~problem.linear)
    ranges = []
    for i in nonlinear:
        c = problem.law.coordinates[problem.free[i]]
        lo, hi = c.start[0] - wider * (c.start[1] - c.start[0]), c.start[1] + 2 * wider * (c.start[1] - c.start[0])
        if c.spans:
            lo, hi = np.add((lo, hi), problem.spans[c.spans])
        ranges.append((max(lo, problem.lower[i]), min(hi, problem.upper[i])))
    low, high = np.array(ranges).reshape(-1, 2).T
    return nonlinear, low, high


def probe_starts(problem: Problem, z: np.ndarray) -> np.ndarray:
    """Copies of z (p,) with one coordinate, or two, elsewhere: across their start ranges and beyond, towards bounds.

    And with a sudden change between neighboring data points, for laws that can have one.
    """
    nonlinear, lo, hi = _ranges(problem)

    def at(i: int, places: Sequence[float]) -> np.ndarray:
        return np.clip(
            lo[i] + (hi[i] - lo[i]) * np.array(places), problem.lower[nonlinear[i]], problem.upper[nonlinear[i]]
        )

    copies = [z]
    for i in range(len(nonlinear)):
        for value in at(i, ONE_ELSEWHERE):
            copies.append(_with(z, {nonlinear[i]: value}))
    for i, j in combinations(range(len(nonlinear)), 2):
        for pair in product(at(i, TWO_ELSEWHERE), at(j, TWO_ELSEWHERE)):
            copies.append(_with(z, dict(zip((nonlinear[i], nonlinear[j]), pair))))
    return project(problem, np.concatenate([np.array(copies), _sudden(problem, z)]))


def _sudden(problem: Problem, z: np.ndarray) -> np.ndarray:
    """Copies (b, p) of z (p,) with a change of the law between neighboring points, where the law can have one."""
    if problem.law.sudden is None:
        return z[None][:0]
    values = problem.law.sudden(problem.inputs)
    return _moved_to(problem, np.repeat(z[None], len(next(iter(values.values()))), axis=0), values)


def _with(z: np.ndarray, changed: dict[int, float]) -> np.ndarray:
    z = z.copy()
    z[list(changed)] = list(changed.values())
    return z


def perturb(problem: Problem, z: np.ndarray, n: int, seed: int) -> np.ndarray:
    """n copies of every row of z (b, p): a random part of the coordinates redrawn or perturbed, the others kept."""
    rng = np.random.default_rng(seed)
    copies = np.repeat(z, n, axis=0)
    nonlinear, lo, hi = _ranges(problem)
    if not len(nonlinear):
        return copies
    old = copies[:, nonlinear]
    new = rng.uniform(lo, hi, old.shape)
    shaken = old + 0.1 * (hi - lo) * rng.standard_normal(old.shape)
    new = np.where(rng.random(old.shape) < 0.5, new, shaken)
    chosen = rng.random(old.shape) < 0.4
    chosen[np.arange(len(old)), rng.integers(len(nonlinear), size=len(old))] = True
    copies[:, nonlinear] = np.where(chosen, new, old)
    copies = np.clip(copies, problem.lower, problem.upper)
    copies[::2] = with_guesses(problem, copies[::2])
    return project(problem, copies)


def project(problem: Problem, z: np.ndarray) -> np.ndarray:
    """Solves for the linear coefficients of every row of z; returns z with them in place.

    The problem solved is weighted least squares on y, with weights T'(y)^2 so that it approximates the objective's
    own residuals; each coefficient within its bounds (exact for bounds on one side, clipped for two).
    """
    linear = np.flatnonzero(problem.linear)
    if not len(linear):
        return z
    z = z.copy()
    z[:, linear] = np.clip(1.0, problem.lower[linear], problem.upper[linear])
    with np.errstate(all="ignore"):
        f, jacobian = problem.evaluate(z)
        basis = jacobian[:, linear]  # (b, k, n)
        offset = f - np.einsum("bkn,bk->bn", basis, z[:, linear])
        slope = problem.objective.derivative(problem.y)
        slope = slope / np.max(np.abs(slope * problem.y))  # whatever the unit of y, its squares are in range
        basis = np.where(np.isfinite(basis), basis, 0.0) * slope
        remainder = np.where(np.isfinite(offset), problem.y - offset, 0.0) * slope
        gram = (basis * problem.weights) @ basis.transpose(0, 2, 1)
        moment = (basis @ (problem.weights * remainder)[:, :, None])[:, :, 0]
        solved = bounded_least_squares(gram, moment, problem.lower[linear], problem.upper[linear])
    z[:, linear] = np.where(np.isfinite(solved), solved, z[:, linear])
    return z


def bounded_least_squares(gram: np.ndarray, moment: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Minimizes x G x / 2 - m x with x >= lower where that is finite, batched; clipped to upper.

    Args:
      gram: (b, k, k) G.
      moment: (b, k) m.
      lower: (k,).
      upper: (k,).

    Returns:
      (b, k). Every set of coefficients at their lower bound is tried, which for k <= 4 costs less than iterating.
    """
    b, k = moment.shape
    scale = 1.0 / np.sqrt(np.maximum(np.einsum("bii->bi", gram), 1e-300))
    gram = gram * scale[:, :, None] * scale[:, None, :] + 1e-13 * np.eye(k)
    bounded = np.flatnonzero(np.isfinite(lower))
    best, best_value = np.zeros((b, k)), np.full(b, np.inf)
    base = np.where(np.isfinite(lower), lower, 0.0)
    moment = moment * scale - np.einsum("bij,bj->bi", gram, base / scale)  # in terms of x - lower
    for at_bound in product((False, True), repeat=len(bounded)):
        free = np.ones(k, bool)
        free[bounded[np.array(at_bound, bool)]] = False
        x = np.zeros((b, k))
        if free.any():
            part = np.ix_(np.arange(b), free, free)
            x[:, free] = np.linalg.solve(gram[part], moment[:, free, None])[:, :, 0]
        value = 0.5 * np.einsum("bi,bij,bj->b", x, gram, x) - np.sum(moment * x, axis=1)
        feasible = np.all(x[:, bounded] >= -1e-12, axis=1) & (value < best_value)
        best[feasible], best_value[feasible] = x[feasible], value[feasible]
    return np.clip(best * scale + base, lower, upper)


def _no_value(problem: Problem, z: np.ndarray) -> str:
    """Why no start has a finite objective, with an example."""
    law, f = problem.law, problem.evaluate(z[None], order=0)[0]
    row = int(np.flatnonzero(~np.isfinite(problem.objective.transform(f)))[0])
    at = ", ".join(f"{k}={float(v):.4g}" for k, v in problem.constrained(z).items())
    inputs = ", ".join(f"{k}={problem.inputs[k][row]:.4g}" for k in law.inputs)
    under = f", which {problem.objective} cannot take" if np.isfinite(f[row]) else ""
    return (
        f"law {law.name!r} has no usable value on these data at any start: e.g. y = {f[row]:.4g} at {inputs} "
        f"(row {row}) with {at}{under}. Narrow its bounds to where it is finite, or correct the function."
    )


def choose(problem: Problem, n: int, seed: int) -> np.ndarray:
    """n starts: half the best of many candidates (apart from each other), half low-discrepancy points."""
    z = candidates(problem, max(SEARCH, 2 * n), seed)
    elements = max(1, CHUNK // problem.n)
    z = np.concatenate([project(problem, z[i : i + elements]) for i in range(0, len(z), elements)])
    value = np.concatenate([problem.value(z[i : i + elements]) for i in range(0, len(z), elements)])
    order = np.argsort(value)
    order = order[np.isfinite(value[order])]
    if not len(order):
        raise LawError(_no_value(problem, z[0]))
    best = order[: 4 * n : 4] if len(order) >= 4 * n else order
    chosen = list(best[: (n + 1) // 2])
    taken = set(chosen)
    chosen += [i for i in range(len(z)) if i not in taken][: n - len(chosen)]
    return z[np.array(chosen)]


def given_starts(problem: Problem, starts: int | Sequence[Mapping[str, float]] | None) -> int | np.ndarray | None:
    """The `starts` argument of `fit` in the solver's coordinates: None, a count, or (n, p).

    Raises:
      FitError: not a count of at least 1, nor a list of dicts with a finite number for every free parameter.
    """
    if starts is None or (isinstance(starts, (int, np.integer)) and starts > 0):
        return starts
    if not (isinstance(starts, Sequence) and starts and all(isinstance(start, Mapping) for start in starts)):
        raise FitError(f"starts={starts!r}: give how many, at least 1, or a list of dicts of parameters.")
    for start in starts:
        missing = [k for k in problem.free if k not in start]
        if missing:
            raise FitError(f"starts: {dict(start)!r} lacks {', '.join(missing)}.")
        for k in problem.free:
            if not (isinstance(start[k], (int, float, np.number)) and np.isfinite(start[k])):
                raise FitError(f"starts: {k} = {start[k]!r} is not a finite number.")
    return np.stack([problem.unconstrained({**problem.fixed, **start}) for start in starts])
