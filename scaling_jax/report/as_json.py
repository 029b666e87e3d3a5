"""An Analysis in plain JSON types: everything that the text shows and more."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from scaling_jax.analysis import Analysis
from scaling_jax.analysis.frames import rows_of
from scaling_jax.analysis.resources import Resource


def as_json(analysis: Analysis) -> dict[str, Any]:
    """Verdict, law, hold-out, frontier, checks and the reason for each part that is missing, which is null."""
    found = analysis.hold_out
    out = {
        "study": analysis.name,
        "verdict": analysis.verdict,
        "reasons": analysis.reasons,
        "settings": dataclasses.asdict(analysis.settings),
        "hold_out_settings": dataclasses.asdict(analysis.cut),
        "columns": dict(analysis.runs.names),
        "notes": list(analysis.notes),
        "counts": dict(analysis.runs.counts) | {"fitted": len(analysis.runs.chosen)},
        "dataset_hash": analysis.dataset_hash,
        "noise_of_ln_loss": analysis.runs.noise,
        "scales": analysis.runs.scales.to_dict("records"),
        "law": _law(analysis),
        "tuned": _tuned(analysis),
        "hold_out": None,
        "cost": analysis.cost_note,
        "frontier": analysis.frontier.to_dict("records"),
        "resources": {name: _resource(law) for name, law in analysis.resources[0].items()},
        "budgets": list(analysis.budgets[0]),
        "approaches": analysis.approaches.to_dict("records"),
        "sensitivity": None if analysis.sensitivity is None else analysis.sensitivity.rows,
        "checks": [dataclasses.asdict(check) for check in analysis.checks],
        "warnings": list(analysis.warnings),
        "why_not": {
            "fit": analysis.no_fit, "hold_out": analysis.no_hold_out, "isoflop": analysis.isoflop.why,
            "frontier": analysis.no_frontier, "budgets": analysis.budgets[1],
        },
    }  # fmt: skip
    if analysis.also:
        out["also"] = {metric: as_json(other) for metric, other in analysis.also.items()}
    if found is not None:
        out["hold_out"] = {k: getattr(found, k) for k in ("cut", "rmsle", "bias", "worst", "naive")}
        out["hold_out"]["runs"] = found.rows.to_dict("records")
        out["hold_out"]["params"] = dict(found.fitted.fit.params)
    return _plain(out)


def _tuned(analysis: Analysis) -> dict[str, Any] | None:
    tuned = analysis.runs.tuned
    if tuned is None:
        return None
    return {
        "combinations": tuned.combinations,
        "noise_of_ln_loss_between_combinations": tuned.noise,
        "optima": tuned.optima.to_dict("records"),
        "laws": [dataclasses.asdict(law) for law in tuned.laws],
        "sentences": tuned.sentences(),
    }


def _resource(law: Resource) -> dict[str, Any]:
    exponent, low, high = law.exponent
    scale = None if law.law is None else law.law.coefficient
    law_of_n = {"coefficient": scale, "exponent": exponent, "low": low, "high": high}
    return law_of_n | {"scales": dict(zip(map(float, law.N), map(float, law.values)))}


def _law(analysis: Analysis) -> dict[str, Any] | None:
    fit = analysis.fit
    if fit is None:
        return None
    return {
        "name": fit.law.name,
        "equation": fit.law.equation,
        "params": {p.name: {"value": p.value, "low": p.low, "high": p.high} for p in rows_of(analysis.params)},
        "objective": str(fit.objective),
        "objective_value": fit.objective_value,
        "converged": fit.converged,
        "certificate": fit.certificate,
        "chosen_among": {c.name: c.score for c in analysis.selection.candidates} if analysis.selection else None,
    }


def _plain(value: Any) -> Any:
    """NumPy and dataclasses to JSON types; numbers that JSON does not have to null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
