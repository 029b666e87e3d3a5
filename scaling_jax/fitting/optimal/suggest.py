"""`fitting.suggest`: the runs that would narrow a forecast most for their cost.

Runs are chosen one after another, each by what it tells for its FLOPs, in two stages (a D-optimal start and a c-optimal
end, as in sequential design; Atkinson & Donev 1992):

- Spread. Below twenty runs, ten for each input (the size of a first design; Loeppky et al. 2009), the law is hardly
  known, and what would sharpen it at one place is not known either. At most half of the budget, and of the runs, then
  goes to what tells most about the whole surface under an ensemble of laws: see `ensemble`.
- Sharpen. The rest goes to what takes most off the variance of the targets under the forecast: see `joint`.

A budget that does not buy such a start goes to the targets, all of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from scaling_jax.fitting.data import as_column, check_int, check_level, check_positive, column_of, names_of
from scaling_jax.fitting.errors import FitError
from scaling_jax.fitting.forecast import Forecast
from scaling_jax.fitting.inference.mixture import Mixture
from scaling_jax.fitting.optimal import plans
from scaling_jax.fitting.optimal.joint import belief_of, surface_belief
from scaling_jax.fitting.optimal.plans import Belief, Pool
from scaling_jax.text import short, table

SPREAD_RUNS = 20  # from which on all is chosen for the targets
SPREAD_SHARE = 0.5  # of the budget, at most, for the surface before that
NEGLIGIBLE = 1e-3  # of the targets' variance, or of a nat: runs that are worth less are left out
ENOUGH = 0.1  # of the interval's width: plans that take off less are not worth running
AROUND = (0.5, 1.0, 2.0)  # times N* at the target compute: the optimum itself is uncertain
CHOICES = 15  # sizes, and tokens, of the default candidates
RUNS = np.dtype([(k, np.float64) for k in ("N", "D", "cost", "width")])


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Suggestion:
    """Runs to make next, in the order they were chosen. Made by `suggest`.

    Attributes:
      runs: record array `.N .D .cost` (FLOPs that it adds) and `.width`, the expected half-width of the target's
        interval, relative to y, after this run and those before it.
      index: positions of the runs among the candidates.
      before: that half-width now.
      part_of_run: the half-width that would be left by the scatter of one run alone.
      target: {"N": (t,), "D": (t,)} the runs that are forecast; widths are averages over them.
      level: of the interval.
      budget: FLOPs that were given.
      stop: True where nothing within the budget narrows the interval by a tenth.
    """

    runs: np.recarray
    index: np.ndarray
    before: float
    part_of_run: float
    target: dict[str, np.ndarray]
    level: float
    budget: float
    stop: bool

    @property
    def after(self) -> float:
        """Expected relative half-width after all runs."""
        return float(self.runs.width[-1]) if len(self.runs) else self.before

    @property
    def cost(self) -> float:
        """FLOPs of all runs."""
        return float(self.runs.cost.sum())

    def text(self) -> str:
        """The runs as a table, under a sentence on what they are worth."""
        N, D = (float(np.median(self.target[k])) for k in ("N", "D"))
        now = f"the {self.level:.0%} interval at N = {short(N)}, D = {short(D)} is +-{self.before:.2%}"
        if self.stop:
            best = f", the best plan leaves +-{self.after:.2%}" if len(self.runs) else ""
            why = f"nothing within {self.budget:.3g} FLOPs narrows it by {ENOUGH:.0%}{best}"
            if self.part_of_run > 0.7 * self.before:
                why += f"; the scatter of one run alone is +-{self.part_of_run:.2%}"
            return f"stop: {now}, and {why}"
        rows = [(short(r.N), short(r.D), f"{r.cost:.3g}", f"{r.width:.2%}") for r in self.runs]
        head = f"{now}; after these {len(rows)} runs ({self.cost:.3g} FLOPs) it should be +-{self.after:.2%}"
        return "\n".join([head, table(("N", "D", "FLOPs", "then +-"), rows)])

    __repr__ = text


def suggest(
    forecast: Forecast,
    budget_flops: float,
    *,
    target_flops: float | None = None,
    target: Any = None,
    candidates: Any = None,
    trunks: Any = None,
    trained: Mapping[Any, float] | None = None,
    shared: float = 0.0,
    runs: int = 8,
    repeats: Any = 1,
) -> Suggestion:
    """Chooses the runs that narrow the forecast at the target most for their cost, within a budget.

    From fewer than twenty runs the law is hardly known: up to half of the new ones and of the budget then go to what
    tells most about the whole surface.

    Args:
      forecast: of a loss in N and D.
      budget_flops: to spend on these runs.
      target_flops: compute of the run that is being planned: its N* and sizes around it are forecast. None takes ten
        times the largest of the data.
      target: dict or DataFrame with N and D of the runs that are being planned, instead of `target_flops`.
      candidates: dict or DataFrame with N and D to choose among, and FLOPs of each run as C (6ND by default). None
        takes a grid from the smallest to three times the largest N and D of the data.
      trunks: (m,) the trunk that each candidate branches off; None makes every run on its own. Branches share luck.
      trained: {trunk: tokens of its longest run so far}: a longer budget of it costs only the extension.
      shared: share of a run's tokens that lie on its trunk: 1 - cooldown_fraction of WSD.
      runs: at most this many.
      repeats: runs (seeds) made at each candidate, a number or (m,); C is of all together.

    Returns:
      A `Suggestion` with `.runs`, `.before`, `.after`, `.stop` and `.text()`.

    Raises:
      FitError: the forecast is not of N and D, candidates or targets that are not positive, or none is affordable.

    Example:
      >>> import numpy as np
      >>> from scaling_jax import fitting
      >>> N, D = (v.ravel() for v in np.meshgrid(np.logspace(7, 8, 4), np.logspace(9, 10, 4)))
      >>> noisy = (1.7 + 480 / N**0.35 + 2100 / D**0.37) * np.exp(0.003 * np.random.default_rng(0).normal(size=16))
      >>> found = fitting.suggest(fitting.forecast({"N": N, "D": D}, noisy), 1e20, target_flops=1e21)
      >>> bool(found.after < found.before and found.cost <= 1e20)
      True
    """
    if not isinstance(forecast, Forecast):
        raise FitError(f"suggest reads a forecast, from fitting.forecast, not {type(forecast).__name__}.")
    mixture = forecast._mixture
    if not {"N", "D"} <= set(mixture.ranges):
        raise FitError("suggest plans runs over N and D: give a forecast of a loss in N and D.")
    check_positive(budget_flops, "budget_flops", "1e20")
    check_int(runs, "runs", 1)
    check_level(forecast.level)
    aims = _targets(forecast, target_flops, target)
    N, D, C = _candidates(mixture, candidates)
    labels = list(range(N.size) if trunks is None else trunks)
    if len(labels) != N.size:
        raise FitError(f"trunks has {len(labels)} entries for {N.size} candidates.")
    if not (isinstance(shared, (int, float, np.number)) and 0 <= shared <= 1):
        raise FitError(f"shared={shared!r}: give the share of a run on its trunk, between 0 and 1.")
    if not isinstance(trained, Mapping | None):
        raise FitError(f"trained={trained!r}: give a dict {{trunk: tokens}}.")
    places = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    longest = np.array([(trained or {}).get(label, 0.0) for label in places])
    pool = Pool(N, D, C, np.array([places[label] for label in labels]), longest, float(shared))
    seeds = as_column(np.full(N.size, repeats) if np.isscalar(repeats) else repeats, "repeats", N.size, "N")
    if np.any(~(seeds >= 1)):
        raise FitError(f"repeats={repeats!r}: give 1 or more.")
    if (cheapest := float(pool.costs().min())) > budget_flops:
        why = f"budget_flops {budget_flops:.3g} is below the cheapest candidate, {cheapest:.3g} FLOPs: raise it."
        raise FitError(why)
    belief, run = belief_of(forecast, pool, aims, seeds)
    index, paid, stop = _chosen(forecast, belief, run, pool, seeds, budget_flops, runs)
    found = forecast.predict(dict(aims))
    before = float(np.mean(0.5 * np.log(found.high / found.low)))
    widths = before * _narrowed(belief, run, index)
    records = np.rec.fromarrays([N[index], D[index], np.array(paid), widths], dtype=RUNS)
    of_run = before * float(np.sqrt(run / (run + belief.variance)))
    return Suggestion(
        records, np.array(index, int), before, of_run, aims, forecast.level, float(budget_flops), stop
    )  # fmt: skip


def _chosen(
    forecast: Forecast, belief: Belief, run: float, pool: Pool, seeds: np.ndarray, budget: float, most: int
) -> tuple[list[int], list[float], bool]:
    """(candidates, what each costs, whether the best of them do not help): spread first, then at the targets."""
    least = NEGLIGIBLE * belief.variance
    index, paid = plans.best_plan(belief, plans.of_targets, least, pool, budget, most)
    stop = not index or bool(_narrowed(belief, run, index)[-1] > 1 - ENOUGH)
    lacking = min(SPREAD_RUNS - forecast.n, most // 2)
    if lacking <= 0 or stop or np.sort(pool.costs())[:lacking].sum() > budget:
        return index, paid, stop
    surface, share = surface_belief(forecast, pool, seeds), SPREAD_SHARE * budget
    index, paid, _ = plans.greedy(surface, plans.of_surface, NEGLIGIBLE, pool, share, lacking, per_flop=True)
    known, rest = belief.narrowed(index)[0], pool.without(index)
    more = plans.best_plan(known, plans.of_targets, least, rest, budget - sum(paid), most - len(index))
    return index + more[0], paid + more[1], False


def _narrowed(belief: Belief, run: float, index: list[int]) -> np.ndarray:
    """The targets' widths after each run, the scatter of one included, relative to that now."""
    left = np.array(belief.narrowed(index)[1])
    return np.sqrt((run + left) / (run + belief.variance))


def _targets(forecast: Forecast, target_flops: float | None, target: Any) -> dict[str, np.ndarray]:
    if target is not None:
        aims = {k: as_column(np.atleast_1d(column_of(target, k)), k) for k in ("N", "D")}
        if any(np.any(~(v > 0)) for v in aims.values()):
            raise FitError("target: N and D must be positive.")
        return aims
    largest = forecast.ranges["C"][1]
    C = 10 * largest if target_flops is None else check_positive(target_flops, "target_flops", "1e22")
    frontier = forecast.frontier(C)
    if frontier.N is not None:
        N = float(frontier.N) * np.array(AROUND)
    else:  # no answer: the tokens per parameter of the largest runs
        N = np.array([np.sqrt(C / 6.0 / np.exp(forecast._top_ratio()))])
    return {"N": N, "D": C / (6.0 * N)}


def _candidates(mixture: Mixture, given: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if given is None:
        ends = [(low, 3 * high) for low, high in (mixture.ranges["N"], mixture.ranges["D"])]
        N, D = (v.ravel() for v in np.meshgrid(*(np.geomspace(*e, CHOICES) for e in ends), indexing="ij"))
        return N, D, 6.0 * N * D
    N, D = (as_column(column_of(given, k), k) for k in ("N", "D"))
    C = as_column(column_of(given, "C"), "C") if "C" in (names_of(given) or ()) else 6.0 * N * D
    if not N.size or not N.size == D.size == C.size or np.any(~(np.minimum(np.minimum(N, D), C) > 0)):
        raise FitError("candidates: N, D and C must be positive columns of one length.")
    return N, D, C
