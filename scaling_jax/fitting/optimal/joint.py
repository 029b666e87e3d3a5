"""The forecast as a joint normal distribution of ln y over the targets and the candidates.

Its covariances are those of the forecast's parts:

- resampling: sum_k w_k cov(ln f_k) over the resamples of each law;
- laws: the share of the covariance between laws, sum_k w_k (ln f_k - mu)(ln f_k - mu)', in the directions that the
  runs so far leave open: where laws differ among the runs that exist, one more of these tells little;
- drift: tau(u) d tau(u') d' r(d, d') k(u, u') beyond the data, with d in decades of compute, u = ln(D / N), k the
  kernel of similar runs and r = min(d / d', d' / d)^(1/4): a run at d leaves about (d* - d)^2 of the drift at d*, which
  is what the forecast will count once its data reach d.

A run that is made conditions it, with the scatter of one run as noise; small runs count as little as they weigh in the
forecast's fits. A further branch of a trunk that exists repeats its luck, which the fits have followed: it is compared
with the trunk's other branches, so that it tells how ln y bends along the trunk, and little about its level.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from scaling_jax.fitting.forecast import Forecast
from scaling_jax.fitting.inference.mixture import LAW_SHARE, SIMILAR, Mixture, combined, log_ratio
from scaling_jax.fitting.inference.rolling import LARGEST_ROWS, LARGEST_SHARE, RECENCY, Ladder, Member
from scaling_jax.fitting.optimal.ensemble import surface_covariance
from scaling_jax.fitting.optimal.plans import Belief, Pool

DRIFT_MEMORY = 0.25  # exponent of r(d, d')
OUTLYING = 4.0  # robust standard deviations at the target from which a resample has run off


def belief_of(
    forecast: Forecast, pool: Pool, aims: Mapping[str, np.ndarray], repeats: np.ndarray
) -> tuple[Belief, float]:
    """The belief that a forecast is, and the mean variance of one run at the targets.

    Args:
      forecast: of a loss in N and D.
      pool: (m,) candidates.
      aims: N and D of the targets, each (t,).
      repeats: (m,) runs made at each candidate.
    """
    mixture, ladder = forecast._mixture, forecast._ladder
    m, t = pool.N.size, len(aims["N"])
    inputs = {"N": np.concatenate([pool.N, aims["N"]]), "D": np.concatenate([pool.D, aims["D"]])}
    u = log_ratio(inputs, m + t)
    run = np.interp(u, mixture.ratio, mixture.run)
    noise = run[:m] / repeats / _recency(ladder.scale, ladder.worth, 6.0 * pool.N * pool.D)
    shared, siblings = _shared_luck(mixture, pool, ladder.inputs["N"], repeats)
    K = _laws(mixture, ladder, inputs, m, np.pad(siblings, ((0, 0), (0, t)))) + _drift(mixture, inputs, u)
    belief = Belief(K[:m, :m], noise, K[m:, :m], float(np.mean(np.diag(K)[m:])))
    return _with_luck(belief, pool, shared, _share(mixture)), float(np.mean(run[m:]))


def surface_belief(forecast: Forecast, pool: Pool, repeats: np.ndarray) -> Belief:
    """What an ensemble of laws under a broad prior does not know at the candidates; without targets."""
    ladder, m = forecast._ladder, pool.N.size
    known = (ladder.inputs["N"], ladder.inputs["D"])
    K, noise = surface_covariance(known, ladder.y, ladder.worth, (pool.N, pool.D))
    share = _share(forecast._mixture)
    return _with_luck(Belief(K, noise / repeats, np.zeros((1, m)), 0.0), pool, np.full(m, share), share)


def _with_luck(belief: Belief, pool: Pool, unknown: np.ndarray, share: float) -> Belief:
    """The belief with a share of the noise common to a trunk, of which `unknown` (m,) is not known yet."""
    own = np.sqrt(unknown * belief.noise)
    luck = np.where(pool.trunk[:, None] == pool.trunk, np.outer(own, own), 0.0)
    return dataclasses.replace(belief, K=belief.K + luck, noise=(1.0 - share) * belief.noise + 1e-12)


def _share(mixture: Mixture) -> float:
    """The share of the scatter of one run that all branches of its trunk have in common."""
    between, within = mixture.noise.between, mixture.noise.within
    if between is None or within is None or not between:
        return 0.0
    return between**2 / (between**2 + within**2)


def _shared_luck(mixture: Mixture, pool: Pool, N: np.ndarray, repeats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is unknown of the luck of each candidate's trunk, and what is known of it by its siblings.

    Returns:
      (m,) shares of the scatter of one run, and (n, m) weights of the runs that exist: the luck of a trunk is estimated
      by the mean residual of its branches, shrunk.
    """
    share = _share(mixture)
    shares, siblings = np.full(pool.N.size, share), np.zeros((N.size, pool.N.size))
    if not share:
        return shares, siblings
    for i in np.flatnonzero(pool.longest[pool.trunk] > 0):
        rows = np.flatnonzero(np.abs(np.log(N / pool.N[i])) < 1e-6)
        if rows.size:
            left = (1.0 - share) / ((1.0 - share) + share * rows.size / repeats[i])
            shares[i] = share * left
            siblings[rows, i] = (1.0 - left) / rows.size
    return shares, siblings


def _recency(scale: np.ndarray, worth: np.ndarray, C: np.ndarray) -> np.ndarray:
    """(m,) weights that runs of compute C would have in the fits: see `rolling.recency_weights`."""
    order = np.argsort(-scale, kind="stable")
    total = np.cumsum(worth[order])
    last = min(int(np.searchsorted(total, max(LARGEST_ROWS, LARGEST_SHARE * total[-1]) * (1 - 1e-9))), scale.size - 1)
    return np.minimum(C / scale[order[last]], 1.0) ** RECENCY


def _laws(
    mixture: Mixture, ladder: Ladder, inputs: Mapping[str, np.ndarray], m: int, siblings: np.ndarray
) -> np.ndarray:
    """Covariance of ln y over resamples and laws; at the targets as large as `Mixture.parts` has it."""
    aimed = {k: v[m:] for k, v in inputs.items()}
    parts = mixture.parts(aimed)[1]
    each = [_resampled(member, ladder, inputs, m, siblings) for member in mixture.members]
    resampled = np.einsum("k,kij->ij", mixture.weights, np.stack(each))
    seen = _between(mixture, ladder.inputs)
    away = _between(mixture, inputs) - seen @ siblings
    noise = np.interp(log_ratio(ladder.inputs, len(ladder.y)), mixture.ratio, mixture.run) + 1e-12
    prior = np.diag(1.0 / (LAW_SHARE * np.maximum(mixture.weights, 1e-9)))
    left = np.linalg.inv(prior + (seen * ladder.worth / noise) @ seen.T)
    return _scaled(resampled, parts["resampling"], m) + _scaled(away.T @ left @ away, parts["laws"], m)


def _between(mixture: Mixture, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """(k, points) ln of each law over that of their mean; 0 where a law has no value."""
    logs = np.stack([k.log(k.fit.params, inputs) for k in mixture.members])
    return np.where(np.isfinite(logs), logs - combined(logs, mixture.weights)[0], 0.0)


def _scaled(K: np.ndarray, variance: np.ndarray, m: int) -> np.ndarray:
    """K times what makes its mean variance at the targets that of the forecast."""
    return K * (np.mean(variance) / max(float(np.mean(np.diag(K)[m:])), 1e-300))


def _resampled(
    member: Member, ladder: Ladder, inputs: Mapping[str, np.ndarray], m: int, siblings: np.ndarray
) -> np.ndarray:
    """Covariance of ln f over the resamples that did not run off."""
    logs = member.log(member.samples, inputs) - member.log(member.samples, ladder.inputs) @ siblings
    logs = logs[np.isfinite(logs).all(axis=1)]
    if len(logs) < 2:
        return np.zeros((logs.shape[1],) * 2)
    away = logs - np.median(logs, axis=0)
    spread = 1.4826 * np.median(np.abs(away), axis=0)
    good = (np.abs(away) <= OUTLYING * spread + 1e-12)[:, m:].all(axis=1)
    kept = away[good] if good.sum() > 1 else away
    kept = np.clip(kept, -OUTLYING * spread, OUTLYING * spread)
    kept = kept - kept.mean(axis=0)
    return kept.T @ kept / len(kept)


def _drift(mixture: Mixture, inputs: Mapping[str, np.ndarray], u: np.ndarray) -> np.ndarray:
    """Covariance of the drift; runs within the compute of the data say nothing about the drift beyond it."""
    beyond = np.maximum(np.log10(6.0 * inputs["N"] * inputs["D"] / mixture.ranges["C"][1]), 0.0)
    size = np.sqrt(np.interp(u, mixture.ratio, mixture.drift)) * mixture.decades(inputs)
    ln = np.log(np.maximum(beyond, 1e-12))
    memory = np.exp(-DRIFT_MEMORY * np.abs(ln[:, None] - ln)) * ((beyond > 0)[:, None] & (beyond > 0))
    similar = np.exp(-0.5 * ((u[:, None] - u) / SIMILAR) ** 2)
    correlation = np.where(np.eye(len(u), dtype=bool), 1.0, memory * similar)
    return np.outer(size, size) * correlation
