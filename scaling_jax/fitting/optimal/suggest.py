"""`fitting.suggest`: the runs that would narrow a forecast most for their cost.

The forecast is read as a joint normal distribution of ln y over the target and all candidates, whose covariances are
those of its parts:

- resampling: sum_k w_k cov(ln f_k) over the resamples of each law;
- laws: the share of the covariance between laws, sum_k w_k (ln f_k - mu)(ln f_k - mu)', in the directions that the
  runs so far leave open: where laws differ among the runs that exist, one more of these tells little;
- drift: tau(u) d tau(u') d' r(d, d') k(u, u') beyond the data, with d in decades of compute, u = ln(D / N), k the
  kernel of similar runs and r = min(d / d', d' / d)^(1/4): a run at d leaves about (d* - d)^2 of the drift at d*, which
  is what the forecast will count once its data reach d.

A run that is made conditions it, with the scatter of one run as noise; small runs count as little as they weigh in the
forecast's fits. A further branch of a trunk that exists repeats its luck, which the fits have followed: it is compared
with the trunk's other branches, so that it tells how ln y bends along the trunk, and little about its level.

Runs are chosen one after another by what each takes off the target's variance: per FLOP, and by how much in all among
those that cost an equal share of what is left, for several numbers of runs; the best plan is kept (greedy maximization
under a budget, as in CELF; Leskovec et al. 2007).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from scaling_jax.fitting.data import as_column, check_int, check_level, check_positive, column_of, names_of
from scaling_jax.fitting.errors import FitError
from scaling_jax.fitting.forecast import Forecast
from scaling_jax.fitting.inference.mixture import LAW_SHARE, SIMILAR, Mixture, combined, log_ratio
from scaling_jax.fitting.inference.rolling import LARGEST_ROWS, LARGEST_SHARE, RECENCY, Ladder, Member
from scaling_jax.text import short, table

ENOUGH = 0.1  # of the interval's width: plans that take off less are not worth running
DRIFT_MEMORY = 0.25  # exponent of r(d, d')
OUTLYING = 4.0  # robust standard deviations at the target from which a resample has run off
AROUND = (0.5, 1.0, 2.0)  # times N* at the target compute: the optimum itself is uncertain
PLANS = 6  # numbers of runs that are tried
NEGLIGIBLE = 1e-3  # of the target's variance: runs that take off less are left out
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
    pool = _Pool(N, D, C, np.array([places[label] for label in labels]), longest, float(shared))
    seeds = as_column(np.full(N.size, repeats) if np.isscalar(repeats) else repeats, "repeats", N.size, "N")
    if np.any(~(seeds >= 1)):
        raise FitError(f"repeats={repeats!r}: give 1 or more.")
    joint = _joint(forecast, pool, aims, seeds)
    chosen = _best_plan(joint, pool, budget_flops, runs)
    before, of_run = _widths(forecast, aims, joint)
    records = [
        (N[i], D[i], cost, before * np.sqrt((joint.run + left) / (joint.run + joint.variance)))
        for i, cost, left in chosen
    ]
    found = np.array(records, dtype=RUNS).view(np.recarray)
    after = found.width[-1] if len(found) else before
    return Suggestion(
        found, np.array([i for i, *_ in chosen], int), before, of_run, aims, forecast.level, float(budget_flops),
        bool(after > (1 - ENOUGH) * before),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class _Pool:
    """Candidates: N, D, C, number of the trunk, (m,); tokens of each trunk so far; the share of a run on its trunk."""

    N: np.ndarray
    D: np.ndarray
    C: np.ndarray
    trunk: np.ndarray
    longest: np.ndarray
    shared: float

    def costs(self, longest: np.ndarray) -> np.ndarray:
        """(m,) FLOPs that each adds where the trunks have been trained to `longest`."""
        reached = longest[self.trunk]
        begun = (1.0 - self.shared) + self.shared * np.maximum(1.0 - reached / self.D, 0.0)
        return self.C * np.maximum(np.where(reached > 0, begun, 1.0), 1e-3)


@dataclasses.dataclass(frozen=True, eq=False)
class _Joint:
    """The joint distribution: K (m, m) of candidates with the luck of their trunks, their own noise (m,), covariances
    with the targets (t, m), the targets' mean variance, and the mean variance of one run there."""

    K: np.ndarray
    noise: np.ndarray
    cross: np.ndarray
    variance: float
    run: float


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


def _joint(forecast: Forecast, pool: _Pool, aims: Mapping[str, np.ndarray], repeats: np.ndarray) -> _Joint:
    mixture, ladder = forecast._mixture, forecast._ladder
    m, t = pool.N.size, len(aims["N"])
    inputs = {"N": np.concatenate([pool.N, aims["N"]]), "D": np.concatenate([pool.D, aims["D"]])}
    u = log_ratio(inputs, m + t)
    run = np.interp(u, mixture.ratio, mixture.run)
    noise = run[:m] / repeats / _recency(ladder.scale, ladder.worth, 6.0 * pool.N * pool.D)
    shared, siblings = _shared_luck(mixture, pool, ladder.inputs["N"], repeats)
    K = _laws(mixture, ladder, inputs, m, np.pad(siblings, ((0, 0), (0, t)))) + _drift(mixture, inputs, u)
    own = np.sqrt(shared * noise)
    same = pool.trunk[:, None] == pool.trunk[None]
    return _Joint(
        K=K[:m, :m] + same * np.outer(own, own),
        noise=(1.0 - _share(mixture)) * noise + 1e-12,
        cross=K[m:, :m],
        variance=float(np.mean(np.diag(K)[m:])),
        run=float(np.mean(run[m:])),
    )


def _share(mixture: Mixture) -> float:
    """The share of the scatter of one run that all branches of its trunk have in common."""
    between, within = mixture.noise.between, mixture.noise.within
    if between is None or within is None or not between:
        return 0.0
    return between**2 / (between**2 + within**2)


def _shared_luck(mixture: Mixture, pool: _Pool, N: np.ndarray, repeats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is unknown of the luck of each candidate's trunk, and what is known of it by its siblings.

    Returns:
      (m,) shares of the scatter of one run, and (n, m) weights of the runs that exist: the luck of a trunk is estimated
      by the mean residual of its branches, shrunk.
    """
    share = _share(mixture)
    shares, siblings = np.full(pool.N.size, share), np.zeros((N.size, pool.N.size))
    if not share:
        return shares, siblings
    for i in np.flatnonzero(pool.longest[pool.trunk] > 0):
        rows = np.flatnonzero(np.abs(np.log(N / pool.N[i])) < 1e-6)
        if rows.size:
            left = (1.0 - share) / ((1.0 - share) + share * rows.size / repeats[i])
            shares[i] = share * left
            siblings[rows, i] = (1.0 - left) / rows.size
    return shares, siblings


def _recency(scale: np.ndarray, worth: np.ndarray, C: np.ndarray) -> np.ndarray:
    """(m,) weights that runs of compute C would have in the fits: see `rolling.recency_weights`."""
    order = np.argsort(-scale, kind="stable")
    total = np.cumsum(worth[order])
    last = min(int(np.searchsorted(total, max(LARGEST_ROWS, LARGEST_SHARE * total[-1]) * (1 - 1e-9))), scale.size - 1)
    return np.minimum(C / scale[order[last]], 1.0) ** RECENCY


def _laws(
    mixture: Mixture, ladder: Ladder, inputs: Mapping[str, np.ndarray], m: int, siblings: np.ndarray
) -> np.ndarray:
    """Covariance of ln y over resamples and laws; at the targets as large as `Mixture.parts` has it."""
    aimed = {k: v[m:] for k, v in inputs.items()}
    parts = mixture.parts(aimed)[1]
    each = [_resampled(member, ladder, inputs, m, siblings) for member in mixture.members]
    resampled = np.einsum("k,kij->ij", mixture.weights, np.stack(each))
    seen = _between(mixture, ladder.inputs)
    away = _between(mixture, inputs) - seen @ siblings
    noise = np.interp(log_ratio(ladder.inputs, len(ladder.y)), mixture.ratio, mixture.run) + 1e-12
    prior = np.diag(1.0 / (LAW_SHARE * np.maximum(mixture.weights, 1e-9)))
    left = np.linalg.inv(prior + (seen * ladder.worth / noise) @ seen.T)
    return _scaled(resampled, parts["resampling"], m) + _scaled(away.T @ left @ away, parts["laws"], m)


def _between(mixture: Mixture, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """(k, points) ln of each law over that of their mean; 0 where a law has no value."""
    logs = np.stack([k.log(k.fit.params, inputs) for k in mixture.members])
    return np.where(np.isfinite(logs), logs - combined(logs, mixture.weights)[0], 0.0)


def _scaled(K: np.ndarray, variance: np.ndarray, m: int) -> np.ndarray:
    """K times what makes its mean variance at the targets that of the forecast."""
    return K * (np.mean(variance) / max(float(np.mean(np.diag(K)[m:])), 1e-300))


def _resampled(
    member: Member, ladder: Ladder, inputs: Mapping[str, np.ndarray], m: int, siblings: np.ndarray
) -> np.ndarray:
    """Covariance of ln f over the resamples that did not run off."""
    logs = member.log(member.samples, inputs) - member.log(member.samples, ladder.inputs) @ siblings
    logs = logs[np.isfinite(logs).all(axis=1)]
    if len(logs) < 2:
        return np.zeros((logs.shape[1],) * 2)
    away = logs - np.median(logs, axis=0)
    spread = 1.4826 * np.median(np.abs(away), axis=0)
    good = (np.abs(away) <= OUTLYING * spread + 1e-12)[:, m:].all(axis=1)
    kept = away[good] if good.sum() > 1 else away
    kept = np.clip(kept, -OUTLYING * spread, OUTLYING * spread)
    kept = kept - kept.mean(axis=0)
    return kept.T @ kept / len(kept)


def _drift(mixture: Mixture, inputs: Mapping[str, np.ndarray], u: np.ndarray) -> np.ndarray:
    """Covariance of the drift; runs within the compute of the data say nothing about the drift beyond it."""
    beyond = np.maximum(np.log10(6.0 * inputs["N"] * inputs["D"] / mixture.ranges["C"][1]), 0.0)
    size = np.sqrt(np.interp(u, mixture.ratio, mixture.drift)) * mixture.decades(inputs)
    ln = np.log(np.maximum(beyond, 1e-12))
    memory = np.exp(-DRIFT_MEMORY * np.abs(ln[:, None] - ln)) * ((beyond > 0)[:, None] & (beyond > 0))
    similar = np.exp(-0.5 * ((u[:, None] - u) / SIMILAR) ** 2)
    correlation = np.where(np.eye(len(u), dtype=bool), 1.0, memory * similar)
    return np.outer(size, size) * correlation


def _best_plan(joint: _Joint, pool: _Pool, budget: float, most: int) -> list[tuple[int, float, float]]:
    """(candidate, its cost, mean variance of the targets after it) of the better greedy plan.

    Raises:
      FitError: no candidate is within the budget.
    """
    cheapest = float(pool.costs(pool.longest).min())
    if cheapest > budget:
        raise FitError(f"budget_flops {budget:.3g} is below the cheapest candidate, {cheapest:.3g} FLOPs: raise it.")
    counts = sorted({round(most**share) for share in np.linspace(0.0, 1.0, PLANS)})
    plans = [_greedy(joint, pool, budget, most, per_flop=True)]
    plans += [_greedy(joint, pool, budget, count, per_flop=False) for count in counts]
    return min(plans, key=lambda plan: plan[-1][2] if plan else np.inf)


def _greedy(joint: _Joint, pool: _Pool, budget: float, most: int, per_flop: bool) -> list[tuple[int, float, float]]:
    K, cross, longest = joint.K.copy(), joint.cross.copy(), pool.longest.copy()
    free, left, variance = np.ones(pool.N.size, bool), budget, joint.variance
    chosen: list[tuple[int, float, float]] = []
    while len(chosen) < most:
        costs = pool.costs(longest)
        total = np.maximum(np.diag(K), 0.0) + joint.noise
        gain = np.mean(cross**2, axis=0) / total
        share = left if per_flop else left / (most - len(chosen))
        usable = free & (costs <= share * (1 + 1e-9)) & (gain > NEGLIGIBLE * joint.variance)
        if not usable.any():
            break
        best = int(np.argmax(np.where(usable, gain / costs if per_flop else gain, -np.inf)))
        cross = cross - np.outer(cross[:, best], K[best]) / total[best]
        K = K - np.outer(K[:, best], K[best]) / total[best]
        free[best], left, variance = False, left - costs[best], max(variance - gain[best], 0.0)
        longest[pool.trunk[best]] = max(longest[pool.trunk[best]], pool.D[best])
        chosen.append((best, float(costs[best]), float(variance)))
    return chosen


def _widths(forecast: Forecast, aims: Mapping[str, np.ndarray], joint: _Joint) -> tuple[float, float]:
    """Mean relative half-width of the targets' intervals, and what the scatter of one run has in it."""
    found = forecast.predict(dict(aims))
    half = float(np.mean(0.5 * np.log(found.high / found.low)))
    return half, half * float(np.sqrt(joint.run / (joint.run + joint.variance)))
