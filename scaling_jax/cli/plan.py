"""`scaling-jax plan`: the runs of a study; trains nothing."""

from __future__ import annotations

from typing import Any

from absl import flags

from scaling_jax import plans
from scaling_jax.cli import study_flags
from scaling_jax.training import hardware


def define_flags() -> None:
    """Defines the flags of `scaling-jax plan`."""
    study_flags.define_flags()
    flags.DEFINE_string("workdir", None, "Where the study, or a smaller one, was trained: its data need not be there.")
    flags.DEFINE_string("prior", None, "Law and noise for the outlook: a workdir, a published name, a fit's .json.")
    flags.DEFINE_string("chip", None, "Also estimate the time on such chips: v5e, v5p, v6e, H100, A100, ...")
    flags.DEFINE_integer("chips", 1, "How many chips.", lower_bound=1)
    flags.DEFINE_float("price", None, "Dollars per chip-hour: adds the cost.", lower_bound=0)


def main(args: list[str], values: Any) -> int:
    """Prints the plan; returns the exit code."""
    hardware.use_cpu_devices(values.num_cpu_devices)
    study = study_flags.read_study(args, values, need_source=values.workdir is None)
    plan = plans.plan(study, values.workdir, prior=values.prior, force=values.force)
    cost = plan.cost(values.chip, values.chips, values.price) if values.chip else None
    print(plan)
    if cost:
        print(cost)
    return 0
