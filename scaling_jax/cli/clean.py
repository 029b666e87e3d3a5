"""`scaling-jax clean`: drop what only resuming needs from a workdir; results, curves and trained models stay."""

from __future__ import annotations

from typing import Any

from absl import flags

from scaling_jax.errors import UserError
from scaling_jax.storage.clean import clean
from scaling_jax.storage.workdir import Workdir


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder (or gs:// path) of a study's runs.")
    flags.DEFINE_bool("models", False, "Drop the trained models, too.")
    flags.DEFINE_bool("dry_run", False, "Show what would be removed, and remove nothing.")


def main(args: list[str], values: Any) -> int:
    if args or not values.workdir:
        raise UserError("clean needs --workdir=W")
    print(clean(Workdir(values.workdir), models=values.models, dry_run=values.dry_run))
    return 0
