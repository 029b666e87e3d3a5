"""`scaling-jax report`: a workdir's results, fitted and drawn again."""

from __future__ import annotations

import json
from typing import Any

from absl import flags

from scaling_jax import analysis, report
from scaling_jax.errors import UserError
from scaling_jax.storage.paths import as_path
from scaling_jax.storage.records import load_curves, load_table


def define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder (or gs:// path) of a study's runs.")


def main(args: list[str], values: Any) -> int:
    if args or not values.workdir:
        raise UserError("report needs --workdir=W, and nothing else")
    print(write(values.workdir))
    return 0


def write(workdir: Any) -> str:
    """Fits, draws and writes workdir/report; returns the summary for the terminal.

    Raises:
      UserError: not a workdir, or no finished run.
    """
    path = as_path(workdir)
    if not (path / "study.json").exists():
        raise UserError(f"{str(workdir)!r} is no workdir of a study (it has no study.json)")
    settings = json.loads((path / "study.json").read_text())["study"]
    table = load_table(path)
    return report.write_report(analysis.analyse(table, load_curves(path, table), settings), path / "report")
