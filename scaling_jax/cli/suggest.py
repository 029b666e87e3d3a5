"""`scaling-jax suggest`: which runs of a study to make next."""

from __future__ import annotations

from typing import Any

from absl import flags

from scaling_jax import decisions
from scaling_jax.cli import out_file
from scaling_jax.decide.source import study_source
from scaling_jax.errors import UserError
from scaling_jax.results import load


def define_flags() -> None:
    """Defines the flags of `scaling-jax suggest`."""
    flags.DEFINE_string("workdir", None, "Folder (or gs:// path) of a study's runs.")
    flags.DEFINE_float("target_flops", None, "Compute of the run to plan; by default the study's target.")
    flags.DEFINE_float("budget_flops", None, "FLOPs to spend on the next runs, all lanes together.")
    flags.DEFINE_integer("runs", 8, "At most this many.", lower_bound=1, upper_bound=1000)
    flags.DEFINE_string("apply", None, "Python file to write: the grown study, for `run` in the same workdir.")


def main(args: list[str], values: Any) -> int:
    """Prints the runs; returns the exit code.

    Raises:
      UserError: no forecast, or nothing within the budget; nothing has been written.
    """
    if args or not values.workdir or values.budget_flops is None:
        raise UserError("suggest needs --workdir=W and --budget_flops=F, e.g. --budget_flops=1e15 --target_flops=1e17")
    out_file.check_study_file("apply", values.apply)
    found = decisions.suggest(
        load(values.workdir), values.budget_flops, target_flops=values.target_flops, runs=values.runs
    )
    if found.suggestion.stop or not found.points:
        print(found.text())
        if values.apply:
            print(f"{values.apply} was not written: there are no runs to add")
        return 0
    if not values.apply:
        print(f"{found.text()}\nnext: scaling-jax run --study=F --workdir={values.workdir} {found.flag}")
        return 0
    title = f"{found.study.name}, grown by {len(found.points)} runs that `scaling-jax suggest` chose."
    wrote = out_file.write_text("apply", values.apply, study_source(found.study, title))
    print(f"{found.text()}\n{wrote}; next: scaling-jax run --study={values.apply} --workdir={values.workdir}")
    return 0
