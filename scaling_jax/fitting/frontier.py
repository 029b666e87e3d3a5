"""The compute-optimal frontier: for each budget, the N and D that a law says are best."""

from dataclasses import dataclass, field

import numpy as np

from .data import check_level, column
from .errors import FitError

COARSE, FINE = 400, 33  # sizes tried over the whole range, and in each closer look around the best
TINY, HUGE = 1e-3, 1e45  # tokens between which the affordable number is searched


@dataclass(frozen=True, eq=False)
class Frontier:
    """Best N and D at each budget; arrays have the shape of C.

    Attributes:
      C: budgets, in the unit of the cost (training FLOPs for 6ND).
      N, D, loss: best parameters, tokens, and the law's value there.
      level: of the intervals; None without.
      interval: {"N", "D", "loss": (lower, upper)}, each shaped like C; None without a level.
      extrapolation: decades by which C lies above (or, negative, below) the budgets of the data; 0 inside.
      method: "closed form" or "numerical".
      warnings: what makes the answer doubtful, in sentences.
    """

    C: np.ndarray
    N: np.ndarray
    D: np.ndarray
    loss: np.ndarray
    level: float | None
    interval: dict | None
    extrapolation: np.ndarray
    method: str
    warnings: list = field(default_factory=list)

    @property
    def tokens_per_parameter(self):
        """D / N."""
        return self.D / self.N

    def __repr__(self):
        lines = [f"frontier ({self.method})"]
        for i in np.ndindex(self.C.shape):
            line = f"  C {self.C[i]:.4g}: N* {self.N[i]:.4g}, D* {self.D[i]:.4g}, loss {self.loss[i]:.5g}"
            if self.interval:
                ends = ", ".join(f"{k} [{lo[i]:.4g}, {hi[i]:.4g}]" for k, (lo, hi) in self.interval.items())
                line += f"  {self.level:.0%}: {ends}"
            away = self.extrapolation[i]
            lines.append(
                line + (f"  ({abs(away):.1f} decades {'above' if away > 0 else 'below'} the data)" if away else "")
            )
        return "\n".join(lines + [f"  ! {w}" for w in self.warnings])


def frontier(fit, C, level=None, *, cost=None, inputs=None, **options):
    """The `Frontier` of a fit: see `Fit.frontier` for the arguments."""
    budgets = _budgets(fit.law, C, inputs)
    shape, flat, log_loss = budgets.shape, budgets.ravel(), fit.objective.log

    def best(params):
        return best_sizes(fit.law, params, flat, cost=cost, inputs=inputs, **options)

    def in_logs(params):
        N, D, loss, _ = best(params)
        with np.errstate(all="ignore"):
            return np.stack([np.log(N), np.log(D), np.log(loss) if log_loss else loss], axis=1)

    N, D, loss, edge = best({k: np.array([v]) for k, v in fit.params.items()})
    interval = None
    if level is not None:
        check_level(level)
        ends = fit.interval_of(in_logs, level)
        with np.errstate(over="ignore"):
            ends = [np.exp(ends[:, k]) if k < 2 or log_loss else ends[:, k] for k in range(3)]
        interval = {k: tuple(v.reshape(2, *shape)) for k, v in zip(("N", "D", "loss"), ends)}
    return Frontier(
        C=budgets,
        N=N.reshape(shape),
        D=D.reshape(shape),
        loss=loss.reshape(shape),
        level=level,
        interval=interval,
        extrapolation=_beyond(fit.ranges, N, D).reshape(shape),
        method="closed form" if _closed(fit.law, cost, **options) else "numerical",
        warnings=[f"no best size inside the search at C = {c:.4g}: a term has left the law" for c in flat[edge[0]]],
    )


def _budgets(law, C, inputs):
    """C as an array, if the law has a frontier and C can be one."""
    missing = [k for k in law.inputs if k not in {"N", "D", *(inputs or {})}] if law.from_nd is None else []
    if missing or not law.a_loss:
        of_nd = {"N", "D"} & set(law.inputs) and law.a_loss
        way = f'give inputs={{"{missing[0]}": ...}}' if of_nd else "fit a law of a loss in N and D"
        raise FitError(f"{law.name!r} of {', '.join(law.inputs)} has no frontier of N and D as asked: {way}.")
    flat = column(np.ravel(C), "C")
    bad = flat[~(np.isfinite(flat) & (flat > 0))]
    if len(bad):
        raise FitError(f"C = {bad[0]:g}: a budget must be positive and finite.")
    return flat.reshape(np.shape(C))


def _beyond(ranges, N, D):
    """Decades of compute beyond the data's: positive above, negative below, 0 inside."""
    if "C" not in ranges:
        return np.zeros_like(N)
    low, high = ranges["C"]
    with np.errstate(all="ignore"):  # a term that left the law gives 0 and infinity
        compute = 6.0 * N * D
        return np.maximum(np.log10(compute / high), 0.0) + np.minimum(np.log10(compute / low), 0.0)


def _closed(law, cost=None, max_N=None, max_D=None, allowed=None, maximize=False):
    return law.optimum is not None and cost is max_N is max_D is allowed is None and not maximize


def best_sizes(law, params, C, *, cost=None, max_N=None, max_D=None, allowed=None, inputs=None, maximize=False):
    """N, D and the law's value on the frontier.

    Args:
      law: reads N and D (or what follows from them), and `inputs`.
      params: natural-unit parameters, each (s,).
      C: (c,) budgets.
      cost: cost(N, D), increasing in both; None for 6ND.
      max_N, max_D: caps, e.g. what fits into memory, or how many unique tokens there are.
      allowed: allowed(N, D) -> bool, for any other constraint.
      inputs: values, or functions of (N, D), of further inputs of the law.
      maximize: the law describes something to be made large.
    Returns:
      N, D, value, each (s, c), and whether the best lies at the edge of what was searched, (s, c).
    """
    if _closed(law, cost, max_N, max_D, allowed, maximize):
        with np.errstate(all="ignore"):
            N = law.optimum({k: v[:, None] for k, v in params.items()}, C[None])
            D = C / (6.0 * N)
        columns = law_columns(law, N, D, inputs)
        value = law({k: v[:, None] for k, v in params.items()}, columns)
        return N, D, value, ~(np.isfinite(N) & (N > 0) & (D > 0))
    budget = _Budget(cost, max_D)
    parts = [_search(law, params, c, budget, max_N, allowed, inputs, -1.0 if maximize else 1.0) for c in C]
    return tuple(np.stack(part, axis=1) for part in zip(*parts))


def law_columns(law, N, D, inputs=None):
    """The law's own inputs at N and D."""
    columns = {"N": N, "D": D}
    if law.from_nd is not None:
        columns |= law.from_nd(columns)
    for k, v in (inputs or {}).items():
        columns[k] = v(N, D) if callable(v) else np.broadcast_to(np.asarray(v, np.float64), np.shape(N))
    return columns


class _Budget:
    """How many tokens a budget buys at each size."""

    def __init__(self, cost, max_D):
        self.cost = None if cost is None else _vectorised(cost)
        self.max_D = np.inf if max_D is None else float(max_D)

    def tokens(self, N, C):
        """(...) tokens that C buys at sizes N, at most `max_D`; 0 where it buys none."""
        if self.cost is None:
            return np.minimum(C / (6.0 * N), self.max_D)
        # Costs are nearly powers of D, so Newton's method in logarithms takes a few steps; what it misses is bisected.
        log_d = np.log(np.clip(C / (6.0 * N), TINY, HUGE))
        for _ in range(6):
            log_cost, above = np.log(self.cost(N, np.exp(log_d))), np.log(self.cost(N, np.exp(log_d + 1e-4)))
            with np.errstate(all="ignore"):
                step = (np.log(C) - log_cost) * 1e-4 / (above - log_cost)
            log_d = np.clip(log_d + np.nan_to_num(np.clip(step, -20, 20)), np.log(TINY), np.log(HUGE))
        missed = ~(np.abs(np.log(self.cost(N, np.exp(log_d))) - np.log(C)) < 1e-12)
        D = np.exp(log_d)
        if missed.any():
            D[missed] = self._bisected(N[missed], C)
        return np.minimum(D, self.max_D)

    def _bisected(self, N, C):
        low, high = np.full_like(N, np.log(TINY)), np.full_like(N, np.log(HUGE))
        affordable = self.cost(N, np.exp(low)) <= C
        for _ in range(64):
            middle = 0.5 * (low + high)
            under = self.cost(N, np.exp(middle)) <= C
            low, high = np.where(under, middle, low), np.where(under, high, middle)
        return np.where(affordable, np.exp(low), 0.0)


def _vectorised(cost):
    """A cost as a function of arrays, whatever it was written for."""

    def call(N, D):
        try:
            value = np.asarray(cost(N, D), np.float64)
            if value.shape == np.broadcast_shapes(np.shape(N), np.shape(D)):
                return value
        except (TypeError, ValueError):
            pass  # written for scalars, with `if` or `math`
        return np.vectorize(cost, otypes=[np.float64])(N, D)

    probe = call(np.array([1e8, 1e9]), np.array([1e9, 1e10]))
    if not (np.all(np.isfinite(probe)) and np.all(probe > 0)):
        raise FitError(
            f"cost(N=1e8, D=1e9) = {probe[0]!r}: a cost must be positive and finite, e.g. lambda N, D: 6 * N * D."
        )
    return call


def _search(law, params, C, budget, max_N, allowed, inputs, sign):
    """Best size for one budget and every parameter vector: closer looks, then the vertex of a quartic.

    Returns:
      N, D, value and whether N is at the edge of the search, each (s,).
    """
    top = np.log(1e30 if max_N is None else float(max_N))
    grid = np.linspace(0.0, top, COARSE)
    columns = {k: v[:, None] for k, v in params.items()}
    s = len(next(iter(params.values())))

    def look(log_n, who=slice(None)):
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
    best, edge = _best_inside(found, capped=max_N is not None or allowed is not None)
    centre, width = np.full(s, grid[best]), grid[1] - grid[0]
    centre, width = _closer(look, centre, width, top, 2, slice(None))
    centre, smooth = _vertex(look, centre, top)
    rest = np.flatnonzero(~smooth)
    if len(rest):  # a minimum at a cap or a kink is only found by comparing
        centre[rest], _ = _closer(look, centre[rest], width, top, 7, rest)
    N = np.exp(centre) if max_N is None else np.minimum(np.exp(centre), max_N)
    return N, budget.tokens(N, C), sign * look(centre[:, None])[:, 0], edge


def _best_inside(found, capped):
    """Index of the best size of each row, and whether it is only the edge of what was searched.

    Minima inside the range come first: far outside the data many laws fall again, where they mean nothing. Where the
    sizes are capped, the edge is an answer like any other.
    """
    before, after = (np.full_like(found, np.inf) for _ in range(2))
    before[:, 1:], after[:, :-1] = found[:, :-1], found[:, 1:]
    reachable = np.isfinite(found)
    inside = reachable & (found <= before) & (found <= after)
    if not capped:
        inside &= np.isfinite(before) & np.isfinite(after)
    some = inside.any(axis=1)
    return np.argmin(np.where(inside | ~some[:, None], found, np.inf), axis=1), ~some


def _closer(look, centre, width, top, times, who):
    """Minima around `centre`, each look `FINE` sizes wide and (FINE - 1) / 2 times closer than the last."""
    for _ in range(times):
        log_n = np.clip(centre[:, None] + np.linspace(-width, width, FINE), 0.0, top)
        best = np.argmin(look(log_n, who), axis=1)
        centre, width = np.take_along_axis(log_n, best[:, None], 1)[:, 0], 2 * width / (FINE - 1)
    return centre, width


def _vertex(look, centre, top, step=2e-3):
    """Minima refined by a quartic through five points: comparing values cannot see closer than 1e-8.

    Returns:
      (s,) minima, and where the objective is smooth enough for it.
    """
    f = look(np.clip(centre[:, None] + step * np.arange(-2, 3), 0.0, top))
    here = f[:, 2]
    f = f - f[:, 2:3]
    with np.errstate(all="ignore"):
        slope = (f[:, 0] - 8 * f[:, 1] + 8 * f[:, 3] - f[:, 4]) / (12 * step)
        bend = (-f[:, 0] + 16 * f[:, 1] + 16 * f[:, 3] - f[:, 4]) / (12 * step**2)
        third = (-f[:, 0] + 2 * f[:, 1] - 2 * f[:, 3] + f[:, 4]) / (2 * step**3)
        move = -slope / bend
        move = -slope / (bend + 0.5 * third * move)
    moved = np.clip(np.where(np.abs(move) < step, centre + np.nan_to_num(move), centre), 0.0, top)
    smooth = np.isfinite(f).all(axis=1) & (bend > 0) & (np.abs(move) < step)
    smooth &= look(moved[:, None])[:, 0] <= here + 1e-13 * np.abs(here)
    return np.where(smooth, moved, centre), smooth
