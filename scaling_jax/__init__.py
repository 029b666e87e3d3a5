"""scaling_jax: train a ladder of small models, learn from it what the big one should be.

    import scaling_jax as sj

    study = sj.Study(name="mine", family=sj.models.Transformer(), ladder=sj.Ladder(widths=(32, 64, 128)),
                     budgets=sj.Budgets(tokens=(1e6, 2e6, 4e6)))
    print(sj.plan(study))
    results = sj.run(study, "runs/mine")
    print(results.analysis.frontier)

Nothing is imported before it is asked for: `import scaling_jax` takes no time, and `scaling_jax.fitting` brings neither
the training libraries nor an accelerator.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scaling_jax import analysis, data, decide, engines, fitting, models, report, study, trackers, trained
    from scaling_jax.api import run
    from scaling_jax.decisions import reach, recommend, run_until, suggest
    from scaling_jax.errors import EngineError, Preempted, UserError
    from scaling_jax.plans import Plan, plan
    from scaling_jax.results import Results, analyse, load
    from scaling_jax.study import (
        Budgets,
        Data,
        Evaluation,
        Execution,
        HoldOut,
        Init,
        Ladder,
        Optimizer,
        Parametrization,
        Schedule,
        Study,
    )
    from scaling_jax.study_file import load_study, override

__version__ = "0.1.0"

__all__ = [
    "Budgets", "Data", "EngineError", "Evaluation", "Execution", "HoldOut", "Init", "Ladder", "Optimizer",
    "Parametrization", "Plan", "Preempted", "Results", "Schedule", "Study", "UserError", "__version__", "analyse",
    "analysis", "data", "decide", "engines", "fitting", "load", "load_study", "models", "override", "plan", "reach",
    "recommend", "report", "run", "run_until", "study", "suggest", "trackers", "trained",
]  # fmt: skip

_MODULES = ("analysis", "data", "decide", "engines", "fitting", "models", "report", "study", "trackers", "trained")
_HOME = {
    "scaling_jax.api": ("run",),
    "scaling_jax.decisions": ("reach", "recommend", "run_until", "suggest"),
    "scaling_jax.errors": ("EngineError", "Preempted", "UserError"),
    "scaling_jax.plans": ("Plan", "plan"),
    "scaling_jax.results": ("Results", "analyse", "load"),
    "scaling_jax.study": (
        "Budgets", "Data", "Evaluation", "Execution", "HoldOut", "Init", "Ladder", "Optimizer", "Parametrization",
        "Schedule", "Study",
    ),
    "scaling_jax.study_file": ("load_study", "override"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports a name of the face when it is first used (PEP 562)."""
    if name in _MODULES:
        return importlib.import_module(f"scaling_jax.{name}")
    for module, names in _HOME.items():
        if name in names:
            value = getattr(importlib.import_module(module), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'scaling_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
