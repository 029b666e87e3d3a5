"""How long a scale trains: tokens from all the ways in which a study can say it."""

from __future__ import annotations

import dataclasses

from scaling_jax.errors import UserError
from scaling_jax.models.family import Counts
from scaling_jax.planning.pack import NO_DECAY
from scaling_jax.study import Study


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


def budgets_of(study: Study, counts: Counts, scale: tuple[int, int]) -> list[Budget]:
    """Every budget of one (width, depth), ascending."""
    budgets = study.budgets
    extra = {t: f"budgets.extra={(*at, t)}" for *at, t in budgets.extra if tuple(at) == scale}
    if scale not in study.ladder.scales():
        return [Budget(tokens, name) for tokens, name in sorted(extra.items())]
    found = extra | {t: f"budgets.tokens={t:g}" for t in budgets.tokens}
    ranged = {k * counts.params_non_embedding: f"budgets.tokens_per_param={k:g}" for k in budgets.tokens_per_param}
    low, high = (r * counts.params_non_embedding for r in budgets.ratio_range)
    for flops in budgets.flops:
        wanted = flops / counts.flops_per_token
        if low <= wanted <= high:
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
