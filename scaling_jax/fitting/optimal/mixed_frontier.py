"""The compute-optimal model according to several laws, with an interval that knows how they differ and drift."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from scaling_jax.fitting.data import check_all_positive
from scaling_jax.fitting.errors import FitError
from scaling_jax.fitting.inference.mixture import Mixture, combined, half_width, unexplained
from scaling_jax.fitting.inference.rolling import Ladder, Member
from scaling_jax.fitting.optimal.allocation import best_sizes, law_columns, tokens
from scaling_jax.text import short

COLLINEAR = 0.99  # correlation of ln N and ln D from which their effects are not distinguishable
NARROW = 0.1  # standard deviation of ln(D / N) at equal compute below which it does not vary
FREE_EXPONENTS = 5  # parameters of the smallest law whose N* may grow at any rate
SPARE_RUNS = 2  # different runs needed beyond them
WIDEST = 1000.0  # upper over lower end of the interval of N* from which it is not an answer
OWN_DECADES = 1.0  # of the ladder's largest budgets in which the optimum must be among its sizes
ROOM = 1.5  # times beyond the sizes of the ladder that still count as inside
# As in inference/mixture.py, for ln N* instead of ln y; ladders differ more in how their N* drifts.
PRIOR_DRIFT, PRIOR_CUTS, LARGEST_DRIFT, LAW_SHARE = 0.4, 4.0, 1.0, 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class MixedFrontier:
    """Best N and D at each budget; arrays have the shape of C. Made by `Forecast.frontier`.

    Attributes:
      C: budgets, in the unit of the cost.
      N: best parameters: the weighted mean of ln N* over the laws.
      D: tokens that the budget buys at N.
      loss: forecast of the loss of a run there.
      interval: {"N", "D", "loss", "run": (lower, upper)}: "loss" is the expected loss at N and D, "run" the loss that
        one run there will have.
      parts: {"resampling", "laws", "drift"}: standard deviations of ln N*.
      level: of the intervals.
      answer: False where the data do not identify the optimum; then N, D, loss, interval and parts are None.
      reasons: why there is no answer, in sentences; empty with an answer.
      warnings: reasons to doubt the answer, in sentences.
    """

    C: np.ndarray
    N: np.ndarray | None
    D: np.ndarray | None
    loss: np.ndarray | None
    interval: dict[str, tuple[np.ndarray, np.ndarray]] | None
    parts: dict[str, np.ndarray] | None
    level: float
    answer: bool
    reasons: list[str]
    warnings: list[str]

    @property
    def tokens_per_parameter(self) -> np.ndarray | None:
        """D / N."""
        return None if self.N is None or self.D is None else self.D / self.N

    def __repr__(self) -> str:
        if self.N is None or self.D is None or self.loss is None or self.interval is None:
            return "\n".join(["frontier: no answer, because", *(f"  - {r}" for r in self.reasons)])
        lines = [f"frontier of several laws, {self.level:.0%} intervals"]
        for i in np.ndindex(self.C.shape):
            ends = {k: tuple(float(v[i]) for v in pair) for k, pair in self.interval.items()}
            n, d = float(self.N[i]), float(self.D[i])
            lines.append(
                f"  C {self.C[i]:.4g}: N* {short(n)} [{short(ends['N'][0])}, {short(ends['N'][1])}], "
                f"D* {short(d)} [{short(ends['D'][0])}, {short(ends['D'][1])}], "
                f"loss of a run {self.loss[i]:.4f} [{ends['run'][0]:.4f}, {ends['run'][1]:.4f}]"
            )
        return "\n".join(lines + [f"  ! {w}" for w in self.warnings])


def mixed_frontier(
    mixture: Mixture,
    ladder: Ladder,
    most_parameters: int,
    C: float | np.ndarray,
    level: float,
    **options: Callable | float | Mapping | None,
) -> MixedFrontier:
    """The `MixedFrontier` of a mixture at budgets C: see `Forecast.frontier` for the arguments.

    `most_parameters` is that of the largest law asked for, whether the runs were enough for it or not.
    """
    budgets = np.asarray(check_all_positive(C, "C"))
    if not budgets.size:
        raise FitError("C is empty: give a budget, or an array of them.")
    if not all(_has_frontier(m) for m in mixture.members):
        names = ", ".join(m.candidate.name for m in mixture.members)
        raise FitError(f"{names} have no frontier of N and D: forecast a loss in N and D.")
    reasons = _unidentified(mixture, ladder, most_parameters)
    usable = [i for i, m in enumerate(mixture.members) if not _at_bounds(m)]
    if not reasons:
        reasons = _optimum_outside(mixture, ladder, usable)
    if reasons:
        return _no_answer(budgets, level, reasons)
    flat = budgets.ravel()
    log_n, parts, dof = _log_sizes(mixture, ladder, usable, flat, options)
    if not np.isfinite(log_n).all():
        return _no_answer(budgets, level, [f"no law has an optimum at C = {flat[~np.isfinite(log_n)][0]:.3g}"])
    half = half_width(parts, level, mixture.residual_dof, dof)
    if np.exp(min(2 * half.max(), 700.0)) > WIDEST:
        widest = flat[np.argmax(half)]
        why = f"N* at C = {widest:.3g} is known to no better than a factor of {WIDEST:.0f} between the interval's ends"
        return _no_answer(budgets, level, [f"{why}: add runs at other tokens per parameter, or larger ones"])
    return _answer(mixture, budgets, level, log_n, half, parts, options)


def _answer(
    mixture: Mixture,
    budgets: np.ndarray,
    level: float,
    log_n: np.ndarray,
    half: np.ndarray,
    parts: dict[str, np.ndarray],
    options: Mapping,
) -> MixedFrontier:
    shape, flat = budgets.shape, budgets.ravel()
    cost, cap = options.get("cost"), options.get("max_D")
    N = np.exp(log_n)
    ends_n = np.exp(log_n - half), np.exp(log_n + half)
    D, most, least = (tokens(n, flat, cost, cap) for n in (N, *ends_n))
    columns: dict[str, np.ndarray] = {}
    for member in mixture.members:
        columns |= law_columns(member.candidate.law, N, D, options.get("inputs"))
    mean, variances = mixture.parts(columns)
    expected = mixture.half_width({k: v for k, v in variances.items() if k != "run"}, level)
    one_run = mixture.half_width(variances, level)
    interval = {
        "N": ends_n,
        "D": (least, most),
        "loss": (np.exp(mean - expected), np.exp(mean + expected)),
        "run": (np.exp(mean - one_run), np.exp(mean + one_run)),
    }
    return MixedFrontier(
        C=budgets,
        N=N.reshape(shape),
        D=D.reshape(shape),
        loss=np.exp(mean).reshape(shape),
        interval={k: (lo.reshape(shape), hi.reshape(shape)) for k, (lo, hi) in interval.items()},
        parts={k: np.sqrt(v).reshape(shape) for k, v in parts.items()},
        level=level,
        answer=True,
        reasons=[],
        warnings=[],
    )


def _no_answer(budgets: np.ndarray, level: float, reasons: list[str]) -> MixedFrontier:
    return MixedFrontier(budgets, None, None, None, None, None, level, False, reasons, [])


def _has_frontier(member: Member) -> bool:
    law = member.candidate.law
    return law.lower_is_better and (law.from_nd is not None or {"N", "D"} <= set(law.inputs))


def _at_bounds(member: Member) -> list[str]:
    """Parameters at a bound that leave the law without an optimum: a floor E of zero is not one of them."""
    return [k for k in member.fit.at_bounds if k not in member.candidate.law.asymptotes]


def _unidentified(mixture: Mixture, ladder: Ladder, most_parameters: int) -> list[str]:
    """Why these runs do not identify any optimum."""
    reasons = []
    counts = ladder.weights > 0
    n, d = (np.log(ladder.inputs[k][counts]) for k in ("N", "D")) if {"N", "D"} <= set(ladder.inputs) else (None, None)
    if n is not None and d is not None:
        distinct = len(np.unique(np.stack([n, d]), axis=1).T)
        needed = min(most_parameters, FREE_EXPONENTS) + SPARE_RUNS
        if distinct < needed:
            reasons.append(
                f"there are {distinct} different runs, too few for the {needed - SPARE_RUNS} parameters of a law in N "
                f"and D: at least {needed} are needed"
            )
        reasons += _collinear(n, d)
    stuck = {m.candidate.name: bounds for m in mixture.members if (bounds := _at_bounds(m))}
    share = sum(w for w, m in zip(mixture.weights, mixture.members) if m.candidate.name in stuck)
    if share > 0.5:
        which = "; ".join(f"{', '.join(v)} of {k}" for k, v in stuck.items())
        reasons.append(f"a parameter ends at its bound, so the data do not determine how N and D trade off: {which}")
    return reasons + unexplained(mixture, ladder)


def _collinear(n: np.ndarray, d: np.ndarray) -> list[str]:
    if np.ptp(n) == 0 or np.ptp(d) == 0:
        return [f"all runs have the same {'N' if np.ptp(n) == 0 else 'D'}: vary it"]
    correlation = float(np.corrcoef(n, d)[0, 1])
    compute = n + d
    trend = np.polyfit(compute, d - n, 1) if np.ptp(compute) > 0 else np.array([0.0, np.mean(d - n)])
    spread = float(np.std(d - n - np.polyval(trend, compute)))
    if abs(correlation) > COLLINEAR or spread < NARROW:
        return [
            f"ln N and ln D are collinear (correlation {correlation:.3f}; D / N varies by only {np.expm1(spread):.0%} "
            "at equal compute), so the effects of N and D cannot be separated: add runs at other tokens per parameter"
        ]
    return []


def _optimum_outside(mixture: Mixture, ladder: Ladder, usable: list[int]) -> list[str]:
    """A reason, where the laws put the optimum of the ladder's own largest budgets outside its sizes."""
    low, high = ladder.inputs["N"].min(), ladder.inputs["N"].max()
    inputs = {k: float(np.median(v)) for k, v in ladder.inputs.items() if k not in ("N", "D")}
    top = float(np.max(6.0 * ladder.inputs["N"] * ladder.inputs["D"]))
    own = top * 10.0 ** -np.linspace(0.0, OWN_DECADES, 5)
    log_n = _mean_log_size([mixture.members[i] for i in usable], mixture.weights[usable], own, inputs)
    with np.errstate(over="ignore", invalid="ignore"):
        N = np.exp(log_n)
    if np.any((low / ROOM < N) & (high * ROOM > N)):
        return []
    where, which = ("above", "larger") if N[0] > high else ("below", "smaller")
    return [
        f"at the ladder's own largest budget (C = {top:.3g}) the laws put N* {where} all of its sizes "
        f"({short(low)} to {short(high)}), where they cannot be checked: add {which} models at that budget"
    ]


def _mean_log_size(members: list[Member], weights: np.ndarray, C: np.ndarray, inputs: Mapping) -> np.ndarray:
    sizes = [_log_size(m, _columns(m.fit.params), C, {"inputs": inputs})[0] for m in members]
    return combined(np.stack(sizes), weights)[0]


def _columns(params: Mapping[str, float]) -> dict[str, np.ndarray]:
    return {k: np.array([v]) for k, v in params.items()}


def _log_size(member: Member, params: Mapping[str, np.ndarray], C: np.ndarray, options: Mapping) -> np.ndarray:
    """(s, c) ln N* of parameters (s,); nan where there is no optimum."""
    law = member.candidate.law
    extra = {k: v for k, v in (options.get("inputs") or {}).items() if k in law.inputs}
    N, _, _, edge = best_sizes(law, params, C, **{**options, "inputs": extra or None})
    with np.errstate(all="ignore"):
        log_n = np.log(N)
    return np.where(edge | ~np.isfinite(log_n), np.nan, log_n)


def _log_sizes(
    mixture: Mixture, ladder: Ladder, usable: list[int], C: np.ndarray, options: Mapping
) -> tuple[np.ndarray, dict[str, np.ndarray], float]:
    """(c,) mean ln N*, its variances by name, and the degrees of freedom of the quantiles."""
    members, weights = [mixture.members[i] for i in usable], mixture.weights[usable]
    sizes = np.stack([_log_size(m, _columns(m.fit.params), C, options)[0] for m in members])
    mean, between = combined(sizes, weights)
    resampling = np.zeros_like(mean)
    for w, member in zip(weights / weights.sum(), members):
        logs = _log_size(member, member.samples, C, options)
        logs = np.where(np.isfinite(logs), logs, np.nan)
        with np.errstate(all="ignore"):
            lost = np.isnan(logs).mean(axis=0) > 0.5
            low, high = np.nanquantile(np.where(np.isnan(logs), np.log(1e30), logs), (0.16, 0.84), axis=0)
        resampling += w * np.where(lost, np.inf, (0.5 * (high - low)) ** 2)
    resampling = np.minimum(resampling, 1e4)
    drift, cuts = _size_drift(members, weights, ladder, mixture.cuts)
    beyond = np.maximum(np.log10(C / ladder.scale.max()), 0.0) if options.get("cost") is None else 0.0 * C
    parts = {"resampling": resampling, "laws": LAW_SHARE * between, "drift": drift * beyond**2}
    return mean, parts, PRIOR_CUTS + cuts


def _size_drift(
    members: list[Member], weights: np.ndarray, ladder: Ladder, used: tuple[float, ...]
) -> tuple[float, int]:
    """Variance of ln N* per squared decade, from how far the N* of earlier cuts missed that of all runs at the top."""
    inputs = {k: float(np.median(v)) for k, v in ladder.inputs.items() if k not in ("N", "D")}
    top = np.array([float(ladder.scale.max())])
    now = _mean_log_size(members, weights, top, inputs)[0]
    total, cuts = PRIOR_CUTS * PRIOR_DRIFT**2, 0
    for i, cut in enumerate(used):
        below = ladder.scale < cut
        decades = np.log10(top[0] / ladder.scale[below].max())
        then = [
            np.array([np.nan]) if (p := m.cuts[i]) is None else _log_size(m, _columns(p), top, {"inputs": inputs})[0]
            for m in members
        ]
        then = combined(np.stack(then), weights)[0][0]
        if np.isfinite(then):
            total += min(((then - now) / decades) ** 2, LARGEST_DRIFT**2)
            cuts += 1
    return total / (PRIOR_CUTS + cuts), cuts
