r"""Which runs of a ladder are worth making: those that `fitting.suggest` picks, beside other ways to spend the FLOPs.

    python benchmarks/suggest.py FITDATA [--ladders 100] [--save rows.csv]

Every public ladder of `benchmarks/extrapolation.py` with 40 runs or more is a pool: runs from half of the largest
compute on, at least ten, are held out and forecast; of the others one may make as many as 1%, 5% and 10% of their FLOPs
buy, the eight cheapest among them. All ways start from those (at a share that they exceed, a ladder is left out) and
are judged by the same `fitting.forecast` of the held-out runs. Simulated
ladders follow: three truths that are none of the laws (see `benchmarks/forecast_coverage.py`), and how wide the
interval then is beside what was expected.
"""

import argparse
import pathlib
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from extrapolation import Ladder, ladders
from forecast_coverage import drifted_rate, farseer, three_powers

from scaling_jax import fitting
from scaling_jax.fitting.optimal.design import _jacobian_at
from scaling_jax.text import table

SHARES = (0.01, 0.05, 0.1)
START, HELD, FEWEST = 8, 10, 40  # cheapest runs that everybody has; held-out runs; runs of a ladder; at least
ROUNDS = 3  # batches of `suggest` between two shares
Chooser = Callable[[Ladder, np.ndarray, np.ndarray, float, np.ndarray, np.random.Generator], list[int]]


def rows_of(ladder: Ladder, index: np.ndarray) -> dict[str, np.ndarray]:
    """N and D of some runs."""
    return {"N": ladder.N[index], "D": ladder.D[index]}


def forecast_of(ladder: Ladder, made: np.ndarray) -> fitting.Forecast:
    """The forecast of the runs that are made."""
    return fitting.forecast(rows_of(ladder, made), ladder.y[made], C=ladder.C[made])


def by_suggest(ladder: Ladder, made, pool, budget, held, rng) -> list[int]:
    """In batches: a new forecast after each."""
    chosen: list[int] = []
    for left in range(ROUNDS, 0, -1):
        free = np.setdiff1d(pool, chosen)
        part = (budget - ladder.C[chosen].sum()) / left
        if not len(free) or ladder.C[free].min() > part:
            continue
        known = np.concatenate([made, chosen]).astype(int)
        candidates = {**rows_of(ladder, free), "C": ladder.C[free]}
        found = fitting.suggest(
            forecast_of(ladder, known), part, target=rows_of(ladder, held), candidates=candidates, runs=len(free)
        )
        chosen += [int(i) for i in free[found.index]]
    return chosen


def in_order(order: Callable) -> Chooser:
    """Runs in a given order, each that is still affordable."""

    def choose(ladder: Ladder, made, pool, budget, held, rng) -> list[int]:
        chosen: list[int] = []
        for i in order(ladder, pool, rng):
            if ladder.C[i] <= budget:
                chosen.append(int(i))
                budget -= ladder.C[i]
        return chosen

    return choose


def d_optimal(ladder: Ladder, made, pool, budget, held, rng) -> list[int]:
    """The determinant of the information on the parameters of chinchilla, raised most per FLOP."""
    fit = fitting.fit("chinchilla", rows_of(ladder, made), ladder.y[made], starts=8)
    known = fit.linearized.jacobian
    unit = np.maximum(np.linalg.norm(known, axis=0), 1e-300)
    known, rows = known / unit, _jacobian_at(fit, ladder.N[pool], ladder.D[pool]) / unit
    inverse = np.linalg.pinv(known.T @ known, rcond=1e-12, hermitian=True)
    free, chosen = np.ones(len(pool), bool), []
    while (usable := free & (ladder.C[pool] <= budget)).any():
        projected = rows @ inverse
        gain = np.einsum("ij,ij->i", projected, rows)
        best = int(np.argmax(np.where(usable, np.log1p(gain) / ladder.C[pool], -np.inf)))
        inverse = inverse - np.outer(projected[best], projected[best]) / (1 + gain[best])
        free[best], budget = False, budget - ladder.C[pool][best]
        chosen.append(int(pool[best]))
    return chosen


WAYS: dict[str, Chooser] = {
    "suggest": by_suggest,
    "random": in_order(lambda ladder, pool, rng: rng.permutation(pool)),
    "cheapest first": in_order(lambda ladder, pool, rng: pool[np.argsort(ladder.C[pool], kind="stable")]),
    "D-optimal": d_optimal,
}


def error(ladder: Ladder, made: np.ndarray, held: np.ndarray) -> float:
    """Mean |error| in ln y of the forecast of the held-out runs."""
    value = forecast_of(ladder, made).predict(rows_of(ladder, held)).value
    return float(np.mean(np.abs(np.log(value / ladder.y[held]))))


def judged(ladder: Ladder) -> list[dict]:
    """Rows (ladder, way, share, error): every way at every share, and all runs of the pool."""
    order = np.argsort(ladder.C, kind="stable")
    held = order[-max(HELD, int(np.sum(0.5 * ladder.C.max() <= ladder.C))) :]
    pool = np.setdiff1d(order, held)
    total, start = ladder.C[pool].sum(), order[:START]
    shares = [share for share in SHARES if ladder.C[start].sum() <= share * total]
    if len(order) < FEWEST or not shares:
        return []
    rows = [{"ladder": ladder.name, "way": "all runs", "share": 1.0, "error": error(ladder, pool, held)}]
    for way, choose in WAYS.items():
        for seed in range(2 if way == "random" else 1):
            made, rng = start, np.random.default_rng(seed)
            for share in shares:
                budget = share * total - ladder.C[made].sum()
                free = np.setdiff1d(pool, made)
                made = np.concatenate([made, choose(ladder, made, free, budget, held, rng)]).astype(int)
                found = {"ladder": ladder.name, "way": way, "share": share, "error": error(ladder, made, held)}
                rows.append(found | {"runs": len(made), "spent": ladder.C[made].sum() / total})
    return rows


def simulated(count: int) -> tuple[list[dict], list[float]]:
    """Rows as `judged` gives, and found over expected widths of the interval after the first batch."""
    rows, ratios = [], []
    for number, truth_of in enumerate((three_powers, farseer, drifted_rate)):
        for seed in range(count):
            rng = np.random.default_rng([number, seed])
            truth = truth_of(rng)
            N, D = (v.ravel() for v in np.meshgrid(10 ** np.linspace(7, 9, 9), 10 ** np.linspace(8.3, 10.7, 9)))
            y = truth(N, D) * np.exp(0.005 * rng.normal(size=N.size))
            ladder = Ladder("simulated", f"{truth_of.__name__} {seed}", N, D, 6 * N * D, y)
            rows += judged(ladder)
            made = np.flatnonzero(0.01 * ladder.C.max() > ladder.C)
            before = forecast_of(ladder, made)
            budget = 0.2 * ladder.C[made].sum()
            found = fitting.suggest(before, budget, target_flops=ladder.C.max())
            n, d = (np.concatenate([rows_of(ladder, made)[k], getattr(found.runs, k)]) for k in ("N", "D"))
            new = truth(found.runs.N, found.runs.D) * np.exp(0.005 * rng.normal(size=len(found.runs)))
            after = fitting.forecast({"N": n, "D": d}, np.concatenate([y[made], new])).predict(found.target)
            ratios.append(float(np.mean(0.5 * np.log(after.high / after.low))) / found.after)
    return rows, ratios


def summary(rows: list[dict]) -> str:
    """Mean and median error over the ladders by way and share, and how often `suggest` errs least."""
    frame = pd.DataFrame(rows).groupby(["way", "share", "ladder"], sort=False).error.mean().reset_index()
    wide = frame.pivot_table(index="ladder", columns=["way", "share"], values="error")
    lines = []
    for way, share in frame[["way", "share"]].drop_duplicates().itertuples(index=False):
        both = wide[[(way, share), ("suggest", min(share, SHARES[-1]))]].dropna().to_numpy()
        errors, own = both[:, 0], both[:, -1]
        wins = "" if way == "suggest" else f"{np.mean(own <= errors):.0%}"
        lines.append([way, f"{share:.0%}", len(both), f"{errors.mean():.4f}", f"{np.median(errors):.4f}", wins])
    header = ["runs by", "FLOPs", "ladders", "mean error", "median error", "suggest no worse"]
    return table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--ladders", type=int, default=100, help="public ladders at most")
    parser.add_argument("--simulated", type=int, default=5, help="of each truth")
    parser.add_argument("--save", type=pathlib.Path, help="CSV of every row")
    flags = parser.parse_args()
    warnings.simplefilter("ignore", fitting.FitWarning)
    rows, start = [], time.process_time()
    for ladder in list(ladders(flags.folder))[: flags.ladders]:
        found = judged(ladder)
        rows += found
        print(f"{ladder.name}: {len(found)} rows, {time.process_time() - start:.0f} CPU s", flush=True)
    print("public ladders", summary(rows), sep="\n")
    made, ratios = simulated(flags.simulated)
    print("simulated ladders", summary(made), sep="\n")
    low, middle, high = np.quantile(ratios, (0.1, 0.5, 0.9))
    print(f"interval found over expected: {middle:.2f} (10% to 90% of {len(ratios)}: {low:.2f} to {high:.2f})")
    if flags.save:
        pd.DataFrame(rows + made).to_csv(flags.save, index=False)


if __name__ == "__main__":
    main()
