"""The weighted mean of several laws, and how far it errs: four variances of ln y, calibrated by rolling origins.

With f_k the laws, w_k their weights and d how many decades a run lies beyond the data, ln y is forecast by
mu = sum_k w_k ln f_k with a variance that is the sum of

- resampling: sum_k w_k var(ln f_k) over resamples of the runs (or clusters);
- run: scatter of one run, the mean squared residual of runs with similar tokens per parameter;
- laws: a share of the variance between laws, sum_k w_k (ln f_k - mu)^2;
- drift: (tau d)^2, where tau^2 is learned from the errors per decade that the same mean made above earlier cuts of the
  same data, shrunk to a default: (nu0 tau0^2 + c sum_j tau_j^2) / (nu0 + J) over J cuts, the posterior mean of an
  inverse-gamma prior. Quantiles are Student's t: nu0 + J degrees of freedom for what the cuts taught, those of the
residuals for the others, combined as by Satterthwaite.

The constants below are the only ones of the method, the same for every ladder. They were chosen once by the density of
forecasts on the public ladders of benchmarks/extrapolation.md, which says what they give when a source is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from scaling_jax.fitting.inference import noise
from scaling_jax.fitting.inference.rolling import Ladder, Member, recency_weights

PRIOR_DRIFT = 0.005  # tau0, of ln y per decade: what the drift learned from cuts is shrunk to
PRIOR_CUTS = 5.0  # nu0, how many cuts that is worth
DEFAULT_DRIFT = 0.015  # of ladders with fewer cuts than ENOUGH_CUTS to learn their own from
ENOUGH_CUTS = 3
LARGEST_DRIFT = 0.08  # that one cut can account for, per decade
CUT_SHARE = 0.7  # of the squared drift of a cut: it has seen fewer runs over a smaller range than the forecast has
LAW_SHARE = 0.3  # of the variance between laws: their mean errs less than they do
SIMILAR = 1.0  # standard deviation, in ln(D / N), of the kernel that makes runs similar
PRIOR_ROWS = 1.0  # rows of the whole ladder's scatter that are added to that of similar runs
FAR_ROWS = 0.02  # weight of runs that are not similar, in the drift
NEAREST = 1.3  # times the cut: runs nearer than this carry little information about drift
NOISE_RECENCY = 2.0  # as rolling.RECENCY, for the scatter of one run
SHRINKAGE = 0.2  # of the exponents of the weights; 1 would weigh laws by the product of their errors over the cuts
FEWEST_DOF = 3.0  # of the residuals, however few the runs
UNEXPLAINED = 0.7  # share of the variance of ln y that the laws leave, from which there is only noise
SAMPLED = ("resampling", "run")
BLOCK = 2**21  # numbers in memory at once
GRID = 65


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """Several laws as one forecast.

    Attributes:
      members: the laws that take part.
      weights: (k,) of the members, sum 1.
      ranges: {name: (min, max)} of the inputs of the data, and of C = 6ND where there are N and D.
      ratio: (g,) grid of ln(D / N), one zero where there are no N and D.
      run: (g,) variance of one run along `ratio`.
      drift: (g,) variance of the drift per squared decade along `ratio`.
      shift: of ln y, the bias of the best of several runs.
      noise: the `Noise` of one run.
      residual_dof: degrees of freedom of the scatter of runs.
      learned_dof: degrees of freedom of the drift learned from the cuts.
      cuts: those that the drift was learned from.
    """

    members: tuple[Member, ...]
    weights: np.ndarray
    ranges: dict[str, tuple[float, float]]
    ratio: np.ndarray
    run: np.ndarray
    drift: np.ndarray
    shift: float
    noise: noise.Noise
    residual_dof: float
    learned_dof: float
    cuts: tuple[float, ...]

    def decades(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """(m,) decades by which each run lies beyond the data, in whichever of its inputs and C is farthest."""
        columns = dict(inputs)
        if {"N", "D"} <= set(columns):
            columns["C"] = 6.0 * columns["N"] * columns["D"]
        away = [
            np.maximum(np.log10(v / self.ranges[k][1]), np.log10(self.ranges[k][0] / v))
            for k, v in columns.items()
            if k in self.ranges and self.ranges[k][0] > 0
        ]
        return np.maximum(np.max(away, axis=0), 0.0)

    def parts(self, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(m,) ln of the forecast, and the variances of ln y by name, each (m,)."""
        logs = np.stack([m.log(m.fit.params, inputs) for m in self.members])
        mean, between = combined(logs, self.weights)
        resampling = np.zeros_like(mean)
        for w, member in zip(self.weights, self.members):
            resampling += w * _resampling(member, inputs)
        u = log_ratio(inputs, len(mean))
        away = self.decades(inputs)
        return mean + self.shift, {
            "resampling": resampling,
            "run": np.interp(u, self.ratio, self.run),
            "laws": LAW_SHARE * between,
            "drift": np.interp(u, self.ratio, self.drift) * away**2,
        }

    def half_width(self, variances: Mapping[str, np.ndarray], level: float) -> np.ndarray:
        """(m,) half-width of a central interval in ln y from the variances of `parts`, or some of them."""
        return half_width(variances, level, self.residual_dof, self.learned_dof)


def half_width(
    variances: Mapping[str, np.ndarray], level: float, residual_dof: float, learned_dof: float
) -> np.ndarray:
    """(m,) half-width of a central interval: Student's t with the degrees of freedom of Satterthwaite (1946).

    Args:
      variances: {part: (m,)}; "resampling" and "run" are known as well as the residuals, the others from cuts.
      level: of the interval.
      residual_dof: degrees of freedom of the first two.
      learned_dof: of the others.
    """
    from scipy.special import stdtrit

    total = np.maximum(sum(variances.values()), 1e-300)
    sampled = sum(v for k, v in variances.items() if k in SAMPLED)
    share = sampled / total
    dof = 1.0 / (share**2 / residual_dof + (1.0 - share) ** 2 / learned_dof)
    return stdtrit(dof, 0.5 + 0.5 * level) * np.sqrt(total)


def combined(logs: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and variance over the first axis of (k, m), without what is nan."""
    known = np.isfinite(logs)
    w = np.where(known, weights[:, None], 0.0)
    w = w / np.maximum(w.sum(axis=0), 1e-300)
    logs = np.where(known, logs, 0.0)
    mean = np.sum(w * logs, axis=0)
    return np.where(known.any(axis=0), mean, np.nan), np.sum(w * (logs - mean) ** 2, axis=0)


def unexplained(mixture: Mixture, ladder: Ladder) -> list[str]:
    """A sentence where the mean of the laws leaves most of the variance of ln y in the ladder; else nothing."""
    counts = ladder.weights > 0
    logs = np.stack([m.log(m.fit.params, ladder.inputs) for m in mixture.members])
    y = np.log(ladder.y[counts])
    left = np.mean((y - combined(logs, mixture.weights)[0][counts]) ** 2)
    if left <= UNEXPLAINED * np.var(y):
        return []
    share = max(1 - left / max(np.var(y), 1e-300), 0.0)
    what = "there is little but noise, an outlier, or a column is mistaken"
    return [f"the laws explain only {share:.0%} of the variance of ln y: {what}"]


def log_ratio(inputs: Mapping[str, np.ndarray], size: int) -> np.ndarray:
    """(m,) ln(D / N), zero where there are no N and D."""
    if "N" in inputs and "D" in inputs:
        return np.log(inputs["D"]) - np.log(inputs["N"])
    return np.zeros(size)


def mixture(
    members: Sequence[Member],
    ladder: Ladder,
    cuts: Sequence[float],
    best_of: int,
    components: tuple[float, float] | None,
) -> Mixture:
    """Weighs the members and calibrates the variances on the ladder itself.

    Args:
      members: at least one.
      ladder: the rows they were fitted to.
      cuts: the inner cuts, as given to `rolling.members`.
      best_of: how many tuned runs each row is the best of.
      components: variances of ln y between and within clusters, where there are clusters.
    """
    judged = [above for i, c in enumerate(cuts) if (above := _above(members, ladder, i, c)) is not None]
    weights = _weights(members, judged)
    logs = np.stack([m.log(m.fit.params, ladder.inputs) for m in members])
    residuals = np.log(ladder.y) - combined(logs, weights)[0]
    free = float(np.sum(weights * [m.candidate.free for m in members]))
    luck, scatter = noise.best_of(best_of)
    recency = recency_weights(ladder.scale, ladder.worth, NOISE_RECENCY) * ladder.worth
    worth = float(ladder.worth.sum())
    squares = residuals**2 * worth / max(worth - free, 1.0) / scatter**2
    overall = float(np.average(squares, weights=recency))
    u = log_ratio(ladder.inputs, len(residuals))
    ratio = np.linspace(u.min() - 3 * SIMILAR, u.max() + 3 * SIMILAR, GRID) if np.ptp(u) > 0 else np.zeros(1)
    kernel = np.exp(-0.5 * ((ratio[:, None] - u) / SIMILAR) ** 2)
    prior = PRIOR_ROWS * np.average(recency, weights=ladder.worth)
    run = (kernel @ (recency * squares) + prior * overall) / (kernel @ recency + prior)
    found = _noise(ladder, components, overall, worth - free)
    measured = dict(ladder.inputs)
    if {"N", "D"} <= set(measured):
        measured["C"] = 6.0 * measured["N"] * measured["D"]
    return Mixture(
        members=tuple(members),
        weights=weights,
        ranges={k: (float(v.min()), float(v.max())) for k, v in measured.items()},
        ratio=ratio,
        run=np.maximum(run, found.run**2) if found.source == "repeats" else run,
        drift=_drift(judged, weights, overall, ratio),
        shift=-luck * float(np.sqrt(np.mean(squares))) if best_of > 1 else 0.0,
        noise=found,
        residual_dof=max(worth - free, FEWEST_DOF),
        learned_dof=PRIOR_CUTS + len(judged),
        cuts=tuple(c for c, *_ in judged),
    )


def _noise(ladder: Ladder, components: tuple[float, float] | None, overall: float, dof: float) -> noise.Noise:
    between = within = None
    if components is not None:
        between, within = (float(np.sqrt(v)) for v in components)
    repeated, repeats = noise.repeat_variance(ladder.inputs, np.log(ladder.y), ladder.labels)
    if repeats >= noise.REPEAT_DOF:
        return noise.Noise(float(np.sqrt(repeated)), between, within, "repeats", float(repeats))
    return noise.Noise(float(np.sqrt(overall)), between, within, "neighbors", float(max(dof, 1.0)))


def _above(members: Sequence[Member], ladder: Ladder, i: int, cut: float) -> tuple | None:
    """(cut, errors (k, m) of each member in ln y, decades (m,), ln(D / N) (m,)) above a cut; nan where not fitted."""
    below = ladder.scale < cut
    decades = np.log10(ladder.scale / ladder.scale[below].max())
    judged = ~below & (decades > np.log10(NEAREST)) & (ladder.weights > 0)
    if not judged.any() or all(m.cuts[i] is None for m in members):
        return None
    rows = ladder.rows(judged)
    nothing = np.full(len(rows.y), np.nan)
    logs = np.stack([nothing if (p := m.cuts[i]) is None else m.log(p, rows.inputs) for m in members])
    if not np.isfinite(logs).any(axis=0).all():
        return None
    return cut, np.log(rows.y) - logs, decades[judged], log_ratio(rows.inputs, len(rows.y))


def _weights(members: Sequence[Member], judged: Sequence[tuple]) -> np.ndarray:
    """(k,) weights by the errors of inner forecasts, strongly shrunk to equal ones.

    Errors are taken relative to 0.5% and 2% per decade, and averaged in logarithms over the cuts where a member was
    fitted. Cuts of one ladder are far from independent, hence the shrinkage.
    """
    if not judged or len(members) == 1:
        return np.full(len(members), 1.0 / len(members))
    size = np.stack([np.mean(np.abs(e) / (0.005 + 0.02 * d), axis=1) for _, e, d, _ in judged])
    size = np.log(np.clip(size, 0.3, 1e3))
    # Cuts differ in difficulty: each counts relative to what the members that were fitted there average.
    relative = size - np.nanmean(size, axis=1, keepdims=True)
    seen = np.isfinite(relative)
    score = np.where(seen, relative, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    weights = np.exp(-SHRINKAGE * len(judged) * (score - score.min()))
    return weights / weights.sum()


def _drift(judged: Sequence[tuple], weights: np.ndarray, overall: float, ratio: np.ndarray) -> np.ndarray:
    """(g,) variance of the drift per squared decade along ln(D / N)."""
    prior = PRIOR_DRIFT if len(judged) >= ENOUGH_CUTS else DEFAULT_DRIFT
    total = np.full(len(ratio), PRIOR_CUTS * prior**2)
    for _, errors, decades, u in judged:
        error, between = combined(errors, weights)
        excess = np.maximum(error**2 - overall - LAW_SHARE * between, 0.0)
        similar = np.exp(-0.5 * ((ratio[:, None] - u) / SIMILAR) ** 2) + FAR_ROWS
        total += CUT_SHARE * np.minimum((similar @ excess) / (similar @ decades**2), LARGEST_DRIFT**2)
    return total / (PRIOR_CUTS + len(judged))


def _resampling(member: Member, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """(m,) variance of ln f over the resamples, from the quartiles: a few resamples run off."""
    size = len(next(iter(inputs.values())))
    variance = np.empty(size)
    step = max(1, BLOCK // len(next(iter(member.samples.values()))))
    for i in range(0, size, step):
        logs = member.log(member.samples, {k: v[i : i + step] for k, v in inputs.items()})
        logs = np.sort(np.where(np.isfinite(logs), logs, np.inf), axis=0)
        low, high = (logs[round(share * (len(logs) - 1))] for share in (0.16, 0.84))
        with np.errstate(invalid="ignore"):  # where most resamples have no value
            variance[i : i + step] = np.nan_to_num((0.5 * (high - low)) ** 2, nan=1.0)
    return np.minimum(variance, 1.0)
