"""Comparison of two recipes: how much less compute one needs for the same loss, with an interval.

The compute multiplier of B over A at compute C of A is m(C) = C / C_B, where C_B is the compute at which B reaches the
loss that A has at C: 1.25 means that A needs 25% more compute than B. Each recipe follows L = E + K / C^gamma or,
where its runs vary N and D independently, E + A / N^alpha + B / D^beta at the best N and D of each C. Intervals are
posterior, with flat priors and Gaussian noise of ln L whose size is unknown, which few runs leave wide.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from scaling_jax.charts import figure_of
from scaling_jax.fitting import plots
from scaling_jax.fitting.data import check_all_positive, check_int, check_level
from scaling_jax.fitting.errors import DataError, FitError
from scaling_jax.fitting.recipe import Recipe, noise, paired, read_recipe, sample_pair
from scaling_jax.fitting.rows import mistaken_columns
from scaling_jax.text import short

if TYPE_CHECKING:
    import pandas as pd

CANNOT_TELL, DEPENDS = "cannot tell", "depends on scale"
FLOORS = ("shared", "free")
MIN_PAIRS = 3  # runs of equal size in both recipes from which their losses are compared directly
REACH = 30.0  # times the largest compute of both, up to which a next pair is searched


class Multiplier(NamedTuple):
    """A compute multiplier: `value` (posterior median) and its interval `low`, `high`; floats, or arrays like C."""

    value: Any
    low: Any
    high: Any


class NextPair(NamedTuple):
    """One more run of each recipe at compute `C`.

    Attributes:
      C: compute of each of the two runs.
      low: lower end of the interval of the multiplier expected after them, at the top of the common range.
      high: its upper end.
      tells: whether that interval is expected to leave out 1.
    """

    C: float
    low: float
    high: float
    tells: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """The outcome of `compare`.

    Attributes:
      names: the recipes; the first is the baseline.
      level: of the intervals.
      floor: "shared", "free", or the value that all floors were pinned at.
      recipes: their checked data, by name.
      metric: what y is called in sentences.
    """

    names: tuple[str, ...]
    level: float
    floor: str | float
    recipes: Mapping[str, Recipe] = dataclasses.field(repr=False)
    metric: str = dataclasses.field(kw_only=True, default="loss")
    _samples: Mapping[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(repr=False)
    _seed: int = dataclasses.field(default=0, repr=False)

    def multiplier(self, C: ArrayLike, name: str | None = None) -> Multiplier:
        """The compute multiplier of a recipe over the baseline.

        Args:
          C: compute of the baseline, a number or an array.
          name: the recipe; may be left out when there are two.

        Returns:
          `Multiplier`: value, low, high of the shape of C. Zero where the recipe never reaches that loss.

        Raises:
          FitError: an unknown recipe, or compute that is not positive.
        """
        C = check_all_positive(C, "C")
        log_m = self._log_multiplier(C.ravel(), self._name(name))
        tail = (1.0 - self.level) / 2.0
        with np.errstate(over="ignore"):  # of recipes in different units
            low, value, high = np.exp(np.quantile(log_m, [tail, 0.5, 1.0 - tail], axis=0, method="nearest"))
        return Multiplier(*(v.reshape(C.shape) if C.ndim else float(v[0]) for v in (value, low, high)))

    def common_range(self, name: str | None = None) -> tuple[float, float]:
        """(lowest, highest) compute at which both the baseline and the recipe have runs, or the gap between them."""
        ends = [self.recipes[k].C for k in (self.names[0], self._name(name))]
        low, high = max(c.min() for c in ends), min(c.max() for c in ends)
        return (float(low), float(high)) if low <= high else (float(high), float(low))

    @property
    def verdict(self) -> str:
        """ "B is better", "A is better", "depends on scale" or "cannot tell", within the common range of compute.

        With more than two recipes: which one is credibly better than the baseline and than all others, if any is.
        """
        verdicts = {k: self._pair_verdict(k) for k in self.names[1:]}
        if len(verdicts) == 1:
            return next(iter(verdicts.values()))
        best = max(self.names[1:], key=lambda k: float(self.multiplier(self.common_range(k)[1], k).value))
        if all(v == f"{self.names[0]} is better" for v in verdicts.values()):
            return f"{self.names[0]} is better"
        if verdicts[best] != f"{best} is better":
            return CANNOT_TELL
        rivals = [k for k in self.names[1:] if k != best]
        clear = all(self._above(best, k) for k in rivals)
        return f"{best} is better" if clear else CANNOT_TELL

    @property
    def reasons(self) -> list[str]:
        """Sentences: the multiplier with its interval, its trend, the floors, and the next runs that would decide."""
        mistaken = (mistaken_columns({"x": r.C}) for r in self.recipes.values())
        return [
            *(f"{k}: {text}" for k, text in zip(self.names, mistaken) if text),
            *(f"{k}: {len(r.C)} of {r.given} runs, evenly along compute" for k, r in self.recipes.items() if r.given),
            *(sentence for k in self.names[1:] for sentence in self._reasons(k)),
        ]

    def trend(self, name: str | None = None) -> Multiplier:
        """Factor by which the multiplier changes per decade of compute, over the common range."""
        name = self._name(name)
        slope = self._slope(name)
        tail = (1.0 - self.level) / 2.0
        low, value, high = np.exp(np.quantile(slope, [tail, 0.5, 1.0 - tail], method="nearest")).tolist()
        return Multiplier(value, low, high)

    def by_floor(self, name: str | None = None, C: float | None = None) -> dict[str, Multiplier]:
        """The multiplier under a shared floor, free floors and the floor pinned at the shared one's median.

        Args:
          name: the recipe; may be left out when there are two.
          C: compute of the baseline; the highest common one by default.
        """
        name = self._name(name)
        C = self.common_range(name)[1] if C is None else float(check_all_positive(C, "C"))
        shared = self._with_floor("shared", name)
        pinned = float(np.median(shared._samples[name][0][:, 0]))
        answers = {"shared": shared.multiplier(C, name)}
        answers["free"] = self._with_floor("free", name).multiplier(C, name)
        answers[f"pinned at {pinned:.4g}"] = self._with_floor(pinned, name).multiplier(C, name)
        return answers

    def _with_floor(self, floor: str | float, name: str) -> Comparison:
        """The baseline and one recipe under this floor; pairs are sampled apart, so ours need not be again."""
        if floor == self.floor:
            return self
        pair = {k: self.recipes[k] for k in (self.names[0], name)}
        return _compared(pair, self.level, floor, self._seed)

    def next_pair(self, name: str | None = None) -> NextPair:
        """The cheapest next run of both recipes that is expected to separate them, or else the most informative one."""
        name = self._name(name)
        base, other = (self.recipes[k] for k in (self.names[0], name))
        first, second = self._samples[name]
        top = self.common_range(name)[1]
        target = _finite(self._log_multiplier(np.array([top]), name)[:, 0])
        variance = 2.0 * noise(base, other, (first, second)) ** 2
        half_width = 0.5 * np.ptp(np.quantile(target, [(1 - self.level) / 2, (1 + self.level) / 2]))
        center, best = float(np.median(target)), None
        largest = max(base.C.max(), other.C.max())
        for C in np.geomspace(self.common_range(name)[0], REACH * largest, 25):
            gap = np.log(base.loss(first, np.array([C]))) - np.log(other.loss(second, np.array([C])))
            correlation = np.cov(gap[:, 0], target)
            gain = correlation[0, 1] ** 2 / max((correlation[0, 0] + variance) * correlation[1, 1], 1e-300)
            left = half_width * np.sqrt(max(1.0 - gain, 0.0))
            low, high = float(np.exp(center - left)), float(np.exp(center + left))
            pair = NextPair(float(C), low, high, bool(abs(center) > left))
            if pair.tells:
                return pair
            if best is None or pair.high / pair.low < 0.98 * best.high / best.low:
                best = pair
        assert best is not None
        return best

    def table(self, C: ArrayLike | None = None) -> pd.DataFrame:
        """One row per recipe and compute: recipe, C, multiplier, low, high, and whether both have runs around C.

        Args:
          C: compute of the baseline; by default the ends and the middle of the common range and ten times beyond.
        """
        import pandas as pd

        rows = []
        for k in self.names[1:]:
            low, high = self.common_range(k)
            grid = (
                np.array([low, np.sqrt(low * high), high, 10 * high])
                if C is None
                else check_all_positive(C, "C").ravel()
            )
            for c, *answer in zip(grid, *self.multiplier(grid, k)):
                rows.append((k, c, *answer, bool(low <= c <= high)))
        return pd.DataFrame(rows, columns=["recipe", "C", "multiplier", "low", "high", "in_data"])

    def plot(self) -> Any:
        """The multiplier of each recipe over the baseline against compute; the matplotlib axes."""
        return figure_of(plots.multipliers({"": self})).axes[0]

    def __str__(self) -> str:
        return "\n".join([f"{self.verdict} (floor: {self.floor})", *(f"  {r}" for r in self.reasons)])

    def _name(self, name: str | None) -> str:
        if name is None and len(self.names) == 2:
            return self.names[1]
        if name not in self.names[1:]:
            raise FitError(f"name={name!r}: give one of {', '.join(map(repr, self.names[1:]))}.")
        return name

    def _log_multiplier(self, C: np.ndarray, name: str) -> np.ndarray:
        """(samples, len(C)); -inf where the recipe never reaches the baseline's loss."""
        first, second = self._samples[name]
        loss = self.recipes[self.names[0]].loss(first, C)
        return np.log(C) - self.recipes[name].log_compute(second, loss)

    def _slope(self, name: str) -> np.ndarray:
        low, high = self.common_range(name)
        high = max(high, 1.5 * low)
        ends = self._log_multiplier(np.array([low, high]), name)
        with np.errstate(invalid="ignore"):
            slope = (ends[:, 1] - ends[:, 0]) / np.log10(high / low)
        return np.where(np.isnan(slope), -np.inf, slope)

    def _side(self, C: float, name: str) -> int:
        """1 where the recipe is credibly better than the baseline, -1 where it is worse, 0 where that is open."""
        m = self.multiplier(C, name)
        return int(m.low > 1) - int(m.high < 1)

    def _pair_verdict(self, name: str) -> str:
        low, high = self.common_range(name)
        bottom, top = (self._side(C, name) for C in (low, high))
        if bottom * top < 0:
            return DEPENDS
        side = top or (self._side(float(np.sqrt(low * high)), name) if bottom else 0)
        if side == 0:
            return CANNOT_TELL
        return f"{name if side > 0 else self.names[0]} is better"

    def _above(self, best: str, rival: str) -> bool:
        pair = {k: self.recipes[k] for k in (rival, best)}
        return _compared(pair, self.level, self.floor, self._seed)._pair_verdict(best) == f"{best} is better"

    def _reasons(self, name: str) -> list[str]:
        base, (low, high) = self.names[0], self.common_range(name)
        values = []
        for C in (low, high):
            m = self.multiplier(C, name)
            values.append(f"{m.value:.3g} ({m.low:.3g} to {m.high:.3g}) at C = {C:.3g}")
        reasons = [f"compute multiplier of {name} over {base}: {', '.join(values)} ({self.level:.0%} intervals)"]
        if max(c.C.min() for c in (self.recipes[base], self.recipes[name])) > min(
            c.C.max() for c in (self.recipes[base], self.recipes[name])
        ):
            reasons.append(f"{base} and {name} have no compute in common: one of them is extrapolated")
        reasons.extend(self._off_the_frontier(name, high))
        slope = self.trend(name)
        if slope.low > 1 or slope.high < 1:
            what = "grows" if slope.low > 1 else "shrinks"
            reasons.append(
                f"it {what} with compute, by {slope.value:.3g} ({slope.low:.3g} to {slope.high:.3g}) per decade"
            )
        else:
            reasons.append(
                f"cannot tell whether it changes with compute ({slope.low:.3g} to {slope.high:.3g} per decade)"
            )
        if self._pair_verdict(name) == CANNOT_TELL:
            pair = self.next_pair(name)
            tells = (
                "is expected to tell" if pair.tells else "would be the most informative, but is not expected to tell"
            )
            then = f"(then {pair.low:.3g} to {pair.high:.3g} at {high:.3g})"
            reasons.append(f"one more run of each at C = {pair.C:.3g} {tells} {then}")
        return reasons

    def _off_the_frontier(self, name: str, C: float) -> list[str]:
        """How losses compare at equal sizes, and whether the frontier that is compared at C lies outside the runs."""
        base, other = self.recipes[self.names[0]], self.recipes[name]
        gaps = np.expm1(paired(base, other))
        out = []
        if len(gaps) >= MIN_PAIRS:
            what = "N and D" if base.N is not None and other.N is not None else "compute"
            out.append(
                f"at equal {what} the {self.metric} of {name} is lower in {np.sum(gaps < 0)} of {len(gaps)} pairs: "
                f"{gaps.min():+.2%} to {gaps.max():+.2%}, median {np.median(gaps):+.2%}"
            )
        for key, recipe, z in zip((self.names[0], name), (base, other), self._samples[name]):
            for symbol, runs, best in zip("ND", (recipe.N, recipe.D), recipe.optimum(z, C) or ()):
                if runs is not None and not runs.min() <= best <= runs.max():
                    side = "above" if best > runs.max() else "below"
                    out.append(
                        f"the multiplier is at the best N and D of each compute, and {symbol} = {short(best)} of {key} "
                        f"at C = {C:.3g} is {side} all its runs: extrapolated; add runs there"
                    )
        return out


def compare(
    recipes: Mapping[str, Sequence],
    level: float = 0.9,
    *,
    floor: str | float = "shared",
    clusters: Mapping[str, ArrayLike] | str | None = None,
    seed: int = 0,
    metric: str = "loss",
) -> Comparison:
    """Compares recipes by the compute they need for the same loss.

    Args:
      recipes: {name: (data, y)}, the baseline first. data has "C" (or "x"), or "N" and "D", or all three: a dict, a
        DataFrame, or an array of compute. With N and D that vary apart, the best of each compute is compared;
        otherwise the runs are taken as they are, at C or 6ND. y is a loss, or another metric that falls with compute,
        or the name of a column; all recipes must be measured in the same way. Of more than 512 runs of a recipe
        so many are taken, evenly along compute.
      level: of the intervals.
      floor: "shared" (all recipes tend to one loss, as when they differ in optimizer or architecture but not in
        data), "free", or a number at which it is pinned.
      clusters: {name: labels}, or the name of a column: runs that share their noise, such as branches of one trunk.
      seed: of the sampling.
      metric: what y is called in sentences.

    Returns:
      A `Comparison`: `.multiplier(C)`, `.verdict`, `.reasons`, `.trend()`, `.by_floor()`, `.next_pair()`, `.table()`.

    Raises:
      FitError: fewer than two recipes, too few runs, or values that no law takes.

    Example:
      >>> import numpy as np
      >>> from scaling_jax import fitting
      >>> C = np.geomspace(1e18, 1e21, 6)
      >>> a, b = 1.7 + 40 * C**-0.1, 1.7 + 40 * (1.5 * C)**-0.1
      >>> round(float(fitting.compare({"A": ({"C": C}, a), "B": ({"C": C}, b)}).multiplier(1e20).value), 2)
      1.5
    """
    if not isinstance(recipes, Mapping) or len(recipes) < 2:
        what = list(recipes) if isinstance(recipes, Mapping) else type(recipes).__name__
        raise FitError(f'recipes: {what}; give at least two, e.g. {{"A": (data, loss), "B": (data, loss)}}.')
    check_level(level)
    check_int(seed, "seed")
    number = isinstance(floor, (int, float, np.number)) and not isinstance(floor, bool) and 0 <= floor < np.inf
    if not (number or (isinstance(floor, str) and floor in FLOORS)):
        raise FitError(f'floor={floor!r}: give "shared", "free", or the floor\'s value.')
    if isinstance(clusters, Mapping) and (unknown := [k for k in clusters if k not in recipes]):
        raise FitError(f"clusters names {unknown[0]!r}, not a recipe; these are {', '.join(map(str, recipes))}.")
    checked = {str(k): read_recipe(str(k), value, _clusters_of(clusters, k)).thinned() for k, value in recipes.items()}
    if not isinstance(floor, str):
        lowest = min(float(r.y.min()) for r in checked.values())
        if floor >= lowest:
            raise DataError(f"floor={floor:g} is not below the lowest loss, {lowest:g}.")
    return dataclasses.replace(_compared(checked, level, floor, seed), metric=metric)


def _clusters_of(clusters: Any, name: str) -> Any:
    if clusters is None or isinstance(clusters, str):
        return clusters
    if not isinstance(clusters, Mapping):
        raise FitError('clusters must be {"A": labels, ...} with one label per run, or the name of a column.')
    return clusters.get(name)


def _compared(recipes: Mapping[str, Recipe], level: float, floor: str | float, seed: int) -> Comparison:
    names = tuple(recipes)
    base = recipes[names[0]]
    samples = {k: sample_pair(base, recipes[k], floor, seed) for k in names[1:]}
    return Comparison(names, level, floor, recipes, samples, seed)


def _finite(log_m: np.ndarray) -> np.ndarray:
    """Multipliers of zero, at the lowest that is not, so that moments exist."""
    seen = np.isfinite(log_m)
    return np.where(seen, log_m, log_m[seen].min() if seen.any() else 0.0)
