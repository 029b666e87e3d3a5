"""What a planned study will be able to tell, before a FLOP is spent: the plan knows every N and D.

The expected intervals are those of a prior law at the planned runs, to first order: with J the derivatives of ln loss
by ln parameters and V the covariance of ln loss (a part that all branches of a trunk share, and one of each run), the
parameters' covariance is (J' V^-1 J)^-1, and N*, D* and the loss at the target follow by the delta method. Of what is
swept at a scale, a budget and a seed one run counts, the winner. Other laws and drift make a forecast wider than this.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scaling_jax import analysis, fitting, rules
from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.planning import Pack, make_plan
from scaling_jax.study import Study
from scaling_jax.study_file import override
from scaling_jax.text import short

# The default priors. Small models: the losses of byte-level transformers with the convolution, width 16 to 96 on Python
# sources, and what their seeds differ by (.2-1.3%). From 10M parameters on: a published law; there seeds differ less.
SMALL_LAW = {"E": 0.8, "A": 20.5, "B": 400.0, "alpha": 0.35, "beta": 0.48}
LARGE_LAW, LARGE = "besiroglu2024", 1e7
TRUNK_NOISE, RUN_NOISE = 0.007, 0.002
LEVEL, QUANTILE = 0.9, 1.645
BEYOND = 10.0  # times the largest run: the target where the study names none
COLLINEAR, CORRELATED = 0.98, 0.9  # as the checks after training have it
NARROW_RATIO = 4.0  # D / N should vary by this factor
WIDE = 4.0  # upper over lower end of the interval of N*
MIN_STEPS, WARM_SHARE = 150, 0.2
MAX_EPOCHS = 4.0
OUTSIDE = 1.2
MOST_TO_PROPOSE = 5000  # runs; planning variants of larger studies takes too long


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


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that limits what a study can tell.

    Attributes:
      text: a sentence with its numbers.
      way: assignments for `--set` that change it, or none.
      refused: nothing should be trained like this.
    """

    text: str
    way: tuple[str, ...] = ()
    refused: bool = False

    def __str__(self) -> str:
        return self.text + ("; " + " ".join(f"--set '{way}'" for way in self.way) if self.way else "")


@functools.cache
def default_prior(large: bool) -> Prior:
    """The law and noise of small byte-level transformers, or of models of 10M parameters and more."""
    if not large:
        fit = fitting.Fit.from_params("chinchilla", SMALL_LAW)
        return Prior(fit, TRUNK_NOISE, RUN_NOISE, "small text models (default)")
    source = fitting.published[LARGE_LAW]
    fit = fitting.Fit.from_params(source.law, source.params)
    return Prior(fit, TRUNK_NOISE / 3, RUN_NOISE / 2, f"{LARGE_LAW} (default)")


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
class _Points:
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


def _points(study: Study, packs: Sequence[Pack]) -> _Points:
    batches: dict[str, set[int]] = {}
    for pack in packs:
        batches.setdefault(pack.scale, set()).add(pack.batch_size)
    seen: dict[tuple[str, int, int], tuple[float, float, float]] = {}
    for pack in packs:
        N = float(getattr(pack.counts, study.fit.params))
        seeds = [lane.seed for lane in pack.lanes]
        for run in pack.runs:
            # Batch sizes round one budget to different tokens; their winner is one run.
            key = (
                pack.scale,
                seeds[run.lane],
                round(20 * np.log(run.tokens)) if len(batches[pack.scale]) > 1 else run.tokens,
            )
            seen.setdefault(key, (N, float(run.tokens), run.flops))
    names = {key: i for i, key in enumerate(dict.fromkeys((scale, seed) for scale, seed, _ in seen))}
    trunk = np.array([names[scale, seed] for scale, seed, _ in seen])
    N, D, C = np.array(list(seen.values())).T
    return _Points(N, D, C, trunk, sum(pack.trained_flops for pack in packs))


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

    def __str__(self) -> str:
        low, high = map(short, self.ratios)
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
    points = _points(study, packs)
    prior = prior or default_prior(bool(points.N.max() > LARGE))
    target = study.fit.target_flops[0] if study.fit.target_flops else BEYOND * float(points.C.max())
    correlation = _correlation(points)
    ratio = points.D / points.N
    ratios = float(ratio.min()), float(ratio.max())
    expected = expected_intervals(prior, points, target)
    findings = [
        *_of_design(study, points, correlation),
        *_of_runs(study, packs, tokens),
        *_of_optimum(study, points, prior),
        *_of_rules(study),
    ]
    wide = not expected or expected["N"][2] / expected["N"][1] > WIDE
    if wide and not any(f.refused for f in findings) and len(points.N) <= MOST_TO_PROPOSE:
        findings.insert(0, _proposal(study, spec, prior, points, target, expected))
    return Outlook(correlation, ratios, target, expected, prior, tuple(findings))


def refused(study: Study, packs: Sequence[Pack]) -> str:
    """Why nothing should be trained like this, with the way out; "" where it may be."""
    points = _points(study, packs)
    found = _of_design(study, points, _correlation(points))
    return next((str(f) for f in found if f.refused), "")


def _correlation(points: _Points) -> float:
    """Of ln N and ln D over the distinct points; nan where one does not vary."""
    log_n, log_d = np.log(points.cells).T
    varied = len(log_n) > 2 and np.ptp(log_n) > 0 and np.ptp(log_d) > 0
    return float(np.corrcoef(log_n, log_d)[0, 1]) if varied else float("nan")


def expected_intervals(prior: Prior, points: _Points, target: float) -> dict[str, tuple[float, float, float]]:
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


def _of_design(study: Study, points: _Points, correlation: float) -> list[Finding]:
    out = []
    ratios = float((points.D / points.N).min()), float((points.D / points.N).max())
    sizes = np.unique(points.N)
    needed = len(fitting.laws[study.fit.law].params) if study.fit.law != analysis.AUTO else 5
    splits = study.fit.law == analysis.AUTO or {"N", "D"} <= set(fitting.laws[study.fit.law].inputs)
    if splits and correlation >= COLLINEAR:
        low, high = float(points.D.min()), float(points.D.max())
        crossed = ", ".join(f"{v:.3g}" for v in (low, (low * high) ** 0.5, high))
        ways = [f"budgets.{name}=()" for name in ("tokens_per_param", "flops") if getattr(study.budgets, name)]
        out.append(
            Finding(
                f"ln N and ln D correlate at {correlation:.3f} (D/N from {short(ratios[0])} to {short(ratios[1])}): "
                "the exponents of N and D cannot be told apart; train every scale on the same budgets",
                (f"budgets.tokens=({crossed})", *ways),
                refused=True,
            )
        )
    elif splits and abs(correlation) >= CORRELATED:
        out.append(
            Finding(f"ln N and ln D correlate at {correlation:.2f}, over {CORRELATED}: cross budgets and scales more")
        )
    elif splits and ratios[1] < NARROW_RATIO * ratios[0]:
        out.append(
            Finding(
                f"D/N varies by {ratios[1] / ratios[0]:.1f}x only: alpha and beta are hard to tell apart; give budgets "
                f"that spread it over {NARROW_RATIO:g}x or more"
            )
        )
    if len(sizes) < 3:
        some = "one scale" if len(sizes) == 1 else "2 scales"
        text = f"{some}: how the loss falls with N cannot be told from its floor; at least 3 scales are needed"
        out.append(Finding(text, next(iter(_wider(study)), ())))
    if len(points.cells) <= needed:
        out.append(
            Finding(
                f"{len(points.cells)} points (N, D) for the {needed} parameters of law {study.fit.law!r}: nothing is "
                "left to judge the fit by; add scales or budgets"
            )
        )
    if len(study.seeds) == 1:
        text = "one seed: the scatter between seeds stays unknown, and a lucky scale cannot be seen"
        out.append(Finding(text, (f"seeds=({study.seeds[0]}, {study.seeds[0] + 1})",)))
    return out


def _of_runs(study: Study, packs: Sequence[Pack], tokens: int | None) -> list[Finding]:
    out = []
    shortest = min(pack.budgets[0] for pack in packs)
    few = [pack for pack in packs if pack.budgets[0] < MIN_STEPS]
    if few:
        smaller = max(min(pack.batch_size for pack in few) * shortest // MIN_STEPS, 1)
        way = (f"optimizer.batch_size={smaller}",) if smaller < min(pack.batch_size for pack in few) else ()
        text = f"runs of {shortest} optimizer steps are shorter than {MIN_STEPS} and lie above any law; smaller batches"
        out.append(Finding(text, way))
    warm = {
        lane.warmup_steps / pack.budgets[pack.runs_of(i)[0].budget]: (lane.warmup_steps, pack)
        for pack in packs
        for i, lane in enumerate(pack.lanes)
    }
    share = max(warm)
    if share > WARM_SHARE:
        steps, pack = warm[share]
        out.append(
            Finding(
                f"the warm-up of {steps} steps is {share:.1%} of the shortest run of {pack.scale}, over "
                f"{WARM_SHARE:.0%}: short runs would lie above the law",
                (f"schedule.warmup_steps={max(shortest // 10, 1)}",),
            )
        )
    longest = max(run.tokens for pack in packs for run in pack.runs)
    distinct = min(v for v in (tokens, study.data.unique_tokens, np.inf) if v is not None)
    if longest > distinct and study.fit.law != "data_constrained":
        much = "" if longest <= MAX_EPOCHS * distinct else ", more than repeats are worth"
        out.append(
            Finding(
                f"the longest runs see the {short(distinct)} distinct tokens {longest / distinct:.1f} times{much}, "
                "and D counts that as new data",
                ("fit.law=data_constrained",) if much else (),
            )
        )
    return out


def _of_optimum(study: Study, points: _Points, prior: Prior) -> list[Finding]:
    """N* expected outside the sizes at the ladder's own compute."""
    C = np.geomspace(points.C.min(), points.C.max(), 5)
    best = np.asarray(prior.fit.frontier(C).N, float)
    low, high = points.N.min() / OUTSIDE, points.N.max() * OUTSIDE
    if np.mean((best >= low) & (best <= high)) >= 0.5:
        return []
    middle = float(np.median(best))
    below = middle < low
    side, end = ("below the smallest", points.N.min()) if below else ("above the largest", points.N.max())
    factor = max(float(end / middle if below else middle / end) ** 0.5, 1.5)  # N grows as the square of the width
    ways = _wider(study, **({"down": factor} if below else {"up": factor}))
    text = f"at the ladder's own compute N* is expected at {short(middle)}, {side} scale ({short(float(end))})"
    return [Finding(f"{text}, by prior {prior.source}", ways[0] if ways else ())]


def _of_rules(study: Study) -> list[Finding]:
    if study.parametrization.name == "standard":
        return []
    follows = [
        rate for rate in study.optimizer.learning_rates
        if not isinstance(rate, (int, float)) and rules.reads(rate, "learning_rate", "N")
    ]  # fmt: skip
    if not follows:
        return []
    text = (
        f"optimizer.learning_rates follows N, and parametrization.name={study.parametrization.name} scales the rates "
        "with the width as well: they fall twice"
    )
    return [Finding(text, ("parametrization.name=standard",))]


def _proposal(
    study: Study, spec: Spec, prior: Prior, points: _Points, target: float, expected: Mapping[str, Any]
) -> Finding:
    """The cheapest change that makes the interval of N* narrow, or the one that narrows it most for its cost."""
    width = np.log(expected["N"][2] / expected["N"][1]) if expected else np.inf
    tried = []
    for way in _changes(study):
        try:
            changed = override(study, way)
            after = _points(changed, make_plan(changed, spec))
        except UserError:
            continue
        found = expected_intervals(prior, after, target)
        cost = max(after.flops / points.flops - 1, 0.0)
        if found and (left := np.log(found["N"][2] / found["N"][1])) < width:
            tried.append((left, cost, way))
    now = f"known to a factor of {np.exp(width / 2):.2g} either way" if expected else "not determined"
    text = f"N* at {target:.3g} FLOPs is expected to be {now}"
    if not tried:
        return Finding(f"{text}; widen the ladder and the budgets, or add seeds")
    enough = [t for t in tried if t[0] <= np.log(WIDE)]
    if enough:
        left, cost, way = min(enough, key=lambda t: t[1])
    else:
        left, cost, way = max(tried, key=lambda t: (min(width, 50.0) - t[0]) / (0.1 + t[1]))
    return Finding(f"{text}; {np.exp(left / 2):.2g} for {cost:.0%} more compute", way)


def _changes(study: Study) -> list[tuple[str, ...]]:
    """Small changes of a study: one more budget, one more width, one more seed."""
    out = list(_wider(study))
    for name in ("tokens", "flops", "tokens_per_param"):
        values = sorted(getattr(study.budgets, name))
        if values:
            ratio = values[-1] / values[-2] if len(values) > 1 else 3.0
            for extra in (values[-1] * ratio, values[0] / ratio):
                out.append((f"budgets.{name}={_listed(sorted([*values, extra]))}",))
    out.append((f"seeds={(*study.seeds, max(study.seeds) + 1)}",))
    return out


def _wider(study: Study, up: float | None = None, down: float | None = None) -> list[tuple[str, ...]]:
    """One more width, `up` times the largest or the smallest / `down`; by default both, each a factor of 1.5."""
    ladder, out = study.ladder, []
    unit = int(np.gcd.reduce(ladder.widths))
    above, below = (1.5, 1.5) if up is None and down is None else (up, down)
    extras = [round(above * max(ladder.widths) / unit) * unit] if above else []
    extras += [round(min(ladder.widths) / below / unit) * unit] if below else []
    for extra in extras:
        if extra > 0 and extra not in ladder.widths:
            ways = [f"ladder.widths={_listed([*ladder.widths, extra])}"]  # in order: depths follow
            for name in ("depths", "seeds"):
                values = getattr(ladder, name)
                if len(values) > 1:
                    ways.insert(0, f"ladder.{name}={_listed([*values, values[int(np.argmax(ladder.widths))]])}")
            out.append(tuple(ways))
    return out


def _listed(values: Sequence[float]) -> str:
    return "(" + ",".join(str(v) if isinstance(v, int) else f"{v:.4g}" for v in values) + ")"
