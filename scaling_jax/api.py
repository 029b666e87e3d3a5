"""Plan, run, load and analyze a study: what the command line and notebooks call; `scaling_jax` re-exports it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from scaling_jax import analysis, data, decide, report, simulation, trained
from scaling_jax.engines import attempt, base, cluster, speeds
from scaling_jax.engines.dispatch import Dispatch, dispatch
from scaling_jax.engines.registry import LOCAL, SIMULATE, find
from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.planning import make_plan
from scaling_jax.plans import Plan, check_study, plan, planned
from scaling_jax.results import Results, analyse, load
from scaling_jax.storage.paths import write_atomic
from scaling_jax.storage.records import save_table
from scaling_jax.storage.workdir import Workdir
from scaling_jax.study import Study
from scaling_jax.trained import starts
from scaling_jax.training import hardware

__all__ = ["Dispatch", "Plan", "Results", "analyse", "load", "plan", "run", "write_report"]


def run(
    study: Study,
    workdir: Any = None,
    *,
    engine: str = LOCAL,
    only_packs: Sequence[str] = (),
    on_metrics: attempt.OnMetrics | None = None,
    processes: cluster.Processes | None = None,
    settings: Dispatch | None = None,
    verbose: bool = True,
    force: bool = False,
) -> Results:
    """Trains what is missing of a study, then fits and reports. Run it again: it resumes, or says what is done.

    Ctrl-C saves and raises `Preempted`; the same call resumes bit for bit.

    Args:
      study: what to train.
      workdir: folder (or gs:// path) for everything; default runs/<study name>.
      engine: "local" trains in this process; "ray", "slurm", "xpk" and registered ones hand packs to a cluster;
        "simulate" draws the losses from `study.simulation`, at any compute, and trains nothing.
      only_packs: names of packs; empty means all.
      on_metrics: called on the leader with a plain dict per lane and chunk (kind "train": scale, phase, run_id,
        trunk_id, lr, seed, step, tokens, loss, tokens_per_s) and per finished run (kind "result": its row).
      processes: how to find the other processes where several train together.
      settings: of an engine other than "local".
      verbose: print progress on stderr and the summary of the report on stdout.
      force: train even what cannot answer, such as D = 20 N throughout.

    Returns:
      The results so far: of the whole study, unless an engine only queues its packs or `only_packs` leaves some out.

    Raises:
      UserError: the study, its data or the workdir cannot be used; nothing was written.
      Preempted: stopped by a signal; everything is saved.
      EngineError: packs failed elsewhere.
    """
    if engine == SIMULATE:
        return _simulate(study, workdir, only_packs, verbose)
    place = Workdir(workdir if workdir is not None else f"runs/{study.name}")
    found = planned(study, place.path, None, force)
    study = found.study
    base.check_names(found.packs, only_packs)
    starts.check(study, found.spec, found.packs, place.path)
    if engine != LOCAL:
        find(engine)
        if settings is None:
            raise UserError(f"engine {engine!r} needs settings=Dispatch(arguments=...): what each machine is to run")
        done = dispatch(found.packs, study, found.spec, place, engine, settings, only_packs)
        if done and not (place.path / "_SUCCESS").exists():
            _finish(study, place.path, verbose)  # the last pack was stopped before it could
        elif done and verbose:
            base.say(f"the study is done: {place.path}/report/index.html")
        return Results((place.path,))
    with contextlib.suppress(RuntimeError):  # JAX has started already: its devices stay as they are
        hardware.use_cpu_devices()
    parameters = starts.parameters(study, found.spec)
    attempt.train(
        attempt.Attempt(
            study,
            found.spec,
            found.packs,
            place,
            tuple(only_packs),
            processes,
            on_metrics,
            verbose,
            parameters,
            meanwhile=report.preload,
        ),
        finish=functools.partial(_finish, study, place.path, verbose),
    )
    return Results((place.path,))


def _simulate(study: Study, workdir: Any, only_packs: Sequence[str], verbose: bool) -> Results:
    """`run` with losses that are drawn; needs no data where a study of text names its tokenizer."""
    check_study(study)
    simulation.law_of(study.simulation)
    if study.fit.metric != "loss":
        raise UserError(f"fit.metric={study.fit.metric!r}: only the loss is simulated; give --set fit.metric=loss")
    if study.init.from_workdir is not None:
        raise UserError("init.from_workdir: simulated runs start fresh; give --set init.from_workdir=none")
    plain = dataclasses.replace(study.evaluation, sets=())
    asked = {"fit.also": study.fit.also, "evaluation.sets": study.evaluation.sets}
    if verbose and any(asked.values()):
        base.say(f"only the loss is simulated; left out: {', '.join(name for name, value in asked.items() if value)}")
    study = dataclasses.replace(study, fit=dataclasses.replace(study.fit, also=()), evaluation=plain)
    try:
        spec = data.describe(study.data)
    except UserError:
        if study.family.inputs != "tokens":
            raise
        spec = Spec("tokens", data.tokenizers.vocab_size(study.data.tokenizer), study.data.context)
    packs = make_plan(study, spec)
    base.check_names(packs, only_packs)
    place = Workdir(workdir if workdir is not None else f"runs/{study.name}-simulated")
    if simulation.run(study, spec, packs, place, only_packs, verbose):
        _finish(study, place.path, verbose)
    return Results((place.path,))


def _finish(study: Study, path: Any, verbose: bool) -> None:
    """Scores further validation sets, collects, fits and reports a workdir whose every run has a result."""
    if study.evaluation.sets:
        try:
            trained.evaluate(path, study.evaluation.sets, on_progress=base.say if verbose else lambda line: None)
        except UserError as error:  # its results are there all the same
            base.say(f"scaling-jax: evaluation.sets: {error}")
    results = Results((path,))
    save_table(results.table, path / "results.csv")
    speeds.learn(results.table)
    summary = write_report(results)
    if verbose:
        print(summary)
    write_atomic(path / "_SUCCESS", "")


def write_report(of: Any) -> str:
    """Writes the report of a workdir, or of its `Results`; returns the summary for the terminal."""
    results = of if isinstance(of, Results) else load(of)
    found, notes = next_steps(results.path, results.analysis)
    return results.report(notes=notes, found=found)


def next_steps(path: Any, found: analysis.Analysis) -> tuple[analysis.Analysis, dict[str, str]]:
    """What the plan adds to the report of a workdir: see `planned` and `notes` of `scaling_jax.decide`."""
    stored = Workdir(path).stored()
    if stored is None:
        return found, {}
    try:
        study, spec = Study.from_dict(stored.study, any_family=True), Spec.from_dict(stored.spec)
    except (UserError, TypeError):  # a record that is not ours, or of another version: the report does without
        return found, {}
    return decide.planned(found, study, spec), decide.notes(found, study, spec)
