"""Least absolute deviations, exactly: the optimum passes through some points, and their pulls balance the others'.

At an optimum z of sum w_i |r_i(z)| with r_i = 0 on a set A there are multipliers |m_i| <= w_i (i in A) with
sum_{i not in A} w_i sign(r_i) dr_i + sum_{i in A} m_i dr_i = 0. Newton's method on these equations, started from a
nearby point, finds z to rounding; the multipliers certify it.
"""

import numpy as np

ON = 1e-9  # residuals below this part of their mean size are zero


def lad_polish(problem, z, rounds=30):
    """The exact LAD optimum near z (p,); never worse than z."""
    best, best_value = z, problem.value(z[None])[0]
    active = None
    for _ in range(rounds):
        r, rows, second = _terms(problem, z)
        scale = np.average(np.abs(r), weights=problem.weights) + 1e-300
        if active is None:
            near = np.argsort(np.abs(r) + 1e300 * (problem.weights == 0))[: problem.p]
            active = near[np.abs(r[near]) < 1e-3 * scale]
        free = ~((z <= problem.lower) | (z >= problem.upper))
        step, multipliers = _newton(problem, r, rows, second, active, free)
        z = np.clip(z + step, problem.lower, problem.upper)
        value = problem.value(z[None])[0]
        if value < best_value:
            best, best_value = z, value
        over = np.abs(multipliers) - _most(problem, active, multipliers)
        if np.max(np.abs(step) / (np.abs(z) + 1e-3)) < 1e-14:
            break
        if len(active) and over.max() > 1e-6 * problem.weights[active].max() and np.abs(r[active]).max() < 1e-6 * scale:
            active = np.delete(active, np.argmax(over))  # this point is pulled off the law
    return _snap(problem, best, best_value)


def _snap(problem, z, value):
    """One more pass through the points that the best z already touches, which removes the last rounding."""
    r, rows, second = _terms(problem, z)
    scale = np.average(np.abs(r), weights=problem.weights) + 1e-300
    active = np.flatnonzero((np.abs(r) < 1e-7 * scale) & (problem.weights > 0))
    free = ~((z <= problem.lower) | (z >= problem.upper))
    step, _ = _newton(problem, r, rows, second, active, free)
    new = np.clip(z + step, problem.lower, problem.upper)
    return (
        new
        if problem.value(new[None])[0] <= value * (1 + 1e-13) and lad_gradient(problem, new) <= lad_gradient(problem, z)
        else z
    )


def lad_gradient(problem, z):
    """Largest component of the subgradient closest to zero, relative to the sum of its terms' sizes."""
    from scipy.optimize import lsq_linear

    r, rows, _ = _terms(problem, z, hessian=False)
    scale = np.average(np.abs(r), weights=problem.weights)
    unit = 1.0 if problem.objective.log else np.mean(np.abs(problem.y))
    active = np.flatnonzero((np.abs(r) <= ON * scale + 1e-13 * unit) & (problem.weights > 0))
    pull = rows @ _pulls(problem, r, active)
    size = np.abs(rows) @ (problem.weights * problem.objective.sides(r)) + 1e-300
    held = ((z <= problem.lower) & (pull < 0)) | ((z >= problem.upper) & (pull > 0))
    free = ~held
    if len(active) and free.any():
        matrix = rows[np.ix_(free, active)] / size[free, None]
        lo, hi = -problem.weights[active], problem.weights[active] * problem.objective.above
        m = lsq_linear(matrix, -pull[free] / size[free], (lo, hi), method="bvls", tol=1e-15).x
        pull = pull + rows[:, active] @ m
    return float(np.max(np.abs(np.where(held, 0.0, pull)) / size))


def _pulls(problem, r, active):
    """w_i sign(r_i), zero on the active set."""
    s = problem.weights * problem.objective.sides(r) * np.sign(r)
    s[active] = 0.0
    return s


def _most(problem, active, multipliers):
    return problem.weights[active] * np.where(multipliers > 0, problem.objective.above, 1.0)


def _newton(problem, r, rows, second, active, free):
    """Newton step on the optimality conditions with the residuals of `active` held at zero."""
    k, f = len(active), int(free.sum())
    pulls = _pulls(problem, r, active)
    gradient = rows[free] @ pulls
    on = rows[np.ix_(free, active)]
    m = -np.linalg.lstsq(on, gradient, rcond=None)[0] if k and f else np.zeros(k)
    pulls[active] = m
    matrix = np.zeros((f + k, f + k))
    matrix[:f, :f] = second(pulls)[np.ix_(free, free)]
    matrix[:f, f:], matrix[f:, :f] = on, on.T
    scale = 1.0 / np.sqrt(np.maximum(np.sum(rows[free] ** 2, axis=1), 1e-300))
    scale = np.concatenate([scale, np.ones(k)])
    system = matrix * np.outer(scale, scale)
    right = np.concatenate([gradient + on @ m, r[active]]) * scale
    solution = np.linalg.lstsq(system, right, rcond=1e-13)[0] * scale
    step = np.zeros(problem.p)
    step[free] = solution[:f]
    return step, m


def _terms(problem, z, hessian=True):
    """Residuals (n,), derivatives of T(f) (p, n), and a function: pulls (n,) -> -sum_i pulls_i d2 T(f_i)."""
    objective = problem.objective
    out = problem.evaluate(z[None], order=2 if hessian else 1)
    f = out[0][0]
    slope = objective.slope(f)
    rows = out[1][0] * slope

    def second(pulls):
        matrix = (rows * pulls) @ rows.T if objective.log else np.zeros((problem.p, problem.p))
        k = 0
        for i in range(problem.p):
            for j in range(i, problem.p):
                term = np.sum(pulls * slope * np.broadcast_to(out[2][k], (1, problem.n))[0])
                matrix[i, j] -= term
                if i != j:
                    matrix[j, i] -= term
                k += 1
        return matrix

    return problem.target - objective.transform(f), rows, second
