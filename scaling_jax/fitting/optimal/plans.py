"""Choosing runs within a budget, one after another, by what they tell: of the whole surface or of the targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

COUNTS = 6  # numbers of runs that are tried


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Candidates: N, D, C, number of the trunk, (m,); tokens of each trunk so far; the share of a run on its trunk."""

    N: np.ndarray
    D: np.ndarray
    C: np.ndarray
    trunk: np.ndarray
    longest: np.ndarray
    shared: float

    def costs(self) -> np.ndarray:
        """(m,) FLOPs that each adds to what has been trained."""
        reached = self.longest[self.trunk]
        begun = (1.0 - self.shared) + self.shared * np.maximum(1.0 - reached / self.D, 0.0)
        return self.C * np.maximum(np.where(reached > 0, begun, 1.0), 1e-3)

    def without(self, index: list[int]) -> Pool:
        """What is left to choose among once these have been run: they cost more than there is."""
        C, longest = self.C.copy(), self.longest.copy()
        C[index] = np.inf
        np.maximum.at(longest, self.trunk[index], self.D[index])
        return dataclasses.replace(self, C=C, longest=longest)


@dataclasses.dataclass(frozen=True, eq=False)
class Belief:
    """A joint normal distribution of ln y over the candidates and the targets.

    Attributes:
      K: (m, m) covariance of candidates, with the luck of their trunks.
      noise: (m,) variance of each one's own noise.
      cross: (t, m) covariance of targets with candidates.
      variance: mean variance of the targets.
    """

    K: np.ndarray
    noise: np.ndarray
    cross: np.ndarray
    variance: float

    @property
    def total(self) -> np.ndarray:
        """(m,) variance of what each candidate would be seen to be."""
        return np.maximum(np.diag(self.K), 0.0) + self.noise

    def after(self, i: int) -> Belief:
        """The belief once candidate i has been run, whatever it gives."""
        total = float(self.total[i])
        cross = self.cross - np.outer(self.cross[:, i], self.K[i]) / total
        left = self.variance - float(np.mean(self.cross[:, i] ** 2)) / total
        return Belief(self.K - np.outer(self.K[:, i], self.K[i]) / total, self.noise, cross, max(left, 0.0))

    def narrowed(self, index: list[int]) -> tuple[Belief, list[float]]:
        """The belief after all of these runs, and the targets' variance after each, in their order."""
        belief, left = self, []
        for i in index:
            belief = belief.after(i)
            left.append(belief.variance)
        return belief, left


Criterion = Callable[[Belief], np.ndarray]


def of_targets(belief: Belief) -> np.ndarray:
    """(m,) what each candidate takes off the targets' variance."""
    return np.mean(belief.cross**2, axis=0) / belief.total


def of_surface(belief: Belief) -> np.ndarray:
    """(m,) nats that each candidate tells about the surface: 0.5 ln(1 + its variance over that of its noise)."""
    return 0.5 * np.log(belief.total / belief.noise)


def best_plan(
    belief: Belief, criterion: Criterion, least: float, pool: Pool, budget: float, most: int
) -> tuple[list[int], list[float]]:
    """(candidates, what each costs) of the best of several greedy plans.

    Runs are chosen per FLOP, and by what they are worth in all among those that cost an equal share of what is left,
    for several numbers of runs (greedy maximization under a budget, as in CELF; Leskovec et al. 2007).

    Args:
      belief: before the first run.
      criterion: what a run is worth.
      least: runs that are worth less are left out.
      pool: the candidates.
      budget: FLOPs.
      most: runs at most.
    """
    counts = sorted({round(most**share) for share in np.linspace(0.0, 1.0, COUNTS)}) if most else []
    plans = [greedy(belief, criterion, least, pool, budget, most, per_flop=True)]
    plans += [greedy(belief, criterion, least, pool, budget, count, per_flop=False) for count in counts]
    return max(plans, key=lambda plan: plan[2])[:2]


def greedy(
    belief: Belief, criterion: Criterion, least: float, pool: Pool, budget: float, most: int, *, per_flop: bool
) -> tuple[list[int], list[float], float]:
    """(candidates, what each costs, what all are worth); arguments as those of `best_plan`."""
    left, worth = budget, 0.0
    chosen: list[int] = []
    paid: list[float] = []
    while len(chosen) < most:
        costs, gain = pool.costs(), criterion(belief)
        share = left if per_flop else left / (most - len(chosen))
        usable = (costs <= share * (1 + 1e-9)) & (gain > least)
        if not usable.any():
            break
        best = int(np.argmax(np.where(usable, gain / costs if per_flop else gain, -np.inf)))
        belief, pool, left, worth = belief.after(best), pool.without([best]), left - costs[best], worth + gain[best]
        chosen.append(best)
        paid.append(float(costs[best]))
    return chosen, paid, worth
