"""Flags of the commands that use one trained model."""

from __future__ import annotations

from typing import Any

from absl import flags

from scaling_jax.errors import UserError
from scaling_jax.trained import Models


def define_flags() -> None:
    """Defines --workdir, --scale and --run_id."""
    flags.DEFINE_string("workdir", None, "Workdir of the trained models.")
    flags.DEFINE_string("scale", None, "Name of the scale, e.g. w96-d2; default the largest.")
    flags.DEFINE_string("run_id", None, "A run; default the best of the scale at its largest budget.")


def models(args: list[str], values: Any) -> Models:
    """The trained models of --workdir; --scale and --run_id are checked.

    Raises:
      UserError: stray arguments, not a workdir, or there is no such run.
    """
    if args:
        raise UserError(f"unexpected argument {args[0]!r}; flags are --name=value")
    if not values.workdir:
        raise UserError("no workdir; give --workdir=W of finished runs")
    found = Models(values.workdir)
    row = found.best(values.scale, values.run_id)
    if values.scale and row["scale"] != values.scale:
        raise UserError(f"--run_id={values.run_id} is of scale {row['scale']}, not {values.scale}; give one of both")
    return found
