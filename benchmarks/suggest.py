r"""Which runs of a ladder are worth making: those that `fitting.suggest` picks, beside other ways to spend the FLOPs.

    python benchmarks/suggest.py FITDATA [--part public|simulated|bound] [--save rows.csv]

Every public ladder of `benchmarks/extrapolation.py` with 40 runs or more is a pool: runs from half of the largest
compute on, at least ten, are held out and forecast; of the others one may make as many as 1%, 5% and 10% of their FLOPs
buy, the eight cheapest among them. All ways start from those (at a share that they exceed, a ladder is left out) and
are judged by the same `fitting.forecast` of the held-out runs.

Simulated ladders: four known surfaces at the N and D of the public ladders, and three that are none of the laws (see
`benchmarks/forecast_coverage.py`) on a grid, where the interval found is also compared with the one expected. Bound:
the standard deviation at the held-out runs that the best 10% of the FLOPs leave, beside all runs, were the law known.
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
from forecast_coverage import Truth, drifted_rate, farseer, three_powers

from scaling_jax import fitting
from scaling_jax.fitting.optimal.design import _jacobian_at
from scaling_jax.text import table

SHARES = (0.01, 0.05, 0.1)
START, HELD, FEWEST = 8, 10, 40  # cheapest runs that everybody has; held-out runs; runs of a ladder; at least
NOISE = 0.005  # of ln y, of simulated ladders
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


def parts(ladder: Ladder) -> tuple[np.ndarray, np.ndarray]:
    """(runs by compute but for the largest, held-out largest runs)."""
    order = np.argsort(ladder.C, kind="stable")
    held = max(HELD, int(np.sum(0.5 * ladder.C.max() <= ladder.C)))
    return order[:-held], order[-held:]


def bound(ladder: Ladder, share: float) -> tuple[float, float]:
    """Standard deviations of ln y at the held-out runs with all runs of the pool, and with the best share of FLOPs.

    To first order, were the law the chinchilla of the pool and noise alike for all runs (its residuals' standard
    deviation). The best: of greedy choices by what a run takes off that variance, per power of its FLOPs.
    """
    pool, held = parts(ladder)
    fit = fitting.fit("chinchilla", rows_of(ladder, pool), ladder.y[pool], starts=8)
    J, H = (_jacobian_at(fit, ladder.N[i], ladder.D[i]) for i in (pool, held))
    unit = np.linalg.norm(J, axis=0)
    J, H, cost = J / unit, H / unit, ladder.C[pool]

    def left(index: np.ndarray) -> float:
        inverse = np.linalg.pinv(J[index].T @ J[index], rcond=1e-13, hermitian=True)
        return float(np.std(fit.residuals) * np.sqrt(np.einsum("ij,jk,ik->", H, inverse, H) / len(held)))

    found = []
    for power in (0.0, 0.25, 0.5, 0.75, 1.0):
        inverse, free, budget = 1e6 * np.eye(J.shape[1]), np.ones(len(pool), bool), share * cost.sum()
        while (usable := free & (cost <= budget)).any():
            projected = J @ inverse
            total = 1 + np.einsum("ij,ij->i", projected, J)
            gain = np.sum((projected @ H.T) ** 2, axis=1) / total
            best = int(np.argmax(np.where(usable, gain / cost**power, -np.inf)))
            inverse -= np.outer(projected[best], projected[best]) / total[best]
            free[best], budget = False, budget - cost[best]
        if np.sum(~free) >= J.shape[1]:
            found.append(left(np.flatnonzero(~free)))
    return left(np.arange(len(pool))), min(found)


def judged(ladder: Ladder) -> list[dict]:
    """Rows (ladder, way, share, error): every way at every share, and all runs of the pool."""
    order, held = parts(ladder)
    pool = np.sort(order)
    total, start = ladder.C[pool].sum(), order[:START]
    shares = [share for share in SHARES if ladder.C[start].sum() <= share * total]
    if len(ladder.y) < FEWEST or not shares:
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


def chinchilla(rng: np.random.Generator) -> Truth:
    """E + A / N^alpha + B / D^beta."""
    E, a, b = rng.uniform(1.4, 2.0), *rng.uniform(0.4, 0.9, size=2)
    alpha, beta = rng.uniform(0.25, 0.5, size=2)
    return lambda N, D: E + a * (1e8 / N) ** alpha + b * (2e9 / D) ** beta


def at_public_runs(folder: pathlib.Path, count: int) -> list[dict]:
    """Rows as `judged` gives: known surfaces at the N and D of the public ladders, `NOISE`."""
    rows = []
    pools = [ladder for ladder in ladders(folder) if len(ladder.y) >= FEWEST]
    for number, ladder in enumerate(pools[:count]):
        truth_of = (chinchilla, three_powers, farseer, drifted_rate)[number % 4]
        rng = np.random.default_rng([99, number])
        y = truth_of(rng)(ladder.N, ladder.D) * np.exp(NOISE * rng.normal(size=ladder.N.size))
        rows += judged(ladder._replace(y=y))
    return rows


def simulated(count: int) -> tuple[list[dict], list[float]]:
    """Rows as `judged` gives, and found over expected widths of the interval after the first batch."""
    rows, ratios = [], []
    for number, truth_of in enumerate((three_powers, farseer, drifted_rate)):
        for seed in range(count):
            rng = np.random.default_rng([number, seed])
            truth = truth_of(rng)
            N, D = (v.ravel() for v in np.meshgrid(10 ** np.linspace(7, 9, 9), 10 ** np.linspace(8.3, 10.7, 9)))
            y = truth(N, D) * np.exp(NOISE * rng.normal(size=N.size))
            ladder = Ladder("simulated", f"{truth_of.__name__} {seed}", N, D, 6 * N * D, y)
            rows += judged(ladder)
            made = np.flatnonzero(0.01 * ladder.C.max() > ladder.C)
            before = forecast_of(ladder, made)
            budget = 0.2 * ladder.C[made].sum()
            found = fitting.suggest(before, budget, target_flops=ladder.C.max())
            n, d = (np.concatenate([rows_of(ladder, made)[k], getattr(found.runs, k)]) for k in ("N", "D"))
            new = truth(found.runs.N, found.runs.D) * np.exp(NOISE * rng.normal(size=len(found.runs)))
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
    parser.add_argument("--part", choices=("public", "simulated", "bound"), help="only this")
    parser.add_argument("--ladders", type=int, default=100, help="public ladders at most")
    parser.add_argument("--simulated", type=int, default=4, help="grids of each truth")
    parser.add_argument("--save", type=pathlib.Path, help="CSV of every row")
    flags = parser.parse_args()
    warnings.simplefilter("ignore", fitting.FitWarning)
    rows, start = [], time.process_time()
    if flags.part in (None, "public"):
        for ladder in list(ladders(flags.folder))[: flags.ladders]:
            found = judged(ladder)
            rows += found
            print(f"{ladder.name}: {len(found)} rows, {time.process_time() - start:.0f} CPU s", flush=True)
        print("public ladders", summary(rows), sep="\n", flush=True)
    if flags.part in (None, "simulated"):
        made, ratios = simulated(flags.simulated)
        print("simulated grids", summary(made), sep="\n", flush=True)
        low, middle, high = np.quantile(ratios, (0.1, 0.5, 0.9))
        print(f"interval found over expected: {middle:.2f} (10% to 90% of {len(ratios)}: {low:.2f} to {high:.2f})")
        known = at_public_runs(flags.folder, flags.ladders)
        print("known surfaces at the runs of public ladders", summary(known), sep="\n", flush=True)
        rows += made + known
    if flags.part in (None, "bound"):
        left = np.array([bound(x, SHARES[-1]) for x in ladders(flags.folder) if len(x.y) >= FEWEST])
        times, (every, best) = left[:, 1] / left[:, 0], np.median(left, axis=0)
        print(
            f"bound: standard deviation {every:.4f} with all runs, {best:.4f} with the best {SHARES[-1]:.0%} of FLOPs"
        )
        print(
            f"times as large: {np.median(times):.2f} ({times.min():.2f} to {times.max():.2f} of {len(times)} ladders)"
        )
    print(f"{time.process_time() - start:.0f} CPU s")
    if flags.save:
        pd.DataFrame(rows).to_csv(flags.save, index=False)


if __name__ == "__main__":
    main()
