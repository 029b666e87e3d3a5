"""`scaling-jax run`: train what is missing, collect, fit, report. Run it again: it resumes, or says what is done."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
from typing import Any

from absl import flags

from scaling_jax import trackers
from scaling_jax.cli import study_flags
from scaling_jax.engines import cluster, registry
from scaling_jax.engines.registry import LOCAL, SIMULATE
from scaling_jax.errors import UserError
from scaling_jax.storage.workdir import Workdir
from scaling_jax.study import Study

# Flags that the packs of a cluster do not inherit.
NOT_INHERITED = {"engine", "engine_option", "max_retries", "dry_run", "only_packs", "debug"}


def define_flags() -> None:
    """Defines the flags of `scaling-jax run`."""
    study_flags.define_flags()
    flags.DEFINE_string("coordinator_address", None, "host:port of process 0, when several processes train together.")
    flags.DEFINE_integer("num_processes", None, "How many processes train together.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", lower_bound=0)
    flags.DEFINE_string("workdir", None, "Folder (or gs:// path) for everything; default runs/<study name>.")
    flags.DEFINE_string(
        "engine",
        LOCAL,
        f"Where packs run: {LOCAL}, or a cluster: {', '.join(registry.names())}; {SIMULATE} draws losses from a law.",
    )
    flags.DEFINE_list("only_packs", [], "Train these packs only (scale names of the plan); every engine passes it.")
    flags.DEFINE_multi_string("engine_option", [], "Passed on to sbatch or xpk as it is. May be repeated.")
    flags.DEFINE_integer("max_retries", 1000, "Preemptions that one pack survives on a cluster.", lower_bound=0)
    flags.DEFINE_string("track", None, "Send metrics to tensorboard[:FOLDER], wandb[:PROJECT] or mlflow[:EXPERIMENT].")
    flags.DEFINE_bool("dry_run", False, "Show what the engine would do, and do nothing.")
    flags.DEFINE_string(
        "until_interval", None, "Grow the study by what `suggest` chooses until the forecast at --target_flops is "
        "known to +- this, e.g. 2%, or --budget_flops is spent.",
    )  # fmt: skip
    flags.DEFINE_float("budget_flops", None, "For the runs that --until_interval adds.")
    flags.DEFINE_float("target_flops", None, "Compute of the run that --until_interval is about.")


def main(args: list[str], values: Any) -> int:
    """Trains, or hands the packs to an engine; returns the exit code."""
    processes = cluster.Processes(values.coordinator_address, values.num_processes, values.process_id)
    together = values.engine == LOCAL and processes.wanted()
    if together and not cluster.is_member():
        return cluster.supervise(sys.argv[1:])
    import jax  # a supervisor does without

    from scaling_jax import api, decisions
    from scaling_jax.training import hardware

    interval = _interval(values, together)
    study, workdir = _study(args, values)
    settings = None
    if values.engine == LOCAL:
        hardware.use_cpu_devices(values.num_cpu_devices)
    else:
        jax.config.update("jax_platforms", "cpu")  # this process only plans; the accelerators are for the packs
    if values.engine not in (LOCAL, SIMULATE):
        settings = api.Dispatch(
            arguments=inherited_flags(values, {"study": _reachable(values), "workdir": _absolute(workdir)}),
            options=tuple(values.engine_option),
            max_retries=values.max_retries,
            dry_run=values.dry_run,
        )
    leads = not together or not values.process_id
    with trackers.make(values.track, study.name, workdir) if values.track and leads else _no_tracker() as tracker:
        if interval is not None:
            decisions.run_until(
                study, workdir, interval, values.budget_flops, target_flops=values.target_flops, engine=values.engine,
                on_metrics=tracker, force=values.force,
            )  # fmt: skip
            return 0
        api.run(
            study,
            workdir,
            engine=values.engine,
            only_packs=values.only_packs,
            on_metrics=tracker,
            processes=processes if together else None,
            settings=settings,
            force=values.force,
        )
    return 0


def _study(args: list[str], values: Any) -> tuple[Study, str]:
    """(study, workdir) of the flags; the study's data may be gone where something was trained before."""
    simulated = values.engine == SIMULATE

    def workdir(study: Study) -> str:
        return values.workdir or f"runs/{study.name}{'-simulated' * simulated}"

    try:
        study = study_flags.read_study(args, values, need_source=not simulated)
    except UserError:
        study = study_flags.read_study(args, values, need_source=False)
        if Workdir(workdir(study)).stored_for(study.to_dict()["data"]) is None:
            raise
    return study, workdir(study)


def _no_tracker() -> contextlib.nullcontext[None]:
    return contextlib.nullcontext()


def _interval(values: Any, together: bool) -> float | None:
    """--until_interval as a share.

    Raises:
      UserError: not a share, or flags that do not go with it.
    """
    text = values.until_interval
    if text is None:
        for name in ("budget_flops", "target_flops"):
            if getattr(values, name) is not None:
                raise UserError(f"--{name} needs --until_interval, e.g. --until_interval=2%")
        return None
    try:
        share = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise UserError(f"--until_interval={text}: give a share such as 2%")
    if values.budget_flops is None:
        raise UserError("--until_interval needs --budget_flops=F: what the further runs may cost")
    if together or values.engine not in (LOCAL, SIMULATE) or values.only_packs:
        raise UserError("--until_interval runs whole studies in this process: leave out --engine and --only_packs")
    return share


def inherited_flags(values: Any, replaced: dict[str, str]) -> tuple[str, ...]:
    """The flags that the user gave, as arguments for a pack elsewhere: some left out, some with another value.

    Args:
      values: absl's parsed flags.
      replaced: values that mean the same on another machine, such as absolute paths.
    """
    out = [f"--{name}={value}" for name, value in replaced.items()]
    for name in values:
        flag = values[name]
        alias = name != flag.name  # absl lists a flag under its short name, too
        if flag.present and not alias and name not in NOT_INHERITED and name not in replaced:
            out += flag.serialize().split("\n")  # a repeated flag is a line each
    return tuple(out)


def _absolute(workdir: str) -> str:
    return workdir if "://" in workdir else os.path.abspath(os.path.expanduser(workdir))


def _reachable(values: Any) -> str:
    """The study file as another process finds it; a container and `ray job submit` bring the folder it is given in."""
    shipped = values.engine == "xpk" or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return values.study if shipped else str(pathlib.Path(values.study).absolute())
