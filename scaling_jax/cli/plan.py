"""`scaling-jax plan`: the runs of a study; trains nothing."""

from __future__ import annotations

from typing import Any

from absl import flags

from scaling_jax import data
from scaling_jax.cli import study_flags
from scaling_jax.cli.plan_cost import cost_text
from scaling_jax.cli.plan_text import plan_text
from scaling_jax.planning import make_plan


def define_flags() -> None:
    study_flags.define_flags()
    flags.DEFINE_string("chip", None, "Also estimate the time on such chips: v5e, v5p, v6e, H100, A100, ...")
    flags.DEFINE_integer("chips", 1, "How many of them.", lower_bound=1)
    flags.DEFINE_float("price", None, "Dollars per chip and hour: adds what it costs.", lower_bound=0)


def main(args: list[str], values: Any) -> int:
    study = study_flags.read_study(args, values)
    spec = data.describe(study.data)
    packs = make_plan(study, spec)
    estimate = cost_text(packs, values.chip, values.chips, values.price) if values.chip else None
    study_flags.start_jax(values)
    print(plan_text(study, packs, spec))
    if estimate:
        print(estimate)
    return 0
