"""Decisions from results: the next runs, the big one, the cheapest run that reaches a goal."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from scaling_jax import api, decide
from scaling_jax.analysis import Analysis
from scaling_jax.analysis.runs import rising
from scaling_jax.decide import Chip, NextRuns, Reach, Recommendation, Surface
from scaling_jax.engines.base import say
from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.results import Results
from scaling_jax.storage.workdir import Workdir
from scaling_jax.study import Study

MOST_ROUNDS = 50  # of `run_until`


def suggest(results: Results, budget_flops: float, *, target_flops: float | None = None, runs: int = 8) -> NextRuns:
    """The next runs of a study: scales and budgets that narrow the forecast at a target most for their FLOPs.

    Args:
      results: of a workdir.
      budget_flops: to spend on them, all lanes together.
      target_flops: of the run that is being planned; by default the study's first target, or 10 times its largest run.
      runs: at most this many.

    Returns:
      A `NextRuns` with `.text()` and `.study`, the grown study, which `run` takes in the same workdir.

    Raises:
      UserError: no forecast can be made from the runs, or nothing can be trained within the budget.
    """
    spec = _spec(results)
    return decide.next_runs(results.analysis, results.study, spec, budget_flops, target_flops=target_flops, runs=runs)


def recommend(
    results: Results,
    target_flops: float,
    *,
    max_params: float | None = None,
    max_memory: float | None = None,
    inference_tokens: float | None = None,
    chip: Chip | None = None,
) -> Recommendation:
    """What to train with a budget: `N*`, `D*`, the model, its recipe, its loss with an interval, and its study.

    Args:
      results: of a workdir.
      target_flops: training FLOPs.
      max_params: cap on N.
      max_memory: cap on the bytes of one device.
      inference_tokens: that the model will be used for: also the over-trained optimum.
      chip: of `scaling_jax.decide.find_chip`, for the time and the price.

    Returns:
      A `Recommendation` with `.text()`, `.optimum` and `.study`; where the verdict is "no answer" it names no model
      and says what to run instead.

    Raises:
      UserError: a cap below every scale, or a number that is not positive.
    """
    analysis, study, spec = results.analysis, results.study, _spec(results)
    surface = Surface.of(analysis)
    if surface is None:
        reasons = tuple(analysis.reasons) or (analysis.no_fit or "the runs give no forecast",)
        found = Recommendation(
            target_flops, analysis.name, analysis.metric, analysis.settings.level, analysis.verdict, reasons
        )
    else:
        found = decide.recommend(
            surface, target_flops, analysis=analysis, study=study, spec=spec, max_params=max_params,
            max_memory=max_memory, inference_tokens=inference_tokens, chip=chip,
        )  # fmt: skip
    return found if found.answer else dataclasses.replace(found, instead=_instead(analysis, study, spec, target_flops))


def reach(
    results: Results, goal: float, *, metric: str = "loss", max_params: float | None = None, chip: Chip | None = None
) -> Reach:
    """The cheapest run that reaches a loss, an accuracy or any other metric of the results, or that none does.

    Args:
      results: of a workdir.
      goal: of the metric.
      metric: a column of the results.
      max_params: cap on N.
      chip: for the time and the price.

    Returns:
      A `Reach` with `.text()`, `.optimum` and `.C_interval`; where the verdict is "no answer" it names no run and says
      what to run instead.

    Raises:
      UserError: no such metric, or a goal that it cannot have.
    """
    analysis = metric_analysis(results, metric)
    surface = Surface.of(analysis)
    lacking = rising(metric) is not None
    if lacking and not 0 < goal < 1:
        raise UserError(f"{metric} {goal:g}: give a share between 0 and 1, e.g. 0.9")
    y, shown, doubts = 1 - goal if lacking else goal, f"{metric} {goal:g}", tuple(analysis.reasons)
    if surface is None:
        doubts = doubts or (analysis.no_fit or "the runs give no forecast",)
        level, verdict = analysis.settings.level, analysis.verdict
        found = Reach(y, shown, analysis.name, level, None, None, doubts, chip=chip, verdict=verdict)
    else:
        found = decide.reach(
            surface, y, shown=shown, max_params=max_params, chip=chip, verdict=analysis.verdict, doubts=doubts
        )
    if found.verdict != "no answer":
        return found
    instead = _instead(analysis, results.study, _spec(results), analysis.targets[0] if analysis.targets else 0.0)
    return dataclasses.replace(found, instead=instead)


def metric_analysis(results: Results, metric: str) -> Analysis:
    """The analysis of one metric of the results."""
    main = results.analysis
    if metric == main.settings.metric:
        return main
    if metric in main.also:
        return main.also[metric]
    return api.analyse(results, fit=dataclasses.replace(results.study.fit, metric=metric, also=()))


def run_until(
    study: Study,
    workdir: Any,
    interval: float,
    budget_flops: float,
    *,
    target_flops: float | None = None,
    **options: Any,
) -> Results:
    """Runs a study, and grows it until the forecast at the target is known to +-`interval` or the budget is spent.

    Args:
      study: to begin with; what the workdir has grown by already is kept.
      workdir: of `run`.
      interval: relative half-width of the forecast's interval of one run, e.g. 0.02.
      budget_flops: for all further runs together.
      target_flops: of the run that is being planned.
      **options: of `run`.

    Raises:
      UserError, Preempted, EngineError: as `run`; run it again to resume.

    Example:
      run_until(study, "runs/mine", 0.02, budget_flops=1e15, target_flops=1e18)
    """
    if not 0 < interval < 1:
        raise UserError(f"until_interval={interval:g}: give a share such as 0.02, or 2%")
    if not 0 < budget_flops < math.inf:
        raise UserError(f"budget_flops={budget_flops:g}: give a positive number of FLOPs, e.g. 1e15")
    study = _with_growth(study, workdir)
    results, left = api.run(study, workdir, **options), budget_flops
    for _ in range(MOST_ROUNDS):
        if results.analysis.forecast is None:
            raise UserError(f"the runs give no forecast to narrow: {'; '.join(results.analysis.reasons[:2])}")
        try:
            found = suggest(results, left, target_flops=target_flops)
        except UserError as error:
            say(f"stop: {_standing(results.analysis, target_flops, left, budget_flops)}{error}")
            break
        now = found.suggestion.before
        if now <= interval:
            say(f"the interval at the target is +-{now:.2%}: no further runs are needed")
            break
        if found.suggestion.stop:
            say(found.text())
            break
        say(found.text())
        left -= found.suggestion.cost
        results = api.run(found.study, workdir, **options)
    return results


def _standing(analysis: Analysis, target_flops: float | None, left: float, budget_flops: float) -> str:
    """Where `run_until` stands once it has spent something: the interval at the target and what is left; else ""."""
    best = analysis.best_runs([target_flops or analysis.targets[0]]).rows.iloc[0]
    half = 0.5 * math.log(best.loss_high / best.loss_low) if best.loss_low > 0 else math.nan
    if left == budget_flops or not math.isfinite(half):
        return ""
    return f"the interval at the target is +-{half:.2%}, and {left:.3g} of {budget_flops:.3g} FLOPs are left: "


def _with_growth(study: Study, workdir: Any) -> Study:
    """The study with the extra runs that the workdir has grown by."""
    stored = Workdir(workdir).stored()
    extra = () if stored is None else Study.from_dict(stored.study, any_family=True).budgets.extra
    both = tuple(dict.fromkeys((*study.budgets.extra, *extra)))
    return dataclasses.replace(study, budgets=dataclasses.replace(study.budgets, extra=both))


def _spec(results: Results) -> Spec:
    stored = Workdir(results.path).stored()
    if stored is None:
        raise UserError(f"{str(results.path)!r} is not a workdir (it has no study.json)")
    return Spec.from_dict(stored.spec)


def _instead(analysis: Analysis, study: Study, spec: Spec, target_flops: float) -> str:
    """What to run where there is no answer: the runs that say most for as much as was spent, or what is wrong."""
    spent = float(analysis.runs.chosen.C.sum()) if len(analysis.runs.chosen) else 0.0
    try:
        found = decide.next_runs(analysis, study, spec, spent, target_flops=target_flops)
    except UserError:
        first = analysis.runs.too_few or "fix the first reason"
        return f"{first}, then ask again; `scaling-jax plan` says what a ladder will be able to tell"
    if found.suggestion.stop or not found.points:
        return "no further runs for as many FLOPs as were spent would help much: fix the first reason first"
    return found.text()
