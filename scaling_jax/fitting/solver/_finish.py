"""From the best end of the search to a stationary point: polish, and what helps where polish alone creeps."""

import numpy as np

from scaling_jax.fitting.solver._lad import lad_gradient, lad_polish
from scaling_jax.fitting.solver._levenberg_marquardt import levenberg_marquardt
from scaling_jax.fitting.solver._newton import derivatives, polish, relative
from scaling_jax.fitting.solver._starts import project

GRADIENT_TOLERANCE = 1e-8
NEAR = 0.35  # of a coordinate's range: how near its bound it may have stopped on its way there


def finish(problem, z, steps=2000):
    """(z (p,), its relative gradient): the stationary point next to z, never higher than z but for rounding.

    Args:
      z: (p,), polished.
      steps: of each further descent where polish does not converge.
    """
    best = _judged(problem, z)
    ways = (*3 * (_longer,), _around_other_centers, _at_ends)
    for way in ways:
        for candidate in () if best[2] <= GRADIENT_TOLERANCE else way(problem, best[1], steps):
            same = candidate[0] <= best[0] * (1 + 1e-9)
            if candidate[0] < best[0] * (1 - 1e-9) or (same and not candidate[2] >= best[2]):
                best = candidate
            if best[2] <= GRADIENT_TOLERANCE:
                break
    return best[1], best[2]


def relative_gradient(problem, z):
    """Largest relative component of the projected gradient (see `Certificate.gradient`)."""
    if problem.objective.delta == 0:
        return lad_gradient(problem, z)
    gradient, _, size = derivatives(problem, z, hessian=False)
    return relative(problem, z, gradient, size)


def polished(problem, z):
    """z (p,) after Newton's method."""
    return lad_polish(problem, z) if problem.objective.delta == 0 else polish(problem, z)


def _judged(problem, z):
    """(value, z, relative gradient)."""
    return float(problem.value(z[None])[0]), z, relative_gradient(problem, z)


def _polished(problem, z):
    """`_judged` after Newton's method."""
    return _judged(problem, polished(problem, z))


def _descended(problem, z, steps):
    return levenberg_marquardt(problem, z, max_steps=steps, tolerance=1e-16, widen=0.02).z[0]


def _longer(problem, z, steps):
    """A long flat valley takes more steps than the search gives."""
    yield _polished(problem, _descended(problem, z, steps))


def _around_other_centers(problem, z, steps):
    """A curved valley is straight around other centers of the inputs."""
    other, there = problem.recentered(z)
    there = polished(other, _descended(other, there, steps))
    yield _polished(problem, problem.unconstrained(other.params(there)))


def _at_ends(problem, z, steps):
    """Some optima are only crept towards: at a bound, or with a sharp break on a data point. Tried there and let go."""
    for i, value in _ends(problem, z):
        pinned = problem.pinned(i, value)
        start = z.copy()
        start[i] = value
        both = np.stack([start, project(pinned, start[None])[0]])
        value = problem.value(both)
        if not np.isfinite(value.min()):
            continue
        there = _descended(pinned, both[np.argmin(value)], steps // 4)
        yield _polished(problem, polished(pinned, there))


def _ends(problem, z):
    """(coordinate, value) of bounds that are near, and of the data points on both sides of a place in an input."""
    width = problem.upper - problem.lower
    for i in np.flatnonzero(np.isfinite(width)):
        for bound in (problem.lower[i], problem.upper[i]):
            if 0 < abs(z[i] - bound) <= NEAR * width[i]:
                yield i, bound
    for i, k in enumerate(problem.free):
        if spans := problem.law.coordinates[k].spans:
            places = np.unique(np.log(problem.inputs[spans])) - problem.center[spans]
            after = np.searchsorted(places, z[i])
            yield from ((i, float(place)) for place in places[max(after - 1, 0) : after + 1])
