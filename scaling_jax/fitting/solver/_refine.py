"""From the best end of the search to a stationary point: Newton, and remedies where Newton alone is too slow."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scaling_jax.fitting.solver._lad import lad_gradient, lad_newton
from scaling_jax.fitting.solver._levenberg_marquardt import levenberg_marquardt
from scaling_jax.fitting.solver._newton import derivatives, newton, relative, rounding
from scaling_jax.fitting.solver._problem import Problem
from scaling_jax.fitting.solver._starts import project

Candidate = tuple[float, np.ndarray, float]  # value, z, relative gradient
GRADIENT_TOLERANCE = 1e-8
NEAR = 0.35  # of a coordinate's range: how near its bound it may have stopped on its way there


def refine(problem: Problem, z: np.ndarray, steps: int = 2000) -> tuple[np.ndarray, float]:
    """(z (p,), its relative gradient): the stationary point next to z, never higher than z but for rounding.

    Args:
      z: (p,), a local optimum but for the last digits.
      steps: of each further descent where polish does not converge.
    """
    best = _evaluated(problem, z)
    ways = (*3 * (_longer,), _around_other_centers, _at_ends)
    for way in ways:
        for candidate in () if best[2] <= GRADIENT_TOLERANCE else way(problem, best[1], steps):
            same = candidate[0] <= best[0] + rounding(problem, best[0])
            if candidate[0] < best[0] * (1 - 1e-9) or (same and not candidate[2] >= best[2]):
                best = candidate
            if best[2] <= GRADIENT_TOLERANCE:
                break
    return best[1], best[2]


def relative_gradient(problem: Problem, z: np.ndarray) -> float:
    """Largest relative component of the projected gradient (see `Certificate.gradient`)."""
    if problem.objective.delta == 0:
        return lad_gradient(problem, z)
    gradient, _, size = derivatives(problem, z, hessian=False)
    return relative(problem, z, gradient, size)


def local_optimum(problem: Problem, z: np.ndarray) -> np.ndarray:
    """z (p,) after Newton's method."""
    return lad_newton(problem, z) if problem.objective.delta == 0 else newton(problem, z)


def _evaluated(problem: Problem, z: np.ndarray) -> Candidate:
    """(value, z, relative gradient)."""
    return float(problem.value(z[None])[0]), z, relative_gradient(problem, z)


def _at_local_optimum(problem: Problem, z: np.ndarray) -> Candidate:
    """`_evaluated` after Newton's method."""
    return _evaluated(problem, local_optimum(problem, z))


def _descended(problem: Problem, z: np.ndarray, steps: int) -> np.ndarray:
    return levenberg_marquardt(problem, z, max_steps=steps, tolerance=1e-16, widen=0.02).z[0]


def _longer(problem: Problem, z: np.ndarray, steps: int) -> Iterator[Candidate]:
    """A long flat valley takes more steps than the search gives."""
    yield _at_local_optimum(problem, _descended(problem, z, steps))


def _around_other_centers(problem: Problem, z: np.ndarray, steps: int) -> Iterator[Candidate]:
    """A curved valley is straight around other centers of the inputs."""
    other, there = problem.recentered(z)
    there = local_optimum(other, _descended(other, there, steps))
    yield _at_local_optimum(problem, problem.unconstrained(other.params(there)))


def _at_ends(problem: Problem, z: np.ndarray, steps: int) -> Iterator[Candidate]:
    """Restart with a coordinate pinned at a nearby bound or data point, then release it."""
    for i, value in _ends(problem, z):
        pinned = problem.pinned(i, value)
        start = z.copy()
        start[i] = value
        both = np.stack([start, project(pinned, start[None])[0]])
        value = problem.value(both)
        if not np.isfinite(value.min()):
            continue
        there = _descended(pinned, both[np.argmin(value)], steps // 4)
        yield _at_local_optimum(problem, local_optimum(pinned, there))


def _ends(problem: Problem, z: np.ndarray) -> Iterator[tuple[int, float]]:
    """(coordinate, value) of bounds that are near, and of the data points on both sides of a place in an input."""
    width = problem.upper - problem.lower
    for i in np.flatnonzero(np.isfinite(width)):
        for bound in (problem.lower[i], problem.upper[i]):
            if 0 < abs(z[i] - bound) <= NEAR * width[i]:
                yield int(i), float(bound)
    for i, k in enumerate(problem.free):
        if spans := problem.law.coordinates[k].spans:
            places = np.unique(np.log(problem.inputs[spans])) - problem.center[spans]
            after = np.searchsorted(places, z[i])
            yield from ((i, float(place)) for place in places[max(after - 1, 0) : after + 1])
