"""`scaling-jax export`: a trained model in files that other software reads."""

from __future__ import annotations

from typing import Any

from absl import flags

from scaling_jax.cli import trained_flags
from scaling_jax.cli.out_file import check_new_folder
from scaling_jax.errors import UserError
from scaling_jax.trained.export import export


def define_flags() -> None:
    """Defines the flags of `scaling-jax export`."""
    trained_flags.define_flags()
    flags.DEFINE_string("out", None, "Folder to write; new or empty.")


def main(args: list[str], values: Any) -> int:
    """Writes the model; returns the exit code."""
    if not values.out:
        raise UserError("no folder; give --out=FOLDER")
    check_new_folder("out", values.out)
    models = trained_flags.models(args, values)
    trained = models.load(values.scale, values.run_id)
    files = export(models, trained, values.out)
    print(f"{trained.scale}, run {trained.row['run_id']}, loss {trained.row['loss']:.4f} -> {values.out}\n{files}")
    return 0
