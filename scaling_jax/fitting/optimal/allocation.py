"""The best split of a budget into N and D under a law: by its formula, or by search under any cost and constraint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from scaling_jax.fitting.data import check_positive
from scaling_jax.fitting.errors import FitError
from scaling_jax.fitting.laws.base import Law

COARSE, FINE = 400, 33  # sizes tried over the whole range, and in each closer look around the best
TINY, HUGE = 1e-3, 1e45  # tokens between which the affordable number is searched


def has_closed_form(
    law: Law,
    cost: Callable[[Any, Any], Any] | None = None,
    max_N: float | None = None,
    max_D: float | None = None,
    allowed: Callable[[Any, Any], Any] | None = None,
    maximize: bool = False,
) -> bool:
    """True where the law has a closed form of N* for this cost and these constraints."""
    return law.optimal_N is not None and cost is max_N is max_D is allowed is None and not maximize


def best_sizes(
    law: Law,
    params: Mapping[str, np.ndarray],
    C: np.ndarray,
    *,
    cost: Callable[[Any, Any], Any] | None = None,
    max_N: float | None = None,
    max_D: float | None = None,
    allowed: Callable[[Any, Any], Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    maximize: bool = False,
    middle: tuple[float, float] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """N, D and the law's value on the frontier.

    Args:
      law: reads N and D (or what follows from them), and `inputs`.
      params: natural-unit parameters, each (s,).
      C: (c,) budgets.
      cost: cost(N, D), increasing in both; None for 6ND.
      max_N: cap on parameters, e.g. by memory.
      max_D: cap on tokens, e.g. the unique tokens there are.
      allowed: allowed(N, D) -> bool, for any other constraint.
      inputs: values, or functions of (N, D), of further inputs of the law.
      maximize: True for a metric where higher is better.
      middle: (N, D) at the center of the data: of several minima those near its balanced growth are meant.

    Returns:
      N, D, value, each (s, c), and whether the best lies at the edge of what was searched, (s, c).
    """
    if law.optimal_N is not None and has_closed_form(law, cost, max_N, max_D, allowed, maximize):
        with np.errstate(all="ignore"):
            N = law.optimal_N({k: v[:, None] for k, v in params.items()}, C[None])
            D = C / (6.0 * N)
        columns = law_columns(law, N, D, inputs)
        value = law({k: v[:, None] for k, v in params.items()}, columns)
        vanished = ~(np.isfinite(N) & (N > 0) & (D > 0))
        return N, D, np.where(vanished, np.nan, value), vanished
    max_N, max_D = (
        None if v is None else check_positive(v, k, "1e12") for k, v in (("max_N", max_N), ("max_D", max_D))
    )
    if not (allowed is None or callable(allowed)):
        raise FitError(f"allowed={allowed!r} must be a function, e.g. lambda N, D: 16 * N < 8e10.")
    if not len(C):
        empty = np.empty((len(next(iter(params.values()))), 0))
        return empty, empty, empty, empty.astype(bool)
    budget = _Budget(cost, max_D)
    sign = -1.0 if maximize else 1.0
    parts = [_search(law, params, c, budget, max_N, allowed, inputs, sign, middle) for c in C]
    sizes, tokens, value, edge = (np.stack(part, axis=1) for part in zip(*parts))
    return sizes, tokens, value, edge


def law_columns(law: Law, N: Any, D: Any, inputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The law's own inputs at N and D."""
    columns = {"N": N, "D": D}
    if law.from_nd is not None:
        columns |= law.from_nd(columns)
    for k, v in (inputs or {}).items():
        columns[k] = v(N, D) if callable(v) else np.broadcast_to(np.asarray(v, np.float64), np.shape(N))
    return columns


class _Budget:
    """How many tokens a budget buys at each size."""

    def __init__(self, cost: Callable[[Any, Any], Any] | None, max_D: float | None) -> None:
        self.cost = None if cost is None else _vectorized(cost)
        self.max_D = np.inf if max_D is None else float(max_D)

    def tokens(self, N: Any, C: float) -> np.ndarray:
        """(...) tokens that C buys at sizes N, at most `max_D`; 0 where it buys none."""
        if self.cost is None:
            return np.minimum(C / (6.0 * N), self.max_D)
        # Most costs are proportional to D: one division is exact. Others are nearly powers of D, so Newton's method in
        # logarithms takes a few steps, and what it misses is bisected.
        with np.errstate(all="ignore"):
            D = np.clip(C / (6.0 * N), TINY, HUGE)
            D = np.clip(np.nan_to_num(D * (C / self.cost(N, D)), nan=TINY), TINY, HUGE)
            if (np.abs(self.cost(N, D) / C - 1.0) < 1e-12).all():
                return np.minimum(D, self.max_D)
        least, most, log_c, log_d = np.log(TINY), np.log(HUGE), np.log(C), np.log(D)
        none = found = np.zeros(np.shape(log_d), bool)
        for _ in range(7):
            log_cost, above = np.log(self.cost(N, np.exp(log_d))), np.log(self.cost(N, np.exp(log_d + 1e-4)))
            off = log_c - log_cost
            none, all_ = (log_d <= least) & (off < 0), (log_d >= most) & (off > 0)
            found = (np.abs(off) < 1e-12) | none | all_
            with np.errstate(all="ignore"):
                step = np.nan_to_num(np.clip(off * 1e-4 / (above - log_cost), -20, 20))
            log_d = np.clip(log_d + step, least, most)
            if found.all():
                break
        D = np.where(none, 0.0, np.exp(log_d))
        if not found.all():
            D[~found] = self._bisected(N[~found], C)
        return np.minimum(D, self.max_D)

    def _bisected(self, N: np.ndarray, C: float) -> np.ndarray:
        cost = self.cost or _six_nd
        low, high = np.full_like(N, np.log(TINY)), np.full_like(N, np.log(HUGE))
        affordable = cost(N, np.exp(low)) <= C
        for _ in range(64):
            middle = 0.5 * (low + high)
            under = cost(N, np.exp(middle)) <= C
            low, high = np.where(under, middle, low), np.where(under, high, middle)
        return np.where(affordable, np.exp(low), 0.0)


def _six_nd(N: np.ndarray, D: np.ndarray) -> np.ndarray:
    return 6.0 * N * D


def _vectorized(cost: Any) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A cost as a function of arrays, whatever it was written for."""
    if not callable(cost):
        raise FitError(f"cost={cost!r} must be a function, e.g. lambda N, D: 6 * N * D.")

    def call(N: np.ndarray, D: np.ndarray) -> np.ndarray:
        try:
            value = np.asarray(cost(N, D), np.float64)
            if value.shape == np.broadcast_shapes(np.shape(N), np.shape(D)):
                return value
        except (TypeError, ValueError):
            pass  # written for scalars, with `if` or `math`
        return np.vectorize(cost, otypes=[np.float64])(N, D)

    def at(N: float, D: float) -> float:
        try:
            value = float(call(np.array([N]), np.array([D]))[0])
        except Exception as err:
            raise FitError(
                f"cost(N={N:g}, D={D:g}) raises {type(err).__name__}: {err}; a cost is a function of two numbers, e.g. "
                "lambda N, D: 6 * N * D."
            ) from None
        if not 0 < value < np.inf:
            raise FitError(
                f"cost(N={N:g}, D={D:g}) = {value:g}: a cost must be positive and finite, e.g. lambda N, D: 6 * N * D."
            )
        return value

    at(1e9, 1e10)
    if not at(1e8, 1e16) > at(1e8, 1e6):
        raise FitError("the cost of N=1e8 is no higher for D=1e16 than for D=1e6: a cost must increase with N and D.")
    return call


def _search(
    law: Law,
    params: Mapping[str, np.ndarray],
    C: float,
    budget: _Budget,
    max_N: float | None,
    allowed: Callable[[Any, Any], Any] | None,
    inputs: Mapping[str, Any] | None,
    sign: float,
    middle: tuple[float, float] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Best size for one budget and every parameter vector: closer looks, then the vertex of a quartic.

    Returns:
      N, D, value and whether N is at the edge of the search, each (s,).
    """
    top = np.log(1e30 if max_N is None else float(max_N))
    grid = np.linspace(0.0, top, COARSE)
    columns = {k: v[:, None] for k, v in params.items()}
    s = len(next(iter(params.values())))

    def look(log_n: np.ndarray, who: Any = slice(None)) -> np.ndarray:
        N = np.exp(log_n)
        D = budget.tokens(N, C)
        own = {k: v[who] for k, v in columns.items()}
        with np.errstate(all="ignore"):
            found = sign * law(own, law_columns(law, N, np.maximum(D, 1e-300), inputs))
            good = (D > TINY) & np.isfinite(found)
            if allowed is not None:
                good &= np.vectorize(allowed, otypes=[bool])(N, D)
        return np.where(good, found, np.inf)

    found = look(grid[None])  # one row of sizes for all parameter vectors
    if not np.isfinite(found).any(axis=1).all():
        raise FitError(f"C={C:g} buys nothing that the constraints allow; raise C or relax max_N, max_D or allowed.")
    near = None if middle is None else _balanced(grid, budget.tokens(np.exp(grid), C), *middle)
    best, edge = _best_inside(found, max_N is not None or allowed is not None, near)
    center, width = np.full(s, grid[best]), grid[1] - grid[0]
    center, width = _closer(look, center, width, top, 2, slice(None))
    center, smooth = _vertex(look, center, top)
    rest = np.flatnonzero(~smooth)
    if len(rest):  # a minimum at a cap or a kink is only found by comparing
        center[rest], _ = _closer(look, center[rest], width, top, 7, rest)
    N = np.exp(center) if max_N is None else np.minimum(np.exp(center), max_N)
    return N, budget.tokens(N, C), sign * look(center[:, None])[:, 0], edge


def _balanced(log_n: np.ndarray, D: np.ndarray, N_middle: float, D_middle: float) -> np.ndarray:
    """(grid,) how many e-folds each size lies from what balanced growth of N and D would buy, less the room it has.

    Balanced growth is N* ~ C^.5. Exponents between 0 and 1 move N* off it by half of ln C at most; three decades more
    are left to the law. 0 inside that room.
    """
    log_n, log_d = log_n - np.log(N_middle), np.log(np.maximum(D, TINY)) - np.log(D_middle)
    at = np.argmin(np.abs(log_n - log_d))
    room = np.log(1e3) + 0.5 * abs(log_n[at] + log_d[at])
    return np.maximum(np.abs(log_n - log_n[at]) - room, 0.0)


def _best_inside(found: np.ndarray, capped: bool, away: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Index of the best size of each row, and whether it is only the edge of what was searched.

    Minima inside the range come first: far outside the data many laws fall again, where they mean nothing. So do
    those nearest to the data where `away` (grid,) says how far each size is. Where the sizes are capped, the edge is
    an answer like any other.
    """
    before, after = (np.full_like(found, np.inf) for _ in range(2))
    before[:, 1:], after[:, :-1] = found[:, :-1], found[:, 1:]
    reachable = np.isfinite(found)
    inside = reachable & (found <= before) & (found <= after)
    if not capped:
        inside &= np.isfinite(before) & np.isfinite(after)
    some = np.asarray(inside.any(axis=1))
    if away is not None:
        distance = np.where(inside, away, np.inf)
        inside &= distance <= distance.min(axis=1, keepdims=True)
    return np.argmin(np.where(inside | ~some[:, None], found, np.inf), axis=1), ~some


def _closer(
    look: Callable[..., Any], center: np.ndarray, width: float, top: float, times: int, who: Any
) -> tuple[np.ndarray, float]:
    """Minima around `center`, each look `FINE` sizes wide and (FINE - 1) / 2 times closer than the last."""
    for _ in range(times):
        log_n = np.clip(center[:, None] + np.linspace(-width, width, FINE), 0.0, top)
        best = np.argmin(look(log_n, who), axis=1)
        center, width = np.take_along_axis(log_n, best[:, None], 1)[:, 0], 2 * width / (FINE - 1)
    return center, width


def _vertex(
    look: Callable[..., Any], center: np.ndarray, top: float, step: float = 2e-3
) -> tuple[np.ndarray, np.ndarray]:
    """Minima refined by a quartic through five points: comparing values cannot see closer than 1e-8.

    Returns:
      (s,) minima, and where the objective is smooth enough for it.
    """
    f = look(np.clip(center[:, None] + step * np.arange(-2, 3), 0.0, top))
    here = f[:, 2]
    f = f - f[:, 2:3]
    with np.errstate(all="ignore"):
        slope = (f[:, 0] - 8 * f[:, 1] + 8 * f[:, 3] - f[:, 4]) / (12 * step)
        bend = (-f[:, 0] + 16 * f[:, 1] + 16 * f[:, 3] - f[:, 4]) / (12 * step**2)
        third = (-f[:, 0] + 2 * f[:, 1] - 2 * f[:, 3] + f[:, 4]) / (2 * step**3)
        move = -slope / bend
        move = -slope / (bend + 0.5 * third * move)
    moved = np.clip(np.where(np.abs(move) < step, center + np.nan_to_num(move), center), 0.0, top)
    smooth = np.isfinite(f).all(axis=1) & (bend > 0) & (np.abs(move) < step)
    smooth &= look(moved[:, None])[:, 0] <= here + 1e-13 * np.abs(here)
    return np.where(smooth, moved, center), smooth


def tokens(
    N: np.ndarray, C: np.ndarray, cost: Callable[[Any, Any], Any] | None = None, max_D: float | None = None
) -> np.ndarray:
    """Tokens that budgets C buy at sizes N, at most `max_D`: C / (6 N), or the D at which cost(N, D) = C.

    Args:
      N: (c,) parameters.
      C: (c,) budgets.
      cost: as in `best_sizes`.
      max_D: as in `best_sizes`.

    Returns:
      (c,) tokens.
    """
    budget = _Budget(cost, max_D)
    return np.array([budget.tokens(np.array([n]), c)[0] for n, c in zip(N, C)])
