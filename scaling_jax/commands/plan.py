"""`scaling-jax plan`: the runs of a study; trains nothing."""

from __future__ import annotations

from typing import Any

from scaling_jax import data
from scaling_jax.commands import study_flags
from scaling_jax.commands.plan_text import plan_text
from scaling_jax.plan import make_plan

define_flags = study_flags.define_flags


def main(args: list[str], values: Any) -> int:
    study = study_flags.read_study(args, values)
    spec = data.describe(study.data)
    packs = make_plan(study, spec)
    study_flags.start_jax(values)
    print(plan_text(study, packs, spec))
    return 0
