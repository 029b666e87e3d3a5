"""`scaling-jax collect`: the results table of a workdir as a file."""

from __future__ import annotations

from typing import Any

from absl import flags

from scaling_jax.errors import UserError
from scaling_jax.storage.records import load_table, save_table


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder (or gs:// path) of a study's runs.")
    flags.DEFINE_string("out", None, "File to write: .csv or .parquet.")


def main(args: list[str], values: Any) -> int:
    if args or not values.workdir or not values.out:
        raise UserError("collect needs --workdir=W and --out=results.csv (or .parquet), and nothing else")
    table = load_table(values.workdir)
    save_table(table, values.out)
    counts = ", ".join(f"{n} {status}" for status, n in table["status"].value_counts().items())
    print(f"{len(table)} runs ({counts}) -> {values.out}")
    return 0
