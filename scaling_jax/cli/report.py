"""`scaling-jax report`: a workdir's results, fitted and drawn again."""

from __future__ import annotations

from typing import Any

from absl import flags

from scaling_jax import api
from scaling_jax.errors import UserError


def define_flags() -> None:
    """Defines the flags of `scaling-jax report`."""
    flags.DEFINE_string("workdir", None, "Folder (or gs:// path) of a study's runs.")


def main(args: list[str], values: Any) -> int:
    """Writes the report; returns the exit code."""
    if args or not values.workdir:
        raise UserError("report needs --workdir=W, and nothing else")
    print(api.write_report(values.workdir))
    return 0
