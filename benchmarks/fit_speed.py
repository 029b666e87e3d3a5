"""How fast laws are fitted, each beside the published scipy procedure in the same run:

    python benchmarks/fit_speed.py [--csv=points.csv] [--share=0.05]

The points are 240 simulated ones with the noise and outliers of Chinchilla's figure 4, or the columns params, tokens
and loss of a CSV (rows marked `excluded` left out). The published procedure (Hoffmann et al. 2022, Besiroglu et al.
2024) is L-BFGS-B with numerical gradients from a grid of 4,500 starts, and BFGS from its optimum for each of 4,000
resamples; `--share` of its starts and resamples are run and the time is scaled up, 1 runs them all. Prints wall
seconds, in brackets seconds of processor time, and the ratio of processor times, which other users of the machine
change little.
"""

import csv
import itertools
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags
from scipy.optimize import minimize
from scipy.special import huber

from scaling_jax import fitting
from scaling_jax.fitting.solver import _levenberg_marquardt as solve

CSV = flags.DEFINE_string("csv", None, "Points to fit instead of simulated ones.")
SHARE = flags.DEFINE_float("share", 0.05, "Share of the published starts and resamples that is run.")
DELTA, RESAMPLES = 1e-3, 4000
GRID = [
    np.arange(0, 30, 5),
    np.arange(0, 30, 5),
    np.arange(-1, 1.5, 0.5),
    np.arange(0, 2.5, 0.5),
    np.arange(0, 2.5, 0.5),
]

ONE_PROCESS = """
import numpy as np
from scaling_jax import fitting
N, D, y = np.load({path!r})
print(fitting.fit("chinchilla", {{"N": N, "D": D}}, y).params["A"])
"""
MANY_ROWS = """
import resource, time
import numpy as np
from scaling_jax import fitting
rng = np.random.default_rng(0)
N, D = 10 ** rng.uniform(7, 10, {n}), 10 ** rng.uniform(9, 12, {n})
y = (1.7 + 400 / N**0.34 + 410 / D**0.28) * np.exp(0.01 * rng.standard_normal({n}))
start, cpu = time.perf_counter(), time.process_time()
fit = fitting.fit("chinchilla", {{"N": N, "D": D}}, y)
assert fit.converged
print(time.perf_counter() - start, time.process_time() - cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def points() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """N, D and loss."""
    if CSV.value:
        with open(CSV.value, encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get("excluded", "0") in ("0", "")]
        return tuple(np.array([float(row[k]) for row in rows]) for k in ("params", "tokens", "loss"))
    rng = np.random.default_rng(0)
    N = 10 ** rng.uniform(7.7, 10.2, 240)
    D = 10 ** rng.uniform(18.8, 21.8, 240) / (6 * N)
    loss = 1.817 + 477.8 / N**0.3473 + 2143.4 / D**0.3672
    return N, D, loss * np.exp(0.006 * rng.standard_t(3, 240))


def published_cost(theta, log_n, log_d, log_loss):
    """The objective of the published code, SUM of Huber's cost of ln L minus a log-sum-exp, without its overheads."""
    a, b, e, alpha, beta = theta
    law = np.logaddexp(np.logaddexp(a - alpha * log_n, b - beta * log_d), e)
    return np.sum(huber(DELTA, log_loss - law))


def timed(function):
    """(result, wall seconds, seconds of processor time)."""
    start, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - start, time.process_time() - cpu


def report(name: str, ours, theirs: float, note: str = "") -> None:
    _, wall, cpu = ours
    print(f"{name:<40} {wall:7.3f} s ({cpu:7.3f})   scipy ({theirs:7.2f})   {theirs / cpu:6.0f}x  {note}", flush=True)


def main(_) -> None:
    N, D, y = points()
    inputs, logs = {"N": N, "D": D}, (np.log(N), np.log(D), np.log(y))
    cores, load = solve.THREADS, " ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{len(y)} points; cores: {cores}; load {load}")

    starts = list(itertools.product(*GRID))
    some = [
        starts[i] for i in np.random.default_rng(0).permutation(len(starts))[: max(2, round(SHARE.value * len(starts)))]
    ]
    ends, _, cpu = timed(lambda: [minimize(published_cost, s, logs, method="L-BFGS-B") for s in some])
    best_end = min(ends, key=lambda end: end.fun)
    grid_seconds = cpu * len(starts) / len(some)
    fit, first, _ = timed(lambda: fitting.fit("chinchilla", inputs, y))
    print(f"  ours: {fit.objective_value:.12g} ({fit.certificate}); first fit of the process {first:.2f} s")
    reached = np.mean([end.fun <= best_end.fun * 1.01 for end in ends])
    print(f"  scipy: best of {len(some)} starts {best_end.fun:.12g}, {reached:.1%} of them within 1% of it")

    rng, count = np.random.default_rng(42), max(2, round(SHARE.value * RESAMPLES))
    draws = [rng.choice(len(y), len(y)) for _ in range(count)]
    _, _, cpu = timed(
        lambda: [minimize(published_cost, best_end.x, tuple(v[i] for v in logs), method="BFGS") for i in draws]
    )
    resample_seconds = cpu * RESAMPLES / count

    for threads in sorted({1, cores}):
        solve.THREADS = threads
        fit = fitting.fit("chinchilla", inputs, y)
        label = f"{threads} thread{'s' if threads > 1 else ''}"
        best = min((timed(lambda: fitting.fit("chinchilla", inputs, y)) for _ in range(10)), key=lambda t: t[1])
        report(f"default fit, warm, {label}", best, grid_seconds)
        many = timed(lambda: fitting.fit("chinchilla", inputs, y, starts=len(starts)))
        certificate = many[0].certificate
        report(f"{len(starts)}-start certificate, {label}", many, grid_seconds, f"{certificate.agree} starts agree")
        fit = fitting.fit("chinchilla", inputs, y)
        report(
            f"{RESAMPLES} bootstrap resamples, {label}",
            timed(lambda fit=fit: fit.bootstrap(RESAMPLES)),
            resample_seconds,
        )

    path = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"fit_speed_{os.getpid()}.npy")
    np.save(path, np.stack([N, D, y]))
    try:
        command = [sys.executable, "-c", ONE_PROCESS.format(path=path)]
        walls = [timed(lambda: subprocess.run(command, check=True, capture_output=True))[1] for _ in range(3)]
    finally:
        os.unlink(path)
    with tempfile.TemporaryDirectory() as cache:  # bytecode, as pip leaves it
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": cache}
        imports = [
            min(
                timed(lambda code=code: subprocess.run([sys.executable, "-c", code], check=True, env=environment))[1]
                for _ in range(6)
            )
            for code in ("import jax", "import scaling_jax.fitting")
        ]
    print(f"whole process, import and fit                {min(walls):8.3f} s")
    print(
        f"import scaling_jax.fitting                   {imports[1]:8.3f} s, {imports[1] / imports[0]:.2f}x import jax"
    )
    for n in (10_000, 100_000, 1_000_000):
        done = subprocess.run([sys.executable, "-c", MANY_ROWS.format(n=n)], check=True, capture_output=True, text=True)
        wall, cpu, memory = map(float, done.stdout.split())
        print(f"{n:>9} rows                               {wall:8.3f} s ({cpu:7.3f})   {memory:.0f} MB at most")


if __name__ == "__main__":
    app.run(main)
