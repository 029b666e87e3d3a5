"""Expected intervals from a prior law and its noise."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scaling_jax import fitting
from scaling_jax.errors import UserError
from scaling_jax.planning import Pack
from scaling_jax.study import Study

# The default priors. Small models: `scaling-jax fit --law=chinchilla --objective=log_least_squares` of the 64 runs of
# experiments/text_quickstart.py (byte-level transformers of width 16 to 64 on Python sources); the noise is that
# between their seeds, shared by the branches of a trunk and of each run. From 10M parameters on: a published law, about
# which the 240 runs of Hoffmann et al. (arXiv:2203.15556) scatter by .49%; half of that variance is given to the trunk.
SMALL_LAW = {"E": 0.805, "A": 12.7, "B": 267.0, "alpha": 0.301, "beta": 0.452}
LARGE_LAW, LARGE = "besiroglu2024", 1e7
TRUNK_NOISE, RUN_NOISE = 0.0079, 0.0042
LARGE_NOISE = 0.0035
ROUNDING = 0.05  # of ln D: whole batches of other sizes make other budgets of one
QUANTILE = 1.645  # of 90% intervals


@dataclasses.dataclass(frozen=True)
class Prior:
    """A law and its noise, believed before anything is trained.

    Attributes:
      fit: of a law of N and D.
      trunk_noise: standard deviation of ln loss between seeds, shared by the branches of a trunk.
      run_noise: further standard deviation of each run.
      source: in a few words.
    """

    fit: fitting.Fit
    trunk_noise: float
    run_noise: float
    source: str


@functools.cache
def default_prior(large: bool) -> Prior:
    """The law and noise of small byte-level transformers, or of models of 10M parameters and more."""
    if not large:
        fit = fitting.Fit.from_params("chinchilla", SMALL_LAW)
        return Prior(fit, TRUNK_NOISE, RUN_NOISE, "small text models (default)")
    source = fitting.published[LARGE_LAW]
    fit = fitting.Fit.from_params(source.law, source.params)
    return Prior(fit, LARGE_NOISE, LARGE_NOISE, f"{LARGE_LAW} (default)")


def named_prior(text: str) -> Prior | None:
    """The prior of a published name or of a fit's JSON file; None for anything else, such as a workdir.

    Raises:
      UserError: the file holds no fit of N and D.
    """
    if text in fitting.published:
        source = fitting.published[text]
        found = fitting.Fit.from_params(source.law, source.params)
    elif text.endswith(".json"):
        try:
            found = fitting.load(text)
        except (fitting.FitError, OSError) as error:
            raise UserError(f"--prior={text}: {error}") from error
    else:
        return None
    return checked(Prior(found, TRUNK_NOISE, RUN_NOISE, text))


def checked(prior: Prior) -> Prior:
    """The prior, if its law is one of N and D.

    Raises:
      UserError: it is not.
    """
    if set(prior.fit.law.inputs) != {"N", "D"}:
        raise UserError(
            f"--prior={prior.source}: {prior.fit.law.name} is a law of {', '.join(prior.fit.law.inputs)}, not of N, D"
        )
    return prior


@dataclasses.dataclass(frozen=True)
class Points:
    """The runs that a fit will see: one per scale, budget and seed."""

    N: np.ndarray
    D: np.ndarray
    C: np.ndarray
    trunk: np.ndarray
    flops: float

    @property
    def cells(self) -> np.ndarray:
        """Distinct (N, D), (n, 2)."""
        return np.unique(np.column_stack([self.N, self.D]), axis=0)


def points_of(study: Study, packs: Sequence[Pack]) -> Points:
    seen: dict[tuple[str, int, float], tuple[float, float, float]] = {}
    for pack in packs:
        N = float(getattr(pack.counts, study.fit.params))
        seeds = [lane.seed for lane in pack.lanes]
        first = {seed: lane for lane, seed in reversed([*enumerate(seeds)])}
        alike = {*first.values()} if pack.is_whole else range(len(seeds))  # lanes whose N, D and seed others repeat
        for run in pack.runs:
            if run.lane not in alike:
                continue
            # Batch sizes round one budget to different tokens; their winner is one run.
            seen.setdefault((pack.scale, seeds[run.lane], run.wanted), (N, float(run.tokens), run.flops))
    names = {key: i for i, key in enumerate(dict.fromkeys((scale, seed) for scale, seed, _ in seen))}
    trunk = np.array([names[scale, seed] for scale, seed, _ in seen])
    N, D, C = np.array(list(seen.values())).T
    return Points(N, D, C, trunk, sum(pack.trained_flops for pack in packs))


def correlation_of(points: Points) -> float:
    """Of ln N and ln D over the distinct points; nan where one varies by no more than batches round it."""
    log_n, log_d = np.log(points.cells).T
    varied = min(np.ptp(log_n), np.ptp(log_d)) > ROUNDING
    return float(np.corrcoef(log_n, log_d)[0, 1]) if varied else float("nan")


def expected_intervals(prior: Prior, points: Points, target: float) -> dict[str, tuple[float, float, float]]:
    """(value, low, high) of N*, D* and the loss at the target; {} where the runs do not determine the law."""
    law, params = prior.fit.law, dict(prior.fit.params)
    inputs, names = {"N": points.N, "D": points.D}, list(params)
    step = 1e-4

    def moved(name: str, sign: int) -> dict[str, float]:
        return params | {name: params[name] * np.exp(sign * step)}

    def answer(values: Mapping[str, float]) -> np.ndarray:
        found = fitting.Fit.from_params(law.name, dict(values)).frontier(target)
        return np.log([float(np.squeeze(v)) for v in (found.N, found.D, found.loss)])

    def derivative(function: Any) -> np.ndarray:
        sides = [(function(moved(n, 1)), function(moved(n, -1))) for n in names]
        return np.array([(up - down) / (2 * step) for up, down in sides])

    jacobian = derivative(lambda p: np.log(np.asarray(law(p, inputs), float)))  # (parameters, runs)
    by_trunk = np.zeros((len(names), points.trunk.max() + 1))
    for row, values in zip(by_trunk, jacobian):
        np.add.at(row, points.trunk, values)
    counts = np.bincount(points.trunk)
    between, within = prior.trunk_noise**2, max(prior.run_noise, 1e-6) ** 2
    weights = between / (within * (within + counts * between))
    information = jacobian @ jacobian.T / within - (by_trunk * weights) @ by_trunk.T  # Woodbury, trunk by trunk
    scale = np.sqrt(np.diag(information))
    if not (scale > 0).all() or np.linalg.cond(information / np.outer(scale, scale)) > 1e12:
        return {}
    covariance = np.linalg.inv(information / np.outer(scale, scale)) / np.outer(scale, scale)
    center, gradient = answer(params), derivative(answer)
    errors = np.sqrt(np.maximum(np.diag(gradient.T @ covariance @ gradient), 0.0))
    ends = [np.exp(np.clip(center + side * QUANTILE * errors, -300, 300)) for side in (-1, 1)]
    return {
        name: (float(np.exp(center[i])), float(ends[0][i]), float(ends[1][i]))
        for i, name in enumerate(("N", "D", "loss"))
    }
