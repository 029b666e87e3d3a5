"""How often the interval of a compute multiplier covers the true one: simulated pairs of recipes.

    python benchmarks/compare_coverage.py --pairs=300

Ladders of 4 to 10 runs (or grids of N and D), noise of .2 to 1%, true multipliers of .7 to 1.6 that change by up to
10% per decade, floors shared by both. Half of the grids are branches of trunks that share most of their noise.
"""

import multiprocessing
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from absl import app, flags

from scaling_jax import fitting
from scaling_jax.fitting.comparison import CANNOT_TELL

PAIRS = flags.DEFINE_integer("pairs", 300, "simulated pairs of each kind")
LEVEL = 0.9


def ladder(rng):
    """One compute-optimal run per budget. Returns recipes, clusters and the true multiplier as a function of C."""
    E, gamma = rng.uniform(0.5, 2.2), rng.uniform(0.05, 0.2)
    decades = rng.uniform(1.5, 3.5)
    center = 10 ** rng.uniform(17, 20)
    excess = rng.uniform(0.5, 1.5)
    m0, drift = rng.uniform(0.7, 1.6), rng.uniform(-0.1, 0.1) / np.log(10) * rng.integers(2)
    noise = 10 ** rng.uniform(-2.7, -2.0)
    recipes, gamma_b = {}, gamma * (1 + drift)
    for name in "AB":
        n = rng.integers(4, 11)
        C = center * 10 ** np.linspace(-decades / 2, decades / 2, n)
        x = C / center
        loss = E + excess * (x**-gamma if name == "A" else m0**-gamma * x**-gamma_b)
        recipes[name] = ({"C": C}, loss * np.exp(noise * rng.standard_normal(n)))

    def truth(C):
        x = C / center  # excess x^-gamma = excess m0^-gamma x_b^-gamma_b
        return x / (m0**-gamma * x**gamma) ** (1 / gamma_b)

    return recipes, None, truth, np.sqrt(center * C.max()), C.max()


def grid(rng):
    """Sizes times budgets, each size one trunk whose branches share noise in half of the cases."""
    E, alpha, beta = rng.uniform(0.5, 2.2), rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.5)
    N, D = (a.ravel() for a in np.meshgrid(1e6 * 2.0 ** np.arange(5), 2e7 * 2.0 ** np.arange(5)))
    a, b, noise = rng.uniform(0.4, 1.2), rng.uniform(0.4, 1.2), 10 ** rng.uniform(-2.7, -2.0)
    m, shared = rng.uniform(0.7, 1.6), rng.integers(2) * 0.8
    trunk = np.repeat(np.arange(5)[None], 5, axis=0).ravel()
    recipes, clusters = {}, {}
    for name in "AB":
        gain = 1.0 if name == "A" else np.sqrt(m)  # of N and of D, so that the optimum moves by m in compute
        loss = E + a * (gain * N / 4e6) ** -alpha + b * (gain * D / 8e7) ** -beta
        own, common = rng.standard_normal(len(N)), rng.standard_normal(5)[trunk]
        loss = loss * np.exp(noise * (np.sqrt(1 - shared) * own + np.sqrt(shared) * common))
        recipes[name], clusters[name] = ({"N": N, "D": D}, loss), trunk
    C = 6 * N * D
    return recipes, clusters if shared else None, lambda c: m + 0 * c, np.median(C), C.max()


def case(kind, seed):
    rng = np.random.default_rng([seed, len(kind)])
    recipes, clusters, truth, middle, top = {"ladder": ladder, "grid": grid}[kind](rng)
    found = fitting.compare(recipes, LEVEL, clusters=clusters, seed=seed)
    C = np.array([middle, top, 10 * top])
    m = found.multiplier(C)
    true = truth(C)
    side = 0 if found.verdict == CANNOT_TELL else 1 if found.verdict == "B is better" else -1
    wrong = side * np.log(true[1]) < 0
    return (m.low <= true) & (true <= m.high), np.log(m.high / np.maximum(m.low, 1e-9)), side != 0, wrong


def main(argv):
    print(
        f"kind   | pairs | coverage of {LEVEL:.0%} at the middle, top, 10x | median width of ln m | decided | wrongly"
    )
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for kind in ("ladder", "grid"):
            done = pool.starmap(case, [(kind, i) for i in range(PAIRS.value)], chunksize=4)
            covered, widths, decided, wrong = map(np.array, zip(*done))
            print(
                f"{kind:<6} | {len(done):5} | {'  '.join(f'{v:.3f}' for v in covered.mean(axis=0)):>41} | "
                f"{'  '.join(f'{v:.2f}' for v in np.median(widths, axis=0)):>20} | {decided.mean():7.2f} | "
                f"{wrong.mean():.3f}"
            )


if __name__ == "__main__":
    app.run(main)
