"""`scaling-jax check-transfer`: whether rates tuned on a small scale serve the large ones."""

from __future__ import annotations

from typing import Any

from absl import flags

from scaling_jax import transfer
from scaling_jax.cli import study_flags
from scaling_jax.errors import UserError
from scaling_jax.training import hardware


def define_flags() -> None:
    """Defines the flags of `scaling-jax check-transfer`."""
    study_flags.define_flags()
    flags.DEFINE_string("workdir", None, "Where the sweep, the pictures and transfer.json go.")
    flags.DEFINE_integer("steps", 5, "Updates of the coordinate check.", lower_bound=1, upper_bound=10_000)
    flags.DEFINE_float("tokens", None, "Tokens (samples) of each run of the sweep; default the smallest budget.")


def main(args: list[str], values: Any) -> int:
    """Prints the verdict; returns the exit code, 0 whatever it is."""
    study = study_flags.read_study(args, values)
    if not values.workdir:
        raise UserError("check-transfer needs --workdir=W")
    if values.tokens is not None and not 0 < values.tokens <= 1e18:
        raise UserError(f"--tokens={values.tokens}: give a positive number, at most 1e18")
    hardware.use_cpu_devices(values.num_cpu_devices)
    found = transfer.check(study, values.workdir, values.steps, values.tokens)
    print("\n".join(found.sentences()))
    print(f"pictures: {values.workdir}/coordinates.png and rates.png")
    return 0
