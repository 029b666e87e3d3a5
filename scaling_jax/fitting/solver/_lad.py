"""Least absolute deviations, exactly: the optimum passes through some points, and their scores balance the others'.

At an optimum z of sum w_i |r_i(z)| with r_i = 0 on a set A there are multipliers |m_i| <= w_i (i in A) with
sum_{i not in A} w_i sign(r_i) dr_i + sum_{i in A} m_i dr_i = 0. A Huber cost with a threshold close to zero finds A
(the points within the threshold); Newton's method on these equations finds z; the multipliers certify it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from scaling_jax.fitting.solver._levenberg_marquardt import levenberg_marquardt
from scaling_jax.fitting.solver._newton import unseen
from scaling_jax.fitting.solver._problem import Problem

MANY = 20_000  # rows from which only linear programs are tried
IN_PROGRAM = 2_000  # largest number of points in a linear program
ON = 1e-9  # residuals below this part of their mean size are zero


def lad_newton(problem: Problem, z: np.ndarray, rounds: int = 12) -> np.ndarray:
    """The exact LAD optimum near z (p,); never worse than z."""
    best = (lad_gradient(problem, z), z)
    limit = problem.value(z[None])[0] * (1 + 1e-12)
    for near, active in _candidates(problem, z):
        exact = _touch(problem, near, active, rounds)
        value = problem.value(exact[None])[0]
        if value <= limit:
            error = lad_gradient(problem, exact)
            if error < best[0]:
                best, limit = (error, exact), min(limit, value * (1 + 1e-12))
            if error < 1e-12:
                break
    return best[1]


def _candidates(problem: Problem, z: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Points near the optimum with the residuals that seem to vanish there: first cheaply, then surely."""
    mean = _mean_size(problem, problem.residuals(z[None])[0])
    if not mean > 0:
        return
    if problem.n <= MANY:
        for threshold in (1e-4, 1e-6):
            yield _smoothed_end(problem, z, threshold * mean)
    yield from _linear_programs(problem, z)


def _smoothed_end(problem: Problem, z: np.ndarray, delta: float) -> tuple[np.ndarray, np.ndarray]:
    near = levenberg_marquardt(problem.smoothed(delta), z, max_steps=200, tolerance=1e-14).z[0]
    return near, np.flatnonzero((np.abs(problem.residuals(near[None])[0]) <= delta) & (problem.weights > 0))


def _linear_programs(problem: Problem, z: np.ndarray, rounds: int = 60) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Descends by exact solutions of the linearized problem in a trust region; yields its ends, later ones better.

    A point whose residual cannot change sign within the region only contributes its slope, so each linear program
    has few points however many there are.
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, hstack, identity

    radius, w = 1.0, problem.weights
    value = problem.value(z[None])[0]
    for _ in range(rounds):
        r, rows, _ = _terms(problem, z, hessian=False)
        mean = _mean_size(problem, r)
        size = np.maximum(np.sum(w * np.abs(rows), axis=1) / w.sum(), 1e-300)
        movable = np.abs(r) / np.maximum(np.sum(np.abs(rows) / size[:, None], axis=0) * mean, 1e-300)
        if problem.n > IN_PROGRAM:
            radius = min(radius, float(np.partition(movable, IN_PROGRAM)[IN_PROGRAM]))
        reach = radius * mean / size
        low, high = np.maximum(-reach, problem.lower - z), np.minimum(reach, problem.upper - z)
        near = np.flatnonzero((movable <= radius * 1.001) & (w > 0))
        far = _scores(problem, r, near)
        up, down = w[near], w[near] * problem.objective.overestimate_penalty
        k = len(near)
        cost = np.concatenate([-(rows @ far), up, down])
        equal = hstack([csr_array(rows[:, near].T), identity(k), -identity(k)], format="csr")
        solved = linprog(cost, A_eq=equal, b_eq=r[near], bounds=[*zip(low, high), *[(0, None)] * (2 * k)])
        if solved.x is None:
            return
        step, left = solved.x[: problem.p], solved.x[problem.p : problem.p + k] + solved.x[problem.p + k :]
        new = np.clip(z + step, problem.lower, problem.upper)
        new_value = problem.value(new[None])[0]
        predicted = np.sum(up * np.maximum(r[near], 0) + down * np.maximum(-r[near], 0)) - cost @ solved.x
        if predicted <= 1e-9 * value:
            yield z, near[left <= 1e-9 * mean]
        if predicted <= 1e-14 * value or radius < 1e-13:
            return
        gain = (value - new_value) / predicted
        radius *= 2.0 if gain > 0.75 else 0.25 if not gain > 0.25 else 1.0
        if new_value < value:
            z, value = new, new_value


def _touch(problem: Problem, z: np.ndarray, active: np.ndarray, rounds: int) -> np.ndarray:
    """Newton's method on the optimality conditions with the residuals of `active` at zero."""
    free = ~((z <= problem.lower) | (z >= problem.upper))
    for _ in range(rounds):
        step = _newton_step(problem, z, active, free)
        new = np.clip(z + step, problem.lower, problem.upper)
        if not np.isfinite(problem.value(new[None])[0]):
            return z
        z = new
        if np.max(np.abs(step) / (np.abs(z) + 1e-3)) < 1e-15:
            break
    return z


def _newton_step(problem: Problem, z: np.ndarray, active: np.ndarray, free: np.ndarray) -> np.ndarray:
    step = np.zeros(problem.p)
    r, rows, second = _terms(problem, z)
    if not (np.isfinite(r).all() and np.isfinite(rows).all()):
        return step  # z is where the law has no value: stay
    k, f = len(active), int(free.sum())
    scores = _scores(problem, r, active)
    on = rows[np.ix_(free, active)]
    gradient = rows[free] @ scores
    scores[active] = -np.linalg.lstsq(on, gradient, rcond=None)[0] if k and f else 0.0
    matrix = np.zeros((f + k, f + k))
    matrix[:f, :f] = second(scores)[np.ix_(free, free)]
    matrix[:f, f:], matrix[f:, :f] = on, on.T
    scale = np.concatenate([1.0 / np.sqrt(np.maximum(np.sum(rows[free] ** 2, axis=1), 1e-300)), np.ones(k)])
    right = np.concatenate([gradient + on @ scores[active], r[active]]) * scale
    system = matrix * np.outer(scale, scale)
    if np.isfinite(system).all() and np.isfinite(right).all():  # else the second derivatives overflow here: stay
        step[free] = (np.linalg.lstsq(system, right, rcond=1e-13)[0] * scale)[:f]
    return step


def lad_gradient(problem: Problem, z: np.ndarray) -> float:
    """Largest component of the subgradient closest to zero, relative to the sum of its terms' sizes."""
    from scipy.optimize import lsq_linear

    r, rows, _ = _terms(problem, z, hessian=False)
    unit = 1.0 if problem.objective.log else np.mean(np.abs(problem.y))
    active = np.flatnonzero((np.abs(r) <= ON * _mean_size(problem, r) + 1e-13 * unit) & (problem.weights > 0))
    score = rows @ _scores(problem, r, active)
    size = np.abs(rows) @ (problem.weights * problem.objective.asymmetry(r))
    size = np.maximum(size, unseen(problem, z, r)) + 1e-300
    low, high = z <= problem.lower, z >= problem.upper
    free = ~(low | high)
    if len(active) and free.any():
        matrix = rows[np.ix_(free, active)] / size[free, None]
        if not (np.isfinite(matrix).all() and np.isfinite(score).all()):
            return np.inf  # derivatives overflow here
        lower, upper = -problem.weights[active] * problem.objective.overestimate_penalty, problem.weights[active]
        m = lsq_linear(matrix, -score[free] / size[free], (lower, upper), method="bvls", tol=1e-15).x
        score = score + rows[:, active] @ m
    held = (low & (score < 0)) | (high & (score > 0))
    return float(np.max(np.abs(np.where(held, 0.0, score)) / size))


def _mean_size(problem: Problem, r: np.ndarray) -> float:
    return np.sum(problem.weights * np.abs(r)) / np.sum(problem.weights)


def _scores(problem: Problem, r: np.ndarray, active: np.ndarray) -> np.ndarray:
    """w_i sign(r_i), zero on the active set."""
    scores = problem.weights * problem.objective.asymmetry(r) * np.sign(r)
    scores[active] = 0.0
    return scores


def _terms(
    problem: Problem, z: np.ndarray, hessian: bool = True
) -> tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Residuals (n,), derivatives of T(f) (p, n), and a function: scores (n,) -> -sum_i pulls_i d2 T(f_i)."""
    objective = problem.objective
    out = problem.evaluate(z[None], order=2 if hessian else 1)
    f = out[0][0]
    slope = objective.derivative(f)
    rows = out[1][0] * slope

    def second(scores: np.ndarray) -> np.ndarray:
        matrix = (rows * scores) @ rows.T if objective.log else np.zeros((problem.p, problem.p))
        terms = iter(out[2])
        for i in range(problem.p):
            for j in range(i, problem.p):
                curved = np.broadcast_to(next(terms), (1, problem.n))[0]
                term = np.sum(scores * slope * np.where(np.isfinite(curved), curved, 0.0))
                matrix[i, j] -= term
                matrix[j, i] = matrix[i, j]
        return matrix

    return problem.target - objective.transform(f), rows, second
