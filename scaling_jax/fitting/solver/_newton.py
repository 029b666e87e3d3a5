"""The last digits: exact second-order steps from the best descent, and the proof that its end is an optimum."""

from __future__ import annotations

import numpy as np

from scaling_jax.fitting.solver._problem import Problem

NEAR_THRESHOLD = 1e-2  # part of Huber's threshold: residuals so close beyond it may be within it at the optimum
FLAT = 1e-6  # of the curvature: how little of it the direction through a flat may give up
KINKED = 1e-10  # relative gradient above which Newton's method may be stuck at a threshold
UNSEEN = 1e-4  # of the objective: what a coordinate must be able to move to count on its own scale


def newton(problem: Problem, z: np.ndarray, steps: int = 40) -> np.ndarray:
    """Newton's method with the exact Hessian of the objective, within the bounds, from a nearby z (p,).

    Returns:
      z (p,) with no higher objective than the one given, but for rounding.
    """
    value, damping = problem.value(z[None])[0], 0.0
    gradient, hessian, size = derivatives(problem, z)
    for _ in range(steps):
        error = relative(problem, z, gradient, size)
        if error < 1e-13:
            break
        for _ in range(14):
            trial = _newton_step(problem, z, gradient, hessian, damping)
            new = problem.value(trial[None])[0]
            if new <= value + rounding(problem, value):  # near the optimum values are all rounding: gradients decide
                there = derivatives(problem, trial)
                smaller = relative(problem, trial, there[0], there[2]) / error
                if new < value * (1 - 1e-11) or smaller < (1.0 if new <= value * (1 + 1e-11) else 0.1):
                    break
            damping = max(10 * damping, 1e-10)
        else:
            for way in (_across_threshold, _through_flat) if error > KINKED else ():
                trial = way(problem, z)
                new = problem.value(trial[None])[0]
                if not new <= value * (1 + 1e-11):
                    continue
                there = derivatives(problem, trial)
                if new < value * (1 - 1e-10) or relative(problem, trial, there[0], there[2]) < error:
                    break
            else:
                break
            damping = 0.0
        z, value, damping = trial, new, 0.1 * damping
        gradient, hessian, size = there
    return z


def _across_threshold(problem: Problem, z: np.ndarray) -> np.ndarray:
    """The step of Newton's method from z (p,) as if residuals just beyond the threshold of Huber's cost were within it.

    Where the optimum has such a residual just within, the cost is flat on this side and any step too short or too long.
    """
    size, delta = np.abs(problem.residuals(z[None])[0]), problem.objective.delta
    if not np.any((size > delta) & (size <= delta * (1 + NEAR_THRESHOLD))):
        return z
    gradient, hessian, _ = derivatives(problem, z, near=NEAR_THRESHOLD)
    return _newton_step(problem, z, gradient, hessian, 0.0)


def _through_flat(problem: Problem, z: np.ndarray) -> np.ndarray:
    """The lowest point from z (p,) downhill along what the residuals within Huber's threshold leave open.

    Beyond the threshold the cost is linear: where fewer residuals than parameters are within it, it has no curvature
    along some direction, and its lowest point there is where another residual has come within.
    """
    if not 0 < problem.objective.delta < np.inf:
        return z
    gradient, hessian, _ = derivatives(problem, z)
    squares = derivatives(problem, z, near=np.inf)[1]  # the curvature if all were within
    with np.errstate(all="ignore"):
        share = max(float(np.trace(hessian) / np.trace(squares)), 0.0)
    if not np.isfinite(share):
        return z
    toward = _newton_step(problem, z, gradient, hessian + max(FLAT * share, 1e-12) * squares, 0.0) - z

    def slope(length: float) -> float:
        there = np.clip(z + length * toward, problem.lower, problem.upper)
        return float(derivatives(problem, there, hessian=False)[0] @ toward)

    low, high = 0.0, 1.0
    while not (steep := slope(high)) >= 0:
        if not (np.isfinite(steep) and high < 1e12):
            return z
        low, high = high, 4 * high
    for _ in range(100):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return np.clip(z + high * toward, problem.lower, problem.upper)


def _newton_step(
    problem: Problem, z: np.ndarray, gradient: np.ndarray, hessian: np.ndarray, damping: float
) -> np.ndarray:
    free = ~(((z <= problem.lower) & (gradient > 0)) | ((z >= problem.upper) & (gradient < 0)))
    if not free.any():
        return z
    if not (np.isfinite(hessian).all() and np.isfinite(gradient).all()):
        return z
    scale = np.sqrt(np.maximum(np.abs(np.diag(hessian)), 1e-300))[free]
    eigen, vectors = np.linalg.eigh(hessian[np.ix_(free, free)] / np.outer(scale, scale))
    lifted = np.maximum(np.abs(eigen), 1e-15 * np.abs(eigen).max()) + damping  # downhill whatever the curvature
    step = np.zeros_like(z)
    step[free] = -(vectors @ ((vectors.T @ (gradient[free] / scale)) / lifted)) / scale
    return np.clip(z + step, problem.lower, problem.upper)


def relative(problem: Problem, z: np.ndarray, gradient: np.ndarray, size: np.ndarray) -> float:
    """Largest component of the gradient inside the bounds, relative to the size it would have without cancellation."""
    return float(np.max(np.abs(projected(problem, z, gradient)) / size))


def projected(problem: Problem, z: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The gradient without the components that push against a bound."""
    held = ((z <= problem.lower) & (gradient > 0)) | ((z >= problem.upper) & (gradient < 0))
    return np.where(held, 0.0, gradient)


def rounding(problem: Problem, value: float) -> float:
    """What the rounding of residuals and of their sum may add to an objective of this value."""
    unit = 1.0 if problem.objective.log else float(np.max(np.abs(problem.y)))
    return 1e-9 * value + 1e-15 * unit * float(np.sqrt(2.0 * problem.weights.sum() * value)) + 1e-300


def unseen(problem: Problem, z: np.ndarray, r: np.ndarray) -> np.ndarray:
    """(p,) gradients too small to count: z moved by its unit, or its own size if larger, hardly changes the cost."""
    return UNSEEN * problem.objective.value(r, problem.weights) / np.maximum(np.abs(z), 1.0)


def derivatives(
    problem: Problem, z: np.ndarray, hessian: bool = True, near: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact gradient (p,), Hessian (p, p) of the objective at z (p,), and the size (p,) gradients are compared to.

    The size of component j is the sum of |cost'(r_i)| |dr_i/dz_j|: what it would be if no terms cancelled. Where
    residuals vanish (noise-free data) it is kept from vanishing with them, and where a coordinate has all but left
    the law (a break sharper than the data can see) it is kept from vanishing beside the objective.

    Args:
      problem: a `Problem`.
      z: (p,).
      hessian: whether the Hessian is wanted; it is empty otherwise.
      near: residuals that are beyond the threshold of Huber's cost by up to this part of it count as if within.
    """
    with np.errstate(all="ignore"):  # where the law has no value
        return _derivatives(problem, z, hessian, near)


def _derivatives(
    problem: Problem, z: np.ndarray, hessian: bool, near: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    objective, w = problem.objective, problem.weights
    out = problem.evaluate(z[None], order=2 if hessian else 1)
    f, jacobian = out[0][0], out[1][0]
    r = problem.target - objective.transform(f)
    slope = objective.derivative(f)
    sides = objective.asymmetry(r) * objective.scale
    inside = np.abs(r) <= objective.delta * (1 + near)
    beyond = np.clip(r, -objective.delta, objective.delta) if objective.delta else np.sign(r)
    psi = w * sides * np.where(inside, r, beyond)
    rows = jacobian * slope
    gradient = -rows @ psi
    floor = min(1e-5 * (1.0 if objective.log else np.mean(np.abs(problem.y))), 1e-2 * (objective.delta or np.inf))
    size = np.maximum(np.abs(rows) @ (np.abs(psi) + w * sides * floor), unseen(problem, z, r)) + 1e-300
    if not hessian:
        return gradient, np.empty((0, 0)), size
    matrix = (rows * (w * sides * inside)) @ rows.T
    # d2 T(f) = T'(f) d2 f + T''(f) df df, and T'' = -T'^2 for a logarithm
    if objective.log:
        matrix += (rows * psi) @ rows.T
    k = 0
    for i in range(problem.p):
        for j in range(i, problem.p):
            # Where a sharp break overflows, its true second derivative has long vanished.
            curved = np.broadcast_to(out[2][k], f[None].shape)[0]
            second = np.sum(psi * slope * np.where(np.isfinite(curved), curved, 0.0))
            matrix[i, j] -= second
            if i != j:
                matrix[j, i] -= second
            k += 1
    return gradient, matrix, size
