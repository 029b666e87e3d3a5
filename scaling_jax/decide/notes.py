"""What a report says on what to do next: a model for the first target, or the runs that are missing."""

from __future__ import annotations

import dataclasses

from scaling_jax import fitting
from scaling_jax.analysis import Analysis
from scaling_jax.decide.next_runs import next_runs
from scaling_jax.decide.recommend import most_planned, recommend
from scaling_jax.decide.shapes import Path
from scaling_jax.decide.surface import Surface
from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.study import Study


def planned(analysis: Analysis, study: Study, spec: Spec) -> Analysis:
    """The analysis with the plan's estimate of what `fit.max_memory` holds, as `recommend` takes it."""
    most = analysis.settings.max_memory
    if most is None:
        return analysis
    try:
        return dataclasses.replace(analysis, planned=most_planned(Path.of(study, spec), study, most))
    except UserError:  # a family that is not registered here
        return analysis


def notes(analysis: Analysis, study: Study, spec: Spec) -> dict[str, str]:
    """{"recommendation": the model for the first target} or {"next_runs": what to run instead}; {} where neither is.

    Args:
      analysis: of the study's runs.
      study: whose family and recipe are continued.
      spec: what its data looks like.
    """
    if not analysis.targets:
        return {}
    try:
        if analysis.verdict != "no answer":
            surface = Surface.of(analysis)
            if surface is None:
                return {}
            found = recommend(surface, analysis.targets[0], analysis=analysis, study=study, spec=spec)
            return {"recommendation": found.text()} if found.answer else {}
        spent = float(analysis.runs.chosen.C.sum())
        return {"next_runs": next_runs(analysis, study, spec, spent).text()}
    except (UserError, fitting.FitError):  # a family that is not registered here, no forecast
        return {}
