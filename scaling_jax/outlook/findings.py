"""What limits a planned study, each with a way out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from scaling_jax import fitting, rules
from scaling_jax.models import optimizers
from scaling_jax.outlook.expected import Points, Prior
from scaling_jax.planning import Pack, scale_name
from scaling_jax.study import AUTO_LAW, Study
from scaling_jax.text import short

COLLINEAR, CORRELATED = 0.98, 0.9  # as the checks after training have it
NARROW_RATIO = 4.0  # D / N should vary by this factor
MIN_STEPS, WARM_SHARE = 150, 0.2
MAX_EPOCHS = 4.0
OUTSIDE = 1.2


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


def of_design(study: Study, points: Points, correlation: float) -> list[Finding]:
    out = []
    ratios = float((points.D / points.N).min()), float((points.D / points.N).max())
    sizes = np.unique(points.N)
    needed = len(fitting.laws[study.fit.law].params) if study.fit.law != AUTO_LAW else 5
    splits = study.fit.law == AUTO_LAW or {"N", "D"} <= set(fitting.laws[study.fit.law].inputs)
    if splits and abs(correlation) >= COLLINEAR:
        out.append(_one_line(study, points, correlation))
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
        text = f"{some}: the fall of the loss with N cannot be separated from its floor; at least 3 scales are needed"
        all_train = len(sizes) >= len(study.ladder.scales())
        out.append(Finding(text, next(iter(wider(study)), ()) if all_train else ()))
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


def of_ladder(study: Study, packs: Sequence[Pack]) -> list[Finding]:
    """Scales that the ranges of the budgets leave nothing to train."""
    budgets, planned = study.budgets, {(pack.width, pack.depth) for pack in packs}
    left = [scale_name(*scale) for scale in study.ladder.scales() if scale not in planned]
    if not left or budgets.isoflop_sizes or budgets.memory_gib is not None:  # which are asked to choose
        return []
    ranges = f"budgets.ratio_range={budgets.ratio_range} and budgets.max_tokens={budgets.max_tokens:g}"
    text = f"{', '.join(left)}: no budget is within {ranges}, so they do not train; widen these or give other budgets"
    return [Finding(text)]


def _one_line(study: Study, points: Points, correlation: float) -> Finding:
    """D follows N, as D = 20 N or one IsoFLOP curve has it: no law of both can be fitted."""
    ratios, D, flops = points.D / points.N, (points.D.min(), points.D.max()), max(study.budgets.flops, default=0.0)
    if correlation < 0 and flops:
        more, way = "add IsoFLOP budgets", [f"budgets.flops={listed([flops / 4, flops / 2, flops])}"]
    else:
        crossed = ", ".join(f"{v:.3g}" for v in (D[0], (D[0] * D[1]) ** 0.5, D[1]))
        more, way = "train every scale on the same budgets", [f"budgets.tokens=({crossed})"]
        way += [f"budgets.{name}=()" for name in ("tokens_per_param", "flops") if getattr(study.budgets, name)]
    low, high = short(float(ratios.min())), short(float(ratios.max()))
    return Finding(
        f"ln N and ln D correlate at {correlation:.3f} (D/N from {low} to {high}): the exponents of N and D cannot be "
        f"separated; {more}",
        tuple(way),
        refused=True,
    )


def of_runs(study: Study, packs: Sequence[Pack], tokens: int | None) -> list[Finding]:
    out = []
    shortest = min(pack.budgets[0] for pack in packs)
    few = [pack for pack in packs if pack.budgets[0] < MIN_STEPS]
    if few:
        smaller = max(min(pack.batch_size for pack in few) * shortest // MIN_STEPS, 1)
        way = (f"optimizer.batch_size={smaller}",) if smaller < min(pack.batch_size for pack in few) else ()
        text = f"runs of {shortest} optimizer steps are shorter than {MIN_STEPS} and end above any law; smaller batches"
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
                f"{WARM_SHARE:.0%}: short runs would end above the law",
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


def of_optimum(study: Study, points: Points, prior: Prior) -> list[Finding]:
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
    ways = wider(study, **({"down": factor} if below else {"up": factor}))
    text = f"at the ladder's own compute N* is expected at {short(middle)}, {side} scale ({short(float(end))})"
    return [Finding(f"{text}, by prior {prior.source}", ways[0] if ways else ())]


def of_rules(study: Study) -> list[Finding]:
    """Settings that undo one another."""
    out, follows = [], [
        rate for rate in study.optimizer.learning_rates
        if not isinstance(rate, (int, float)) and rules.reads(rate, "learning_rate", "N")
    ]  # fmt: skip
    if follows and study.parametrization.name != "standard":
        text = (
            f"optimizer.learning_rates follows N, and parametrization.name={study.parametrization.name} scales the "
            "rates with the width as well: they fall twice"
        )
        out.append(Finding(text, ("parametrization.name=standard",)))
    name, schedule = study.optimizer.name, study.schedule.name
    if optimizers.rule(name).schedule_free and schedule != "constant":
        text = (
            f"optimizer.name={name} averages in place of a decay, and schedule.name={schedule} decays its rate as well"
        )
        out.append(Finding(text, ("schedule.name=constant",)))
    return out


def wider(study: Study, up: float | None = None, down: float | None = None) -> list[tuple[str, ...]]:
    """One more width, `up` times the largest or the smallest / `down`; by default both, each a factor of 1.5."""
    ladder, out = study.ladder, []
    unit = int(np.gcd.reduce(ladder.widths))
    above, below = (1.5, 1.5) if up is None and down is None else (up, down)
    extras = [round(above * max(ladder.widths) / unit) * unit] if above else []
    extras += [round(min(ladder.widths) / below / unit) * unit] if below else []
    for extra in extras:
        if extra > 0 and extra not in ladder.widths:
            ways = [f"ladder.widths={listed([*ladder.widths, extra])}"]  # in order: depths follow
            for name in ("depths", "seeds"):
                values = getattr(ladder, name)
                if len(values) > 1:
                    ways.insert(0, f"ladder.{name}={listed([*values, values[int(np.argmax(ladder.widths))]])}")
            out.append(tuple(ways))
    return out


def listed(values: Sequence[float]) -> str:
    return "(" + ",".join(str(v) if isinstance(v, int) else f"{v:.4g}" for v in values) + ")"
