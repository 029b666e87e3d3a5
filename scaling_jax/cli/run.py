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
    flags.DEFINE_string("track", None, "Send metrics to tensorboard[:FOLDER] or wandb[:PROJECT] while training.")
    flags.DEFINE_bool("dry_run", False, "Show what the engine would do, and do nothing.")


def main(args: list[str], values: Any) -> int:
    """Trains, or hands the packs to an engine; returns the exit code."""
    processes = cluster.Processes(values.coordinator_address, values.num_processes, values.process_id)
    together = values.engine == LOCAL and processes.wanted()
    if together and not cluster.is_member():
        return cluster.supervise(sys.argv[1:])
    import jax  # a supervisor does without

    from scaling_jax import api
    from scaling_jax.training import hardware

    study = study_flags.read_study(args, values, need_source=values.engine != SIMULATE)
    suffix = "-simulated" if values.engine == SIMULATE else ""
    workdir = values.workdir or f"runs/{study.name}{suffix}"
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


def _no_tracker() -> contextlib.nullcontext[None]:
    return contextlib.nullcontext()


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
