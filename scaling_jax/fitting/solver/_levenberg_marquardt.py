"""Batched Levenberg-Marquardt: many starts, or many resamples, descended together in float64.

Each element minimizes the sum of w_i h(r_i(z)) for its own z (and, in a bootstrap, its own weights). Huber's cost is
approached from a wider threshold: an element starts at about its mean residual and tightens to delta as it converges,
which keeps the early problem close to least squares and the late one a few Newton steps from its minimum.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaling_jax.fitting.solver._problem import Problem

# Numbers per array in a chunk of elements: small enough to stay in a core's cache, large enough to amortize NumPy.
CHUNK = 16384
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
SETTLED = 1000.0  # times the next step's decrease: more than what a descent has left, unless it crawls along a valley
PACE = 16  # steps after each of which it is asked whether a descent at its present pace can still end low enough
CRAWLING = 24  # steps after which the others are bent along the valley
AHEAD, BENT = 0.1, 0.375  # part of a step that is looked ahead, and of its size that the bend may be
LAD_DELTA = 1e-6  # LAD is descended as a Huber cost this far below the mean residual, then polished exactly


@dataclass(frozen=True)
class Minima:
    """Where elements ended: z (b, p), objective values (b,), and whether each met the tolerance or was given up."""

    z: np.ndarray
    value: np.ndarray
    converged: np.ndarray
    given_up: np.ndarray


def levenberg_marquardt(
    problem: Problem,
    z: np.ndarray,
    weights: np.ndarray | None = None,
    max_steps: int = 100,
    tolerance: float = 1e-12,
    widen: float | np.ndarray = 1.0,
    above: float = np.inf,
) -> Minima:
    """Descends every row of z.

    Args:
      problem: a `Problem`.
      z: (b, p) starts.
      weights: (n,) or (b, n); the problem's own by default.
      max_steps: evaluations of the law per element.
      tolerance: predicted relative decrease at which a element is converged.
      widen: first threshold of a Huber cost, in mean residuals of the element; scalar or (b,). At 1 small dents of the
        objective are passed over, at 0.02 they are found.
      above: an element that is about to end above this objective value is given up, as is one that would still be
        above it after `max_steps` if it went on as fast as over the last steps.

    Returns:
      A `Minima`, elements in the order given.
    """
    z = np.clip(np.array(z, np.float64, ndmin=2), problem.lower, problem.upper)
    if weights is not None:
        problem = problem.with_data(weights=weights)
    problem = problem.by_place()
    widen = np.broadcast_to(np.asarray(widen, np.float64), len(z))
    elements = max(1, CHUNK // problem.n)
    chunks = [slice(i, i + elements) for i in range(0, len(z), elements)]
    with np.errstate(all="ignore"):  # a start far from the data may overflow; its step is then rejected
        parts = list(_over(chunks, lambda c: _chunk(problem.elements(c), z[c], max_steps, tolerance, widen[c], above)))
    return Minima(*(np.concatenate(part) for part in zip(*parts)))


def _over(chunks: Sequence[slice], work: Callable[[slice], Any]) -> Iterator[Any]:
    """`work` of every chunk, in order, on as many threads as there are cores: NumPy works outside the GIL."""
    workers = min(THREADS, len(chunks) // 2)
    if workers < 2:
        yield from map(work, chunks)
        return

    def quiet(chunk: slice) -> Any:  # the state of floating-point errors is each thread's own
        with np.errstate(all="ignore"):
            return work(chunk)

    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(quiet, chunks)


def _chunk(
    problem: Problem, z: np.ndarray, max_steps: int, tolerance: float, widen: np.ndarray, above: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    end, converged, given_up, whole = z.copy(), np.zeros(len(z), bool), np.zeros(len(z), bool), problem
    r, jacobian = problem.residuals_and_jacobian(z)
    element, delta = np.arange(len(z)), np.maximum(widen * _mean_size(problem, r), _floor(problem, r))
    damping, blend = np.full(len(z), 1e-3), np.ones(len(z))
    cost, score, matrix = _quadratic(problem, r, jacobian, delta, blend)
    slopes = jacobian  # at z, kept up to date once descents crawl
    before = np.full(len(z), np.inf)  # objective values PACE steps ago
    for taken in range(1, max_steps + 1):
        step, decrease = _step(problem, z, score, matrix, damping)
        if taken > CRAWLING:
            step = _bent(problem, z, step, r, slopes, matrix, damping, delta, blend)
        r_new, jacobian = problem.residuals_and_jacobian(z + step)
        cost_new = _cost(problem, r_new, delta)
        better, floor = cost_new < cost, _floor(problem, r)
        # while damping shortens steps, a short one does not mean that the optimum is near
        small, tightened = (decrease <= tolerance * cost) & (damping <= 1.0), delta <= floor
        done = (small & tightened) | (damping > 1e12)
        settled = tightened & (damping <= 1.0) & (SETTLED * decrease <= cost)
        if np.isfinite(above) and settled.any():
            value = problem.objective.value(r, problem.weights)
            hopeless = settled & (value * (1.0 - SETTLED * decrease / np.maximum(cost, 1e-300)) > above)
            given_up[element[hopeless & ~done]] = True
            done |= hopeless
        if np.isfinite(above) and taken % PACE == 0:
            value = problem.objective.value(r, problem.weights)
            slow = tightened & (value - (before - value) * ((max_steps - taken) / PACE) > above)
            given_up[element[slow & ~done]] = True
            done |= slow
            before = value

        ratio = (cost - cost_new) / np.maximum(decrease, 1e-300)
        damping, blend = _adapted(damping, blend, better, ratio)
        z = np.where(better[:, None], np.clip(z + step, problem.lower, problem.upper), z)
        r = np.where(better[:, None], r_new, r)
        # Tighten the threshold once the current one gains little.
        tighten = ~tightened & (decrease <= 1e-2 * cost)
        delta = np.where(tighten, np.maximum(0.2 * delta, floor), delta)
        stale = tighten & ~better
        if stale.any():
            jacobian[stale] = problem.residuals_and_jacobian(z)[1][stale]
        if taken == CRAWLING:
            slopes = problem.residuals_and_jacobian(z)[1]
        elif taken > CRAWLING:
            slopes = np.where(better[:, None, None], jacobian, slopes)
        for old, new in zip((cost, score, matrix), _quadratic(problem, r, jacobian, delta, blend)):
            np.copyto(old, new, where=(better | tighten).reshape(-1, *[1] * (old.ndim - 1)))
        if done.any():
            end[element[done]], converged[element[done]] = z[done], small[done]
            keep = ~done
            element, z, r, delta, damping, blend, cost, score, matrix, before = (
                a[keep] for a in (element, z, r, delta, damping, blend, cost, score, matrix, before)
            )
            slopes = slopes[keep] if taken >= CRAWLING else slopes
            problem = problem.elements(keep)
            if not len(element):
                break
    end[element] = z
    return end, whole.value(end), converged, given_up


def _adapted(
    damping: np.ndarray, blend: np.ndarray, better: np.ndarray, ratio: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Damping and blend of the next step, from the decrease of the last one over the one predicted."""
    damping = damping * np.where(better, np.where(ratio > 0.7, 0.2, np.where(ratio < 0.2, 3.0, 1.0)), 6.0)
    # A decrease above the prediction means that the outer points were given too much curvature.
    flatter = np.where(ratio > 1.2, np.maximum(0.5 * blend, 0.02), blend)
    return np.maximum(damping, 1e-14), np.where(better, flatter, np.minimum(4 * blend, 1.0))


def _mean_size(problem: Problem, r: np.ndarray) -> np.ndarray:
    size = np.minimum(np.abs(r), 1e3)  # a start where the law has no value must not set the scale
    total = np.sum(np.broadcast_to(problem.weights, r.shape), axis=1)
    return np.sum(problem.weights * size, axis=1) / np.maximum(total, 1e-300)


def _floor(problem: Problem, r: np.ndarray) -> np.ndarray:
    """The threshold an element tightens to: delta, or for LAD a small part of its mean residual."""
    delta = problem.objective.delta
    return LAD_DELTA * _mean_size(problem, r) if delta == 0 else np.full(len(r), delta)


def _cost(problem: Problem, r: np.ndarray, delta: np.ndarray) -> np.ndarray:
    size = np.abs(r)
    inside = np.minimum(size, delta[:, None])
    cost = np.sum(problem.weights * problem.objective.asymmetry(r) * inside * (size - 0.5 * inside), axis=1)
    return np.where(np.isnan(cost), np.inf, cost)


def _quadratic(
    problem: Problem, r: np.ndarray, jacobian: np.ndarray, delta: np.ndarray, blend: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cost, minus its gradient by z, and the Gauss-Newton matrix, of every element.

    Points beyond delta get the curvature of the parabola that majorizes their cost (reweighted least squares) times
    `blend`: 1 is safe far away, near 0 is Newton's method and converges quadratically close by.
    """
    cost = _cost(problem, r, delta)
    pull, curvature = _pull_and_curvature(problem, r, delta, blend)
    psi, curvature = problem.summed(pull * np.where(np.isfinite(r), r, 0.0)), problem.summed(curvature)
    score = np.matmul(jacobian, psi[:, :, None])[:, :, 0]
    matrix = np.matmul(jacobian * curvature[:, None, :], jacobian.transpose(0, 2, 1))
    return cost, score, matrix


def _pull_and_curvature(
    problem: Problem, r: np.ndarray, delta: np.ndarray, blend: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(cost'(r) / r, what the Gauss-Newton matrix takes for cost''(r)), both (b, n)."""
    w = problem.weights * problem.objective.asymmetry(r)
    size = np.abs(r)
    beyond = size > delta[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        pull = w * np.where(beyond, delta[:, None] / size, 1.0)
    return pull, pull * np.where(beyond, blend[:, None], 1.0)


def _step(
    problem: Problem, z: np.ndarray, score: np.ndarray, matrix: np.ndarray, damping: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The damped step within the bounds, and the decrease it predicts."""
    held = ((z <= problem.lower) & (score < 0)) | ((z >= problem.upper) & (score > 0))
    root = _units(matrix)
    step = np.zeros_like(z)
    for _ in range(3):  # again, with coordinates that reached a bound fixed there
        right = score - np.einsum("bij,bj->bi", matrix, np.where(held, step, 0.0))
        step = np.where(held, step, _solved(matrix, right, damping, np.where(held, 0.0, root)))
        inside = np.clip(z + step, problem.lower, problem.upper)
        out = ~held & (inside != z + step)
        if not out.any():
            break
        step, held = np.where(out, inside - z, step), held | out
    step = np.clip(z + step, problem.lower, problem.upper) - z
    decrease = np.sum(score * step, axis=1) - 0.5 * np.einsum("bi,bij,bj->b", step, matrix, step)
    # Cut off at bounds, a long step may predict an increase: no sign that the optimum is near.
    return step, np.where(decrease < 0, np.inf, decrease)


def _bent(
    problem: Problem,
    z: np.ndarray,
    step: np.ndarray,
    r: np.ndarray,
    slopes: np.ndarray,
    matrix: np.ndarray,
    damping: np.ndarray,
    delta: np.ndarray,
    blend: np.ndarray,
) -> np.ndarray:
    """The step with the geodesic acceleration of Transtrum & Sethna 2012 (arXiv:1201.5885), where that is small.

    In a curved valley a straight step soon leaves the bottom: the second derivative of the residuals along it, here
    from one more evaluation, bends it. `slopes` are the derivatives of T(f) by z, as `residuals_and_jacobian` gives.
    """
    along = problem.spread(np.matmul(step[:, None, :], slopes)[:, 0])
    curved = (
        2.0 / AHEAD * ((problem.residuals(z + AHEAD * step) - r) / AHEAD + along)
    )  # of r, by the length of the step
    curvature = _pull_and_curvature(problem, r, delta, blend)[1]
    right = np.matmul(slopes, problem.summed(np.where(np.isfinite(curved), curvature * curved, 0.0))[:, :, None])
    root = _units(matrix)
    inside = (step != 0) & (z + step > problem.lower) & (z + step < problem.upper)
    bend = 0.5 * _solved(matrix, right[:, :, 0], damping, np.where(inside, root, 0.0))
    sizes = (np.linalg.norm(v / root, axis=1) for v in (bend, step))
    bent = np.divide(*sizes) < BENT
    return np.where(bent[:, None], np.clip(z + step + bend, problem.lower, problem.upper) - z, step)


def _units(matrix: np.ndarray) -> np.ndarray:
    """(b, p) factors that scale a matrix to a unit diagonal, so that damping and solve treat all units alike."""
    diagonal = np.einsum("bii->bi", matrix)
    return 1.0 / np.sqrt(np.maximum(diagonal, 1e-14 * diagonal.max(axis=1, keepdims=True) + 1e-300))


def _solved(matrix: np.ndarray, right: np.ndarray, damping: np.ndarray, units: np.ndarray) -> np.ndarray:
    """(b, p) solutions of the damped system; 0 in coordinates whose factor among `units` (b, p) is 0."""
    scaled = matrix * units[:, :, None] * units[:, None, :]
    index = np.arange(units.shape[1])
    scaled[:, index, index] += np.where(units == 0, 1.0, damping[:, None] + 1e-15)
    if not np.isfinite(scaled.sum()):  # squares of derivatives overflowed: the step must be nan, and is rejected
        scaled[~np.isfinite(scaled).all(axis=(1, 2))] = np.eye(len(index))
    return np.linalg.solve(scaled, (right * units)[:, :, None])[:, :, 0] * units
