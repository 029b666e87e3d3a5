"""The winner among what was tuned at each (scale, budget): interpolated, corrected for luck, and its own law.

Of every combination of tuned quantities at a scale and budget the one with the lowest mean of ln y over seeds wins; its
runs, one per seed, are fitted. Two corrections are made to their y:

* where a learning rate inside the range wins and its neighbors finished, the parabola in ln(rate) through the three
  gives the loss at the best rate, which is a little lower than at the nearest rate that was tried;
* the best of k is lower than what it would be again. That luck is E[min(m + e)] - min(m), with m the means (their
  spread reduced by what noise adds to it) and e the noise of a difference between combinations: the interaction of
  combination and seed, since a lucky seed is lucky for all of them. It needs two seeds; with one it is not known.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import pandas as pd

# Columns of the results table that a study can sweep -> how their optimum is called.
TUNED = {
    "lr": "rate", "batch_size": "batch size", "weight_decay": "weight decay", "init_scale": "init scale",
    "warmup_steps": "warm-up", "b2": "beta2", "cooldown_fraction": "cool-down",
}  # fmt: skip
DRAWS = 2000
MIN_CELLS = 2  # cells beyond the parameters of a law of optima


@dataclasses.dataclass(frozen=True)
class OptimumLaw:
    """How the best value of one tuned quantity follows N and D: value = exp(constant) N^a D^b.

    Attributes:
      quantity: column of the results table.
      exponents: "N", "D" -> (exponent, standard error), for those that vary; empty where there are too few cells.
      constant: natural logarithm of the value at N = D = 1.
      cells: cells with the optimum inside the range tried, which it is fitted to; `of` how many were swept.
      low, high: smallest and largest winner.
    """

    quantity: str
    exponents: Mapping[str, tuple[float, float]]
    constant: float
    cells: int
    of: int
    low: float
    high: float

    def __str__(self) -> str:
        name = TUNED[self.quantity]
        span = f"{self.low:.3g}" if self.low == self.high else f"between {self.low:.3g} and {self.high:.3g}"
        where = f"from {self.cells} of {self.of} cells with the best inside the range tried"
        if not self.exponents:
            return f"best {name} {span}; no law of it: {where.removeprefix('from ')}"
        law = " ".join(f"{k}^{a:.2f}(+-{error:.2f})" for k, (a, error) in self.exponents.items())
        return f"best {name} ~ {law}, {where}; winners {span}"

    def at(self, N: float, D: float) -> float:
        """The law's value."""
        inputs = {"N": N, "D": D}
        return float(np.exp(self.constant + sum(a * np.log(inputs[k]) for k, (a, _) in self.exponents.items())))


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What was tuned, and how the winners came about.

    Attributes:
      combinations: the most combinations at one (scale, budget).
      optima: one row per (scale, budget): scale, N, D, each swept quantity's best value, `inside` (of the learning
        rates), `moved` (ln y by interpolation) and `luck` (ln y that was added back).
      noise: standard deviation of ln y of a difference between combinations at one seed / sqrt(2); None with one seed.
      laws: of the optima.
    """

    combinations: int
    optima: pd.DataFrame
    noise: float | None
    laws: tuple[OptimumLaw, ...]

    def sentences(self) -> list[str]:
        """What a reader should know, for the report."""
        out = [
            f"tuned: the best of up to {self.combinations} combinations at each of {len(self.optima)} (scale, budget), "
            "by the mean over seeds"
        ]
        inside = int(self.optima.inside.sum())
        if inside:
            out[0] += f"; the rate is interpolated in {inside}"
        if self.noise is None:
            out.append(
                f"the luck of the best of {self.combinations} is not known with one seed: the winners' losses are a "
                "little too low; add seeds"
            )
        else:
            out.append(f"the luck of the best is taken back: {self.optima.luck.mean():.2%} of the loss on average")
        return out + [str(law) for law in self.laws]


def budget_of(done: pd.DataFrame) -> pd.Series:
    """The tokens of each run's budget: of batch sizes that round it differently, the smallest."""
    tokens = done.tokens.astype(float)
    if "batch_size" not in done or "steps" not in done:
        return tokens
    found = tokens.to_dict()
    per_step = pd.to_numeric(done.tokens) / pd.to_numeric(done.steps)
    for _, rows in done.groupby("scale", sort=False):
        if rows.batch_size.nunique() < 2:
            continue
        points = pd.DataFrame({"D": tokens[rows.index], "half": per_step[rows.index] / 2, "batch": rows.batch_size})
        points = points.sort_values("D", kind="stable")
        first = points.iloc[0]
        for index, point in points.iterrows():
            same = first.D == point.D or (point.batch != first.batch and point.half + first.half >= point.D - first.D)
            first = first if same else point
            found[index] = first.D
    return pd.Series(found, dtype=float).reindex(done.index)


def winners(done: pd.DataFrame) -> tuple[pd.DataFrame, Tuned | None]:
    """The rows to fit, y corrected, in order of C; and how they were chosen.

    Args:
      done: finished rows of one of our results tables, with N, C, D and y.
    """
    done = done.assign(_budget=budget_of(done))
    swept = [c for c in TUNED if c in done and done.groupby(["scale", "_budget"])[c].nunique().max() > 1]
    if not swept or not (done.y > 0).all():
        ranked = done.sort_values(["y", "run_id"], kind="stable").drop_duplicates(["scale", "tokens", "seed"])
        return ranked.sort_values(["C", "N", "run_id"]).drop(columns="_budget"), None
    cell = done.groupby(["scale", "_budget"], sort=False, dropna=False).ngroup()
    ranked = done.assign(_cell=cell).sort_values(["_cell", "y", "run_id"], kind="stable")
    ranked = ranked.drop_duplicates(["scale", "_budget", *swept, "seed"])
    cells = _cells(ranked, swept)
    noise = _noise(cells)
    rng = np.random.default_rng(0)
    rows, factors, optima = [], [], []
    for cell in cells:
        luck = 0.0 if noise is None else cell.luck(noise, rng)
        moved = cell.interpolated - cell.lowest
        won = cell.won
        rows.append(cell.at[won])
        factors.append(np.full(len(rows[-1]), np.exp(moved - luck)))
        values = {q: cell.optimum(q)[0] for q in swept}
        place = {"scale": cell.scale, "N": cell.N, "D": float(cell.D[won].mean())}
        optima.append(place | values | {"inside": cell.inside, "moved": moved, "luck": -luck})
    laws = tuple(law for q in swept if (law := _law(q, cells)) is not None)
    frame = ranked.iloc[np.concatenate(rows)].drop(columns=["_budget", "_cell"])
    frame = frame.assign(y=frame.y * np.concatenate(factors)).sort_values(["C", "N", "run_id"])
    return frame, Tuned(max(len(c.means) for c in cells), pd.DataFrame(optima), noise, laws)


def _cells(ranked: pd.DataFrame, swept: list[str]) -> list[_Cell]:
    """The cells of rows that are in order of `_cell`."""
    # Rows of a workdir's earlier times may lack a column: they are a combination of their own.
    keys = list(zip(*(ranked[c].astype(float).fillna(-1.0).tolist() for c in swept)))
    scale, seed = ranked["scale"].tolist(), pd.factorize(ranked["seed"])[0]
    N, D, y = (ranked[c].to_numpy(float) for c in ("N", "D", "y"))
    parts = np.split(np.arange(len(ranked)), np.flatnonzero(np.diff(ranked["_cell"])) + 1)
    return [
        _Cell(scale[at[0]], swept, [keys[i] for i in at], at, log_y=np.log(y[at]), seed=seed[at], N=N[at[0]], D=D[at])
        for at in parts
    ]


class _Cell:
    """One (scale, budget): the mean of ln y over seeds of every combination of what is swept.

    Its rows are one per combination and seed, the lowest y first.

    Attributes:
      keys: the combination of each row, a value per swept quantity.
      at: (rows,) places in the table.
      log_y, seed, D: (rows,) of each row, seeds numbered.
      N: of the scale.
    """

    def __init__(
        self, scale: str, swept: list[str], keys: list[tuple], at: np.ndarray, *, log_y: np.ndarray, seed: np.ndarray,
        N: float, D: np.ndarray,
    ):  # fmt: skip
        self.scale, self.swept, self.keys = scale, swept, keys
        self.at, self.log_y, self.seed, self.N, self.D = at, log_y, seed, float(N), D
        groups: dict[tuple, list[float]] = {}
        for key, value in zip(keys, log_y):
            groups.setdefault(key, []).append(value)
        # A combination that lost a seed does not win by the seeds that it kept.
        self.seeds = max(map(len, groups.values()))
        self.combinations = sorted(key for key, values in groups.items() if len(values) == self.seeds)
        self.means = np.array([np.mean(groups[key]) for key in self.combinations])
        self.best = self.combinations[int(np.argmin(self.means))]
        self.lowest = float(self.means.min())
        found = self._interpolate(self.means[None])
        self.inside, self.interpolated = bool(found[1][0]), float(found[0][0])

    @property
    def won(self) -> np.ndarray:
        """(rows,) booleans: those of the best combination, one per seed."""
        return np.array([key == self.best for key in self.keys])

    def _interpolate(self, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(lowest ln y, whether it is interpolated) for each row of (draws, combinations)."""
        best = np.argmin(means, axis=1)
        rows = np.arange(len(means))
        lowest, inside = means[rows, best].copy(), np.zeros(len(means), bool)
        left, right = self._neighbors
        for i in np.unique(best):
            if left[i] < 0 or right[i] < 0:
                continue
            these = best == i
            x = np.log([self.combinations[j][self.swept.index("lr")] for j in (left[i], i, right[i])])
            lowest[these] = _vertex(x, means[these][:, [left[i], i, right[i]]])[1]
            inside[these] = True
        return lowest, inside

    @functools.cached_property
    def _neighbors(self) -> tuple[list[int], list[int]]:
        """Places of the combinations with the next lower and the next higher rate, all else equal; -1 for none."""
        none = [-1] * len(self.combinations)
        if "lr" not in self.swept:
            return none, none
        at, place = self.swept.index("lr"), {key: i for i, key in enumerate(self.combinations)}
        rates = sorted({key[at] for key in self.combinations})
        out = []
        for step in (-1, 1):
            side = []
            for key in self.combinations:
                j = rates.index(key[at]) + step
                other = (*key[:at], rates[j], *key[at + 1 :]) if 0 <= j < len(rates) else None
                side.append(place.get(other, -1) if other else -1)
            out.append(side)
        return out[0], out[1]

    def luck(self, noise: float, rng: np.random.Generator) -> float:
        """How much lower ln y of the winner is on average than it would be again, 0 or less."""
        error = noise / np.sqrt(self.seeds)
        center, spread = self.means.mean(), self.means.var(ddof=1) if len(self.means) > 1 else 0.0
        shrink = np.sqrt(max(1 - error**2 / spread, 0.0)) if spread > 0 else 0.0
        truth = center + shrink * (self.means - center)
        draws = truth + error * rng.standard_normal((DRAWS, len(truth)))
        expected = self._interpolate(draws)[0].mean() - self._interpolate(truth[None])[0][0]
        return min(float(expected), 0.0)

    def tried(self, quantity: str) -> int:
        """How many values of a quantity were tried."""
        return len({key[self.swept.index(quantity)] for key in self.combinations})

    def optimum(self, quantity: str) -> tuple[float, bool]:
        """(best value of one quantity over the best of all others, whether it is inside the range and interpolated)."""
        at = self.swept.index(quantity)
        lowest: dict[float, float] = {}
        for key, mean in zip(self.combinations, self.means):
            lowest[key[at]] = min(mean, lowest.get(key[at], np.inf))
        values = sorted(lowest)
        y = np.array([lowest[v] for v in values])
        i = int(np.argmin(y))
        if 0 < i < len(values) - 1 and values[i - 1] > 0:
            x = np.log(values[i - 1 : i + 2])
            return float(np.exp(_vertex(x, y[None, i - 1 : i + 2])[0][0])), True
        return float(values[i]), False


def _vertex(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(place, value) of the vertex of the parabola through three points whose middle one is lowest; y is (n, 3)."""
    first, second = (y[:, 1] - y[:, 0]) / (x[1] - x[0]), (y[:, 2] - y[:, 1]) / (x[2] - x[1])
    bend = (second - first) / (x[2] - x[0])
    slope = first + bend * (x[1] - x[0])  # at the middle point
    with np.errstate(all="ignore"):
        move = np.where(bend > 0, -slope / (2 * bend), 0.0)
    return x[1] + move, y[:, 1] + slope * move + bend * move**2


def _noise(cells: list[_Cell]) -> float | None:
    """Pooled standard deviation of ln y that is neither the combination's nor the seed's."""
    squares, freedom = 0.0, 0
    for cell in cells:
        place = {key: i for i, key in enumerate(dict.fromkeys(cell.keys))}
        seed, seeds = pd.factorize(cell.seed)
        wide = np.full((len(place), len(seeds)), np.nan)
        wide[[place[key] for key in cell.keys], seed] = cell.log_y
        wide = wide[np.isfinite(wide).all(axis=1)]
        k, s = wide.shape
        if k > 1 and s > 1:
            left = wide - wide.mean(axis=1, keepdims=True)
            left -= left.mean(axis=0)
            squares, freedom = squares + float((left**2).sum()), freedom + (k - 1) * (s - 1)
    return float(np.sqrt(squares / freedom)) if freedom else None


def _law(quantity: str, cells: list[_Cell]) -> OptimumLaw | None:
    found = [(cell, *cell.optimum(quantity)) for cell in cells if cell.tried(quantity) > 1]
    if not found:
        return None
    values = [value for _, value, _ in found]
    inner = [(cell, value) for cell, value, inside in found if inside]
    exponents, constant = _power_law(inner)
    return OptimumLaw(quantity, exponents, constant, len(inner), len(found), min(values), max(values))


def _power_law(optima: list[tuple[_Cell, float]]) -> tuple[dict[str, tuple[float, float]], float]:
    """(exponents of N and D with standard errors, constant) by least squares in logarithms; ({}, nan) for too few."""
    sizes = {
        "N": np.log([cell.N for cell, _ in optima]),
        "D": np.log([float(cell.D.mean()) for cell, _ in optima]),
    }
    names = [k for k, v in sizes.items() if len(v) and np.ptp(v) > 0.1]
    if not names or len(optima) < 1 + len(names) + MIN_CELLS:
        return {}, float("nan")
    centers = {k: float(sizes[k].mean()) for k in names}
    design = np.column_stack([np.ones(len(optima)), *(sizes[k] - centers[k] for k in names)])
    if np.linalg.matrix_rank(design, tol=1e-3) < design.shape[1]:
        return {}, float("nan")
    target = np.log([value for _, value in optima])
    solution = np.linalg.lstsq(design, target, rcond=None)[0]
    left = target - design @ solution
    covariance = float(left @ left) / (len(optima) - design.shape[1]) * np.linalg.inv(design.T @ design)
    exponents = {k: (float(solution[i]), float(covariance[i, i] ** 0.5)) for i, k in enumerate(names, 1)}
    return exponents, float(solution[0] - sum(a * centers[k] for k, (a, _) in exponents.items()))
