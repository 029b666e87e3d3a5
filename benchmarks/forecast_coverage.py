r"""How often the intervals of a forecast cover the truth, where the truth is none of the laws.

    python benchmarks/forecast_coverage.py [--ladders 300]

Every simulated ladder has 8 sizes and 6 token budgets each, branches of one trunk whose luck (1% of the loss) they
share. Asked are N*, the expected loss and one run at 10 times the largest budget, and one run at 3 times it. Three
truths: a sum of three powers, a Farseer surface, and a Chinchilla law whose learning rate is tuned for the
smallest model and drifts away from the optimum.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scaling_jax import fitting
from scaling_jax.text import table

SIZES, BUDGETS, LUCK, WITHIN, LEVEL = 8, 6, 0.01, 0.001, 0.9
Truth = Callable[[np.ndarray, np.ndarray], np.ndarray]


def three_powers(rng: np.random.Generator) -> Truth:
    """E + A / N^alpha + B / D^beta + F / C^gamma, with optima at some 20 tokens per parameter."""
    E, a, b, f = rng.uniform(1.4, 2.0), *rng.uniform(0.4, 0.9, size=3)
    alpha, beta, gamma = *rng.uniform(0.28, 0.4, size=2), rng.uniform(0.05, 0.1)
    return lambda N, D: E + a * (1e8 / N) ** alpha + b * (2e9 / D) ** beta + f * (1e18 / (N * D)) ** gamma


def farseer(rng: np.random.Generator) -> Truth:
    """The equation of Li et al. 2025 (arXiv:2506.10972, eq. 3): floor, term and exponent of D all depend on N."""
    params = {"a1": 0.0415, "alpha": 0.1, "b1": -1.284, "a2": 0.439, "beta": 0.1, "a3": 18.1, "gamma": -0.2, "b3": 0.5}
    params["b2"] = 4.42 + rng.uniform(-0.2, 0.2)
    return lambda N, D: fitting.laws["farseer"](params, {"N": N, "D": D})


def drifted_rate(rng: np.random.Generator) -> Truth:
    """A Chinchilla law, above it by up to 1% per squared decade of N beyond the smallest model."""
    base, slope = three_powers(rng), rng.uniform(0.0, 0.01)
    return lambda N, D: base(N, D) * (1 + slope * np.maximum(np.log10(N / 1e7), 0.0) ** 2)


def optimum(truth: Truth, C: float) -> tuple[float, float]:
    """(N*, L*) of the truth at a budget: its minimum within a factor of 20 of the size with 20 tokens per parameter."""
    N = np.sqrt(C / 120) * np.exp(np.linspace(-np.log(20), np.log(20), 20001))
    losses = truth(N, C / (6 * N))
    best = int(np.argmin(losses))
    assert 0 < best < N.size - 1, "the truth has no optimum here"
    return float(N[best]), float(losses[best])


def simulated(truth: Truth, smallest: float, rng: np.random.Generator) -> dict[str, tuple[bool, float]]:
    """{asked: (covered, width in logarithms)} of one ladder."""
    sizes = smallest * 10 ** np.linspace(0, 1.75, SIZES)
    ratio = 10 ** np.linspace(0.3, 2.1, BUDGETS)
    N, trunk = np.repeat(sizes, BUDGETS), np.repeat(np.arange(SIZES), BUDGETS)
    D = N * np.tile(ratio, SIZES)
    luck = LUCK * rng.normal(size=SIZES)[trunk] + WITHIN * rng.normal(size=N.size)
    forecast = fitting.forecast({"N": N, "D": D}, truth(N, D) * np.exp(luck), clusters=trunk, level=LEVEL)
    found: dict[str, tuple[bool, float]] = {}

    def judge(name: str, value: float, interval: Sequence[Any]) -> None:
        low, high = (float(v) for v in interval)
        found[name] = (low <= value <= high, float(np.log(high / low)))

    top = 6 * float(np.max(N * D))
    best, expected = optimum(truth, 10 * top)
    frontier = forecast.frontier(10 * top)
    if frontier.N is not None and frontier.D is not None and frontier.interval is not None:
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
    for number, (truth, smallest) in enumerate(((three_powers, 1e7), (farseer, 1e7), (drifted_rate, 1e7))):
        results = []
        for seed in range(flags.ladders // 3):
            rng = np.random.default_rng([number, seed])
            results.append(simulated(truth(rng), smallest, rng))
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
