"""The outlook of a planned study, and the cheapest change that would widen it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.outlook.expected import (
    LARGE,
    Points,
    Prior,
    correlation_of,
    default_prior,
    expected_intervals,
    points_of,
)
from scaling_jax.outlook.findings import Finding, listed, of_design, of_ladder, of_optimum, of_rules, of_runs, wider
from scaling_jax.planning import Pack, make_plan
from scaling_jax.study import Study
from scaling_jax.study_file import override
from scaling_jax.text import short

LEVEL = 0.9
BEYOND = 10.0  # times the largest run: the target where the study names none
WIDE = 4.0  # upper over lower end of the interval of N*
USELESS = np.log(1e6)  # of the same in logs: a change that leaves this much is none
MOST_TO_PROPOSE = 5000  # runs; planning variants of larger studies takes too long


@dataclasses.dataclass(frozen=True)
class Outlook:
    """What a study will be able to tell.

    Attributes:
      correlation: of ln N and ln D over the runs; nan where one does not vary.
      ratios: smallest and largest D / N.
      target: the compute that is asked about.
      expected: "N", "D", "loss" -> (value, low, high) at the target by the prior; empty where undetermined.
      prior: that this follows from.
      findings: what limits it, the most important first.
    """

    correlation: float
    ratios: tuple[float, float]
    target: float
    expected: Mapping[str, tuple[float, float, float]]
    prior: Prior
    findings: tuple[Finding, ...]

    @property
    def alone(self) -> bool:
        """True for a study of one scale and one budget: a run that `recommend` wrote, which no law is fitted to."""
        return self.correlation != self.correlation and self.ratios[0] == self.ratios[1]

    def __str__(self) -> str:
        low, high = map(short, self.ratios)
        if self.alone:
            return f"One scale and one budget at D/N = {low}: no law is fitted to it."
        varied = self.correlation == self.correlation
        first = f"ln N and ln D correlate at {self.correlation:.2f}" if varied else "N or D does not vary"
        noise = f"prior {self.prior.source}, seeds {self.prior.trunk_noise:.2%}, runs {self.prior.run_noise:.2%}"
        lines = [f"{first}; D/N from {low} to {high}."]
        if not self.expected:
            return f"{lines[0]}\nN* and D* at {self.target:.3g} FLOPs are not determined by these runs; {noise}."
        forms = {"N": ("N*", short), "D": ("D*", short), "loss": ("loss", "{:.3f}".format)}
        spans = [
            f"{forms[name][0]} {' '.join((show(value), f'[{show(least)}, {show(most)}]'))}"
            for name, (value, least, most) in self.expected.items()
            if (show := forms[name][1])
        ]
        lines.append(
            f"Expected at {self.target:.3g} FLOPs, {LEVEL:.0%} intervals of the law alone: {', '.join(spans)}; {noise}."
        )
        return "\n".join(lines)


def assess(
    study: Study, packs: Sequence[Pack], spec: Spec, prior: Prior | None = None, tokens: int | None = None
) -> Outlook:
    """What the planned runs will be able to tell.

    Args:
      study, packs, spec: of the plan.
      prior: law and noise; the default one otherwise.
      tokens: distinct training tokens (samples), where they are known.
    """
    points = points_of(study, packs)
    prior = prior or default_prior(bool(points.N.max() > LARGE))
    target = study.fit.target_flops[0] if study.fit.target_flops else BEYOND * float(points.C.max())
    correlation = correlation_of(points)
    ratio = points.D / points.N
    ratios = float(ratio.min()), float(ratio.max())
    expected = expected_intervals(prior, points, target)
    findings = [
        *of_ladder(study, packs),
        *of_design(study, points, correlation),
        *of_runs(study, packs, tokens),
        *of_optimum(study, points, prior),
        *of_rules(study),
    ]
    if len(points.cells) == 1:
        return Outlook(correlation, ratios, target, {}, prior, tuple(of_runs(study, packs, tokens)))
    wide = not expected or expected["N"][2] / expected["N"][1] > WIDE
    if wide and not any(f.refused for f in findings) and len(points.N) <= MOST_TO_PROPOSE:
        findings.insert(0, _proposal(study, spec, prior, points, target, expected))
    return Outlook(correlation, ratios, target, expected, prior, tuple(findings))


def refused(study: Study, packs: Sequence[Pack]) -> str:
    """Why nothing should be trained like this, with the way out; "" where it may be."""
    points = points_of(study, packs)
    found = of_design(study, points, correlation_of(points))
    return next((str(f) for f in found if f.refused), "")


def _proposal(
    study: Study, spec: Spec, prior: Prior, points: Points, target: float, expected: Mapping[str, Any]
) -> Finding:
    """The cheapest change that makes the interval of N* narrow, or the one that narrows it most for its cost."""
    width = np.log(expected["N"][2] / expected["N"][1]) if expected else np.inf
    tried = []
    for way in _changes(study):
        try:
            changed = override(study, way)
            after = points_of(changed, make_plan(changed, spec))
        except UserError:
            continue
        found = expected_intervals(prior, after, target)
        cost = max(after.flops / points.flops - 1, 0.0)
        if found and (left := np.log(found["N"][2] / found["N"][1])) < min(width, USELESS):
            tried.append((left, cost, way))
    now = f"is expected to be known to a factor of {np.exp(width / 2):.2g} either way"
    text = f"N* at {target:.3g} FLOPs {now if expected else 'is not determined'}"
    if not tried:
        return Finding(f"{text}; widen the ladder and the budgets, or add seeds")
    enough = [t for t in tried if t[0] <= np.log(WIDE)]
    if enough:
        left, cost, way = min(enough, key=lambda t: t[1])
    else:
        left, cost, way = max(tried, key=lambda t: (min(width, 50.0) - t[0]) / (0.1 + t[1]))
    return Finding(f"{text}; with {cost:.0%} more compute to {np.exp(left / 2):.2g}", way)


def _changes(study: Study) -> list[tuple[str, ...]]:
    """Small changes of a study: one more budget, one more width, one more seed."""
    out = list(wider(study))
    for name in ("tokens", "flops", "tokens_per_param"):
        values = sorted(getattr(study.budgets, name))
        if values:
            ratio = values[-1] / values[-2] if len(values) > 1 else 3.0
            for extra in (values[-1] * ratio, values[0] / ratio):
                out.append((f"budgets.{name}={listed(sorted([*values, extra]))}",))
    out.append((f"seeds={(*study.seeds, max(study.seeds) + 1)}",))
    return out
