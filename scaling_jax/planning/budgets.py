"""How long a scale trains: tokens from all the ways in which a study can say it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from scaling_jax.errors import UserError
from scaling_jax.models.family import Counts
from scaling_jax.planning.pack import NO_DECAY
from scaling_jax.study import Budgets, Study

Scale = tuple[int, int]  # (width, depth)


@dataclasses.dataclass(frozen=True)
class Budget:
    """A training length before it is rounded to whole steps.

    Attributes:
      tokens: tokens or samples.
      name: of the setting that asks for it, for messages.
    """

    tokens: float
    name: str


def scales_of(study: Study) -> tuple[tuple[int, int], ...]:
    """(width, depth) of every scale: the ladder's, then those that only `budgets.extra` names."""
    extra = ((width, depth) for width, depth, _ in study.budgets.extra)
    return tuple(dict.fromkeys((*study.ladder.scales(), *extra)))


def isoflop_scales(study: Study, counts: Mapping[Scale, Counts]) -> dict[float, set[Scale]]:
    """The scales that train to each of `budgets.flops`: some around the guessed best size, by exact FLOPs.

    A scale's own tokens per parameter at that compute say how far it is from the guess: with D/N = r at the best size
    N*, N = N* sqrt(r / (D/N)).
    """
    budgets, out = study.budgets, {}
    for flops in budgets.flops:
        off = {
            scale: 0.5 * math.log(budgets.isoflop_ratio * c.params_non_embedding / (flops / c.flops_per_token))
            for scale, c in counts.items()
        }
        reach = math.log(budgets.isoflop_span)
        inside = {scale: x for scale, x in off.items() if abs(x) <= reach * (1 + 1e-9)}
        chosen: set[Scale] = set()
        for i in range(min(budgets.isoflop_sizes, len(inside))):
            at = reach * (2 * i / max(budgets.isoflop_sizes - 1, 1) - 1) if budgets.isoflop_sizes > 1 else 0.0
            chosen.add(min(inside.keys() - chosen, key=lambda scale, at=at: abs(inside[scale] - at)))
        if not chosen:
            raise UserError(
                f"budgets.flops={flops:g}: no scale of the ladder is within {budgets.isoflop_span:g}x of the size that "
                f"budgets.isoflop_ratio={budgets.isoflop_ratio:g} guesses; add widths, or change the guess or the span"
            )
        out[flops] = chosen
    return out


def times(budgets: Budgets, factor: float) -> Budgets:
    """Budgets multiplied by a factor, to three digits, without the hours that asked for it."""
    values = {
        name: tuple(float(f"{v * factor:.3g}") for v in getattr(budgets, name))
        for name in ("tokens", "tokens_per_param", "flops")
    }
    return dataclasses.replace(budgets, **values, device_hours=None, device_flops=None)


def budgets_of(
    study: Study, counts: Counts, scale: Scale, sweeps: Mapping[float, set[Scale]] | None = None
) -> list[Budget]:
    """Every budget of one (width, depth), ascending.

    Args:
      study: what the user wants.
      counts: of the scale.
      scale: (width, depth).
      sweeps: of `isoflop_scales`, where the study asks for them.
    """
    budgets = study.budgets
    extra = {t: f"budgets.extra={(*at, t)}" for *at, t in budgets.extra if tuple(at) == scale}
    if extra and scale not in study.ladder.scales():
        return [Budget(tokens, name) for tokens, name in sorted(extra.items())]
    found = extra | {t: f"budgets.tokens={t:g}" for t in budgets.tokens}
    ranged = {k * counts.params_non_embedding: f"budgets.tokens_per_param={k:g}" for k in budgets.tokens_per_param}
    low, high = (r * counts.params_non_embedding for r in budgets.ratio_range)
    for flops in budgets.flops:
        wanted = flops / counts.flops_per_token
        if low <= wanted <= high and (sweeps is None or scale in sweeps[flops]):
            ranged[wanted] = f"budgets.flops={flops:g}"
    found |= {t: name for t, name in ranged.items() if t <= budgets.max_tokens}
    return [Budget(tokens, name) for tokens, name in sorted(found.items())]


def steps_of(study: Study, budget: Budget, tokens_per_step: int, scale: str) -> int:
    """Optimizer steps of a budget.

    Raises:
      UserError: too few for a run, or too many to count.
    """
    name, count = budget.name, round(budget.tokens / tokens_per_step)
    if count < 1:
        raise UserError(
            f"{name} is {budget.tokens:,.0f} tokens at scale {scale}, less than one batch "
            f"({tokens_per_step:,} tokens); raise it or lower optimizer.batch_size"
        )
    if count >= NO_DECAY:
        raise UserError(f"{name} is {count:.3g} steps at scale {scale}: more than 32 bits can count; lower it")
    if count < study.budgets.min_steps:
        raise UserError(
            f"{name} is {count} steps at scale {scale}, fewer than budgets.min_steps={study.budgets.min_steps}; "
            "raise it, lower optimizer.batch_size or budgets.min_steps"
        )
    return count
