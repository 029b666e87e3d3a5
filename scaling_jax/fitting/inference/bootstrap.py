"""The bootstrap: the same fit on resampled points, residuals or clusters, thousands of them descended in batches."""

from dataclasses import dataclass

import numpy as np

from scaling_jax.fitting.data import check_level
from scaling_jax.fitting.inference.covariance import pulled_towards_own, quantiles
from scaling_jax.fitting.solver._levenberg_marquardt import descend

SHARP = 3e-3  # of the mean residual: where LAD is rounded off for resampling
METHODS = ("pairs", "residual", "wild")


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Refits on resampled data.

    Attributes:
      params: names of the fitted parameters, p of them.
      coordinates: (n, p) samples in the solver's coordinates, all finite: what predictions are made from.
      samples: (n, p) natural units; infinite or zero where a parameter ran off to its end of the range.
      derived: {name: (n,)} samples of derived exponents such as a = beta / (alpha + beta).
      method, seed: how points were resampled.
      settled: share of resamples whose refit met its tolerance.
    """

    params: tuple[str, ...]
    coordinates: np.ndarray
    samples: np.ndarray
    derived: dict
    method: str
    seed: int
    settled: float

    def columns(self):
        """{name: (n,)} samples of every fitted parameter, then of every derived exponent of another name."""
        columns = {k: self.samples[:, i] for i, k in enumerate(self.params)}
        return columns | {k: v for k, v in self.derived.items() if k not in columns}

    @property
    def stderr(self):
        """{name: standard deviation of its samples}, infinite for a parameter that ran off."""
        with np.errstate(invalid="ignore"):
            spread = {k: float(np.std(v, ddof=1)) for k, v in self.columns().items()}
        return {k: np.inf if np.isnan(v) else v for k, v in spread.items()}

    def interval(self, level=0.95):
        """{name: (lower, upper)} central quantiles of its samples."""
        check_level(level)
        return {k: tuple(map(float, quantiles(v, level))) for k, v in self.columns().items()}

    def __repr__(self):
        rows = [f"  {k:<8} +- {s:<11.5g} 95% [{lo:.5g}, {hi:.5g}]" for (k, s), (lo, hi) in
                zip(self.stderr.items(), self.interval(0.95).values())]  # fmt: skip
        return "\n".join([f"{len(self.samples)} {self.method} resamples, seed {self.seed}", *rows])


def from_coordinates(problem, z, method, seed, settled):
    """The `Bootstrap` of samples z (n, p)."""
    params = run_off(problem, z, problem.natural(z))
    with np.errstate(all="ignore"):
        derived = {k: np.asarray(of(params), np.float64) for k, of in problem.law.exponents.items()}
    samples = np.stack([params[k] for k in problem.free], axis=1)
    return Bootstrap(problem.free, z, samples, derived, method, seed, settled)


def bootstrap(problem, z, n, seed, method, clusters):
    """`n` refits of `problem` around its optimum z.

    Args:
      method: "pairs" draws points (clusters, when given) with replacement; "residual" keeps the inputs and adds
        residuals drawn with replacement to the fitted values; "wild" keeps each point's own residual and flips its
        sign, one sign for a whole cluster (Cameron, Gelbach & Miller 2008), right for unequal noise. In both,
        residuals first get back what the fit took of them (Feng, He & Hu 2011): without it intervals are too narrow.
      clusters: (n_points,) labels or None.
    Returns:
      `Bootstrap`.
    """
    rng = np.random.default_rng(seed)
    # The stream of np.random.choice: seed 42 draws the very resamples of Besiroglu et al. 2024.
    choice = np.random.RandomState(seed)
    if problem.objective.delta == 0:
        # The last digits of LAD cost most of its steps, and are far below what resampling can tell.
        problem = problem.smoothed(SHARP * np.mean(np.abs(problem.residuals(z[None]))) + 1e-300)
    labels = np.arange(problem.n) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    groups = labels.max() + 1
    if method != "pairs":
        r = problem.residuals(z[None])[0]
        fitted = problem.target - r
        r = r + pulled_towards_own(problem, z, labels if method == "wild" and clusters is not None else None)
    ends, settled = np.empty((n, problem.p)), np.empty(n, bool)
    # Resamples are drawn in blocks, so that a million rows do not need a million columns of weights at once.
    block = max(1, min(n, 2**22 // problem.n))
    starts = [z, *_ways_back(problem, z)]
    for i in range(0, n, block):
        size = min(block, n - i)
        if method == "pairs":
            drawn = choice.randint(0, groups, (size, groups)) + groups * np.arange(size)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=size * groups).reshape(size, groups)
            resampled = problem.with_data(weights=problem.weights * counts[:, labels])
        elif method == "residual":
            used = np.flatnonzero(problem.weights > 0)
            draws = r[used[rng.integers(0, len(used), (size, problem.n))]]
            resampled = problem.with_data(target=fitted + draws)
        else:
            signs = rng.choice((-1.0, 1.0), (size, groups))
            resampled = problem.with_data(target=fitted + r * signs[:, labels])
        best = np.full(size, np.inf)
        for start in starts:
            done = descend(resampled, np.repeat(start[None], size, axis=0), tolerance=1e-9, widen=0.3)
            better = done.value < best
            ends[i : i + size][better], settled[i : i + size][better] = done.z[better], done.settled[better]
            best = np.minimum(best, done.value)
    return from_coordinates(problem, ends, method, seed, float(settled.mean()))


def _ways_back(problem, z):
    """Further starts, for an optimum that ran off to a limit: out there every resample would look flat and stay."""
    starts = []
    for i in np.flatnonzero((z <= problem.lower) | (z >= problem.upper)):
        coordinate = problem.law.coordinates[problem.free[i]]
        if coordinate.kind != "log":
            continue
        low, high = np.add(coordinate.start, problem.spans[coordinate.spans]) if coordinate.spans else coordinate.start
        for value in np.linspace(low, high, 6)[1:-1]:
            held = problem.with_data()
            held.lower, held.upper = problem.lower.copy(), problem.upper.copy()
            held.lower[i] = held.upper[i] = value
            starts.append(descend(held, np.where(np.arange(problem.p) == i, value, z)).z[0])
    return starts


def run_off(problem, z, params):
    """Natural-unit parameters with practical zero and infinity of their range made exact.

    A positive parameter moved along its logarithm stops at a far limit when the data want it gone; that limit is a
    number of the solver, not of the data.
    """
    params = dict(params)
    for i, k in enumerate(problem.free):
        if problem.law.coordinates[k].kind == "log":
            lo, hi = problem.law.bounds[k]
            value = np.where(z[..., i] >= problem.upper[i], hi, params[k])
            params[k] = np.where(z[..., i] <= problem.lower[i], lo, value)
    return params
