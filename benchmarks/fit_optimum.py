"""How often the default search of `fitting.fit` misses the best optimum known, on simulated designs of every law:

    python benchmarks/fit_optimum.py [--laws=farseer,shape] [--cases=40] [--seed=0] [--csv=points.csv]

Each case draws a truth from the law's start ranges, a design (a grid, scattered, IsoFLOP sweeps, or D near 20 N with
15% of scatter; 8 to 120 runs), noise of 0, 0.1, 1 or 3%, in one of five cases a run 30% off, and one of six
objectives. With --csv, laws of N and D also take random subsets of its columns params, tokens, loss. The reference is
the lowest of: descents from the truth, --starts starts of another seed in the law's start ranges, as many in ranges
three times as wide, and up to twelve rounds that move the best of all these on. Prints, per law, how many default fits
end more than 1e-4 above the reference, how many of those carry no warning of it, and how many do not converge.

With --out each case is written as it ends, a line of JSON; a file with the same cases as --references saves the search
for their references, so that another version of the fitter is compared in the time of its own fits.
"""

import csv
import json
import multiprocessing
import pathlib
import time
import warnings
from dataclasses import replace

import numpy as np
from absl import app, flags

from scaling_jax import fitting
from scaling_jax.fitting.laws.registry import find_law
from scaling_jax.fitting.solver import _levenberg_marquardt as solve
from scaling_jax.fitting.solver import _search as search
from scaling_jax.fitting.solver._problem import Problem
from scaling_jax.fitting.solver._refine import local_optimum

LAWS = flags.DEFINE_list("laws", None, "Laws to try; all by default.")
CASES = flags.DEFINE_integer("cases", 40, "Cases of each law.")
SEED = flags.DEFINE_integer("seed", 0, "Of the first case.")
STARTS = flags.DEFINE_integer("starts", 500, "Starts of the reference, twice.")
CSV = flags.DEFINE_string("csv", None, "Real points (params, tokens, loss) that laws of N and D also take.")
PROCESSES = flags.DEFINE_integer("processes", None, "At a time; one per core by default.")
OUT = flags.DEFINE_string("out", None, "File of one line of JSON per case.")
REFERENCES = flags.DEFINE_string("references", None, "What --out wrote: the references of the same cases.")
OBJECTIVES = (
    *(fitting.Huber(delta) for delta in (1e-3, 1e-3, 1e-2)),
    *(fitting.LAD(), fitting.LeastSquares(log=True), fitting.LeastSquares()),
)
MISS = 1e-4
COLUMNS = ("gap", "warned", "converged", "seconds")


def design(law, rng):
    """Inputs of a random study, dict of (n,)."""
    kind = rng.choice(["grid", "scattered", "isoflop", "line"])
    if law.inputs == ("loss",):
        low = rng.uniform(1.5, 2.5)
        return {"loss": np.sort(rng.uniform(low, low + rng.uniform(0.4, 2), rng.choice([8, 12, 30])))}
    if law.inputs == ("x",):
        exponent = np.linspace(0, 1, rng.choice([14, 24, 40] if law.name.startswith("bnsl") else [8, 14, 24, 40]))
        if kind == "scattered":
            exponent = np.sort(rng.random(len(exponent)))
        return {"x": 10 ** (rng.uniform(0, 8) + rng.uniform(1.5, 5) * exponent)}
    N0, wide = 10 ** rng.uniform(5, 8.5), 10 ** rng.uniform(0.7, 2.5, 2)
    D0 = N0 * 10 ** rng.uniform(0, 1.5)
    if kind == "grid":
        axes = np.meshgrid(*(np.geomspace(1, w, rng.choice([4, 5, 7])) for w in wide))
        N, D = N0 * axes[0].ravel(), D0 * axes[1].ravel()
    elif kind == "scattered":
        N, D = (np.array([[N0], [D0]]) * wide[:, None] ** rng.random((2, rng.choice([16, 25, 40, 120])))).copy()
    elif kind == "isoflop":
        budgets, sizes = rng.choice([3, 5, 6]), rng.choice([5, 7, 9])
        C = np.repeat(6 * N0 * D0 * np.geomspace(1, wide.prod(), budgets), sizes)
        N = np.sqrt(C / 6 / 10 ** rng.uniform(0.5, 1.7)) * np.tile(np.geomspace(0.25, 4, sizes), budgets)
        D = C / 6 / N
    else:
        N = N0 * np.geomspace(1, wide[0], rng.choice([16, 25, 40]))
        D = 20 * N * 10 ** rng.normal(0, 0.15, len(N))
    n = len(N)
    width, depth = 2 ** rng.uniform(6, 11, n), np.exp(rng.uniform(np.log(2), np.log(48), n))
    if "width" in law.inputs:
        N = 12 * width**2 * depth
    unique = D / np.exp(np.maximum(0, rng.uniform(-0.5, 4, n)))
    columns = {"N": N, "D": D, "M": D / N, "U": unique, "E": 2.0 ** rng.integers(0, 10, n)}
    columns |= {"width": width, "depth": depth}
    if "S" in law.inputs:
        columns["S"] = D + np.where(rng.random(n) < 0.5, 0.0, 10 * D.max())
    return {k: columns[k] for k in law.inputs}


def points(law, rng):
    """(inputs, y, truth or None) of one case."""
    if CSV.value and set(law.inputs) <= {"N", "D", "M"} and rng.random() < 0.4:
        with open(CSV.value, encoding="utf-8") as file:
            rows = [[float(row[k]) for k in ("params", "tokens", "loss")] for row in csv.DictReader(file)]
        N, D, y = np.array(rows)[rng.choice(len(rows), rng.choice([20, 25, 40, 80]), replace=False)].T
        columns = {"N": N, "D": D, "M": D / N}
        return {k: columns[k] for k in law.inputs}, y, None
    for _ in range(500):
        inputs = design(law, rng)
        n = len(next(iter(inputs.values())))
        problem = Problem.of(law, inputs, np.full(n, rng.uniform(1.5, 4)), np.ones(n), fitting.Huber(1e-3))
        starts = [(0.05, 1.0) if c.kind == "linear" else c.start for c in law.coordinates.values()]
        drawn = dict(zip(law.coordinates, [rng.uniform(*start) for start in starts]))
        z = np.clip([drawn[k] for k in problem.free], problem.lower, problem.upper)
        y = problem.evaluate(z[None], order=0)[0]
        if n >= len(law.params) + 2 and np.isfinite(y).all() and y.min() > 1e-3 and np.ptp(np.log(y)) > 0.02:
            break
    else:
        raise RuntimeError(f"no usable case of {law.name} found")
    truth = problem.params(z)
    y = y * np.exp(rng.choice([0, 1e-3, 1e-2, 3e-2]) * rng.standard_normal(n))
    if rng.random() < 0.2:
        y[rng.integers(n)] *= 1.3
    return inputs, y, truth


def reference(problem, truth, seed):
    """The lowest objective that a much longer search finds."""
    law = problem.law
    wider = {k: replace(c, start=(2 * c.start[0] - c.start[1], 3 * c.start[1] - 2 * c.start[0]))
             for k, c in law.coordinates.items() if c.kind != "linear"}  # fmt: skip
    wide = replace(problem, law=replace(law, coordinates={**law.coordinates, **wider}))
    z = [search.choose(p, STARTS.value, seed + i) for i, p in enumerate((problem, wide))]
    if truth is not None:
        z.append(problem.unconstrained(truth)[None])
    ends = search._descend(problem, np.concatenate(z), 400)
    stale = 0
    for round_ in range(12):
        best = ends.value.min()
        elite = ends.z[search._best_apart(problem, ends, 16)]
        ends = search._concatenate(
            ends,
            search._descend(problem, search.perturb(problem, elite, max(8, STARTS.value // 12), seed + round_), 300),
        )
        stale = 0 if search._better(problem, ends, best) else stale + 1
        if stale == 4:
            break
    extended = search._extend_best(problem, ends)
    finished = local_optimum(problem, extended.z[np.argmin(extended.value)])
    return min(ends.value.min(), problem.value(finished[None])[0])


def case(job):
    """One default fit beside the reference, a dict; `known` is the reference or None."""
    name, seed, known = job
    warnings.simplefilter("ignore")
    solve.THREADS = 1
    law = find_law(name)
    rng = np.random.default_rng([seed, *name.encode()])
    inputs, y, truth = points(law, rng)
    objective = OBJECTIVES[rng.integers(len(OBJECTIVES))]
    start = time.process_time()
    fit = fitting.fit(name, inputs, y, objective)
    seconds = time.process_time() - start
    problem = fit.problem.within(law.plausible_range) if fit.certificate.lower_outside else fit.problem
    best = reference(problem, truth, seed + 1_000_000) if known is None else known
    above = max(0.0, fit.objective_value - best - search._noise(problem))
    warned = any("reached this optimum" in w or "NOT CONVERGED" in w for w in fit.warnings)
    return {
        "law": name, "seed": seed, "n": len(y), "objective": str(objective), "value": fit.objective_value,
        "reference": best, "gap": above / max(best, 1e-300), "warned": warned, "converged": fit.converged,
        "seconds": seconds, "certificate": str(fit.certificate),
    }  # fmt: skip


def started(argv):
    flags.FLAGS(argv)


def cases(argv):
    """Every case as it ends."""
    known = {}
    if REFERENCES.value:
        lines = pathlib.Path(REFERENCES.value).read_text("utf-8").splitlines()
        known = {(c["law"], c["seed"]): c["reference"] for c in map(json.loads, lines)}
    names = LAWS.value or list(fitting.laws)
    jobs = [(name, SEED.value + i) for name in names for i in range(CASES.value)]
    jobs = [(*job, known.get(job)) for job in jobs]
    argv = [argv[0], *(f"--{f.name}={f.value}" for f in (STARTS, CSV) if f.value is not None)]
    with multiprocessing.get_context("spawn").Pool(PROCESSES.value, started, (argv,)) as pool:
        yield from pool.imap(case, jobs, chunksize=1)


def main(argv):
    done = {}
    for found in cases(argv):
        done.setdefault(found["law"], []).append(found)
        if OUT.value:
            with open(OUT.value, "a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
    print("| law | fits | missed | of them unwarned | worst gap | not converged | CPU seconds: median | mean | most |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name, rows in done.items():
        gaps, warned, converged, seconds = np.array([[r[k] for k in COLUMNS] for r in rows]).T
        missed = gaps > MISS
        print(
            f"| {name} | {len(rows)} | {missed.sum()} | {(missed & (warned == 0)).sum()} | {gaps.max():.1e} | "
            f"{(converged == 0).sum()} | {np.median(seconds):.3f} | {seconds.mean():.3f} | {seconds.max():.2f} |"
        )


if __name__ == "__main__":
    app.run(main)
