"""`scaling-jax fit --published=NAME`: what a published fit would have you train with a budget."""

from __future__ import annotations

from collections.abc import Sequence

from scaling_jax import analysis, fitting
from scaling_jax.analysis.fits import has_frontier, parse_inputs
from scaling_jax.errors import UserError
from scaling_jax.text import short, table

BUDGETS = (1e20, 1e21, 1e22, 1e23, 1e24)


def published_plan(name: str, budgets: Sequence[float], at: Sequence[str]) -> str:
    """The source of a published fit and its best N and D, as text.

    Args:
      name: in `fitting.published`, or "list".
      budgets: training FLOPs; by default 1e20 to 1e24.
      at: the law's other inputs, e.g. ["U=1e11"].

    Raises:
      UserError, FitError: an unknown name, a fit of something else than a loss of N and D, or inputs that lack.
    """
    if name == "list":
        return repr(fitting.published)
    fit = fitting.published[name]
    budgets = list(budgets) or list(BUDGETS)
    lines = [f"{name}: {fitting.published.source[name]}"]
    if fit.law.inputs == ("x",):
        rows = [(short(x), short(float(fit.predict(x)))) for x in budgets]
        return "\n".join([*lines, table(("x", "y"), rows)])
    if not has_frontier(fit.law):
        raise UserError(
            f"--published={name} is of {', '.join(fit.law.inputs)} and plans nothing; from Python: "
            f"fitting.published[{name!r}].predict({{...}})"
        )
    inputs = parse_inputs(fit.law, analysis.parse_mapping(list(at), "--at"))
    plan = fit.frontier(budgets, inputs=inputs or None)
    rows = [
        (short(c), short(n), short(d), f"{d / n:.3g}", f"{loss:.4f}")
        for c, n, d, loss in zip(budgets, plan.N, plan.D, plan.loss)
    ]
    return "\n".join([*lines, table(("C", "N*", "D*", "D/N", "loss"), rows), *(f"  ! {w}" for w in plan.warnings)])
