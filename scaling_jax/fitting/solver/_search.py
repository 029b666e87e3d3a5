"""From data to the optimum and its certificate: starts, descents, polish, and how many starts agree.

Laws with few parameters have one basin that most starts fall into. Broken laws have many: where fewer than three in
four starts agree, the best ends are perturbed (some coordinates redrawn, the others kept) and descended again
until that stops helping, which is iterated local search (Lourenco, Martin & Stutzle 2003). Starts can also agree on
an optimum that is not the best, so it is probed: no descent from it with one or two coordinates elsewhere, out to
their bounds, may end lower.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from scaling_jax.fitting.solver._levenberg_marquardt import Minima, levenberg_marquardt
from scaling_jax.fitting.solver._newton import newton
from scaling_jax.fitting.solver._problem import Problem
from scaling_jax.fitting.solver._refine import GRADIENT_TOLERANCE, local_optimum, refine, relative_gradient
from scaling_jax.fitting.solver._starts import choose, perturb, probe_starts

STARTS = 24
ENOUGH, MORE_STARTS = 0.75, 288  # share of starts that must agree, and how many more there are where they do not
RARE, BATCHES = 0.03, 4  # share of starts below which an optimum is rare, and how often there are more while it is
ELITE, COPIES, ROUNDS = 12, 32, 24  # best ends perturbed, copies of each, rounds at most
COMMON, STALE = 0.05, 3  # share of starts that makes an optimum common, rounds without gain where it is not
PROBING = 6  # rounds of probing at most
SEARCH_ROWS = 4096  # with more rows than this, starts are compared on a sample and finished on all rows
RACED, HEATS, PART = 64, (8, 12), 4  # so many starts are raced: steps of heats, and the part (one in) that continues
FINALISTS = 12  # of a race, at least
LONGER, SMOOTH = 150, 0.02  # steps of longer descents, and the threshold, in mean residuals, that they start with
FIRST_LEG = 40  # steps after which a start that is still under way is given up if it is about to end above the others
HEAT_ROWS = 64  # the first heat sees a sample of so many rows, where there are a third more
SAME = 1e-6  # relative difference of objective values below which two ends are one optimum
DIFFERENT = 1e-4  # and above which they are two


@dataclass(frozen=True)
class Certificate:
    """Evidence that the optimum is the global one.

    Attributes:
      gradient: largest component of the gradient, relative to the sum of its terms' sizes (for LAD: of the
        subgradient closest to zero). Below 1e-8 it is a stationary point to working precision.
      starts: how many distinct starts were descended.
      agree: how many of them ended in this optimum.
      next_best: objective value of the best other optimum that a start ended in; None if there was none.
      rows: how many rows the starts were compared on (all of them up to 4096).
      lower_outside: {"value", "params"} of a lower optimum outside the law's plausible range, which was not taken.
      moved: how many further descents began at the best ends with some coordinates changed.
      moved_agree: how many of those ended in this optimum.
    """

    gradient: float
    starts: int
    agree: int
    next_best: float | None
    rows: int
    lower_outside: dict | None = None
    moved: int = 0
    moved_agree: int = 0

    def __str__(self) -> str:
        more = f" ({self.moved_agree} of {self.moved} restarts)" if self.moved else ""
        other = "no other optimum seen" if self.next_best is None else f"next best optimum {self.next_best:.10g}"
        return f"gradient {self.gradient:.1e}, {self.agree} of {self.starts} starts agree{more}, {other}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def minimize(problem: Problem, seed: int = 0, starts: int | np.ndarray | None = None) -> tuple[np.ndarray, Certificate]:
    """The best optimum found, and its certificate.

    For a law with a plausible range, an optimum inside it is preferred; a lower one outside is in the certificate.

    Args:
      problem: a `Problem`.
      seed: of the starting points.
      starts: how many starts, or an array (b, p) of them; None for the default, more where they disagree.

    Returns:
      z (p,), `Certificate`.
    """
    plausible = problem.within(problem.law.plausible_range)
    z, certificate = _minimize(problem, seed, starts)
    if not np.any((z < plausible.lower) | (z > plausible.upper)):
        return z, certificate
    inside, inner = _minimize(plausible, seed, starts)
    if inner.gradient > GRADIENT_TOLERANCE or relative_gradient(problem, inside) > GRADIENT_TOLERANCE:
        return z, certificate  # nothing stationary inside: its best is at the edge of the plausible range
    value = float(problem.value(z[None])[0])
    return inside, replace(inner, lower_outside={"value": value, "params": problem.params(z)})


def _minimize(problem: Problem, seed: int, starts: int | np.ndarray | None) -> tuple[np.ndarray, Certificate]:
    sample = _sample(problem, seed)
    if starts is None:
        first, further = _search(sample, seed)
    else:
        if isinstance(starts, (int, np.integer)):
            first = _descend(sample, choose(sample, int(starts), seed), 100)
        else:  # given by the user: descend from there, without smoothing
            first = levenberg_marquardt(sample, np.atleast_2d(starts), max_steps=400, tolerance=1e-10, widen=0.02)
        further = _rows(first, slice(0))
    ends = _concatenate(first, further)
    z, gradient = _finish(problem, sample, ends)
    agree = _agree(sample, ends.value)
    others = ends.value[ends.converged & (ends.value > np.min(ends.value) * (1 + DIFFERENT) + _noise(sample))]
    next_best = float(others.min()) if len(others) else None
    if next_best is not None and sample is not problem:
        next_best *= problem.weights.sum() / sample.weights.sum()
    return z, Certificate(
        gradient, len(first.value), int(agree[: len(first.value)].sum()), next_best, sample.n,
        moved=len(further.value), moved_agree=int(agree[len(first.value) :].sum()),
    )  # fmt: skip


def _search(problem: Problem, seed: int) -> tuple[Minima, Minima]:
    """Ends of independent starts, and of further descents from the best of them."""
    first = _first_ends(problem, choose(problem, STARTS, seed))
    further, thorough = _rows(first, slice(0)), False
    doubtful = _agree(problem, first.value).mean() < ENOUGH
    for _ in range(PROBING):
        if doubtful and not thorough:
            for batch in range(1, BATCHES + 1):
                more = choose(problem, MORE_STARTS, seed + batch)
                known = first.value.min() * (1 + SAME) + _noise(problem)
                first = _concatenate(first, _descend(problem, more, 200, 1, known))
                if not is_rare(_agree(problem, first.value).sum(), len(first.value)):
                    break
            further, thorough = _iterated_local_search(problem, _concatenate(first, further), seed), True
        ends = _concatenate(first, further)
        best = ends.value.min()
        if best <= _noise(problem):
            break
        known = best * (1 + SAME) + _noise(problem)
        probed = _descend(problem, probe_starts(problem, ends.z[np.argmin(ends.value)]), 100, 2, known)
        further = _concatenate(further, probed)
        if not _better(problem, probed, best):
            break
        further, doubtful = _concatenate(further, _extend_best(problem, probed)), True
    return first, further


def _first_ends(problem: Problem, z: np.ndarray) -> Minima:
    """Ends of descents from z; where most have met in one optimum, those that are still under way may end there too.

    The others are given up if they are about to end above it.
    """
    ends = _descend(problem, z, FIRST_LEG)
    late = np.flatnonzero(~ends.converged)
    above = np.inf
    if np.mean(ends.converged & _agree(problem, ends.value)) >= ENOUGH:
        above = ends.value.min() * (1 + SAME) + _noise(problem)
    if len(late):
        widen = np.where(late % 2, 0.02, 0.3)
        more = levenberg_marquardt(problem, ends.z[late], None, 100 - FIRST_LEG, 1e-10, widen, above)
        for whole, part in zip(vars(ends).values(), vars(more).values()):
            whole[late] = part
    return ends


def _iterated_local_search(problem: Problem, ends: Minima, seed: int) -> Minima:
    """The ends of descents from the best of `ends`, perturbed and descended again until nothing better is found.

    One round without gain is enough where many starts agree on the best, STALE rounds where it is rare.
    """
    stale, known = 0, len(ends.value)
    for round_ in range(ROUNDS):
        if stale == 0:
            ends = _concatenate(ends, _extend_best(problem, ends))
        best = ends.value.min()
        elite = _best_apart(problem, ends, ELITE)
        z = perturb(problem, ends.z[elite], COPIES, seed + round_)
        ends = _concatenate(ends, _descend(problem, z, 200, 2))
        stale = 0 if _better(problem, ends, best) else stale + 1
        enough = 1 if _agree(problem, ends.value)[:known].mean() >= COMMON else STALE
        if stale >= enough or best <= _noise(problem):
            break
    return _rows(ends, slice(known, None))


def _extend_best(problem: Problem, ends: Minima) -> Minima:
    """Ends of longer descents from the best of `ends`: what is left of a flat valley must not pass for a gain.

    In a curved valley descents crawl, and Newton's method, which sees the curvature, goes on.
    """
    more = _longer(problem, ends.z[np.argmin(ends.value)])
    if more.converged.all():
        return more
    smooth = problem
    if problem.objective.delta == 0:
        smooth = problem.smoothed(
            SMOOTH * float(np.average(np.abs(problem.residuals(more.z)[0]), weights=problem.weights))
        )
    return _concatenate(more, _longer(problem, newton(smooth, more.z[0])))


def _longer(problem: Problem, z: np.ndarray) -> Minima:
    return levenberg_marquardt(problem, z, max_steps=LONGER, tolerance=1e-16, widen=SMOOTH)


def is_rare(agree: int, starts: int) -> bool:
    return agree < max(2, RARE * starts)


def _better(problem: Problem, ends: Minima, best: float) -> bool:
    return ends.value.min() < best * (1 - SAME) - _noise(problem)


def _concatenate(ends: Minima, more: Minima) -> Minima:
    return Minima(*(np.concatenate(pair) for pair in zip(vars(ends).values(), vars(more).values())))


def _rows(ends: Minima, index: slice) -> Minima:
    return Minima(*(v[index] for v in vars(ends).values()))


def _best_apart(problem: Problem, ends: Minima, most: int, worst: float = np.inf) -> list[int]:
    """Indices of the best ends that differ in value, at most `most`, none above `worst`."""
    order, value = np.argsort(ends.value), ends.value
    picked = [order[0]]
    for i in order[1:]:
        if len(picked) == most or not value[i] <= worst:
            break
        if value[i] > value[picked[-1]] * (1 + SAME) + _noise(problem):
            picked.append(i)
    return picked


def _descend(problem: Problem, z: np.ndarray, max_steps: int, heats: int = 0, above: float = np.inf) -> Minima:
    """Every other start sees the objective smoothed at first: some optima are missed with it, others without.

    Many starts are raced: all take a few steps on a sample of the rows, the lowest part of them (in a second heat) a
    few more on all rows, and the lowest part of those continues to the end, which is enough to find a lower optimum.
    The others end where they are.

    Args:
      heats: of the race, 0 to 2.
      above: descents that are about to end above this objective value are given up after the first heat.
    """
    widen = np.where(np.arange(len(z)) % 2, 0.02, 1.0)
    if not heats or len(z) < RACED:
        return levenberg_marquardt(problem, z, None, max_steps, 1e-10, widen, above)
    rows = max(HEAT_ROWS, 6 * z.shape[1])
    few = _sample(problem, 0, rows, round(1.3 * rows))
    ends = levenberg_marquardt(few, z, None, HEATS[0], 1e-10, widen)
    if few is not problem:
        ends = Minima(ends.z, problem.value(ends.z), np.zeros(len(z), bool), np.zeros(len(z), bool))
    front = np.arange(len(z))
    for steps in (*HEATS[1:heats], max_steps):
        ranked = front[np.argsort(ends.value[front])]
        front, losers = np.split(ranked, [max(len(front) // PART, FINALISTS)])
        ends.given_up[losers] = True
        front = front[~ends.converged[front]]
        if not len(front):
            break
        widen = np.minimum(widen, 0.3)
        more = levenberg_marquardt(problem, ends.z[front], None, steps, 1e-10, widen[front], above)
        for whole, part in zip(vars(ends).values(), vars(more).values()):
            whole[front] = part
    return ends


def _finish(problem: Problem, sample: Problem, ends: Minima, also_given_up: bool = False) -> tuple[np.ndarray, float]:
    """Finishes the best end, and the next best if they may have been misjudged: not converged, or on a sample.

    Ends that were given up are among them only where the best one cannot be finished.
    """
    best, *others = _best_apart(sample, ends, 3, 1.05 * ends.value.min() + _noise(sample))
    if sample is problem:  # an end that converged at a higher value is kept, or is about to
        others = [i for i in others if not (ends.converged[i] or (ends.given_up[i] and not also_given_up))]
    z = ends.z[[best, *others]]
    if sample is not problem:
        z = levenberg_marquardt(problem, z).z
    z = np.stack([local_optimum(problem, row) for row in z])
    found = refine(problem, z[np.argmin(problem.value(z))], 2000 if sample is problem else 200)
    doubtful = found[1] > GRADIENT_TOLERANCE and not also_given_up and sample is problem
    return _finish(problem, sample, ends, True) if doubtful else found


def _agree(problem: Problem, values: np.ndarray) -> np.ndarray:
    return values <= values.min() * (1 + SAME) + _noise(problem)


def _noise(problem: Problem) -> float:
    """Objective value of residuals at rounding level: noise-free data end anywhere below it."""
    unit = 1.0 if problem.objective.log else np.max(np.abs(problem.y))
    return float(problem.objective.value(np.full(problem.n, 1e-9 * unit), problem.weights))


def _sample(problem: Problem, seed: int, rows: int = SEARCH_ROWS, most: int = SEARCH_ROWS) -> Problem:
    """`rows` of the problem at random, or the problem where it has at most `most`."""
    if problem.n <= most:
        return problem
    index = np.random.default_rng(seed).choice(problem.n, rows, replace=False)
    sample = problem.rows(np.sort(index))
    return sample if sample.weights.any() else problem
