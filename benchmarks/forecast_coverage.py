r"""How often the intervals of a forecast cover the truth, where the truth is none of the laws.

    python benchmarks/forecast_coverage.py [--ladders 300]

Every simulated ladder has 8 sizes and 6 token budgets each, branches of one trunk whose luck (1% of the loss) they
share. Asked are N*, the expected loss and one run at 10 times the largest budget, and one run at 3 times it. Three
truths: a sum of three powers, a published Farseer surface, and a Chinchilla law whose learning rate is tuned for the
smallest model and drifts away from the optimum.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np

from scaling_jax import fitting
from scaling_jax.fitting.published import published
from scaling_jax.text import table

SIZES, BUDGETS, LUCK, WITHIN, LEVEL = 8, 6, 0.01, 0.001, 0.9
Truth = Callable[[np.ndarray, np.ndarray], np.ndarray]


def three_powers(rng: np.random.Generator) -> Truth:
    """E + A / N^alpha + B / D^beta + F / C^gamma."""
    E, A, B = rng.uniform(1.4, 2.0), np.exp(rng.uniform(5.5, 6.5)), np.exp(rng.uniform(6.5, 8.0))
    alpha, beta, F, gamma = rng.uniform(0.3, 0.4), rng.uniform(0.3, 0.4), rng.uniform(5, 15), rng.uniform(0.06, 0.1)
    return lambda N, D: E + A / N**alpha + B / D**beta + F / (6 * N * D) ** gamma


def farseer(rng: np.random.Generator) -> Truth:
    """The Farseer surface that Luo et al. 2025 published for code; its D-term up to 20% larger or smaller."""
    law, params = fitting.laws["farseer"], dict(published["luo2025_code"].params)
    params["b2"] += rng.uniform(-0.2, 0.2)
    return lambda N, D: law(params, {"N": N, "D": D})


def drifted_rate(rng: np.random.Generator) -> Truth:
    """A Chinchilla law, above it by up to 1% per squared decade of N beyond the smallest model."""
    base, slope = three_powers(rng), rng.uniform(0.0, 0.01)
    return lambda N, D: base(N, D) * (1 + slope * np.maximum(np.log10(N / 1e7), 0.0) ** 2)


def optimum(truth: Truth, C: float) -> tuple[float, float]:
    """(N*, L*) of the truth at a budget."""
    N = np.exp(np.linspace(np.log(1e6), np.log(1e13), 20001))
    losses = truth(N, C / (6 * N))
    return float(N[np.argmin(losses)]), float(losses.min())


def simulated(truth: Truth, rng: np.random.Generator) -> dict[str, tuple[bool, float]]:
    """{asked: (covered, width in logarithms)} of one ladder."""
    sizes = 1e7 * 10 ** np.linspace(0, 1.75, SIZES)
    ratio = 10 ** np.linspace(0.3, 2.1, BUDGETS)
    N, trunk = np.repeat(sizes, BUDGETS), np.repeat(np.arange(SIZES), BUDGETS)
    D = N * np.tile(ratio, SIZES)
    luck = LUCK * rng.normal(size=SIZES)[trunk] + WITHIN * rng.normal(size=N.size)
    forecast = fitting.forecast({"N": N, "D": D}, truth(N, D) * np.exp(luck), clusters=trunk, level=LEVEL)
    found: dict[str, tuple[bool, float]] = {}

    def judge(name: str, value: float, interval: tuple[float, float]) -> None:
        low, high = (float(v) for v in interval)
        found[name] = (low <= value <= high, float(np.log(high / low)))

    top = 6 * float(np.max(N * D))
    best, expected = optimum(truth, 10 * top)
    frontier = forecast.frontier(10 * top)
    if frontier.interval is not None:
        judge("N* at 10x", best, frontier.interval["N"])
        judge("expected loss at 10x", float(truth(frontier.N, frontier.D)), frontier.interval["loss"])
        judge("L* at 10x", expected, frontier.interval["loss"])
    for factor in (3, 10):
        n, d = np.sqrt(factor * top / 6 / 20), np.sqrt(factor * top / 6 * 20)
        run = float(truth(n, d)) * np.exp(LUCK * rng.normal() + WITHIN * rng.normal())
        prediction = forecast.predict({"N": n, "D": d})
        judge(f"one run at {factor}x", run, (prediction.low, prediction.high))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ladders", type=int, default=300)
    flags = parser.parse_args()
    warnings.simplefilter("ignore", fitting.FitWarning)
    rows, start, every = [], time.time(), []
    for number, truth in enumerate((three_powers, farseer, drifted_rate)):
        results = []
        for seed in range(flags.ladders // 3):
            rng = np.random.default_rng([number, seed])
            results.append(simulated(truth(rng), rng))
        every += results
        rows += summary(truth.__name__, results)
        print(f"{truth.__name__}: {time.time() - start:.0f} s", flush=True)
    print(table(["truth", "asked", "answers", "coverage", "median width"], rows + summary("all", every)))


def summary(name: str, results: list[dict[str, tuple[bool, float]]]) -> list[list[str]]:
    """Rows of the table for one truth."""
    rows = []
    for asked in dict.fromkeys(k for r in results for k in r):
        found = [r[asked] for r in results if asked in r]
        covered, width = (np.array(v) for v in zip(*found))
        rows.append([name, asked, f"{len(found)}/{len(results)}", f"{covered.mean():.2f}", f"{np.median(width):.3f}"])
    return rows


if __name__ == "__main__":
    main()
