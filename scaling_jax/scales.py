"""The scales that a study trains and what each is trained for: those of its ladder, and further single runs."""

from __future__ import annotations

import dataclasses

from scaling_jax.study import Budgets, Study

Scale = tuple[int, int]


def scales(study: Study) -> tuple[Scale, ...]:
    """(width, depth) of every scale: the ladder's, then those that only `budgets.extra` names."""
    extra = [(width, depth) for width, depth, _ in study.budgets.extra]
    return tuple(dict.fromkeys((*study.ladder.scales(), *extra)))


def at_scale(study: Study, scale: Scale) -> Study:
    """The study with the budgets of one scale: its extra runs, on top of the ladder's where it is one of its scales."""
    budgets = study.budgets
    if not budgets.extra:
        return study
    tokens = tuple(t for width, depth, t in budgets.extra if (width, depth) == scale)
    if scale in study.ladder.scales():
        budgets = dataclasses.replace(budgets, tokens=(*budgets.tokens, *tokens), extra=())
    else:
        budgets = Budgets(tokens=tokens, min_steps=budgets.min_steps)
    return dataclasses.replace(study, budgets=budgets)
